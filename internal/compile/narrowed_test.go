package compile

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// A policy that can't be honoured never widens what it had, and keeps nothing that it
// no longer names: whatever it named before and names now, and whether it names it
// itself or takes the pool's defaults.
//
// This is said of what the allocation names. Guard-rails judge that again with each
// change, so a set may be let in when what stood in its way has gone.
func TestRefusedPoliciesOnlyNarrow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cluster, before, service := anyNarrowing(t)
		wish, refusal := NewWish(before, service, cluster)
		if refusal != nil {
			t.Fatal(refusal)
		}
		a := v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: "30007"}, Spec: wish.Claim(wish.Numbers[0], "web")}
		had := a.DeepCopy()

		after := before.DeepCopy()
		after.Spec.Sources = anySources(t)
		now := metav1.NewMicroTime(clock)
		spec := Allocation(&a, after, nil, &Refusal{Reason: v1alpha1.ReasonInvalid}, []v1alpha1.NodePortAllocation{a}, cluster, now)
		plan := *wish
		plan.Planned = true
		if planned := Allocation(&a, after, &plan, nil, []v1alpha1.NodePortAllocation{a}, cluster, now); !slices.EqualFunc(planned.Ports, spec.Ports, samePort) {
			t.Fatalf("a plan keeps %+v, a refusal %+v", planned.Ports, spec.Ports)
		}
		for i, p := range spec.Ports {
			sources, _, _ := sourcesOf(after, cluster.Pools[0].NodePortPool)
			has, hadBefore, named := cluster.Places.reach(p), cluster.Places.reach(had.Spec.Ports[i]), cluster.Places.reach(names(sources, p.Name))
			if !rule.CoversAll(hadBefore, has) {
				t.Fatalf("widened: %v, had %v", has, hadBefore)
			}
			if !rule.CoversAll(named, has) {
				t.Fatalf("kept what is not named: %v, names %v", has, named)
			}
			for _, groups := range [][]v1alpha1.SecurityGroupID{nil, {"sg-1"}, {"sg-2"}, {"sg-1", "sg-2"}} {
				passes := func(p v1alpha1.ClaimedPort) []netip.Prefix { return cluster.Places.passes(p, groups) }
				if was := passes(had.Spec.Ports[i]); !rule.CoversAll(was, passes(p)) {
					t.Fatalf("widened for members of %v: %v, had %v", groups, passes(p), was)
				}
				if names := passes(names(sources, p.Name)); !rule.CoversAll(names, passes(p)) {
					t.Fatalf("kept what is not named for members of %v: %v, names %v", groups, passes(p), names)
				}
			}
			if p.World && !had.Spec.Ports[i].World {
				t.Fatal("opened the world")
			}
			// Of its networks and of the world it keeps all that is named still.
			kept := rule.Intersect(networksOf(had.Spec.Ports[i]), networksOf(names(sources, p.Name)))
			now := cluster.allowed(after, cluster.Pools[0].NodePortPool, p)
			if !now.world { // and that the pool allows now
				kept = rule.Intersect(kept, now.networks)
			}
			if !rule.CoversAll(has, kept) {
				t.Fatalf("lost some of %v: has %v", kept, has)
			}
			allowed := v1alpha1.ClaimedPort{Sources: spell(now.networks), Peers: now.peers, AddressSets: now.sets, PrefixLists: now.lists, Entities: now.entities, World: now.world}
			if !rule.CoversAll(cluster.Places.reach(allowed), has) {
				t.Fatalf("kept what the pool no longer allows: %v, allows %v", has, cluster.Places.reach(allowed))
			}
		}
		if !slices.EqualFunc(a.Spec.Ports, had.Spec.Ports, samePort) {
			t.Fatal("the input was changed")
		}
	})
}

