package compile

import (
	"fmt"
	"net/netip"
	"time"

	"k8s.io/utils/ptr"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// NodeProblem is a part of the input that a node does not enforce as written.
// The part admits nobody; everything else stands.
type NodeProblem struct {
	// Port is the number concerned, 0 if it is not about one number.
	Port uint16
	// Reason names the object, what is wrong with it and what would be right.
	Reason string
}

// NodeInput is what a node judges by.
type NodeInput struct {
	Pools       Objects // *v1alpha1.NodePortPool
	Allocations Objects // *v1alpha1.NodePortAllocation
	AddressSets Objects // *v1alpha1.AddressSet
	GatewaySets Objects // *v1alpha1.GatewaySet
	// Installation is nil where there is none.
	Installation *v1alpha1.Portreeve
	// Node is the name by which GatewaySets list the node.
	Node string
	// Labels are the node's own.
	Labels map[string]string
	// Unlabelled: the labels are not known, and a selector, which may exclude labels,
	// picks no port.
	Unlabelled bool
	// Now is the time by which an Open allocation has ended; zero: none has.
	Now time.Time
	// Exempt are ports on which something of the node itself listened before a pool
	// dropped there.
	Exempt []rule.Port
	// Refuses: whoever carries node ports here leaves to us whom it has no pod for, so who
	// comes to a port that is LocalOnly and finds none is to be refused.
	Refuses bool
}

// Node returns what a node must enforce, and what of the input it can't. A
// NodeCompiler returns the same at the cost of what changed.
//
// Judged are the armed ranges of the pools and the number of every allocation,
// never a fail-safe port. A judged number admits the sources of an Open
// allocation until its end, everybody for the protocols of a grandfathered Foreign
// one, and otherwise nobody. What can't be read admits nobody, and so does a /0 in
// an Open allocation: the world is never opened by a list of networks. An exempt port
// admits everybody as long as no allocation has its number and its pool leaves alone
// what stood there before. In lockdown nobody is admitted anywhere. What the
// installation denies is denied on every number. A node that is no gateway of an Open
// allocation refuses whom it admits elsewhere.
func Node(in NodeInput) (rule.Set, []NodeProblem) { return new(NodeCompiler).Compile(in) }

// nodeRules are what holds for all ports of a node alike.
type nodeRules struct {
	// Armed numbers that are dropped, and that pass and are logged, while nobody claims
	// them. Those that just pass are in neither.
	dropped, audited []rule.PortRange
	armed            []rule.PortRange // whatever is done with them
	strict           []rule.PortRange // those that pass nobody because it was there before
	safe             rule.PortRanges  // never judged
	places           Places
	gateways         Objects
	node             string
	labels           map[string]string
	unlabelled       bool
	lockdown         bool
	refuses          bool
	// What the installation denies everywhere, and the addresses on which ports are judged.
	denied, addresses []netip.Prefix
	problems          []NodeProblem
}

func newNodeRules(in NodeInput) *nodeRules {
	pools := Copies[v1alpha1.NodePortPool](in.Pools)
	n := &nodeRules{gateways: in.GatewaySets, node: in.Node, labels: in.Labels, unlabelled: in.Unlabelled, refuses: in.Refuses}
	n.places = NewPlaces(pools, Copies[v1alpha1.AddressSet](in.AddressSets)).Within(in.Installation)
	n.addPools(pools, in.Installation)
	if in.Installation != nil {
		n.addInstallation(in.Installation)
	}
	return n
}

func (n *nodeRules) problem(format string, args ...any) {
	n.problems = append(n.problems, NodeProblem{Reason: fmt.Sprintf(format, args...)})
}

func (n *nodeRules) addPools(pools []v1alpha1.NodePortPool, installation *v1alpha1.Portreeve) {
	n.safe = rule.FailSafe
	if installation != nil {
		n.lockdown = installation.Spec.Lockdown
		n.safe = n.safe.Union(failSafe(installation))
	}
	for i := range pools {
		n.addPool(&pools[i])
	}
}

// addPool judges what is both armed and still in the pool's ranges. Ranges are
// read one by one, so that a bad one does not open its neighbours.
func (n *nodeRules) addPool(p *v1alpha1.NodePortPool) {
	var ranges, armed []rule.PortRange
	for _, s := range p.Spec.Ranges {
		r, err := rule.ParsePortRange(string(s))
		if err != nil {
			n.problem("NodePortPool %s: spec.ranges: %v", p.Name, err)
			continue
		}
		ranges = append(ranges, r)
	}
	for _, s := range p.Status.Armed {
		r, err := rule.ParsePortRange(s)
		if err != nil {
			n.problem("NodePortPool %s: status.armed: %v", p.Name, err)
			continue
		}
		armed = append(armed, r)
	}
	judged := rule.NewPortRanges(armed...).Intersect(rule.NewPortRanges(ranges...)).Subtract(reserved(p))
	n.armed = append(n.armed, judged...)
	if !ptr.Deref(p.Spec.Grandfather, true) {
		n.strict = append(n.strict, judged...)
	}
	switch {
	case p.Spec.Unclaimed == v1alpha1.UnclaimedIgnore && !n.lockdown:
	case p.Spec.Unclaimed == v1alpha1.UnclaimedAudit && !n.lockdown:
		n.audited = append(n.audited, judged...)
	default:
		n.dropped = append(n.dropped, judged...)
	}
}
