package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/labels"
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
	Pools       []v1alpha1.NodePortPool
	Allocations []v1alpha1.NodePortAllocation
	AddressSets []v1alpha1.AddressSet
	// Installation is nil where there is none.
	Installation *v1alpha1.Portreeve
	// Labels are the node's own.
	Labels map[string]string
	// Now is the time by which an Open allocation has ended; zero: none has.
	Now time.Time
	// Exempt are ports on which something of the node itself listened before a pool
	// dropped there.
	Exempt []rule.Port
}

// Node returns what a node must enforce, and what of the input it can't.
//
// Judged are the armed ranges of the pools and the number of every allocation,
// never a fail-safe port. A judged number admits the sources of an Open
// allocation until its end, everybody for the protocols of a grandfathered Foreign
// one, and otherwise nobody. What can't be read admits nobody, and so does a /0 in
// an Open allocation: the world is never opened by a list of networks. An exempt port
// admits everybody as long as no allocation has its number and its pool leaves alone
// what stood there before. In lockdown nobody is admitted anywhere. What the
// installation denies is denied on every number.
func Node(in NodeInput) (rule.Set, []NodeProblem) {
	n := nodeRules{
		terms: make(map[rule.Port]rule.Terms, len(in.Allocations)), lists: map[string][]netip.Prefix{}, labels: in.Labels, now: in.Now,
		places: NewPlaces(in.Pools, in.AddressSets).Within(in.Installation),
	}
	n.addPools(in)
	if in.Installation != nil {
		n.addInstallation(in.Installation)
	}
	claims := make(map[uint16]int, len(in.Allocations))
	for i := range in.Allocations {
		claims[claimedNumber(&in.Allocations[i])]++
	}
	for i := range in.Allocations {
		n.addAllocation(&in.Allocations[i], claims)
	}
	slices.SortFunc(n.problems, func(a, b NodeProblem) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Reason, b.Reason))
	})
	// Where two pools have armed a number, while it changes hands, the one that drops wins.
	closed := rule.NewPortRanges(slices.Concat(n.claimed, n.dropped)...)
	audited := rule.NewPortRanges(n.audited...).Subtract(closed)
	n.exempt(in.Exempt, rule.NewPortRanges(n.dropped...))
	set := rule.Build(closed.Union(audited).Subtract(n.safe), n.terms).WithAudited(audited)
	return set.WithDenied(n.denied).WithAddresses(n.addresses), slices.Compact(n.problems)
}

// nodeRules collects a node's rules. A port in terms without prefixes is closed. No
// fail-safe number ever gets into terms.
type nodeRules struct {
	claimed []rule.PortRange // numbers with an allocation
	// Armed numbers that are dropped, and that pass and are logged, while nobody claims
	// them. Those that just pass are in neither.
	dropped, audited []rule.PortRange
	armed            []rule.PortRange // whatever is done with them
	strict           []rule.PortRange // those that pass nobody because it was there before
	safe             rule.PortRanges  // never judged
	terms            map[rule.Port]rule.Terms
	lists            map[string][]netip.Prefix // of sources, by their spelling
	key              []byte                    // of the last list that was looked up
	problems         []NodeProblem
	places           Places
	labels           map[string]string
	lockdown         bool
	now              time.Time
	// What the installation denies everywhere, and the addresses on which ports are judged.
	denied, addresses []netip.Prefix
}

func (n *nodeRules) problem(port uint16, format string, args ...any) {
	n.problems = append(n.problems, NodeProblem{port, fmt.Sprintf(format, args...)})
}

func (n *nodeRules) addPools(in NodeInput) {
	n.safe = rule.FailSafe
	if in.Installation != nil {
		n.lockdown = in.Installation.Spec.Lockdown
		n.safe = n.safe.Union(failSafe(in.Installation))
	}
	for i := range in.Pools {
		n.addPool(&in.Pools[i])
	}
}

