package agent

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

const (
	// departure is how long objects that are gone are still enforced, counted
	// from the last one to go. Deleting a CRD takes its objects away one by one
	// within seconds; only afterwards does it show that none is left.
	departure = 2 * time.Second
	// longestDeparture bounds it where something goes all the time.
	longestDeparture = 30 * time.Second
)

// guard tells kinds that vanish from objects that go. It is a value: judging
// returns the guard to judge by next.
type guard [kinds]departures

// departures are the objects of a kind that were enforced, are gone, and are
// still enforced for a while.
type departures struct {
	objects     map[compile.Name]metav1.Object
	first, last time.Time // when the first and the last of them were missed
}

// judged is what a guard has made of what was read.
type judged struct {
	use      inputs
	vanished []kind          // of which nothing is left; all of them is kept
	again    time.Duration   // when to judge again though nothing changes, 0 for never
	stayed   []metav1.Object // among use: gone, and in force until what names them is changed
}

// judge returns what to enforce in the place of kept, now that read is there,
// and the guard to judge by next.
func (g guard) judge(kept, read inputs, now time.Time) (guard, judged) {
	j := judged{use: read}
	for k := range kinds {
		gone, t := map[compile.Name]metav1.Object{}, traits[k]
		for c := range kept[k].Changes(read[k]) {
			switch o := c.From; {
			case o == nil || c.To != nil:
			case t.stays != nil && t.stays(o, j.use):
				j.stayed = append(j.stayed, o)
				j.use[k] = j.use[k].With(c.Key, o)
			case t.mayGo == nil || !t.mayGo(o, j.use):
				gone[c.Key] = o
			}
		}
		next, keep, again := g[k].judge(gone, read[k].Len() == 0, now)
		g[k] = next
		if !keep {
			continue
		}
		use := j.use[k].Edit()
		for name, o := range gone {
			use.Set(name, o)
		}
		j.use[k] = use.Table()
		if again == 0 {
			j.vanished = append(j.vanished, k)
		} else if j.again == 0 || again < j.again {
			j.again = again
		}
	}
	return g, j
}

// judge says whether the missing objects are still to be enforced, and when to
// ask again: never, if nothing is left of the kind.
func (d departures) judge(missing map[compile.Name]metav1.Object, nothingLeft bool, now time.Time) (next departures, keep bool, again time.Duration) {
	if len(missing) == 0 {
		return departures{}, false, 0
	}
	next = departures{objects: missing, first: d.first, last: d.last}
	if len(d.objects) == 0 {
		next.first = now
	}
	for name := range missing {
		if d.objects[name] == nil {
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
//
// Other kinds can't be judged so: a kernel does not show by what it was narrowed.
// The disk remembers a lockdown, and an unknown Node picks no ports. Whom the kernel
// denied it shows, so that is judged even if the disk has lost it.
func vanishedSince(have, want rule.Set, read inputs) (vanished []kind) {
	if read[kindPools].Len() == 0 && len(have.Judged.Subtract(want.Judged)) > 0 {
		vanished = append(vanished, kindPools)
	}
	if read[kindAllocations].Len() == 0 && admitsAnybody(have) {
		vanished = append(vanished, kindAllocations)
	}
	relieved := !rule.CoversAll(want.Denied, have.Denied)
	if read[kindInstallation].Len() == 0 && relieved {
		vanished = append(vanished, kindInstallation)
	}
	narrowed := rule.Narrowed(have, want).Numbers()
	if read[kindAddressSets].Len() == 0 && (relieved && read.standing() != nil || anyOf(read[kindAllocations], func(a *v1alpha1.NodePortAllocation) bool {
		return usesSets(a) && narrowed.Contains(compile.NumberOf(a))
	})) {
		vanished = append(vanished, kindAddressSets)
	}
	return vanished
}

func admitsAnybody(s rule.Set) bool {
	for _, gate := range s.Ports.All {
		if gate.Class != "" && !gate.Refuse || gate.Audit != "" {
			return true
		}
	}
	return false
}
