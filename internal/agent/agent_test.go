package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

func TestFirstSync(t *testing.T) {
	for _, streaming := range []bool{true, false} {
		t.Run(fmt.Sprintf("streaming=%v", streaming), func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.pools.streaming, l.allocations.streaming = streaming, streaming
				// A cache of the past: 30080 still open to a source that is long revoked.
				past := open(30080, "198.51.100.0/24")
				past.ResourceVersion = "50"
				l.allocations.past = l.allocations.list([]v1alpha1.NodePortAllocation{past}, "50")
				l.start()
				l.wantCalls("have", "sync", "sweep")
				l.wantAdmits(30080, "203.0.113.7", true)
				l.wantAdmits(30080, "198.51.100.7", false)
				l.wantAdmits(30081, "203.0.113.7", false)
				l.wantReason(v1alpha1.ReasonOK)
				l.wantMarks("101", "103")
				if s := l.reports.stored; s.OwnerReferences[0].UID != "node-uid" || s.Status.BootID != "boot-1" || s.Status.Datapath != "fake" {
					t.Errorf("reported %+v", s)
				}
				if slices.Contains(l.allocations.lists, "0") {
					t.Error(`listed with resource version "0"`)
				}
			})
		})
	}
}

func TestNothingIsTouchedUntilAllKindsAreSynced(t *testing.T) {
	for k := range kinds {
		t.Run(k.String(), func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.start()
				before := l.kernel.loaded
				l.stop()
				l.kernel.take()
				apart := &history{version: 200, down: true}
				l.fakes()[k].setHistory(apart)
				l.start()
				l.pass(time.Minute)
				l.wantUntouched()
				if l.kernel.loaded != before || len(l.reports.written()) != 1 {
					t.Error("a restarted agent did something before it had read everything")
				}
				apart.setDown(false)
				l.pass(5 * time.Second)
				l.wantAdmits(30080, "203.0.113.7", true)
				l.wantReason(v1alpha1.ReasonOK)
			})
		})
	}
}

func TestRestartSweepsEverything(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.restart()
		l.wantCalls("have", "confirm", "sweep")
		if got := l.kernel.lastSweep(); got.Len() != 100 {
			t.Errorf("swept %v, want the whole pool", got)
		}
	})
}

func TestChangesAreAppliedAndOnlyWhatNarrowedIsSwept(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.kernel.take()
		l.allocations.put(open(30082, "203.0.113.0/24"))
		l.pass(roundPause)
		l.wantCalls("sync") // opening needs no sweep
		l.wantAdmits(30082, "203.0.113.7", true)

		version := l.allocations.put(closed(30080))
		l.pass(roundPause)
		l.wantCalls("sync", "sweep")
		l.wantAdmits(30080, "203.0.113.7", false)
		if got := l.kernel.lastSweep().Strings(); !slices.Equal(got, []string{"30080"}) {
			t.Errorf("swept %v, want 30080", got)
		}
		l.wantMarks("101", version)
	})
}

func TestWhatChangesNoRuleMovesTheMarksOnly(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.kernel.take()
		p := pool("30000-30099")
		p.Status.Allocated = 7
		version := l.pools.put(p)
		l.pass(roundPause)
		l.wantCalls()
		l.wantMarks(version, "103")
	})
}

func TestSteadyStateWritesNothing(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.status()
		written := len(l.reports.written())
		for range 60 {
			for _, f := range l.fakes() {
				f.tick()
			}
			l.pass(time.Minute)
		}
		if got := len(l.reports.written()); got != written {
			t.Errorf("%d writes in an idle hour", got-written)
		}
	})
}