// addPool judges what is both armed and still in the pool's ranges. Ranges are
// read one by one, so that a bad one does not open its neighbours.
func (n *nodeRules) addPool(p *v1alpha1.NodePortPool) {
	var ranges, armed []rule.PortRange
	for _, s := range p.Spec.Ranges {
		r, err := rule.ParsePortRange(string(s))
		if err != nil {
			n.problem(0, "NodePortPool %s: spec.ranges: %v", p.Name, err)
			continue
		}
		ranges = append(ranges, r)
	}
	for _, s := range p.Status.Armed {
		r, err := rule.ParsePortRange(s)
		if err != nil {
			n.problem(0, "NodePortPool %s: status.armed: %v", p.Name, err)
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

// addAllocation judges the allocation's number and admits its sources. claims
// counts the allocations of each number.
func (n *nodeRules) addAllocation(a *v1alpha1.NodePortAllocation, claims map[uint16]int) {
	number := claimedNumber(a)
	if number == 0 {
		n.problem(0, "NodePortAllocation %q: the name must be the port number it claims, from 1 to 65535", a.Name)
		return
	}
	if n.safe.Contains(number) {
		n.problem(number, "NodePortAllocation %s: a fail-safe port is never judged; delete the allocation", a.Name)
		return
	}
	n.claimed = append(n.claimed, rule.PortRange{First: number, Last: number})
	if claims[number] > 1 {
		n.problem(number, "NodePortAllocation %s: claimed %d times, so nobody is admitted; keep one", a.Name, claims[number])
		return
	}
	for _, p := range a.Spec.Protocols {
		if port, ok := n.port(a, p, number); ok {
			n.terms[port] = rule.Terms{}
		}
	}
	if n.lockdown {
		return
	}
	switch a.Spec.State {
	case v1alpha1.AllocationOpen:
		n.addOpen(a, number)
	case v1alpha1.AllocationForeign:
		if a.Spec.Grandfathered {
			n.admitWorld(a, number)
		}
	case v1alpha1.AllocationClosed:
	default:
		n.problem(number, "NodePortAllocation %s: state %q is not known to this agent; upgrade it", a.Name, a.Spec.State)
	}
}

// claimedNumber is the number an allocation is named by, 0 if the name is not
// spelled as the API server demands: "030080" is not the lock on 30080.
func claimedNumber(a *v1alpha1.NodePortAllocation) uint16 {
	n, err := strconv.ParseUint(a.Name, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != a.Name {
		return 0
	}
	return uint16(n)
}

func (n *nodeRules) port(a *v1alpha1.NodePortAllocation, p v1alpha1.Protocol, number uint16) (rule.Port, bool) {
	protocol := rule.Protocol(p)
	if !slices.Contains(rule.Protocols, protocol) {
		n.problem(number, "NodePortAllocation %s: protocol %q is not TCP, UDP or SCTP", a.Name, p)
		return rule.Port{}, false
	}
	return rule.Port{Protocol: protocol, Number: number}, true
}

func (n *nodeRules) admitWorld(a *v1alpha1.NodePortAllocation, number uint16) {
	for _, p := range a.Spec.Protocols {
		if port, ok := n.port(a, p, number); ok {
			n.terms[port] = rule.Terms{Sources: rule.World}
		}
	}
}

// addOpen judges an Open allocation until its end. On a node that is not selected it
// admits nobody, and logs what it drops all the same.
func (n *nodeRules) addOpen(a *v1alpha1.NodePortAllocation, number uint16) {
	terms := rule.Terms{Limits: limitsOf(a), Log: LogOf(a)}
	switch ends := a.Spec.ExpiresAt; {
	case Ended(a, n.now):
		return
	case !slices.Contains(knownModes, a.Spec.Mode):
		n.problem(number, "NodePortAllocation %s: mode %q is not known to this agent, so nobody is admitted; upgrade it", a.Name, a.Spec.Mode)
		return
	case ends != nil:
		terms.Expires = ends.Unix()
	}
	if a.Spec.NodeSelector == nil || selects(a.Spec.NodeSelector).Matches(labels.Set(n.labels)) {
		n.admitSources(a, number, terms)
		return
	}
	for _, p := range a.Spec.Ports {
		if port, ok := n.port(a, p.Protocol, number); ok {
			n.terms[port] = rule.Terms{Log: terms.Log}
		}
	}
}

// admitSources fills in, by protocol, whom the terms are for.
func (n *nodeRules) admitSources(a *v1alpha1.NodePortAllocation, number uint16, terms rule.Terms) {
	listed := map[v1alpha1.Protocol]int{}
	for _, p := range a.Spec.Ports {
		listed[p.Protocol]++
	}
	terms.Audited = n.places.Audited(a)
	for _, p := range a.Spec.Ports {
		port, ok := n.port(a, p.Protocol, number)
		if !ok {
			continue
		}
		n.terms[port] = rule.Terms{}
		if listed[p.Protocol] > 1 {
			// Which of them was meant? Their union could be wider than either.
			n.problem(number, "NodePortAllocation %s: ports lists %s %d times, so nobody is admitted by it; keep one", a.Name, p.Protocol, listed[p.Protocol])
			continue
		}
		terms.Sources = n.read(a, ownNetworks(p), number)
		if p.World || namesPlaces(p) {
			p.Sources, p.Peers = spell(terms.Sources), nil
			terms.Sources = n.places.Admitted(a.Spec.Pool, p)
		}
		n.terms[port] = terms
	}
}

// read is prefixes, but the same slice for the same list without problems: ten
// thousand ports rarely have more than a few hundred.
func (n *nodeRules) read(a *v1alpha1.NodePortAllocation, sources []v1alpha1.CIDR, number uint16) []netip.Prefix {
	n.key = n.key[:0]
	for _, s := range sources {
		n.key = append(append(n.key, s...), ' ')
	}
	if known, ok := n.lists[string(n.key)]; ok {
		return known
	}
	problems := len(n.problems)
	prefixes := n.prefixes(a, sources, number)
	if len(n.problems) == problems {
		n.lists[string(n.key)] = prefixes
	}
	return prefixes
}

// prefixes reads sources entry by entry. The check for the world comes again
// after joining, because two halves make a whole.
func (n *nodeRules) prefixes(a *v1alpha1.NodePortAllocation, sources []v1alpha1.CIDR, number uint16) []netip.Prefix {
	var read []netip.Prefix
	for _, source := range sources {
		prefix, err := netip.ParsePrefix(string(source))
		switch {
		case err != nil || prefix.Addr().Is4In6():
			n.problem(number, "NodePortAllocation %s: source %q is not a network in CIDR notation; write for example 203.0.113.0/24", a.Name, source)
		case prefix.Bits() == 0:
			n.problem(number, "NodePortAllocation %s: source %q is the whole world, which a list of networks may not open", a.Name, source)
		default:
			read = append(read, prefix)
		}
	}
	return slices.DeleteFunc(rule.Canonical(read), func(p netip.Prefix) bool {
		if p.Bits() == 0 {
			n.problem(number, "NodePortAllocation %s: the sources add up to %s, the whole world, which a list of networks may not open", a.Name, p)
		}
		return p.Bits() == 0
	})
}
