package agent

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// The end of an allocation needs neither manager nor API server.
func TestAnAllocationEndsByItself(t *testing.T) {
	inLab(t, func(l *lab) {
		a := open(30082, "203.0.113.0/24")
		a.Spec.ExpiresAt = &metav1.Time{Time: time.Now().Add(65 * time.Second)}
		l.allocations.put(a)
		l.start()
		l.history.setDown(true)
		l.pass(64 * time.Second)
		if gate := l.kernel.loaded.Ports.Get(rule.Port{Protocol: rule.TCP, Number: 30082}); gate.Expires != a.Spec.ExpiresAt.Unix() {
			t.Errorf("the kernel was told to end the gate at %d, want %d", gate.Expires, a.Spec.ExpiresAt.Unix())
		}
		l.wantAdmits(30082, "203.0.113.7", true)
		l.kernel.take()
		l.pass(time.Second)
		l.wantAdmits(30082, "203.0.113.7", false)
		l.wantCalls("sync", "sweep")
		if got := l.kernel.lastSweep().Strings(); len(got) != 1 || got[0] != "30082" {
			t.Errorf("swept %v, want 30082", got)
		}
		l.wantAdmits(30080, "203.0.113.7", true)
	})
}

// A kernel that has ended an access by itself is not damaged, whoever looks first.
func TestAnAccessThatEndedInTheKernelIsNoDamage(t *testing.T) {
	for range 10 {
		inLab(t, func(l *lab) {
			a := open(30082, "203.0.113.0/24")
			a.Spec.ExpiresAt = &metav1.Time{Time: time.Now().Add(checkInterval)}
			l.allocations.put(a)
			l.start()
			l.pass(2 * checkInterval)
			if got := testutil.ToFloat64(l.agent.metrics.repairs); got != 0 {
				t.Errorf("%v repairs counted", got)
			}
			l.wantAdmits(30082, "203.0.113.7", false)
			l.wantReason(v1alpha1.ReasonOK)
		})
	}
}

func TestTheFirewallIsTheInstallations(t *testing.T) {
	with := func(f v1alpha1.Firewall) inputs {
		return of(v1alpha1.Portreeve{Spec: v1alpha1.PortreeveSpec{Firewall: f}})
	}
	for name, test := range map[string]struct {
		in   inputs
		want v1alpha1.Firewall
	}{
		"none":     {inputs{}, v1alpha1.FirewallAuto},
		"unset":    {with(""), v1alpha1.FirewallAuto},
		"auto":     {with("Auto"), v1alpha1.FirewallAuto},
		"nftables": {with("NFTables"), v1alpha1.FirewallNFTables},
		"iptables": {with("IPTables"), v1alpha1.FirewallIPTables},
		"later":    {with("EBPF"), v1alpha1.FirewallAuto},
	} {
		if got := test.in.firewall(); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}
