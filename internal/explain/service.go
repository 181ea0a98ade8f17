package explain

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// proxyName is the label by which kube-proxy leaves a Service alone.
const proxyName = "service.kubernetes.io/service-proxy-name"

// behind is the Service, and what is behind it.
func (w walk) behind() []Gate {
	a := w.allocation
	if a != nil && a.Spec.State == v1alpha1.AllocationClosed || a == nil && w.decision.judged() && !w.decision.set.Audited.Contains(w.port.Number) {
		return nil // nothing is carried there
	}
	s := w.carrier()
	if other := w.holder(); other != nil && other != s {
		return []Gate{{
			Gate: GateService, Subject: other.Namespace + "/" + other.Name, State: Doubtful, Reason: v1alpha1.ReasonHijacked,
			Message: "has the number, which the register gives to somebody else", Remedy: "take the node port out of it",
		}}
	}
	if s != nil {
		g := w.served(s)
		if g.State == Stops {
			return []Gate{g}
		}
		return []Gate{g, w.endpoints(s)}
	}
	g := Gate{Gate: GateService, State: Stops, Reason: ReasonNoService}
	switch {
	case a == nil:
		g.State, g.Message = Doubtful, "no Service has the number; whether something on the nodes themselves listens can't be seen from here"
	case a.Spec.State == v1alpha1.AllocationForeign:
		g.State, g.Message = Doubtful, "no Service shows the number"
	case a.Spec.Carrier == v1alpha1.ServiceInPlace:
		g.Subject = a.Spec.Claim.Namespace + "/" + a.Spec.Claim.Service
		g.Message, g.Remedy = "the Service does not exist, so nothing carries the number", "create it"
	default:
		g.Subject = a.Spec.Claim.Namespace + "/" + a.Spec.Claim.Policy + v1alpha1.CompanionSuffix
		g.Message = "the companion Service does not exist, so nothing carries the number"
		g.Remedy = fmt.Sprintf("see the condition Exposed: kubectl -n %s describe npp %s", a.Spec.Claim.Namespace, a.Spec.Claim.Policy)
	}
	return []Gate{g}
}

// served says whether the Service carries the number, and whether another takes it.
func (w walk) served(s *corev1.Service) Gate {
	g := Gate{Gate: GateService, Subject: s.Namespace + "/" + s.Name, State: Passes, Reason: v1alpha1.ReasonOK}
	a := w.allocation
	companion := a != nil && a.Spec.State == v1alpha1.AllocationOpen && a.Spec.Carrier != v1alpha1.ServiceInPlace
	carried := slices.Contains(compile.Held(s)[w.port.Number], v1alpha1.Protocol(w.port.Protocol))
	switch {
	case companion && !compile.IsCompanion(s, a.Spec.Claim.Policy):
		g.State, g.Reason = Stops, v1alpha1.ReasonServiceNameTaken
		g.Message, g.Remedy = "has the name of the companion and is not ours", "rename or delete it, or rename the policy"
		return g
	case !carried:
		g.State, g.Reason = Stops, ReasonNotCarried
		g.Message, g.Remedy = fmt.Sprintf("does not have node port %d over %s", w.port.Number, w.port.Protocol), "see the condition Exposed of the policy"
		return g
	case companion && len(s.Spec.Selector) == 0 || s.Labels[proxyName] != "":
		g.State, g.Reason = Stops, v1alpha1.ReasonServiceNotFound
		g.Message = fmt.Sprintf("holds the number and serves nobody, since Service %s/%s can't be exposed", a.Spec.Claim.Namespace, a.Spec.Claim.Service)
		g.Remedy = "create that Service, or see the condition Exposed of the policy"
		return g
	}
	if how := w.hijacker(s); how != "" {
		g.State, g.Reason = Doubtful, v1alpha1.ReasonHijacked
		g.Message, g.Remedy = "another Service takes the packets: "+how, "remove what takes the port there"
		return g
	}
	g.Message = "carries the number"
	if s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		g.Message += ", externalTrafficPolicy Local: only nodes with an endpoint answer, and pods see the client's address"
	} else {
		g.Message += ", externalTrafficPolicy Cluster: every node answers, and pods see the address of the node that forwards"
	}
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		g.Message += "; sessionAffinity ClientIP: each client keeps to one endpoint"
	}
	return g
}

