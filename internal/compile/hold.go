package compile

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// holdSize is how many numbers one hold has at most: the API server is slow with
// Services of many ports.
const holdSize = 100

const holdPrefix = "portreeve-hold-"

// A hold is a Service of ours in our own namespace, without a selector and hidden
// from kube-proxy, that keeps free numbers of pools from being given away: the API
// server chooses random node ports after admission, so nothing else can. It holds
// one block of a hundred numbers, named by the first digits they share.

// HoldOf is the name of the hold that a number belongs to.
func HoldOf(number uint16) string { return holdPrefix + strconv.Itoa(int(number)/holdSize) }

// HoldBlock returns the first and the last number of a hold by its name.
func HoldBlock(name string) (first, last uint16, ok bool) {
	digits, is := strings.CutPrefix(name, holdPrefix)
	n, err := strconv.Atoi(digits)
	if !is || err != nil || n < 0 || n > 65535/holdSize || HoldOf(uint16(n*holdSize)) != name {
		return 0, 0, false
	}
	return uint16(max(n*holdSize, 1)), uint16(min(n*holdSize+holdSize-1, 65535)), true
}

// IsHold says whether a Service is a hold of ours.
func IsHold(s *corev1.Service, namespace string) bool {
	_, _, named := HoldBlock(s.Name)
	return named && s.Namespace == namespace && s.Labels[v1alpha1.LabelHold] == "true"
}

// MayHold says whether a number is to be kept from the API server's random choice:
// it is a pool's that holds its free numbers, and nobody else keeps it. allocation is
// nil when the number is free; holder is the Service, not a hold, that has it.
//
// A number in place is kept while its Service does not have it: while it closes, and
// while the Service is gone.
func MayHold(pools []Pool, number uint16, allocation *v1alpha1.NodePortAllocation, claimed, holder *corev1.Service) bool {
	pool := PoolOf(pools, number)
	switch {
	case holder != nil, pool == nil, pool.Spec.Hold != nil && !*pool.Spec.Hold:
		return false
	case allocation == nil:
		return true
	case allocation.Spec.Carrier != v1alpha1.ServiceInPlace:
		return false
	}
	return allocation.Spec.State == v1alpha1.AllocationClosed || claimed == nil
}

// Hold returns the Service that holds the numbers, on top of have (nil when there is
// none yet); nil when there is nothing to hold.
func Hold(namespace, name string, numbers []uint16, have *corev1.Service) *corev1.Service {
	if len(numbers) == 0 {
		return nil
	}
	want := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if have != nil {
		want = have.DeepCopy()
	}
	if want.Labels == nil {
		want.Labels = map[string]string{}
	}
	maps.Copy(want.Labels, map[string]string{v1alpha1.LabelHold: "true", labelProxyName: v1alpha1.ServiceProxyName})
	if want.Annotations == nil {
		want.Annotations = map[string]string{}
	}
	want.Annotations["portreeve.dev/explanation"] = "Holds free numbers of NodePortPools, so that the API server gives them to nobody else. Nothing is served. A pool with hold: false is left out."
	want.Spec.Type, want.Spec.Selector = corev1.ServiceTypeNodePort, nil
	want.Spec.Ports = nil
	for _, n := range slices.Sorted(slices.Values(numbers)) {
		want.Spec.Ports = append(want.Spec.Ports, corev1.ServicePort{
			Name: fmt.Sprintf("hold-%d", n), Protocol: corev1.ProtocolTCP,
			Port: int32(n), TargetPort: intstr.FromInt32(int32(n)), NodePort: int32(n),
		})
	}
	return want
}

// Undeclared lists the Services with node ports that nobody declared and that
// concern a pool: on numbers of its ranges, or in namespaces that may draw from it.
// Ours, and those that are carried in place for a policy, are left out by the caller.
func Undeclared(p Pool, services []*corev1.Service, mayDraw func(namespace string) bool) []v1alpha1.UndeclaredService {
	var out []v1alpha1.UndeclaredService
	for _, s := range services {
		held := Held(s)
		if len(held) == 0 {
			continue
		}
		inside := false
		entry := v1alpha1.UndeclaredService{Service: s.Namespace + "/" + s.Name, Type: string(s.Spec.Type)}
		for _, n := range slices.Sorted(maps.Keys(held)) {
			inside = inside || p.Owned.Contains(n) || p.Reserved.Contains(n)
			entry.NodePorts = append(entry.NodePorts, int32(n))
		}
		if inside || mayDraw(s.Namespace) {
			out = append(out, entry)
		}
	}
	slices.SortFunc(out, func(a, b v1alpha1.UndeclaredService) int { return strings.Compare(a.Service, b.Service) })
	return out
}

// Hijacks describes how a Service that is not ours takes the traffic of a number on
// a node's own address, "" if it does not: an external IP or a load balancer's
// address that is a node's, with the number as its port (kube-proxy serves those
// before node ports). nodes are the addresses of nodes in their usual spelling.
func Hijacks(s *corev1.Service, number uint16, protocols []v1alpha1.Protocol, nodes map[string]bool) string {
	if !slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool {
		return p.Port == int32(number) && slices.Contains(protocols, v1alpha1.Protocol(protocolOf(p)))
	}) {
		return ""
	}
	isNode := func(text string) bool {
		a, err := netip.ParseAddr(text)
		return nodes[text] || err == nil && nodes[a.String()]
	}
	for _, a := range s.Spec.ExternalIPs {
		if isNode(a) {
			return fmt.Sprintf("Service %s/%s, externalIPs %s port %d", s.Namespace, s.Name, a, number)
		}
	}
	for _, i := range s.Status.LoadBalancer.Ingress {
		if isNode(i.IP) && (i.IPMode == nil || *i.IPMode == corev1.LoadBalancerIPModeVIP) {
			return fmt.Sprintf("Service %s/%s, load balancer address %s port %d", s.Namespace, s.Name, i.IP, number)
		}
	}
	return ""
}
