package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// TestMain takes client-go's global error handlers away: one of them compares
// the bubbles' clocks with the real one and would sleep for years.
func TestMain(m *testing.M) {
	utilruntime.ErrorHandlers = nil
	os.Exit(m.Run())
}

// lab is a node and an API server in memory, in a bubble of testing/synctest:
// its clock moves only when every goroutine waits.
type lab struct {
	t           *testing.T
	kernel      *fakeKernel
	history     *history
	pools       *fakePools
	allocations *fakeAllocations
	reports     *fakeReports
	stateDir    string

	agent *Agent
	stop  func()
}

const (
	checkInterval  = 10 * time.Second
	reportInterval = 250 * time.Millisecond
)

// inLab runs a test in a lab whose API server has a pool, an open port 30080
// and a closed port 30081. No agent runs yet.
func inLab(t *testing.T, test func(l *lab)) {
	synctest.Test(t, func(t *testing.T) {
		h := &history{version: 100}
		l := &lab{
			t: t, kernel: &fakeKernel{}, history: h, pools: newFakePools(h), allocations: newFakeAllocations(h),
			reports: &fakeReports{uid: "node-uid"}, stateDir: t.TempDir(), stop: func() {},
		}
		l.pools.put(pool("30000-30099"))
		l.allocations.put(open(30080, "203.0.113.0/24"))
		l.allocations.put(closed(30081))
		test(l)
		l.stop()
	})
}

// start starts an agent and lets it come to rest.
func (l *lab) start() {
	ctx, cancel := context.WithCancel(l.t.Context())
	a := New(Config{
		Node: "n1", BootID: "boot-1", Open: l.kernel.open, Sweep: l.kernel.Sweep,
		Pools: l.pools, Allocations: l.allocations, Reports: l.reports, StateDir: l.stateDir,
		CheckInterval: checkInterval, ReportInterval: reportInterval,
		Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }()
	l.agent, l.stop = a, func() { cancel(); <-done; l.stop = func() {} }
	synctest.Wait()
}

func (l *lab) restart() { l.stop(); l.kernel.take(); l.start() }

// pass lets the bubble's clock move on and everything come to rest.
func (l *lab) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (l *lab) wantCalls(want ...string) {
	l.t.Helper()
	if got := l.kernel.take(); !slices.Equal(got, want) {
		l.t.Errorf("calls of the kernel: %v, want %v", got, want)
	}
}

func (l *lab) wantAdmits(number uint16, source string, want bool) {
	l.t.Helper()
	if l.kernel.loaded == nil {
		l.t.Errorf("the kernel is empty")
		return
	}
	if got := l.kernel.loaded.Admits(rule.Port{Protocol: rule.TCP, Number: number}, netip.MustParseAddr(source)); got != want {
		l.t.Errorf("admits %s to tcp/%d: %v, want %v", source, number, got, want)
	}
}

// status waits for the report of what has happened and returns it.
func (l *lab) status() v1alpha1.NodeDatapathStatus {
	l.t.Helper()
	l.pass(2 * reportInterval)
	if l.reports.stored == nil {
		l.t.Fatal("nothing reported")
	}
	return l.reports.stored.Status
}

func (l *lab) wantReason(want string) v1alpha1.NodeDatapathStatus {
	l.t.Helper()
	s := l.status()
	c := s.Conditions[0]
	if len(s.Conditions) != 1 || c.Type != v1alpha1.Enforced || c.Reason != want || (c.Status == metav1.ConditionTrue) != (want == v1alpha1.ReasonOK) {
		l.t.Errorf("conditions %+v, want reason %s", s.Conditions, want)
	}
	return s
}

func (l *lab) wantMarks(pools, allocations string) {
	l.t.Helper()
	if got, want := l.status().Marks, (v1alpha1.Marks{Pools: pools, Allocations: allocations}); got != want {
		l.t.Errorf("marks %+v, want %+v", got, want)
	}
}

func pool(ranges string) v1alpha1.NodePortPool {
	return v1alpha1.NodePortPool{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       v1alpha1.NodePortPoolSpec{Ranges: []v1alpha1.PortRange{v1alpha1.PortRange(ranges)}},
		Status:     v1alpha1.NodePortPoolStatus{Armed: []string{ranges}},
	}
}

func open(number uint16, sources ...v1alpha1.CIDR) v1alpha1.NodePortAllocation {
	return v1alpha1.NodePortAllocation{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(number)},
		Spec: v1alpha1.NodePortAllocationSpec{
			State: v1alpha1.AllocationOpen, Protocols: []v1alpha1.Protocol{"TCP"},
			Ports: []v1alpha1.ClaimedPort{{Protocol: "TCP", Port: 443, Sources: sources}},
		},
	}
}

func closed(number uint16) v1alpha1.NodePortAllocation {
	a := open(number)
	a.Spec.State = v1alpha1.AllocationClosed
	return a
}

var errFault = errors.New("injected fault")

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

func TestNothingIsTouchedUntilBothKindsAreSynced(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		before := l.kernel.loaded
		l.stop()
		l.kernel.take()
		l.allocations.history = &history{version: 200, down: true}
		l.start()
		l.pass(time.Minute)
		l.wantCalls()
		if l.kernel.loaded != before || len(l.reports.written()) != 1 {
			t.Error("a restarted agent did something before it had read everything")
		}
		l.allocations.setDown(false)
		l.pass(5 * time.Second)
		l.wantAdmits(30080, "203.0.113.7", true)
		l.wantReason(v1alpha1.ReasonOK)
	})
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
		synctest.Wait()
		l.wantCalls("sync") // opening needs no sweep
		l.wantAdmits(30082, "203.0.113.7", true)

		version := l.allocations.put(closed(30080))
		synctest.Wait()
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
		synctest.Wait()
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
			l.pools.tick()
			l.allocations.tick()
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
		if len(l.reports.written()) != writes {
			t.Error("a repaired damage changed the report")
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
