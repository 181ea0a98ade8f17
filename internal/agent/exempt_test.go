package agent

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// wantExempt looks at the ports of which the report says that they are exempt.
func (l *lab) wantExempt(want ...int32) {
	l.t.Helper()
	var got []int32
	for _, e := range l.status().Exceptions {
		if strings.Contains(e.Reason, "exempt") {
			got = append(got, e.Port)
		}
	}
	if !slices.Equal(got, want) {
		l.t.Errorf("exempt %v, want %v", got, want)
	}
	if got := testutil.ToFloat64(l.agent.metrics.exempt); got != float64(len(want)) {
		l.t.Errorf("the metric says %v, want %d", got, len(want))
	}
}

func TestWhatListenedBeforeThePoolIsExempt(t *testing.T) {
	inLab(t, func(l *lab) {
		l.host.listen("tcp/30050", "tcp/30080", "udp/30081", "tcp/30500")
		l.start()
		l.wantAdmits(30050, "198.51.100.7", true)
		l.wantAdmits(30080, "198.51.100.7", false) // has an allocation
		l.wantExempt(30050)
		if reason := l.status().Exceptions[0].Reason; !strings.Contains(reason, "tcp/30050") || !strings.Contains(reason, "10.0.0.1") {
			t.Errorf("reason %q does not name the port and what listens", reason)
		}
		// A newcomer is not, with or without a restart, a reboot or an upgrade of the agent.
		l.host.listen("tcp/30050", "tcp/30060")
		for range 2 {
			l.pass(2 * lookInterval)
			l.wantAdmits(30050, "198.51.100.7", true)
			l.wantAdmits(30060, "198.51.100.7", false)
			l.restart()
		}
		l.reboot()
		l.start()
		l.wantAdmits(30050, "198.51.100.7", true)
		l.wantAdmits(30060, "198.51.100.7", false)
		l.wantExempt(30050)
	})
}

func TestAnAgentThatForgotExemptsNobodyOnNumbersThatDrop(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.stop()
		if err := os.Remove(newNodeFile(l.stateDir).path); err != nil {
			t.Fatal(err)
		}
		l.host.listen("tcp/30050")
		l.start()
		l.wantAdmits(30050, "198.51.100.7", false)
		l.wantExempt()
	})
}

func TestAMemoryThatCannotBeReadExemptsNobody(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.reboot()
		if err := os.WriteFile(newNodeFile(l.stateDir).path, []byte("portreeve node 1 0\n{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		l.host.listen("tcp/30050")
		l.start()
		l.wantAdmits(30050, "198.51.100.7", false)
		l.pools.put(pool("30000-30199")) // a number that never dropped
		l.host.listen("tcp/30050", "tcp/30150")
		l.pass(roundPause)
		l.wantExempt(30150)
	})
}

func TestExemptionsEnd(t *testing.T) {
	inLab(t, func(l *lab) {
		l.host.listen("tcp/30050", "tcp/30051", "tcp/30052")
		l.start()
		l.allocations.put(closed(30050))
		l.pass(roundPause)
		l.wantAdmits(30050, "198.51.100.7", false)
		l.wantExempt(30051, 30052)
		l.allocations.remove("30050") // and does not come back with the number
		l.pass(3 * time.Second)
		l.wantAdmits(30050, "198.51.100.7", false)
		if got := l.kernel.lastSweep().Strings(); !slices.Equal(got, []string{"30050"}) {
			t.Errorf("swept %v, want 30050", got)
		}

		l.host.listen("tcp/30052")
		l.pass(absence - 10*time.Minute)
		l.host.listen("tcp/30051", "tcp/30052") // it was being upgraded
		l.pass(2 * lookInterval)
		l.host.listen("tcp/30052")
		l.pass(absence - 10*time.Minute)
		l.wantAdmits(30051, "198.51.100.7", true)
		l.pass(15 * time.Minute)
		l.wantAdmits(30051, "198.51.100.7", false)
		l.host.listen("tcp/30051", "tcp/30052") // whoever this is now
		l.pass(2 * lookInterval)
		l.wantAdmits(30051, "198.51.100.7", false)
		l.wantExempt(30052)

		l.pools.put(pool("30060-30099")) // its number leaves the pool
		l.pass(3 * time.Second)
		l.wantExempt()
	})
}

