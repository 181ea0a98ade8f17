package explain

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

// Whatever the cluster says: once every node has proved all of it, explain lets pass on a
// node whom that node's agent lets pass, drops whom it drops, and has a cause for it.
func TestExplainAgreesWithTheAgents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := anyCluster(t)
		port := rule.Port{
			Protocol: rapid.SampledFrom(rule.Protocols).Draw(t, "protocol"),
			Number:   uint16(rapid.SampledFrom([]int{22, 30000, 30001, 30007, 31000}).Draw(t, "number")),
		}
		from := netip.MustParseAddr(rapid.SampledFrom([]string{"203.0.113.9", "10.8.0.1", "192.0.2.1", "198.51.100.4", "2001:db8::9"}).Draw(t, "from"))
		answer, err := Explain(c, Question{Port: port.Number, Protocol: string(port.Protocol), From: from})
		if err != nil {
			t.Fatal(err)
		}
		report := Audit(c)
		p := answer.Ports[0]
		for i := range c.Nodes {
			node := &c.Nodes[i]
			set, _ := compile.Node(compile.NodeInput{
				Pools: objects(c.Pools), Allocations: objects(c.Allocations), AddressSets: objects(c.AddressSets),
				GatewaySets: objects(c.GatewaySets), Installation: c.Installation, Node: node.Name, Labels: node.Labels, Now: c.Now,
			})
			admits := set.Admits(port, from)
			for _, g := range p.Gates {
				if g.Gate != GateNode || g.Subject != node.Name {
					continue
				}
				if passes := g.State == Passes || g.State == NotRequired; passes != admits && g.State != Doubtful || g.State == Doubtful && admits {
					t.Fatalf("%s: explain says %s (%s: %s), and the agent admits: %t\n%+v", node.Name, g.State, g.Reason, g.Message, admits, p)
				}
			}
			if admits && !contains(p.Admits, from) {
				t.Fatalf("%s admits %s, and explain only %v", node.Name, from, p.Admits)
			}
			if admits && set.Judged.Contains(port.Number) {
				inAudit(t, report, c, port, from)
			}
		}
		blamed := false
		for _, g := range p.Gates {
			blamed = blamed || g.State == Stops && (g.Gate == GateAllocation || g.Gate == GateSources)
		}
		if blamed == contains(p.Admits, from) {
			t.Fatalf("a cause is named: %t, of those who are admitted: %+v", blamed, p)
		}
	})
}

// inAudit: who is let in by judgement stands in the audit, on a line of the number.
func inAudit(t *rapid.T, report Report, c Cluster, port rule.Port, from netip.Addr) {
	for _, l := range report.Lines {
		ranges, err := rule.ParsePortRanges(strings.Split(l.Ports, ", "))
		all := l.Protocol == "" || l.Protocol == string(port.Protocol)
		if err != nil || !ranges.Contains(port.Number) || !all {
			continue
		}
		for _, by := range l.ReachableBy {
			if netip.MustParsePrefix(by).Contains(from) {
				return
			}
		}
	}
	t.Fatalf("%s is admitted to %s, and no line of the audit says so: %+v\n%+v", from, port, report.Lines, c.Allocations)
}

func anyCluster(t *rapid.T) Cluster {
	c := town()
	c.Pools, c.Allocations, c.Policies, c.Services = nil, nil, nil, nil
	for i, name := range []string{"web", "db"} {
		if rapid.Bool().Draw(t, name) {
			c.Pools = append(c.Pools, anyPool(t, name, i))
		}
	}
	for _, number := range rapid.SliceOfNDistinct(rapid.SampledFrom([]int{22, 30000, 30001, 30007}), 0, 3, rapid.ID).Draw(t, "allocations") {
		c.Allocations = append(c.Allocations, anyAllocation(t, number))
	}
	c.AddressSets = append(c.AddressSets, v1alpha1.AddressSet{
		ObjectMeta: metav1.ObjectMeta{Name: "office", ResourceVersion: "8"}, Spec: v1alpha1.AddressSetSpec{CIDRs: anyCIDRs(t, "office")},
	})
	if rapid.Bool().Draw(t, "gateways") {
		c.GatewaySets = []v1alpha1.GatewaySet{{
			ObjectMeta: metav1.ObjectMeta{Name: "gw", ResourceVersion: "4"},
			Spec:       v1alpha1.GatewaySetSpec{Nodes: rapid.SliceOfNDistinct(rapid.SampledFrom([]v1alpha1.ObjectName{"n1", "n2"}), 0, 2, rapid.ID).Draw(t, "active")},
		}}
	}
	if rapid.Bool().Draw(t, "installed") {
		c.Installation = installation(func(p *v1alpha1.PortreeveSpec) {
			p.Lockdown = rapid.IntRange(0, 3).Draw(t, "lockdown") == 0
			p.DenyAddressSets = rapid.SliceOfNDistinct(rapid.SampledFrom([]v1alpha1.ObjectName{"office", "scanners", "gone"}), 0, 2, rapid.ID).Draw(t, "denied")
			p.FailSafePorts = rapid.SliceOfN(rapid.SampledFrom([]v1alpha1.PortSpan{"30001", "x"}), 0, 1).Draw(t, "safe")
			p.NodeAddresses = rapid.SliceOfN(rapid.SampledFrom([]v1alpha1.Network{"192.0.2.0/31", "10.0.0.0/8"}), 0, 1).Draw(t, "addresses")
			p.ClusterCIDRs = rapid.SliceOfN(rapid.Just(v1alpha1.CIDR("10.8.0.0/16")), 0, 1).Draw(t, "cluster")
		})
	}
	return c
}

