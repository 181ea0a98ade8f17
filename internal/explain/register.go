package explain

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// Reasons of gates besides those of policies (api/v1alpha1). Each is explained in
// docs/explain.md.
const (
	ReasonAdmitted         = "Admitted"
	ReasonAudited          = "Audited"
	ReasonClosed           = "AllocationClosed"
	ReasonForeign          = "Foreign"
	ReasonGrandfathered    = "Grandfathered"
	ReasonUnclaimed        = "Unclaimed"
	ReasonNotGated         = "NotGated"
	ReasonNotListed        = "NotListed"
	ReasonNobodyListed     = "NobodyListed"
	ReasonDeniedToAll      = "DeniedToAll"
	ReasonNotSelected      = "NotSelected"
	ReasonNotGateway       = "NotGateway"
	ReasonExempt           = "Exempt"
	ReasonNotReady         = "NotReady"
	ReasonItself           = "Itself"
	ReasonNoService        = "NoService"
	ReasonNotCarried       = "NotCarried"
	ReasonNoReadyEndpoints = "NoReadyEndpoints"
	ReasonNoLocal          = "NoLocalEndpoint"
	ReasonPolicyNotFound   = "PolicyNotFound"
	ReasonNotObserved      = "NotObserved"
)

// allocated is what the register says of the number.
func (w walk) allocated() Gate {
	a := w.allocation
	g := Gate{Gate: GateAllocation, Subject: strconv.Itoa(int(w.port.Number)), State: Passes, Reason: v1alpha1.ReasonOK}
	if a == nil {
		return w.unclaimed(g)
	}
	if !w.decision.judged() {
		g.State, g.Reason = Warns, ReasonNotGated
		g.Message = "a fail-safe port, which no node ever judges: everybody passes"
		g.Remedy = "take it off spec.failSafePorts of the Portreeve object, or use another number"
		return g
	}
	holder := a.Spec.Claim.Namespace + "/" + cmp.Or(a.Spec.Claim.Policy, a.Spec.Claim.Service)
	if !slices.Contains(a.Spec.Protocols, v1alpha1.Protocol(w.port.Protocol)) && !w.decision.passes(noAddress) {
		g.State, g.Reason = Stops, ReasonUnclaimed
		g.Message = fmt.Sprintf("%s has the number, but not over %s: nodes drop it", holder, w.port.Protocol)
		g.Remedy = "name a port of the Service with that protocol in spec.ports of a NodePortPolicy"
		return g
	}
	switch a.Spec.State {
	case v1alpha1.AllocationOpen:
		return w.opened(g, holder)
	case v1alpha1.AllocationForeign:
		return w.foreign(g, holder)
	}
	g.State, g.Reason = Stops, ReasonClosed
	g.Message = fmt.Sprintf("closed for everybody%s; it was %s's", since(a.Spec.ClosedAt), holder)
	g.Remedy = fmt.Sprintf("create NodePortPolicy %s again to have it back, or wait until it is free: kubectl describe npa %s says who holds it", holder, a.Name)
	switch p := w.policy; {
	case p != nil && p.Spec.ExpiresAt != nil && !p.Spec.ExpiresAt.After(w.Now):
		g.Reason = v1alpha1.ReasonExpired
		g.Message = fmt.Sprintf("closed: NodePortPolicy %s ended at %s", holder, p.Spec.ExpiresAt.UTC().Format(time.RFC3339))
		g.Remedy = fmt.Sprintf("set a later spec.expiresAt in NodePortPolicy %s", holder)
	case p != nil:
		g.Remedy = fmt.Sprintf("see kubectl -n %s describe npp %s for why its policy let it go, and kubectl get npa for the number it has now", p.Namespace, p.Name)
	}
	return g
}

func (w walk) opened(g Gate, holder string) Gate {
	a := w.allocation
	g.Message = fmt.Sprintf("open for NodePortPolicy %s, pool %s, team %s%s", holder, a.Spec.Pool, a.Spec.Team, since(a.Spec.Since))
	switch {
	case compile.Ended(a, w.Now):
		g.State, g.Reason = Stops, v1alpha1.ReasonExpired
		g.Message = fmt.Sprintf("NodePortPolicy %s ended at %s, and nodes have closed the number", holder, a.Spec.ExpiresAt.UTC().Format(time.RFC3339))
		g.Remedy = fmt.Sprintf("set a later spec.expiresAt in NodePortPolicy %s", holder)
	case len(w.decision.problems) > 0:
		g.State, g.Reason, g.Message = Warns, v1alpha1.ReasonInvalid, w.decision.problems[0].Reason
		if !w.decision.passes(w.from) {
			g.State = Stops
		}
	case a.Spec.ExpiresAt != nil:
		g.Message += ", until " + a.Spec.ExpiresAt.UTC().Format(time.RFC3339)
	}
	return g
}

