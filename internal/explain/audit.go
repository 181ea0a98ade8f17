package explain

import (
	"cmp"
	"slices"
	"strings"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

// Finding is what a line of an audit is about.
type Finding string

// The findings. All but Open, Foreign and Unproved mean that somebody may come in whom no
// policy declares.
const (
	// FindingOpen: a policy's port.
	FindingOpen Finding = "Open"
	// FindingForeign: a Service that no policy declares has a pool's number; nodes drop it.
	FindingForeign Finding = "Foreign"
	// FindingGrandfathered: one that stood there before the pool; nodes pass everybody.
	FindingGrandfathered Finding = "Grandfathered"
	// FindingAudited: nodes pass whom no policy declares, and log it.
	FindingAudited Finding = "Audited"
	// FindingIgnored: free numbers of a pool pass unseen.
	FindingIgnored Finding = "Ignored"
	// FindingUndeclared: a Service's port that no node judges.
	FindingUndeclared Finding = "Undeclared"
	// FindingShadowed: something else opens what a policy restricts.
	FindingShadowed Finding = "Shadowed"
	// FindingHijacked: another Service takes packets to a pool's number on a node's address.
	FindingHijacked Finding = "Hijacked"
	// FindingExempt: a node passes what something of its own listens on.
	FindingExempt Finding = "Exempt"
	// FindingUngated: nobody filters the node, or not so that it can be vouched for.
	FindingUngated Finding = "Ungated"
	// FindingUnproved: the node has yet to prove part of the register.
	FindingUnproved Finding = "Unproved"
)

// Findings are all of them.
var Findings = []Finding{
	FindingOpen, FindingForeign, FindingGrandfathered, FindingAudited, FindingIgnored, FindingUndeclared,
	FindingShadowed, FindingHijacked, FindingExempt, FindingUngated, FindingUnproved,
}

// Line is one thing found.
type Line struct {
	Finding Finding `json:"finding"`
	// Ports are a number, or ranges of them; empty: all of the node.
	Ports    string `json:"ports,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	// Namespace, and the Policy or Service in it.
	Namespace string `json:"namespace,omitempty"`
	Policy    string `json:"policy,omitempty"`
	Service   string `json:"service,omitempty"`
	Pool      string `json:"pool,omitempty"`
	Team      string `json:"team,omitempty"`
	// Node that it is about; empty: all of them.
	Node string `json:"node,omitempty"`
	// ReachableBy are the networks that nodes let pass, canonical; empty: nobody.
	ReachableBy []string `json:"reachableBy"`
	// Since when, RFC 3339; empty where it is not known.
	Since  string `json:"since,omitempty"`
	Detail string `json:"detail,omitempty"`
	number uint16
}

// Report of an audit.
type Report struct {
	Kind    string `json:"kind"`
	Version string `json:"version"`
	// Counts of lines by finding.
	Counts map[Finding]int `json:"counts"`
	Lines  []Line          `json:"lines"`
}

// Audit lists everything that is reachable in the node-port range, as nodes decide it, and
// what keeps that from being true.
func Audit(c Cluster) Report {
	a := audit{view: resolve(c)}
	in := compile.NodeInput{Pools: a.poolsIn, AddressSets: a.setsIn, Installation: a.Installation, Now: a.Now}
	in.Allocations = objects(unselected(a.Allocations))
	a.set, _ = compile.Node(in)
	a.register()
	a.free()
	a.declared()
	a.shadowed()
	a.nodeLines()
	slices.SortStableFunc(a.lines, func(x, y Line) int {
		return cmp.Or(cmp.Compare(x.number, y.number), cmp.Compare(x.Protocol, y.Protocol), cmp.Compare(rank(x.Finding), rank(y.Finding)),
			strings.Compare(x.Node, y.Node), strings.Compare(x.Namespace+"/"+x.Service+x.Policy, y.Namespace+"/"+y.Service+y.Policy))
	})
	report := Report{Kind: "PortreeveAudit", Version: Version, Counts: map[Finding]int{}, Lines: a.lines}
	if report.Lines == nil {
		report.Lines = []Line{}
	}
	for _, l := range a.lines {
		report.Counts[l.Finding]++
	}
	return report
}

// Has says whether a line has one of the findings.
func (r Report) Has(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return r.Counts[f] > 0 })
}

func rank(f Finding) int { return slices.Index(Findings, f) }

// unselected are the allocations as on nodes that their selectors pick, and that are gateways.
func unselected(allocations []v1alpha1.NodePortAllocation) []v1alpha1.NodePortAllocation {
	out := slices.Clone(allocations)
	for i := range out {
		out[i].Spec.NodeSelector, out[i].Spec.Gateways = nil, nil
	}
	return out
}

type audit struct {
	*view
	set   rule.Set
	lines []Line
}

// line adds one; who come in to a port of the number.
func (a *audit) line(l Line, number uint16, who decision) {
	l.number = number
	l.ReachableBy = texts(who)
	a.lines = append(a.lines, l)
}

func (a *audit) at(number uint16, protocol rule.Protocol) decision {
	return decision{set: a.set, port: rule.Port{Protocol: protocol, Number: number}}
}

func texts(d decision) []string {
	out := []string{}
	for _, p := range d.who() {
		out = append(out, p.String())
	}
	return out
}
