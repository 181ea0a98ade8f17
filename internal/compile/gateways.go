package compile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// GatewaySets are those that the manager has read, by name.
type GatewaySets map[v1alpha1.ObjectName]*v1alpha1.GatewaySet

// Answering says whether the node admits sources to an Open allocation's number, as far
// as that depends on the node: it is Ready, the pool allows it, and it is one of the
// gateways. Whoever lists addresses, fronts or groups asks here.
func Answering(n NodeReport, a *v1alpha1.NodePortAllocation, sets GatewaySets) bool {
	own := labels.Set(n.Labels)
	return Enforceable(n.Node) && Ready(n.Node) &&
		(a.Spec.NodeSelector == nil || selects(a.Spec.NodeSelector).Matches(own)) &&
		isGateway(a.Spec.Gateways, n.Name, own, func(name v1alpha1.ObjectName) *v1alpha1.GatewaySet { return sets[name] })
}

// isGateway says whether a node with such a name and labels is to answer; nodes and
// manager both ask it. A set that is not there has no nodes.
func isGateway(g *v1alpha1.ClaimedGateways, node string, own labels.Set, set func(v1alpha1.ObjectName) *v1alpha1.GatewaySet) bool {
	switch {
	case g == nil:
		return true
	case g.NodeSelector != nil && !selects(g.NodeSelector).Matches(own):
		return false
	case g.Set == "":
		return g.Active == 0
	}
	s := set(g.Set)
	return s != nil && slices.Contains(s.Spec.Nodes, v1alpha1.ObjectName(node))
}

// gatewaysOf is what an allocation says of a policy's gateways. Nodes are picked by
// their labels; only how many of them answer is somebody's choice, and needs a set.
func gatewaysOf(policy *v1alpha1.NodePortPolicy, allowed *v1alpha1.LabelSelector) *v1alpha1.ClaimedGateways {
	g := policy.Spec.Gateways
	switch {
	case g == nil:
		return nil
	case g.Mode == v1alpha1.GatewaysDistributed && g.NodeSelector == nil:
		return nil
	case g.Mode == v1alpha1.GatewaysDistributed:
		return &v1alpha1.ClaimedGateways{NodeSelector: g.NodeSelector}
	}
	return inSet(v1alpha1.ClaimedGateways{NodeSelector: g.NodeSelector, Active: max(g.Active, 1)}, allowed)
}

// inSet names the set of gateways that are chosen so among the allowed nodes.
func inSet(g v1alpha1.ClaimedGateways, allowed *v1alpha1.LabelSelector) *v1alpha1.ClaimedGateways {
	g.Set = choiceOf(allowed, &g).Set
	return &g
}

// GatewayChoice is how the nodes of a GatewaySet are chosen.
type GatewayChoice struct {
	// Set is its name, made of all the rest.
	Set v1alpha1.ObjectName
	// From says, for people, how many of which nodes.
	From              string
	active            int
	allowed, selected labels.Selector
}

// GatewayChoiceOf returns how the gateways of an Open allocation are chosen; nil where
// it has none that somebody chooses, or names another set than one chosen so.
func GatewayChoiceOf(a *v1alpha1.NodePortAllocation) *GatewayChoice {
	g := a.Spec.Gateways
	if a.Spec.State != v1alpha1.AllocationOpen || g == nil || g.Set == "" {
		return nil
	}
	if c := choiceOf(a.Spec.NodeSelector, g); c.Set == g.Set {
		return c
	}
	return nil
}

func choiceOf(allowed *v1alpha1.LabelSelector, g *v1alpha1.ClaimedGateways) *GatewayChoice {
	c := &GatewayChoice{active: int(g.Active), allowed: orAll(allowed), selected: orAll(g.NodeSelector)}
	of, within := spellSelector(c.selected), spellSelector(c.allowed)
	sum := sha256.Sum256(fmt.Appendf(nil, "%d\n%s\n%s\n", c.active, of, within))
	c.Set = v1alpha1.ObjectName("gw-" + hex.EncodeToString(sum[:10]))
	c.From = fmt.Sprintf("%d of nodes %s", c.active, cmp.Or(of, "*"))
	if within != "" {
		c.From += " within " + within
	}
	return c
}

func orAll(s *v1alpha1.LabelSelector) labels.Selector {
	if s == nil {
		return labels.Everything()
	}
	return selects(s)
}

// spellSelector spells selectors that pick the same in the same way, whatever their
// order; "" for all.
func spellSelector(s labels.Selector) string {
	requirements, selectable := s.Requirements()
	if !selectable {
		return "none"
	}
	words := make([]string, len(requirements))
	for i, r := range requirements {
		words[i] = r.String()
	}
	slices.Sort(words)
	return strings.Join(words, ",")
}

