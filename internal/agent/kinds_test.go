package agent

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

func TestAChangedAddressSetReachesTheKernelAndMovesItsMarkOnly(t *testing.T) {
	inLab(t, func(l *lab) {
		l.sets.put(set("office", "198.51.100.0/24", "192.0.2.0/24"))
		l.allocations.put(openTo(30082, "office"))
		l.start()
		l.wantAdmits(30082, "198.51.100.7", true)
		before := l.status().Marks
		l.kernel.take()

		before.AddressSets = l.sets.put(set("office", "192.0.2.0/24"))
		l.pass(roundPause)
		l.wantAdmits(30082, "198.51.100.7", false)
		l.wantAdmits(30082, "192.0.2.7", true)
		l.wantCalls("sync", "sweep")
		if got := l.kernel.lastSweep().Strings(); !slices.Equal(got, []string{"30082"}) {
			t.Errorf("swept %v, want 30082", got)
		}
		if got := l.status().Marks; got != before {
			t.Errorf("marks %+v, want %+v", got, before)
		}
		if testutil.ToFloat64(l.agent.metrics.marks.WithLabelValues("addresssets")) < 100 {
			t.Error("the mark is not in the metrics")
		}
	})
}

func TestASetThatNobodyUsesGoesAtOnce(t *testing.T) {
	inLab(t, func(l *lab) {
		l.sets.put(set("office", "198.51.100.0/24"))
		l.start()
		l.sets.remove("office")
		l.wantReason(v1alpha1.ReasonOK)
		l.wantMark(kindAddressSets, l.history.now())
	})
}

func TestTheLastSetInUseStays(t *testing.T) {
	inLab(t, func(l *lab) {
		version := l.sets.put(set("office", "198.51.100.0/24"))
		l.allocations.put(openTo(30082, "office"))
		l.start()
		l.sets.remove("office")
		gone := l.history.now()
		l.pass(time.Hour)
		l.wantReason(v1alpha1.ReasonVanished)
		l.wantMark(kindAddressSets, version)
		l.wantAdmits(30082, "198.51.100.7", true)

		// An agent that has just started knows it by what the kernel admits.
		l.restart()
		l.wantReason(v1alpha1.ReasonVanished)
		l.wantAdmits(30082, "198.51.100.7", true)

		l.allocations.put(open(30082)) // the manager took the set out of it
		l.wantReason(v1alpha1.ReasonOK)
		l.wantAdmits(30082, "198.51.100.7", false)
		if floor, _ := l.agent.marksFile.load(); floor.AddressSets < gone {
			t.Errorf("floor %s, want at least %s", floor.AddressSets, gone)
		}
	})
}

func TestLockdown(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.wantMark(kindInstallation, "")
		l.kernel.take()

		version := l.installation.put(installation(true)) // nobody else is needed
		l.pass(roundPause)
		l.wantAdmits(30080, "203.0.113.7", false)
		l.wantCalls("sync", "sweep")
		if got := l.kernel.lastSweep().Strings(); !slices.Equal(got, []string{"30080"}) {
			t.Errorf("swept %v, want 30080", got)
		}
		l.wantReason(v1alpha1.ReasonOK)
		l.wantMark(kindInstallation, version)

		version = l.installation.put(installation(false))
		l.pass(roundPause)
		l.wantAdmits(30080, "203.0.113.7", true)
		l.wantMark(kindInstallation, version)

		l.installation.remove(v1alpha1.InstallationName)
		l.wantReason(v1alpha1.ReasonOK)
		l.wantAdmits(30080, "203.0.113.7", true)
	})
}

func TestLockdownOutlivesItsObjectAndTheAgent(t *testing.T) {
	inLab(t, func(l *lab) {
		locked := installation(true)
		locked.Spec.FailSafePorts = []v1alpha1.PortSpan{"30050"}
		version := l.installation.put(locked)
		l.start()
		l.installation.remove(v1alpha1.InstallationName)
		s := l.wantReason(v1alpha1.ReasonVanished)
		if !strings.Contains(s.Conditions[0].Message, "spec.lockdown: false") {
			t.Errorf("message %q does not say what to do", s.Conditions[0].Message)
		}
		l.wantMark(kindInstallation, version)
		l.wantAdmits(30080, "203.0.113.7", false)

		l.restart()
		l.pass(time.Hour)
		l.wantReason(v1alpha1.ReasonVanished)
		l.wantMark(kindInstallation, "")
		l.wantAdmits(30080, "203.0.113.7", false)
		l.wantAdmits(30050, "203.0.113.7", true) // its fail-safe ports stay as well
		version = l.allocations.put(closed(30080))
		l.wantMark(kindAllocations, version) // the others are still believed
		l.allocations.put(open(30080, "203.0.113.0/24"))

		l.installation.put(installation(false))
		l.wantReason(v1alpha1.ReasonOK)
		l.wantAdmits(30080, "203.0.113.7", true)
		l.installation.remove(v1alpha1.InstallationName)
		l.restart()
		l.wantReason(v1alpha1.ReasonOK)
		l.wantAdmits(30080, "203.0.113.7", true)
	})
}

