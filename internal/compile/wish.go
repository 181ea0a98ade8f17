package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// Wish is what a valid policy asks for, resolved against its Service and pools.
type Wish struct {
	// Numbers wanted, each for one or more protocols of the Service.
	Numbers []Number
	// Pools to draw from, in order of preference.
	Pools []string
	// Problems name entries that contribute nothing; the rest stands.
	Problems []string
	// owned are the numbers of those pools.
	owned rule.PortRanges
}

// Number is one node port that a policy wants.
type Number struct {
	// Pin is the number asked for, 0 for any.
	Pin uint16
	// Ports by protocol, in canonical order, with their sources.
	Ports []v1alpha1.ClaimedPort
}

// Refusal says why a policy can't be honoured as it stands. What it was given
// before stays in force, less the sources it removed.
type Refusal struct {
	Reason  string
	Message string
	// Waits: what is missing may come by itself; otherwise a person must act.
	Waits bool
}

// NewWish resolves a policy. service is nil when there is none of that name;
// pools are all pools, resolved by Owned. Exactly one of the results is set.
func NewWish(policy *v1alpha1.NodePortPolicy, service *corev1.Service, pools []Pool) (*Wish, *Refusal) {
	candidates, refusal := candidatePools(policy, pools)
	if refusal != nil {
		return nil, refusal
	}
	if refusal := checkService(policy, service); refusal != nil {
		return nil, refusal
	}
	chosen, refusal := choosePorts(policy, service)
	if refusal != nil {
		return nil, refusal
	}
	wish := &Wish{Pools: candidates}
	for _, p := range pools {
		if slices.Contains(candidates, p.Name) {
			wish.owned = wish.owned.Union(p.Owned)
		}
	}
	for _, c := range chosen {
		sources, problems := sourcesFor(policy, c.port)
		wish.Problems = append(wish.Problems, problems...)
		claimed := v1alpha1.ClaimedPort{
			Protocol: v1alpha1.Protocol(protocolOf(c.port)), Name: c.port.Name, Port: c.port.Port, Sources: spell(sources),
		}
		if refusal := wish.add(c.pin, claimed); refusal != nil {
			return nil, refusal
		}
	}
	if refusal := wish.checkPins(pools); refusal != nil {
		return nil, refusal
	}
	wish.Problems = append(wish.Problems, unknownSourcePorts(policy, service, chosen)...)
	slices.Sort(wish.Problems)
	wish.Problems = slices.Compact(wish.Problems)
	return wish, nil
}