// Nor does it end later than it did, or than it says now.
func TestRefusedPoliciesEndWhenEitherSays(t *testing.T) {
	soon, late := &metav1.Time{Time: clock.Add(time.Hour)}, &metav1.Time{Time: clock.Add(2 * time.Hour)}
	for _, c := range []struct {
		name               string
		before, says, want *metav1.Time
	}{
		{"neither", nil, nil, nil},
		{"it gets an end", nil, soon, soon},
		{"a sooner one", late, soon, soon},
		{"a later one", soon, late, soon},
		{"none any more", soon, nil, soon},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := version("30007", "1")
			a.Spec = v1alpha1.NodePortAllocationSpec{State: v1alpha1.AllocationOpen, Pool: "web", ExpiresAt: c.before}
			policy := &v1alpha1.NodePortPolicy{Spec: v1alpha1.NodePortPolicySpec{ExpiresAt: c.says}}
			got := Allocation(a, policy, nil, &Refusal{Reason: v1alpha1.ReasonPinOutsidePool}, nil, Cluster{}, metav1.NewMicroTime(clock))
			if got.State != v1alpha1.AllocationOpen || !got.ExpiresAt.Equal(c.want) {
				t.Errorf("%s until %v, want %v", got.State, got.ExpiresAt, c.want)
			}
		})
	}
}

func samePort(a, b v1alpha1.ClaimedPort) bool {
	return a.Protocol == b.Protocol && a.World == b.World && slices.Equal(a.Sources, b.Sources) && slices.Equal(a.AddressSets, b.AddressSets) && slices.Equal(a.Entities, b.Entities) &&
		slices.Equal(a.PrefixLists, b.PrefixLists) && slices.EqualFunc(a.Peers, b.Peers, func(a, b v1alpha1.Peer) bool { return a.ID == b.ID && slices.Equal(a.Sources, b.Sources) })
}

// passes is who comes in that is a member of the groups: whom both nodes and a cloud
// let in.
func (p Places) passes(port v1alpha1.ClaimedPort, groups []v1alpha1.SecurityGroupID) []netip.Prefix {
	cloud := port
	cloud.Peers = nil
	if slices.ContainsFunc(port.Peers, func(peer v1alpha1.Peer) bool { return slices.Contains(groups, peer.ID) }) {
		return p.reach(port)
	}
	return rule.Intersect(p.reach(port), p.reach(cloud))
}

// reach is all that a port names, unjudged.
func (p Places) reach(port v1alpha1.ClaimedPort) []netip.Prefix {
	if port.World {
		return rule.World
	}
	var all []netip.Prefix
	for _, c := range ownNetworks(port) {
		if prefix, ok := parseCIDR(c); ok {
			all = append(all, prefix)
		}
	}
	for _, set := range port.AddressSets {
		all = append(all, p.sets[string(set)].prefixes...)
	}
	for _, id := range port.PrefixLists {
		list, _ := p.list(rails{firewalls: []v1alpha1.ObjectName{"aws-prod"}}, id)
		all = append(all, list.prefixes...)
	}
	for _, e := range port.Entities {
		all = append(all, p.entity(e)...)
	}
	return rule.Canonical(all)
}

// names is a port that admits what the sources name for it.
func names(sources []v1alpha1.Source, port string) (p v1alpha1.ClaimedPort) {
	for _, s := range sources {
		switch {
		case len(s.Ports) > 0 && !slices.Contains(s.Ports, port):
		case s.AddressSet != "":
			p.AddressSets = append(p.AddressSets, s.AddressSet)
		case s.PrefixList != "":
			p.PrefixLists = append(p.PrefixLists, s.PrefixList)
		case s.SecurityGroup != "":
			p.Peers = append(p.Peers, v1alpha1.Peer{ID: s.SecurityGroup, Sources: spell(rule.Subtract(parseSources([]v1alpha1.CIDR{s.CIDR}), parseSources(s.Except)))})
		case s.CIDR != "":
			p.Sources = append(p.Sources, spell(rule.Subtract(parseSources([]v1alpha1.CIDR{s.CIDR}), parseSources(s.Except)))...)
		case s.Entity != v1alpha1.EntityWorld:
			p.Entities = append(p.Entities, s.Entity)
		default:
			p.World = true
		}
	}
	return p
}

func networksOf(p v1alpha1.ClaimedPort) []netip.Prefix {
	if p.World {
		return rule.World
	}
	return parseSources(p.Sources)
}

