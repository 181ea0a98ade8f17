package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// CloudSeen is what the last reading of one cloud firewall showed. The zero
// value: it has not been read yet.
type CloudSeen struct {
	// Read says that the groups have been read at least once.
	Read bool
	// InForce are our rules, and foreign ones that equal a wish, over all groups.
	InForce []Admission
	// Doubtful are rules of ours that may stand there or not: what was written and does
	// not show yet, or whose answer was lost.
	Doubtful []Admission
	// Lookups are the answers of the cloud by the id of a prefix list or security group;
	// one that is not there has not been asked for yet.
	Lookups map[string]LookupSeen
	// Groups as last read.
	Groups []GroupSeen
	// Reason and Message of the last trouble; empty when there was none.
	Reason, Message string
}

// GroupSeen is one security group as it was last read.
type GroupSeen struct {
	ID string
	// Ours are the rules signed by this cluster.
	Ours []rule.Rule
	// Coarse are those of Ours that admit more than was asked, so that they fit. What
	// they add is known and nodes drop it, so they hold no number.
	Coarse []Admission
	// Shadowing are foreign rules that admit more than we wish, with their text.
	Shadowing []Admission
	// Hiding are foreign rules that drop what they match, ahead of ours.
	Hiding []Admission
}

// LookupSeen is what the cloud last said of a prefix list or security group.
type LookupSeen struct {
	// Absent: there is no such group, so the cloud is not told to admit it.
	Absent bool
	// Problem of the last lookup; empty when there was none.
	Problem string
}

// StateInForce is a CloudStatus.State: exactly what was asked for is admitted.
const (
	StateInForce = "InForce"
	StatePending = "Pending"
)

// How exactly a cloud admits what was asked: CloudStatus.Precision.
const (
	PrecisionExact  = "Exact"
	PrecisionCoarse = "Coarse"
)

func (s Seen) cloudEnforced() (gate, []v1alpha1.CloudStatus) {
	firewalls := s.firewalls()
	if len(s.open()) == 0 && s.idle() && len(firewalls) == 0 {
		return passed(v1alpha1.CloudEnforced, v1alpha1.ReasonNotRequired, "nothing is to be admitted, and nothing is left to revoke"), nil
	}
	if len(s.open()) == 0 && !s.idle() {
		return waiting(v1alpha1.CloudEnforced, v1alpha1.ReasonProgressing, "waits for its ports"), nil
	}
	if len(firewalls) == 0 {
		return passed(v1alpha1.CloudEnforced, v1alpha1.ReasonNotRequired, "no cloud firewall is asked for"), nil
	}
	var all []v1alpha1.CloudStatus
	result := passed(v1alpha1.CloudEnforced, v1alpha1.ReasonOK, "every cloud firewall was re-read and admits exactly these sources")
	if s.auditing() {
		result.message += " and those that are audited"
	}
	for _, name := range firewalls {
		status, g := s.cloud(name)
		all = append(all, status)
		if !g.passed && (result.passed || (g.stalled && !result.stalled)) {
			result = g
		}
	}
	if nowhere := s.unknownGroups(); nowhere != "" && result.passed {
		result = stalled(v1alpha1.CloudEnforced, v1alpha1.ReasonSourceRefused, nowhere)
	}
	return result, all
}

