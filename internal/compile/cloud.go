package compile

import (
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
		description := fmt.Sprintf("portreeve team=%s pool=%s", a.Spec.Team, a.Spec.Pool)
		for _, atom := range places.Atoms(a) {
			out = append(out, Admission{Rule: atom, Pool: string(a.Spec.Pool), Description: description})
		}
	}
	slices.SortFunc(out, func(a, b Admission) int { return rule.CompareRules(a.Rule, b.Rule) })
	return out
}

// Atoms returns what passes an allocation's ports, one protocol, port and prefix
// each; nothing unless it is Open.
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
