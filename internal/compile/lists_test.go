package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

var listed = List{"aws-prod", "pl-1"}

// entriesOf is a list of n networks.
func entriesOf(n int) (out []netip.Prefix) {
	for i := range n {
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 25))
	}
	return out
}

func TestListSets(t *testing.T) {
	first := listed.Sets(entriesOf(150), nil)
	if len(first) != 2 || len(first[0].Spec.CIDRs) != 100 || len(first[1].Spec.CIDRs) != 50 {
		t.Fatalf("%q", spelledSets(first))
	}
	for i, s := range first {
		s.Annotations = nil // agents have none
		if id, is := ListID(&s); !is || id != "pl-1" || !listed.Has(&s) || s.Spec.AllowedFor != nil || !strings.HasSuffix(s.Name, fmt.Sprint("-", i)) {
			t.Errorf("%s is of %v, %v", s.Name, id, is)
		}
	}
	more := listed.Sets(append(entriesOf(150), netip.MustParsePrefix("192.0.2.0/24")), first)
	if !slices.Equal(more[0].Spec.CIDRs, first[0].Spec.CIDRs) || len(more[1].Spec.CIDRs) != 51 {
		t.Errorf("one more entry: %q", spelledSets(more))
	}
	if less := listed.Sets(nil, first); len(less) != 2 || len(less[0].Spec.CIDRs)+len(less[1].Spec.CIDRs) != 0 {
		t.Errorf("no entry any more: %q", spelledSets(less))
	}
	// A list without entries is known all the same.
	squatter := setOf(listed.setName()+"0", "203.0.113.0/24")
	empty := listed.Sets(nil, []v1alpha1.AddressSet{squatter})
	if len(empty) != 1 || empty[0].Name != listed.setName()+"1" || len(empty[0].Spec.CIDRs) != 0 {
		t.Errorf("an empty list: %q", spelledSets(empty))
	}
	for _, other := range []List{{"aws-prod", "pl-2"}, {"aws-test", "pl-1"}} {
		if sets := other.Sets(entriesOf(1), first); len(sets) != 1 || sets[0].Name == first[0].Name || listed.Has(&sets[0]) {
			t.Errorf("%v shares %q with %v", other, spelledSets(sets), listed)
		}
	}
	longest := List{v1alpha1.ObjectName(strings.Repeat("f", 253)), v1alpha1.PrefixListID("pl-" + strings.Repeat("a", 60))}
	if name := longest.Sets(nil, nil)[0].Name; len(name) > 253 {
		t.Errorf("%s has %d characters", name, len(name))
	}
}

// Whatever comes and goes: the sets hold exactly the entries, each once, none in a set
// that is too large, and the outcome stands.
func TestListSetsFollowTheList(t *testing.T) {
	all := entriesOf(350)
	rapid.Check(t, func(t *rapid.T) {
		var sets []v1alpha1.AddressSet
		for range rapid.IntRange(1, 4).Draw(t, "turns") {
			want := rapid.SliceOfNDistinct(rapid.SampledFrom(all), 0, 350, rapid.ID[netip.Prefix]).Draw(t, "entries")
			sets = listed.Sets(want, sets)
			places := NewPlaces([]v1alpha1.NodePortPool{listing("pl-1")}, rapid.Permutation(sets).Draw(t, "order"))
			entries, known := places.list(places.rails["web"], "pl-1")
			if have := rule.Canonical(entries.prefixes); !known || !slices.Equal(have, rule.Canonical(want)) || len(entries.prefixes) != len(want) {
				t.Fatalf("the sets hold %v, the list %v", have, want)
			}
			for _, s := range sets {
				if len(s.Spec.CIDRs) > shardSize {
					t.Fatalf("%s has %d entries", s.Name, len(s.Spec.CIDRs))
				}
			}
			if again := listed.Sets(rapid.Permutation(want).Draw(t, "entries"), rapid.Permutation(sets).Draw(t, "sets")); !slices.Equal(spelledSets(again), spelledSets(sets)) {
				t.Fatalf("%q became %q", spelledSets(sets), spelledSets(again))
			}
		}
	})
}

func TestUsableEntries(t *testing.T) {
	for _, c := range []struct {
		name    string
		entries []string
		want    []string
		problem bool
	}{
		{"none", nil, nil, false},
		{"joined", []string{"10.8.0.0/17", "10.8.128.0/17", "10.8.7.9/24", "2001:db8::/48"}, []string{"10.8.0.0/16", "2001:db8::/48"}, false},
		{"the world", []string{"0.0.0.0/0", "2001:db8::/48"}, []string{"2001:db8::/48"}, true},
		{"the world in halves", []string{"::/1", "8000::/1", "10.8.0.0/16"}, []string{"10.8.0.0/16"}, true},
		{"what no packet of either family has", []string{"::ffff:10.0.0.0/104", "10.8.0.0/16"}, []string{"10.8.0.0/16"}, false},
	} {
		entries := []netip.Prefix{{}}
		for _, e := range c.entries {
			entries = append(entries, netip.MustParsePrefix(e))
		}
		got, problem := listed.Usable(entries)
		if !slices.Equal(texts(got), c.want) || (problem != "") != c.problem {
			t.Errorf("%s: %q, %q; want %q", c.name, texts(got), problem, c.want)
		}
	}
}

// listing is a pool that lists prefix lists, gated by aws-prod.
func listing(ids ...v1alpha1.PrefixListID) v1alpha1.NodePortPool {
	return v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: v1alpha1.NodePortPoolSpec{
		CloudFirewalls: []v1alpha1.ObjectName{"aws-prod"}, Guardrails: v1alpha1.Guardrails{PrefixLists: ids},
	}}
}

