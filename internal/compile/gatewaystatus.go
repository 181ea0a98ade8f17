package compile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// answers says whether the node answers on all of those numbers.
func (s Seen) answers(n NodeReport, open []*v1alpha1.NodePortAllocation) bool {
	return !slices.ContainsFunc(open, func(a *v1alpha1.NodePortAllocation) bool { return !Answering(n, a, s.Proof.Gateways) })
}

// Gated says whether the policy's numbers have gateways.
func (s Seen) Gated() bool {
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
	if !s.Gated() || !slices.ContainsFunc(s.Nodes, func(n NodeReport) bool {
		return Enforceable(n.Node) && Ready(n.Node) && n.Datapath != nil && strings.HasPrefix(n.Datapath.Status.Datapath, "iptables") && !s.answers(n, open)
	}) {
		return ""
	}
	return "; of the nodes that are no gateways, those with iptables drop instead of refusing"
}
