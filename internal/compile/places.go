package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// Places gives the names in policies and allocations their addresses: AddressSets and
// entities, within the guard-rails of pools. The manager, the nodes and the clouds all ask it,
// so they agree on who is meant. The zero value knows no set and no guard-rail.
type Places struct {
	sets  map[string]place
	lists map[string]place // prefix lists, by the name that their AddressSets share
	rails map[string]rails
	// nodes are all AddressSets with addresses of Nodes, as if they were one; cluster and
	// denied are what the installation says; see Within.
	nodes   place
	cluster []netip.Prefix
	denied  []v1alpha1.ObjectName
	// walls are the cloud firewalls, and ground the labels of the nodes; see Behind.
	walls  map[v1alpha1.ObjectName]wall
	ground []labels.Set
}

// place is an AddressSet.
type place struct {
	prefixes []netip.Prefix
	allowed  labels.Selector // of the namespaces that may refer to it
	version  string
}

// rails are a pool's guard-rails on what one port may admit; zero: no limit.
type rails struct {
	pool             string
	widest4, widest6 int
	maxAddresses     uint64
	maxCIDRs         int
	world, audit     bool
	bounded          bool           // all sources must lie
	within           []netip.Prefix // these, canonical
	sets, firewalls  []v1alpha1.ObjectName
	lists            []v1alpha1.PrefixListID
	groups           []v1alpha1.SecurityGroupID
	version          string          // of the pool
	nodes            labels.Selector // on which its ports may answer
}

// NewPlaces reads AddressSets and the guard-rails of pools. What can't be read in
// them admits nobody.
func NewPlaces(pools []v1alpha1.NodePortPool, sets []v1alpha1.AddressSet) Places {
	p := Places{sets: make(map[string]place, len(sets)), lists: map[string]place{}, rails: make(map[string]rails, len(pools))}
	for _, set := range sets {
		known := place{version: set.ResourceVersion, allowed: labels.Nothing()}
		for _, c := range set.Spec.CIDRs {
			if prefix, ok := parseCIDR(c); ok && prefix.Bits() > 0 {
				known.prefixes = append(known.prefixes, prefix)
			}
		}
		if set.Spec.AllowedFor != nil {
			known.allowed = selects(&set.Spec.AllowedFor.NamespaceSelector)
		}
		p.sets[set.Name] = known
		if IsNodeSet(&set) {
			p.nodes.prefixes = append(p.nodes.prefixes, known.prefixes...)
			p.nodes.version = newest(p.nodes.version, known.version)
		}
		if _, is := ListID(&set); is {
			list, _ := listSetName(set.Name)
			before := p.lists[list]
			p.lists[list] = place{prefixes: slices.Concat(before.prefixes, known.prefixes), version: newest(before.version, known.version)}
		}
	}
	for i := range pools {
		p.rails[pools[i].Name] = railsOf(&pools[i])
	}
	return p
}

func railsOf(pool *v1alpha1.NodePortPool) rails {
	g := pool.Spec.Guardrails
	r := rails{
		pool: pool.Name, world: g.World == v1alpha1.Allow, audit: g.Audit == v1alpha1.Allow, bounded: len(g.AllowedSources) > 0,
		sets: g.AddressSets, firewalls: pool.Spec.CloudFirewalls, lists: g.PrefixLists, groups: g.SecurityGroups, version: pool.ResourceVersion,
	}
	if g.WidestIPv4 != nil {
		r.widest4 = int(*g.WidestIPv4)
	}
	if g.WidestIPv6 != nil {
		r.widest6 = int(*g.WidestIPv6)
	}
	if g.MaxAddresses != nil {
		r.maxAddresses = uint64(max(*g.MaxAddresses, 0))
	}
	if g.MaxCIDRs != nil {
		r.maxCIDRs = int(*g.MaxCIDRs)
	}
	r.nodes = orAll(g.AllowedNodes)
	for _, c := range g.AllowedSources {
		if prefix, ok := parseCIDR(c); ok {
			r.within = append(r.within, prefix)
		}
	}
	r.within = rule.Canonical(r.within)
	return r
}

