package compile

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/front"
)

// pick is a node that a front names.
type pick struct {
	node string
	// addresses of all its ports.
	addresses []netip.Addr
	ports     []picked
}

// picked is one number for which the node answers, with the addresses on which it does.
type picked struct {
	allocation *v1alpha1.NodePortAllocation
	addresses  []netip.Addr
	report     NodeReport
}

// pick chooses the nodes that an object names, in the order of their names: of those
// that answer and have an address of the kind, first those that it names already.
func (f Front) pick(kind v1alpha1.AddressType, listed Listed) []pick {
	nodes := map[string]pick{}
	for _, a := range f.open() {
		for _, n := range f.Sight.Answering(a, listed.has) {
			addresses := f.Sight.serving(n, a, kind, f.Policy.Spec.Front.IPFamilies)
			if len(addresses) == 0 {
				continue
			}
			p := nodes[n.Name]
			p.node, p.ports = n.Name, append(p.ports, picked{a, addresses, n})
			p.addresses = append(p.addresses, addresses...)
			nodes[n.Name] = p
		}
	}
	all := slices.SortedFunc(maps.Values(nodes), func(a, b pick) int {
		fresh := func(p pick) int {
			if slices.Contains(listed.nodes, p.node) {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(fresh(a), fresh(b)), cmp.Compare(rank(f.Policy, a.node), rank(f.Policy, b.node)), strings.Compare(a.node, b.node))
	})
	all = all[:min(len(all), int(cmp.Or(f.Policy.Spec.Front.MaxNodes, defaultFrontNodes)))]
	slices.SortFunc(all, func(a, b pick) int { return strings.Compare(a.node, b.node) })
	return all
}

// listeners are the ports of a proxy, with the picked nodes as servers: each by one
// address, the first of its status, since two would be one node twice.
func (f Front) listeners(nodes []pick) (out []front.Listener, why *Refusal) {
	carried := false
	for _, a := range f.open() {
		for _, p := range a.Spec.Ports {
			protocol := front.Protocol(p.Protocol)
			if protocol != front.TCP && protocol != front.UDP {
				continue
			}
			carried = true
			l := f.listener(a, p)
			l.Servers = f.servers(nodes, a, p.Protocol)
			i := slices.IndexFunc(out, func(o front.Listener) bool { return o.Protocol == protocol && o.Port == l.Port })
			switch {
			case i < 0:
				out = append(out, l)
			case out[i].Name != l.Name:
				why = &Refusal{Reason: v1alpha1.ReasonInvalid, Message: fmt.Sprintf(
					"front.ports: two ports of the policy listen on %s %d, so port %d is left out; give each a number of its own", strings.ToLower(string(protocol)), l.Port, p.Port)}
			default: // on its way from one number to another
				out[i].Servers = append(out[i].Servers, l.Servers...)
			}
		}
	}
	for i := range out {
		out[i].Servers = apart(out[i].Servers)
	}
	if len(f.open()) > 0 && !carried {
		why = &Refusal{Reason: v1alpha1.ReasonInvalid, Message: "front: proxies carry TCP and UDP only, and the policy has no such port; leave front out"}
	}
	return out, why
}

func (f Front) listener(a *v1alpha1.NodePortAllocation, p v1alpha1.ClaimedPort) front.Listener {
	l := front.Listener{
		// Neither part has a "_", so that no two policies share a name.
		Name:     fmt.Sprintf("%s_%s_%d_%s", f.Policy.Namespace, f.Policy.Name, p.Port, strings.ToLower(string(p.Protocol))),
		Protocol: front.Protocol(p.Protocol), Port: uint16(p.Port),
	}
	for _, o := range f.Policy.Spec.Front.Ports {
		if o.Port == p.Port {
			l.Port = uint16(o.Listen)
		}
	}
	if carrier := f.Sight.carrier(a); carrier != nil {
		families := f.Policy.Spec.Front.IPFamilies
		l.IPv4 = served(netip.IPv4Unspecified(), carrier, families)
		l.IPv6 = served(netip.IPv6Unspecified(), carrier, families)
	}
	return l
}

func (f Front) servers(nodes []pick, a *v1alpha1.NodePortAllocation, protocol v1alpha1.Protocol) (out []front.Server) {
	for _, n := range nodes {
		for _, p := range n.ports {
			i := slices.IndexFunc(p.addresses, func(address netip.Addr) bool { return f.Sight.serves(p.report, a, address, protocol) })
			if p.allocation == a && i >= 0 {
				out = append(out, front.Server{Name: n.node, Address: netip.AddrPortFrom(p.addresses[i], NumberOf(a))})
			}
		}
	}
	return out
}

// apart drops servers that are named twice by their address, and gives a node with
// two numbers two names.
func apart(servers []front.Server) (out []front.Server) {
	for _, s := range servers {
		if slices.ContainsFunc(out, func(o front.Server) bool { return o.Address == s.Address }) {
			continue
		}
		if slices.ContainsFunc(out, func(o front.Server) bool { return o.Name == s.Name }) {
			s.Name = fmt.Sprintf("%s_%d", s.Name, s.Address.Port())
		}
		out = append(out, s)
	}
	return out
}

// FrontSeen is what was last done about the fronts of a policy.
type FrontSeen struct {
	// Generation of the policy that it is about.
	Generation int64
	// Why something is not as it should be, nil if all is.
	Why *Refusal
	// Note says what is left out, "" if nothing is.
	Note string
}

// fronted is the condition Fronted, nil for a policy without a front. While nobody has
// looked at a policy that has not changed, what was said stands.
func (s Seen) fronted() *gate {
	spec := s.Policy.Spec.Front
	if spec == nil {
		return nil
	}
	var g gate
	switch seen := s.Front; {
	case seen == nil || seen.Generation != s.Policy.Generation:
		g = waiting(v1alpha1.Fronted, v1alpha1.ReasonProgressing, "waits to be written")
		for _, c := range s.Policy.Status.Conditions {
			if c.Type == v1alpha1.Fronted && c.ObservedGeneration == s.Policy.Generation {
				g = gate{kind: c.Type, passed: c.Status == "True", reason: c.Reason, message: c.Message}
			}
		}
	case seen.Why != nil:
		g = waiting(v1alpha1.Fronted, seen.Why.Reason, seen.Why.Message)
	default:
		var names []string
		if spec.Nginx != nil {
			names = append(names, "ConfigMap "+string(spec.Nginx.ConfigMap))
		}
		if spec.HAProxy != nil {
			names = append(names, "ConfigMap "+string(spec.HAProxy.ConfigMap))
		}
		if spec.DNS != nil {
			names = append(names, "DNSEndpoint "+FrontName(s.Policy.Name))
		}
		g = passed(v1alpha1.Fronted, v1alpha1.ReasonOK, "current: "+strings.Join(names, ", "))
		if seen.Note != "" {
			g.message += "; " + seen.Note
		}
	}
	return &g
}
