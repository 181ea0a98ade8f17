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
		have := parseSources(p.Sources)
		switch {
		case named.world && !p.World:
			named.networks = have
		case p.World && !named.world:
			have = rule.World
		}
		spec.Ports[i].World = p.World && named.world
		// What both hold may be in more parts than either.
		spec.Ports[i].Sources = spell(atMost(maxSources, rule.Intersect(have, named.networks)))
		spec.Ports[i].AddressSets = slices.DeleteFunc(slices.Clone(p.AddressSets), func(set v1alpha1.ObjectName) bool {
			return !named.world && !slices.Contains(named.sets, set)
		})
		spec.Ports[i].Entities = slices.DeleteFunc(slices.Clone(p.Entities), func(e v1alpha1.Entity) bool {
			return !named.world && !slices.Contains(named.entities, e)
		})
	}
	return spec
}

func atMost(n int, prefixes []netip.Prefix) []netip.Prefix { return prefixes[:min(n, len(prefixes))] }

// named are those whom sources name for a port.
type named struct {
	networks []netip.Prefix
	sets     []v1alpha1.ObjectName
	entities []v1alpha1.Entity
	world    bool
}

// allowed are those whom the policy names for a port, and the pool allows now.
func (c Cluster) allowed(policy *v1alpha1.NodePortPolicy, pool *v1alpha1.NodePortPool, p v1alpha1.ClaimedPort) named {
	now, _ := c.admit(policy, pool, v1alpha1.ClaimedPort{Protocol: p.Protocol, Name: p.Name, Port: p.Port})
	return named{parseSources(now.Sources), now.AddressSets, now.Entities, now.World}
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
		default:
			networks, _ := c.candidate("", s, "", rails{}, true)
			n.networks = append(n.networks, networks.prefixes...)
		}
	}
	n.networks = withoutWorld(n.networks)
	return n
}