func anyNarrowing(t *rapid.T) (Cluster, *v1alpha1.NodePortPolicy, *corev1.Service) {
	pool := aged("web", 1, "30000-30009")
	pool.Spec.AllocateTo.Namespaces = []v1alpha1.NamespaceName{"shop"}
	pool.Spec.Guardrails = anyRails(t)
	pool.Spec.CloudFirewalls = []v1alpha1.ObjectName{"aws-prod"}
	pool.Spec.Guardrails.PrefixLists = []v1alpha1.PrefixListID{"pl-1", "pl-2"}
	pool.Spec.Guardrails.SecurityGroups = []v1alpha1.SecurityGroupID{"sg-1", "sg-2"}
	for _, s := range anySources(t) {
		if s.PrefixList != "" || s.SecurityGroup != "" {
			continue
		}
		pool.Spec.DefaultSources = append(pool.Spec.DefaultSources, v1alpha1.DefaultSource{CIDR: s.CIDR, AddressSet: s.AddressSet, Entity: s.Entity})
	}
	sets := []v1alpha1.AddressSet{
		setOf("office", rapid.SliceOfN(rapid.Custom(anyNetwork), 0, 3).Draw(t, "office")...),
		setOf("partner", rapid.SliceOfN(rapid.Custom(anyNetwork), 0, 3).Draw(t, "partner")...),
		nodeSet(0, "10.8.4.7/32", "203.0.113.7/32"),
	}
	sets = append(sets, List{"aws-prod", "pl-1"}.Sets(parseSources(rapid.SliceOfN(rapid.Custom(anyNetwork), 0, 3).Draw(t, "list")), nil)...)
	installation := &v1alpha1.Portreeve{}
	installation.Spec.ClusterCIDRs = rapid.SliceOfN(rapid.Custom(anyNetwork), 0, 2).Draw(t, "cluster")
	for i := range sets {
		sets[i].Spec.AllowedFor = &v1alpha1.NamespaceChoice{}
	}
	pools := []v1alpha1.NodePortPool{pool}
	seen := healthy()
	policy := seen.Policy
	policy.Spec.Ports = []v1alpha1.PolicyPort{{Name: "https"}}
	policy.Spec.Sources = anySources(t)
	return Cluster{Pools: Owned(pools, Limits{}), Places: NewPlaces(pools, sets).Within(installation), Now: clock}, policy, seen.Service
}

// anySources are nil in one of four cases.
func anySources(t *rapid.T) []v1alpha1.Source {
	if rapid.IntRange(0, 3).Draw(t, "absent") == 0 {
		return nil
	}
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) (s v1alpha1.Source) {
		switch rapid.IntRange(0, 8).Draw(t, "kind") {
		case 0:
			s.Entity = rapid.SampledFrom([]v1alpha1.Entity{v1alpha1.EntityWorld, v1alpha1.EntityNodes, v1alpha1.EntityCluster}).Draw(t, "entity")
		case 1, 2:
			s.AddressSet = rapid.SampledFrom([]v1alpha1.ObjectName{"office", "partner", "gone"}).Draw(t, "set")
		case 3:
			s.PrefixList = rapid.SampledFrom([]v1alpha1.PrefixListID{"pl-1", "pl-2", "pl-3"}).Draw(t, "list")
		default:
			s.CIDR = anyNetwork(t)
			s.Except = rapid.SliceOfN(rapid.Custom(anyNetwork), 0, 2).Draw(t, "except")
			s.SecurityGroup = rapid.SampledFrom([]v1alpha1.SecurityGroupID{"", "", "sg-1", "sg-2"}).Draw(t, "group")
		}
		if rapid.IntRange(0, 3).Draw(t, "limited") == 0 {
			s.Ports = []string{rapid.SampledFrom([]string{"https", "http"}).Draw(t, "to")}
		}
		return s
	}), 0, 5).Draw(t, "sources")
}

func anyNetwork(t *rapid.T) v1alpha1.CIDR {
	return v1alpha1.CIDR(rapid.SampledFrom([]string{
		"10.8.0.0/16", "10.8.4.0/22", "10.8.4.0/24", "10.8.5.0/24", "10.8.4.7/32", "10.9.0.0/16", "10.0.0.0/8", "0.0.0.0/1", "128.0.0.0/1", "203.0.113.0/24", "2001:db8::/32", "2001:db8:7::/48", "::/1", "8000::/1",
	}).Draw(t, "network"))
}
