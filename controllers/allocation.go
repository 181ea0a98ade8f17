package controllers

import (
	"context"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

const (
	// leastRest is the shortest cool-down, whatever the pool says: kube-proxy goes
	// on carrying a closed companion for its minSyncPeriod of a second, and what it
	// carries must not be reached by whoever gets the number next.
	leastRest = 2 * time.Second
	// refusalRest is how long a number that the API server refused, though no
	// Service shows it, is left alone before it is tried again.
	refusalRest = 10 * time.Minute
	// lookAgain is the longest a waiting allocation goes unexamined.
	lookAgain = time.Minute
)

// Allocation leads one port number through its life: open as its policy says,
// closed when nobody wants it, free when everybody has proved that it is closed.
type Allocation struct {
	client.Client
	Snapshot Snapshot
	Clouds   *Clouds
	Events   events.EventRecorder
	Now      func() time.Time
	// held is who was last told to hold each number.
	held told
}

// Reconcile serves one allocation.
func (r *Allocation) Reconcile(ctx context.Context, key reconcile.Request) (reconcile.Result, error) {
	// Read before the allocation, so that a mark can't be above what it is judged by.
	proof, err := r.Snapshot.Proof(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	a, err := get[v1alpha1.NodePortAllocation](ctx, r, key.NamespacedName)
	if err != nil || a == nil || a.DeletionTimestamp != nil {
		r.held.over(key.Name)
		return reconcile.Result{}, err
	}
	want, again, err := r.want(ctx, a)
	if err != nil {
		return reconcile.Result{}, err
	}
	if want == nil {
		return conflict(r.remove(ctx, a))
	}
	if !equality.Semantic.DeepEqual(*want, a.Spec) {
		if err := r.Snapshot.prepareGateways(ctx, r.Client, a.Spec, *want); err != nil {
			return reconcile.Result{}, err
		}
		if want.State != a.Spec.State {
			delete(a.Annotations, v1alpha1.AnnotationRelease) // it was meant for one closing
		}
		a.Spec = *want // the resource version makes a lost race a conflict
		return conflict(r.Update(ctx, a, client.FieldOwner(v1alpha1.FieldOwner)))
	}
	if a.Spec.State != v1alpha1.AllocationClosed {
		r.held.over(key.Name)
		return reconcile.Result{RequeueAfter: again}, nil
	}
	return r.release(ctx, a, proof)
}

// want decides what the allocation must say, nil for nothing at all, and when to
// look again by itself.
func (r *Allocation) want(ctx context.Context, a *v1alpha1.NodePortAllocation) (*v1alpha1.NodePortAllocationSpec, time.Duration, error) {
	now := metav1.NewMicroTime(r.Now())
	switch {
	case a.Spec.State == v1alpha1.AllocationForeign:
		return r.wantForeign(ctx, a, now)
	case a.Spec.Claim.Policy == "": // closed, and was Foreign
		want, err := r.wantFormer(ctx, a)
		return want, 0, err
	}
	view, err := r.Snapshot.View(ctx, policyOf(a))
	if err != nil {
		return nil, 0, err
	}
	if view.Policy == nil && a.Spec.State == v1alpha1.AllocationOpen {
		// Closing cuts connections, so a cache that lags is not enough to go by.
		if unseen, err := r.Snapshot.Unseen(ctx, policyOf(a)); err != nil || unseen {
			return &a.Spec, retrySoon, err
		}
	}
	want := compile.Allocation(a, view.Policy, view.Wish, view.Refusal, view.Allocations, view.Cluster, now)
	if want.State != v1alpha1.AllocationOpen {
		return &want, 0, nil
	}
	want, err = r.unlessTaken(ctx, a, want)
	return &want, untilEnd(want.ExpiresAt, r.Now()), err
}

// untilEnd is how long it is until the end, 0 if there is none, or it has come.
func untilEnd(end *metav1.Time, now time.Time) time.Duration {
	if end == nil {
		return 0
	}
	return max(end.Sub(now), 0)
}

// unlessTaken opens no number that another Service holds. It may have taken it
// where our companion could not be made or was undone; then the sources of the
// policy are not meant for it.
func (r *Allocation) unlessTaken(ctx context.Context, a *v1alpha1.NodePortAllocation, open v1alpha1.NodePortAllocationSpec) (v1alpha1.NodePortAllocationSpec, error) {
	holder, err := r.Snapshot.Holder(ctx, compile.NumberOf(a))
	if err != nil || holder == nil || standsForCompanion(holder, a) {
		return open, err
	}
	return compile.Refused(a, holder), nil
}

// standsForCompanion says whether the Service has the place of the allocation's
// companion: perhaps ours, with its label taken off. Exposure judges that one. In
// place the claimed Service itself has it.
func standsForCompanion(s *corev1.Service, a *v1alpha1.NodePortAllocation) bool {
	if a.Spec.Carrier == v1alpha1.ServiceInPlace && s.Namespace == a.Spec.Claim.Namespace && s.Name == a.Spec.Claim.Service {
		return true
	}
	return s.Namespace == a.Spec.Claim.Namespace && s.Name == a.Spec.Claim.Policy+v1alpha1.CompanionSuffix
}

// wantForeign follows the Service that holds the number. A squatter on a number
// that is in no pool any more is none of our business; who is grandfathered stays
// until its Service goes, for agents never see what they pass vanish unclosed.
func (r *Allocation) wantForeign(ctx context.Context, a *v1alpha1.NodePortAllocation, now metav1.MicroTime) (*v1alpha1.NodePortAllocationSpec, time.Duration, error) {
	pools, err := r.Snapshot.Pools(ctx)
	if err != nil {
		return nil, 0, err
	}
	pool := compile.PoolOf(pools, compile.NumberOf(a))
	if pool == nil && !a.Spec.Grandfathered {
		return nil, 0, nil
	}
	holder, err := r.Snapshot.Holder(ctx, compile.NumberOf(a))
	if err != nil {
		return nil, 0, err
	}
	if holder == nil && a.Spec.Claim.Service != "" {
		// Who was passed is not passed again, so a cache that lags is not enough to go by.
		if holder, err = r.Snapshot.StillHolds(ctx, a); err != nil {
			return nil, 0, err
		}
	}
	if holder != nil && pool != nil {
		adopted, err := r.adopted(ctx, a, holder, pool, now)
		if err != nil || adopted != nil {
			return adopted, 0, err
		}
	}
	rest := a.CreationTimestamp.Add(refusalRest).Sub(r.Now())
	want := compile.Foreign(a, holder, pool, rest <= 0, now)
	return &want, max(rest, 0), nil
}

// wantFormer looks for another Service that has the number by now.
func (r *Allocation) wantFormer(ctx context.Context, a *v1alpha1.NodePortAllocation) (*v1alpha1.NodePortAllocationSpec, error) {
	pools, err := r.Snapshot.Pools(ctx)
	if err != nil {
		return nil, err
	}
	holder, err := r.Snapshot.Holder(ctx, compile.NumberOf(a))
	if err != nil {
		return nil, err
	}
	want := compile.Former(a, holder, compile.PoolOf(pools, compile.NumberOf(a)))
	return &want, nil
}

// adopted turns a Foreign number into the claim of the policy that carries its holder
// in place, in one write: no packet that the policy admits is lost. nil: there is no
// such policy.
func (r *Allocation) adopted(ctx context.Context, a *v1alpha1.NodePortAllocation, holder *corev1.Service, pool *compile.Pool, now metav1.MicroTime) (*v1alpha1.NodePortAllocationSpec, error) {
	policy, err := r.Snapshot.InPlace(ctx, client.ObjectKeyFromObject(holder))
	if err != nil || policy == nil {
		return nil, err
	}
	view, err := r.Snapshot.View(ctx, policyKey(policy))
	if err != nil || view.Policy == nil {
		return nil, err
	}
	supply, err := r.Snapshot.supply(ctx, view.Pools, nil)
	if err != nil || supply.over(pool.Name, policy.Namespace) {
		return nil, err // the allocator says so
	}
	return compile.Adopted(a, view.Wish, pool.Name, now), nil
}

// release deletes a closed allocation once its cool-down is over and every node
// and cloud has proved that nothing of it is left.
func (r *Allocation) release(ctx context.Context, a *v1alpha1.NodePortAllocation, proof compile.Proof) (reconcile.Result, error) {
	pool, err := get[v1alpha1.NodePortPool](ctx, r, types.NamespacedName{Name: a.Spec.Pool})
	if err != nil {
		return reconcile.Result{}, err
	}
	coolDown := compile.CoolDown(a, pool)
	if rest := a.Spec.ClosedAt.Add(max(coolDown, leastRest, restoreRest(a))).Sub(r.Now()); rest > 0 {
		return reconcile.Result{RequeueAfter: rest}, nil
	}
	if _, released := a.Annotations[v1alpha1.AnnotationRelease]; !released {
		holders, err := r.holders(ctx, a, proof)
		if err != nil {
			return reconcile.Result{}, err
		}
		if len(holders) > 0 {
			if by := strings.Join(holders[:min(len(holders), 8)], ", "); r.held.news(a.Name, by) {
				r.Events.Eventf(a, nil, corev1.EventTypeWarning, "Held", "Release",
					"port %s is closed but not proved closed by %s; if they are gone for good, annotate the allocation with %s", a.Name, by, v1alpha1.AnnotationRelease)
			}
			return reconcile.Result{RequeueAfter: lookAgain}, nil
		}
	}
	return r.free(ctx, a)
}

// free ends an allocation. Where a Service goes on holding the number, it becomes its
// holder's in the register, in one write: a number that nobody claims may be passed.
func (r *Allocation) free(ctx context.Context, a *v1alpha1.NodePortAllocation) (reconcile.Result, error) {
	pools, err := r.Snapshot.Pools(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	holder, err := r.Snapshot.Holder(ctx, compile.NumberOf(a))
	if err != nil {
		return reconcile.Result{}, err
	}
	pool := compile.PoolOf(pools, compile.NumberOf(a))
	if holder == nil || pool == nil {
		return conflict(r.remove(ctx, a))
	}
	a.Spec = compile.NewForeign(holder, compile.NumberOf(a), pool.NodePortPool, false)
	delete(a.Annotations, v1alpha1.AnnotationRelease)
	return conflict(r.Update(ctx, a, client.FieldOwner(v1alpha1.FieldOwner)))
}

// afterRestore is how long a number that was restored from a backup, and whose policy
// is not there, is kept for it: the rest of the backup is on its way.
const afterRestore = 10 * time.Minute

// restoreRest is the least rest of an allocation that came out of a backup and was
// closed since: its claim is older than the object.
func restoreRest(a *v1alpha1.NodePortAllocation) time.Duration {
	restored := a.Spec.Since != nil && a.CreationTimestamp.Sub(a.Spec.Since.Time) > time.Minute
	if restored && !a.Spec.ClosedAt.Before(&metav1.MicroTime{Time: a.CreationTimestamp.Time}) {
		return afterRestore
	}
	return 0
}

// remove frees the number, unless somebody has written to the allocation since.
func (r *Allocation) remove(ctx context.Context, a *v1alpha1.NodePortAllocation) error {
	return r.Delete(ctx, a, client.Preconditions{UID: ptr.To(a.UID), ResourceVersion: ptr.To(a.ResourceVersion)})
}

// holders names the nodes and clouds that may still admit something.
func (r *Allocation) holders(ctx context.Context, a *v1alpha1.NodePortAllocation, proof compile.Proof) ([]string, error) {
	nodes, err := r.Snapshot.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	var firewalls v1alpha1.CloudFirewallList
	if err := r.List(ctx, &firewalls); err != nil {
		return nil, err
	}
	var asked []v1alpha1.ObjectName
	for _, f := range firewalls.Items {
		name, seen := v1alpha1.ObjectName(f.Name), r.Clouds.Of(f.Name)
		// One that this process has not read, and that had rules of ours, may have
		// some of an allocation that named it once.
		unread := !seen.Read && slices.ContainsFunc(f.Status.Groups, func(g v1alpha1.GroupStatus) bool { return g.Ours > 0 })
		if slices.Contains(a.Spec.CloudFirewalls, name) || unread || seen.Holds(compile.NumberOf(a)) {
			asked = append(asked, name)
		}
	}
	return append(proof.Holders(nodes, a), r.Clouds.holding(asked, compile.NumberOf(a), a.Spec.ClosedAt.Time)...), nil
}

// SetupWithManager wakes an allocation when its policy, Service, pool or
// namespace changes, and a closed one when a node or a cloud has news.
func (r *Allocation) SetupWithManager(mgr ctrl.Manager) error {
	return builder(mgr, "allocation", 8).
		Watches(&v1alpha1.NodePortAllocation{}, each(func(ctx context.Context, o client.Object) []reconcile.Request {
			// With its siblings: a new number lets the one that bridged the gap close.
			out := r.ofPolicies(ctx, []reconcile.Request{{NamespacedName: policyOf(o.(*v1alpha1.NodePortAllocation))}})
			return append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(o)})
		})).
		Watches(&v1alpha1.NodePortPolicy{}, each(func(ctx context.Context, o client.Object) []reconcile.Request {
			return append(r.ofPolicies(ctx, []reconcile.Request{{NamespacedName: client.ObjectKeyFromObject(o)}}), r.heldInPlace(ctx, o.(*v1alpha1.NodePortPolicy))...)
		}), ofSpec).
		Watches(&corev1.Service{}, each(func(ctx context.Context, o client.Object) []reconcile.Request {
			out := r.ofPolicies(ctx, r.Snapshot.policiesOf(ctx, o))
			for n := range compile.Held(o.(*corev1.Service)) {
				out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Name: numberName(n)}})
			}
			return out
		})).
		Watches(&v1alpha1.NodePortPool{}, each(r.matching(func(a *v1alpha1.NodePortAllocation) bool { return true })), ofSpec).
		Watches(&corev1.Namespace{}, each(func(ctx context.Context, o client.Object) []reconcile.Request {
			return r.matching(func(a *v1alpha1.NodePortAllocation) bool { return a.Spec.Claim.Namespace == o.GetName() })(ctx, o)
		}), namespaceMatters).
		Watches(&v1alpha1.AddressSet{}, each(func(ctx context.Context, o client.Object) []reconcile.Request {
			return r.ofPolicies(ctx, r.Snapshot.policiesUsing(ctx, o))
		})).
		Watches(&v1alpha1.Portreeve{}, each(func(ctx context.Context, _ client.Object) []reconcile.Request { // it says what the cluster is
			return r.ofPolicies(ctx, r.Snapshot.policiesFor(ctx, v1alpha1.EntityCluster))
		}), ofSpec).
		Watches(&v1alpha1.CloudFirewall{}, each(func(ctx context.Context, _ client.Object) []reconcile.Request { // it narrows to groups, or only observes
			return r.ofPolicies(ctx, r.Snapshot.policiesWithGroups(ctx))
		}), ofSpec).
		Watches(&v1alpha1.CloudFirewall{}, each(func(ctx context.Context, o client.Object) []reconcile.Request { // it may stand before other nodes
			return r.behind(ctx, func(f *v1alpha1.CloudFirewall) bool { return f.Name == o.GetName() })
		}), ofSpec).
		Watches(&corev1.Node{}, each(func(ctx context.Context, o client.Object) []reconcile.Request {
			return r.behind(ctx, func(f *v1alpha1.CloudFirewall) bool { return compile.StandsBefore(f, o.GetLabels()) })
		}), nodeLabels).
		Watches(&v1alpha1.NodeDatapath{}, each(r.matching(isClosed))).
		Watches(&corev1.Node{}, each(r.matching(isClosed)), nodeMatters).
		WatchesRawSource(source.Channel(r.Clouds.cleared, handler.EnqueueRequestsFromMapFunc(r.matching(isClosed)))).
		Complete(r)
}