func TestAPoolThatLeavesNothingAloneExemptsNobody(t *testing.T) {
	inLab(t, func(l *lab) {
		l.host.listen("tcp/30050")
		l.start()
		l.wantExempt(30050)
		for _, grandfather := range []bool{false, true} { // and does not come back
			p := pool("30000-30099")
			p.Spec.Grandfather = &grandfather
			l.pools.put(p)
			l.pass(roundPause)
			l.wantAdmits(30050, "198.51.100.7", false)
			l.wantExempt()
		}
	})
}

func TestALockdownClosesWhatIsExempt(t *testing.T) {
	inLab(t, func(l *lab) {
		l.host.listen("tcp/30050")
		l.start()
		l.installation.put(installation(true))
		l.pass(roundPause)
		l.wantAdmits(30050, "198.51.100.7", false)
		if s := l.status(); len(s.Exceptions) > 0 {
			t.Errorf("exceptions %v in lockdown", s.Exceptions)
		}
		l.installation.put(installation(false))
		l.pass(roundPause)
		l.wantAdmits(30050, "198.51.100.7", true)
	})
}

func TestListenersThatCannotBeListedKeepNoPoolOpen(t *testing.T) {
	inLab(t, func(l *lab) {
		l.host.listen("tcp/30050")
		l.host.listErr = errFault
		l.start()
		l.wantAdmits(30050, "198.51.100.7", false)
		l.wantReason(v1alpha1.ReasonOK)
	})
}

// A kernel that admits only what is exempt had no allocation to lose.
func TestWhatIsExemptIsNoAllocationThatVanished(t *testing.T) {
	inLab(t, func(l *lab) {
		l.allocations.remove("30080", "30081")
		l.host.listen("tcp/30050")
		l.start()
		l.restart()
		l.wantReason(v1alpha1.ReasonOK)
		l.wantAdmits(30050, "198.51.100.7", true)
	})
}

func TestPoolsThatVanishedAreNotForgotten(t *testing.T) {
	inLab(t, func(l *lab) {
		l.host.listen("tcp/30050")
		l.start()
		l.stop()
		l.pools.remove("web") // with its CRD
		l.start()
		l.wantReason(v1alpha1.ReasonVanished)
		l.host.listen("tcp/30050", "tcp/30060")
		l.restart()
		l.pools.put(pool("30000-30099"))
		l.pass(roundPause)
		l.wantAdmits(30050, "198.51.100.7", true)
		l.wantAdmits(30060, "198.51.100.7", false)
		l.wantReserved("30000-30099")
	})
}

func TestExemptionsNeverFillTheListOfExceptions(t *testing.T) {
	var exempt []exemption
	for number := uint16(30000); number < 30100; number++ {
		exempt = append(exempt, exemption{"TCP", number, "a listener"})
	}
	some := []v1alpha1.PortException{{Port: 30001, Reason: "full"}, {Port: 31000, Reason: "full"}}
	got := reported(slices.Clone(some), exempt)
	if len(got) != maxExceptions-1 || got[len(got)-1].Port != 31000 || !slices.IsSortedFunc(got, func(a, b v1alpha1.PortException) int { return int(a.Port - b.Port) }) {
		t.Errorf("%d exceptions, the last %v", len(got), got[len(got)-1])
	}
	if got := got[1]; got.Port != 30001 || !strings.HasPrefix(got.Reason, "full; tcp/30001: exempt") {
		t.Errorf("%+v: want both reasons", got)
	}
}

func TestStateThatCannotBeWrittenIsReported(t *testing.T) {
	inLab(t, func(l *lab) {
		l.host.listen("tcp/30050")
		inTheWay := newNodeFile(l.stateDir).path + ".next"
		if err := os.Mkdir(inTheWay, 0o700); err != nil {
			t.Fatal(err)
		}
		l.start()
		l.wantReason(v1alpha1.ReasonFailed)
		l.wantAdmits(30050, "198.51.100.7", true)
		if err := os.Remove(inTheWay); err != nil {
			t.Fatal(err)
		}
		l.pass(checkInterval)
		l.wantReason(v1alpha1.ReasonOK)
		l.host.listen("tcp/30050", "tcp/30060")
		l.reboot()
		l.start()
		l.wantAdmits(30050, "198.51.100.7", true)
		l.wantAdmits(30060, "198.51.100.7", false)
	})
}