func TestMarksAreNeverAheadOfTheKernel(t *testing.T) {
	for _, fault := range []struct {
		name   string
		inject func(k *fakeKernel, err error)
	}{
		{"sync", func(k *fakeKernel, err error) { k.syncErr = err }},
		{"sweep", func(k *fakeKernel, err error) { k.sweeps = err }},
	} {
		t.Run(fault.name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.start()
				l.wantMarks("101", "103")
				l.kernel.set(func() { fault.inject(l.kernel, errFault) })
				version := l.allocations.put(closed(30080))
				l.wantReason(v1alpha1.ReasonFailed)
				l.wantMarks("101", "103")
				if onDisk, _ := l.agent.marksFile.load(); onDisk.Allocations != "103" {
					t.Errorf("marks on disk %v are ahead of the kernel", onDisk)
				}
				l.kernel.set(func() { fault.inject(l.kernel, nil) })
				l.pass(checkInterval)
				l.wantReason(v1alpha1.ReasonOK)
				l.wantMarks("101", version)
				if got := l.kernel.lastSweep(); got.Len() != 100 {
					t.Errorf("after a failure swept %v only, want the whole pool", got)
				}
			})
		})
	}
}

func TestFailingSyncIsRetriedWithBackoff(t *testing.T) {
	inLab(t, func(l *lab) {
		l.kernel.syncErr = errFault
		l.start()
		l.pass(5 * time.Minute)
		if n := len(l.kernel.take()); n < 30 || n > 150 {
			t.Errorf("%d calls in five minutes of failure", n)
		}
	})
}

func TestUnsupported(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.status()
		l.kernel.set(func() { l.kernel.syncErr = fmt.Errorf("fake: %w", datapath.ErrUnsupported) })
		l.kernel.take()
		l.allocations.put(closed(30080))
		l.wantReason(v1alpha1.ReasonEnforcementUnsupported)
		l.wantMarks("101", "103")
		l.wantCalls("sync") // no retry before the next check
	})
}

func TestPreemptedWithdrawsTheMarks(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.kernel.set(func() { l.kernel.syncErr = fmt.Errorf("fake: %w", datapath.ErrPreempted) })
		l.kernel.take()
		l.allocations.put(closed(30080))
		l.wantReason(v1alpha1.ReasonEnforcementUnsupported)
		l.wantMarks("", "")
		l.wantCalls("sync", "sweep") // what was taken away is swept all the same
	})
}

func TestWhatHaveDoesNotShowIsFoundAtTheNextCheck(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.wantMarks("101", "103")
		l.kernel.set(func() { l.kernel.syncErr = fmt.Errorf("fake: %w", datapath.ErrPreempted) })
		l.pass(checkInterval)
		l.wantReason(v1alpha1.ReasonEnforcementUnsupported)
		l.wantMarks("", "")
		l.kernel.set(func() { l.kernel.syncErr = nil })
		l.pass(checkInterval)
		l.wantReason(v1alpha1.ReasonOK)
		l.wantMarks("101", "103")
	})
}

func TestNodeThatLacksTheDatapathSaysSo(t *testing.T) {
	inLab(t, func(l *lab) {
		l.kernel.openErr = fmt.Errorf("fake: no ipset: %w", datapath.ErrUnsupported)
		l.start()
		l.wantReason(v1alpha1.ReasonEnforcementUnsupported)
		l.wantMarks("", "")
		l.kernel.set(func() { l.kernel.openErr = nil })
		l.pass(checkInterval)
		if s := l.wantReason(v1alpha1.ReasonOK); s.Datapath != "fake" {
			t.Errorf("datapath %q", s.Datapath)
		}
	})
}

func TestKernelThatCannotBeReadIsNotVouchedFor(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.status()
		writes := len(l.reports.written())
		l.kernel.set(func() { l.kernel.haveErr = errFault })
		l.pass(checkInterval)
		if len(l.reports.written()) != writes {
			t.Error("a Sync read the kernel back, but the report changed")
		}
		l.kernel.set(func() { l.kernel.syncErr = errFault })
		l.pass(checkInterval)
		l.wantReason(v1alpha1.ReasonFailed)
		l.wantMarks("", "")
		l.kernel.set(func() { l.kernel.haveErr, l.kernel.syncErr = nil, nil })
		l.pass(checkInterval)
		l.wantReason(v1alpha1.ReasonOK)
	})
}