// selects reads a label selector; one that can't be read selects nothing.
func selects(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

// Admitted returns, canonically, whom nodes admit to an allocation's port: its own
// networks, which were judged when they were written, and what its AddressSets, prefix
// lists and entities hold now, as far as the guard-rails of the pool let them. Where the
// pool is not known, neither are they, and the sets admit nobody.
func (p Places) Admitted(pool string, port v1alpha1.ClaimedPort) []netip.Prefix {
	if port.World {
		return rule.World
	}
	own, byName := p.admitted(pool, port)
	return rule.Canonical(slices.Concat(own, byName))
}

// admitted is whom a port admits by its own networks, and by the names in it.
func (p Places) admitted(pool string, port v1alpha1.ClaimedPort) (own, byName []netip.Prefix) {
	own = parseSources(ownNetworks(port))
	rails, known := p.rails[pool]
	if !namesPlaces(port) || !known {
		return own, nil
	}
	entries := []candidate{{prefixes: own, judged: true}}
	for _, name := range port.AddressSets {
		entries = append(entries, candidate{prefixes: p.sets[string(name)].prefixes})
	}
	for _, id := range port.PrefixLists {
		list, _ := p.list(rails, id)
		entries = append(entries, candidate{prefixes: list.prefixes})
	}
	for _, e := range port.Entities {
		entries = append(entries, candidate{prefixes: p.entity(e)})
	}
	parts, _ := rails.judge("", entries)
	return parts[0], slices.Concat(parts[1:]...)
}

// namesPlaces says whether a port admits by names, which nodes resolve.
func namesPlaces(p v1alpha1.ClaimedPort) bool {
	return len(p.AddressSets)+len(p.PrefixLists)+len(p.Entities) > 0
}

// version is the resource version of an AddressSet, "" if there is none.
func (p Places) version(set v1alpha1.ObjectName) string { return p.sets[string(set)].version }

// candidate is one part of what a port is to admit.
type candidate struct {
	what     string // as a problem names it
	prefixes []netip.Prefix
	set      v1alpha1.ObjectName      // "" unless it is an AddressSet
	list     v1alpha1.PrefixListID    // "" unless it is a prefix list
	entity   v1alpha1.Entity          // "" unless it is one
	group    v1alpha1.SecurityGroupID // that the prefixes bound; "" for none
	judged   bool                     // before: stands, whatever the guard-rails say now
}

// judge returns what of each entry a port may admit, and says what not and why.
//
// Outside the allowed sources nothing stands. Then the union of all is judged: what
// lies in a part of it that is too wide admits nobody, whoever named it. Last, in
// their order, entries stand while the union is small enough.
func (r rails) judge(port string, entries []candidate) (parts [][]netip.Prefix, problems []string) {
	parts = make([][]netip.Prefix, len(entries))
	var all []netip.Prefix
	for i, e := range entries {
		var problem string
		parts[i], problem = r.inside(e)
		if problem != "" {
			problems = append(problems, problem)
		}
		all = append(all, parts[i]...)
	}
	nobody := "and admit nobody there"
	if slices.ContainsFunc(entries, func(e candidate) bool { return e.judged }) {
		nobody = fmt.Sprintf("so the %s among them admit nobody there", kindsOf(entries))
	}
	for _, wide := range rule.Canonical(all) {
		if wide.Bits() >= max(r.widest(wide.Addr()), 1) {
			continue
		}
		if wide.Bits() == 0 {
			problems = append(problems, fmt.Sprintf("the sources of port %s together are the whole world (%s), which CIDRs may not open, and admit nobody; name narrower networks", port, wide))
		} else {
			problems = append(problems, fmt.Sprintf("the sources of port %s together hold %s, wider than the /%d that pool %s allows, %s; name narrower networks", port, wide, r.widest(wide.Addr()), r.pool, nobody))
		}
		for i, e := range entries {
			if e.judged && wide.Bits() > 0 {
				continue
			}
			parts[i] = slices.DeleteFunc(parts[i], func(p netip.Prefix) bool { return rule.CoversPrefix(wide, p) })
		}
	}
	return parts, append(problems, r.count(port, entries, parts)...)
}

// kindsOf names what the entries are that are resolved anew each time.
func kindsOf(entries []candidate) string {
	kinds := []string{"AddressSets"}
	if slices.ContainsFunc(entries, func(e candidate) bool { return e.list != "" }) {
		kinds = append(kinds, "prefix lists")
	}
	if slices.ContainsFunc(entries, func(e candidate) bool { return e.entity != "" }) {
		kinds = append(kinds, "entities")
	}
	last := len(kinds) - 1
	return strings.Join(append([]string{strings.Join(kinds[:max(last, 1)], ", ")}, kinds[max(last, 1):]...), " and ")
}

// inside returns what of an entry lies within the allowed sources, and says what not.
func (r rails) inside(e candidate) (kept []netip.Prefix, problem string) {
	if e.judged || !r.bounded {
		return slices.Clone(e.prefixes), ""
	}
	var outside []netip.Prefix
	for _, p := range e.prefixes {
		if rule.Covers(r.within, p) {
			kept = append(kept, p)
		} else {
			outside = append(outside, p)
		}
	}
	if len(outside) == 0 {
		return kept, ""
	}
	what := e.what
	if e.set != "" || e.list != "" || len(e.prefixes) > 1 {
		what += " (" + shorten(outside) + ")"
	}
	return kept, fmt.Sprintf("%s is outside the sources that pool %s allows, and admits nobody; name networks within %s", what, r.pool, shorten(r.within))
}

func (r rails) widest(a netip.Addr) int {
	if a.Is4() {
		return r.widest4
	}
	return r.widest6
}

// count empties the parts that make the union larger than the pool allows.
func (r rails) count(port string, entries []candidate, parts [][]netip.Prefix) (problems []string) {
	if r.maxCIDRs == 0 && r.maxAddresses == 0 {
		return nil
	}
	var union []netip.Prefix
	for i := range parts {
		joined := rule.Canonical(slices.Concat(union, parts[i]))
		addresses := rule.CountAddresses(joined)
		switch {
		case entries[i].judged:
		case r.maxCIDRs > 0 && len(joined) > r.maxCIDRs:
			problems = append(problems, fmt.Sprintf("%s would bring port %s to %d networks, and pool %s allows %d, so it admits nobody; name fewer, or wider ones", entries[i].what, port, len(joined), r.pool, r.maxCIDRs))
			parts[i] = nil
			continue
		case r.maxAddresses > 0 && addresses > r.maxAddresses:
			problems = append(problems, fmt.Sprintf("%s would bring port %s to %d addresses, and pool %s allows %d, so it admits nobody; name narrower networks", entries[i].what, port, addresses, r.pool, r.maxAddresses))
			parts[i] = nil
			continue
		}
		union = joined
	}
	return problems
}

// shorten keeps messages readable.
func shorten(prefixes []netip.Prefix) string {
	const most = 4
	text := fmt.Sprint(prefixes[:min(len(prefixes), most)])
	if rest := len(prefixes) - most; rest > 0 {
		text += fmt.Sprintf(" and %d more", rest)
	}
	return text
}
