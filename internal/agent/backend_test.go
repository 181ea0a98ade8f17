package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath"
)

// A node changes to the firewall that is asked for, and takes the other's rules away
// once the new ones are in force; where it can't have it, it goes on as it is.
func TestANodeChangesItsFirewallWithoutAGap(t *testing.T) {
	inLab(t, func(l *lab) {
		l.other = &fakeKernel{}
		l.start()
		if status := l.status(); status.Datapath != "fake" || !strings.Contains(status.DatapathReason, "first of NFTables, IPTables") {
			t.Errorf("begins with %q: %q", status.Datapath, status.DatapathReason)
		}
		if calls := l.other.take(); !slices.Equal(calls, []string{"have", "cleanup"}) {
			t.Errorf("what an earlier agent left by the other one: %v", calls)
		}
		l.kernel.take()

		ask := func(f v1alpha1.Firewall) {
			p := installation(false)
			p.Spec.Firewall = f
			l.installation.put(p)
			l.pass(2 * roundPause)
		}
		l.other.syncErr = fmt.Errorf("fake: not yet")
		ask(v1alpha1.FirewallIPTables)
		if slices.Contains(l.kernel.take(), "cleanup") {
			t.Error("the old rules went before the new ones came")
		}
		l.other.set(func() { l.other.syncErr = nil })
		l.pass(checkInterval)
		if l.kernel.loaded != nil || l.other.loaded == nil {
			t.Errorf("nftables holds %v, iptables %v", l.kernel.loaded, l.other.loaded)
		}
		if reason := l.status().DatapathReason; !strings.Contains(reason, "asks for IPTables") {
			t.Errorf("changed because %q", reason)
		}

		l.kernel.set(func() { l.kernel.openErr = fmt.Errorf("fake: no nf_tables: %w", datapath.ErrUnsupported) })
		ask(v1alpha1.FirewallNFTables)
		if reason := l.status().DatapathReason; !strings.Contains(reason, "can't have") || !strings.Contains(reason, "no nf_tables") {
			t.Errorf("goes on because %q", reason)
		}
		if l.other.loaded == nil {
			t.Error("what worked no longer does")
		}
	})
}
