package explain

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

// register lists what has an allocation and is not closed.
func (a *audit) register() {
	for i := range a.Allocations {
		n := &a.Allocations[i]
		number := compile.NumberOf(n)
		if n.Spec.State == v1alpha1.AllocationClosed || number == 0 {
			continue
		}
		for _, protocol := range n.Spec.Protocols {
			d := a.at(number, rule.Protocol(protocol))
			l := Line{
				Ports: n.Name, Protocol: string(protocol), Namespace: n.Spec.Claim.Namespace, Policy: n.Spec.Claim.Policy,
				Service: n.Spec.Claim.Service, Pool: n.Spec.Pool, Team: n.Spec.Team, Finding: FindingOpen,
				Since: n.CreationTimestamp.UTC().Format(time.RFC3339),
			}
			if n.Spec.Since != nil {
				l.Since = n.Spec.Since.UTC().Format(time.RFC3339)
			}
			switch {
			case !d.judged():
				l.Finding, l.Detail = FindingUndeclared, "a fail-safe port, which no node judges"
			case n.Spec.State == v1alpha1.AllocationForeign && n.Spec.Grandfathered:
				l.Finding, l.Detail = FindingGrandfathered, "stood there before the pool"
			case n.Spec.State == v1alpha1.AllocationForeign:
				l.Finding, l.Detail = FindingForeign, "no policy declares it; nodes drop it"
			case d.set.Ports.Get(d.port).Audit != "":
				l.Finding, l.Detail = FindingAudited, "mode Audit: passes and logs whom the policy does not name"
			case compile.Ended(n, a.Now):
				l.Detail = "ended, and about to close"
			}
			if n.Spec.NodeSelector != nil {
				l.Detail = join(nonEmpty(l.Detail, "on selected nodes only"))
			}
			if n.Spec.Gateways != nil {
				l.Detail = join(nonEmpty(l.Detail, "at its gateways only"))
			}
			a.line(l, number, d)
		}
	}
}

func nonEmpty(list ...string) []string {
	return slices.DeleteFunc(list, func(s string) bool { return s == "" })
}

// free lists the numbers of pools that pass although nobody claims them.
func (a *audit) free() {
	for _, p := range a.pools {
		finding := map[v1alpha1.Unclaimed]Finding{v1alpha1.UnclaimedAudit: FindingAudited, v1alpha1.UnclaimedIgnore: FindingIgnored}[p.Spec.Unclaimed]
		var passed []rule.PortRange
		for n := range p.Armed.Numbers {
			if finding != "" && a.allocation(n) == nil && a.at(n, rule.TCP).passes(noAddress) {
				passed = append(passed, rule.PortRange{First: n, Last: n})
			}
		}
		ranges := rule.NewPortRanges(passed...)
		if len(ranges) == 0 {
			continue
		}
		l := Line{Finding: finding, Ports: join(ranges.Strings()), Pool: p.Name, Team: p.Spec.Team, Detail: fmt.Sprintf("unclaimed: %s", p.Spec.Unclaimed)}
		a.line(l, ranges[0].First, a.at(ranges[0].First, rule.TCP))
	}
}

// declared looks at Services: it lists those with node ports that are not in the register, and those that
// take a number on the address of a node.
func (a *audit) declared() {
	for i := range a.Services {
		s := &a.Services[i]
		if compile.IsHold(s, a.Namespace) {
			continue
		}
		held := compile.Held(s)
		for _, number := range slices.Sorted(maps.Keys(held)) {
			if a.allocation(number) != nil {
				a.squats(s, number)
				continue
			}
			for _, protocol := range held[number] {
				a.undeclared(s, number, protocol, fmt.Sprintf("%s Service without a policy", s.Spec.Type))
			}
		}
		a.captures(s)
	}
}

// undeclared is a port of a Service that nobody declared: reachable where nobody judges it,
// else dropped like any free number.
func (a *audit) undeclared(s *corev1.Service, number uint16, protocol v1alpha1.Protocol, detail string) {
	d := a.at(number, rule.Protocol(protocol))
	l := Line{Finding: FindingUndeclared, Ports: strconv.Itoa(int(number)), Protocol: string(protocol), Namespace: s.Namespace, Service: s.Name, Detail: detail}
	if !s.CreationTimestamp.IsZero() {
		l.Since = s.CreationTimestamp.UTC().Format(time.RFC3339)
	}
	if p := compile.PoolOf(a.pools, number); p != nil {
		l.Pool, l.Team = p.Name, p.Spec.Team
	}
	if d.judged() {
		l.Finding, l.Detail = FindingForeign, detail+"; not in the register yet, and nodes drop it"
		if d.set.Audited.Contains(number) {
			l.Finding, l.Detail = FindingAudited, detail+"; its pool audits free numbers"
		}
	} else {
		l.Detail += "; no node judges the number"
	}
	a.line(l, number, d)
}

