package controllers

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/ports"
)

// retrySoon is the pause after a lost race or a cache that lags behind our own write.
const retrySoon = 50 * time.Millisecond

// cacheLag is what a cache lags at most, but on a busy machine, and forgetWritten far longer.
// The name is the lock all the same: what is forgotten too early costs a refused create, not
// a port.
const (
	cacheLag      = time.Second
	forgetWritten = 30 * time.Second
)

// Allocator gives numbers to the policies of one category. It decides for all
// that wait from one snapshot, the older policy first, so winners do not depend
// on the order of events. It only ever creates allocations.
type Allocator struct {
	client.Client
	Snapshot Snapshot
	Verdicts *Verdicts
	Now      func() time.Time
	// written are the allocations we created that the cache does not show yet.
	// One worker reconciles all categories, so no lock is needed.
	written map[string]v1alpha1.NodePortAllocation
}

// demand is one missing number of a policy.
type demand struct {
	View
	number compile.Number
	ports.Request
	// rank of the first pool it may draw from.
	rank int32
}

// Reconcile serves one category, named by the request.
func (r *Allocator) Reconcile(ctx context.Context, category reconcile.Request) (reconcile.Result, error) {
	cluster, err := r.Snapshot.Cluster(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	doubtful, err := r.forget(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	var again reconcile.Result
	if doubtful { // whether it was deleted already is seen then
		again.RequeueAfter = cacheLag
	}
	supply, err := r.Snapshot.supply(ctx, cluster.Pools, r.written)
	if err != nil {
		return reconcile.Result{}, err
	}
	demands, err := r.demands(ctx, cluster, &supply, category.Name)
	if err != nil || len(demands) == 0 {
		return again, err
	}
	asked := make([]ports.Request, len(demands))
	for i, d := range demands {
		asked[i] = d.Request
	}
	choices := ports.Choose(asked, supply.pools, supply.taken, supply.neighbours)
	answers := make([]answer, len(choices))
	var settling errgroup.Group
	settling.SetLimit(parallelClaims)
	for i, choice := range choices {
		settling.Go(func() (err error) {
			answers[i], err = r.settle(ctx, &supply, demands[i], choice)
			return err
		})
	}
	err = settling.Wait()
	verdicts := map[types.NamespacedName]*compile.Refusal{}
	for i, a := range answers {
		if a.created != nil {
			r.written[a.created.Name] = *a.created
		}
		if key := policyKey(demands[i].Policy); verdicts[key] == nil {
			verdicts[key] = a.refusal
		}
	}
	for key, refusal := range verdicts {
		r.Verdicts.Say(key, refusal)
	}
	if err != nil {
		return conflict(err)
	}
	return again, nil
}

// parallelClaims bounds how many allocations are created at a time. What is
// created is decided before, so the order does not matter.
const parallelClaims = 8

// answer is what became of one demand; nothing when it lost a race.
type answer struct {
	created *v1alpha1.NodePortAllocation
	refusal *compile.Refusal
}

// demands lists what the category's policies miss: those of the pool with the lower
// priority first, then the oldest.
func (r *Allocator) demands(ctx context.Context, cluster compile.Cluster, supply *supply, category string) ([]demand, error) {
	policies, err := r.policies(ctx, cluster, category)
	if err != nil {
		return nil, err
	}
	var demands []demand
	for i := range policies {
		key := policyKey(&policies[i])
		view, err := r.Snapshot.view(ctx, cluster, key, &policies[i])
		if err != nil {
			return nil, err
		}
		if view.Wish == nil || view.Wish.Planned {
			r.Verdicts.Say(key, nil)
			continue
		}
		missing := compile.Assign(view.Wish, r.withWritten(view.Allocations, key)).Missing
		if len(missing) == 0 {
			r.Verdicts.Say(key, nil)
			continue
		}
		carrier, err := r.Snapshot.carrier(ctx, view)
		if err != nil {
			return nil, err
		}
		for _, n := range missing {
			number := view.Wish.Numbers[n]
			demands = append(demands, demand{View: view, number: number, Request: supply.request(view, number, carrier), rank: rankOf(view)})
		}
	}
	slices.SortStableFunc(demands, func(a, b demand) int { return cmp.Compare(a.rank, b.rank) })
	return demands, nil
}

// policies of a category, and those that name one of its pools, the oldest first.
func (r *Allocator) policies(ctx context.Context, cluster compile.Cluster, category string) ([]v1alpha1.NodePortPolicy, error) {
	var list v1alpha1.NodePortPolicyList
	if err := r.List(ctx, &list, readOnly, client.MatchingFields{byCategory: category}); err != nil {
		return nil, err
	}
	for _, p := range cluster.Pools {
		if p.Spec.Category != category {
			continue
		}
		var named v1alpha1.NodePortPolicyList
		if err := r.List(ctx, &named, readOnly, client.MatchingFields{byPool: p.Name}); err != nil {
			return nil, err
		}
		list.Items = append(list.Items, named.Items...)
	}
	slices.SortFunc(list.Items, func(a, b v1alpha1.NodePortPolicy) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return list.Items, nil
}

func rankOf(view View) int32 {
	for _, p := range view.Pools {
		if p.Name == view.Wish.Pools[0] {
			return compile.PriorityOf(p.NodePortPool)
		}
	}
	return 0
}

// forget drops what we created and the cache now shows, or what is gone again. It says
// whether there is some that nobody shows yet.
func (r *Allocator) forget(ctx context.Context) (doubtful bool, err error) {
	for name, a := range r.written {
		key := types.NamespacedName{Name: name}
		shown, err := get[v1alpha1.NodePortAllocation](ctx, r, key)
		if err != nil {
			return false, err
		}
		age := r.Now().Sub(a.CreationTimestamp.Time)
		gone := age > forgetWritten
		if shown == nil && age > cacheLag {
			live, err := get[v1alpha1.NodePortAllocation](ctx, r.Snapshot.Live, key)
			if err != nil {
				return false, err
			}
			gone = gone || live == nil || live.UID != a.UID
		}
		if shown != nil || gone {
			delete(r.written, name)
		} else {
			doubtful = true
		}
	}
	return doubtful, nil
}

// withWritten adds what we created for the policy and the cache does not show yet.
func (r *Allocator) withWritten(own []v1alpha1.NodePortAllocation, policy types.NamespacedName) []v1alpha1.NodePortAllocation {
	for _, a := range r.written {
		if policyOf(&a) == policy {
			own = append(own, a)
		}
	}
	return own
}

// settle creates the allocation that was chosen, or says why there is none.
func (r *Allocator) settle(ctx context.Context, supply *supply, d demand, choice ports.Choice) (answer, error) {
	names := strings.Join(d.Wish.Pools, ", ")
	switch choice.Outcome {
	case ports.Exhausted:
		if unarmed := arming(d.Wish.Pools, d.View.Pools); unarmed != "" {
			return answer{refusal: notArmed(unarmed)}, nil
		}
		return answer{refusal: &compile.Refusal{Reason: v1alpha1.ReasonExhausted, Waits: true, Message: fmt.Sprintf(
			"pool %s has no free port; %s claims are ahead; a port that is released goes to the oldest claim, or ask the platform team to widen the pool", names, ahead(choice.Ahead))}}, nil
	case ports.OverQuota:
		return answer{refusal: overQuota(d.Policy.Namespace, names)}, nil
	case ports.Outside: // owned, or the policy would have been refused: so not armed yet
		return answer{refusal: notArmed(names)}, nil
	case ports.Taken:
		if d.number.Holding && supply.over(choice.Pool, d.Policy.Namespace) {
			return answer{refusal: overQuota(d.Policy.Namespace, names)}, nil
		}
		refusal, err := r.holder(ctx, d, choice.Number)
		return answer{refusal: refusal}, err
	}
	allocation := &v1alpha1.NodePortAllocation{
		ObjectMeta: metav1.ObjectMeta{Name: numberName(choice.Number)},
		Spec:       d.Wish.Claim(d.number, choice.Pool),
	}
	allocation.Spec.Since = ptr.To(metav1.NewMicroTime(r.Now()))
	allocation.Spec.Adopted = d.number.Holding
	if err := r.Create(ctx, allocation, client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
		// Where the name is taken the lock did its work: our cache lags.
		return answer{}, fmt.Errorf("claim port %d for policy %s/%s: %w", choice.Number, d.Policy.Namespace, d.Policy.Name, err)
	}
	return answer{created: allocation}, nil
}

func overQuota(namespace, pools string) *compile.Refusal {
	return &compile.Refusal{Reason: v1alpha1.ReasonQuotaExceeded, Waits: true, Message: fmt.Sprintf(
		"namespace %s has as many ports of pool %s as its quota allows, resting ones included; delete a policy that is no longer needed, or ask the platform team to raise quota.perNamespace", namespace, pools)}
}

// ahead counts exactly as long as it matters: each number that is freed must not
// rewrite the status of thousands.
func ahead(n int) string {
	const exactly = 100
	if n <= exactly {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("more than %d", n/exactly*exactly)
}

// holder says who holds a pinned number; nobody, where it is the policy's own
// Service: then the allocation is about to be adopted.
func (r *Allocator) holder(ctx context.Context, d demand, number uint16) (*compile.Refusal, error) {
	holder := "somebody else"
	allocation, err := get[v1alpha1.NodePortAllocation](ctx, r, types.NamespacedName{Name: numberName(number)})
	if err != nil {
		return nil, err
	}
	service, err := r.Snapshot.Holder(ctx, number)
	if err != nil {
		return nil, err
	}
	switch {
	case d.number.Holding && allocation != nil && allocation.Spec.State == v1alpha1.AllocationForeign:
		return nil, nil
	case allocation != nil && allocation.Spec.State == v1alpha1.AllocationClosed:
		holder = "its cool-down (see kubectl describe npa " + allocation.Name + ")"
	case allocation != nil && allocation.Spec.Claim.Policy != "":
		holder = "policy " + policyOf(allocation).String()
	case service != nil:
		holder = "Service " + service.Namespace + "/" + service.Name
	}
	return &compile.Refusal{Reason: v1alpha1.ReasonConflict, Message: fmt.Sprintf(
		"nodePort %d is held by %s; pin another number, leave nodePort out, or wait for it", number, holder)}, nil
}

func notArmed(pool string) *compile.Refusal {
	return &compile.Refusal{Reason: v1alpha1.ReasonPoolNotArmed, Waits: true, Message: fmt.Sprintf("waits until pool %s is armed", pool)}
}

// arming names the first of the pools that has numbers still to be armed, "" if
// there is none.
func arming(names []string, pools []compile.Pool) string {
	for _, p := range pools {
		if slices.Contains(names, p.Name) && len(p.Owned.Subtract(p.Armed)) > 0 {
			return p.Name
		}
	}
	return ""
}

// SetupWithManager wakes a category when its policies, pools, Services or free
// numbers change.
func (r *Allocator) SetupWithManager(mgr ctrl.Manager) error {
	r.written = map[string]v1alpha1.NodePortAllocation{}
	return builder(mgr, "allocator", 1).
		Watches(&v1alpha1.NodePortPolicy{}, each(func(ctx context.Context, o client.Object) []reconcile.Request {
			return r.categoryOf(ctx, o.(*v1alpha1.NodePortPolicy))
		}), ofSpec).
		Watches(&v1alpha1.NodePortPool{}, each(func(_ context.Context, o client.Object) []reconcile.Request {
			return category(o.(*v1alpha1.NodePortPool).Spec.Category)
		})).
		Watches(&v1alpha1.NodePortAllocation{}, each(func(ctx context.Context, o client.Object) []reconcile.Request {
			return r.categoryOfPool(ctx, o.(*v1alpha1.NodePortAllocation).Spec.Pool)
		}), freedOrLost).
		Watches(&corev1.Service{}, each(r.categoriesOfService)).
		Watches(&v1alpha1.Portreeve{}, each(r.all), ofSpec).
		Watches(&v1alpha1.CloudFirewall{}, each(r.all), ofSpec).
		Watches(&corev1.Namespace{}, each(r.all), ofLabels).
		Complete(r)
}

// all categories that there are.
func (r *Allocator) all(ctx context.Context, _ client.Object) []reconcile.Request {
	var list v1alpha1.NodePortPoolList
	if err := r.List(ctx, &list, readOnly); err != nil {
		return nil
	}
	return requests(list.Items, func(p *v1alpha1.NodePortPool) types.NamespacedName {
		return types.NamespacedName{Name: p.Spec.Category}
	})
}

// categoryOf is the one from which the policy draws; none while the pool it names
// does not exist.
func (r *Allocator) categoryOf(ctx context.Context, policy *v1alpha1.NodePortPolicy) []reconcile.Request {
	if policy.Spec.PoolRef != nil {
		return r.categoryOfPool(ctx, string(policy.Spec.PoolRef.Name))
	}
	return category(policy.Spec.Category)
}

func category(name string) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: name}}}
}

func (r *Allocator) categoryOfPool(ctx context.Context, name string) []reconcile.Request {
	pool, err := get[v1alpha1.NodePortPool](ctx, r, types.NamespacedName{Name: name})
	if err != nil || pool == nil {
		return nil
	}
	return category(pool.Spec.Category)
}

func (r *Allocator) categoriesOfService(ctx context.Context, o client.Object) []reconcile.Request {
	var out []reconcile.Request
	for _, key := range r.Snapshot.policiesOf(ctx, o) {
		if policy, err := get[v1alpha1.NodePortPolicy](ctx, r, key.NamespacedName); err == nil && policy != nil {
			out = append(out, r.categoryOf(ctx, policy)...)
		}
	}
	// Of companions too: what one gives up may be of a category that its policy has left.
	held := compile.Held(o.(*corev1.Service))
	if len(held) == 0 {
		return out
	}
	pools, err := r.Snapshot.Pools(ctx)
	if err != nil {
		return out
	}
	for n := range held {
		if pool := compile.PoolOf(pools, n); pool != nil {
			out = append(out, category(pool.Spec.Category)...)
		}
	}
	return out
}