func TestLockdownDoesNotWaitForWhatVanished(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.stop()
		l.pools.remove("web")
		l.allocations.remove("30080", "30081")
		l.installation.put(installation(true))
		l.start()
		l.wantReason(v1alpha1.ReasonVanished)
		l.wantAdmits(30080, "203.0.113.7", false)
		l.pass(time.Minute)
		l.wantAdmits(30081, "203.0.113.7", false)
		l.installation.put(installation(false))
		l.wantReason(v1alpha1.ReasonVanished) // still closed: closed when in doubt
		l.wantAdmits(30080, "203.0.113.7", false)
		l.pools.put(pool("30000-30099"))
		l.allocations.put(open(30080, "203.0.113.0/24"))
		l.wantReason(v1alpha1.ReasonOK)
		l.wantAdmits(30080, "203.0.113.7", true)
	})
}

// zoned is an open port on the nodes of zone b.
func zoned() v1alpha1.NodePortAllocation {
	a := open(30082, "203.0.113.0/24")
	a.Spec.NodeSelector = &v1alpha1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: "zone", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"a"}},
	}}
	return a
}

func TestLabelsOfTheNode(t *testing.T) {
	inLab(t, func(l *lab) {
		l.allocations.put(zoned())
		l.start()
		l.wantAdmits(30082, "203.0.113.7", false)
		wantLabels := func(labels map[string]string) {
			t.Helper()
			if got, want := l.status().NodeLabels, compile.LabelsHash(labels); got != want {
				t.Errorf("labels %s, want %s", got, want)
			}
		}
		wantLabels(map[string]string{"zone": "a"})

		b := map[string]string{"zone": "b"}
		l.kernel.set(func() { l.kernel.syncErr = errFault })
		l.node.put(node(b))
		wantLabels(map[string]string{"zone": "a"}) // by which the kernel still enforces
		l.kernel.set(func() { l.kernel.syncErr = nil })
		l.pass(checkInterval)
		l.wantAdmits(30082, "203.0.113.7", true)
		wantLabels(b)

		l.node.remove("n1")
		l.wantReason(v1alpha1.ReasonVanished)
		l.wantAdmits(30082, "203.0.113.7", true)
		wantLabels(b)

		l.restart() // nothing is known of the Node any more
		l.wantAdmits(30082, "203.0.113.7", false)
		l.wantAdmits(30080, "203.0.113.7", true)
		if got := l.status().NodeLabels; got != "" {
			t.Errorf("labels %s of a Node that is not there", got)
		}
		l.node.put(node(b))
		l.wantReason(v1alpha1.ReasonOK)
		l.wantAdmits(30082, "203.0.113.7", true)
	})
}

func TestHeartbeatsOfTheNodeWakeNobody(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.status()
		l.kernel.take()
		written, turn := len(l.reports.written()), l.agent.alive.Load()
		for range 8 { // less than until the next check
			l.pass(time.Second)
			beat := node(map[string]string{"zone": "a"})
			beat.Annotations = map[string]string{"beat": time.Now().String()}
			l.node.put(beat)
			synctest.Wait()
		}
		l.wantCalls()
		if got := len(l.reports.written()); got != written {
			t.Errorf("%d reports", got-written)
		}
		if got := l.agent.alive.Load(); got != turn {
			t.Error("a heartbeat began a round")
		}
	})
}

func TestOlderListOfAnyKindIsRefusedAfterARestart(t *testing.T) {
	for k := range kinds {
		t.Run(k.String(), func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.sets.put(set("office", "198.51.100.0/24"))
				l.installation.put(installation(false))
				l.start()
				l.stop()
				before := l.kernel.loaded
				l.kernel.take()
				past := &history{version: 60}
				l.fakes()[k].setHistory(past)
				l.start()
				l.wantReason(v1alpha1.ReasonStale)
				l.wantMarks("", "")
				l.pass(time.Minute)
				l.wantUntouched()
				if l.kernel.loaded != before {
					t.Error("an older list changed the kernel")
				}
				past.restore(200)
				l.pass(5 * time.Second)
				l.wantReason(v1alpha1.ReasonOK)
			})
		})
	}
}

