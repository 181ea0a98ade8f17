package agent

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// arriving is 30080, open, with what its policy says of traffic.
func arriving(policy v1alpha1.ExternalTrafficPolicy, bound bool) v1alpha1.NodePortAllocation {
	a := open(30080, "203.0.113.0/24")
	a.Spec.ExternalTrafficPolicy = policy
	if bound {
		a.Spec.SessionAffinity = &v1alpha1.SessionAffinity{ClientIPTimeoutSeconds: 60}
	}
	return a
}

// wantStale wants so many sweeps since it was last asked, all of them of that.
func (l *lab) wantStale(times int, want rule.Stale) {
	l.t.Helper()
	var got []map[uint16]rule.Stale
	l.kernel.set(func() { got, l.kernel.stale = l.kernel.stale, nil })
	if len(got) != times || slices.ContainsFunc(got, func(m map[uint16]rule.Stale) bool { return !maps.Equal(m, map[uint16]rule.Stale{30080: want}) }) {
		l.t.Errorf("swept %v, want %d times %+v", got, times, want)
	}
}

func TestASwitchSweepsWhatGoesOnAsBefore(t *testing.T) {
	masqueraded, direct, unbound := rule.Stale{Masqueraded: true}, rule.Stale{Direct: true}, rule.Stale{Unbound: true}
	for _, c := range []struct {
		name     string
		from, to v1alpha1.NodePortAllocation
		times    int
		want     rule.Stale
	}{
		{"to Local", arriving("Cluster", false), arriving("Local", false), 4, masqueraded},
		{"from nothing to Local", arriving("", false), arriving("Local", false), 4, masqueraded},
		{"to Cluster", arriving("Local", false), arriving("Cluster", false), 4, direct},
		{"from nothing to Cluster", arriving("", false), arriving("Cluster", false), 0, rule.Stale{}},
		{"to an affinity", arriving("", false), arriving("", true), 4, unbound},
		{"from an affinity", arriving("", true), arriving("", false), 0, rule.Stale{}},
		{"both", arriving("", false), arriving("Local", true), 4, rule.Stale{Masqueraded: true, Unbound: true}},
		{"another source", arriving("Local", true), open(30080, "198.51.100.0/24"), 4, direct},
		{"closed", arriving("Local", true), closed(30080), 0, rule.Stale{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.allocations.put(c.from)
				l.start()
				l.wantStale(0, rule.Stale{})
				l.allocations.put(c.to)
				l.pass(roundPause)
				l.wantStale(0, rule.Stale{}) // whoever carries it has not heard of it yet
				l.pass(time.Second)
				l.wantStale(min(c.times, 1), c.want)
				l.pass(time.Minute)
				l.wantStale(max(c.times-1, 0), c.want)
				l.pass(time.Hour)
				l.wantStale(0, rule.Stale{})
			})
		})
	}
}

// What is new had no connections, and what an agent finds when it is new on a node was
// never seen to be otherwise.
func TestWhatIsNewIsNotSwept(t *testing.T) {
	inLab(t, func(l *lab) {
		l.allocations.put(closed(30080))
		l.start()
		l.allocations.put(arriving("Local", true))
		l.pass(time.Minute)
		l.wantStale(0, rule.Stale{})
		l.restart()
		l.pass(time.Minute)
		l.wantStale(0, rule.Stale{})
	})
}

// The gate opens at once, and kube-proxy comes later: what came in between is a flow to
// the node itself.
func TestANewUDPPortSweepsWhatCameTooEarly(t *testing.T) {
	inLab(t, func(l *lab) {
		l.allocations.put(closed(30080))
		l.start()
		a := arriving("Local", false)
		a.Spec.Protocols = append(a.Spec.Protocols, "UDP")
		a.Spec.Ports = append(a.Spec.Ports, a.Spec.Ports[0])
		a.Spec.Ports[len(a.Spec.Ports)-1].Protocol = "UDP"
		l.allocations.put(a)
		l.pass(time.Minute)
		l.wantStale(4, rule.Stale{Unanswered: true})
	})
}

func TestASwitchThatNoAgentSawIsSweptLater(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.stop()
		l.allocations.put(arriving("Local", false))
		l.start()
		l.pass(2 * time.Second)
		l.wantStale(1, rule.Stale{Masqueraded: true})
		l.restart() // in the middle
		l.pass(time.Minute)
		l.wantStale(4, rule.Stale{Masqueraded: true})
		l.restart()
		l.pass(time.Minute)
		l.wantStale(0, rule.Stale{})
	})
}

func TestSwitchesInARow(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.allocations.put(arriving("Local", false))
		l.pass(500 * time.Millisecond)
		l.allocations.put(arriving("Cluster", false))
		l.pass(500 * time.Millisecond)
		l.wantStale(0, rule.Stale{})
		l.allocations.put(arriving("Local", false))
		l.pass(time.Minute)
		l.wantStale(4, rule.Stale{Masqueraded: true})
	})
}

func TestASweepOfASwitchThatFailsIsTriedAgain(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		version := l.allocations.put(arriving("Local", false))
		l.pass(roundPause)
		l.kernel.set(func() { l.kernel.sweeps = errFault })
		l.pass(5 * time.Second)
		l.wantStale(0, rule.Stale{})
		l.wantReason(v1alpha1.ReasonOK) // the gate is another matter
		l.wantMarks("101", version)
		l.kernel.set(func() { l.kernel.sweeps = nil })
		l.pass(time.Minute)
		l.wantStale(3, rule.Stale{Masqueraded: true}) // two that are overdue in one
	})
}
