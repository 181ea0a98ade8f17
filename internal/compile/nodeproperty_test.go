package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// TestNodeForAnyInput feeds whatever an API server with a broken schema, or a
// newer manager, could send.
func TestNodeForAnyInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := anyInput(t)
		set, _ := Node(in)

		safe := rule.FailSafe
		if in.Installation != nil {
			safe = safe.Union(failSafe(in.Installation))
		}
		if len(set.Judged.Intersect(safe)) > 0 {
			t.Fatalf("judges a fail-safe port: %v", set.Judged)
		}
		for port, gate := range set.Ports.All {
			if !mayAdmit(in, port, set.Sources(port)) {
				t.Fatalf("%s admits %v", port, set.Sources(port))
			}
			if audited := set.Classes[gate.Audit]; !mayAudit(in, port, audited) {
				t.Fatalf("%s audits %v", port, audited)
			}
		}
		for name := range in.Allocations.All {
			n := claimedNumber(&v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: string(name)}})
			if n == 0 || safe.Contains(n) {
				continue
			}
			if !set.Judged.Contains(n) || set.Audited.Contains(n) {
				t.Fatalf("allocation %d is not judged", n)
			}
		}
	})
}

// mayAdmit says whether exactly one allocation claims the port, in a state that lets
// those sources in: the world only by its word, or if it is grandfathered.
func mayAdmit(in NodeInput, port rule.Port, sources []netip.Prefix) bool {
	world := slices.ContainsFunc(sources, func(p netip.Prefix) bool { return p.Bits() == 0 })
	claims, admits := 0, false
	for _, a := range Copies[v1alpha1.NodePortAllocation](in.Allocations) {
		if claimedNumber(&a) != port.Number {
			continue
		}
		claims++
		selected := a.Spec.NodeSelector == nil || in.Labels["role"] == a.Spec.NodeSelector.MatchLabels["role"]
		byWord := slices.ContainsFunc(a.Spec.Ports, func(p v1alpha1.ClaimedPort) bool { return p.World && rule.Protocol(p.Protocol) == port.Protocol })
		if a.Spec.State == v1alpha1.AllocationOpen && len(sources) > 0 && (Ended(&a, in.Now) || a.Spec.Mode == "Later") {
			return false
		}
		admits = a.Spec.State == v1alpha1.AllocationOpen && (selected || len(sources) == 0) && (!world || byWord) ||
			a.Spec.State == v1alpha1.AllocationForeign && a.Spec.Grandfathered
	}
	lockdown := in.Installation != nil && in.Installation.Spec.Lockdown
	return claims == 1 && admits && !lockdown
}

// Whatever pools, sets and the installation say: a number that is closed admits
// nobody, and nothing of it is passed for being audited or ignored.
func TestNodeAdmitsNobodyToAClosedNumber(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := anyInput(t)
		closed := anyAllocation(t)
		closed.Name, closed.Spec.State = "30007", v1alpha1.AllocationClosed
		closed.Spec.Protocols = append(closed.Spec.Protocols, "TCP")
		in.Allocations = with(in.Allocations, closed)
		in.Installation = nil // whose fail-safe ports are nobody's
		set, _ := Node(in)
		from := netip.MustParseAddr(rapid.SampledFrom([]string{"203.0.113.9", "10.8.0.1", "192.0.2.1", "2001:db8::9"}).Draw(t, "from"))
		for _, protocol := range rule.Protocols {
			port := rule.Port{Protocol: protocol, Number: 30007}
			if set.Admits(port, from) || len(set.Sources(port)) > 0 {
				t.Fatalf("%s admits %s: %v", port, from, set)
			}
		}
	})
}

