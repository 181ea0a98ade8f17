package controllers

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/ports"
)

// supply is what there is to hand out, and to whom it must not go.
type supply struct {
	pools []ports.Pool
	taken ports.Numbers
	// registered are those among taken that have an allocation, whose ever it is.
	registered ports.Numbers
	// neighbours are the numbers in use and whom they admit.
	neighbours map[uint16]string
}

// supply reads the register and what Services hold in the API server. written are
// allocations that the cache does not show yet.
func (s Snapshot) supply(ctx context.Context, pools []compile.Pool, written map[string]v1alpha1.NodePortAllocation) (supply, error) {
	var allocations v1alpha1.NodePortAllocationList
	if err := s.List(ctx, &allocations, readOnly); err != nil {
		return supply{}, err
	}
	out := supply{pools: compile.Supply(pools), neighbours: map[uint16]string{}}
	for i := range allocations.Items {
		out.claim(&allocations.Items[i])
	}
	for _, a := range written {
		if !out.taken.Has(compile.NumberOf(&a)) {
			out.claim(&a)
		}
	}
	var services corev1.ServiceList
	if err := s.List(ctx, &services, readOnly); err != nil {
		return supply{}, err
	}
	for i := range services.Items {
		service := &services.Items[i]
		if compile.IsHold(service, s.Namespace) {
			continue // for us
		}
		for n := range compile.Held(service) {
			out.taken.Add(n)
		}
	}
	return out, nil
}

func (s *supply) claim(a *v1alpha1.NodePortAllocation) {
	number := compile.NumberOf(a)
	s.taken.Add(number)
	s.registered.Add(number)
	if key := compile.SourceKey(a.Spec.Ports); key != "" && a.Spec.State == v1alpha1.AllocationOpen {
		s.neighbours[number] = key
	}
	// Resting numbers count: their policies may have them back without being asked.
	for i := range s.pools {
		if s.pools[i].Name == a.Spec.Pool && s.pools[i].Quota > 0 && a.Spec.Claim.Policy != "" {
			s.pools[i].Used[a.Spec.Claim.Namespace]++
		}
	}
}

// over says whether a namespace has used up its quota of a pool.
func (s *supply) over(pool, namespace string) bool {
	for _, p := range s.pools {
		if p.Name == pool {
			return p.Quota > 0 && p.Used[namespace] >= p.Quota
		}
	}
	return false
}

// request asks for a missing number of a policy. carrier is the Service that is to
// carry it, nil when there is none yet: what it holds already, and the register does
// not know of, is for this policy.
func (s *supply) request(view View, number compile.Number, carrier *corev1.Service) ports.Request {
	r := ports.Request{
		Pin: number.Pin, Pools: view.Wish.Pools, Namespace: view.Policy.Namespace, Sources: view.Wish.SourceKey(number),
		Prefer: compile.Remembered(number, view.Policy, carrier),
	}
	if carrier != nil {
		r.Own = slices.DeleteFunc(slices.Sorted(maps.Keys(compile.Held(carrier))), s.registered.Has)
	}
	return r
}

// carrier returns the Service that carries, or is to carry, the policy's numbers;
// nil when there is none.
func (s Snapshot) carrier(ctx context.Context, view View) (*corev1.Service, error) {
	if view.Policy.Spec.Service == v1alpha1.ServiceInPlace {
		return view.Service, nil
	}
	companion, err := get[corev1.Service](ctx, s, types.NamespacedName{Namespace: view.Policy.Namespace, Name: view.Policy.Name + v1alpha1.CompanionSuffix})
	if companion == nil || companion.Labels[v1alpha1.LabelPolicy] != view.Policy.Name {
		return nil, err
	}
	return companion, err
}