// candidatePools lists the pools of the policy's category that its namespace may
// draw from and whose cloud firewalls include all that the policy narrows to.
func candidatePools(policy *v1alpha1.NodePortPolicy, pools []Pool) ([]string, *Refusal) {
	var names, others, narrower []string
	for i := range pools {
		p := &pools[i]
		switch {
		case p.Spec.Category != policy.Spec.Category:
		case !slices.Contains(p.Spec.AllocateTo.Namespaces, v1alpha1.NamespaceName(policy.Namespace)):
			others = append(others, p.Name)
		case !containsAll(p.Spec.CloudFirewalls, policy.Spec.CloudFirewalls):
			narrower = append(narrower, fmt.Sprintf("%s %v", p.Name, p.Spec.CloudFirewalls))
		default:
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	switch {
	case len(names) > 0:
		return names, nil
	case len(narrower) > 0:
		return nil, &Refusal{Reason: v1alpha1.ReasonCloudFirewallNotAllowed, Message: fmt.Sprintf(
			"cloudFirewalls %v may only narrow the pool's list (%s); name only firewalls of the pool", policy.Spec.CloudFirewalls, strings.Join(narrower, "; "))}
	case len(others) > 0:
		return nil, &Refusal{Reason: v1alpha1.ReasonNamespaceNotAllowed, Message: fmt.Sprintf(
			"namespace %s may not draw from category %q (pool %s); ask the platform team to add it to allocateTo.namespaces", policy.Namespace, policy.Spec.Category, strings.Join(others, ", "))}
	}
	return nil, &Refusal{Reason: v1alpha1.ReasonPoolNotFound, Waits: true, Message: fmt.Sprintf(
		"no NodePortPool has category %q; correct spec.category or ask the platform team for a pool", policy.Spec.Category)}
}

func containsAll[T comparable](list, wanted []T) bool {
	return !slices.ContainsFunc(wanted, func(w T) bool { return !slices.Contains(list, w) })
}

func checkService(policy *v1alpha1.NodePortPolicy, service *corev1.Service) *Refusal {
	name := policy.Spec.ServiceRef.Name
	switch {
	case service == nil:
		return &Refusal{Reason: v1alpha1.ReasonServiceNotFound, Waits: true, Message: fmt.Sprintf(
			"Service %s/%s does not exist; create it or correct spec.serviceRef.name", policy.Namespace, name)}
	case service.Labels[v1alpha1.LabelPolicy] != "":
		return &Refusal{Reason: v1alpha1.ReasonInvalid, Message: fmt.Sprintf(
			"Service %s is the companion of policy %s; refer to the Service behind it", name, service.Labels[v1alpha1.LabelPolicy])}
	case service.Spec.Type == corev1.ServiceTypeExternalName:
		return &Refusal{Reason: v1alpha1.ReasonServiceExternalName, Message: fmt.Sprintf(
			"Service %s is of type ExternalName and has no endpoints to expose; refer to a Service with a selector", name)}
	case service.Spec.ClusterIP == corev1.ClusterIPNone:
		return &Refusal{Reason: v1alpha1.ReasonServiceHeadless, Message: fmt.Sprintf(
			"Service %s is headless (clusterIP: None); refer to a Service with a cluster IP", name)}
	case len(service.Spec.Selector) == 0:
		return &Refusal{Reason: v1alpha1.ReasonServiceWithoutSelector, Message: fmt.Sprintf(
			"Service %s has no selector, so its endpoints can't be followed; give it a selector or refer to another", name)}
	}
	return nil
}

type chosenPort struct {
	port corev1.ServicePort
	pin  uint16
}

// choosePorts finds the Service ports that the policy names. A port number with
// several protocols names them all, as it does in kubectl.
func choosePorts(policy *v1alpha1.NodePortPolicy, service *corev1.Service) ([]chosenPort, *Refusal) {
	if len(policy.Spec.Ports) == 0 {
		if len(service.Spec.Ports) != 1 {
			return nil, &Refusal{Reason: v1alpha1.ReasonServicePortsAmbiguous, Message: fmt.Sprintf(
				"Service %s has the ports %s; name those to expose in spec.ports", service.Name, describePorts(service))}
		}
		return []chosenPort{{port: service.Spec.Ports[0]}}, nil
	}
	var chosen []chosenPort
	for i, wanted := range policy.Spec.Ports {
		before := len(chosen)
		for _, port := range service.Spec.Ports {
			if (wanted.Name != "" && port.Name == wanted.Name) || (wanted.Port != 0 && port.Port == wanted.Port) {
				chosen = append(chosen, chosenPort{port: port, pin: uint16(wanted.NodePort)})
			}
		}
		if len(chosen) == before {
			return nil, &Refusal{Reason: v1alpha1.ReasonServicePortNotFound, Message: fmt.Sprintf(
				"spec.ports[%d] names %s, but Service %s has %s; correct one of them", i, describePort(wanted), service.Name, describePorts(service))}
		}
	}
	for i, a := range chosen {
		for _, b := range chosen[:i] {
			if a.port.Port == b.port.Port && protocolOf(a.port) == protocolOf(b.port) {
				return nil, &Refusal{Reason: v1alpha1.ReasonInvalid, Message: fmt.Sprintf(
					"spec.ports names port %d/%s of Service %s twice, by name and by number; name it once", a.port.Port, protocolOf(a.port), service.Name)}
			}
		}
	}
	slices.SortStableFunc(chosen, pinsFirst)
	return chosen, nil
}

// pinsFirst lets a port that was left to us find the pinned one of its number.
func pinsFirst(a, b chosenPort) int {
	switch {
	case a.pin != 0 && b.pin == 0:
		return -1
	case a.pin == 0 && b.pin != 0:
		return 1
	}
	return 0
}

// add puts the port on a number of its own, or beside a port it shares one with:
// the same pin, or, for a port without a pin, the same Service port number.
func (w *Wish) add(pin uint16, port v1alpha1.ClaimedPort) *Refusal {
	for i := range w.Numbers {
		n := &w.Numbers[i]
		shares := pin != 0 && n.Pin == pin ||
			pin == 0 && slices.ContainsFunc(n.Ports, func(p v1alpha1.ClaimedPort) bool { return p.Port == port.Port })
		if !shares {
			continue
		}
		if slices.ContainsFunc(n.Ports, func(p v1alpha1.ClaimedPort) bool { return p.Protocol == port.Protocol }) {
			if pin == 0 { // a pin gave the protocol to another port
				continue
			}
			return &Refusal{Reason: v1alpha1.ReasonInvalid, Message: fmt.Sprintf(
				"nodePort %d is pinned for two %s ports; one number serves one port of each protocol", pin, port.Protocol)}
		}
		n.Ports = append(n.Ports, port)
		slices.SortFunc(n.Ports, func(a, b v1alpha1.ClaimedPort) int { return cmp.Compare(a.Protocol, b.Protocol) })
		return nil
	}
	w.Numbers = append(w.Numbers, Number{Pin: pin, Ports: []v1alpha1.ClaimedPort{port}})
	return nil
}

// checkPins refuses a pin that no pool of the wish owns.
func (w *Wish) checkPins(pools []Pool) *Refusal {
	for _, n := range w.Numbers {
		if n.Pin == 0 {
			continue
		}
		if p := PoolOf(pools, n.Pin); p == nil || !slices.Contains(w.Pools, p.Name) {
			return &Refusal{Reason: v1alpha1.ReasonPinOutsidePool, Message: fmt.Sprintf(
				"nodePort %d is not in pool %s; pin a number of the pool or leave nodePort out", n.Pin, strings.Join(w.Pools, ", "))}
		}
	}
	return nil
}

// sourcesFor returns, canonically, who may reach a port of the policy. A union
// that is the whole world is refused as a whole: two halves are the world too.
func sourcesFor(policy *v1alpha1.NodePortPolicy, port corev1.ServicePort) ([]netip.Prefix, []string) {
	var prefixes []netip.Prefix
	var problems []string
	for i, s := range policy.Spec.Sources {
		if len(s.Ports) > 0 && !slices.Contains(s.Ports, port.Name) {
			continue
		}
		switch prefix, ok := parseCIDR(s.CIDR); {
		case !ok:
			problems = append(problems, fmt.Sprintf("sources[%d].cidr %q is not a network in CIDR notation and admits nobody; write for example 203.0.113.0/24", i, s.CIDR))
		case prefix.Bits() == 0:
			problems = append(problems, fmt.Sprintf("sources[%d].cidr %q is the whole world, which a CIDR may not open, and admits nobody; name narrower networks", i, s.CIDR))
		default:
			prefixes = append(prefixes, prefix)
		}
	}
	narrow, world := withoutWorld(prefixes)
	for _, p := range world {
		problems = append(problems, fmt.Sprintf("the sources of port %s together are the whole world (%s), which CIDRs may not open, and admit nobody; name narrower networks", describePort(v1alpha1.PolicyPort{Name: port.Name, Port: port.Port}), p))
	}
	return narrow, problems
}

// withoutWorld returns the canonical prefixes less those of a family that add up
// to all its addresses.
func withoutWorld(prefixes []netip.Prefix) (narrow, world []netip.Prefix) {
	for _, p := range rule.Canonical(prefixes) {
		if p.Bits() == 0 {
			world = append(world, p)
		} else {
			narrow = append(narrow, p)
		}
	}
	return narrow, world
}

// parseCIDR reads a network. An IPv4-mapped one matches no packet of either
// family, so it is none.
func parseCIDR(c v1alpha1.CIDR) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(string(c))
	return p, err == nil && !p.Addr().Is4In6()
}

// unknownSourcePorts names subsets that name no port the policy exposes.
func unknownSourcePorts(policy *v1alpha1.NodePortPolicy, service *corev1.Service, chosen []chosenPort) []string {
	var problems []string
	for i, s := range policy.Spec.Sources {
		for _, name := range s.Ports {
			if !slices.ContainsFunc(chosen, func(c chosenPort) bool { return c.port.Name == name }) {
				problems = append(problems, fmt.Sprintf("sources[%d].ports names %q, which is no port of Service %s that the policy exposes, and admits nobody there; correct the name or add it to spec.ports", i, name, service.Name))
			}
		}
	}
	return problems
}

func protocolOf(p corev1.ServicePort) corev1.Protocol { return cmp.Or(p.Protocol, corev1.ProtocolTCP) }

func describePort(p v1alpha1.PolicyPort) string {
	if p.Name != "" {
		return fmt.Sprintf("%q", p.Name)
	}
	return fmt.Sprint(p.Port)
}

func describePorts(service *corev1.Service) string {
	texts := make([]string, len(service.Spec.Ports))
	for i, p := range service.Spec.Ports {
		texts[i] = fmt.Sprintf("%d/%s", p.Port, protocolOf(p))
		if p.Name != "" {
			texts[i] = p.Name + " " + texts[i]
		}
	}
	return strings.Join(texts, ", ")
}

func spell(prefixes []netip.Prefix) []v1alpha1.CIDR {
	var out []v1alpha1.CIDR
	for _, p := range prefixes {
		out = append(out, v1alpha1.CIDR(p.String()))
	}
	return out
}

// parseSources reads an allocation's sources as nodes do: what can't be read
// admits nobody, and so does what adds up to the world.
func parseSources(cidrs []v1alpha1.CIDR) []netip.Prefix {
	var read []netip.Prefix
	for _, c := range cidrs {
		if p, ok := parseCIDR(c); ok && p.Bits() > 0 {
			read = append(read, p)
		}
	}
	narrow, _ := withoutWorld(read)
	return narrow
}