// A cloud is asked for what pools allow and somebody names; and nothing that nodes still
// go by is thrown away.
func TestWhatACloudIsAskedFor(t *testing.T) {
	claim := func(pool string, state v1alpha1.AllocationState, port v1alpha1.ClaimedPort, firewalls ...v1alpha1.ObjectName) v1alpha1.NodePortAllocation {
		return v1alpha1.NodePortAllocation{Spec: v1alpha1.NodePortAllocationSpec{Pool: pool, State: state, Ports: []v1alpha1.ClaimedPort{port}, CloudFirewalls: firewalls}}
	}
	lists := func(ids ...v1alpha1.PrefixListID) v1alpha1.ClaimedPort { return v1alpha1.ClaimedPort{PrefixLists: ids} }
	group := v1alpha1.ClaimedPort{Peers: []v1alpha1.Peer{{ID: "sg-2"}, {ID: "sg-1"}}}
	open, closed := v1alpha1.AllocationOpen, v1alpha1.AllocationClosed
	for _, c := range []struct {
		name        string
		allocations []v1alpha1.NodePortAllocation
		want        string
	}{
		{"what a policy names", nil, "[pl-1] [] []"},
		{"what an open port goes by", []v1alpha1.NodePortAllocation{claim("web", open, lists("pl-2", "pl-4"))}, "[pl-1 pl-2] [] []"},
		{"not what a closed one did", []v1alpha1.NodePortAllocation{claim("web", closed, lists("pl-2")), claim("web", closed, group, "aws-prod")}, "[pl-1] [] []"},
		{"what a port of a pool that is gone goes by stays", []v1alpha1.NodePortAllocation{claim("gone", open, lists("pl-9"))}, "[pl-1] [] [pl-9]"},
		{"groups of ports that it gates", []v1alpha1.NodePortAllocation{claim("web", open, group, "aws-prod"), claim("web", open, v1alpha1.ClaimedPort{Peers: []v1alpha1.Peer{{ID: "sg-3"}}}, "aws-test")}, "[pl-1] [sg-1 sg-2] []"},
	} {
		other := listing("pl-1", "pl-5")
		other.Name, other.Spec.CloudFirewalls = "other", []v1alpha1.ObjectName{"aws-test"}
		named := func(id v1alpha1.PrefixListID) bool { return id == "pl-1" || id == "pl-5" || id == "pl-3" }
		got := LookupsOf("aws-prod", []v1alpha1.NodePortPool{listing("pl-2", "pl-1"), other}, named, c.allocations)
		if text := fmt.Sprint(got.Lists, got.Groups, got.Orphans); text != c.want {
			t.Errorf("%s: %s, want %s", c.name, text, c.want)
		}
		for _, id := range slices.Concat(got.Lists, got.Orphans) {
			if !got.Keeps(id) || got.Keeps("pl-8") {
				t.Errorf("%s: keeps %v: %v", c.name, id, got.Keeps(id))
			}
		}
	}
}

// An agent judges by the sets that it has read; those of a prefix list are among them.
func TestPrefixListsMustBeProved(t *testing.T) {
	sets := slices.Concat(listed.Sets(entriesOf(150), nil), List{"aws-test", "pl-1"}.Sets(nil, nil))
	for i, version := range []string{"50", "55", "58"} {
		sets[i].ResourceVersion = version
	}
	proof := Proof{Listed: "100", ListedSets: "60", Places: NewPlaces([]v1alpha1.NodePortPool{listing("pl-1")}, sets)}
	a := version("30007", "99")
	a.Spec = v1alpha1.NodePortAllocationSpec{State: v1alpha1.AllocationOpen, Pool: "web", Ports: []v1alpha1.ClaimedPort{{Protocol: "TCP", PrefixLists: []v1alpha1.PrefixListID{"pl-1"}}}}
	for mark, want := range map[string]string{"55": "", "54": NodePending, "": NodePending, "61": NodeUnconfirmed} {
		n := node("a", marks(func(m *v1alpha1.Marks) { m.AddressSets = mark }))
		if got := proof.Missing(n, a); got != want {
			t.Errorf("mark %q: %q, want %q", mark, got, want)
		}
	}
}

func TestCloudPoolsSayWhatEachPoolMayTake(t *testing.T) {
	web, api, audited := aged("web", 3, "30000-30009"), aged("api", 2, "30005-30019"), aged("audited", 1, "30020-30029")
	web.Status.Armed, api.Status.Armed, audited.Status.Armed = []string{"30000-30007"}, []string{"30010-30019"}, []string{"30020-30029"}
	web.Spec.Quota.CloudRules = 12
	web.Spec.Reserved = []v1alpha1.ReservedPorts{{Ports: "30002"}}
	audited.Spec.Unclaimed = v1alpha1.UnclaimedAudit
	foreign := *version("30004", "1")
	foreign.Spec.State = v1alpha1.AllocationForeign
	open := *version("30005", "1")
	open.Spec.State = v1alpha1.AllocationOpen
	got := CloudPools(Owned([]v1alpha1.NodePortPool{web, api, audited}, Limits{}), []v1alpha1.NodePortAllocation{foreign, open})
	for name, want := range map[string]string{
		"web":     "[30000-30001 30003 30005-30007] 12",
		"api":     "[30010-30019] 0",
		"audited": "[] 0",
	} {
		if p := got[name]; fmt.Sprint(p.Ports.Strings(), p.Rules) != want {
			t.Errorf("%s: %v %d, want %s", name, p.Ports.Strings(), p.Rules, want)
		}
	}
}