// firewalls are those that the policy's open ports need, and those that still
// show rules of ours for one of its numbers: they have yet to revoke them.
func (s Seen) firewalls() []string {
	var names []string
	for _, a := range s.open() {
		for _, f := range a.Spec.CloudFirewalls {
			names = append(names, string(f))
		}
	}
	for name, seen := range s.Clouds {
		if slices.ContainsFunc(s.Allocations, func(a v1alpha1.NodePortAllocation) bool { return seen.Holds(NumberOf(&a)) }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (s Seen) cloud(name string) (v1alpha1.CloudStatus, gate) {
	seen, exists := s.Clouds[name]
	status := v1alpha1.CloudStatus{Firewall: name, State: StatePending}
	if !exists {
		status.State = v1alpha1.ReasonCloudFirewallNotFound
		status.Message = fmt.Sprintf("CloudFirewall %s does not exist; create it or take it out of the pool", name)
		return status, waiting(v1alpha1.CloudEnforced, v1alpha1.ReasonCloudFirewallNotFound, status.Message)
	}
	inForce, coarse := seen.Read, false
	for i := range s.Allocations {
		a := &s.Allocations[i]
		if slices.Contains(a.Spec.CloudFirewalls, v1alpha1.ObjectName(name)) {
			inForce = inForce && seen.admits(a, s.Places)
			coarse = coarse || a.Spec.State == v1alpha1.AllocationOpen && seen.coarse(NumberOf(a))
		} else {
			inForce = inForce && !seen.Holds(NumberOf(a))
		}
	}
	status.Groups, status.Rules = seen.serving(s.Allocations)
	switch {
	case inForce:
		status.State, status.Message = StateInForce, s.lookupProblems(seen, name)
		status.Precision = PrecisionExact
		if coarse {
			status.Precision = PrecisionCoarse
		}
		return status, passed(v1alpha1.CloudEnforced, v1alpha1.ReasonOK, "")
	case seen.Reason == "" || seen.Reason == v1alpha1.ReasonThrottled:
		return status, waiting(v1alpha1.CloudEnforced, v1alpha1.ReasonProgressing, fmt.Sprintf("waits for cloud firewall %s", name))
	}
	status.State, status.Message = seen.Reason, fmt.Sprintf("cloud firewall %s: %s", name, seen.Message)
	if seen.Reason == v1alpha1.ReasonUnreachable || seen.Reason == v1alpha1.ReasonObserving {
		return status, waiting(v1alpha1.CloudEnforced, seen.Reason, status.Message)
	}
	return status, stalled(v1alpha1.CloudEnforced, seen.Reason, status.Message)
}

// admits says whether the cloud admits, through rules of ours or equal ones, the
// allocation's sources and nobody else, but for whom coarse rules add. A group that is
// not there can't be admitted.
func (c CloudSeen) admits(a *v1alpha1.NodePortAllocation, places Places) bool {
	number := NumberOf(a)
	if c.doubts(number) { // of a source that was revoked as well
		return false
	}
	have := slices.DeleteFunc(slices.Clone(c.InForce), func(r Admission) bool { return !r.Ports.Contains(number) })
	want := slices.DeleteFunc(places.admissions(a), func(r Admission) bool { return r.Peer != "" && c.Lookups[r.Peer].Absent })
	for _, p := range rule.Protocols {
		wantPrefixes, wantPeers := sourcesFor(p, want)
		prefixes, peers := sourcesFor(p, have)
		exact, _ := sourcesFor(p, slices.DeleteFunc(slices.Clone(have), c.isCoarse))
		if !rule.CoversAll(prefixes, wantPrefixes) || !rule.CoversAll(wantPrefixes, exact) || !slices.Equal(wantPeers, peers) {
			return false
		}
	}
	return !slices.ContainsFunc(want, c.hidden)
}

// isCoarse says whether the rule is one that admits more than was asked.
func (c CloudSeen) isCoarse(r Admission) bool {
	return slices.ContainsFunc(c.Groups, func(g GroupSeen) bool {
		return slices.ContainsFunc(g.Coarse, func(w Admission) bool { return w.Rule == r.Rule && w.Peer == r.Peer })
	})
}

// coarse says whether such a rule serves the number.
func (c CloudSeen) coarse(number uint16) bool {
	return slices.ContainsFunc(c.Groups, func(g GroupSeen) bool {
		return slices.ContainsFunc(g.Coarse, func(w Admission) bool { return w.Ports.Contains(number) })
	})
}

// hidden says whether a rule that is not ours drops some of whom the admission is for.
func (c CloudSeen) hidden(want Admission) bool {
	return slices.ContainsFunc(c.Groups, func(g GroupSeen) bool {
		return slices.ContainsFunc(g.Hiding, func(h Admission) bool {
			same := h.Protocol == want.Protocol || !slices.Contains(rule.Protocols, h.Protocol)
			return same && h.Ports.Contains(want.Ports.First) && (!h.Source.IsValid() || !want.Source.IsValid() || h.Source.Overlaps(want.Source))
		})
	})
}

// sourcesFor are the sources that are admitted over a protocol.
func sourcesFor(p rule.Protocol, admissions []Admission) (prefixes []netip.Prefix, peers []string) {
	for _, r := range admissions {
		switch {
		case r.Protocol != p:
		case r.Peer != "":
			peers = append(peers, r.Peer)
		default:
			prefixes = append(prefixes, r.Source)
		}
	}
	return rule.Canonical(prefixes), sortedSet(peers)
}

// doubts says whether a rule of ours for the number may be there or not.
func (c CloudSeen) doubts(number uint16) bool {
	return slices.ContainsFunc(c.Doubtful, func(d Admission) bool { return d.Ports.Contains(number) })
}

// Holds says whether a rule of ours may still admit something to the number.
func (c CloudSeen) Holds(number uint16) bool {
	if c.doubts(number) {
		return true
	}
	return slices.ContainsFunc(c.Groups, func(g GroupSeen) bool {
		return slices.ContainsFunc(g.Ours, func(r rule.Rule) bool {
			return r.Ports.Contains(number) && !slices.ContainsFunc(g.Coarse, func(w Admission) bool { return w.Rule == r })
		})
	})
}

// serving counts the rules in force that serve the allocations, and their groups.
func (c CloudSeen) serving(own []v1alpha1.NodePortAllocation) (groups []string, rules int32) {
	for _, g := range c.Groups {
		count := int32(0)
		for _, r := range g.Ours {
			if slices.ContainsFunc(own, func(a v1alpha1.NodePortAllocation) bool { return r.Ports.Contains(NumberOf(&a)) }) {
				count++
			}
		}
		if count > 0 {
			groups, rules = append(groups, g.ID), rules+count
		}
	}
	return groups, rules
}

// cloudShadow describes foreign rules that defeat the policy, "" if there are none.
func (s Seen) cloudShadow() string {
	var found []string
	for _, name := range s.firewalls() {
		for _, g := range s.Clouds[name].Groups {
			for _, shadow := range g.Shadowing {
				if len(found) < maxListed && slices.ContainsFunc(s.open(), func(a *v1alpha1.NodePortAllocation) bool { return shadow.defeats(a, s.Places) }) {
					found = append(found, fmt.Sprintf("%s %s in group %s of %s", shadow.Rule.Source, shadow.Ports, g.ID, name))
				}
			}
		}
	}
	if len(found) == 0 {
		return ""
	}
	return fmt.Sprintf("rules that are not ours admit more than this policy (nodes still filter): %s; remove or narrow them", strings.Join(found, "; "))
}

// defeats says whether a rule that is not ours admits to the allocation what none
// of its sources is. A protocol that we do not know stands for all of them.
func (r Admission) defeats(a *v1alpha1.NodePortAllocation, places Places) bool {
	if !r.Ports.Contains(NumberOf(a)) {
		return false
	}
	return slices.ContainsFunc(a.Spec.Ports, func(p v1alpha1.ClaimedPort) bool {
		same := r.Protocol == rule.Protocol(p.Protocol) || !slices.Contains(rule.Protocols, r.Protocol)
		return same && !rule.Covers(places.clouded(a, p), r.Source)
	})
}
