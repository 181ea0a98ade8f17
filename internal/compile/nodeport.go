package compile

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// portRules collects the rules of ports that change. A port without terms, or with
// terms without prefixes, is closed. No fail-safe number ever gets into terms with any.
type portRules struct {
	*nodeRules
	now      time.Time
	claimed  *numberSet // numbers with an allocation, but for fail-safe ones
	terms    map[rule.Port]rule.Terms
	lists    map[string][]netip.Prefix // of sources, by their spelling
	key      []byte                    // of the last list that was looked up
	problems []NodeProblem             // of the last allocation
}

func (n *portRules) problem(port uint16, format string, args ...any) {
	n.problems = append(n.problems, NodeProblem{port, fmt.Sprintf(format, args...)})
}

// addAllocation judges the allocation's number and admits its sources.
func (n *portRules) addAllocation(a *v1alpha1.NodePortAllocation) {
	number := claimedNumber(a)
	if number == 0 {
		n.problem(0, "NodePortAllocation %q: the name must be the port number it claims, from 1 to 65535", a.Name)
		return
	}
	if n.safe.Contains(number) {
		n.problem(number, "NodePortAllocation %s: a fail-safe port is never judged; delete the allocation", a.Name)
		return
	}
	n.claimed.add(number)
	for _, p := range a.Spec.Protocols {
		n.port(a, p, number) // says so if it is none
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

func (n *portRules) port(a *v1alpha1.NodePortAllocation, p v1alpha1.Protocol, number uint16) (rule.Port, bool) {
	protocol := rule.Protocol(p)
	if !slices.Contains(rule.Protocols, protocol) {
		n.problem(number, "NodePortAllocation %s: protocol %q is not TCP, UDP or SCTP", a.Name, p)
		return rule.Port{}, false
	}
	return rule.Port{Protocol: protocol, Number: number}, true
}

func (n *portRules) admitWorld(a *v1alpha1.NodePortAllocation, number uint16) {
	for _, p := range a.Spec.Protocols {
		if port, ok := n.port(a, p, number); ok {
			n.terms[port] = rule.Terms{Sources: rule.World}
		}
	}
}

// addOpen judges an Open allocation until its end. On a node that is not selected it
// admits nobody, and logs what it drops all the same. On one that is no gateway it
// refuses whom others admit, so that they need not wait to try the next.
func (n *portRules) addOpen(a *v1alpha1.NodePortAllocation, number uint16) {
	terms := rule.Terms{Limits: limitsOf(a), Log: LogOf(a)}
	switch ends := a.Spec.ExpiresAt; {
	case n.unlabelled && judgesLabels(a), Ended(a, n.now):
		return
	case !slices.Contains(knownModes, a.Spec.Mode):
		n.problem(number, "NodePortAllocation %s: mode %q is not known to this agent, so nobody is admitted; upgrade it", a.Name, a.Spec.Mode)
		return
	case ends != nil:
		terms.Expires = ends.Unix()
	}
	if a.Spec.NodeSelector == nil || selects(a.Spec.NodeSelector).Matches(labels.Set(n.labels)) {
		terms.Refuse = !isGateway(a.Spec.Gateways, n.node, n.labels, n.gatewaySet)
		terms.Local = a.Spec.LocalOnly && n.refuses
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
func (n *portRules) admitSources(a *v1alpha1.NodePortAllocation, number uint16, terms rule.Terms) {
	listed := map[v1alpha1.Protocol]int{}
	for _, p := range a.Spec.Ports {
		listed[p.Protocol]++
	}
	audited := n.places.Audited(a)
	for _, p := range a.Spec.Ports {
		port, ok := n.port(a, p.Protocol, number)
		if !ok {
			continue
		}
		if listed[p.Protocol] > 1 {
			// Which of them was meant? Their union could be wider than either.
			n.problem(number, "NodePortAllocation %s: ports lists %s %d times, so nobody is admitted by it; keep one", a.Name, p.Protocol, listed[p.Protocol])
			continue
		}
		terms.Sources, terms.Audited = n.admitted(a, p, number), audited
		if terms.Refuse && len(audited) > 0 { // an audit passes nobody here either
			terms.Sources, terms.Audited = slices.Concat(terms.Sources, audited), nil
		}
		n.terms[port] = terms
	}
}

func (n *nodeRules) gatewaySet(name v1alpha1.ObjectName) *v1alpha1.GatewaySet {
	if o := n.gateways.Get(Name(name)); o != nil {
		return o.(*v1alpha1.GatewaySet)
	}
	return nil
}

// judgesLabels says whether it depends on a node's labels what the node does.
func judgesLabels(a *v1alpha1.NodePortAllocation) bool {
	return a.Spec.NodeSelector != nil || a.Spec.Gateways != nil && a.Spec.Gateways.NodeSelector != nil
}

// admitted is who passes a port, the same slice for the same words without problems:
// ten thousand ports rarely have more than a few hundred.
func (n *portRules) admitted(a *v1alpha1.NodePortAllocation, p v1alpha1.ClaimedPort, number uint16) []netip.Prefix {
	p.Sources, p.Peers = ownNetworks(p), nil
	named := p.World || namesPlaces(p)
	n.spellKey(a, p, named)
	if known, ok := n.lists[string(n.key)]; ok {
		return known
	}
	problems := len(n.problems)
	prefixes := n.prefixes(a, p.Sources, number)
	if named {
		p.Sources = spell(prefixes)
		prefixes = n.places.Admitted(a.Spec.Pool, p)
	}
	if len(n.problems) == problems {
		n.lists[string(n.key)] = prefixes
	}
	return prefixes
}

// spellKey spells all that admitted depends on, and nothing else as it: no word in it
// can be taken for two.
func (n *portRules) spellKey(a *v1alpha1.NodePortAllocation, p v1alpha1.ClaimedPort, named bool) {
	n.key = n.key[:0]
	spellAll(n, p.Sources)
	if named {
		spellAll(n, []string{a.Spec.Pool, strconv.FormatBool(p.World)})
		spellAll(n, p.AddressSets)
		spellAll(n, p.PrefixLists)
		spellAll(n, p.Entities)
	}
}

func spellAll[T ~string](n *portRules, words []T) {
	n.key = binary.AppendUvarint(n.key, uint64(len(words)))
	for _, w := range words {
		n.key = append(binary.AppendUvarint(n.key, uint64(len(w))), w...)
	}
}

// prefixes reads sources entry by entry. The check for the world comes again
// after joining, because two halves make a whole.
func (n *portRules) prefixes(a *v1alpha1.NodePortAllocation, sources []v1alpha1.CIDR, number uint16) []netip.Prefix {
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