// Nodes, clouds and the manager who looks at them agree on who is admitted.
func TestNodesCloudsAndManagerAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pools := []v1alpha1.NodePortPool{anyPool(t)}
		sets := anySets(t)
		a := anyAllocation(t)
		a.Name, a.Spec.State, a.Spec.NodeSelector, a.Spec.ExpiresAt = "30007", v1alpha1.AllocationOpen, nil, nil
		a.Spec.Mode = rapid.SampledFrom(knownModes).Draw(t, "known mode")
		a.Spec.Pool = rapid.SampledFrom([]string{pools[0].Name, pools[0].Name, "gone"}).Draw(t, "pool")
		a.Spec.CloudFirewalls = []v1alpha1.ObjectName{"aws-prod"}
		a.Spec.Protocols, a.Spec.Ports = nil, nil
		for _, protocol := range rapid.SliceOfNDistinct(rapid.SampledFrom([]v1alpha1.Protocol{"TCP", "UDP", "SCTP"}), 1, 3, rapid.ID).Draw(t, "distinct") {
			port := anyClaimedPort(t)
			port.Protocol = protocol
			a.Spec.Protocols, a.Spec.Ports = append(a.Spec.Protocols, protocol), append(a.Spec.Ports, port)
		}
		places := NewPlaces(pools, sets)
		set, _ := Node(NodeInput{Pools: with(Objects{}, pools...), AddressSets: with(Objects{}, sets...), Allocations: ObjectsOf(&a)})
		seen := CloudSeen{}
		byProtocol := map[rule.Protocol][]netip.Prefix{}
		groups := map[rule.Protocol][]string{}
		for _, admission := range Cloud("aws-prod", []v1alpha1.NodePortAllocation{a}, places) {
			if admission.Pool != a.Spec.Pool || admission.Source.IsValid() == (admission.Peer != "") {
				t.Fatalf("admission %+v", admission)
			}
			seen.InForce = append(seen.InForce, admission)
			if admission.Peer != "" {
				groups[admission.Protocol] = append(groups[admission.Protocol], admission.Peer)
			} else {
				byProtocol[admission.Protocol] = append(byProtocol[admission.Protocol], admission.Source)
			}
		}
		for _, port := range a.Spec.Ports {
			protocol := rule.Protocol(port.Protocol)
			node, cloud := set.Passing(rule.Port{Protocol: protocol, Number: 30007}), rule.Canonical(byProtocol[protocol])
			// Of whom nodes admit, the cloud leaves only the networks that bound groups to
			// the groups, and each group has such a network.
			bounds := parseSources(ownNetworks(v1alpha1.ClaimedPort{Peers: port.Peers}))
			if port.World {
				bounds = nil
			}
			if !rule.CoversAll(node, cloud) || !rule.CoversAll(rule.Canonical(slices.Concat(cloud, bounds)), node) {
				t.Fatalf("%s: nodes admit %v, the cloud %v and groups within %v", protocol, node, cloud, bounds)
			}
			for _, peer := range port.Peers {
				within := len(rule.Intersect(node, parseSources(peer.Sources))) > 0 && !port.World && peer.ID != ""
				if named := slices.Contains(groups[protocol], string(peer.ID)); named && !within && !hasOther(port, peer, node) {
					t.Fatalf("%s: the cloud admits group %s, of whom nodes admit nobody: %v", protocol, peer.ID, node)
				}
			}
		}
		if !seen.admits(&a, places) {
			t.Fatalf("what the cloud was told to admit is not what the manager looks for: %v", seen.InForce)
		}
		if n := len(seen.InForce); n > 0 {
			seen.InForce = slices.Delete(seen.InForce, n-1, n)
			if seen.admits(&a, places) {
				t.Fatalf("a rule that is missing is not missed: %v", seen.InForce)
			}
		}
	})
}

// hasOther says whether the group is bounded once more, by a network that nodes admit.
func hasOther(port v1alpha1.ClaimedPort, peer v1alpha1.Peer, node []netip.Prefix) bool {
	return slices.ContainsFunc(port.Peers, func(other v1alpha1.Peer) bool {
		return other.ID == peer.ID && len(rule.Intersect(node, parseSources(other.Sources))) > 0
	})
}

