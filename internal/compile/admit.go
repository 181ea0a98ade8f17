package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

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

// asked are the sources of a port, sorted by how an allocation names them.
type asked struct {
	networks, sets, lists, entities []candidate
	world                           bool
}

// asked resolves the sources that name the port, and says which admit nobody.
func (c Cluster) asked(policy *v1alpha1.NodePortPolicy, pool *v1alpha1.NodePortPool, port string) (all asked, problems []string) {
	rails := c.Places.rails[pool.Name]
	sources, field, defaults := sourcesOf(policy, pool)
	for i, s := range sources {
		if len(s.Ports) > 0 && !slices.Contains(s.Ports, port) {
			continue
		}
		place := fmt.Sprintf("%s[%d]", field, i)
		e, problem := c.candidate(place, s, policy.Namespace, rails, defaults)
		if problem == "" {
			problem = c.Places.refuseGroup(place, s.SecurityGroup, policy, rails)
		}
		if problem != "" {
			problems = append(problems, problem)
			continue
		}
		e.group = s.SecurityGroup
		switch {
		case s.Entity == v1alpha1.EntityWorld:
			all.world = true
		case e.entity != "":
			all.entities = append(all.entities, e)
		case e.list != "":
			all.lists = append(all.lists, e)
		case e.set != "":
			all.sets = append(all.sets, e)
		default:
			all.networks = append(all.networks, e)
		}
	}
	return all, problems
}

// distinct sorts entries by what they name, and leaves each once.
func distinct[T ~string](entries []candidate, name func(candidate) T) (sorted []candidate, names []T) {
	slices.SortStableFunc(entries, func(a, b candidate) int { return cmp.Compare(name(a), name(b)) })
	sorted = slices.CompactFunc(entries, func(a, b candidate) bool { return name(a) == name(b) })
	for _, e := range sorted {
		names = append(names, name(e))
	}
	return sorted, names
}

// admit fills in who may reach a port of the policy on a number of the pool, and
// says which entries contribute nothing.
func (c Cluster) admit(policy *v1alpha1.NodePortPolicy, pool *v1alpha1.NodePortPool, port v1alpha1.ClaimedPort) (v1alpha1.ClaimedPort, []string) {
	rails := c.Places.rails[pool.Name]
	all, problems := c.asked(policy, pool, port.Name)
	if port.World = all.world; port.World {
		return port, problems
	}
	name := describePort(v1alpha1.PolicyPort{Name: port.Name, Port: port.Port})
	parts, refused := rails.judge(name, all.networks)
	var broken []string
	port.Sources, port.Peers, broken = share(name, all.networks, parts)
	own := rule.Canonical(slices.Concat(parts...))
	// The names are judged as nodes do, now and whenever what they stand for changes: on
	// top of the networks, in their order. A node that joins shuts out no set, so
	// entities come last.
	all.sets, port.AddressSets = distinct(all.sets, func(e candidate) v1alpha1.ObjectName { return e.set })
	all.lists, port.PrefixLists = distinct(all.lists, func(e candidate) v1alpha1.PrefixListID { return e.list })
	all.entities, port.Entities = distinct(all.entities, func(e candidate) v1alpha1.Entity { return e.entity })
	_, overflow := rails.judge(name, slices.Concat([]candidate{{prefixes: own, judged: true}}, all.sets, all.lists, all.entities))
	return port, slices.Concat(problems, refused, broken, overflow)
}

// share gives the networks that stand to the port itself, and to the groups that they
// bound.
func share(port string, entries []candidate, parts [][]netip.Prefix) (sources []v1alpha1.CIDR, peers []v1alpha1.Peer, problems []string) {
	groups := []v1alpha1.SecurityGroupID{""}
	for _, e := range entries {
		groups = append(groups, e.group)
	}
	for _, group := range sortedSet(groups) {
		most := maxSources
		if group != "" {
			most = maxBounds
		}
		problems = append(problems, fit(port, group, most, entries, parts)...)
		var own []netip.Prefix
		for i, e := range entries {
			if e.group == group {
				own = append(own, parts[i]...)
			}
		}
		switch own = rule.Canonical(own); {
		case group == "":
			sources = spell(own)
		case len(own) > 0:
			peers = append(peers, v1alpha1.Peer{ID: group, Sources: spell(own)})
		}
	}
	return sources, peers, problems
}

// What the schema of NodePortAllocation allows one port, and one group.
const (
	maxSources = 256
	maxBounds  = 64
)

// fit empties the parts of a group that bring it, or the port itself, to more networks
// than the allocation can name: exceptions break a network up into many.
func fit(port string, group v1alpha1.SecurityGroupID, most int, entries []candidate, parts [][]netip.Prefix) (problems []string) {
	whose := fmt.Sprintf("port %s to %%d networks, and a port", port)
	if group != "" {
		whose = fmt.Sprintf("security group %s of port %s to %%d networks, and a group", group, port)
	}
	var union []netip.Prefix
	for i := range parts {
		if entries[i].group != group {
			continue
		}
		joined := rule.Canonical(slices.Concat(union, parts[i]))
		if len(joined) > most {
			problems = append(problems, fmt.Sprintf("%s would bring "+whose+" can have %d, so it admits nobody; except fewer or wider networks, or ask the platform team for an AddressSet", entries[i].what, len(joined), most))
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
	case s.PrefixList != "":
		return c.Places.listCandidate(place, s.PrefixList, r)
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
