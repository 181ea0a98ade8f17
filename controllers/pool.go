package controllers

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

// tellNodes is how long a pool waits with arming after it has put a number into the
// register: nodes hear of pools and of allocations one by one, and one that heard
// of the arming first would cut off who is to be passed.
const tellNodes = time.Second

// poolStatusEvery bounds how often the counters in a pool's status are written.
const poolStatusEvery = time.Minute

// Pool records who else holds numbers of a pool, arms its ranges, and writes its
// status. A range is armed only after everything that stood on it is in the
// register, so that making or widening a pool cuts nobody off.
type Pool struct {
	client.Client
	Snapshot Snapshot
	// Live reads past the cache: what stood on a range is judged by the API server's
	// word at that moment.
	Live   client.Reader
	Events events.EventRecorder
	Now    func() time.Time
	// written is when each pool's counters were last written by this process.
	written map[string]time.Time
	// recorded is when a holder of a number still to be armed was last recorded.
	recorded map[string]time.Time
}

// Reconcile serves one pool.
func (r *Pool) Reconcile(ctx context.Context, key reconcile.Request) (reconcile.Result, error) {
	pools, err := r.Snapshot.Pools(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	i := slices.IndexFunc(pools, func(p compile.Pool) bool { return p.Name == key.Name })
	if i < 0 {
		delete(r.written, key.Name)
		delete(r.recorded, key.Name)
		forgetPool(key.Name)
		return reconcile.Result{}, nil
	}
	pool, reader := pools[i], client.Reader(r.Client)
	if len(pool.Owned.Subtract(pool.Armed)) > 0 {
		// Who stood there first is decided by the API server's word: a cache that
		// lags behind our own arming would pass a squatter as grandfathered.
		reader = r.Live
		if pools, err = r.Snapshot.LivePools(ctx); err != nil {
			return reconcile.Result{}, err
		}
		if i = slices.IndexFunc(pools, func(p compile.Pool) bool { return p.Name == key.Name }); i < 0 {
			return reconcile.Result{}, nil
		}
		pool = pools[i]
	}
	var services corev1.ServiceList
	if err := reader.List(ctx, &services, readOnly); err != nil {
		return reconcile.Result{}, err
	}
	if err := r.recordForeign(ctx, pool, services.Items); err != nil {
		return conflict(err)
	}
	if rest := r.recorded[pool.Name].Add(tellNodes).Sub(r.Now()); rest > 0 && len(pool.Owned.Subtract(pool.Armed)) > 0 {
		if result, err := r.writeStatus(ctx, pool, services.Items); err != nil || result.RequeueAfter == retrySoon {
			return result, err
		}
		return reconcile.Result{RequeueAfter: rest}, nil
	}
	if pool.Invalid == "" {
		pool.Armed = pool.Owned
	}
	return r.writeStatus(ctx, pool, services.Items)
}

// recordForeign puts every number of the pool that a Service of somebody else
// holds into the register: passed if it stood there before the range was armed.
func (r *Pool) recordForeign(ctx context.Context, pool compile.Pool, services []corev1.Service) error {
	for i := range services {
		holder := &services[i]
		if r.Snapshot.ours(holder) {
			continue
		}
		for number := range compile.Held(holder) {
			if !pool.Owned.Contains(number) {
				continue
			}
			if err := r.recordHolder(ctx, pool, holder, number); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Pool) recordHolder(ctx context.Context, pool compile.Pool, holder *corev1.Service, number uint16) error {
	known, err := get[v1alpha1.NodePortAllocation](ctx, r, types.NamespacedName{Name: numberName(number)})
	if err != nil || known != nil {
		return err
	}
	allocation := v1alpha1.NodePortAllocation{
		ObjectMeta: metav1.ObjectMeta{Name: numberName(number)},
		Spec:       compile.NewForeign(holder, number, pool.NodePortPool, !pool.Armed.Contains(number)),
	}
	err = r.Create(ctx, &allocation, client.FieldOwner(v1alpha1.FieldOwner))
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("record port %d of Service %s/%s: %w", number, holder.Namespace, holder.Name, err)
	}
	if allocation.Spec.Grandfathered {
		r.recorded[pool.Name] = r.Now()
	}
	return nil
}

// writeStatus writes at once what is armed and the conditions, and the counters
// at most once a minute.
func (r *Pool) writeStatus(ctx context.Context, pool compile.Pool, services []corev1.Service) (reconcile.Result, error) {
	seen, err := r.see(ctx, pool, services)
	if err != nil {
		return reconcile.Result{}, err
	}
	now := r.Now()
	status := compile.PoolStatus(seen, metav1.NewTime(now))
	observePool(seen, status)
	if equality.Semantic.DeepEqual(status, pool.Status) {
		return reconcile.Result{}, nil
	}
	urgent := !slices.Equal(status.Armed, pool.Status.Armed) || status.ObservedGeneration != pool.Status.ObservedGeneration ||
		!equality.Semantic.DeepEqual(status.Conditions, pool.Status.Conditions)
	if rest := r.written[pool.Name].Add(poolStatusEvery).Sub(now); !urgent && rest > 0 {
		return reconcile.Result{RequeueAfter: rest}, nil
	}
	object := pool.NodePortPool.DeepCopy()
	object.Status = status
	if err := r.Status().Update(ctx, object, client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
		return conflict(err)
	}
	if !urgent {
		r.written[pool.Name] = now
	}
	r.announce(pool, status)
	return reconcile.Result{}, nil
}

// see reads what a pool's status is computed from.
func (r *Pool) see(ctx context.Context, pool compile.Pool, services []corev1.Service) (compile.PoolSeen, error) {
	seen := compile.PoolSeen{Pool: pool}
	var allocations v1alpha1.NodePortAllocationList
	if err := r.List(ctx, &allocations, readOnly); err != nil {
		return seen, err
	}
	seen.Allocations = allocations.Items
	inPlace := map[string]bool{}
	for _, a := range allocations.Items {
		if a.Spec.Carrier == v1alpha1.ServiceInPlace {
			inPlace[a.Spec.Claim.Namespace+"/"+a.Spec.Claim.Service] = true
		}
	}
	var undeclared []*corev1.Service
	var held []rule.PortRange
	for i := range services {
		s := &services[i]
		switch {
		case compile.IsHold(s, r.Snapshot.Namespace):
			for n := range compile.Held(s) {
				held = append(held, rule.PortRange{First: n, Last: n})
			}
		case !isCompanion(s) && !inPlace[s.Namespace+"/"+s.Name]:
			undeclared = append(undeclared, s)
		}
	}
	seen.Held = rule.NewPortRanges(held...)
	labels, err := r.namespaces(ctx)
	seen.Undeclared = compile.Undeclared(pool, undeclared, func(namespace string) bool {
		return compile.MayDraw(pool.NodePortPool, namespace, labels[namespace])
	})
	return seen, err
}

// namespaces returns the labels of all namespaces.
func (r *Pool) namespaces(ctx context.Context) (map[string]map[string]string, error) {
	var list corev1.NamespaceList
	if err := r.List(ctx, &list, readOnly); err != nil {
		return nil, err
	}
	out := make(map[string]map[string]string, len(list.Items))
	for i := range list.Items {
		out[list.Items[i].Name] = list.Items[i].Labels
	}
	return out, nil
}

// announce tells by events what a person should hear of before it hurts.
func (r *Pool) announce(pool compile.Pool, now v1alpha1.NodePortPoolStatus) {
	before := pool.Status
	was, is := meta.FindStatusCondition(before.Conditions, v1alpha1.Exhausted), meta.FindStatusCondition(now.Conditions, v1alpha1.Exhausted)
	if is != nil && (was == nil || was.Reason != is.Reason) {
		r.Events.Eventf(pool.NodePortPool, nil, corev1.EventTypeWarning, is.Reason, "Allocate", "%s", is.Message)
	}
	for _, u := range now.Undeclared {
		if !slices.ContainsFunc(before.Undeclared, func(b v1alpha1.UndeclaredService) bool { return b.Service == u.Service }) {
			r.Events.Eventf(pool.NodePortPool, nil, corev1.EventTypeWarning, "Undeclared", "Observe",
				"%s Service %s holds node ports %v, and no policy declares it", u.Type, u.Service, u.NodePorts)
		}
	}
}

// SetupWithManager wakes a pool when any pool, an allocation, or a Service with
// node ports changes.
func (r *Pool) SetupWithManager(mgr ctrl.Manager) error {
	r.written, r.recorded = map[string]time.Time{}, map[string]time.Time{}
	return builder(mgr, "pool", 1).
		Watches(&v1alpha1.NodePortPool{}, each(r.all), ofSpec).
		Watches(&v1alpha1.NodePortAllocation{}, each(func(ctx context.Context, o client.Object) []reconcile.Request {
			// The pool it was drawn from counts it too, although the number may have left.
			a := o.(*v1alpha1.NodePortAllocation)
			return append(r.owning(ctx, compile.NumberOf(a)), reconcile.Request{NamespacedName: types.NamespacedName{Name: a.Spec.Pool}})
		})).
		Watches(&corev1.Service{}, each(func(ctx context.Context, o client.Object) []reconcile.Request {
			var numbers []uint16
			if service := o.(*corev1.Service); !r.Snapshot.ours(service) {
				for n := range compile.Held(service) {
					numbers = append(numbers, n)
				}
			}
			if len(numbers) == 0 {
				return nil
			}
			return r.all(ctx, o) // wherever its numbers lie: it may be undeclared
		})).
		Watches(&corev1.Namespace{}, each(r.all), ofLabels).
		Watches(&v1alpha1.Portreeve{}, each(r.all), ofSpec).
		Complete(r)
}

// all pools, because an edit of one moves what the younger ones own.
func (r *Pool) all(ctx context.Context, _ client.Object) []reconcile.Request {
	var list v1alpha1.NodePortPoolList
	if err := r.List(ctx, &list); err != nil {
		return nil
	}
	return requests(list.Items, func(p *v1alpha1.NodePortPool) types.NamespacedName { return types.NamespacedName{Name: p.Name} })
}

func (r *Pool) owning(ctx context.Context, numbers ...uint16) []reconcile.Request {
	if len(numbers) == 0 {
		return nil
	}
	pools, err := r.Snapshot.Pools(ctx)
	if err != nil {
		return nil
	}
	var out []reconcile.Request
	for _, n := range numbers {
		if p := compile.PoolOf(pools, n); p != nil {
			out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Name: p.Name}})
		}
	}
	return out
}