func anyInput(t *rapid.T) NodeInput {
	in := NodeInput{
		Pools:       with(Objects{}, rapid.SliceOfN(rapid.Custom(anyPool), 0, 5).Draw(t, "pools")...),
		Allocations: with(Objects{}, rapid.SliceOfN(rapid.Custom(anyAllocation), 0, 8).Draw(t, "allocations")...),
		AddressSets: with(Objects{}, anySets(t)...),
		Now:         clock,
		Labels:      map[string]string{"role": rapid.SampledFrom([]string{"edge", "core"}).Draw(t, "role")},
	}
	if rapid.Bool().Draw(t, "installed") {
		in.Installation = &v1alpha1.Portreeve{}
		in.Installation.Spec.Lockdown = rapid.Bool().Draw(t, "lockdown")
		in.Installation.Spec.FailSafePorts = rapid.SliceOfN(rapid.SampledFrom([]v1alpha1.PortSpan{"30006", "30000-30003", "x", "", "9-1"}), 0, 3).Draw(t, "safe")
	}
	return in
}

func anyPool(t *rapid.T) v1alpha1.NodePortPool {
	ranges := rapid.SliceOfN(rapid.SampledFrom([]string{"30000-30009", "30005-30020", "30007", "1-65535", "20-30", "", "x", "9-1", "70000", "-"}), 0, 4)
	p := v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "name"))}}
	for _, r := range ranges.Draw(t, "ranges") {
		p.Spec.Ranges = append(p.Spec.Ranges, v1alpha1.PortRange(r))
	}
	p.Status.Armed = ranges.Draw(t, "armed")
	for _, r := range ranges.Draw(t, "reserved") {
		p.Spec.Reserved = append(p.Spec.Reserved, v1alpha1.ReservedPorts{Ports: v1alpha1.PortRange(r)})
	}
	p.Spec.Unclaimed = rapid.SampledFrom([]v1alpha1.Unclaimed{"", v1alpha1.UnclaimedDrop, v1alpha1.UnclaimedAudit, v1alpha1.UnclaimedIgnore, "Later"}).Draw(t, "unclaimed")
	p.Spec.Guardrails = anyRails(t)
	p.Spec.CloudFirewalls = rapid.SliceOfNDistinct(rapid.SampledFrom([]v1alpha1.ObjectName{"aws-prod", "aws-test"}), 0, 2, rapid.ID).Draw(t, "firewalls")
	return p
}

func anyRails(t *rapid.T) (g v1alpha1.Guardrails) {
	limit := rapid.SampledFrom([]int32{0, 8, 16, 20, 24})
	if n := limit.Draw(t, "widest IPv4"); n > 0 {
		g.WidestIPv4 = &n
	}
	if n := limit.Draw(t, "widest IPv6"); n > 0 {
		g.WidestIPv6 = ptr.To(2 * n)
	}
	if n := rapid.SampledFrom([]int64{0, 1, 300, 70000}).Draw(t, "most addresses"); n > 0 {
		g.MaxAddresses = &n
	}
	if n := rapid.Int32Range(0, 3).Draw(t, "most networks"); n > 0 {
		g.MaxCIDRs = &n
	}
	permission := rapid.SampledFrom([]v1alpha1.Permission{v1alpha1.Deny, v1alpha1.Allow})
	g.World, g.Audit = permission.Draw(t, "world"), permission.Draw(t, "audit")
	g.AllowedSources = rapid.SliceOfN(rapid.SampledFrom([]v1alpha1.CIDR{"10.0.0.0/8", "203.0.112.0/20", "2001:db8::/32", "0.0.0.0/1", "128.0.0.0/1", "x"}), 0, 3).Draw(t, "allowed")
	return g
}

