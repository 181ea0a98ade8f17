package agent

import (
	"slices"
	"time"

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

const (
	// departure is how long objects that are gone are still enforced, counted
	// from the last one to go. Deleting a CRD takes its objects away one by one
	// within seconds; only afterwards does it show that none is left.
	departure = 2 * time.Second
	// longestDeparture bounds it where something goes all the time.
	longestDeparture = 30 * time.Second
)

// guard tells a kind that vanishes from objects that go. It is a value: judging
// returns the guard to judge by next.
type guard struct {
	pools, allocations departures
}

// departures are the objects of a kind that were enforced, are gone, and are
// still enforced for a while.
type departures struct {
	names       map[string]bool
	first, last time.Time // when the first and the last of them were missed
}

// judged is what a guard has made of what was read.
type judged struct {
	use      inputs
	vanished []string      // kinds of which nothing is left; all of them is kept
	again    time.Duration // when to judge again though nothing changes, 0 for never
}

// judge returns what to enforce in the place of kept, now that read is there,
// and the guard to judge by next.
//
// Allocations that admit nobody may go at any time: that is how ports are freed.
// Others, and pools, are never deleted by the manager while they matter.
func (g guard) judge(kept, read inputs, now time.Time) (guard, judged) {
	var j judged
	g.pools, j.use.pools = judgeKind(g.pools, &j, kindPools, kept.pools, read.pools, now,
		func(*v1alpha1.NodePortPool) bool { return false })
	g.allocations, j.use.allocations = judgeKind(g.allocations, &j, kindAllocations, kept.allocations, read.allocations, now,
		func(a *v1alpha1.NodePortAllocation) bool {
			return a.Spec.State == v1alpha1.AllocationClosed || a.Spec.State == v1alpha1.AllocationForeign && !a.Spec.Grandfathered
		})
	return g, j
}

func judgeKind[T any, P object[T]](d departures, j *judged, kind string, kept, read []T, now time.Time, mayGo func(P) bool) (departures, []T) {
	there, gone := names[T, P](read), []T(nil)
	for i := range kept {
		if o := P(&kept[i]); !there[o.GetName()] && !mayGo(o) {
			gone = append(gone, kept[i])
		}
	}
	d, keep, again := d.judge(names[T, P](gone), len(read) == 0, now)
	if !keep {
		return d, read
	}
	if again == 0 {
		j.vanished = append(j.vanished, kind)
	} else if j.again == 0 || again < j.again {
		j.again = again
	}
	return d, slices.Concat(read, gone)
}

// names returns the names of the objects.
func names[T any, P object[T]](list []T) map[string]bool {
	out := make(map[string]bool, len(list))
	for i := range list {
		out[P(&list[i]).GetName()] = true
	}
	return out
}

// judge says whether the missing objects are still to be enforced, and when to
// ask again: never, if nothing is left of the kind.
func (d departures) judge(missing map[string]bool, nothingLeft bool, now time.Time) (next departures, keep bool, again time.Duration) {
	if len(missing) == 0 {
		return departures{}, false, 0
	}
	next = departures{names: missing, first: d.first, last: d.last}
	if len(d.names) == 0 {
		next.first = now
	}
	for name := range missing {
		if !d.names[name] {
			next.last = now
		}
	}
	if nothingLeft {
		return next, true, 0
	}
	again = min(next.last.Add(departure).Sub(now), next.first.Add(longestDeparture).Sub(now))
	if again <= 0 {
		return departures{}, false, 0
	}
	return next, true, again
}

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
