package arrival

import (
	"net/netip"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// podsOn are the pods of each node, by the node's place in the lab.
var podsOn = [][]string{{"a1", "a2"}, {"b1"}, nil}

// role is what a node is to do with an exposure's port, for those whom it admits.
type role int

const (
	answers   role = iota
	noGateway      // refuses: it is not one of those that are to answer
	podless        // refuses: with Local it has nobody who could
)

// roleOf is that of the node with this place in the lab.
func (e exposure) roleOf(node int) role {
	switch {
	case e.centralized && node != 0, !e.centralized && node == 1:
		return noGateway
	case e.local && len(podsOn[node]) == 0:
		return podless
	}
	return answers
}

// refusal is how a node that is not to answer does it, by docs/gateways.md and
// docs/traffic.md: at once, but where iptables can't.
func (w *world) refusal(r role) lab.Outcome {
	switch {
	case w.firewall == v1alpha1.FirewallNFTables:
		return lab.Refused
	case r == podless && w.proxy == lab.IPTables: // by the hook where kube-proxy would drop it
		return lab.Refused
	}
	return lab.TimedOut
}

// backends are the pods that are to answer at the node.
func (e exposure) backends(node int) (pods []string) {
	for n, own := range podsOn {
		if !e.local || n == node {
			pods = append(pods, own...)
		}
	}
	return pods
}

// promise is what status is to say of the client's address.
func (e exposure) promise() v1alpha1.ClientIP {
	if e.local {
		return v1alpha1.ClientIPPreserved
	}
	return v1alpha1.ClientIPReplaced
}

// addresses are what status is to list.
func (w *world) addresses(e exposure) map[string]bool {
	out := map[string]bool{}
	for i, node := range w.town.Nodes() {
		for _, a := range node.Addrs {
			if e.roleOf(i) == answers && e.has(a) {
				out[netip.AddrPortFrom(a, e.number).String()] = true
			}
		}
	}
	return out
}
