package compile

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

func TestHoldsHaveOneName(t *testing.T) {
	for number, want := range map[uint16]string{1: "portreeve-hold-0", 99: "portreeve-hold-0", 100: "portreeve-hold-1", 30099: "portreeve-hold-300", 30100: "portreeve-hold-301", 65535: "portreeve-hold-655"} {
		if got := HoldOf(number); got != want {
			t.Errorf("HoldOf(%d) = %q, want %q", number, got, want)
		}
	}
	for name, want := range map[string]string{
		"portreeve-hold-0": "1-99", "portreeve-hold-1": "100-199", "portreeve-hold-300": "30000-30099", "portreeve-hold-655": "65500-65535",
		"portreeve-hold-656": "", "portreeve-hold-": "", "portreeve-hold-x": "", "portreeve-hold-0300": "", "portreeve-hold--1": "", "portreeve-hold-+3": "", "hold-300": "", "portreeve-hold-300-a": "",
	} {
		got := ""
		if first, last, ok := HoldBlock(name); ok {
			got = fmt.Sprintf("%d-%d", first, last)
		}
		if got != want {
			t.Errorf("HoldBlock(%q) = %q, want %q", name, got, want)
		}
	}
	for n := uint16(1); n != 0; n++ { // past 65535 it is 0
		if first, last, ok := HoldBlock(HoldOf(n)); !ok || n < first || n > last || last-first >= holdSize {
			t.Fatalf("%d is not in its block %d-%d", n, first, last)
		}
	}
}

func TestAHoldIsNamedLabelledAndOurs(t *testing.T) {
	hold := Hold("portreeve-system", "portreeve-hold-300", []uint16{30001}, nil)
	if !IsHold(hold, "portreeve-system") || IsHold(hold, "shop") {
		t.Errorf("IsHold does not know %+v", hold.ObjectMeta)
	}
	for name, spoil := range map[string]func(*corev1.Service){
		"without the label": func(s *corev1.Service) { s.Labels = nil },
		"by another name":   func(s *corev1.Service) { s.Name = "squatter" },
	} {
		other := hold.DeepCopy()
		if spoil(other); IsHold(other, "portreeve-system") {
			t.Errorf("%s it counts as a hold", name)
		}
	}
}

func TestHoldKeepsNumbersFromEverybody(t *testing.T) {
	numbers := []uint16{30007, 30001, 30099}
	hold := Hold("portreeve-system", "portreeve-hold-300", numbers, nil)
	if !slices.Equal(numbers, []uint16{30007, 30001, 30099}) {
		t.Error("the input was changed")
	}
	if hold.Spec.Type != corev1.ServiceTypeNodePort || hold.Spec.Selector != nil || hold.Labels["service.kubernetes.io/service-proxy-name"] != "portreeve.dev" {
		t.Errorf("hold %+v", hold)
	}
	if got := portsOf(hold); !slices.Equal(got, []string{"30001/TCP 30001 hold-30001 -> 30001", "30007/TCP 30007 hold-30007 -> 30007", "30099/TCP 30099 hold-30099 -> 30099"}) {
		t.Errorf("ports %q", got)
	}
	have := hold.DeepCopy()
	have.UID, have.ResourceVersion, have.Spec.ClusterIP = "h1", "77", "10.96.0.9"
	have.Annotations["note"], have.Labels["team"] = "of a person", "platform"
	if again := Hold("portreeve-system", "portreeve-hold-300", numbers, have); !equality.Semantic.DeepEqual(again, have) {
		t.Errorf("settled, and yet changed:\n%+v\n%+v", have, again)
	}
	have.Spec.Selector, have.Labels = map[string]string{"app": "x"}, nil
	mended := Hold("portreeve-system", "portreeve-hold-300", []uint16{30002}, have)
	if mended.Spec.Selector != nil || !IsHold(mended, "portreeve-system") || mended.UID != "h1" || len(Held(mended)) != 1 || len(Held(mended)[30002]) != 1 {
		t.Errorf("mended %+v", mended)
	}
	if len(have.Spec.Ports) != 3 || have.Labels != nil {
		t.Error("the input was changed")
	}
	if Hold("portreeve-system", "portreeve-hold-300", nil, have) != nil {
		t.Error("nothing to hold, and yet a hold")
	}
}

