package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// nodeSetPrefix and a number are the name of an AddressSet with addresses of Nodes.
const nodeSetPrefix = "portreeve-nodes-"

// IsNodeSet says whether the manager keeps addresses of Nodes in the AddressSet. It
// takes both name and label, so that nobody's own set is taken for one by accident.
func IsNodeSet(set *v1alpha1.AddressSet) bool {
	return nodeSetNumber(set.Name) >= 0 && set.Labels[v1alpha1.LabelEntity] == string(v1alpha1.EntityNodes)
}

// nodeSetNumber is -1 for a name that is no node set's.
func nodeSetNumber(name string) int {
	digits, is := strings.CutPrefix(name, nodeSetPrefix)
	if !is {
		return -1
	}
	return shardNumber(digits)
}

// NodeSets returns the AddressSets that must hold the addresses of the Nodes, given
// all AddressSets that there are. An address stays in the set it is in, so a node that
// joins or leaves changes one of them. A set that has become empty stays: nodes prove
// that they have read a change, and could not prove a deletion.
func NodeSets(nodes []corev1.Node, have []v1alpha1.AddressSet) []v1alpha1.AddressSet {
	var addresses []netip.Prefix
	for i := range nodes {
		addresses = append(addresses, nodeAddresses(&nodes[i])...)
	}
	f := family{name: nodeSetName, has: IsNodeSet, number: func(set *v1alpha1.AddressSet) int { return nodeSetNumber(set.Name) }}
	f.labels = map[string]string{v1alpha1.LabelEntity: string(v1alpha1.EntityNodes)}
	return f.holding(addresses, have)
}

func nodeSetName(n int) string { return nodeSetPrefix + strconv.Itoa(n) }

// nodeAddresses are the internal and external addresses of a Node, one prefix each;
// not those that no packet from elsewhere can come from.
func nodeAddresses(n *corev1.Node) (out []netip.Prefix) {
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		if ip, err := netip.ParseAddr(a.Address); err == nil && ip.Zone() == "" && ip.Unmap().IsGlobalUnicast() {
			out = append(out, netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen()))
		}
	}
	return out
}

// Within returns the places as they are under an installation, nil for none.
func (p Places) Within(installation *v1alpha1.Portreeve) Places {
	p.cluster, p.denied = nil, nil
	if installation == nil {
		return p
	}
	for _, c := range installation.Spec.ClusterCIDRs {
		if prefix, ok := parseCIDR(c); ok && prefix.Bits() > 0 {
			p.cluster = append(p.cluster, prefix)
		}
	}
	p.denied = installation.Spec.DenyAddressSets
	return p
}

// entity returns the addresses of an entity that has some. Cluster has none while its
// networks are not known, not even the Nodes: half of it is not what was meant.
func (p Places) entity(e v1alpha1.Entity) []netip.Prefix {
	switch {
	case e == v1alpha1.EntityNodes:
		return p.nodes.prefixes
	case e == v1alpha1.EntityCluster && len(p.cluster) > 0:
		return slices.Concat(p.cluster, p.nodes.prefixes)
	}
	return nil
}

// entityCandidate resolves a source that names an entity, or says why it admits nobody.
func (p Places) entityCandidate(place string, e v1alpha1.Entity, r rails) (candidate, string) {
	what := fmt.Sprintf("%s.entity %s", place, e)
	switch {
	case e == v1alpha1.EntityWorld && !r.world:
		return candidate{}, fmt.Sprintf("%s is not allowed in pool %s, and admits nobody; name networks, or ask the platform team for guardrails.world", what, r.pool)
	case e == v1alpha1.EntityCluster && len(p.cluster) == 0:
		return candidate{}, what + " is not known, and admits nobody; ask the platform team to set spec.clusterCIDRs of the Portreeve object, or name entity Nodes, or networks"
	}
	return candidate{what: what, entity: e, prefixes: p.entity(e)}, ""
}

// Passing is Atoms less the sources that are denied everywhere: what a node lets pass.
func (p Places) Passing(a *v1alpha1.NodePortAllocation) []rule.Rule {
	var denied []netip.Prefix
	for _, name := range p.denied {
		denied = append(denied, p.sets[string(name)].prefixes...)
	}
	var out []rule.Rule
	for _, atom := range p.Atoms(a) {
		for _, source := range rule.Subtract([]netip.Prefix{atom.Source}, denied) {
			out = append(out, rule.Rule{Protocol: atom.Protocol, Ports: atom.Ports, Source: source})
		}
	}
	return out
}

// deniedVersion is the resource version of the youngest AddressSet that is denied.
func (p Places) deniedVersion() (version string) {
	for _, name := range p.denied {
		version = newest(version, p.version(name))
	}
	return version
}

// newest of two resource versions of one type; "" is none.
func newest(a, b string) string {
	if b == "" || AtLeast(a, b) {
		return a
	}
	return b
}

// addInstallation takes what the installation denies, and where it has ports judged.
// If that can't be read they are judged everywhere.
func (n *nodeRules) addInstallation(object *v1alpha1.Portreeve) {
	for _, name := range object.Spec.DenyAddressSets {
		set, exists := n.places.sets[string(name)]
		if !exists {
			n.problem("Portreeve %s: spec.denyAddressSets names AddressSet %q, which does not exist, so nobody is denied by it; create it, or take it off the list", object.Name, name)
		}
		n.denied = append(n.denied, set.prefixes...)
	}
	n.denied = rule.Canonical(n.denied)
	for _, network := range object.Spec.NodeAddresses {
		prefix, err := netip.ParsePrefix(string(network))
		if err != nil || prefix.Addr().Is4In6() {
			n.problem("Portreeve %s: spec.nodeAddresses: %q is not a network in CIDR notation, so ports are judged on all addresses; write for example 192.0.2.0/24", object.Name, network)
			n.addresses = nil
			return
		}
		n.addresses = append(n.addresses, prefix)
	}
	if n.addresses = rule.Canonical(n.addresses); rule.CoversAll(n.addresses, rule.World) {
		n.addresses = nil
	}
}
