package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

func nodeAt(addresses ...string) (n corev1.Node) {
	for _, a := range addresses {
		kind, address, _ := strings.Cut(a, " ")
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeAddressType(kind), Address: address})
	}
	return n
}

// spelledSets lists sets as "portreeve-nodes-0 [192.0.2.1/32]".
func spelledSets(sets []v1alpha1.AddressSet) (out []string) {
	for _, s := range sets {
		out = append(out, fmt.Sprint(s.Name, " ", s.Spec.CIDRs))
	}
	return out
}

func TestNodeSets(t *testing.T) {
	foreign := setOf("portreeve-nodes-0", "203.0.113.0/24")
	widened := nodeSet(1, "192.0.2.1/32", "0.0.0.0/1")
	widened.Spec.AllowedFor = &v1alpha1.NamespaceChoice{}
	for _, c := range []struct {
		name  string
		nodes []corev1.Node
		have  []v1alpha1.AddressSet
		want  []string
	}{
		{"no node", nil, nil, nil},
		{"internal and external addresses", []corev1.Node{nodeAt("InternalIP 192.0.2.1", "ExternalIP 203.0.113.1", "InternalIP 2001:db8::1", "Hostname n1", "InternalDNS n1.lan", "Hostname 192.0.2.9")}, nil, []string{"portreeve-nodes-0 [192.0.2.1/32 203.0.113.1/32 2001:db8::1/128]"}},
		{"what no packet comes from", []corev1.Node{nodeAt("InternalIP 127.0.0.1", "InternalIP ::1", "InternalIP 0.0.0.0", "InternalIP 169.254.1.1", "InternalIP fe80::1%eth0", "InternalIP 224.0.0.1", "InternalIP n1", "InternalIP ")}, nil, nil},
		{"one address of two nodes, once as an IPv6 address", []corev1.Node{nodeAt("InternalIP 192.0.2.1"), nodeAt("InternalIP ::ffff:192.0.2.1")}, nil, []string{"portreeve-nodes-0 [192.0.2.1/32]"}},
		{"addresses stay where they are", []corev1.Node{nodeAt("InternalIP 192.0.2.1"), nodeAt("InternalIP 192.0.2.2"), nodeAt("InternalIP 192.0.2.3")}, []v1alpha1.AddressSet{nodeSet(7, "192.0.2.2/32"), nodeSet(3, "192.0.2.1/32")}, []string{"portreeve-nodes-3 [192.0.2.1/32 192.0.2.3/32]", "portreeve-nodes-7 [192.0.2.2/32]"}},
		{"a set that has become empty stays", []corev1.Node{nodeAt("InternalIP 192.0.2.1")}, []v1alpha1.AddressSet{nodeSet(0, "192.0.2.1/32"), nodeSet(1, "192.0.2.2/32")}, []string{"portreeve-nodes-0 [192.0.2.1/32]", "portreeve-nodes-1 []"}},
		{"what somebody wrote into a set goes", []corev1.Node{nodeAt("InternalIP 192.0.2.1")}, []v1alpha1.AddressSet{widened}, []string{"portreeve-nodes-1 [192.0.2.1/32]"}},
		{"an address in two sets stays in the first", []corev1.Node{nodeAt("InternalIP 192.0.2.1")}, []v1alpha1.AddressSet{nodeSet(10, "192.0.2.1/32"), nodeSet(9, "192.0.2.1/32")}, []string{"portreeve-nodes-9 [192.0.2.1/32]", "portreeve-nodes-10 []"}},
		{"what is not ours is left alone", []corev1.Node{nodeAt("InternalIP 192.0.2.1")}, []v1alpha1.AddressSet{foreign}, []string{"portreeve-nodes-1 [192.0.2.1/32]"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := NodeSets(c.nodes, c.have)
			if !slices.Equal(spelledSets(got), c.want) {
				t.Errorf("%q, want %q", spelledSets(got), c.want)
			}
			for _, s := range got {
				if !IsNodeSet(&s) || s.Spec.AllowedFor != nil {
					t.Errorf("%+v is no set of ours", s)
				}
			}
		})
	}
}

