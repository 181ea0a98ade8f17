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
)

// Hold keeps one block of free pool numbers from being given away by the API server,
// by a Service of ours that nobody serves. A claim makes it give up the number, which
// the policy's own Service then takes.
type Hold struct {
	client.Client
	Snapshot Snapshot
	Now      func() time.Time
	// refused are numbers that the API server did not give, and when. One worker
	// reconciles all blocks, so no lock is needed.
	refused map[uint16]time.Time
}

// refusedFor is how long a number that the API server did not give, though no Service
// shows it, is not asked for again: it frees numbers a little after their Services.
const refusedFor = 2 * time.Second

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
		if rest := r.refused[n].Add(refusedFor).Sub(r.Now()); hold && rest > 0 {
			again = rest
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
	for again := time.Duration(0); ; {
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
			err = r.Create(ctx, want, client.FieldOwner(v1alpha1.FieldOwner))
		case equality.Semantic.DeepEqual(want, have):
			return reconcile.Result{RequeueAfter: again}, nil
		default:
			err = r.Update(ctx, want, client.FieldOwner(v1alpha1.FieldOwner))
		}
		refused := refusedNumbers(err, asked)
		if len(refused) == 0 {
			result, err := conflict(err)
			result.RequeueAfter = max(result.RequeueAfter, again)
			return result, err
		}
		for _, n := range refused {
			r.refused[n] = r.Now()
		}
		again = refusedFor
		numbers = slices.DeleteFunc(numbers, func(n uint16) bool { return slices.Contains(refused, n) })
	}
}

// SetupWithManager wakes a block when a pool, one of its allocations, or a Service
// with one of its numbers changes.
func (r *Hold) SetupWithManager(mgr ctrl.Manager) error {
	r.refused = map[uint16]time.Time{}
	return builder(mgr, "hold", 1).
		Watches(&v1alpha1.NodePortPool{}, each(r.all), ofSpec).
		Watches(&v1alpha1.Portreeve{}, each(r.all), ofSpec).
		Watches(&v1alpha1.NodePortAllocation{}, each(func(_ context.Context, o client.Object) []reconcile.Request {
			return r.blocks(compile.NumberOf(o.(*v1alpha1.NodePortAllocation)))
		})).
		Watches(&corev1.Service{}, each(func(_ context.Context, o client.Object) []reconcile.Request {
			service := o.(*corev1.Service)
			if compile.IsHold(service, r.Snapshot.Namespace) {
				return []reconcile.Request{{NamespacedName: client.ObjectKeyFromObject(service)}}
			}
			var out []reconcile.Request
			for n := range compile.Held(service) {
				out = append(out, r.blocks(n)...)
			}
			return out
		})).
		Complete(r)
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