func TestAnAPIServerWithoutTheKindIsNamed(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.stop()
		before, written := l.kernel.loaded, len(l.reports.written())
		l.kernel.take()
		l.sets.refuse(apierrors.NewNotFound(v1alpha1.GroupVersion.WithResource("addresssets").GroupResource(), ""))
		l.start()
		l.pass(patience / 2)
		if len(l.reports.written()) != written {
			t.Error("said so before the CRD had time to appear")
		}
		l.pass(patience + checkInterval)
		s := l.wantReason(v1alpha1.ReasonFailed)
		if !strings.Contains(s.Conditions[0].Message, "addresssets") || !strings.Contains(s.Conditions[0].Message, "CRD") {
			t.Errorf("message %q", s.Conditions[0].Message)
		}
		l.wantUntouched()
		if l.kernel.loaded != before || l.agent.ready.Load() {
			t.Error("the kernel was touched, or counts as in step")
		}
		l.sets.refuse(nil)
		l.pass(5 * time.Second)
		l.wantReason(v1alpha1.ReasonOK)

		// One that is taken away later is named as well, and the others go on.
		l.sets.refuse(apierrors.NewForbidden(v1alpha1.GroupVersion.WithResource("addresssets").GroupResource(), "", errFault))
		l.pass(patience + 2*checkInterval)
		l.wantReason(v1alpha1.ReasonFailed)
		version := l.allocations.put(closed(30080))
		l.wantMark(kindAllocations, version)
		l.wantAdmits(30080, "203.0.113.7", false)
	})
}

// through is an open port on which the nodes of a GatewaySet answer.
func through(number uint16, set v1alpha1.ObjectName) v1alpha1.NodePortAllocation {
	a := open(number, "203.0.113.0/24")
	a.Spec.Gateways = &v1alpha1.ClaimedGateways{Active: 1, Set: set}
	return a
}

func gateways(name string, nodes ...v1alpha1.ObjectName) v1alpha1.GatewaySet {
	return v1alpha1.GatewaySet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.GatewaySetSpec{Nodes: nodes}}
}

func TestAFailOverReachesTheKernelAndMovesItsMarkOnly(t *testing.T) {
	inLab(t, func(l *lab) {
		l.allocations.put(through(30082, "gw"))
		l.start()
		l.wantAdmits(30082, "203.0.113.7", false) // the set is not there yet
		before := l.status().Marks
		before.GatewaySets = l.gateways.put(gateways("gw", "n1"))
		l.pass(roundPause)
		l.wantAdmits(30082, "203.0.113.7", true)
		if got := l.status().Marks; got != before {
			t.Errorf("marks %+v, want %+v", got, before)
		}
		l.kernel.take()
		l.gateways.put(gateways("gw", "n2"))
		l.pass(roundPause)
		l.wantAdmits(30082, "203.0.113.7", false)
		l.wantAdmits(30080, "203.0.113.7", true)
		l.wantCalls("sync", "sweep")
		if got := l.kernel.lastSweep().Strings(); !slices.Equal(got, []string{"30082"}) {
			t.Errorf("swept %v, want 30082", got)
		}
	})
}

// A kernel that can't refuse drops, which is no damage.
func TestWhatCannotRefuseDrops(t *testing.T) {
	for _, silent := range []bool{false, true} {
		inLab(t, func(l *lab) {
			l.kernel.silent, l.readInterval = silent, checkInterval
			l.gateways.put(gateways("gw", "n2"))
			l.allocations.put(through(30082, "gw"))
			l.start()
			l.pass(3 * checkInterval)
			l.wantReason(v1alpha1.ReasonOK)
			port := rule.Port{Protocol: rule.TCP, Number: 30082}
			l.kernel.set(func() {
				if refuses := len(l.kernel.loaded.Refused(port)) > 0; refuses == silent || !l.kernel.loaded.Judged.Contains(30082) {
					t.Errorf("silent: %v, refuses: %v", silent, refuses)
				}
			})
			l.wantAdmits(30082, "203.0.113.7", false)
			if repairs := l.status().Repairs; repairs != nil {
				t.Errorf("silent: %v, repairs %+v", silent, repairs)
			}
		})
	}
}
