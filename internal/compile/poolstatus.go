package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// maxEntries bounds the lists in a pool's status.
const maxEntries = 64

// PoolSeen is what a pool's status is computed from.
type PoolSeen struct {
	// Pool, with what is armed now.
	Pool
	// Allocations are the whole register.
	Allocations []v1alpha1.NodePortAllocation
	// Held are the numbers that Services of ours hold in the API server.
	Held rule.PortRanges
	// Undeclared are Services with node ports that nobody declared, in the order of
	// their names.
	Undeclared []v1alpha1.UndeclaredService
}

// PoolStatus computes a pool's status.
func PoolStatus(seen PoolSeen, now metav1.Time) v1alpha1.NodePortPoolStatus {
	p, allocations := seen.Pool, seen.Allocations
	status := v1alpha1.NodePortPoolStatus{
		Armed:              p.Armed.Strings(),
		Capacity:           int32(p.Owned.Len() + p.Reserved.Len()),
		Reserved:           int32(p.Reserved.Len()),
		Held:               int32(seen.Held.Intersect(p.Owned).Len()),
		Undeclared:         seen.Undeclared[:min(len(seen.Undeclared), maxEntries)],
		ObservedGeneration: p.Generation,
		Conditions:         slices.Clone(p.Status.Conditions),
	}
	taken := int32(0)
	byNamespace := map[string]int32{}
	for i := range allocations {
		a := &allocations[i]
		number := NumberOf(a)
		if p.Owned.Contains(number) {
			taken++
		} else if a.Spec.Pool != p.Name {
			continue
		}
		switch a.Spec.State {
		case v1alpha1.AllocationOpen:
			status.Allocated++
			byNamespace[a.Spec.Claim.Namespace]++
		case v1alpha1.AllocationClosed:
			status.Cooling++
		case v1alpha1.AllocationForeign:
			holder := "unknown"
			if a.Spec.Claim.Service != "" {
				holder = a.Spec.Claim.Namespace + "/" + a.Spec.Claim.Service
			}
			status.Foreign = append(status.Foreign, v1alpha1.ForeignPort{Port: int32(number), Holder: holder, Passed: a.Spec.Grandfathered})
		}
	}
	status.Free = status.Capacity - status.Reserved - taken
	for namespace, n := range byNamespace {
		status.ByNamespace = append(status.ByNamespace, v1alpha1.NamespaceCount{Namespace: namespace, Ports: n})
	}
	slices.SortFunc(status.ByNamespace, func(a, b v1alpha1.NamespaceCount) int {
		return cmp.Or(cmp.Compare(b.Ports, a.Ports), strings.Compare(a.Namespace, b.Namespace))
	})
	slices.SortFunc(status.Foreign, func(a, b v1alpha1.ForeignPort) int { return cmp.Compare(a.Port, b.Port) })
	status.ByNamespace = status.ByNamespace[:min(len(status.ByNamespace), maxEntries)]
	status.Foreign = status.Foreign[:min(len(status.Foreign), maxEntries)]
	poolConditions(&status, p, now)
	return status
}

func poolConditions(status *v1alpha1.NodePortPoolStatus, p Pool, now metav1.Time) {
	gates := []gate{passed(v1alpha1.Accepted, v1alpha1.ReasonOK, "armed: each node drops what is not allocated once it has read this (kubectl get nodedp)")}
	switch unarmed := p.Owned.Subtract(p.Armed); {
	case p.Invalid != "":
		gates[0] = stalled(v1alpha1.Accepted, v1alpha1.ReasonInvalid, p.Invalid)
	case len(p.Owned) == 0 && len(p.Outside) > 0 && len(p.Overlaps) == 0:
		gates[0] = stalled(v1alpha1.Accepted, v1alpha1.ReasonOutOfRange, outside(p))
	case len(p.Owned) == 0 && len(p.Reserved) > 0:
		gates[0] = passed(v1alpha1.Accepted, v1alpha1.ReasonOK, "all its numbers are reserved")
	case len(p.Owned) == 0 && len(p.Overlaps) == 0:
		gates[0] = stalled(v1alpha1.Accepted, v1alpha1.ReasonInvalid, "owns no port: all its numbers are fail-safe ports; choose other ranges, or correct spec.failSafePorts of the Portreeve object")
	case len(p.Owned) == 0:
		gates[0] = stalled(v1alpha1.Accepted, v1alpha1.ReasonOverlaps, fmt.Sprintf("owns no port: %s; choose other ranges", strings.Join(p.Overlaps, "; ")))
	case len(unarmed) > 0:
		gates[0] = waiting(v1alpha1.Accepted, v1alpha1.ReasonArming, "arming "+strings.Join(unarmed.Strings(), ", "))
	}
	for _, g := range summary(gates) {
		if g.kind == v1alpha1.Ready && g.passed {
			g.message = gates[0].message
		}
		setCondition(&status.Conditions, g, p.Generation, now)
	}
	for _, kind := range []string{v1alpha1.Overlaps, v1alpha1.OutOfRange, v1alpha1.Exhausted} {
		if g := abnormal(kind, status, p); g.passed {
			setCondition(&status.Conditions, g, p.Generation, now)
		} else {
			meta.RemoveStatusCondition(&status.Conditions, kind)
		}
	}
}

// scarce is the part of a pool's numbers, one in so many, at which it is called
// nearly exhausted, so that a person can widen it before a claim has to wait.
const scarce = 10

// abnormal "passes" when the condition is to be shown.
func abnormal(kind string, status *v1alpha1.NodePortPoolStatus, p Pool) gate {
	usable := status.Capacity - status.Reserved
	switch {
	case kind == v1alpha1.Overlaps && len(p.Overlaps) > 0:
		return passed(kind, v1alpha1.ReasonOverlaps, strings.Join(p.Overlaps, "; ")+"; the older pool keeps them; take them out of this pool")
	case kind == v1alpha1.OutOfRange && len(p.Outside) > 0:
		return passed(kind, v1alpha1.ReasonOutOfRange, outside(p))
	case kind == v1alpha1.Exhausted && usable > 0 && status.Free <= 0:
		return passed(kind, v1alpha1.ReasonExhausted, fmt.Sprintf("no number is free; widen the pool, or make another of category %s", p.Spec.Category))
	case kind == v1alpha1.Exhausted && usable > 0 && status.Free <= usable/scarce:
		return passed(kind, v1alpha1.ReasonNearlyExhausted, fmt.Sprintf("at most one number in %d is free; widen the pool, or make another of category %s", scarce, p.Spec.Category))
	}
	return waiting(kind, v1alpha1.ReasonOK, "")
}

func outside(p Pool) string {
	return fmt.Sprintf("%s lie outside the API server's node-port range and are never handed out; take them out of the pool, or correct spec.nodePortRange of the Portreeve object", strings.Join(p.Outside.Strings(), ", "))
}
