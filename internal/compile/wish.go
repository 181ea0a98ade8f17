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
	// Problems name entries that contribute nothing, whatever the pool; the rest stands.
	Problems []string
	// Expired: the policy has ended. It wants no number, and that is as it should be.
	Expired bool
	// Planned: nothing is to be written; what the policy holds stays, less the sources
	// that it no longer names.
	Planned bool
	// owned are the numbers of those pools.
	owned rule.PortRanges
	// offers are what each of those pools would make of it.
	offers map[string]offer
	policy *v1alpha1.NodePortPolicy
	local  bool // see localOnly
}

// Number is one node port that a policy wants.
type Number struct {
	// Pin is the number asked for, 0 for any.
	Pin uint16
	// Holding: the Service holds the pinned number already, and keeps it.
	Holding bool
	// Ports by protocol, in canonical order, without their sources, which depend on
	// the pool that the number is drawn from.
	Ports []v1alpha1.ClaimedPort
}

// offer is what a pool makes of a wish.
type offer struct {
	pool *Pool
	// ports are those wanted, with their sources.
	ports    map[portKey]v1alpha1.ClaimedPort
	problems []string
	// firewalls are the clouds' that stand before nodes that may answer.
	firewalls []v1alpha1.ObjectName
	audits    bool             // mode Audit has an effect there
	silent    map[portKey]bool // ports that admit nobody, whatever the policy says
}

type portKey struct {
	protocol v1alpha1.Protocol
	port     int32
}

func keyOf(p v1alpha1.ClaimedPort) portKey { return portKey{p.Protocol, p.Port} }

// Refusal says why a policy can't be honoured as it stands. What it was given
// before stays in force, less the sources it removed.
type Refusal struct {
	Reason  string
	Message string
	// Waits: what is missing may come by itself; otherwise a person must act.
	Waits bool
}

// NewWish resolves a policy. service is nil when there is none of that name. Exactly
// one of the results is set.
func NewWish(policy *v1alpha1.NodePortPolicy, service *corev1.Service, cluster Cluster) (*Wish, *Refusal) {
	wish := &Wish{policy: policy, offers: map[string]offer{}, Planned: policy.Spec.Mode == v1alpha1.ModePlan}
	if ends := policy.Spec.ExpiresAt; ends != nil && !ends.After(cluster.Now) {
		wish.Expired = true
		return wish, nil
	}
	candidates, refusal := candidatePools(policy, cluster)
	if refusal != nil {
		return nil, refusal
	}
	for _, p := range candidates {
		wish.Pools = append(wish.Pools, p.Name)
		wish.owned = wish.owned.Union(p.Owned)
	}
	if refusal := checkService(policy, service); refusal != nil {
		return nil, refusal
	}
	chosen, refusal := choosePorts(policy, service)
	if refusal != nil {
		return nil, refusal
	}
	if policy.Spec.Service == v1alpha1.ServiceInPlace {
		if chosen, refusal = wish.inPlace(chosen, service, cluster); refusal != nil {
			return nil, refusal
		}
	}
	for _, c := range chosen {
		if refusal := wish.add(c); refusal != nil {
			return nil, refusal
		}
	}
	if refusal := wish.checkPins(cluster.Pools); refusal != nil {
		return nil, refusal
	}
	wish.local = localOnly(policy, service)
	for _, p := range candidates {
		wish.offers[p.Name] = cluster.offer(policy, p, chosen, wish.Numbers)
	}
	wish.Problems = sortedSet(unknownSourcePorts(policy, service, chosen))
	return wish, nil
}

// offer resolves the sources of the chosen ports in a pool.
func (c Cluster) offer(policy *v1alpha1.NodePortPolicy, pool *Pool, chosen []chosenPort, numbers []Number) offer {
	o := offer{pool: pool, firewalls: c.Places.facing(policy, c.Places.rails[pool.Name]), ports: map[portKey]v1alpha1.ClaimedPort{}, silent: map[portKey]bool{}}
	refused := c.Places.rails[pool.Name].refuseAudit(policy)
	if o.audits = refused == ""; !o.audits {
		o.problems = append(o.problems, refused)
	}
	for _, port := range chosen {
		claimed := port.claimed()
		if !port.silent {
			var problems []string
			claimed, problems = c.admit(policy, pool.NodePortPool, claimed)
			o.problems = append(o.problems, problems...)
		}
		o.ports[keyOf(claimed)], o.silent[keyOf(claimed)] = claimed, port.silent
	}
	o.problems = append(o.problems, o.unaudited(numbers, policy)...)
	return o
}

// ProblemsIn names entries that contribute nothing in one of the pools; in the
// preferred one when none is given.
func (w *Wish) ProblemsIn(pools ...string) []string {
	if len(pools) == 0 && len(w.Pools) > 0 {
		pools = w.Pools[:1]
	}
	problems := slices.Clone(w.Problems)
	for _, p := range pools {
		problems = append(problems, w.offers[p].problems...)
	}
	return sortedSet(problems)
}

func sortedSet[T cmp.Ordered](list []T) []T {
	slices.Sort(list)
	return slices.Compact(list)
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
	// holding: the Service holds the pin already.
	holding bool
	// silent: nobody is admitted, whatever the policy's sources.
	silent bool
}

func (c chosenPort) claimed() v1alpha1.ClaimedPort {
	return v1alpha1.ClaimedPort{Protocol: v1alpha1.Protocol(protocolOf(c.port)), Name: c.port.Name, Port: c.port.Port}
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
func (w *Wish) add(c chosenPort) *Refusal {
	pin, port := c.pin, c.claimed()
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
	w.Numbers = append(w.Numbers, Number{Pin: pin, Holding: c.holding, Ports: []v1alpha1.ClaimedPort{port}})
	return nil
}

// checkPins refuses a pin that no pool of the wish owns.
func (w *Wish) checkPins(pools []Pool) *Refusal {
	for _, n := range w.Numbers {
		if n.Pin == 0 {
			continue
		}
		if p := PoolOf(pools, n.Pin); p == nil || !slices.Contains(w.Pools, p.Name) {
			if why := reservedIn(pools, w.Pools, n.Pin); why != "" {
				return &Refusal{Reason: v1alpha1.ReasonPinOutsidePool, Message: why}
			}
			return &Refusal{Reason: v1alpha1.ReasonPinOutsidePool, Message: fmt.Sprintf(
				"nodePort %d is not in pool %s; pin a number of the pool or leave nodePort out", n.Pin, strings.Join(w.Pools, ", "))}
		}
	}
	return nil
}

// reservedIn says which of the pools reserves the number, and why; "" if none does.
func reservedIn(pools []Pool, names []string, number uint16) string {
	for i := range pools {
		if !slices.Contains(names, pools[i].Name) || !pools[i].Reserved.Contains(number) {
			continue
		}
		for _, r := range pools[i].Spec.Reserved {
			if span, err := rule.ParsePortRange(string(r.Ports)); err == nil && span.Contains(number) {
				return fmt.Sprintf("nodePort %d is reserved in pool %s (%s: %s); pin another number of the pool or leave nodePort out", number, pools[i].Name, r.Ports, r.Reason)
			}
		}
	}
	return ""
}

// withoutWorld returns the canonical prefixes less those of a family that add up
// to all its addresses.
func withoutWorld(prefixes []netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(rule.Canonical(prefixes), func(p netip.Prefix) bool { return p.Bits() == 0 })
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
			if !slices.ContainsFunc(chosen, func(c chosenPort) bool { return !c.silent && c.port.Name == name }) {
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
	return withoutWorld(read)
}