// The order in which nodes become gateways. Who is active stays so while it can, and
// nobody who comes back takes its place: each change cuts connections.
const (
	activeGateway   = iota // is one, and works
	nextGateway            // works
	partingGateway         // works, and is cordoned: it is about to go, or to reboot
	lostGateway            // is one, and its agent no longer listens: better than none
	unfitForGateway        // is never one
)

// Choose returns the names of the nodes that are to be in the set that has these now,
// in order. lost are nodes whose agents no longer do what they are told.
func (c *GatewayChoice) Choose(have []v1alpha1.ObjectName, nodes []NodeReport, lost map[string]bool) []v1alpha1.ObjectName {
	type candidate struct {
		rank int
		name v1alpha1.ObjectName
	}
	var candidates []candidate
	for _, n := range nodes {
		name := v1alpha1.ObjectName(n.Name)
		if rank := c.rank(n, slices.Contains(have, name), lost[n.Name]); rank != unfitForGateway {
			candidates = append(candidates, candidate{rank, name})
		}
	}
	slices.SortFunc(candidates, func(a, b candidate) int { return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.name, b.name)) })
	var chosen []v1alpha1.ObjectName
	for _, n := range candidates[:min(c.active, len(candidates))] {
		chosen = append(chosen, n.name)
	}
	slices.Sort(chosen)
	return chosen
}

func (c *GatewayChoice) rank(n NodeReport, active, lost bool) int {
	own := labels.Set(n.Labels)
	_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
	switch {
	case !Enforceable(n.Node), !Ready(n.Node), Ungated(n), !c.allowed.Matches(own), !c.selected.Matches(own),
		n.DeletionTimestamp != nil, outOfService(n.Node), excluded, lost && !active:
		return unfitForGateway
	case lost:
		return lostGateway
	case active:
		return activeGateway
	case n.Spec.Unschedulable:
		return partingGateway
	}
	return nextGateway
}

// lostAfter is how long an agent may be behind what it is told before its node is a
// gateway only if there is no other.
const lostAfter = 10 * time.Second

// downAfter is how long an agent that has nothing to do may be away before the same. It is
// longer: nothing is missing meanwhile, and the next one's image may have to be fetched.
const downAfter = 30 * time.Second

// Lag is for how long a node's agent has not done what it was told, or has been away;
// zero: neither.
type Lag struct {
	since             time.Time
	allocations, sets string    // what it has to reach
	down              time.Time // since when it has been away, zero: it is not
}

// Next returns the lag of a node that had l, now that allocations and GatewaySets have
// been written up to those versions; down: its agent is said not to work.
func (l Lag) Next(n NodeReport, allocations, sets string, down bool, now time.Time) Lag {
	next := l.behind(n, allocations, sets, now)
	next.down = time.Time{}
	if down {
		next.down = l.down
		if l.down.IsZero() {
			next.down = now
		}
	}
	return next
}

func (l Lag) behind(n NodeReport, allocations, sets string, now time.Time) Lag {
	var marks v1alpha1.Marks
	failing := false
	if n.Datapath != nil {
		marks = n.Datapath.Status.Marks
		c := enforcedCondition(n.Datapath)
		failing = c != nil && c.Status == metav1.ConditionFalse && (c.Reason == v1alpha1.ReasonFailed || c.Reason == v1alpha1.ReasonEnforcementUnsupported)
	}
	reached := func(allocations, sets string) bool {
		return (allocations == "" || AtLeast(marks.Allocations, allocations)) && (sets == "" || AtLeast(marks.GatewaySets, sets))
	}
	switch {
	case !failing && reached(allocations, sets):
		return Lag{}
	case l.since.IsZero(), !failing && reached(l.allocations, l.sets): // behind again, of something newer
		return Lag{since: now, allocations: allocations, sets: sets}
	}
	return l
}

// Behind is for how long the agent has not done what it was told, 0 if it has.
func (l Lag) Behind(now time.Time) time.Duration {
	if l.since.IsZero() {
		return 0
	}
	return now.Sub(l.since)
}

// Lost says whether the agent counts as lost, and else in what time it will, 0 for never.
func (l Lag) Lost(now time.Time) (lost bool, in time.Duration) {
	for _, bound := range []struct {
		since time.Time
		after time.Duration
	}{{l.since, lostAfter}, {l.down, downAfter}} {
		if bound.since.IsZero() {
			continue
		}
		left := bound.since.Add(bound.after).Sub(now)
		if left <= 0 {
			return true, 0
		}
		if in == 0 || left < in {
			in = left
		}
	}
	return false, in
}
