package compile

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// Admission is one atom that a cloud firewall must admit, and what a person
// should read beside it.
type Admission struct {
	rule.Rule
	// Peer is the security group whose members are admitted; Source is zero then.
	Peer string
	// Pool is whose rule it is.
	Pool        string
	Description string
}

// Cloud returns what a cloud firewall must admit: the sources of every Open
// allocation that names it, and those it audits: an audit that let the cloud drop them
// would cut off whom it is to observe. Merging atoms into fewer rules is the cloud's affair.
func Cloud(firewall string, allocations []v1alpha1.NodePortAllocation, places Places) []Admission {
	var out []Admission
	for i := range allocations {
		a := &allocations[i]
		if !slices.Contains(a.Spec.CloudFirewalls, v1alpha1.ObjectName(firewall)) {
			continue
		}
		for _, admission := range places.admissions(a) {
			admission.Description, admission.Pool = fmt.Sprintf("portreeve team=%s pool=%s", a.Spec.Team, a.Spec.Pool), a.Spec.Pool
			out = append(out, admission)
		}
	}
	slices.SortFunc(out, CompareAdmissions)
	return out
}

// CompareAdmissions is the canonical order.
func CompareAdmissions(a, b Admission) int {
	return cmp.Or(rule.CompareRules(a.Rule, b.Rule), cmp.Compare(a.Peer, b.Peer))
}

// admissions returns what a cloud must admit to an allocation's ports, one protocol, port
// and source each; nothing unless it is Open.
func (p Places) admissions(a *v1alpha1.NodePortAllocation) (out []Admission) {
	number := NumberOf(a)
	if a.Spec.State != v1alpha1.AllocationOpen || number == 0 {
		return nil
	}
	for _, port := range a.Spec.Ports {
		at := rule.Rule{Protocol: rule.Protocol(port.Protocol), Ports: rule.PortRange{First: number, Last: number}}
		for _, source := range p.clouded(a, port) {
			out = append(out, Admission{Rule: rule.Rule{Protocol: at.Protocol, Ports: at.Ports, Source: source}})
		}
		for _, group := range p.peers(a, port) {
			out = append(out, Admission{Rule: at, Peer: string(group)})
		}
	}
	return out
}

// CloudPool is what one pool may take of the clouds.
type CloudPool struct {
	// Ports are the numbers that the pool owns and on which nodes drop whom nobody admits:
	// there a rule of a cloud may be wider than the sources, for nodes are not. Foreign
	// numbers, and those that nodes do not judge, are not among them.
	Ports rule.PortRanges
	// Rules is the most rules of one cloud firewall that its policies may take; 0: any.
	Rules int
}

// CloudPools returns, by name, what each pool may take of the clouds.
func CloudPools(pools []Pool, allocations []v1alpha1.NodePortAllocation) map[string]CloudPool {
	var passed []rule.PortRange
	for i := range allocations {
		if n := NumberOf(&allocations[i]); allocations[i].Spec.State == v1alpha1.AllocationForeign && n != 0 {
			passed = append(passed, rule.PortRange{First: n, Last: n})
		}
	}
	foreign := rule.NewPortRanges(passed...)
	out := make(map[string]CloudPool, len(pools))
	for _, p := range pools {
		limit := CloudPool{Rules: int(p.Spec.Quota.CloudRules)}
		if p.Spec.Unclaimed == "" || p.Spec.Unclaimed == v1alpha1.UnclaimedDrop {
			limit.Ports = p.Owned.Intersect(p.Armed).Subtract(foreign)
		}
		out[p.Name] = limit
	}
	return out
}

// Atoms returns what passes an allocation's ports on nodes, one protocol, port and
// prefix each; nothing unless it is Open.
func (p Places) Atoms(a *v1alpha1.NodePortAllocation) []rule.Rule {
	number := NumberOf(a)
	if a.Spec.State != v1alpha1.AllocationOpen || number == 0 {
		return nil
	}
	var atoms []rule.Rule
	for _, port := range a.Spec.Ports {
		for _, source := range p.passing(a, port) {
			atoms = append(atoms, rule.Rule{Protocol: rule.Protocol(port.Protocol), Ports: rule.PortRange{First: number, Last: number}, Source: source})
		}
	}
	return atoms
}
