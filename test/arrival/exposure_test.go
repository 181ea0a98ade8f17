package arrival

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// parameters of an exposure: how many choices there are for each.
var parameters = []int{
	2, // gateways: Distributed, Centralized
	2, // externalTrafficPolicy: Cluster, Local
	2, // affinity: none, ClientIP
	3, // family: IPv4, IPv6, both
	2, // protocol: TCP, UDP
	2, // service: Companion, InPlace
}

// remembered is the timeout of an affinity: long enough that a busy machine asks again
// in time.
const remembered = 5

// exposure is one row of the covering array, as a policy with its Service.
type exposure struct {
	centralized, local, affine, inPlace bool
	families                            []corev1.IPFamily
	protocol                            corev1.Protocol
	number                              uint16
}

func exposureOf(row []int, number uint16) exposure {
	return exposure{
		centralized: row[0] == 1, local: row[1] == 1, affine: row[2] == 1, inPlace: row[5] == 1, number: number,
		families: [][]corev1.IPFamily{{corev1.IPv4Protocol}, {corev1.IPv6Protocol}, {corev1.IPv4Protocol, corev1.IPv6Protocol}}[row[3]],
		protocol: []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP}[row[4]],
	}
}

// name says what it is.
func (e exposure) name() string {
	word := func(is bool, yes, no string) string {
		if is {
			return yes
		}
		return no
	}
	return strings.ToLower(strings.Join([]string{
		word(e.centralized, "centralized", "distributed"), word(e.local, "local", "cluster"), word(e.affine, "affine", "free"),
		word(len(e.families) > 1, "dual", string(e.families[0])), string(e.protocol), word(e.inPlace, "in-place", "companion"),
	}, "-"))
}

// network is the protocol as clients name it.
func (e exposure) network() string { return strings.ToLower(string(e.protocol)) }

// has says whether the Service has the address's family.
func (e exposure) has(a netip.Addr) bool {
	if a.Is4() {
		return slices.Contains(e.families, corev1.IPv4Protocol)
	}
	return slices.Contains(e.families, corev1.IPv6Protocol)
}

const place = "arrival" // namespace, pool and category

func (e exposure) service() *corev1.Service {
	stack := corev1.IPFamilyPolicySingleStack
	if len(e.families) > 1 {
		stack = corev1.IPFamilyPolicyRequireDualStack
	}
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: place, Name: e.name()},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": place}, IPFamilies: e.families, IPFamilyPolicy: &stack,
			Ports: []corev1.ServicePort{{Name: "echo", Protocol: e.protocol, Port: lab.EchoPort, TargetPort: intstr.FromInt32(lab.EchoPort)}},
		},
	}
}

func (e exposure) policy() *v1alpha1.NodePortPolicy {
	p := &v1alpha1.NodePortPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: place, Name: e.name()},
		Spec: v1alpha1.NodePortPolicySpec{
			Category: place, ServiceRef: v1alpha1.ServiceReference{Name: e.name()},
			Ports:                 []v1alpha1.PolicyPort{{Name: "echo", NodePort: int32(e.number)}},
			Sources:               []v1alpha1.Source{{CIDR: office4}, {CIDR: office6}},
			ExternalTrafficPolicy: v1alpha1.TrafficCluster,
			Gateways:              &v1alpha1.Gateways{Mode: v1alpha1.GatewaysDistributed, NodeSelector: named("n1", "n3")},
		},
	}
	if e.centralized {
		p.Spec.Gateways = &v1alpha1.Gateways{Mode: v1alpha1.GatewaysCentralized, NodeSelector: named("n1", "n2", "n3")}
	}
	if e.local {
		p.Spec.ExternalTrafficPolicy = v1alpha1.TrafficLocal
	}
	if e.affine {
		p.Spec.SessionAffinity = &v1alpha1.SessionAffinity{ClientIPTimeoutSeconds: remembered}
	}
	if e.inPlace {
		p.Spec.Service = v1alpha1.ServiceInPlace
	}
	return p
}

// named selects nodes.
func named(nodes ...string) *v1alpha1.LabelSelector {
	return &v1alpha1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: corev1.LabelHostname, Operator: metav1.LabelSelectorOpIn, Values: nodes}}}
}

func (w *world) pool() *v1alpha1.NodePortPool {
	return &v1alpha1.NodePortPool{
		ObjectMeta: metav1.ObjectMeta{Name: place},
		Spec: v1alpha1.NodePortPoolSpec{
			Category: place, Team: place, Ranges: []v1alpha1.PortRange{v1alpha1.PortRange(fmt.Sprintf("%d-%d", firstNumber, changeNumber-1))},
			AllocateTo: v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{place}},
			CoolDown:   &metav1.Duration{Duration: 0}, Hold: ptr.To(false), // each has its own number
		},
	}
}
