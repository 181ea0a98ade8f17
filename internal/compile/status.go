package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// Seen is everything the status of a policy is computed from.
type Seen struct {
	Policy *v1alpha1.NodePortPolicy
	// Of Wish and Refusal exactly one is set.
	Wish    *Wish
	Refusal *Refusal
	// Unserved says, for wanted numbers without an allocation, why; nil when the
	// allocator has not yet looked.
	Unserved *Refusal
	// Unexposed says why the API server does not take the companion, nil when it
	// does.
	Unexposed *Refusal
	// Allocations of the policy, Open and Closed.
	Allocations []v1alpha1.NodePortAllocation
	// Service is the referenced one, Companion ours; nil when absent.
	Service, Companion *corev1.Service
	// Endpoints are those of the one of the two that carries the Open numbers.
	Endpoints Endpoints
	Nodes     []NodeReport
	Proof     Proof
	Places    Places
	// NetworkPolicy is that of the policy's name, nil when absent, and Ingress what it is
	// to be made of; nil when nobody asks for it.
	NetworkPolicy *networkingv1.NetworkPolicy
	Ingress       *Ingress
	// Lockdown: every port is closed by the installation.
	Lockdown bool
	// Hijackers are Services that take the traffic of one of the policy's ports on a
	// node's address.
	Hijackers []string
	// Front is what was last done about its fronts; nil when nobody has looked.
	Front *FrontSeen
	// Plan is what mode Enforce would do; nil in that mode.
	Plan *v1alpha1.PolicyPlan
	// Clouds by firewall name; a firewall that is not there does not exist.
	Clouds map[string]CloudSeen
}

func (s Seen) sight() Sight {
	sight := Sight{Nodes: s.Nodes, Proof: s.Proof, Service: s.Service, Endpoints: s.Endpoints, Lockdown: s.Lockdown}
	if s.Companion != nil && IsCompanion(s.Companion, s.Policy.Name) {
		sight.Companion = s.Companion
	}
	return sight
}

// gate is one condition of a policy before it is written.
type gate struct {
	kind    string
	passed  bool
	reason  string
	message string
	stalled bool
}

func passed(kind, reason, message string) gate {
	return gate{kind: kind, passed: true, reason: reason, message: message}
}

func waiting(kind, reason, message string) gate {
	return gate{kind: kind, reason: reason, message: message}
}

func stalled(kind, reason, message string) gate {
	return gate{kind: kind, reason: reason, message: message, stalled: true}
}

// blocks says whether the gate keeps its object from being Ready. One that does not
// enforce because it audits is as wished.
func (g gate) blocks() bool { return !g.passed && g.reason != v1alpha1.ReasonAudit }

// Status computes a policy's status. Transition times move only with a
// condition's status; previous is not changed.
func Status(seen Seen, now metav1.Time) v1alpha1.NodePortPolicyStatus {
	previous := seen.Policy.Status
	status := v1alpha1.NodePortPolicyStatus{
		ObservedGeneration: seen.Policy.Generation,
		Conditions:         slices.Clone(previous.Conditions),
		Allocations:        allocatedPorts(seen.Allocations),
		Plan:               seen.Plan,
	}
	status.NodePorts = nodePorts(status.Allocations)
	status.Addresses, status.TotalAddresses = seen.sight().addresses(seen.Policy, seen.open())
	status.Answered = seen.answered(status.Addresses)
	status.ClientIPPreserved, status.ClientIPReason = seen.clientIP()
	nodes, eligible := seen.Proof.Nodes(seen.Nodes, seen.Allocations)
	if len(seen.Allocations) > 0 {
		status.Nodes = &nodes
	}
	cloudGate, clouds := seen.cloudEnforced()
	status.Cloud = clouds
	gates := []gate{seen.accepted(), seen.allocated(), seen.exposed(), seen.onPath(seen.hostEnforced(nodes, eligible)), cloudGate}
	if status.Nodes != nil && len(nodes.Failing) > maxListed {
		status.Nodes.Failing = nodes.Failing[:maxListed]
	}
	for _, g := range append(gates, summary(gates)...) {
		setCondition(&status.Conditions, g, seen.Policy.Generation, now)
	}
	if g := seen.fronted(); g != nil {
		setCondition(&status.Conditions, *g, seen.Policy.Generation, now)
	} else {
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.Fronted)
	}
	for _, g := range []gate{seen.shadowed(), seen.conflict(), seen.unansweredPort()} {
		if g.passed {
			setCondition(&status.Conditions, g, seen.Policy.Generation, now)
		} else {
			meta.RemoveStatusCondition(&status.Conditions, g.kind)
		}
	}
	return status
}

