package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// A security group as a source has two halves. The cloud admits its members, of whom no
// node knows; nodes admit the networks beside it, of which the cloud is not told. Who
// passes both gates is a member of the group and in one of the networks.

// ownNetworks are the networks that a port names itself, those that bound groups among
// them: whom nodes admit without asking anybody.
func ownNetworks(p v1alpha1.ClaimedPort) []v1alpha1.CIDR {
	if len(p.Peers) == 0 {
		return p.Sources
	}
	all := slices.Clone(p.Sources)
	for _, peer := range p.Peers {
		all = append(all, peer.Sources...)
	}
	return all
}

func (p Places) enforces(firewall v1alpha1.ObjectName) bool { return p.walls[firewall].enforces }

// refuseGroup says why a security group may not be a source, "" if it may, or is none.
func (p Places) refuseGroup(field string, id v1alpha1.SecurityGroupID, policy *v1alpha1.NodePortPolicy, r rails) string {
	what := fmt.Sprintf("%s.securityGroup %q", field, id)
	switch {
	case id == "":
		return ""
	case !slices.Contains(r.groups, id):
		return fmt.Sprintf("%s is not allowed in pool %s, so the source admits nobody; ask the platform team to list it in guardrails.securityGroups", what, r.pool)
	}
	switch firewalls := p.facing(policy, r); {
	case len(firewalls) == 0:
		return what + " has no cloud firewall to know its members, so the source admits nobody; name a cloud firewall of the pool, or take securityGroup out to admit all of the cidr"
	case !slices.ContainsFunc(firewalls, p.enforces):
		return fmt.Sprintf("%s is judged by no cloud, for none of %s exists and enforces, so the source admits nobody; set mode: Enforce there, or take securityGroup out to admit all of the cidr", what, joinNames(firewalls))
	case !p.judged(policy, r, firewalls):
		return fmt.Sprintf("%s is judged by no cloud on nodes that %s do not stand before (nodeSelector), so the source admits nobody; ask for the same labels in gateways.nodeSelector, or take securityGroup out to admit all of the cidr", what, joinNames(firewalls))
	}
	return ""
}

// clouded returns, canonically, whom a cloud admits to one of an allocation's ports by
// their address. All but the networks that bound groups is judged and admitted as nodes
// do it.
func (p Places) clouded(a *v1alpha1.NodePortAllocation, port v1alpha1.ClaimedPort) []netip.Prefix {
	if port.World {
		return rule.World
	}
	own, byName := p.admitted(a.Spec.Pool, port)
	return rule.Canonical(slices.Concat(rule.Intersect(own, parseSources(port.Sources)), byName, p.Audited(a)))
}

// peers are the security groups whose members a cloud admits to one of an allocation's
// ports: those of whom nodes let somebody in.
func (p Places) peers(a *v1alpha1.NodePortAllocation, port v1alpha1.ClaimedPort) (groups []v1alpha1.SecurityGroupID) {
	if port.World {
		return nil
	}
	own, _ := p.admitted(a.Spec.Pool, port)
	for _, peer := range port.Peers {
		if peer.ID != "" && len(rule.Intersect(own, parseSources(peer.Sources))) > 0 {
			groups = append(groups, peer.ID)
		}
	}
	return sortedSet(groups)
}

// narrowedPeers are the groups of a port that the sources still name, each with the
// networks that both had and name. To name a group where all of a network was admitted
// narrows it, and where a group is freed it goes on bounding. But clouds let a member of
// one group into the networks of another, so no group comes to others that stay.
func narrowedPeers(had v1alpha1.ClaimedPort, named named) (kept []v1alpha1.Peer) {
	if named.world {
		return had.Peers
	}
	before, after := boundsOf(had.Peers), boundsOf(named.peers)
	everybody := parseSources(had.Sources)
	if had.World {
		everybody = rule.World
	}
	whoever := rule.Intersect(everybody, named.networks) // they need no group
	for _, id := range sortedSet(slices.Concat(slices.Collect(maps.Keys(before)), slices.Collect(maps.Keys(after)))) {
		if before[id] == nil && len(before) > 0 || after[id] == nil && len(after) > 0 {
			continue
		}
		both := rule.Intersect(slices.Concat(everybody, before[id]), slices.Concat(named.networks, after[id]))
		both = slices.DeleteFunc(both, func(p netip.Prefix) bool { return rule.Covers(whoever, p) })
		if len(both) > 0 {
			kept = append(kept, v1alpha1.Peer{ID: id, Sources: spell(atMost(maxBounds, both))})
		}
	}
	return kept
}

func boundsOf(peers []v1alpha1.Peer) map[v1alpha1.SecurityGroupID][]netip.Prefix {
	bounds := map[v1alpha1.SecurityGroupID][]netip.Prefix{}
	for _, peer := range peers {
		bounds[peer.ID] = append(append([]netip.Prefix{}, bounds[peer.ID]...), parseSources(peer.Sources)...)
	}
	return bounds
}