func (w walk) foreign(g Gate, holder string) Gate {
	a := w.allocation
	g.Message = fmt.Sprintf("held by Service %s, which no policy declares", holder)
	if a.Spec.Claim.Service == "" {
		g.Message = "the API server refused the number and no Service shows it: somebody holds it"
	}
	g.Remedy = fmt.Sprintf("delete Service %s or take the node port out of it, or adopt it by a NodePortPolicy with service: InPlace", holder)
	if !a.Spec.Grandfathered {
		g.State, g.Reason = Stops, ReasonForeign
		g.Message += "; nodes drop it"
		return g
	}
	g.State, g.Reason = Warns, ReasonGrandfathered
	g.Message += "; it stood there before the pool, so everybody passes"
	return g
}

// unclaimed is a number without an allocation.
func (w walk) unclaimed(g Gate) Gate {
	number := w.port.Number
	g.State, g.Reason = Warns, ReasonNotGated
	pool := compile.PoolOf(w.pools, number)
	for _, p := range w.pools {
		if p.Reserved.Contains(number) {
			g.Message = fmt.Sprintf("reserved in pool %s, so nodes let everybody pass", p.Name)
			g.Remedy = "take it out of spec.reserved of the pool to have it filtered"
			return g
		}
	}
	switch {
	case w.decision.judged() && w.decision.set.Audited.Contains(number):
		g.Reason = ReasonAudited
		g.Message = "has no allocation, and its pool audits free numbers: everybody passes, and is logged"
		g.Remedy = "set unclaimed: Drop in the pool"
	case w.decision.judged():
		g.State, g.Reason = Stops, ReasonUnclaimed
		g.Message = "has no allocation: nodes drop what comes to a free number of a pool"
		g.Remedy = "write a NodePortPolicy that asks for it, or use the number of the policy: kubectl get npp -A"
	case pool == nil:
		g.Message = "in no pool: no node gates it"
		g.Remedy = "widen a NodePortPool to hold it, so that it is closed to whom nobody declares"
	case pool.Spec.Unclaimed == v1alpha1.UnclaimedIgnore:
		g.Message = fmt.Sprintf("has no allocation, and pool %s ignores free numbers: everybody passes", pool.Name)
		g.Remedy = "set unclaimed: Drop in the pool"
	default:
		g.Message = fmt.Sprintf("pool %s is not armed there yet: everybody passes", pool.Name)
		g.Remedy = fmt.Sprintf("see kubectl describe nppool %s; the manager arms it", pool.Name)
	}
	return g
}

// unallocated is a policy that has no number.
func (w walk) unallocated() Gate {
	g := Gate{Gate: GateAllocation, Subject: w.policy.Namespace + "/" + w.policy.Name, State: Stops, Reason: v1alpha1.ReasonProgressing, Message: "the policy has no number yet"}
	for _, kind := range []string{v1alpha1.Allocated, v1alpha1.Accepted} {
		if c := meta.FindStatusCondition(w.policy.Status.Conditions, kind); c != nil && c.Reason != v1alpha1.ReasonOK && c.Reason != v1alpha1.ReasonNotRequired {
			g.Reason, g.Message = c.Reason, c.Message
		}
	}
	return g
}

// accepted is what the manager said of the policy.
func (w walk) accepted() Gate {
	g := Gate{Gate: GatePolicy, State: NotRequired, Reason: v1alpha1.ReasonNotRequired, Message: "no policy has the number"}
	a := w.allocation
	if w.policy == nil {
		if a != nil && a.Spec.Claim.Policy != "" {
			g.Subject = a.Spec.Claim.Namespace + "/" + a.Spec.Claim.Policy
			g.State, g.Reason, g.Message = Warns, ReasonPolicyNotFound, "the policy is gone, and its number closes"
		}
		return g
	}
	p := w.policy
	g.Subject = p.Namespace + "/" + p.Name
	c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.Accepted)
	switch {
	case c == nil || p.Status.ObservedGeneration < p.Generation:
		g.State, g.Reason = Doubtful, ReasonNotObserved
		g.Message = fmt.Sprintf("the manager has not told of generation %d of the policy", p.Generation)
		g.Remedy = "see whether it runs: kubectl -n " + w.Namespace + " get pods,leases"
	case c.Status == metav1.ConditionTrue:
		g.State, g.Reason, g.Message = Passes, c.Reason, c.Message
		if c.Reason != v1alpha1.ReasonOK {
			g.State = Warns
		}
	default:
		g.State, g.Reason, g.Message = Warns, c.Reason, c.Message
	}
	return g
}

func since(t *metav1.MicroTime) string {
	if t == nil {
		return ""
	}
	return " since " + t.UTC().Format(time.RFC3339)
}

func join(texts []string) string { return strings.Join(texts, ", ") }
