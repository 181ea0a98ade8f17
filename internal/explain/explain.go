package explain

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

// ErrNoPolicy: the policy that is asked about does not exist.
var ErrNoPolicy = errors.New("no such NodePortPolicy")

// Explain answers the question, or says that it is about a policy that does not exist.
func Explain(c Cluster, q Question) (Answer, error) {
	v := resolve(c)
	q.From = q.From.Unmap().WithZone("")
	answer := Answer{Kind: "PortreeveExplanation", Version: Version, Asked: q}
	walks, err := v.walks(q)
	if err != nil {
		return answer, err
	}
	for _, w := range walks {
		answer.Ports = append(answer.Ports, w.answer())
	}
	answer.Verdict = overall(answer.Ports)
	return answer, nil
}

// Carriers are the Services that the question is about: their EndpointSlices must be in
// the Cluster that Explain gets.
func Carriers(c Cluster, q Question) []types.NamespacedName {
	walks, err := resolve(c).walks(q)
	if err != nil {
		return nil
	}
	var out []types.NamespacedName
	for _, w := range walks {
		if s := w.carrier(); s != nil {
			out = append(out, types.NamespacedName{Namespace: s.Namespace, Name: s.Name})
		}
	}
	slices.SortFunc(out, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(out)
}

// walk is the way through the gates of one port.
type walk struct {
	*view
	from       netip.Addr
	port       rule.Port // zero number: a policy without any
	allocation *v1alpha1.NodePortAllocation
	policy     *v1alpha1.NodePortPolicy
	decision   decision // on nodes that are picked
}

// walks are those of the ports that the question is about.
func (v *view) walks(q Question) (out []walk, err error) {
	if q.Policy == "" {
		a := v.allocation(q.Port)
		for _, p := range protocolsOf(a, q.Protocol) {
			out = append(out, v.walk(q, a, v.policyOf(a), rule.Port{Protocol: p, Number: q.Port}))
		}
		return out, nil
	}
	policy := v.policies[q.Namespace+"/"+q.Policy]
	if policy == nil {
		return nil, fmt.Errorf("%w: %s/%s", ErrNoPolicy, q.Namespace, q.Policy)
	}
	for i := range v.Allocations {
		a := &v.Allocations[i]
		if v.policyOf(a) != policy {
			continue
		}
		for _, p := range protocolsOf(a, q.Protocol) {
			out = append(out, v.walk(q, a, policy, rule.Port{Protocol: p, Number: compile.NumberOf(a)}))
		}
	}
	// Numbers that rest are told of where there is nothing else to tell of.
	if open := slices.DeleteFunc(slices.Clone(out), func(w walk) bool { return w.allocation.Spec.State != v1alpha1.AllocationOpen }); len(open) > 0 {
		out = open
	}
	if len(out) == 0 {
		out = append(out, v.walk(q, nil, policy, rule.Port{Protocol: rule.Protocol(q.Protocol)}))
	}
	slices.SortFunc(out, func(a, b walk) int { return rule.ComparePorts(a.port, b.port) })
	return out, nil
}

func protocolsOf(a *v1alpha1.NodePortAllocation, asked string) (out []rule.Protocol) {
	switch {
	case asked != "":
		return []rule.Protocol{rule.Protocol(asked)}
	case a == nil:
		return []rule.Protocol{rule.TCP}
	}
	for _, p := range a.Spec.Protocols {
		out = append(out, rule.Protocol(p))
	}
	return out
}

func (v *view) walk(q Question, a *v1alpha1.NodePortAllocation, policy *v1alpha1.NodePortPolicy, port rule.Port) walk {
	return walk{view: v, from: q.From, allocation: a, policy: policy, port: port, decision: v.everywhere(a, port)}
}

// answer walks. The first three gates say why nodes decide as they do; what counts is
// the way of the packet: clouds, nodes, the Service and what is behind it.
func (w walk) answer() PortAnswer {
	p := PortAnswer{Port: w.port.Number, Protocol: string(w.port.Protocol), Admits: []netip.Prefix{}}
	if w.port.Number == 0 {
		p.Gates = []Gate{w.unallocated(), w.accepted()}
		p.Verdict, p.StoppedBy = Closed, &p.Gates[0]
		return p
	}
	p.Admits = append(p.Admits, w.decision.who()...)
	clouds := w.clouds()
	nodes, ways := w.nodeGates()
	behind := w.behind()
	p.Gates = slices.Concat([]Gate{w.allocated(), w.accepted(), w.sources()}, clouds, nodes, behind)
	p.Verdict = w.verdict(clouds, ways, behind)
	if p.Verdict != Open {
		p.StoppedBy = first(p.Gates)
	}
	p.TooOpen = tooOpen(p.Gates)
	return p
}

// tooOpen is the gate that lets in whom no policy declares, nil if none does: nodes first,
// behind which there is nothing.
func tooOpen(gates []Gate) *Gate {
	opening := []string{ReasonNotGated, ReasonGrandfathered, ReasonAudited, ReasonExempt, compile.NodeUngated, v1alpha1.ReasonEnforcementUnsupported, v1alpha1.ReasonForeignRule}
	for _, kind := range []string{GateNode, GateAllocation, GateSources, GateCloud} {
		for i, g := range gates {
			if g.Gate == kind && (g.State == Warns || g.State == Doubtful) && slices.Contains(opening, g.Reason) {
				return &gates[i]
			}
		}
	}
	return nil
}

// first is the gate that a person should look at.
func first(gates []Gate) *Gate {
	for _, state := range []State{Stops, Doubtful, Warns} {
		if i := slices.IndexFunc(gates, func(g Gate) bool { return g.State == state }); i >= 0 {
			return &gates[i]
		}
	}
	return &gates[len(gates)-1]
}

func has(gates []Gate, state State) bool {
	return slices.ContainsFunc(gates, func(g Gate) bool { return g.State == state })
}

// verdict over the way of the packet. Whether a cloud's groups are attached to the nodes
// nobody has seen, so a cloud closes nothing that nodes leave open against everybody's wish.
func (w walk) verdict(clouds []Gate, ways []way, behind []Gate) Verdict {
	wished := w.decision.passes(w.from)
	open, shut, unknown := 0, 0, 0
	for _, way := range ways {
		switch way {
		case wayOpen:
			open++
		case wayShut:
			shut++
		default:
			unknown++
		}
	}
	switch {
	case open+unknown == 0 && shut > 0, has(behind, Stops), wished && has(clouds, Stops):
		return Closed
	case unknown > 0 || len(ways) == 0 || has(behind, Doubtful) || wished && has(clouds, Doubtful):
		return Unproved
	case shut > 0:
		return Partial
	}
	return Open
}

// carrier is the Service that is to carry the number, nil if there is none.
func (w walk) carrier() *corev1.Service {
	a := w.allocation
	switch {
	case w.port.Number == 0 || a != nil && a.Spec.State == v1alpha1.AllocationClosed:
		return nil
	case a == nil:
		return w.holder()
	case a.Spec.State == v1alpha1.AllocationOpen && a.Spec.Carrier != v1alpha1.ServiceInPlace:
		return w.service(a.Spec.Claim.Namespace, a.Spec.Claim.Policy+v1alpha1.CompanionSuffix)
	}
	return w.service(a.Spec.Claim.Namespace, a.Spec.Claim.Service)
}

// holder is the Service, not a hold of ours, that has the number.
func (w walk) holder() *corev1.Service {
	for i := range w.Services {
		s := &w.Services[i]
		if !compile.IsHold(s, w.Namespace) && slices.Contains(compile.Held(s)[w.port.Number], v1alpha1.Protocol(w.port.Protocol)) {
			return s
		}
	}
	return nil
}