func TestDamageIsRepairedAtTheNextCheck(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.status()
		writes := len(l.reports.written())
		l.kernel.take()
		l.kernel.set(func() { l.kernel.loaded = nil })
		l.pass(checkInterval)
		l.wantCalls("have", "sync", "sweep")
		l.wantAdmits(30080, "203.0.113.7", true)
		if got := testutil.ToFloat64(l.agent.metrics.repairs); got != 1 {
			t.Errorf("%v repairs counted", got)
		}
		if got := l.status().Repairs; got == nil || got.Count != 1 || got.Damage == "" {
			t.Errorf("the repair is reported as %+v", got)
		}
		if got := len(l.reports.written()) - writes; got != 1 {
			t.Errorf("%d reports of it", got)
		}
		l.pass(checkInterval)
		l.wantCalls("have", "confirm")
	})
}

func TestDamageThatCannotBeRepairedWithdrawsTheMarks(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		wider := rule.NewSet(l.kernel.loaded.Judged, map[rule.Port][]netip.Prefix{{Protocol: rule.TCP, Number: 30081}: rule.World})
		l.kernel.set(func() { l.kernel.loaded, l.kernel.syncErr = &wider, errFault })
		l.pass(checkInterval)
		l.wantReason(v1alpha1.ReasonFailed)
		l.wantMarks("", "")
		l.kernel.set(func() { l.kernel.syncErr = nil })
		l.pass(checkInterval)
		l.wantReason(v1alpha1.ReasonOK)
		l.wantMarks("101", "103")
		l.wantAdmits(30081, "203.0.113.7", false)
	})
}

func TestOutageLeavesTheRulesAndHealsByItself(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.status()
		l.kernel.take()
		before := l.kernel.loaded
		l.history.setDown(true)
		l.reports.set(func() { l.reports.err = errDown })
		l.pools.cut()
		l.allocations.cut()
		l.pass(5 * time.Minute)
		if slices.Contains(l.kernel.take(), "sync") || l.kernel.loaded != before {
			t.Error("an outage of the API server changed the kernel")
		}
		version := l.allocations.put(closed(30080))
		l.history.setDown(false)
		l.reports.set(func() { l.reports.err = nil })
		l.pass(4 * time.Second)
		l.wantAdmits(30080, "203.0.113.7", false)
		l.wantMarks("101", version)
	})
}

func TestStopLeavesTheKernel(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		before := l.kernel.loaded
		l.stop()
		if l.kernel.loaded != before || slices.Contains(l.kernel.take(), "cleanup") {
			t.Error("stopping changed the kernel")
		}
	})
}

func TestBadPortIsAnExceptionAndTheRestApplies(t *testing.T) {
	inLab(t, func(l *lab) {
		l.allocations.put(open(30083, "0.0.0.0/0", "nonsense"))
		l.start()
		s := l.wantReason(v1alpha1.ReasonOK)
		if len(s.Exceptions) != 1 || s.Exceptions[0].Port != 30083 {
			t.Errorf("exceptions %+v", s.Exceptions)
		}
		l.wantAdmits(30080, "203.0.113.7", true)
		l.wantAdmits(30083, "203.0.113.7", false)
	})
}

func TestABurstOfChangesCostsFewRounds(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.kernel.take()
		for number := uint16(30010); number < 30060; number++ {
			l.allocations.put(open(number, "203.0.113.0/24"))
			l.pass(2 * time.Millisecond)
		}
		l.pass(2 * roundPause)
		syncs := 0
		for _, call := range l.kernel.take() {
			if call == "sync" {
				syncs++
			}
		}
		if syncs < 2 || syncs > 3 {
			t.Errorf("50 changes in 100 ms cost %d rounds, want the first at once and the others together", syncs)
		}
		l.wantAdmits(30010, "203.0.113.7", true)
		l.wantAdmits(30059, "203.0.113.7", true)
	})
}