// squats is a Service that has a number of the register in another's place.
func (a *audit) squats(s *corev1.Service, number uint16) {
	n := a.allocation(number)
	claim := n.Spec.Claim
	if s.Namespace == claim.Namespace && (s.Name == claim.Service || claim.Policy != "" && compile.IsCompanion(s, claim.Policy)) {
		return
	}
	for _, protocol := range compile.Held(s)[number] {
		a.line(Line{
			Finding: FindingHijacked, Ports: n.Name, Protocol: string(protocol), Namespace: s.Namespace, Service: s.Name, Pool: n.Spec.Pool, Team: n.Spec.Team,
			Detail: fmt.Sprintf("has a number that the register gives to %s/%s", claim.Namespace, cmp.Or(claim.Policy, claim.Service)),
		}, number, a.at(number, rule.Protocol(protocol)))
	}
}

// captures lists what a Service takes on the address of a node by its own ports: a number
// of a pool, or one of the node-port range that nobody judges.
func (a *audit) captures(s *corev1.Service) {
	for _, p := range s.Spec.Ports {
		protocol := v1alpha1.Protocol(cmp.Or(p.Protocol, corev1.ProtocolTCP))
		number := uint16(p.Port)
		how := compile.Hijacks(s, number, []v1alpha1.Protocol{protocol}, a.addresses)
		d := a.at(number, rule.Protocol(protocol))
		switch {
		case how == "":
		case d.judged():
			l := Line{Finding: FindingHijacked, Ports: strconv.Itoa(int(number)), Protocol: string(protocol), Namespace: s.Namespace, Service: s.Name, Detail: how}
			if pool := compile.PoolOf(a.pools, number); pool != nil {
				l.Pool, l.Team = pool.Name, pool.Spec.Team
			}
			a.line(l, number, d)
		case a.nodePorts().Contains(number):
			a.undeclared(s, number, protocol, how)
		}
	}
}

// shadowed lists what opens more than policies do, as the manager saw it.
func (a *audit) shadowed() {
	for i := range a.Policies {
		p := &a.Policies[i]
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.Shadowed)
		if c == nil || c.Status != metav1.ConditionTrue {
			continue
		}
		for _, port := range p.Status.Allocations {
			a.line(Line{
				Finding: FindingShadowed, Ports: strconv.Itoa(int(port.NodePort)), Protocol: port.Protocol, Namespace: p.Namespace, Policy: p.Name,
				Service: p.Spec.ServiceRef.Name, Pool: port.Pool, Since: c.LastTransitionTime.UTC().Format(time.RFC3339), Detail: c.Message,
			}, uint16(port.NodePort), a.at(uint16(port.NodePort), rule.Protocol(port.Protocol)))
		}
	}
}

// nodeLines list nodes that do not filter, or have not proved all that they should.
func (a *audit) nodeLines() {
	for _, n := range a.nodes {
		if n.Labels["type"] == "virtual-kubelet" {
			continue
		}
		if !compile.Ready(n.Node) {
			a.away(n)
			continue
		}
		w := walk{view: a.view}
		if reason, message, _, _ := w.unfiltered(n); reason != "" {
			a.whole(FindingUngated, n.Name, reason+": "+message)
			continue
		}
		if reason, message := a.behind(n); reason != "" {
			a.whole(FindingUnproved, n.Name, reason+": "+message)
		}
		for _, e := range n.Datapath.Status.Exceptions {
			number := uint16(e.Port)
			l := Line{Finding: FindingUnproved, Node: n.Name, Ports: strconv.Itoa(int(e.Port)), Detail: e.Reason}
			if number == 0 {
				l.Ports = ""
			}
			if number != 0 && a.allocation(number) == nil {
				l.Finding = FindingExempt
				open := rule.Build(a.set.Judged, map[rule.Port]rule.Terms{{Protocol: rule.TCP, Number: number}: {Sources: rule.World}}).WithDenied(a.set.Denied)
				a.line(l, number, decision{set: open, port: rule.Port{Protocol: rule.TCP, Number: number}})
				continue
			}
			a.line(l, number, a.at(number, rule.TCP))
		}
	}
}

// whole is a line about all ports of a node.
func (a *audit) whole(f Finding, node, detail string) {
	l := Line{Finding: f, Node: node, Detail: detail, ReachableBy: []string{}}
	if f == FindingUngated {
		for _, p := range rule.World {
			l.ReachableBy = append(l.ReachableBy, p.String())
		}
	}
	a.lines = append(a.lines, l)
}