// Whatever joins and leaves: the sets hold exactly the addresses, each once and none in
// a set that is too large; the outcome stands; and one that joins changes one set.
func TestNodeSetsFollowTheNodes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var sets []v1alpha1.AddressSet
		address := func(n int) string { return fmt.Sprintf("InternalIP 10.0.%d.%d", n/250, 1+n%250) }
		for range rapid.IntRange(1, 4).Draw(t, "turns") {
			var nodes []corev1.Node
			joined := rapid.SliceOfNDistinct(rapid.IntRange(0, 349), 0, 350, rapid.ID[int]).Draw(t, "nodes")
			var want []netip.Prefix
			for _, n := range joined {
				nodes = append(nodes, nodeAt(address(n)))
				want = append(want, nodeAddresses(&nodes[len(nodes)-1])...)
			}
			sets = NodeSets(nodes, sets)
			var have []netip.Prefix
			for _, s := range sets {
				if len(s.Spec.CIDRs) > shardSize {
					t.Fatalf("%s has %d addresses", s.Name, len(s.Spec.CIDRs))
				}
				have = append(have, parse(t, s.Spec.CIDRs)...)
			}
			slices.SortFunc(want, rule.ComparePrefixes)
			slices.SortFunc(have, rule.ComparePrefixes)
			if !slices.Equal(have, want) {
				t.Fatalf("the sets hold %v, the nodes have %v", have, want)
			}
			if again := NodeSets(rapid.Permutation(nodes).Draw(t, "order"), rapid.Permutation(sets).Draw(t, "sets")); !slices.Equal(spelledSets(again), spelledSets(sets)) {
				t.Fatalf("%q became %q", spelledSets(sets), spelledSets(again))
			}
			more := NodeSets(append(nodes, nodeAt("InternalIP 192.0.2.1")), sets)
			changed := slices.DeleteFunc(spelledSets(more), func(s string) bool { return slices.Contains(spelledSets(sets), s) })
			if len(changed) != 1 {
				t.Fatalf("one more node changed %q", changed)
			}
		}
	})
}

func parse(t *rapid.T, cidrs []v1alpha1.CIDR) (out []netip.Prefix) {
	for _, c := range cidrs {
		p, err := netip.ParsePrefix(string(c))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func TestNodeAddressesOfTheInstallation(t *testing.T) {
	for _, c := range []struct {
		name     string
		networks []v1alpha1.Network
		want     []string
		problems int
	}{
		{"none: all", nil, nil, 0},
		{"some", []v1alpha1.Network{"192.0.2.128/25", "192.0.2.0/25", "2001:db8::/32"}, []string{"192.0.2.0/24", "2001:db8::/32"}, 0},
		{"one family", []v1alpha1.Network{"0.0.0.0/0"}, []string{"0.0.0.0/0"}, 0},
		{"both families: all", []v1alpha1.Network{"0.0.0.0/0", "::/0"}, nil, 0},
		{"one that can't be read: all, and it is said", []v1alpha1.Network{"192.0.2.0/24", "eth0"}, nil, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			installation := &v1alpha1.Portreeve{Spec: v1alpha1.PortreeveSpec{NodeAddresses: c.networks}}
			set, problems := Node(NodeInput{Installation: installation})
			if got := texts(set.Addresses); !slices.Equal(got, c.want) || len(problems) != c.problems {
				t.Errorf("judged on %q with problems %v, want %q and %d", got, problems, c.want, c.problems)
			}
		})
	}
}

// A plan leaves out whom the installation denies; clouds, which are not the exact gate,
// go on admitting them.
func TestPlansKnowWhoIsDenied(t *testing.T) {
	installation := &v1alpha1.Portreeve{Spec: v1alpha1.PortreeveSpec{DenyAddressSets: []v1alpha1.ObjectName{"bad", "unknown"}, ClusterCIDRs: []v1alpha1.CIDR{"10.244.0.0/16"}}}
	places := NewPlaces(railed(v1alpha1.Guardrails{}), []v1alpha1.AddressSet{setOf("bad", "192.0.2.128/25", "10.0.0.0/8"), nodeSet(0, "198.51.100.1/32")}).Within(installation)
	a := &v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: "30080"}, Spec: v1alpha1.NodePortAllocationSpec{
		State: v1alpha1.AllocationOpen, Pool: "web", CloudFirewalls: []v1alpha1.ObjectName{"aws"},
		Ports: []v1alpha1.ClaimedPort{{Protocol: "TCP", Port: 443, Sources: []v1alpha1.CIDR{"192.0.2.0/24"}, Entities: []v1alpha1.Entity{v1alpha1.EntityCluster}}},
	}}
	var passing, admitted []string
	for _, r := range places.Passing(a) {
		passing = append(passing, r.Source.String())
	}
	for _, r := range Cloud("aws", []v1alpha1.NodePortAllocation{*a}, places) {
		admitted = append(admitted, r.Source.String())
	}
	if want := []string{"192.0.2.0/25", "198.51.100.1/32"}; !slices.Equal(passing, want) {
		t.Errorf("nodes let pass %q, want %q", passing, want)
	}
	if want := []string{"10.244.0.0/16", "192.0.2.0/24", "198.51.100.1/32"}; !slices.Equal(admitted, want) {
		t.Errorf("the cloud admits %q, want %q", admitted, want)
	}
}