// What is asked for is what is held, to the ends of the range, and the API server
// takes it.
func TestHoldRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		block := HoldOf(rapid.SampledFrom([]uint16{1, 99, 30000, 65535}).Draw(t, "block"))
		first, last, _ := HoldBlock(block)
		numbers := rapid.SliceOfNDistinct(rapid.Uint16Range(first, last), 1, 100, rapid.ID).Draw(t, "numbers")
		hold := Hold("portreeve-system", block, numbers, nil)
		held, names := Held(hold), map[string]bool{}
		if len(held) != len(numbers) {
			t.Fatalf("holds %d of %d", len(held), len(numbers))
		}
		for _, p := range hold.Spec.Ports {
			if names[p.Name] || p.Port < 1 || p.Port > 65535 || len(p.Name) > 63 || !slices.Contains(numbers, uint16(p.NodePort)) {
				t.Fatalf("port %+v", p)
			}
			names[p.Name] = true
		}
	})
}

func TestMayHold(t *testing.T) {
	pool := aged("web", 1, "30000-30009")
	pool.Spec.Reserved = []v1alpha1.ReservedPorts{{Ports: "30008", Reason: "legacy"}}
	loose := aged("loose", 1, "30100-30109")
	loose.Spec.Hold = ptr.To(false)
	pools := Owned([]v1alpha1.NodePortPool{pool, loose}, Limits{})
	service := serving(corev1.ServiceTypeClusterIP, "https/443/0")
	companion := func(a *v1alpha1.NodePortAllocation) { a.Spec.Carrier = v1alpha1.ServiceCompanion }
	foreign := func(a *v1alpha1.NodePortAllocation) {
		a.Spec.State, a.Spec.Carrier = v1alpha1.AllocationForeign, ""
	}
	allocation := func(text string, changes ...func(*v1alpha1.NodePortAllocation)) *v1alpha1.NodePortAllocation {
		return ptr.To(carried(text, changes...))
	}
	for _, c := range []struct {
		name            string
		number          uint16
		allocation      *v1alpha1.NodePortAllocation
		claimed, holder *corev1.Service
		want            bool
	}{
		{"a free number", 30004, nil, nil, nil, true},
		{"a number of no pool", 30010, nil, nil, nil, false},
		{"a reserved number", 30008, nil, nil, nil, false},
		{"a free number of a pool that holds none", 30104, nil, nil, nil, false},
		{"a number that a Service has", 30004, nil, nil, service, false},
		{"an open number, which its companion is about to take", 30004, allocation("30004 Open https/443", companion), service, nil, false},
		{"a closed number, which its companion has", 30004, allocation("30004 Closed https/443", companion), service, nil, false},
		{"a number of somebody we can't see", 30004, allocation("30004 Open https/443", foreign), nil, nil, false},
		{"an open number in place, which its Service is about to take", 30004, allocation("30004 Open https/443"), service, nil, false},
		{"an open number in place whose Service is gone", 30004, allocation("30004 Open https/443"), nil, nil, true},
		{"a closed number in place that was taken from its Service", 30004, allocation("30004 Closed https/443"), service, nil, true},
		{"a closed number in place whose Service is gone", 30004, allocation("30004 Closed https/443"), nil, nil, true},
		{"a closed number in place that its Service still has", 30004, allocation("30004 Closed https/443", ofTheService), service, service, false},
		{"a closed number in place of a pool that holds none", 30104, allocation("30104 Closed https/443"), nil, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := MayHold(pools, c.number, c.allocation, c.claimed, c.holder); got != c.want {
				t.Errorf("MayHold = %v", got)
			}
		})
	}
}

