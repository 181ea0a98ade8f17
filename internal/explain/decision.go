package explain

import (
	"net/netip"
	"slices"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

// decision is what the agent of a node makes of packets to one port, once it has read
// all that we have.
type decision struct {
	set      rule.Set
	port     rule.Port
	problems []compile.NodeProblem // with the number
}

// decide asks the compiler that agents run, for a node of that name and labels. a is the
// number's allocation, nil for none: those of other numbers have no part in it.
func (v *view) decide(a *v1alpha1.NodePortAllocation, port rule.Port, node string, labels map[string]string, exempt ...rule.Port) decision {
	in := compile.NodeInput{
		Pools: v.poolsIn, AddressSets: v.setsIn, GatewaySets: v.gatewaysIn, Installation: v.Installation,
		Node: node, Labels: labels, Now: v.Now, Exempt: exempt,
	}
	if a != nil {
		in.Allocations = compile.ObjectsOf(a)
	}
	set, problems := compile.Node(in)
	d := decision{set: set, port: port}
	for _, p := range problems {
		if p.Port == port.Number {
			d.problems = append(d.problems, p)
		}
	}
	return d
}

// everywhere is decide for a node that the allocation's selector picks, and that is one of
// its gateways.
func (v *view) everywhere(a *v1alpha1.NodePortAllocation, port rule.Port) decision {
	if a != nil && choosesNodes(a) {
		picked := *a
		picked.Spec.NodeSelector, picked.Spec.Gateways = nil, nil
		a = &picked
	}
	return v.decide(a, port, "", nil)
}

// choosesNodes says whether nodes differ in what the allocation has them do.
func choosesNodes(a *v1alpha1.NodePortAllocation) bool {
	return a.Spec.NodeSelector != nil || a.Spec.Gateways != nil
}

// judged says whether nodes have a say about the number at all.
func (d decision) judged() bool { return d.set.Judged.Contains(d.port.Number) }

// who are those that pass, canonically.
func (d decision) who() []netip.Prefix {
	switch {
	case !d.judged():
		return slices.Clone(rule.World)
	case d.set.Audited.Contains(d.port.Number):
		return rule.Subtract(rule.World, d.set.Denied)
	}
	return rule.Subtract(d.set.Passing(d.port), d.set.Denied)
}

// passes says whether the client passes; with the zero address: whether anybody does.
func (d decision) passes(from netip.Addr) bool {
	if from.IsValid() {
		return d.set.Admits(d.port, from)
	}
	return len(d.who()) > 0
}

// refuses says whether the client is turned away at once instead of dropped; with the zero
// address: whether anybody is.
func (d decision) refuses(from netip.Addr) bool {
	refused := d.set.Refused(d.port)
	return contains(refused, from) || !from.IsValid() && len(refused) > 0
}

// noAddress stands for nobody in particular.
var noAddress netip.Addr

func contains(prefixes []netip.Prefix, from netip.Addr) bool {
	return from.IsValid() && slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(from) })
}
