package compile

import (
	"cmp"
	"hash/fnv"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// Sight is what is seen of the way from a policy's clients to its Service.
type Sight struct {
	Nodes []NodeReport
	Proof Proof
	// Service is the referenced one, Companion ours; nil when absent.
	Service, Companion *corev1.Service
	// Endpoints are those of the Service that carries the policy's Open numbers.
	Endpoints Endpoints
	// Lockdown: every port is closed by the installation.
	Lockdown bool
}

// Answering returns the nodes on which those whom an Open allocation admits find its
// port: the port is carried, the node is one that answers and has proved that it enforces
// the allocation. A node that is merely behind with the last change still does what it did
// before it, so it counts if it was listed for the number until now.
func (s Sight) Answering(a *v1alpha1.NodePortAllocation, listed func(n NodeReport, number uint16) bool) []NodeReport {
	if s.Lockdown || a.Spec.State != v1alpha1.AllocationOpen || s.carrier(a) == nil {
		return nil
	}
	var out []NodeReport
	for _, n := range s.Nodes {
		if !Answering(n, a, s.Proof.Gateways) || outOfService(n.Node) {
			continue
		}
		switch s.Proof.Missing(n, a) {
		case "":
			out = append(out, n)
		case NodePending, NodeUnconfirmed:
			if listed(n, NumberOf(a)) {
				out = append(out, n)
			}
		}
	}
	return out
}

// carrier is the Service that carries an Open allocation to its pods, nil while none
// does.
func (s Sight) carrier(a *v1alpha1.NodePortAllocation) *corev1.Service {
	service, carried := s.Companion, carriedBy
	if a.Spec.Carrier == v1alpha1.ServiceInPlace {
		service, carried = s.Service, Held
	}
	if service == nil || len(service.Spec.Selector) == 0 || !containsAll(carried(service)[NumberOf(a)], a.Spec.Protocols) {
		return nil
	}
	return service
}

// reachable are the addresses of a node at which it answers for a Service, of one type
// or, with "", of both, in the order of its status. kube-proxy carries node ports of the
// Service's own families only. What is no address on which somebody else can knock is
// left out.
func reachable(n *corev1.Node, kind v1alpha1.AddressType, carrier *corev1.Service, families []v1alpha1.IPFamily) (out []netip.Addr) {
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP || kind != "" && string(a.Type) != string(kind) {
			continue
		}
		address, err := netip.ParseAddr(a.Address)
		if err != nil {
			continue
		}
		address = address.Unmap()
		if address.Zone() == "" && address.IsGlobalUnicast() && served(address, carrier, families) && !slices.Contains(out, address) {
			out = append(out, address)
		}
	}
	return out
}

// served says whether an address is of one of the Service's families, and of the wanted
// ones if there are any.
func served(address netip.Addr, carrier *corev1.Service, families []v1alpha1.IPFamily) bool {
	family := corev1.IPv6Protocol
	if address.Is4() {
		family = corev1.IPv4Protocol
	}
	if len(carrier.Spec.IPFamilies) > 0 && !slices.Contains(carrier.Spec.IPFamilies, family) {
		return false
	}
	return len(families) == 0 || slices.Contains(families, v1alpha1.IPFamily(family))
}

// rank orders nodes for a policy, for each policy in another way: who picks the first
// few of them picks nearly the same after a node came or went.
func rank(policy *v1alpha1.NodePortPolicy, node string) uint64 {
	h := fnv.New64a()
	for _, part := range []string{policy.Namespace, policy.Name, node} {
		_, _ = h.Write([]byte(part)) // never fails
		_, _ = h.Write([]byte{0})
	}
	x := h.Sum64() // names often differ in their ends only, which are to move every bit
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	x = (x ^ x>>33) * 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// addresses lists where clients can connect, at most maxListed, and how many there are.
// What was listed and still answers stays, so that a node that joins changes nothing,
// and one that leaves only what names it.
func (s Sight) addresses(policy *v1alpha1.NodePortPolicy, open []*v1alpha1.NodePortAllocation) (list []string, total int32) {
	before := map[string]bool{}
	for _, a := range policy.Status.Addresses {
		before[a] = true
	}
	type place struct {
		netip.AddrPort
		fresh int // 0 if it was listed before
		rank  uint64
	}
	places := map[netip.AddrPort]place{}
	for _, a := range open {
		carrier, number := s.carrier(a), NumberOf(a)
		listed := func(n NodeReport, number uint16) bool {
			return slices.ContainsFunc(reachable(n.Node, "", carrier, nil), func(host netip.Addr) bool {
				return before[netip.AddrPortFrom(host, number).String()]
			})
		}
		for _, n := range s.Answering(a, listed) {
			for _, host := range s.serving(n, a, "", nil) {
				p := place{netip.AddrPortFrom(host, number), 1, rank(policy, n.Name)}
				if before[p.String()] {
					p.fresh = 0
				}
				if had, known := places[p.AddrPort]; !known || p.rank < had.rank {
					places[p.AddrPort] = p
				}
			}
		}
	}
	all := make([]place, 0, len(places))
	for _, p := range places {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.fresh, b.fresh), cmp.Compare(a.rank, b.rank), a.Compare(b.AddrPort))
	})
	shown := all[:min(len(all), maxListed)]
	slices.SortFunc(shown, func(a, b place) int { return a.Compare(b.AddrPort) })
	for _, p := range shown {
		list = append(list, p.String())
	}
	return list, int32(len(all))
}

// AddressLost says whether a listed address no longer answers. Where many answer, few
// policies list it.
func AddressLost(before, after v1alpha1.NodePortPolicyStatus) bool {
	return slices.ContainsFunc(before.Addresses, func(a string) bool { return !slices.Contains(after.Addresses, a) })
}

// AddressGained says whether there is one more to list. Where many answer the list is
// full, and a node that joins is no news to any policy.
func AddressGained(before, after v1alpha1.NodePortPolicyStatus) bool {
	return AddressLost(after, before)
}
