package compile

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// Endpoints says which nodes have a pod of one Service that kube-proxy leads to when its
// externalTrafficPolicy is Local. The zero value has none.
type Endpoints map[endpointKey]bool

// endpointKey is a port of the Service, as a family of the node's addresses leads to it.
type endpointKey struct {
	node     string
	port     string // its name
	protocol corev1.Protocol
	family   discoveryv1.AddressType
}

// EndpointsOf reads the slices of a Service.
func EndpointsOf(all []discoveryv1.EndpointSlice) Endpoints {
	out := Endpoints{}
	for _, slice := range all {
		for _, port := range slice.Ports {
			if port.Port == nil { // of a selector-less Service; kube-proxy leaves it out
				continue
			}
			for _, e := range slice.Endpoints {
				if e.NodeName != nil && carries(e.Conditions) {
					out[endpointKey{*e.NodeName, ptr.Deref(port.Name, ""), ptr.Deref(port.Protocol, corev1.ProtocolTCP), slice.AddressType}] = true
				}
			}
		}
	}
	return out
}

// carries says whether kube-proxy uses an endpoint on its own node: a ready one, or, when
// there is none, one that is going and still serves (CategorizeEndpoints in
// pkg/proxy/topology.go of Kubernetes 1.36; what a condition is that nobody set, in
// endpointslicecache.go).
func carries(c discoveryv1.EndpointConditions) bool {
	return ptr.Deref(c.Ready, true) || ptr.Deref(c.Serving, true) && ptr.Deref(c.Terminating, false)
}

// Slim is what EndpointsOf needs of a slice, once for each node, in an order of its own:
// slices that say the same of nodes are equal. It is the same object.
func Slim(s *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	s.ManagedFields, s.Annotations = nil, nil
	if name := s.Labels[discoveryv1.LabelServiceName]; name != "" {
		s.Labels = map[string]string{discoveryv1.LabelServiceName: name}
	}
	nodes := map[string]bool{}
	for _, e := range s.Endpoints {
		if e.NodeName != nil && carries(e.Conditions) {
			nodes[*e.NodeName] = true
		}
	}
	s.Endpoints = nil
	for node := range nodes {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{NodeName: &node})
	}
	slices.SortFunc(s.Endpoints, func(a, b discoveryv1.Endpoint) int { return cmp.Compare(*a.NodeName, *b.NodeName) })
	for i, p := range s.Ports {
		s.Ports[i] = discoveryv1.EndpointPort{Name: p.Name, Protocol: p.Protocol, Port: p.Port}
	}
	return s
}

// on says whether the node leads an address of its own, on the number and one of the
// protocols, to a pod.
func (e Endpoints) on(node string, carrier *corev1.Service, number uint16, address netip.Addr, protocols ...v1alpha1.Protocol) bool {
	family := discoveryv1.AddressTypeIPv6
	if address.Is4() {
		family = discoveryv1.AddressTypeIPv4
	}
	return slices.ContainsFunc(carrier.Spec.Ports, func(p corev1.ServicePort) bool {
		return uint16(p.NodePort) == number && slices.Contains(protocols, v1alpha1.Protocol(protocolOf(p))) &&
			e[endpointKey{node, p.Name, protocolOf(p), family}]
	})
}

// anywhere says whether some node leads the number to a pod.
func (e Endpoints) anywhere(carrier *corev1.Service, number uint16) bool {
	for k := range e {
		if slices.ContainsFunc(carrier.Spec.Ports, func(p corev1.ServicePort) bool {
			return uint16(p.NodePort) == number && p.Name == k.port && protocolOf(p) == k.protocol
		}) {
			return true
		}
	}
	return false
}

// serves says whether a node of those that answer takes packets to the address on, by one
// of the protocols: always, but for a Local port without a pod there.
func (s Sight) serves(n NodeReport, a *v1alpha1.NodePortAllocation, address netip.Addr, protocols ...v1alpha1.Protocol) bool {
	carrier := s.carrier(a)
	return !a.Spec.LocalOnly || carrier != nil && s.Endpoints.on(n.Name, carrier, NumberOf(a), address, protocols...)
}

// serving are the addresses of a node at which it takes packets to the number on.
func (s Sight) serving(n NodeReport, a *v1alpha1.NodePortAllocation, kind v1alpha1.AddressType, families []v1alpha1.IPFamily) []netip.Addr {
	return slices.DeleteFunc(reachable(n.Node, kind, s.carrier(a), families), func(address netip.Addr) bool {
		return !s.serves(n, a, address, a.Spec.Protocols...)
	})
}

// podless says for which Open number nobody has a pod: no node at all, or, as misplaced,
// none of those that answer. Both are nil where every number has one.
func (s Sight) podless(open []*v1alpha1.NodePortAllocation) (nowhere, misplaced *v1alpha1.NodePortAllocation) {
	for _, a := range open {
		carrier := s.carrier(a)
		switch {
		case !a.Spec.LocalOnly || carrier == nil:
		case !s.Endpoints.anywhere(carrier, NumberOf(a)):
			nowhere = cmp.Or(nowhere, a)
		case !slices.ContainsFunc(s.Nodes, func(n NodeReport) bool {
			return Answering(n, a, s.Proof.Gateways) && len(s.serving(n, a, "", nil)) > 0
		}):
			misplaced = cmp.Or(misplaced, a)
		}
	}
	return nowhere, misplaced
}