func anySets(t *rapid.T) (sets []v1alpha1.AddressSet) {
	for _, name := range []string{"office", "partner"} {
		if rapid.Bool().Draw(t, name) {
			set := v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: name}}
			set.Spec.CIDRs = rapid.SliceOfN(rapid.Custom(anyCIDR), 0, 4).Draw(t, "cidrs")
			sets = append(sets, set)
		}
	}
	for _, list := range []List{{"aws-prod", "pl-1"}, {"aws-test", "pl-1"}, {"aws-prod", "pl-2"}} {
		if !rapid.Bool().Draw(t, list.setName()) {
			continue
		}
		of := list.Sets(parseSources(rapid.SliceOfN(rapid.Custom(anyCIDR), 0, 4).Draw(t, "entries")), nil)
		of[0].Spec.CIDRs = append(of[0].Spec.CIDRs, rapid.SliceOfN(rapid.Custom(anyCIDR), 0, 1).Draw(t, "by hand")...)
		sets = append(sets, of...)
	}
	return sets
}

func anyCIDR(t *rapid.T) v1alpha1.CIDR {
	return v1alpha1.CIDR(rapid.SampledFrom([]string{
		"203.0.113.0/24", "203.0.112.0/24", "203.0.113.9/24", "10.8.0.0/16", "10.9.0.0/16", "10.8.7.0/24", "0.0.0.0/1", "128.0.0.0/1", "0.0.0.0/0",
		"::/0", "::/1", "8000::/1", "2001:db8::/48", "2001:db8:1::/48", "::ffff:10.0.0.0/104", "10.0.0.0", "", "x/8", "fe80::1%eth0/64",
	}).Draw(t, "cidr"))
}

func anyAllocation(t *rapid.T) v1alpha1.NodePortAllocation {
	protocol := rapid.SampledFrom([]v1alpha1.Protocol{"TCP", "UDP", "SCTP", "ICMP", ""})
	a := v1alpha1.NodePortAllocation{}
	a.Name = rapid.SampledFrom([]string{"30000", "30005", "30006", "30007", "40000", "22", "0", "", "030005", "x", "70000"}).Draw(t, "name")
	a.Spec.State = rapid.SampledFrom([]v1alpha1.AllocationState{"Open", "Open", "Closed", "Foreign", "", "Later"}).Draw(t, "state")
	a.Spec.Grandfathered = rapid.Bool().Draw(t, "grandfathered")
	a.Spec.Pool = rapid.SampledFrom([]string{"0", "1", "2", "gone"}).Draw(t, "pool")
	a.Spec.Protocols = rapid.SliceOfN(protocol, 0, 3).Draw(t, "protocols")
	anyGate(t, &a.Spec)
	if rapid.Bool().Draw(t, "selects nodes") {
		a.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"role": rapid.SampledFrom([]string{"edge", "core"}).Draw(t, "on")}}
	}
	for _, p := range rapid.SliceOfN(protocol, 0, 3).Draw(t, "ports") {
		port := anyClaimedPort(t)
		port.Protocol = p
		a.Spec.Ports = append(a.Spec.Ports, port)
	}
	return a
}

func anyClaimedPort(t *rapid.T) v1alpha1.ClaimedPort {
	return v1alpha1.ClaimedPort{
		Port:        443,
		Sources:     rapid.SliceOfN(rapid.Custom(anyCIDR), 0, 5).Draw(t, "sources"),
		AddressSets: rapid.SliceOfN(rapid.SampledFrom([]v1alpha1.ObjectName{"office", "partner", "gone"}), 0, 3).Draw(t, "sets"),
		PrefixLists: rapid.SliceOfN(rapid.SampledFrom([]v1alpha1.PrefixListID{"pl-1", "pl-2", "pl-3"}), 0, 2).Draw(t, "lists"),
		Peers:       rapid.SliceOfN(rapid.Custom(anyPeer), 0, 2).Draw(t, "peers"),
		World:       rapid.IntRange(0, 9).Draw(t, "world") == 0,
	}
}

func anyPeer(t *rapid.T) v1alpha1.Peer {
	return v1alpha1.Peer{
		ID:      rapid.SampledFrom([]v1alpha1.SecurityGroupID{"sg-1", "sg-2", ""}).Draw(t, "group"),
		Sources: rapid.SliceOfN(rapid.Custom(anyCIDR), 0, 2).Draw(t, "bounds"),
	}
}
