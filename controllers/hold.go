package controllers

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

// Hold keeps one block of free pool numbers from being given away by the API server,
// by a Service of ours that nobody serves. A claim makes it give up the number, which
// the policy's own Service then takes.
type Hold struct {
	client.Client
	Snapshot Snapshot
	Now      func() time.Time
	// refused are numbers that the API server did not give. One worker reconciles all
	// blocks, so no lock is needed.
	refused map[uint16]refusal
	written written
}

// refusal says until when a number is not asked for again.
type refusal struct {
	until time.Time
	pause time.Duration
}

// A number that the API server did not give, though no Service shows it, is asked for
// again soon, since it frees numbers a little after their Services; then ever later.
const (
	firstPause   = 2 * time.Second
	longestPause = 10 * time.Minute
	// mostTries bounds the calls in a row: the API server names one number at a time.
	mostTries = 10
)

// refuse notes that a number was not given.
func (r *Hold) refuse(number uint16, pause time.Duration) {
	pause = min(max(pause, 2*r.refused[number].pause), longestPause)
	r.refused[number] = refusal{r.Now().Add(pause), pause}
}

// Reconcile serves one block, named by its Service.
func (r *Hold) Reconcile(ctx context.Context, key reconcile.Request) (reconcile.Result, error) {
	first, last, ok := compile.HoldBlock(key.Name)
	if !ok {
		return reconcile.Result{}, nil
	}
	have, err := get[corev1.Service](ctx, r, key.NamespacedName)
	if err != nil || have != nil && (have.DeletionTimestamp != nil || !compile.IsHold(have, r.Snapshot.Namespace)) {
		return reconcile.Result{}, err
	}
	if have != nil && r.written.lags(have, r.Now()) {
		return reconcile.Result{RequeueAfter: retrySoon}, nil
	}
	pools, err := r.Snapshot.Pools(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	var numbers []uint16
	var again time.Duration
	for n := first; ; n++ {
		hold, err := r.wanted(ctx, pools, n)
		if err != nil {
			return reconcile.Result{}, err
		}
		if rest := r.refused[n].until.Sub(r.Now()); hold && rest > 0 {
			again = sooner(again, rest)
		} else if hold {
			numbers = append(numbers, n)
		}
		if n == last {
			break
		}
	}
	result, err := r.write(ctx, key.NamespacedName, numbers, have)
	if result.RequeueAfter == 0 {
		result.RequeueAfter = again
	}
	return result, err
}

// wanted says whether a number is to be held.
func (r *Hold) wanted(ctx context.Context, pools []compile.Pool, number uint16) (bool, error) {
	if pool := compile.PoolOf(pools, number); pool == nil {
		return false, nil
	}
	allocation, err := get[v1alpha1.NodePortAllocation](ctx, r, types.NamespacedName{Name: numberName(number)})
	if err != nil {
		return false, err
	}
	var claimed *corev1.Service
	if allocation != nil && allocation.Spec.Carrier == v1alpha1.ServiceInPlace {
		claimed, err = get[corev1.Service](ctx, r, types.NamespacedName{Namespace: allocation.Spec.Claim.Namespace, Name: allocation.Spec.Claim.Service})
		if err != nil {
			return false, err
		}
	}
	holder, err := r.Snapshot.anyHolder(ctx, number)
	return compile.MayHold(pools, number, allocation, claimed, holder), err
}

// write makes the block hold the numbers. What the API server does not give is left
// out: somebody else has it, and will be seen.
func (r *Hold) write(ctx context.Context, key types.NamespacedName, numbers []uint16, have *corev1.Service) (reconcile.Result, error) {
	ctx, end := uncut(ctx)
	defer end()
	again := time.Duration(0)
	for range mostTries {
		want := compile.Hold(key.Namespace, key.Name, numbers, have)
		if want == nil && have == nil {
			return reconcile.Result{RequeueAfter: again}, nil
		}
		if want == nil {
			return conflict(r.Delete(ctx, have, client.Preconditions{UID: ptr.To(have.UID), ResourceVersion: ptr.To(have.ResourceVersion)}))
		}
		var err error
		asked := want.Spec.Ports
		switch {
		case have == nil:
			// One that the cache does not show yet would refuse us its own numbers.
			if there, err := get[corev1.Service](ctx, r.Snapshot.Live, key); err != nil || there != nil {
				return reconcile.Result{RequeueAfter: retrySoon}, err
			}
			err = r.Create(ctx, want, client.FieldOwner(v1alpha1.FieldOwner))
		case equality.Semantic.DeepEqual(want, have):
			return reconcile.Result{RequeueAfter: again}, nil
		default:
			err = r.Update(ctx, want, client.FieldOwner(v1alpha1.FieldOwner))
		}
		refused := refusedNumbers(err, asked)
		if len(refused) == 0 {
			if err == nil {
				r.written.note(want, r.Now())
				r.given(numbers)
			}
			result, err := conflict(err)
			result.RequeueAfter = max(result.RequeueAfter, again)
			return result, err
		}
		pause := firstPause
		if inside, err := rule.ParsePortRange(rangeIn(err)); err == nil { // nothing outside will ever be given
			r.Snapshot.NodePorts.learn(inside.String())
			pause = longestPause
			refused = slices.DeleteFunc(slices.Clone(numbers), inside.Contains)
		}
		for _, n := range refused {
			r.refuse(n, pause)
			again = sooner(again, r.refused[n].pause)
		}
		numbers = slices.DeleteFunc(numbers, func(n uint16) bool { return slices.Contains(refused, n) })
	}
	return reconcile.Result{RequeueAfter: firstPause}, nil
}

// given forgets refusals of numbers that were given after all.
func (r *Hold) given(numbers []uint16) {
	for _, n := range numbers {
		delete(r.refused, n)
	}
}

// sooner returns the shorter of two pauses, of which 0 is none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// SetupWithManager wakes a block when a pool, one of its allocations, or a Service
// with one of its numbers changes.
func (r *Hold) SetupWithManager(mgr ctrl.Manager) error {
	r.refused = map[uint16]refusal{}
	return builder(mgr, "hold", 1).
		Watches(&v1alpha1.NodePortPool{}, each(r.all), ofSpec).
		Watches(&v1alpha1.Portreeve{}, each(r.all), ofSpec).
		Watches(&v1alpha1.NodePortAllocation{}, each(func(_ context.Context, o client.Object) []reconcile.Request {
			return r.blocks(compile.NumberOf(o.(*v1alpha1.NodePortAllocation)))
		})).
		Watches(&corev1.Service{}, each(func(ctx context.Context, o client.Object) []reconcile.Request {
			service := o.(*corev1.Service)
			if compile.IsHold(service, r.Snapshot.Namespace) {
				return []reconcile.Request{{NamespacedName: client.ObjectKeyFromObject(service)}}
			}
			out := r.claimedInPlace(ctx, service)
			for n := range compile.Held(service) {
				out = append(out, r.blocks(n)...)
			}
			return out
		})).
		Complete(r)
}

// claimedInPlace returns the blocks of the numbers that a Service carries in place, or
// is to carry again: they are held for it while it is gone.
func (r *Hold) claimedInPlace(ctx context.Context, service *corev1.Service) []reconcile.Request {
	var list v1alpha1.NodePortAllocationList
	if err := r.List(ctx, &list, readOnly, client.MatchingFields{byClaimed: client.ObjectKeyFromObject(service).String()}); err != nil {
		return nil
	}
	var out []reconcile.Request
	for i := range list.Items {
		if list.Items[i].Spec.Carrier == v1alpha1.ServiceInPlace {
			out = append(out, r.blocks(compile.NumberOf(&list.Items[i]))...)
		}
	}
	return out
}

// all are the blocks of all pools, and those that are held now: a pool that is gone
// needs none.
func (r *Hold) all(ctx context.Context, _ client.Object) []reconcile.Request {
	pools, err := r.Snapshot.Pools(ctx)
	if err != nil {
		return nil
	}
	var out []reconcile.Request
	for _, p := range pools {
		out = append(out, r.blocks(slices.Collect(p.Owned.Numbers)...)...)
	}
	var holds corev1.ServiceList
	if err := r.List(ctx, &holds, readOnly, client.InNamespace(r.Snapshot.Namespace), client.HasLabels{v1alpha1.LabelHold}); err != nil {
		return out
	}
	return append(out, requests(holds.Items, func(s *corev1.Service) types.NamespacedName { return client.ObjectKeyFromObject(s) })...)
}

// blocks returns the blocks of the numbers, each once.
func (r *Hold) blocks(numbers ...uint16) []reconcile.Request {
	var out []reconcile.Request
	for _, n := range numbers {
		key := types.NamespacedName{Namespace: r.Snapshot.Namespace, Name: compile.HoldOf(n)}
		if last := len(out) - 1; last < 0 || out[last].NamespacedName != key {
			out = append(out, reconcile.Request{NamespacedName: key})
		}
	}
	return out
}