func TestUndeclared(t *testing.T) {
	pool := aged("web", 1, "30000-30009")
	pool.Spec.Reserved = []v1alpha1.ReservedPorts{{Ports: "30008", Reason: "legacy"}}
	service := func(namespace, name string, kind corev1.ServiceType, health int32, ports ...int32) *corev1.Service {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{Type: kind, HealthCheckNodePort: health}}
		for _, n := range ports {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: n - 29000, NodePort: n})
		}
		return s
	}
	services := []*corev1.Service{
		service("till", "b", corev1.ServiceTypeNodePort, 0, 31000, 30004),
		service("till", "a", corev1.ServiceTypeLoadBalancer, 30009, 31001),
		service("bank", "reserved", corev1.ServiceTypeNodePort, 0, 30008),
		service("shop", "elsewhere", corev1.ServiceTypeNodePort, 0, 32000),
		service("bank", "elsewhere", corev1.ServiceTypeNodePort, 0, 32001),
		service("shop", "internal", corev1.ServiceTypeClusterIP, 0),
	}
	var got []string
	for _, u := range Undeclared(Owned([]v1alpha1.NodePortPool{pool}, Limits{})[0], services, func(namespace string) bool { return namespace == "shop" }) {
		got = append(got, fmt.Sprint(u.Service, " ", u.Type, " ", u.NodePorts))
	}
	want := []string{"bank/reserved NodePort [30008]", "shop/elsewhere NodePort [32000]", "till/a LoadBalancer [30009 31001]", "till/b NodePort [30004 31000]"}
	if !slices.Equal(got, want) {
		t.Errorf("undeclared\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// kube-proxy serves a node's address as an external one before it serves node ports.
func TestHijacks(t *testing.T) {
	nodes := map[string]bool{"192.0.2.1": true, "2001:db8::1": true, "node-a": true}
	service := func(external []string, ingress ...corev1.LoadBalancerIngress) *corev1.Service {
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "bank", Name: "grab"}}
		s.Spec.Ports = []corev1.ServicePort{{Port: 80}, {Port: 30080, Protocol: corev1.ProtocolUDP}, {Port: 30443}}
		s.Spec.ExternalIPs, s.Status.LoadBalancer.Ingress = external, ingress
		return s
	}
	for _, c := range []struct {
		name      string
		service   *corev1.Service
		number    uint16
		protocols []v1alpha1.Protocol
		want      string
	}{
		{"an external IP that is a node's", service([]string{"203.0.113.1", "192.0.2.1"}), 30443, []v1alpha1.Protocol{"TCP"}, "Service bank/grab, externalIPs 192.0.2.1 port 30443"},
		{"spelled otherwise", service([]string{"2001:DB8:0::1"}), 30443, []v1alpha1.Protocol{"TCP"}, "Service bank/grab, externalIPs 2001:DB8:0::1 port 30443"},
		{"of another protocol", service([]string{"192.0.2.1"}), 30443, []v1alpha1.Protocol{"UDP"}, ""},
		{"of one of the protocols", service([]string{"192.0.2.1"}), 30080, []v1alpha1.Protocol{"TCP", "UDP"}, "Service bank/grab, externalIPs 192.0.2.1 port 30080"},
		{"of another port", service([]string{"192.0.2.1"}), 30081, []v1alpha1.Protocol{"TCP"}, ""},
		{"an external IP that is nobody's", service([]string{"203.0.113.1"}), 30443, []v1alpha1.Protocol{"TCP"}, ""},
		{"a load balancer's address that is a node's", service(nil, corev1.LoadBalancerIngress{IP: "192.0.2.1"}), 30443, []v1alpha1.Protocol{"TCP"}, "Service bank/grab, load balancer address 192.0.2.1 port 30443"},
		{"which it has for itself", service(nil, corev1.LoadBalancerIngress{IP: "192.0.2.1", IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)}), 30443, []v1alpha1.Protocol{"TCP"}, "Service bank/grab, load balancer address 192.0.2.1 port 30443"},
		{"which it only passes through", service(nil, corev1.LoadBalancerIngress{IP: "192.0.2.1", IPMode: ptr.To(corev1.LoadBalancerIPModeProxy)}), 30443, []v1alpha1.Protocol{"TCP"}, ""},
		{"a load balancer by name only", service(nil, corev1.LoadBalancerIngress{Hostname: "node-a"}), 30443, []v1alpha1.Protocol{"TCP"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Hijacks(c.service, c.number, c.protocols, nodes); got != c.want {
				t.Errorf("Hijacks = %q, want %q", got, c.want)
			}
		})
	}
}