func anyPool(t *rapid.T, name string, i int) v1alpha1.NodePortPool {
	p := v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "6"}}
	p.Spec.Ranges = []v1alpha1.PortRange{v1alpha1.PortRange([]string{"30000-30006", "30005-30009"}[i])}
	p.Status.Armed = rapid.SampledFrom([][]string{nil, {"30000-30009"}, {"30007"}}).Draw(t, "armed")
	p.Spec.Unclaimed = rapid.SampledFrom([]v1alpha1.Unclaimed{"", v1alpha1.UnclaimedDrop, v1alpha1.UnclaimedAudit, v1alpha1.UnclaimedIgnore}).Draw(t, "unclaimed")
	if rapid.Bool().Draw(t, "reserves") {
		p.Spec.Reserved = []v1alpha1.ReservedPorts{{Ports: "30001", Reason: "x"}}
	}
	p.Spec.Guardrails.Audit = rapid.SampledFrom([]v1alpha1.Permission{"", v1alpha1.Allow}).Draw(t, "audit")
	p.Spec.Guardrails.World = rapid.SampledFrom([]v1alpha1.Permission{"", v1alpha1.Allow}).Draw(t, "world")
	p.Spec.Guardrails.AllowedSources = rapid.SampledFrom([][]v1alpha1.CIDR{nil, {"10.0.0.0/8", "203.0.113.0/24"}}).Draw(t, "allowed")
	if rapid.Bool().Draw(t, "rails") {
		p.Spec.Guardrails.WidestIPv4 = ptr.To[int32](20)
	}
	return p
}

func anyCIDRs(t *rapid.T, what string) []v1alpha1.CIDR {
	return rapid.SliceOfNDistinct(rapid.SampledFrom([]v1alpha1.CIDR{"203.0.113.0/24", "10.8.0.0/16", "192.0.2.0/28", "198.51.100.4/32", "2001:db8::/48", "0.0.0.0/0", "x"}), 0, 3, rapid.ID).Draw(t, what)
}

func anyAllocation(t *rapid.T, number int) v1alpha1.NodePortAllocation {
	a := v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(number), ResourceVersion: "10"}}
	s := &a.Spec
	s.State = rapid.SampledFrom([]v1alpha1.AllocationState{v1alpha1.AllocationOpen, v1alpha1.AllocationOpen, v1alpha1.AllocationClosed, v1alpha1.AllocationForeign}).Draw(t, "state")
	s.Grandfathered = s.State == v1alpha1.AllocationForeign && rapid.Bool().Draw(t, "grandfathered")
	s.Pool = rapid.SampledFrom([]string{"web", "db", "gone"}).Draw(t, "of pool")
	s.Mode = rapid.SampledFrom([]v1alpha1.PolicyMode{"", v1alpha1.ModeAudit, "Later"}).Draw(t, "mode")
	s.Claim = v1alpha1.Claim{Namespace: "shop", Policy: "shop", Service: "shop"}
	if rapid.Bool().Draw(t, "selects") {
		s.NodeSelector = &v1alpha1.LabelSelector{MatchLabels: map[string]string{"zone": "n1"}}
	}
	s.Gateways = rapid.SampledFrom([]*v1alpha1.ClaimedGateways{
		nil, nil, {Set: "gw", Active: 1}, {NodeSelector: &v1alpha1.LabelSelector{MatchLabels: map[string]string{"zone": "n2"}}},
	}).Draw(t, "at gateways")
	if ends := rapid.IntRange(-1, 3).Draw(t, "ends"); ends < 2 {
		s.ExpiresAt = ptr.To(metav1.NewTime(clock.AddDate(0, 0, ends)))
	}
	for _, protocol := range rapid.SliceOfNDistinct(rapid.SampledFrom([]v1alpha1.Protocol{"TCP", "UDP"}), 1, 2, rapid.ID).Draw(t, "protocols") {
		s.Protocols = append(s.Protocols, protocol)
		port := v1alpha1.ClaimedPort{Protocol: protocol, Port: 443, Sources: anyCIDRs(t, "sources"), World: rapid.IntRange(0, 4).Draw(t, "everybody") == 0}
		port.AddressSets = rapid.SliceOfNDistinct(rapid.SampledFrom([]v1alpha1.ObjectName{"office", "gone"}), 0, 2, rapid.ID).Draw(t, "sets")
		port.Entities = rapid.SliceOfNDistinct(rapid.SampledFrom([]v1alpha1.Entity{v1alpha1.EntityCluster, v1alpha1.EntityNodes}), 0, 1, rapid.ID).Draw(t, "entities")
		if rapid.Bool().Draw(t, "peers") {
			port.Peers = []v1alpha1.Peer{{ID: "sg-1", Sources: anyCIDRs(t, "bounds")}}
		}
		s.Ports = append(s.Ports, port)
	}
	return a
}
