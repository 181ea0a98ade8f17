package crash

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/watch"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// A ledger follows every change of the register on one ground and notes what may
// happen at no moment, crash or not: a number that changes hands without having
// been free, one that is freed without having been closed and rested, and a
// policy (of one port) with two open numbers.
type ledger struct {
	watch  watch.Interface
	done   chan struct{}
	ground ground

	mu       sync.Mutex
	coolDown time.Duration
	entries  map[uint16]*v1alpha1.NodePortAllocation
	breaches []string
}

func keepLedger(ctx context.Context, t *testing.T, g ground, coolDown time.Duration) *ledger {
	t.Helper()
	w, err := town.Client.Watch(ctx, &v1alpha1.NodePortAllocationList{})
	if err != nil {
		t.Fatal(err)
	}
	l := &ledger{watch: w, done: make(chan struct{}), ground: g, coolDown: coolDown, entries: map[uint16]*v1alpha1.NodePortAllocation{}}
	go l.follow()
	return l
}

func (l *ledger) stop() {
	l.watch.Stop()
	<-l.done
}

// rests changes the cool-down by which what follows is judged.
func (l *ledger) rests(coolDown time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.coolDown = coolDown
}

func (l *ledger) found() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.breaches...)
}

func (l *ledger) follow() {
	defer close(l.done)
	for e := range l.watch.ResultChan() {
		a, ok := e.Object.(*v1alpha1.NodePortAllocation)
		if ok && l.ground.has(number(a.Name)) {
			l.enter(e.Type, a)
		}
	}
}

func (l *ledger) enter(kind watch.EventType, a *v1alpha1.NodePortAllocation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, claim := number(a.Name), a.Spec.Claim
	breach := func(format string, args ...any) {
		l.breaches = append(l.breaches, fmt.Sprintf(format, args...))
	}
	if kind == watch.Deleted {
		if a.Spec.State != v1alpha1.AllocationClosed || time.Since(a.Spec.ClosedAt.Time) < l.coolDown {
			breach("%d was freed while %s, closed at %v, cool-down %s", n, a.Spec.State, a.Spec.ClosedAt, l.coolDown)
		}
		delete(l.entries, n)
		return
	}
	if was := l.entries[n]; was != nil && was.Spec.Claim != claim {
		breach("%d went from %+v to %+v without having been free", n, was.Spec.Claim, claim)
	}
	l.entries[n] = a
	for other, b := range l.entries {
		if other != n && claim.Policy != "" && b.Spec.Claim == claim && a.Spec.State == v1alpha1.AllocationOpen && b.Spec.State == v1alpha1.AllocationOpen {
			breach("%+v has both %d and %d", claim, n, other)
		}
	}
}
