package agent

import (
	"slices"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// The kinds an agent reads, as the API spells them.
const (
	kindPools       = "nodeportpools"
	kindAllocations = "nodeportallocations"
)

// inputs are what a node's rules are compiled from.
type inputs struct {
	pools       []v1alpha1.NodePortPool
	allocations []v1alpha1.NodePortAllocation
}

// guard returns what to enforce in the place of kept, and the kinds that
// vanished from read and are therefore kept. Allocations that were all Closed
// admitted nobody and may go at once: that is how the last ports of a cluster
// are freed.
func (kept inputs) guard(read inputs) (use inputs, vanished []string) {
	use = read
	if len(read.pools) == 0 && len(kept.pools) > 0 {
		use.pools, vanished = kept.pools, append(vanished, kindPools)
	}
	if len(read.allocations) == 0 && slices.ContainsFunc(kept.allocations, notClosed) {
		use.allocations, vanished = kept.allocations, append(vanished, kindAllocations)
	}
	return use, vanished
}

func notClosed(a v1alpha1.NodePortAllocation) bool { return a.Spec.State != v1alpha1.AllocationClosed }

// vanishedSince is guard for an agent that has not applied anything yet: it
// judges by have, what the kernel still holds from before, against want, what
// read would make of it. What vanished can't be had back from the kernel, so the
// whole kernel has to stay as it is.
func vanishedSince(have, want rule.Set, read inputs) (vanished []string) {
	if len(read.pools) == 0 && len(have.Judged.Subtract(want.Judged)) > 0 {
		vanished = append(vanished, kindPools)
	}
	if len(read.allocations) == 0 && admitsAnybody(have) {
		vanished = append(vanished, kindAllocations)
	}
	return vanished
}

func admitsAnybody(s rule.Set) bool {
	for _, class := range s.Ports {
		if len(s.Classes[class]) > 0 {
			return true
		}
	}
	return false
}
