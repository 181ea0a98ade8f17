package compile

import (
	"net/netip"
	"slices"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// narrowed keeps what was last accepted, less the sources that the policy, though
// it can't be honoured as it stands, no longer names, and less what the pool no longer
// allows. Which those of a pool that is gone were, nobody knows, so they stay.
func narrowed(spec v1alpha1.NodePortAllocationSpec, policy *v1alpha1.NodePortPolicy, cluster Cluster) v1alpha1.NodePortAllocationSpec {
	var pool *v1alpha1.NodePortPool
	if i := slices.IndexFunc(cluster.Pools, func(p Pool) bool { return p.Name == spec.Pool }); i >= 0 {
		pool = cluster.Pools[i].NodePortPool
		spec.NodeSelector = pool.Spec.Guardrails.AllowedNodes
		if spec.Gateways != nil && spec.Gateways.Set != "" { // which is chosen among those
			spec.Gateways = inSet(*spec.Gateways, spec.NodeSelector)
		}
	}
	if ends := policy.Spec.ExpiresAt; ends != nil && (spec.ExpiresAt == nil || ends.Before(spec.ExpiresAt)) {
		spec.ExpiresAt = ends
	}
	spec.Mode = narrowedMode(spec.Mode, policy, pool)
	if pool == nil && policy.Spec.Sources == nil {
		return spec
	}
	sources, _, _ := sourcesOf(policy, pool)
	spec.Ports = slices.Clone(spec.Ports)
	for i, p := range spec.Ports {
		named := cluster.namedFor(p.Name, sources)
		if pool != nil {
			named = cluster.allowed(policy, pool, p)
		}
		spec.Ports[i] = named.of(p)
	}
	return spec
}

func atMost(n int, prefixes []netip.Prefix) []netip.Prefix { return prefixes[:min(n, len(prefixes))] }

// named are those whom sources name for a port.
type named struct {
	networks []netip.Prefix
	peers    []v1alpha1.Peer
	sets     []v1alpha1.ObjectName
	lists    []v1alpha1.PrefixListID
	entities []v1alpha1.Entity
	world    bool
}

// of narrows a port to whom it had and the sources name.
func (n named) of(port v1alpha1.ClaimedPort) v1alpha1.ClaimedPort {
	narrowed := port
	narrowed.Peers = narrowedPeers(port, n)
	have := parseSources(port.Sources)
	switch {
	case n.world && !port.World:
		n.networks = have
	case port.World && !n.world:
		have = rule.World
	}
	narrowed.World = port.World && n.world
	// What both hold may be in more parts than either.
	narrowed.Sources = spell(atMost(maxSources, rule.Intersect(have, n.networks)))
	narrowed.AddressSets = both(n.world, port.AddressSets, n.sets)
	narrowed.PrefixLists = both(n.world, port.PrefixLists, n.lists)
	narrowed.Entities = both(n.world, port.Entities, n.entities)
	return narrowed
}

// both are the names that a port had and the sources name; the world names all.
func both[T comparable](world bool, had, named []T) []T {
	return slices.DeleteFunc(slices.Clone(had), func(name T) bool { return !world && !slices.Contains(named, name) })
}

// allowed are those whom the policy names for a port, and the pool allows now.
func (c Cluster) allowed(policy *v1alpha1.NodePortPolicy, pool *v1alpha1.NodePortPool, p v1alpha1.ClaimedPort) named {
	now, _ := c.admit(policy, pool, v1alpha1.ClaimedPort{Protocol: p.Protocol, Name: p.Name, Port: p.Port})
	return named{parseSources(now.Sources), now.Peers, now.AddressSets, now.PrefixLists, now.Entities, now.World}
}

// namedFor are those whom sources name for a port, unjudged.
func (c Cluster) namedFor(port string, sources []v1alpha1.Source) (n named) {
	for _, s := range sources {
		if len(s.Ports) > 0 && !slices.Contains(s.Ports, port) {
			continue
		}
		switch {
		case s.Entity == v1alpha1.EntityWorld:
			n.world = true
		case s.Entity != "":
			n.entities = append(n.entities, s.Entity)
		case s.AddressSet != "":
			n.sets = append(n.sets, s.AddressSet)
		case s.PrefixList != "":
			n.lists = append(n.lists, s.PrefixList)
		case s.SecurityGroup != "":
			bounds, _ := c.candidate("", s, "", rails{}, true)
			n.peers = append(n.peers, v1alpha1.Peer{ID: s.SecurityGroup, Sources: spell(bounds.prefixes)})
		default:
			networks, _ := c.candidate("", s, "", rails{}, true)
			n.networks = append(n.networks, networks.prefixes...)
		}
	}
	n.networks = withoutWorld(n.networks)
	return n
}
