package agent

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// A foreign change is repaired within a second where the datapath tells of it
// cheaply, without reading all of the kernel meanwhile.
func TestAForeignChangeIsRepairedWithinASecond(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.kernel.take()
		l.pass(4 * time.Second)
		l.wantCalls()
		l.kernel.set(func() { l.kernel.loaded, l.kernel.print = nil, 7 })
		l.pass(time.Second)
		if calls := l.kernel.take(); !slices.Contains(calls, "sync") {
			t.Errorf("within a second: %v", calls)
		}
		l.wantAdmits(30080, "203.0.113.7", true)
		l.wantAdmits(30081, "203.0.113.7", false)
		l.pass(2 * time.Second)
		l.wantCalls()
	})
}

// A node that something carries packets around vouches for nothing, and does again
// when that is gone.
func TestANodeThatIsBypassedVouchesForNothing(t *testing.T) {
	inLab(t, func(l *lab) {
		l.facts.Ways = []v1alpha1.WayAround{{Interface: "eth0", Hook: "tc", Program: "cil_from_netdev"}}
		l.start()
		status := l.status()
		if c := status.Conditions[0]; c.Reason != v1alpha1.ReasonEnforcementUnsupported || !strings.Contains(c.Message, "program cil_from_netdev on the tc hook of eth0") || !strings.Contains(c.Message, "kubeProxyReplacement") {
			t.Errorf("condition %+v", c)
		}
		if status.Marks != (v1alpha1.Marks{}) {
			t.Errorf("marks %+v", status.Marks)
		}
		l.wantAdmits(30080, "203.0.113.7", true) // the rules are in force all the same
		l.kernel.set(func() { l.facts.Ways = nil })
		l.pass(2 * checkInterval)
		if status = l.status(); status.Conditions[0].Reason != v1alpha1.ReasonOK || status.Marks == (v1alpha1.Marks{}) {
			t.Errorf("after it is gone: %+v", status)
		}
	})
}

// What leaves no other fingerprint is found when the kernel is read whole, now and then.
func TestAKernelThatLooksUnchangedIsReadNowAndThen(t *testing.T) {
	inLab(t, func(l *lab) {
		l.readInterval = 6 * checkInterval
		l.start()
		l.pass(checkInterval + checkInterval/2) // read for the first time
		l.kernel.take()
		l.kernel.set(func() { l.kernel.loaded = nil })
		l.pass(5 * checkInterval)
		l.wantCalls()
		l.pass(2 * checkInterval)
		if calls := l.kernel.take(); !slices.Contains(calls, "sync") {
			t.Errorf("after the time to read it whole: %v", calls)
		}
		l.wantAdmits(30080, "203.0.113.7", true)
	})
}

// A kernel that takes long to read is read less often, so that changes get their turn.
func TestAKernelThatIsSlowToReadIsReadLessOften(t *testing.T) {
	inLab(t, func(l *lab) {
		l.kernel.slow = time.Second
		l.start()
		l.kernel.take()
		l.pass(12 * checkInterval)
		readings := 0
		for _, call := range l.kernel.take() {
			if call == "have" {
				readings++
			}
		}
		if readings < 3 || readings > 6 {
			t.Errorf("read %d times in twelve checks, want about each second or third", readings)
		}
	})
}
