package compile

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// answers says whether the node answers on all of those numbers.
func (s Seen) answers(n NodeReport, open []*v1alpha1.NodePortAllocation) bool {
	return !slices.ContainsFunc(open, func(a *v1alpha1.NodePortAllocation) bool { return !Answering(n, a, s.Proof.Gateways) })
}

// addresses lists where clients can connect: the addresses of the nodes that answer,
// with each node port, at most maxListed, and how many there are.
func (s Seen) addresses(ports []v1alpha1.AllocatedPort) (list []string, total int32) {
	for _, address := range s.answered(ports) {
		if total++; len(list) < maxListed {
			list = append(list, address)
		}
	}
	return list, total
}

// answered are all of those addresses, in order.
func (s Seen) answered(ports []v1alpha1.AllocatedPort) (all []string) {
	var hosts []string
	open := s.open()
	for _, n := range s.Nodes {
		if !s.answers(n, open) {
			continue
		}
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
				hosts = append(hosts, a.Address)
			}
		}
	}
	slices.Sort(hosts)
	for _, host := range slices.Compact(hosts) {
		previous := int32(0)
		for _, p := range ports {
			if p.NodePort != previous {
				all = append(all, net.JoinHostPort(host, strconv.Itoa(int(p.NodePort))))
			}
			previous = p.NodePort
		}
	}
	return all
}

// Misleads says whether a status lists an address that is no gateway's any more, which
// its clients had better not be told.
func (s Seen) Misleads(status v1alpha1.NodePortPolicyStatus) bool {
	if !s.gated() {
		return false
	}
	now := s.answered(status.Allocations)
	return slices.ContainsFunc(status.Addresses, func(address string) bool { return !slices.Contains(now, address) }) ||
		len(status.Addresses) == 0 && len(now) > 0
}

// gated says whether the policy's numbers have gateways.
func (s Seen) gated() bool {
	return slices.ContainsFunc(s.open(), func(a *v1alpha1.NodePortAllocation) bool { return a.Spec.Gateways != nil })
}

// unanswered says why no node answers although it has gateways, "" where one does.
func (s Seen) unanswered() string {
	for _, a := range s.open() {
		if a.Spec.Gateways == nil || slices.ContainsFunc(s.Nodes, func(n NodeReport) bool { return Answering(n, a, s.Proof.Gateways) }) {
			continue
		}
		return fmt.Sprintf("no node answers on port %s: none of those that gateways and pool %s pick is fit; see kubectl get nodes,gwset, and widen gateways.nodeSelector or mend a node", a.Name, a.Spec.Pool)
	}
	return ""
}

// silent says that some of the nodes that are to refuse can only drop, "" if none.
func (s Seen) silent() string {
	open := s.open()
	if !s.gated() || !slices.ContainsFunc(s.Nodes, func(n NodeReport) bool {
		return Enforceable(n.Node) && Ready(n.Node) && n.Datapath != nil && strings.HasPrefix(n.Datapath.Status.Datapath, "iptables") && !s.answers(n, open)
	}) {
		return ""
	}
	return "; of the nodes that are no gateways, those with iptables drop instead of refusing"
}
