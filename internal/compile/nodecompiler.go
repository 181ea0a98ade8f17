package compile

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// NodeCompiler is Node for an input that changes little by little: it remembers what
// the last one was and what that made, and looks at the allocations that are other
// ones since, or have come to their end. When anything changes that all of them are
// judged by, it looks at all of them.
type NodeCompiler struct {
	in       NodeInput
	rules    *nodeRules // nil before the first input
	builder  rule.Builder
	claimed  numberSet
	ends     []portEnd // in order
	problems map[Name][]NodeProblem
	local    map[Name]bool // those that are LocalOnly
	said     []NodeProblem // all of them, as Compile returns them
	// named are the allocations that name a GatewaySet, by that.
	named map[Name]map[Name]bool
	// What the rules do with numbers, as sets.
	dropped, audited, safe numberSet
	free                   rule.PortRanges // dropped numbers on which what was there before may pass
	judged, audits         rule.PortRanges
}

// portEnd is when an Open allocation ends.
type portEnd struct {
	at   time.Time
	name Name
}

func (e portEnd) compare(f portEnd) int { return cmp.Or(e.at.Compare(f.at), e.name.Compare(f.name)) }

// Compile is Node(in).
func (c *NodeCompiler) Compile(in NodeInput) (rule.Set, []NodeProblem) {
	n := portRules{terms: map[rule.Port]rule.Terms{}, lists: map[string][]netip.Prefix{}, claimed: &c.claimed, now: in.Now}
	whole := c.rules == nil || in.differs(c.in)
	if whole {
		c.restart(in, n.terms)
	}
	n.nodeRules = c.rules
	before, spoke := c.claimed, whole
	spoke = c.move(&n, in) || spoke
	for change := range c.in.Allocations.Changes(in.Allocations) {
		spoke = c.take(&n, change.Key, change.To) || spoke
	}
	for len(c.ends) > 0 && !c.ends[0].at.After(in.Now) {
		name := c.ends[0].name
		c.ends = c.ends[1:]
		spoke = c.take(&n, name, in.Allocations.Get(name)) || spoke
	}
	c.in = in
	c.exempt(n.terms)
	if whole || before != c.claimed {
		c.judge()
	}
	if spoke {
		c.say()
	}
	set := c.builder.Build(c.judged, n.terms)
	set.Audited, set.Denied, set.Addresses = c.audits, c.rules.denied, c.rules.addresses
	return set, c.said
}

// Local says whether any allocation is LocalOnly.
func (c *NodeCompiler) Local() bool { return len(c.local) > 0 }

// NextEnd is when the next Open allocation ends, zero if none will.
func (c *NodeCompiler) NextEnd() time.Time {
	if len(c.ends) == 0 {
		return time.Time{}
	}
	return c.ends[0].at
}

// restart forgets all allocations, and judges by what the input now says to all of them.
func (c *NodeCompiler) restart(in NodeInput, terms map[rule.Port]rule.Terms) {
	for port := range c.builder.Gates().All {
		terms[port] = rule.Terms{}
	}
	c.in.Allocations, c.claimed, c.ends, c.problems, c.local = Objects{}, numberSet{}, nil, map[Name][]NodeProblem{}, map[Name]bool{}
	c.named = map[Name]map[Name]bool{}
	r := newNodeRules(in)
	c.rules = r
	dropped := rule.NewPortRanges(r.dropped...)
	c.dropped, c.audited, c.safe = setOfRanges(dropped), setOfRanges(rule.NewPortRanges(r.audited...)), setOfRanges(r.safe)
	c.free = dropped.Subtract(rule.NewPortRanges(r.strict...)).Subtract(r.safe)
	if r.lockdown {
		c.free = nil
	}
}

// differs says whether anything that all allocations are judged by is not as it was.
func (in NodeInput) differs(last NodeInput) bool {
	return in.Now.Before(last.Now) || // what has ended may have not
		in.AddressSets != last.AddressSets && !in.AddressSets.Equal(last.AddressSets) ||
		poolsDiffer(last.Pools, in.Pools) ||
		(in.Installation == nil) != (last.Installation == nil) ||
		in.Installation != last.Installation && !reflect.DeepEqual(in.Installation.Spec, last.Installation.Spec) ||
		in.Node != last.Node ||
		in.Unlabelled != last.Unlabelled || in.Refuses != last.Refuses || !maps.Equal(in.Labels, last.Labels) ||
		!slices.Equal(in.Exempt, last.Exempt)
}

// Moved yields the GatewaySets that list the node now and did not in the last input, or
// did and do not now.
func (in NodeInput) Moved(last NodeInput) iter.Seq[Name] {
	lists := func(set metav1.Object) bool {
		return set != nil && slices.Contains(set.(*v1alpha1.GatewaySet).Spec.Nodes, v1alpha1.ObjectName(in.Node))
	}
	return func(yield func(Name) bool) {
		for change := range last.GatewaySets.Changes(in.GatewaySets) {
			if lists(change.From) != lists(change.To) && !yield(change.Key) {
				return
			}
		}
	}
}

