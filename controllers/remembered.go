package controllers

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// remembers says whether the policy's companion alone knows a number that the register has
// lost, while the policy misses one about which the allocator has said nothing yet. It is
// left as it is until then: who took the number out of it first would have the policy get
// another one, and its clients would knock in vain. What the register does not know is open
// to nobody meanwhile. A Service in place keeps its numbers by itself.
func (r *Exposure) remembers(ctx context.Context, policy types.NamespacedName, have *corev1.Service) (bool, error) {
	lost := false
	for number := range compile.Held(have) {
		a, err := get[v1alpha1.NodePortAllocation](ctx, r, types.NamespacedName{Name: numberName(number)})
		if err != nil {
			return false, err
		}
		lost = lost || a == nil
	}
	if !lost || r.Verdicts.Of(policy) != nil {
		return false, nil
	}
	view, err := r.Snapshot.View(ctx, policy)
	if err != nil || view.Wish == nil || view.Wish.Planned {
		return false, err
	}
	return len(compile.Assign(view.Wish, view.Allocations).Missing) > 0, nil
}