// maxListed bounds every list of names in a status.
const maxListed = 8

func setCondition(conditions *[]metav1.Condition, g gate, generation int64, now metav1.Time) {
	c := metav1.Condition{
		Type: g.kind, Status: metav1.ConditionFalse, Reason: g.reason, Message: g.message,
		ObservedGeneration: generation, LastTransitionTime: now,
	}
	if g.passed {
		c.Status = metav1.ConditionTrue
	}
	meta.SetStatusCondition(conditions, c)
}

// summary derives Ready, Reconciling and Stalled as kstatus reads them: Stalled
// only when a person must act, Reconciling whenever something may still come.
func summary(gates []gate) []gate {
	ready := passed(v1alpha1.Ready, v1alpha1.ReasonOK, "in force at every gate")
	stuck := waiting(v1alpha1.Stalled, v1alpha1.ReasonProgressing, "nothing waits for a person")
	if reason := gates[0].reason; reason == v1alpha1.ReasonExpired || reason == v1alpha1.ReasonPlanned || reason == v1alpha1.ReasonAudit {
		ready.reason, ready.message = reason, gates[0].message
	}
	for _, g := range slices.Backward(gates) {
		if g.blocks() {
			ready = gate{kind: v1alpha1.Ready, reason: g.reason, message: g.message}
		}
	}
	for _, g := range slices.Backward(gates) {
		if g.stalled {
			stuck = passed(v1alpha1.Stalled, g.reason, g.message)
		}
	}
	working := waiting(v1alpha1.Reconciling, v1alpha1.ReasonOK, "nothing left to do")
	if !ready.passed {
		working = waiting(v1alpha1.Reconciling, stuck.reason, "waits for a person")
		if !stuck.passed {
			working = passed(v1alpha1.Reconciling, ready.reason, ready.message)
		}
	} else {
		stuck.reason = v1alpha1.ReasonOK
	}
	return []gate{ready, working, stuck}
}

func (s Seen) accepted() gate {
	switch {
	case s.Refusal != nil && s.Refusal.Waits:
		return waiting(v1alpha1.Accepted, s.Refusal.Reason, s.Refusal.Message)
	case s.Refusal != nil:
		return stalled(v1alpha1.Accepted, s.Refusal.Reason, s.Refusal.Message)
	case s.Wish.Expired:
		return passed(v1alpha1.Accepted, v1alpha1.ReasonExpired, fmt.Sprintf(
			"ended at %s; its ports are closed and given back; set a later expiresAt to open them again", s.Policy.Spec.ExpiresAt.UTC().Format(time.RFC3339)))
	}
	if problems := s.problems(); len(problems) > 0 {
		if rest := len(problems) - maxListed; rest > 0 { // a message has an end, and sets can be long
			problems = append(problems[:maxListed], fmt.Sprintf("and %d more", rest))
		}
		return stalled(v1alpha1.Accepted, v1alpha1.ReasonSourceRefused, strings.Join(problems, "; "))
	}
	if s.Wish.Planned {
		return passed(v1alpha1.Accepted, v1alpha1.ReasonPlanned, "valid; mode Plan writes nothing; see status.plan, and set mode Enforce to act")
	}
	if s.auditing() {
		return passed(v1alpha1.Accepted, v1alpha1.ReasonAudit, "valid; mode Audit passes and logs what would be dropped, from the sources that the pool allows; set mode Enforce to drop it")
	}
	return passed(v1alpha1.Accepted, v1alpha1.ReasonOK, "valid together with its pool and Service")
}

