package controllers

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlbuilder "sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// GatewaySet keeps which nodes are gateways, in one object for all allocations that
// choose in the same way: a fail-over is one write of it. One that nobody names goes.
type GatewaySet struct {
	client.Client
	Snapshot Snapshot
	Now      func() time.Time

	mu   sync.Mutex
	lags map[string]map[string]compile.Lag // by set and node
}

// Reconcile serves one set. Its allocations say how it is chosen.
func (r *GatewaySet) Reconcile(ctx context.Context, key reconcile.Request) (reconcile.Result, error) {
	have, err := get[v1alpha1.GatewaySet](ctx, r, key.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	var own v1alpha1.NodePortAllocationList
	if err := r.List(ctx, &own, readOnly, client.MatchingFields{byGateways: key.Name}); err != nil {
		return reconcile.Result{}, err
	}
	if len(own.Items) == 0 {
		return r.remove(ctx, have, key.Name)
	}
	nodes, err := r.Snapshot.Nodes(ctx)
	if err != nil || len(nodes) == 0 {
		return reconcile.Result{}, err // no cluster has none: absent data is never read as empty
	}
	pods, err := r.Snapshot.agentPods(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	choice := compile.GatewayChoiceOf(&own.Items[0])
	lost, again := r.lost(key.Name, have, own.Items, nodes, compile.AgentsDown(pods, nodes))
	if have == nil {
		return conflict(r.Create(ctx, newGatewaySet(choice, choice.Choose(nil, nodes, lost)), client.FieldOwner(v1alpha1.FieldOwner)))
	}
	want := choice.Choose(have.Spec.Nodes, nodes, lost)
	if slices.Equal(want, have.Spec.Nodes) {
		return reconcile.Result{RequeueAfter: again}, nil
	}
	have.Spec.Nodes = want // the resource version makes a lost race a conflict
	if result, err := conflict(r.Update(ctx, have, client.FieldOwner(v1alpha1.FieldOwner))); err != nil || result.RequeueAfter > 0 {
		return result, err
	}
	return reconcile.Result{RequeueAfter: again}, nil
}

// unnamedFor is how long a set that no allocation names is left: one of them may be about
// to, or the cache does not show it yet.
const unnamedFor = 5 * time.Second

// prepareGateways makes the set that an allocation is about to name: nodes refuse what
// names one that is not there, and so would cut those who are connected. Who was active
// before stays so if possible.
func (s Snapshot) prepareGateways(ctx context.Context, c client.Client, had, want v1alpha1.NodePortAllocationSpec) error {
	choice := compile.GatewayChoiceOf(&v1alpha1.NodePortAllocation{Spec: want})
	if choice == nil || had.Gateways != nil && had.Gateways.Set == choice.Set {
		return nil
	}
	set, err := get[v1alpha1.GatewaySet](ctx, s, client.ObjectKey{Name: string(choice.Set)})
	if err != nil || set != nil {
		return err
	}
	nodes, err := s.Nodes(ctx)
	if err != nil || len(nodes) == 0 {
		return err
	}
	var active []v1alpha1.ObjectName
	if had.Gateways != nil && had.Gateways.Set != "" {
		before, err := get[v1alpha1.GatewaySet](ctx, s, client.ObjectKey{Name: string(had.Gateways.Set)})
		if err != nil {
			return err
		}
		if before != nil {
			active = before.Spec.Nodes
		}
	}
	err = c.Create(ctx, newGatewaySet(choice, choice.Choose(active, nodes, nil)), client.FieldOwner(v1alpha1.FieldOwner))
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func newGatewaySet(choice *compile.GatewayChoice, nodes []v1alpha1.ObjectName) *v1alpha1.GatewaySet {
	return &v1alpha1.GatewaySet{
		ObjectMeta: metav1.ObjectMeta{Name: string(choice.Set), Annotations: map[string]string{v1alpha1.AnnotationChosenFrom: choice.From}},
		Spec:       v1alpha1.GatewaySetSpec{Nodes: nodes},
	}
}

// remove deletes a set that no Open allocation names: by then no node goes by it.
func (r *GatewaySet) remove(ctx context.Context, have *v1alpha1.GatewaySet, name string) (reconcile.Result, error) {
	r.mu.Lock()
	delete(r.lags, name)
	r.mu.Unlock()
	if have == nil {
		return reconcile.Result{}, nil
	}
	if left := have.CreationTimestamp.Add(unnamedFor).Sub(r.Now()); left > 0 {
		return reconcile.Result{RequeueAfter: left}, nil
	}
	return conflict(r.Delete(ctx, have, client.Preconditions{UID: ptr.To(have.UID), ResourceVersion: ptr.To(have.ResourceVersion)}))
}

// lost returns the nodes whose agents have long not done what the set and its
// allocations say, or have long been down, and in what time the next one counts as such,
// 0 for never: nothing else may happen until then that would have somebody look.
func (r *GatewaySet) lost(name string, set *v1alpha1.GatewaySet, own []v1alpha1.NodePortAllocation, nodes []compile.NodeReport, down map[string]bool) (map[string]bool, time.Duration) {
	allocations, sets := "", ""
	for i := range own {
		if allocations == "" || compile.AtLeast(own[i].ResourceVersion, allocations) {
			allocations = own[i].ResourceVersion
		}
	}
	if set != nil {
		sets = set.ResourceVersion
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now, lags, lost, again := r.Now(), map[string]compile.Lag{}, map[string]bool{}, time.Duration(0)
	for _, n := range nodes {
		lag := r.lags[name][n.Name].Next(n, allocations, sets, down[n.Name], now)
		is, in := lag.Lost(now)
		if in > 0 && (again == 0 || in < again) {
			again = in
		}
		lags[n.Name], lost[n.Name] = lag, is
	}
	if r.lags == nil {
		r.lags = map[string]map[string]compile.Lag{}
	}
	r.lags[name] = lags
	return lost, again
}

// SetupWithManager looks whenever an allocation names a set or stops naming it, and,
// for all sets, when a node changes or reports.
func (r *GatewaySet) SetupWithManager(mgr ctrl.Manager) error {
	return builder(mgr, "gatewayset", 1).
		For(&v1alpha1.GatewaySet{}).
		Watches(&v1alpha1.NodePortAllocation{}, each(func(_ context.Context, o client.Object) []reconcile.Request {
			if g := o.(*v1alpha1.NodePortAllocation).Spec.Gateways; g != nil && g.Set != "" {
				return []reconcile.Request{{NamespacedName: client.ObjectKey{Name: string(g.Set)}}}
			}
			return nil
		})).
		Watches(&corev1.Node{}, each(r.all), ctrlbuilder.WithPredicates(predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
			return nodeChanged(e) || e.ObjectOld.(*corev1.Node).Spec.Unschedulable != e.ObjectNew.(*corev1.Node).Spec.Unschedulable || deletionBegan.UpdateFunc(e)
		}})).
		Watches(&v1alpha1.NodeDatapath{}, each(r.all)).
		Watches(&corev1.Pod{}, each(r.all), podMatters).
		Complete(r)
}

func (r *GatewaySet) all(ctx context.Context, _ client.Object) []reconcile.Request {
	var list v1alpha1.GatewaySetList
	if err := r.List(ctx, &list, readOnly); err != nil {
		return nil
	}
	return requests(list.Items, func(s *v1alpha1.GatewaySet) client.ObjectKey { return client.ObjectKeyFromObject(s) })
}
