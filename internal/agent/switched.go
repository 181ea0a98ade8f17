package agent

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

// SweepStale removes the tracked connections to the numbers, on the node's own
// addresses, that are stale, and counts them.
type SweepStale func(ctx context.Context, stale map[uint16]rule.Stale, want rule.Set) (int, error)

// sweeps are how long after a change of a port's arrival its connections are swept.
// Whoever carries them hears of the change at the same time as this node, or later, and
// nobody tells when it has done what it heard; until then a connection that begins anew
// begins as before. kube-proxy takes a second at most, unless it has ten thousands of
// rules.
var sweeps = []time.Duration{time.Second, 3 * time.Second, 10 * time.Second, 30 * time.Second}

// sweepAgain is how soon a sweep that failed is tried again.
const sweepAgain = time.Second

// arrivals are how traffic arrives at numbers, but for those at which it arrives in the
// ordinary way.
type arrivals map[uint16]compile.Arrival

func newArrivalsFile(dir string) stateFile[arrivals] {
	return stateFile[arrivals]{filepath.Join(dir, "arrivals.json"), func(arrivals) error { return nil }}
}

// switched follows how traffic arrives, and what is to be swept where that changes.
type switched struct {
	file stateFile[arrivals]
	// settled is what the last connections were seen to be swept for, as on disk; nil: it
	// was never known, and what is then is taken for what was.
	settled arrivals
	unsaved bool
	pending map[uint16]*pending
}

// pending is a number whose arrival has changed.
type pending struct {
	arrival compile.Arrival
	stale   rule.Stale
	since   time.Time
	swept   int // how many of sweeps are behind it
	failed  time.Time
}

// due is when the next sweep is.
func (p *pending) due() time.Time {
	if at := p.failed.Add(sweepAgain); !p.failed.IsZero() {
		return at
	}
	return p.since.Add(sweeps[p.swept])
}

// follow takes in the allocations that are other ones. Where there was none, nobody had
// a connection; but a datagram that came through before kube-proxy knew the number made
// a flow to the node itself, and keeps it for as long as others follow. begun says that
// the former ones are known; otherwise it is the disk that knows.
func (s *switched) follow(from, to compile.Objects, begun bool, now time.Time) {
	known := s.settled != nil
	if s.pending == nil {
		s.pending = map[uint16]*pending{}
	}
	if !known {
		s.settled, s.unsaved = arrivals{}, true
	}
	for change := range from.Changes(to) {
		was, wasOpen := arrivalOf(change.From)
		is, isOpen := arrivalOf(change.To)
		number := claimed(change.Key)
		last := s.settled[number]
		if p := s.pending[number]; p != nil {
			last = p.arrival
		}
		switch {
		case !isOpen:
			delete(s.pending, number)
			s.settle(number, compile.Arrival{})
		case begun && !wasOpen, !begun && !known:
			delete(s.pending, number)
			s.settle(number, is)
			if known && overUDP(change.To) {
				s.pending[number] = &pending{arrival: is, stale: rule.Stale{Unanswered: true}, since: now}
			}
		case begun && was == is, last == is:
		default:
			s.change(number, last, is, now)
		}
	}
	s.save()
}

// change has a number swept that traffic reaches in another way than last.
func (s *switched) change(number uint16, last, is compile.Arrival, now time.Time) {
	stale := last.Stale(is)
	if p := s.pending[number]; p != nil {
		stale = p.stale.Or(stale)
		delete(s.pending, number)
	}
	if stale = is.Narrow(stale); stale == (rule.Stale{}) {
		s.settle(number, is)
		return
	}
	s.pending[number] = &pending{arrival: is, stale: stale, since: now}
}

// settle notes as of what no connection of the number is stale.
func (s *switched) settle(number uint16, is compile.Arrival) {
	if s.settled[number] == is {
		return
	}
	s.unsaved = true
	if is == (compile.Arrival{}) {
		delete(s.settled, number)
		return
	}
	s.settled[number] = is
}

// save tells the disk. One that fails is tried again at the next change; until then it
// costs a sweep too many after a restart, or one too few.
func (s *switched) save() {
	if s.unsaved {
		s.unsaved = s.file.save(s.settled) != nil
	}
}

// sweep has the connections go that are due, and returns when there is more to do; zero
// if there is not.
func (s *switched) sweep(ctx context.Context, sweep SweepStale, want rule.Set, now time.Time) (swept int, next time.Time, err error) {
	stale := map[uint16]rule.Stale{}
	for number, p := range s.pending {
		if !p.due().After(now) {
			stale[number] = p.stale
		}
	}
	if len(stale) > 0 {
		swept, err = sweep(ctx, stale, want)
	}
	for number := range stale {
		p := s.pending[number]
		if p.failed = (time.Time{}); err != nil {
			p.failed = now
			continue
		}
		for p.swept < len(sweeps) && !p.due().After(now) {
			p.swept++
		}
		if p.swept == len(sweeps) {
			s.settle(number, p.arrival)
			delete(s.pending, number)
		}
	}
	s.save()
	for _, p := range s.pending {
		if due := p.due(); next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return swept, next, err
}

// resweep removes the connections that go on as their Service said before what is used
// next, and returns when to have another round, again at the latest; 0 for none. That is
// no part of what the node vouches for, so a failure is logged and tried again.
func (a *Agent) resweep(ctx context.Context, use inputs, want rule.Set, now time.Time, again time.Duration) time.Duration {
	a.switched.follow(a.applied[kindAllocations], use[kindAllocations], a.begun, now)
	swept, next, err := a.switched.sweep(ctx, a.config.SweepStale, want, now)
	a.metrics.swept.Add(float64(swept))
	if err != nil {
		a.log.Warn("connections that go on as their Service said before can't be removed; trying again", "error", err)
	}
	if swept > 0 {
		a.log.Info("connections that went on as their Service said before", "swept", swept)
	}
	if next.IsZero() {
		return again
	}
	if soon := max(next.Sub(now), time.Millisecond); again == 0 || soon < again {
		return soon
	}
	return again
}

// claimed is the number that the allocation with the name claims, 0 for none.
func claimed(name compile.Name) uint16 {
	return compile.NumberOf(&v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: string(name)}})
}

// overUDP says whether the allocation has a port by UDP.
func overUDP(o any) bool {
	a, is := o.(*v1alpha1.NodePortAllocation)
	return is && slices.Contains(a.Spec.Protocols, v1alpha1.Protocol(rule.UDP))
}

// arrivalOf is how traffic arrives at an Open allocation.
func arrivalOf(o any) (compile.Arrival, bool) {
	a, is := o.(*v1alpha1.NodePortAllocation)
	if !is || a == nil || a.Spec.State != v1alpha1.AllocationOpen {
		return compile.Arrival{}, false
	}
	return compile.ArrivalOf(a), true
}