// An agent judges by the sets it has read; those with addresses of Nodes, and those
// denied, are among them.
func TestEntitiesAndDeniedSetsMustBeProved(t *testing.T) {
	sets := []v1alpha1.AddressSet{setOf("bad", "192.0.2.0/24"), nodeSet(0, "198.51.100.1/32"), nodeSet(1)}
	for i, version := range []string{"50", "55", "53"} {
		sets[i].ResourceVersion = version
	}
	proof := Proof{Listed: "100", ListedSets: "60", Installation: "70", Places: NewPlaces(railed(v1alpha1.Guardrails{}), sets)}
	denying := proof
	denying.Places = proof.Places.Within(&v1alpha1.Portreeve{Spec: v1alpha1.PortreeveSpec{DenyAddressSets: []v1alpha1.ObjectName{"unknown", "bad"}}})
	plain := v1alpha1.ClaimedPort{Protocol: "TCP", Port: 443, Sources: []v1alpha1.CIDR{"10.8.0.0/16"}}
	entity := v1alpha1.ClaimedPort{Protocol: "TCP", Port: 443, Entities: []v1alpha1.Entity{v1alpha1.EntityCluster}}
	for _, c := range []struct {
		name  string
		proof Proof
		port  v1alpha1.ClaimedPort
		mark  string
		want  string
	}{
		{"the youngest set of addresses", proof, entity, "55", ""},
		{"only an older one", proof, entity, "54", NodePending},
		{"none", proof, entity, "", NodePending},
		{"more than we have listed", proof, entity, "61", NodeUnconfirmed},
		{"no entity", proof, plain, "", ""},
		{"the denied set", denying, plain, "50", ""},
		{"not the denied set", denying, plain, "49", NodePending},
		{"the denied set, and more than we have listed", denying, plain, "61", NodeUnconfirmed},
		{"both", denying, entity, "54", NodePending},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := version("30007", "99")
			a.Spec = v1alpha1.NodePortAllocationSpec{State: v1alpha1.AllocationOpen, Pool: "web", Ports: []v1alpha1.ClaimedPort{c.port}}
			n := node("a", marks(func(m *v1alpha1.Marks) { m.AddressSets, m.Installation = c.mark, "70" }))
			if got := c.proof.Missing(n, a); got != c.want {
				t.Errorf("Missing = %q, want %q", got, c.want)
			}
		})
	}
}
