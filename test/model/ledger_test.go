package model

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// entry is what the register said of a number from a moment on; without a spec when
// it said nothing.
type entry struct {
	from   time.Time
	number uint16
	spec   *v1alpha1.NodePortAllocationSpec
	// ours: written by the manager, and not by a person who restores.
	ours bool
}

func (e entry) String() string {
	if e.spec == nil {
		return fmt.Sprintf("%s %d is not in the register", e.from.Format("05.000"), e.number)
	}
	return fmt.Sprintf("%s %d %s pool %s for %s/%s, Service %s, %v, grandfathered %t", e.from.Format("05.000"), e.number, e.spec.State, e.spec.Pool,
		e.spec.Claim.Namespace, e.spec.Claim.Policy, e.spec.Claim.Service, e.spec.Ports, e.spec.Grandfathered)
}

func (e entry) isOpen() bool { return e.spec != nil && e.spec.State == v1alpha1.AllocationOpen }

func (e entry) policy() key {
	if e.spec == nil || e.spec.Claim.Policy == "" {
		return key{}
	}
	return key{Namespace: e.spec.Claim.Namespace, Name: e.spec.Claim.Policy}
}

// tenancy is who last had a number open, and since when no longer; zero: still.
type tenancy struct {
	policy key
	ended  time.Time
}

// A ledger follows every change of the register from the start, and notes what may
// happen at no moment.
type ledger struct {
	watch watch.Interface

	mu      sync.Mutex
	history []entry // of the step that runs; the first of each number is older
	present map[uint16]entry
	tenants map[uint16]tenancy
	// excused are numbers that a person takes out of the register.
	excused  map[uint16]bool
	breaches []string
}

func keepLedger(ctx context.Context) (*ledger, error) {
	var list v1alpha1.NodePortAllocationList
	if err := town.Client.List(ctx, &list); err != nil {
		return nil, err
	}
	w, err := town.Client.Watch(ctx, &list, &client.ListOptions{})
	if err != nil {
		return nil, err
	}
	l := &ledger{watch: w, present: map[uint16]entry{}, tenants: map[uint16]tenancy{}, excused: map[uint16]bool{}}
	go func() {
		for e := range w.ResultChan() {
			if a, ok := e.Object.(*v1alpha1.NodePortAllocation); ok {
				l.enter(e.Type, a)
			} else {
				l.breach("the watch of the register has broken: %v", e.Object)
			}
		}
	}()
	return l, nil
}

func (l *ledger) breach(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.breaches = append(l.breaches, fmt.Sprintf(format, args...))
}

// excuse lets a number vanish without having been closed: a person deletes it.
func (l *ledger) excuse(n uint16) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.excused[n] = true
}

// cut returns the entries of the time since the last cut, with those that stood when
// it began, and the breaches.
func (l *ledger) cut() (history []entry, breaches []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	history, breaches = l.history, l.breaches
	l.history, l.breaches = nil, nil
	for _, e := range l.present {
		l.history = append(l.history, e)
	}
	return history, breaches
}

func (l *ledger) enter(kind watch.EventType, a *v1alpha1.NodePortAllocation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, now := numberOf(a), time.Now()
	was, is := l.present[n], entry{from: now, number: n}
	if kind != watch.Deleted {
		is.spec, is.ours = &a.Spec, len(a.ManagedFields) > 0 && a.ManagedFields[len(a.ManagedFields)-1].Manager == v1alpha1.FieldOwner
	}
	if is.spec == nil && l.excused[n] {
		delete(l.tenants, n)
	} else if why := l.never(was, is); why != "" {
		l.breaches = append(l.breaches, fmt.Sprintf("%s\n      before: %s\n      after:  %s", why, was, is))
	}
	if is.spec == nil {
		delete(l.excused, n)
	}
	l.count(was, is)
	l.present[n] = is
	l.history = append(l.history, is)
}

// never says why a change may not happen, "" if it may.
func (l *ledger) never(was, is entry) string {
	last := l.tenants[is.number]
	switch {
	case is.spec == nil && was.isOpen():
		return "a number was freed without having been closed"
	case is.spec == nil && was.spec != nil && was.spec.State == v1alpha1.AllocationClosed && was.spec.Claim.Policy != "" && is.from.Sub(was.spec.ClosedAt.Time) < coolDown:
		return "a number was freed before it had rested"
	case is.spec == nil && was.spec != nil && was.spec.Grandfathered:
		return "a number that was passed was freed without having been closed"
	case is.isOpen() && was.spec != nil && was.spec.State == v1alpha1.AllocationForeign && (is.spec.Carrier != v1alpha1.ServiceInPlace || is.spec.Claim.Service != was.spec.Claim.Service):
		return "a number was opened for a policy while another's Service had it"
	case is.isOpen() && was.spec != nil && was.spec.State == v1alpha1.AllocationClosed && was.policy() != is.policy():
		return "a number was opened for another policy without having been free"
	case is.isOpen() && last.policy != (key{}) && last.policy != is.policy() && last.ended.IsZero():
		return "a number changed hands while it was open"
	case is.isOpen() && last.policy != (key{}) && last.policy != is.policy() && is.from.Sub(last.ended) < coolDown:
		return fmt.Sprintf("a number was opened for another policy within its cool-down: %v had it until %s", last.policy, last.ended.Format("05.000"))
	}
	return ""
}

// count keeps the tenants.
func (l *ledger) count(was, is entry) {
	switch {
	case is.isOpen():
		l.tenants[is.number] = tenancy{policy: is.policy()}
	case was.isOpen():
		t := l.tenants[is.number]
		if t.ended = is.from; is.spec != nil && is.spec.ClosedAt != nil {
			t.ended = is.spec.ClosedAt.Time
		}
		if t.policy != (key{}) {
			l.tenants[is.number] = t
		}
	}
}

// given are the entries with which a number came to somebody who did not have it.
func given(history []entry) []entry {
	before := map[uint16]entry{}
	var out []entry
	for _, e := range history {
		was, seen := before[e.number]
		if before[e.number] = e; seen && e.ours && e.spec != nil &&
			(e.isOpen() && (!was.isOpen() || was.policy() != e.policy()) || e.spec.Grandfathered && (was.spec == nil || !was.spec.Grandfathered)) {
			out = append(out, e)
		}
	}
	return out
}

func spell(list []entry) string {
	slices.SortStableFunc(list, func(a, b entry) int { return a.from.Compare(b.from) })
	list = slices.CompactFunc(list, func(a, b entry) bool { return a.from.Equal(b.from) })
	var out []string
	for _, e := range list {
		out = append(out, e.String())
	}
	return "\n    " + strings.Join(out, "\n    ")
}
