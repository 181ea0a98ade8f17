package compile

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

func TestCloudAdmitsTheSourcesOfOpenPorts(t *testing.T) {
	open := func(number string, firewalls []v1alpha1.ObjectName, ports ...v1alpha1.ClaimedPort) v1alpha1.NodePortAllocation {
		a := *version(number, "1")
		a.Spec = v1alpha1.NodePortAllocationSpec{State: v1alpha1.AllocationOpen, Team: "payments", Pool: "web", Ports: ports, CloudFirewalls: firewalls}
		return a
	}
	prod, both := []v1alpha1.ObjectName{"aws-prod"}, []v1alpha1.ObjectName{"aws-test", "aws-prod"}
	tcp := func(sources ...v1alpha1.CIDR) v1alpha1.ClaimedPort {
		return v1alpha1.ClaimedPort{Protocol: "TCP", Port: 443, Sources: sources}
	}
	closed, foreign := open("30003", prod, tcp("10.8.0.0/16")), open("30004", prod, tcp("10.8.0.0/16"))
	closed.Spec.State, foreign.Spec.State, foreign.Spec.Grandfathered = v1alpha1.AllocationClosed, v1alpha1.AllocationForeign, true
	allocations := []v1alpha1.NodePortAllocation{
		open("30001", both, tcp("2001:db8::/48", "10.8.0.0/16"), v1alpha1.ClaimedPort{Protocol: "UDP", Port: 443, Sources: []v1alpha1.CIDR{"10.9.0.0/16"}}),
		open("30000", prod, tcp("10.8.0.0/16")),
		open("30002", []v1alpha1.ObjectName{"aws-test"}, tcp("10.7.0.0/16")),
		closed, foreign,
		open("30005", prod, tcp("0.0.0.0/1", "128.0.0.0/1", "2001:db8::/48")), // the world in halves
		open("30006", prod, tcp("x", "::ffff:10.0.0.0/104", "10.8.0.0/16")),
		open("030007", prod, tcp("10.8.0.0/16")),
		open("30008", prod, tcp()),
	}
	want := []string{
		"TCP 30000 10.8.0.0/16", "TCP 30001 10.8.0.0/16", "TCP 30001 2001:db8::/48",
		"TCP 30005 2001:db8::/48", "TCP 30006 10.8.0.0/16", "UDP 30001 10.9.0.0/16",
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		random.Shuffle(len(allocations), func(i, j int) { allocations[i], allocations[j] = allocations[j], allocations[i] })
		var got []string
		for _, a := range Cloud("aws-prod", allocations, Places{}) {
			got = append(got, fmt.Sprintf("%s %s %s", a.Protocol, a.Ports, a.Source))
			if !strings.Contains(a.Description, "team=payments") || !strings.Contains(a.Description, "pool=web") {
				t.Errorf("description %q", a.Description)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("admits\n%q, want\n%q", got, want)
		}
	}
	if got := Cloud("aws-dev", allocations, Places{}); got != nil {
		t.Errorf("a firewall that nobody names admits %v", got)
	}
}

// Nodes and clouds never disagree about who may reach an open port.
func TestAtomsAreWhatNodesAdmit(t *testing.T) {
	a := version("30000", "1")
	a.Spec = v1alpha1.NodePortAllocationSpec{State: v1alpha1.AllocationOpen, Protocols: []v1alpha1.Protocol{"TCP"}}
	a.Spec.Ports = []v1alpha1.ClaimedPort{{Protocol: "TCP", Port: 443, Sources: []v1alpha1.CIDR{
		"0.0.0.0/1", "128.0.0.0/1", "::/0", "2001:db8::/48", "x", "::ffff:10.0.0.0/104",
	}}}
	for range 2 {
		set, _ := Node(NodeInput{Allocations: ObjectsOf(a)})
		var sources []string
		for _, atom := range (Places{}).Atoms(a) {
			sources = append(sources, atom.Source.String())
		}
		var admitted []string
		for _, source := range set.Sources(rule.Port{Protocol: rule.TCP, Number: 30000}) {
			admitted = append(admitted, source.String())
		}
		if !slices.Equal(sources, admitted) {
			t.Errorf("the cloud admits %q, nodes %q", sources, admitted)
		}
		a.Spec.Ports[0].Sources = []v1alpha1.CIDR{"10.8.1.0/24", "10.8.0.0/24", "2001:db8::/48"}
	}
}

func TestCloudHoldsWhatARuleOfOursAdmits(t *testing.T) {
	seen := CloudSeen{
		Groups:  []GroupSeen{{ID: "sg-1"}, {ID: "sg-2", Ours: []rule.Rule{atom("UDP", 30005, 30007, "10.8.0.0/16")}}},
		InForce: []Admission{inForce("TCP", 30009, 30009, "10.8.0.0/16")}, // a foreign one that equals a wish
		// Written, and not listed yet.
		Doubtful: []Admission{inForce("TCP", 30011, 30012, "10.8.0.0/16")},
	}
	for number, want := range map[uint16]bool{30011: true, 30013: false, 30004: false, 30005: true, 30007: true, 30008: false, 30009: false} {
		if got := seen.Holds(number); got != want {
			t.Errorf("Holds(%d) = %v", number, got)
		}
	}
}