// move looks again at the allocations of which the node has become a gateway, or is none
// any more. Those that have changed themselves are looked at anyway.
func (c *NodeCompiler) move(n *portRules, in NodeInput) (spoke bool) {
	c.rules.gateways = in.GatewaySets
	for set := range in.Moved(c.in) {
		for _, name := range slices.Collect(maps.Keys(c.named[set])) {
			if object := in.Allocations.Get(name); object == c.in.Allocations.Get(name) {
				spoke = c.take(n, name, object) || spoke
			}
		}
	}
	return spoke
}

// poolsDiffer leaves out what of a status is counted all the time.
func poolsDiffer(last, now Objects) bool {
	for change := range last.Changes(now) {
		if change.From == nil || change.To == nil {
			return true
		}
		was, is := change.From.(*v1alpha1.NodePortPool), change.To.(*v1alpha1.NodePortPool)
		if !slices.Equal(was.Status.Armed, is.Status.Armed) || !reflect.DeepEqual(was.Spec, is.Spec) {
			return true
		}
	}
	return false
}

// take has the rules of the allocation with that name, nil if it is gone, in the place
// of those that the name had. It says whether there were or are problems with it.
func (c *NodeCompiler) take(n *portRules, name Name, object metav1.Object) (spoke bool) {
	named := v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: string(name)}}
	if number := NumberOf(&named); number != 0 {
		n.claimed.remove(number)
		c.close(number, n.terms)
	}
	if had := c.in.Allocations.Get(name); had != nil {
		a := had.(*v1alpha1.NodePortAllocation)
		c.forgetEnd(name, a)
		if set := gatewaySetOf(a); set != "" {
			delete(c.named[set], name)
			if len(c.named[set]) == 0 {
				delete(c.named, set)
			}
		}
	}
	_, spoke = c.problems[name]
	delete(c.problems, name)
	delete(c.local, name)
	if object == nil {
		return spoke
	}
	a := object.(*v1alpha1.NodePortAllocation)
	if set := gatewaySetOf(a); set != "" {
		if c.named[set] == nil {
			c.named[set] = map[Name]bool{}
		}
		c.named[set][name] = true
	}
	n.problems = nil
	n.addAllocation(a)
	if a.Spec.LocalOnly {
		c.local[name] = true
	}
	if len(n.problems) > 0 {
		c.problems[name], spoke = n.problems, true
	}
	if end := endOf(a); !end.IsZero() && !Ended(a, n.now) {
		e := portEnd{end, name}
		at, _ := slices.BinarySearchFunc(c.ends, e, portEnd.compare)
		c.ends = slices.Insert(c.ends, at, e)
	}
	return spoke
}

// close has nobody pass the number, whatever its protocol.
func (c *NodeCompiler) close(number uint16, terms map[rule.Port]rule.Terms) {
	for _, protocol := range rule.Protocols {
		if port := (rule.Port{Protocol: protocol, Number: number}); c.builder.Gates().Get(port) != (rule.Gate{}) {
			terms[port] = rule.Terms{}
		}
	}
}

func (c *NodeCompiler) forgetEnd(name Name, a *v1alpha1.NodePortAllocation) {
	if at, found := slices.BinarySearchFunc(c.ends, portEnd{endOf(a), name}, portEnd.compare); found {
		c.ends = slices.Delete(c.ends, at, at+1)
	}
}

// gatewaySetOf is the GatewaySet that an allocation names, "" for none.
func gatewaySetOf(a *v1alpha1.NodePortAllocation) Name {
	if a.Spec.Gateways == nil {
		return ""
	}
	return Name(a.Spec.Gateways.Set)
}

// endOf is when an allocation ends, zero if it does not.
func endOf(a *v1alpha1.NodePortAllocation) time.Time {
	if a.Spec.State != v1alpha1.AllocationOpen || a.Spec.ExpiresAt == nil {
		return time.Time{}
	}
	return a.Spec.ExpiresAt.Time
}

// exempt passes what listened on dropped numbers, where nobody claims them and their
// pool is lenient.
func (c *NodeCompiler) exempt(terms map[rule.Port]rule.Terms) {
	for _, port := range c.in.Exempt {
		if c.free.Contains(port.Number) && !c.claimed.has(port.Number) {
			terms[port] = rule.Terms{Sources: rule.World}
		}
	}
}

// judge finds out which numbers are judged. Where two pools have armed a number, while
// it changes hands, the one that drops wins.
func (c *NodeCompiler) judge() {
	var judged, audited numberSet
	for i := range judged {
		closed := c.claimed[i] | c.dropped[i]
		judged[i] = (closed | c.audited[i]) &^ c.safe[i]
		audited[i] = c.audited[i] &^ closed &^ c.safe[i]
	}
	c.judged, c.audits = judged.ranges(), audited.ranges()
}

// say puts the problems in order.
func (c *NodeCompiler) say() {
	c.said = slices.Clone(c.rules.problems)
	for _, problems := range c.problems {
		c.said = append(c.said, problems...)
	}
	slices.SortFunc(c.said, func(a, b NodeProblem) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Reason, b.Reason))
	})
	c.said = slices.Compact(c.said)
}
