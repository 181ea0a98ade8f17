package conntrack

import (
	"context"
	"net/netip"

	"github.com/portreeve/portreeve/internal/rule"
)

// SweepStale deletes the connections to this node that are stale, by number, and that
// want judges, and returns how many there were. It may be called again, also after an
// error: a flow that began anew as it should is not stale, but for those that are
// stale because they are Unbound.
func SweepStale(ctx context.Context, stale map[uint16]rule.Stale, want rule.Set) (int, error) {
	ports := portsOf(stale).Within(want.Judged)
	return sweep(ctx, ports, func(f flow, node map[netip.Addr]bool) bool {
		s := stale[f.port]
		return carried(f, node, ports, want) && f.stale(s) || s.Unanswered && lonely(f, node, ports, want)
	})
}

// portsOf are those on which anything may be stale.
func portsOf(stale map[uint16]rule.Stale) rule.ProtocolPorts {
	ranges := map[rule.Protocol][]rule.PortRange{}
	for number, s := range stale {
		for _, protocol := range rule.Protocols {
			if s.Masqueraded || protocol == rule.UDP {
				ranges[protocol] = append(ranges[protocol], rule.PortRange{First: number, Last: number})
			}
		}
	}
	ports := rule.ProtocolPorts{}
	for protocol, list := range ranges {
		ports[protocol] = rule.NewPortRanges(list...)
	}
	return ports
}

// lonely says whether the flow is one of somebody else to the node itself, by UDP, to which
// nobody answers. As long as it goes on, it never gets to a Service that came later.
func lonely(f flow, node map[netip.Addr]bool, ports rule.ProtocolPorts, want rule.Set) bool {
	return f.protocol == rule.UDP && f.untranslated() && !f.answers && onto(f, node, ports, want)
}

// stale says whether the flow is. What a pod has with itself through a node is always
// masqueraded.
func (f flow) stale(s rule.Stale) bool {
	masqueraded := f.answered != f.source
	switch {
	case f.answering == f.source:
		return false
	case s.Masqueraded && masqueraded:
		return true
	case f.protocol != rule.UDP:
		return false
	}
	return s.Unbound || s.Direct && !masqueraded
}