// hijacker describes a Service that takes the port's packets on an address of a node,
// ahead of node ports; "" if none does.
func (w walk) hijacker(s *corev1.Service) string {
	for i := range w.Services {
		other := &w.Services[i]
		if other == s {
			continue
		}
		if how := compile.Hijacks(other, w.port.Number, []v1alpha1.Protocol{v1alpha1.Protocol(w.port.Protocol)}, w.addresses); how != "" {
			return how
		}
	}
	return ""
}

// endpoints says whether anything answers behind the Service.
func (w walk) endpoints(s *corev1.Service) Gate {
	g := Gate{Gate: GateEndpoints, Subject: s.Namespace + "/" + s.Name, State: Passes, Reason: v1alpha1.ReasonOK}
	counts := map[string]int{}
	for _, node := range w.ready(s) {
		counts[node]++
	}
	if len(counts) == 0 {
		g.State, g.Reason = Stops, ReasonNoReadyEndpoints
		g.Message = "no endpoint is ready, so kube-proxy refuses the connection"
		g.Remedy = fmt.Sprintf("see that pods match the selector and are Ready, and that the target port exists: kubectl -n %s get endpointslices -l %s=%s", s.Namespace, discoveryv1.LabelServiceName, s.Name)
		return g
	}
	var texts []string
	for _, node := range slices.Sorted(maps.Keys(counts)) {
		texts = append(texts, fmt.Sprintf("%d on %s", counts[node], node))
	}
	const most = 8
	g.Message = "ready: " + join(texts[:min(len(texts), most)])
	if rest := len(texts) - most; rest > 0 {
		g.Message += fmt.Sprintf(" and on %d more nodes", rest)
	}
	return g
}

// ready lists, for each endpoint of the port that kube-proxy would choose, its node. While
// none is ready that are those that still serve as they end.
func (w walk) ready(s *corev1.Service) []string {
	port := slices.IndexFunc(s.Spec.Ports, func(p corev1.ServicePort) bool {
		return uint16(p.NodePort) == w.port.Number && string(cmp.Or(p.Protocol, corev1.ProtocolTCP)) == string(w.port.Protocol)
	})
	if port < 0 {
		return nil
	}
	var ready, ending []string
	for i := range w.Slices {
		slice := &w.Slices[i]
		if slice.Namespace != s.Namespace || slice.Labels[discoveryv1.LabelServiceName] != s.Name || !w.serves(slice, s.Spec.Ports[port].Name) {
			continue
		}
		for _, e := range slice.Endpoints {
			node := ptr.Deref(e.NodeName, "a node that is not named")
			switch {
			case ptr.Deref(e.Conditions.Ready, true):
				ready = append(ready, node)
			case ptr.Deref(e.Conditions.Serving, false) && ptr.Deref(e.Conditions.Terminating, false):
				ending = append(ending, node)
			}
		}
	}
	if len(ready) > 0 {
		return ready
	}
	return ending
}

// serves says whether the endpoints are of the port, and of the client's family.
func (w walk) serves(slice *discoveryv1.EndpointSlice, name string) bool {
	family := slice.AddressType == discoveryv1.AddressTypeIPv4 && !w.from.Is6() || slice.AddressType == discoveryv1.AddressTypeIPv6 && !w.from.Is4()
	return family && slices.ContainsFunc(slice.Ports, func(p discoveryv1.EndpointPort) bool {
		return ptr.Deref(p.Name, "") == name && string(ptr.Deref(p.Protocol, corev1.ProtocolTCP)) == string(w.port.Protocol) && p.Port != nil
	})
}
