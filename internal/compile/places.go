package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

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
	rails map[string]rails
	// nodes are all AddressSets with addresses of Nodes, as if they were one; cluster and
	// denied are what the installation says; see Within.
	nodes   place
	cluster []netip.Prefix
	denied  []v1alpha1.ObjectName
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
	sets             []v1alpha1.ObjectName
	version          string // of the pool
}

// NewPlaces reads AddressSets and the guard-rails of pools. What can't be read in
// them admits nobody.
func NewPlaces(pools []v1alpha1.NodePortPool, sets []v1alpha1.AddressSet) Places {
	p := Places{sets: make(map[string]place, len(sets)), rails: make(map[string]rails, len(pools))}
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
		sets: g.AddressSets, version: pool.ResourceVersion,
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

// Admitted returns, canonically, who an allocation's port admits: its own networks,
// which were judged when they were written, and what its AddressSets and entities hold
// now, as far as the guard-rails of the pool let them. Where the pool is not known,
// neither are they, and the sets admit nobody.
func (p Places) Admitted(pool string, port v1alpha1.ClaimedPort) []netip.Prefix {
	if port.World {
		return rule.World
	}
	own := parseSources(port.Sources)
	rails, known := p.rails[pool]
	if len(port.AddressSets)+len(port.Entities) == 0 || !known {
		return own
	}
	entries := []candidate{{prefixes: own, judged: true}}
	for _, name := range port.AddressSets {
		entries = append(entries, candidate{prefixes: p.sets[string(name)].prefixes})
	}
	for _, e := range port.Entities {
		entries = append(entries, candidate{prefixes: p.entity(e)})
	}
	parts, _ := rails.judge("", entries)
	return rule.Canonical(slices.Concat(parts...))
}

// version is the resource version of an AddressSet, "" if there is none.
func (p Places) version(set v1alpha1.ObjectName) string { return p.sets[string(set)].version }

// candidate is one part of what a port is to admit.
type candidate struct {
	what     string // as a problem names it
	prefixes []netip.Prefix
	set      v1alpha1.ObjectName // "" unless it is an AddressSet
	entity   v1alpha1.Entity     // "" unless it is one
	judged   bool                // before: stands, whatever the guard-rails say now
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
		nobody = "so the AddressSets among them admit nobody there"
		if slices.ContainsFunc(entries, func(e candidate) bool { return e.entity != "" }) {
			nobody = "so the AddressSets and entities among them admit nobody there"
		}
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
	if e.set != "" || len(e.prefixes) > 1 {
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

// sourcesOf are a policy's sources in a pool: its own, or, where it names none, the
// pool's defaults.
func sourcesOf(policy *v1alpha1.NodePortPolicy, pool *v1alpha1.NodePortPool) (sources []v1alpha1.Source, field string, defaults bool) {
	if policy.Spec.Sources != nil || pool == nil {
		return policy.Spec.Sources, "sources", false
	}
	for _, d := range pool.Spec.DefaultSources {
		sources = append(sources, v1alpha1.Source{CIDR: d.CIDR, AddressSet: d.AddressSet, Entity: d.Entity})
	}
	return sources, fmt.Sprintf("pool %s: defaultSources", pool.Name), true
}

// admit fills in who may reach a port of the policy on a number of the pool, and
// says which entries contribute nothing.
func (c Cluster) admit(policy *v1alpha1.NodePortPolicy, pool *v1alpha1.NodePortPool, port v1alpha1.ClaimedPort) (v1alpha1.ClaimedPort, []string) {
	rails := c.Places.rails[pool.Name]
	sources, field, defaults := sourcesOf(policy, pool)
	var networks, sets, entities []candidate
	var problems []string
	for i, s := range sources {
		if len(s.Ports) > 0 && !slices.Contains(s.Ports, port.Name) {
			continue
		}
		e, problem := c.candidate(fmt.Sprintf("%s[%d]", field, i), s, policy.Namespace, rails, defaults)
		if problem != "" {
			problems = append(problems, problem)
			continue
		}
		switch {
		case s.Entity == v1alpha1.EntityWorld:
			port.World = true
		case s.Entity != "":
			if !slices.Contains(port.Entities, s.Entity) {
				port.Entities, entities = append(port.Entities, s.Entity), append(entities, e)
			}
		case e.set == "":
			networks = append(networks, e)
		case !slices.Contains(port.AddressSets, e.set):
			port.AddressSets = append(port.AddressSets, e.set)
			sets = append(sets, e)
		}
	}
	if port.World {
		port.AddressSets, port.Entities = nil, nil
		return port, problems
	}
	name := describePort(v1alpha1.PolicyPort{Name: port.Name, Port: port.Port})
	parts, refused := rails.judge(name, networks)
	broken := fit(name, networks, parts)
	own := rule.Canonical(slices.Concat(parts...))
	port.Sources = spell(own)
	// The sets are judged as Admitted does, now and whenever one of them changes: on top
	// of the networks, in the order of their names. A node that joins shuts out no set,
	// so entities come last.
	slices.Sort(port.AddressSets)
	slices.SortFunc(sets, func(a, b candidate) int { return cmp.Compare(a.set, b.set) })
	slices.Sort(port.Entities)
	slices.SortFunc(entities, func(a, b candidate) int { return cmp.Compare(a.entity, b.entity) })
	_, overflow := rails.judge(name, slices.Concat([]candidate{{prefixes: own, judged: true}}, sets, entities))
	return port, slices.Concat(problems, refused, broken, overflow)
}

// maxSources is what the schema of NodePortAllocation allows one port.
const maxSources = 256

// fit empties the parts that bring a port to more networks than its allocation can
// name: exceptions break a network up into many.
func fit(port string, entries []candidate, parts [][]netip.Prefix) (problems []string) {
	var union []netip.Prefix
	for i := range parts {
		joined := rule.Canonical(slices.Concat(union, parts[i]))
		if len(joined) > maxSources {
			problems = append(problems, fmt.Sprintf("%s would bring port %s to %d networks, and a port can have %d, so it admits nobody; except fewer or wider networks, or ask the platform team for an AddressSet", entries[i].what, port, len(joined), maxSources))
			parts[i] = nil
			continue
		}
		union = joined
	}
	return problems
}

// candidate resolves one source, or says why it admits nobody.
func (c Cluster) candidate(place string, s v1alpha1.Source, namespace string, r rails, defaults bool) (e candidate, problem string) {
	switch {
	case s.Entity != "":
		return c.Places.entityCandidate(place, s.Entity, r)
	case s.AddressSet != "":
		e = candidate{what: fmt.Sprintf("%s.addressSet %q", place, s.AddressSet), set: s.AddressSet, prefixes: c.Places.sets[string(s.AddressSet)].prefixes}
		return e, c.Places.refuseSet(e, r, labels.Set(c.Namespace), namespace, defaults)
	}
	e.what = fmt.Sprintf("%s.cidr %q", place, s.CIDR)
	prefix, ok := parseCIDR(s.CIDR)
	switch {
	case !ok:
		return e, e.what + " is not a network in CIDR notation and admits nobody; write for example 203.0.113.0/24"
	case prefix.Bits() == 0:
		return e, e.what + " is the whole world, which a CIDR may not open, and admits nobody; name narrower networks"
	}
	e.prefixes = []netip.Prefix{prefix}
	if len(s.Except) == 0 {
		return e, ""
	}
	var without []netip.Prefix
	for _, c := range s.Except {
		hole, ok := parseCIDR(c)
		if !ok {
			return candidate{}, fmt.Sprintf("%s.except: %q is not a network in CIDR notation, so the source admits nobody; write for example 203.0.113.0/28", place, c)
		}
		without = append(without, hole)
	}
	e.prefixes = rule.Subtract(e.prefixes, without)
	return e, ""
}

// refuseSet says why an AddressSet may not be used, "" if it may. Pools may refer to
// any in their defaults; policies to those that allow their namespace, of those that
// the pool allows.
func (p Places) refuseSet(e candidate, r rails, namespace labels.Set, name string, defaults bool) string {
	set, exists := p.sets[string(e.set)]
	switch {
	case !exists:
		return e.what + " does not exist and admits nobody; correct the name, or ask the platform team for the AddressSet"
	case defaults:
		return ""
	case !set.allowed.Matches(namespace):
		return fmt.Sprintf("%s does not allow namespace %s and admits nobody; ask the platform team to select it in allowedFor of the AddressSet", e.what, name)
	case len(r.sets) > 0 && !slices.Contains(r.sets, e.set):
		return fmt.Sprintf("%s is not allowed in pool %s and admits nobody; ask the platform team to list it in guardrails.addressSets", e.what, r.pool)
	}
	return ""
}