// problems names the sources that contribute nothing in the pools that serve the
// policy.
func (s Seen) problems() []string {
	var pools []string
	for _, a := range s.open() {
		if !slices.Contains(pools, a.Spec.Pool) {
			pools = append(pools, a.Spec.Pool)
		}
	}
	slices.Sort(pools)
	return s.Wish.ProblemsIn(pools...)
}

// idle says whether the policy wants nothing to be done: it has ended, or is a plan.
func (s Seen) idle() bool { return s.Wish != nil && (s.Wish.Expired || s.Wish.Planned) }

func (s Seen) allocated() gate {
	switch {
	case s.Refusal != nil && len(s.open()) > 0:
		return passed(v1alpha1.Allocated, v1alpha1.ReasonOK, "keeps the ports it had")
	case s.Refusal != nil:
		return waiting(v1alpha1.Allocated, v1alpha1.ReasonProgressing, "waits to be accepted")
	case s.Wish.Expired && len(s.open()) > 0:
		return waiting(v1alpha1.Allocated, v1alpha1.ReasonProgressing, "waits for its ports to close")
	case s.idle():
		return passed(v1alpha1.Allocated, v1alpha1.ReasonNotRequired, "no further port is wanted")
	case !s.missing():
		return passed(v1alpha1.Allocated, v1alpha1.ReasonOK, "every port has its number")
	case s.Unserved == nil:
		return waiting(v1alpha1.Allocated, v1alpha1.ReasonProgressing, "waits for the allocator")
	case s.Unserved.Waits:
		return waiting(v1alpha1.Allocated, s.Unserved.Reason, s.Unserved.Message)
	}
	return stalled(v1alpha1.Allocated, s.Unserved.Reason, s.Unserved.Message)
}

// missing says whether a wanted number has no allocation.
func (s Seen) missing() bool {
	return s.Wish != nil && !s.idle() && len(Assign(s.Wish, s.Allocations).Missing) > 0
}

func (s Seen) hostEnforced(nodes v1alpha1.NodesStatus, eligible int) gate {
	switch {
	case len(s.Allocations) == 0 && s.idle():
		return passed(v1alpha1.HostEnforced, v1alpha1.ReasonNotRequired, "nothing is to be admitted, and nothing is left to close")
	case len(s.Allocations) == 0:
		return waiting(v1alpha1.HostEnforced, v1alpha1.ReasonProgressing, "waits for its ports")
	case s.Lockdown && len(s.open()) > 0:
		return waiting(v1alpha1.HostEnforced, v1alpha1.ReasonLockdown, fmt.Sprintf(
			"lockdown: Portreeve %s closes every port; set spec.lockdown to false to open them again", v1alpha1.InstallationName))
	case eligible == 0:
		return waiting(v1alpha1.HostEnforced, v1alpha1.ReasonNoNodes, "no Linux node is Ready; nothing is reachable")
	case nodes.Enforced == v1alpha1.EnforcedAll:
		return s.hostProved()
	}
	reason, build := v1alpha1.ReasonNodesPending, waiting
	var names []string
	for i, f := range nodes.Failing {
		switch f.Reason {
		case NodePending, NodeUnconfirmed:
		case v1alpha1.ReasonEnforcementUnsupported:
			reason, build = v1alpha1.ReasonEnforcementUnsupported, stalled
		default:
			if reason == v1alpha1.ReasonNodesPending {
				reason = v1alpha1.ReasonNodesFailing
			}
		}
		if i < maxListed {
			names = append(names, f.Node+" "+f.Reason)
		}
	}
	if rest := len(nodes.Failing) - len(names); rest > 0 {
		names = append(names, fmt.Sprintf("and %d more", rest))
	}
	return build(v1alpha1.HostEnforced, reason, fmt.Sprintf("not yet proved by %s; see kubectl get nodedp", strings.Join(names, ", ")))
}

