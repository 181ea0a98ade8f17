package agent

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/carrier"
	"github.com/portreeve/portreeve/internal/rule"
)

// What tells who carries node ports is in the report, and no second report follows
// while it stays the same.
func TestAReportSaysWhoCarriesNodePorts(t *testing.T) {
	inLab(t, func(l *lab) {
		l.facts = v1alpha1.NodeFacts{KubeProxy: []v1alpha1.KubeProxyRules{v1alpha1.KubeProxyNFTables}, ProxyMode: "nftables"}
		l.start()
		status := l.status()
		if status.Carrier != "kube-proxy (nftables)" || status.Facts == nil || !reflect.DeepEqual(*status.Facts, l.facts) {
			t.Errorf("carrier %q, facts %+v", status.Carrier, status.Facts)
		}
		if c := status.Conditions[0]; c.Reason != v1alpha1.ReasonOK {
			t.Errorf("condition %+v", c)
		}
		before := len(l.reports.written())
		l.pass(3 * checkInterval)
		if after := len(l.reports.written()); after != before {
			t.Errorf("%d reports without news", after-before)
		}
		l.kernel.set(func() { l.facts.KubeProxy = []v1alpha1.KubeProxyRules{v1alpha1.KubeProxyIPVS} })
		l.pass(2 * checkInterval)
		if status := l.status(); status.Carrier != "kube-proxy (ipvs)" {
			t.Errorf("carrier %q after kube-proxy changed its mode", status.Carrier)
		}
	})
}

// Only the Node's own word makes of a bridge of OVN-Kubernetes a local gateway, and it is
// heard at once.
func TestTheNodeTellsTheGatewayModeOfOVNKubernetes(t *testing.T) {
	inLab(t, func(l *lab) {
		l.facts = v1alpha1.NodeFacts{Links: []string{"ovn-k8s-mp0"}, Ways: []v1alpha1.WayAround{{Interface: "br-ex", Hook: carrier.HookOVS, Program: "br-ex"}}}
		l.start()
		if c := l.status().Conditions[0]; c.Reason != v1alpha1.ReasonEnforcementUnsupported || !strings.Contains(c.Message, "OVN-Kubernetes (shared gateway)") ||
			!strings.Contains(c.Message, "Open vSwitch has the packets of br-ex") {
			t.Errorf("condition %+v", c)
		}
		says := func(mode string) {
			n := node(map[string]string{"zone": "a"})
			n.Annotations = map[string]string{carrier.GatewayAnnotation: `{"default":{"mode":"` + mode + `"}}`, "other": "x"}
			l.node.put(n)
			l.pass(2 * reportInterval)
		}
		says("local")
		if status := l.status(); status.Conditions[0].Reason != v1alpha1.ReasonOK || status.Facts.GatewayMode != "local" || status.Marks.Allocations == "" {
			t.Errorf("with a local gateway: %+v", status)
		}
		says("shared")
		if status := l.status(); status.Conditions[0].Reason != v1alpha1.ReasonEnforcementUnsupported || status.Marks.Allocations != "" {
			t.Errorf("with a shared gateway: %+v", status)
		}
	})
}

// A look that fails, as when links come and go while they are listed, is no word that what
// goes around the rules has gone; what it could see is heard all the same.
func TestALookThatFailsVouchesForNothingNew(t *testing.T) {
	inLab(t, func(l *lab) {
		way := func(link string) v1alpha1.WayAround {
			return v1alpha1.WayAround{Interface: link, Hook: "tcx", Program: "cil_from_netdev"}
		}
		l.facts = v1alpha1.NodeFacts{Links: []string{"cilium_host"}, Ways: []v1alpha1.WayAround{way("eth0")}}
		l.start()
		finds := func(facts v1alpha1.NodeFacts, err error) v1alpha1.NodeDatapathStatus {
			l.kernel.set(func() { l.facts, l.unseen = facts, err })
			l.pass(2 * checkInterval)
			return l.status()
		}
		if status := finds(v1alpha1.NodeFacts{}, errors.New("dump interrupted")); status.Conditions[0].Reason != v1alpha1.ReasonEnforcementUnsupported || status.Marks.Allocations != "" {
			t.Errorf("after a look that failed: %+v", status)
		}
		if status := finds(v1alpha1.NodeFacts{Ways: []v1alpha1.WayAround{way("eth1")}}, errors.New("dump interrupted")); len(status.Facts.Ways) != 2 {
			t.Errorf("after a look that saw one more and failed: %+v", status)
		}
		if status := finds(v1alpha1.NodeFacts{}, nil); status.Conditions[0].Reason != v1alpha1.ReasonOK || status.Marks.Allocations == "" {
			t.Errorf("when it has gone: %+v", status)
		}
	})
}

// Whom nobody takes up is refused where kube-proxy leaves him to the node, and nowhere
// else; the report says where he has to wait, and why.
func TestWhoFindsNoPodIsRefusedOnlyBesideKubeProxy(t *testing.T) {
	inLab(t, func(l *lab) {
		proxy := func(rules ...v1alpha1.KubeProxyRules) {
			l.kernel.set(func() { l.facts.KubeProxy = rules })
			l.pass(2*checkInterval + 2*reportInterval)
		}
		want := func(refuses bool, said string) {
			t.Helper()
			l.kernel.set(func() {
				if got := l.kernel.loaded.Ports.Get(rule.Port{Protocol: rule.TCP, Number: 30083}).Local; got != refuses {
					t.Errorf("with %v: refuses: %v", l.facts.KubeProxy, got)
				}
			})
			c := l.status().Conditions[0]
			if c.Reason != v1alpha1.ReasonOK || strings.Contains(c.Message, "finds no pod on this node waits") != (said != "") || !strings.Contains(c.Message, said) {
				t.Errorf("with %v: %+v", l.facts.KubeProxy, c)
			}
		}
		a := through(30083, "")
		a.Spec.Gateways = nil
		l.allocations.put(a)
		l.start()
		want(false, "")
		a = *a.DeepCopy()
		a.Spec.LocalOnly = true
		l.allocations.put(a)
		l.pass(2 * reportInterval)
		want(false, "something that is not known does")
		proxy(v1alpha1.KubeProxyNFTables)
		want(true, "")
		proxy(v1alpha1.KubeProxyIPVS)
		want(false, "IPVS")
		proxy(v1alpha1.KubeProxyIPTablesNFT)
		want(true, "")
		proxy()
		want(false, "something that is not known does")
	})
}