func isClosed(a *v1alpha1.NodePortAllocation) bool {
	return a.Spec.State == v1alpha1.AllocationClosed
}

// ofPolicies returns the allocations of the policies.
func (r *Allocation) ofPolicies(ctx context.Context, policies []reconcile.Request) []reconcile.Request {
	var out []reconcile.Request
	for _, key := range policies {
		if key.Name == "" {
			continue
		}
		own, err := r.Snapshot.Allocations(ctx, key.NamespacedName)
		if err != nil {
			return out
		}
		out = append(out, requests(own, allocationKey)...)
	}
	return out
}

// behind returns the open allocations of pools that name one of the firewalls.
func (r *Allocation) behind(ctx context.Context, which func(*v1alpha1.CloudFirewall) bool) []reconcile.Request {
	var firewalls v1alpha1.CloudFirewallList
	var pools v1alpha1.NodePortPoolList
	if err := r.List(ctx, &firewalls, readOnly); err != nil {
		return nil // only a cache that was stopped fails here
	}
	if err := r.List(ctx, &pools, readOnly); err != nil {
		return nil
	}
	named := map[string]bool{}
	for _, p := range pools.Items {
		named[p.Name] = slices.ContainsFunc(firewalls.Items, func(f v1alpha1.CloudFirewall) bool {
			return which(&f) && slices.Contains(p.Spec.CloudFirewalls, v1alpha1.ObjectName(f.Name))
		})
	}
	return r.matching(func(a *v1alpha1.NodePortAllocation) bool {
		return a.Spec.State == v1alpha1.AllocationOpen && named[a.Spec.Pool]
	})(ctx, nil)
}

// heldInPlace returns the numbers of the Service that a policy carries in place: they
// may be about to be adopted.
func (r *Allocation) heldInPlace(ctx context.Context, policy *v1alpha1.NodePortPolicy) []reconcile.Request {
	if policy.Spec.Service != v1alpha1.ServiceInPlace {
		return nil
	}
	service, err := get[corev1.Service](ctx, r, types.NamespacedName{Namespace: policy.Namespace, Name: policy.Spec.ServiceRef.Name})
	if err != nil || service == nil {
		return nil
	}
	var out []reconcile.Request
	for n := range compile.Held(service) {
		out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Name: numberName(n)}})
	}
	return out
}

// matching returns a map function to all allocations that fit.
func (r *Allocation) matching(fits func(*v1alpha1.NodePortAllocation) bool) handler.MapFunc {
	return func(ctx context.Context, _ client.Object) []reconcile.Request {
		var list v1alpha1.NodePortAllocationList
		if err := r.List(ctx, &list, readOnly); err != nil {
			return nil
		}
		return requests(slices.DeleteFunc(list.Items, func(a v1alpha1.NodePortAllocation) bool { return !fits(&a) }), allocationKey)
	}
}