// shadowed "passes" when the condition is to be shown.
func (s Seen) shadowed() gate {
	if s.Service != nil && s.Companion != nil {
		var numbers []string
		for n := range Held(s.Service) {
			if slices.ContainsFunc(s.open(), func(a *v1alpha1.NodePortAllocation) bool {
				return NumberOf(a) == n && a.Spec.Carrier == v1alpha1.ServiceInPlace
			}) {
				continue
			}
			numbers = append(numbers, strconv.Itoa(int(n)))
		}
		if len(numbers) > 0 {
			slices.Sort(numbers)
			return passed(v1alpha1.Shadowed, v1alpha1.ReasonServiceNodePort, fmt.Sprintf(
				"Service %s is itself exposed on node port %s, outside this policy; make it a ClusterIP Service", s.Service.Name, strings.Join(numbers, ", ")))
		}
	}
	if message := s.cloudShadow(); message != "" {
		return passed(v1alpha1.Shadowed, v1alpha1.ReasonForeignRule, message)
	}
	return waiting(v1alpha1.Shadowed, v1alpha1.ReasonOK, "")
}

func (s Seen) conflict() gate {
	if len(s.Hijackers) > 0 {
		return passed(v1alpha1.Conflict, v1alpha1.ReasonHijacked, fmt.Sprintf(
			"hijacked by %s; remove what takes the port there, or its clients go to the wrong place", strings.Join(s.Hijackers[:min(len(s.Hijackers), maxListed)], "; ")))
	}
	if s.missing() && s.Unserved != nil && s.Unserved.Reason == v1alpha1.ReasonConflict {
		return passed(v1alpha1.Conflict, v1alpha1.ReasonConflict, s.Unserved.Message)
	}
	if g := s.fronted(); g != nil && g.reason == v1alpha1.ReasonFrontNameTaken {
		return passed(v1alpha1.Conflict, g.reason, g.message)
	}
	return waiting(v1alpha1.Conflict, v1alpha1.ReasonOK, "")
}

// open lists the policy's Open allocations, the lowest number first.
func (s Seen) open() []*v1alpha1.NodePortAllocation {
	open := slices.DeleteFunc(pointers(s.Allocations), func(a *v1alpha1.NodePortAllocation) bool {
		return a.Spec.State != v1alpha1.AllocationOpen
	})
	slices.SortFunc(open, func(a, b *v1alpha1.NodePortAllocation) int { return cmp.Compare(NumberOf(a), NumberOf(b)) })
	return open
}

func allocatedPorts(own []v1alpha1.NodePortAllocation) []v1alpha1.AllocatedPort {
	var out []v1alpha1.AllocatedPort
	for i := range own {
		a := &own[i]
		if a.Spec.State != v1alpha1.AllocationOpen {
			continue
		}
		for _, p := range a.Spec.Ports {
			out = append(out, v1alpha1.AllocatedPort{
				Name: p.Name, Protocol: string(p.Protocol), Port: p.Port,
				NodePort: int32(NumberOf(a)), Pool: a.Spec.Pool, Since: metav1.NewTime(since(a).Truncate(time.Second)),
			})
		}
	}
	slices.SortFunc(out, func(a, b v1alpha1.AllocatedPort) int {
		if a.NodePort != b.NodePort {
			return int(a.NodePort - b.NodePort)
		}
		return strings.Compare(a.Protocol, b.Protocol)
	})
	return out
}

func nodePorts(ports []v1alpha1.AllocatedPort) string {
	var texts []string
	for _, p := range ports {
		texts = append(texts, strconv.Itoa(int(p.NodePort)))
	}
	return strings.Join(slices.Compact(texts), ",")
}

// TooEarly says that somebody who is about to look has not looked yet: the
// allocator at missing numbers, or this process at a cloud or a prefix list. A status
// written now would only say so, and be written again at once.
func TooEarly(s Seen) bool {
	if s.Unserved == nil && s.missing() || s.listUnheard() {
		return true
	}
	return slices.ContainsFunc(s.firewalls(), func(name string) bool {
		seen, exists := s.Clouds[name]
		return exists && !seen.Read && seen.Reason == ""
	})
}
