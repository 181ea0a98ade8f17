package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// maxEntries bounds the lists in a pool's status.
const maxEntries = 64

// PoolStatus computes a pool's status from the register. armed are the ranges
// that are armed now.
func PoolStatus(p Pool, allocations []v1alpha1.NodePortAllocation, now metav1.Time) v1alpha1.NodePortPoolStatus {
	status := v1alpha1.NodePortPoolStatus{
		Armed:              p.Armed.Strings(),
		Capacity:           int32(p.Owned.Len()),
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
	status.Free = status.Capacity - taken
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
	meta.RemoveStatusCondition(&status.Conditions, v1alpha1.Overlaps)
	if len(p.Overlaps) > 0 {
		setCondition(&status.Conditions, passed(v1alpha1.Overlaps, v1alpha1.ReasonOverlaps,
			strings.Join(p.Overlaps, "; ")+"; the older pool keeps them; take them out of this pool"), p.Generation, now)
	}
}
