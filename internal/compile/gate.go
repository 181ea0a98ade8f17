package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// defaultLines is what the API server fills in for log.perSecond.
const defaultLines = 10

// knownModes are those of an allocation. One that is not among them may ask for
// anything, so it gets nothing.
var knownModes = []v1alpha1.PolicyMode{"", v1alpha1.ModeEnforce, v1alpha1.ModeAudit}

// Ended says whether an Open allocation has come to its end: nodes admit nobody from
// then on, whether or not a manager runs to close it.
func Ended(a *v1alpha1.NodePortAllocation, now time.Time) bool {
	return a.Spec.ExpiresAt != nil && !a.Spec.ExpiresAt.After(now)
}

// LogOf is what nodes log of an allocation's connections.
func LogOf(a *v1alpha1.NodePortAllocation) rule.Log {
	l := a.Spec.Log
	return rule.Log{Denied: l.Denied, Accepted: l.Accepted, PerSecond: uint32(max(cmp.Or(l.PerSecond, defaultLines), 1))}
}

// limitsOf are an allocation's limits as nodes apply them. An audit drops nothing, so
// it has none. Less than nothing is not allowed, and read as the least there is.
func limitsOf(a *v1alpha1.NodePortAllocation) rule.Limits {
	if a.Spec.Mode == v1alpha1.ModeAudit {
		return rule.Limits{}
	}
	bound := func(n int32) uint32 {
		if n < 0 {
			return 1
		}
		return uint32(n)
	}
	l := a.Spec.Limits
	return rule.Limits{
		Connections: bound(l.ConnectionsPerSource), PerSecond: bound(l.NewConnectionsPerSecond),
		Burst: bound(cmp.Or(l.Burst, l.NewConnectionsPerSecond)),
	}
}

// Audited returns, canonically, who passes an Open allocation's ports besides those
// they admit: in mode Audit, whom the pool lets be audited now. Where the pool is not
// known, that is nobody.
func (p Places) Audited(a *v1alpha1.NodePortAllocation) []netip.Prefix {
	if a.Spec.Mode != v1alpha1.ModeAudit || a.Spec.State != v1alpha1.AllocationOpen {
		return nil
	}
	return p.rails[a.Spec.Pool].audited()
}

// passing returns, canonically, who passes one of an allocation's ports on nodes.
func (p Places) passing(a *v1alpha1.NodePortAllocation, port v1alpha1.ClaimedPort) []netip.Prefix {
	return rule.Canonical(slices.Concat(p.Admitted(a.Spec.Pool, port), p.Audited(a)))
}

// audited are the sources that policies of the pool may audit: the allowed ones, or
// the world where the pool bounds nothing. The world only where the pool allows that,
// also if the allowed sources add up to it.
func (r rails) audited() []netip.Prefix {
	switch {
	case !r.audit:
		return nil
	case r.bounded && r.world:
		return slices.Clone(r.within)
	case r.bounded:
		return withoutWorld(r.within)
	case r.world:
		return rule.World
	}
	return nil
}

// refuseAudit says why a policy's mode Audit has no effect in the pool, "" if it has.
func (r rails) refuseAudit(policy *v1alpha1.NodePortPolicy) string {
	switch {
	case policy.Spec.Mode != v1alpha1.ModeAudit:
		return ""
	case !r.audit:
		return fmt.Sprintf("mode Audit is not allowed in pool %s, so only the sources pass; set mode Enforce, or ask the platform team for guardrails.audit", r.pool)
	case len(r.audited()) == 0:
		return fmt.Sprintf("mode Audit audits nobody in pool %s, which has no allowedSources short of the world and does not allow the world, so only the sources pass; set mode Enforce, or ask the platform team for guardrails.allowedSources", r.pool)
	}
	return ""
}

// narrowedMode ends an audit that the policy no longer wants, or the pool no longer
// allows. What a pool that is gone allowed, nodes don't ask.
func narrowedMode(mode v1alpha1.PolicyMode, policy *v1alpha1.NodePortPolicy, pool *v1alpha1.NodePortPool) v1alpha1.PolicyMode {
	if policy.Spec.Mode != v1alpha1.ModeAudit || pool != nil && len(railsOf(pool).audited()) == 0 {
		return ""
	}
	return mode
}

// gated fills in what a claim asks of connections besides their source. Ports that the
// policy does not name have no part in an audit: they are closed for another reason.
func (o offer) gated(spec *v1alpha1.NodePortAllocationSpec, policy *v1alpha1.NodePortPolicy) {
	if policy.Spec.Mode == v1alpha1.ModeAudit && o.audits && !slices.ContainsFunc(spec.Ports, o.isSilent) {
		spec.Mode = v1alpha1.ModeAudit
	}
	spec.Limits, spec.Log = policy.Spec.Limits, policy.Spec.Log
	if spec.Limits.NewConnectionsPerSecond > 0 {
		spec.Limits.Burst = cmp.Or(spec.Limits.Burst, spec.Limits.NewConnectionsPerSecond)
	}
	if spec.Log != (v1alpha1.Log{}) {
		spec.Log.PerSecond = cmp.Or(spec.Log.PerSecond, defaultLines)
	}
}

func (o offer) isSilent(p v1alpha1.ClaimedPort) bool { return o.silent[keyOf(p)] }

// unaudited names the numbers that mode Audit leaves out although the policy names one
// of their ports.
func (o offer) unaudited(numbers []Number, policy *v1alpha1.NodePortPolicy) (problems []string) {
	for _, n := range numbers {
		silent := slices.IndexFunc(n.Ports, o.isSilent)
		if policy.Spec.Mode != v1alpha1.ModeAudit || !o.audits || silent < 0 {
			continue
		}
		for _, p := range n.Ports {
			if !o.isSilent(p) {
				problems = append(problems, fmt.Sprintf("mode Audit has no effect on port %s/%s, so only its sources pass: it shares its number with %s/%s, which spec.ports does not name; name that port as well",
					describePort(v1alpha1.PolicyPort{Name: p.Name, Port: p.Port}), p.Protocol,
					describePort(v1alpha1.PolicyPort{Name: n.Ports[silent].Name, Port: n.Ports[silent].Port}), n.Ports[silent].Protocol))
			}
		}
	}
	return problems
}

// auditing says whether one of the policy's ports passes whom the policy does not name.
func (s Seen) auditing() bool {
	return slices.ContainsFunc(s.open(), func(a *v1alpha1.NodePortAllocation) bool { return a.Spec.Mode == v1alpha1.ModeAudit })
}

// hostProved is the gate once every node has proved what it is to do. An audit is as
// wished, and enforces nothing; that every node refuses is not.
func (s Seen) hostProved() gate {
	if why := s.unanswered(); why != "" {
		return waiting(v1alpha1.HostEnforced, v1alpha1.ReasonNoGateways, why)
	}
	if s.auditing() {
		return waiting(v1alpha1.HostEnforced, v1alpha1.ReasonAudit, "every Ready node passes and logs what would be dropped, from the sources that the pool allows; set mode Enforce to drop it")
	}
	return passed(v1alpha1.HostEnforced, v1alpha1.ReasonOK, "every Ready node has proved it"+s.silent())
}

// auditUnheard says whether a node has yet to hear whom the allocation's pool lets it
// audit.
func (p Proof) auditUnheard(a *v1alpha1.NodePortAllocation, marks v1alpha1.Marks) bool {
	pool := p.Places.rails[a.Spec.Pool].version
	return a.Spec.Mode == v1alpha1.ModeAudit && pool != "" && !AtLeast(marks.Pools, pool)
}
