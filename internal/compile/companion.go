package compile

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// labelProxyName takes a Service from kube-proxy (KEP-2447).
const labelProxyName = "service.kubernetes.io/service-proxy-name"

// closingPrefix begins the names of companion ports that only hold a number.
const closingPrefix = "closing-"

// Companion returns the Service that must carry a policy's allocations, on top of
// have (nil when there is none yet); nil when there are no allocations. What it
// does not decide stays as it is in have.
//
// Its owners are the allocations, so that garbage collection frees a number only
// after its allocation. Closed allocations hold their numbers without serving;
// when all are closed, or the referenced Service is gone, there is no selector,
// and kube-proxy does not see it.
func Companion(namespace, policy string, own []v1alpha1.NodePortAllocation, service, have *corev1.Service) *corev1.Service {
	own = slices.DeleteFunc(slices.Clone(own), func(a v1alpha1.NodePortAllocation) bool { return a.Spec.Carrier == v1alpha1.ServiceInPlace })
	if len(own) == 0 {
		return nil
	}
	sorted := slices.SortedFunc(slices.Values(pointers(own)), func(a, b *v1alpha1.NodePortAllocation) int {
		return cmp.Compare(NumberOf(a), NumberOf(b))
	})
	want := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: policy + v1alpha1.CompanionSuffix}}
	if have != nil {
		want = have.DeepCopy()
	}
	if want.Labels == nil {
		want.Labels = map[string]string{}
	}
	want.Labels[v1alpha1.LabelPolicy] = policy
	want.OwnerReferences = owners(sorted)
	want.Spec.Type = corev1.ServiceTypeNodePort
	want.Spec.Ports = companionPorts(sorted, service, have)
	want.Spec.Selector = nil
	want.Spec.ExternalIPs = nil // a way around the node ports, which nobody filters
	delete(want.Labels, labelProxyName)
	serves := service != nil && slices.ContainsFunc(sorted, func(a *v1alpha1.NodePortAllocation) bool {
		return a.Spec.State == v1alpha1.AllocationOpen
	})
	if !serves {
		want.Labels[labelProxyName] = v1alpha1.ServiceProxyName
		return want
	}
	want.Spec.Selector = service.Spec.Selector
	want.Spec.PublishNotReadyAddresses = service.Spec.PublishNotReadyAddresses
	trafficAsked(sorted).orDefault().apply(&want.Spec)
	// The primary family of a Service never changes.
	if have == nil || (len(have.Spec.IPFamilies) > 0 && len(service.Spec.IPFamilies) > 0 && have.Spec.IPFamilies[0] == service.Spec.IPFamilies[0]) {
		want.Spec.IPFamilies = service.Spec.IPFamilies
		want.Spec.IPFamilyPolicy = service.Spec.IPFamilyPolicy
		if len(want.Spec.ClusterIPs) > len(want.Spec.IPFamilies) {
			want.Spec.ClusterIPs = want.Spec.ClusterIPs[:len(want.Spec.IPFamilies)]
		}
	}
	return want
}

func owners(own []*v1alpha1.NodePortAllocation) []metav1.OwnerReference {
	out := make([]metav1.OwnerReference, len(own))
	for i, a := range own {
		out[i] = metav1.OwnerReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodePortAllocation", Name: a.Name, UID: a.UID}
	}
	return out
}

// companionPorts carries each Open port like the referenced Service does, and
// holds each Closed number under a port of its own, for names and (port, protocol)
// must be unique within a Service and the closing port may have been opened elsewhere.
func companionPorts(own []*v1alpha1.NodePortAllocation, service, have *corev1.Service) []corev1.ServicePort {
	var out []corev1.ServicePort
	var held []heldPort
	for _, a := range own {
		if a.Spec.State != v1alpha1.AllocationOpen {
			for _, protocol := range a.Spec.Protocols {
				held = append(held, heldPort{a, corev1.Protocol(protocol)})
			}
			continue
		}
		for _, p := range a.Spec.Ports {
			port := openPort(a, p, service, have)
			if hasPort(out, port.Port, port.Protocol) { // on its way from one number to another
				held = append(held, heldPort{a, port.Protocol})
				continue
			}
			if slices.ContainsFunc(out, func(q corev1.ServicePort) bool { return q.Name == port.Name }) {
				port.Name = nameOf(a, p.Protocol) // on its way from one name to another
			}
			out = append(out, port)
		}
	}
	for _, h := range held {
		number := int32(NumberOf(h.allocation))
		port := number // unless a Service port already has it
		for hasPort(out, port, h.protocol) {
			port = port%65535 + 1
		}
		out = append(out, corev1.ServicePort{
			Name: closingPrefix + h.allocation.Name + "-" + strings.ToLower(string(h.protocol)), Protocol: h.protocol,
			Port: port, TargetPort: intstr.FromInt32(number), NodePort: number,
		})
	}
	return out
}

// heldPort is a number that the companion holds without serving it.
type heldPort struct {
	allocation *v1alpha1.NodePortAllocation
	protocol   corev1.Protocol
}

func hasPort(ports []corev1.ServicePort, port int32, protocol corev1.Protocol) bool {
	return slices.ContainsFunc(ports, func(p corev1.ServicePort) bool { return p.Port == port && p.Protocol == protocol })
}

func openPort(a *v1alpha1.NodePortAllocation, p v1alpha1.ClaimedPort, service, have *corev1.Service) corev1.ServicePort {
	number := int32(NumberOf(a))
	port := corev1.ServicePort{Name: p.Name, Protocol: corev1.Protocol(p.Protocol), Port: p.Port, TargetPort: intstr.FromInt32(p.Port), NodePort: number}
	// Required beside others, and stable when others come; a name of the referenced
	// Service must not look like one that only holds.
	if port.Name == "" || strings.HasPrefix(port.Name, closingPrefix) {
		port.Name = nameOf(a, p.Protocol)
	}
	// Where the Service has lost the port, the companion keeps what it had.
	if have != nil {
		for _, s := range have.Spec.Ports {
			if s.NodePort == number && protocolOf(s) == port.Protocol && !strings.HasPrefix(s.Name, closingPrefix) {
				port.TargetPort, port.AppProtocol = s.TargetPort, s.AppProtocol
			}
		}
	}
	if service != nil {
		for _, s := range service.Spec.Ports {
			if s.Port == p.Port && protocolOf(s) == port.Protocol {
				port.TargetPort, port.AppProtocol = s.TargetPort, s.AppProtocol
			}
		}
	}
	return port
}

// nameOf is a name for a companion's port that no other can need.
func nameOf(a *v1alpha1.NodePortAllocation, protocol v1alpha1.Protocol) string {
	return "port-" + a.Name + "-" + strings.ToLower(string(protocol))
}

// Refused returns what the allocation of a number says after the API server
// refused it for our companion: somebody else holds it. holder is the Service
// that shows it, nil when none does.
func Refused(a *v1alpha1.NodePortAllocation, holder *corev1.Service) v1alpha1.NodePortAllocationSpec {
	spec := v1alpha1.NodePortAllocationSpec{
		State: v1alpha1.AllocationForeign, Protocols: a.Spec.Protocols, Pool: a.Spec.Pool, Team: a.Spec.Team,
		CloudFirewalls: a.Spec.CloudFirewalls,
	}
	if holder != nil {
		spec.Claim = v1alpha1.Claim{Namespace: holder.Namespace, Service: holder.Name}
		spec.Protocols = Held(holder)[NumberOf(a)]
	}
	return spec
}
