package compile

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// ToAnswer says whether a node with that input is to answer on an allocation's number by
// TCP, the only protocol of which a connection can be seen to be accepted without a word
// that the application would have to understand.
func (in NodeInput) ToAnswer(a *v1alpha1.NodePortAllocation) bool {
	set := func(name v1alpha1.ObjectName) *v1alpha1.GatewaySet {
		if o := in.GatewaySets.Get(Name(name)); o != nil {
			return o.(*v1alpha1.GatewaySet)
		}
		return nil
	}
	return byTCP(a) && !Ended(a, in.Now) && (in.Installation == nil || !in.Installation.Spec.Lockdown) &&
		!(in.Unlabelled && judgesLabels(a)) &&
		(a.Spec.NodeSelector == nil || selects(a.Spec.NodeSelector).Matches(labels.Set(in.Labels))) &&
		isGateway(a.Spec.Gateways, in.Node, in.Labels, set)
}

// Addresses are those of a node on which somebody else can knock, internal and external.
func Addresses(n *corev1.Node) []netip.Addr { return reachable(n, "", &corev1.Service{}, nil) }

func byTCP(a *v1alpha1.NodePortAllocation) bool {
	return a.Spec.State == v1alpha1.AllocationOpen &&
		slices.ContainsFunc(a.Spec.Ports, func(p v1alpha1.ClaimedPort) bool { return rule.Protocol(p.Protocol) == rule.TCP })
}

// answer is what a node's agent saw of an address of its node.
type answer int

const (
	unlooked answer = iota // not since the port is as it is, or never will
	answered
	unheard
)

// answer returns what the node's agent saw of a number on an address. What was seen before
// the port was as it is now, or in another boot, says nothing.
func (p Proof) answer(n NodeReport, a *v1alpha1.NodePortAllocation, host netip.Addr) answer {
	if n.Datapath == nil || n.Datapath.Status.Answers == nil || n.Datapath.Status.BootID != n.Status.NodeInfo.BootID || !byTCP(a) {
		return unlooked
	}
	seen := n.Datapath.Status.Answers
	switch {
	case !slices.Contains(seen.Addresses, host.String()),
		!AtLeast(seen.Allocations, a.ResourceVersion),
		judgesLabels(a) && seen.NodeLabels != LabelsHash(n.Labels):
		return unlooked
	}
	if g := a.Spec.Gateways; g != nil && g.Set != "" {
		if set := p.Gateways[g.Set]; set == nil || !AtLeast(seen.GatewaySets, set.ResourceVersion) {
			return unlooked
		}
	}
	return answerOf(seen, int32(NumberOf(a)), host)
}

// answerOf looks a number up among those that are said not to answer. The list has the
// lowest of them: what comes after its end is not known where some were cut off.
func answerOf(seen *v1alpha1.NodeAnswers, number int32, host netip.Addr) answer {
	at, found := slices.BinarySearchFunc(seen.Unanswered, number, func(u v1alpha1.UnansweredPort, n int32) int { return int(u.Port - n) })
	switch {
	case found && (len(seen.Unanswered[at].Addresses) == 0 || slices.Contains(seen.Unanswered[at].Addresses, host.String())):
		return unheard
	case !found && at == len(seen.Unanswered) && int(seen.UnansweredPorts) > at:
		return unlooked
	}
	return answered
}

// answered returns which of the listed addresses were seen to answer, in their order.
func (s Seen) answered(listed []string) (out []v1alpha1.AnsweredAddress) {
	numbers := map[uint16]*v1alpha1.NodePortAllocation{}
	for _, a := range s.open() {
		numbers[NumberOf(a)] = a
	}
	wanted := map[netip.Addr]bool{}
	for _, address := range listed {
		if place, err := netip.ParseAddrPort(address); err == nil {
			wanted[place.Addr()] = true
		}
	}
	at := map[netip.Addr]NodeReport{}
	for _, n := range s.Nodes {
		for _, a := range n.Status.Addresses {
			if host, err := netip.ParseAddr(a.Address); err == nil && wanted[host.Unmap()] {
				at[host.Unmap()] = n
			}
		}
	}
	for _, address := range listed {
		place, err := netip.ParseAddrPort(address)
		if err != nil {
			continue
		}
		n, a := at[place.Addr()], numbers[place.Port()]
		if n.Node != nil && a != nil && s.Proof.answer(n, a, place.Addr()) == answered {
			out = append(out, v1alpha1.AnsweredAddress{Address: address, AnsweredFrom: v1alpha1.AnsweredFromNode})
		}
	}
	return out
}

// unansweredPort "passes" when the condition is to be shown: all nodes that should answer on
// a number have looked, and nothing did.
func (s Seen) unansweredPort() gate {
	for _, a := range s.open() {
		number := int32(NumberOf(a))
		if !slices.ContainsFunc(s.Nodes, func(n NodeReport) bool { return n.Datapath != nil && saysSilent(n.Datapath.Status.Answers, number) }) {
			continue // without a look at who should answer
		}
		if nodes := s.silentNodes(a); nodes > 0 {
			return passed(v1alpha1.Unanswered, v1alpha1.ReasonNoAnswer, fmt.Sprintf(
				"node port %s is open, but nothing answers there by TCP on any of %d nodes, asked from each node itself; look whether Service %s has ready endpoints, and whether kube-proxy works", a.Name, nodes, a.Spec.Claim.Service))
		}
	}
	return waiting(v1alpha1.Unanswered, v1alpha1.ReasonOK, "")
}

func saysSilent(seen *v1alpha1.NodeAnswers, number int32) bool {
	return seen != nil && slices.ContainsFunc(seen.Unanswered, func(u v1alpha1.UnansweredPort) bool { return u.Port == number })
}

// silentNodes counts the nodes that should answer on a number if nothing answers on any
// of them, else 0.
func (s Seen) silentNodes(a *v1alpha1.NodePortAllocation) (nodes int) {
	sight := s.sight()
	for _, n := range sight.Answering(a, func(NodeReport, uint16) bool { return true }) {
		looked := false
		for _, host := range reachable(n.Node, "", sight.carrier(a), nil) {
			switch s.Proof.answer(n, a, host) {
			case answered:
				return 0
			case unheard:
				looked = true
			case unlooked:
			}
		}
		if !looked {
			return 0
		}
		nodes++
	}
	return nodes
}

// AnswersMatter says whether what a node's agent saw may be news to a policy with that
// status: a port of it does not answer there, or one of its addresses of that node was
// not known to.
func AnswersMatter(status v1alpha1.NodePortPolicyStatus, seen *v1alpha1.NodeAnswers) bool {
	if seen == nil {
		return false
	}
	if slices.ContainsFunc(status.Allocations, func(p v1alpha1.AllocatedPort) bool { return saysSilent(seen, p.NodePort) }) {
		return true
	}
	return slices.ContainsFunc(status.Addresses, func(address string) bool {
		place, err := netip.ParseAddrPort(address)
		return err == nil && slices.Contains(seen.Addresses, place.Addr().String()) &&
			!slices.ContainsFunc(status.Answered, func(a v1alpha1.AnsweredAddress) bool { return a.Address == address })
	})
}
