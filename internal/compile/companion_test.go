package compile

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// portsOf describes the ports of a companion, in order.
func portsOf(s *corev1.Service) (out []string) {
	for _, p := range s.Spec.Ports {
		out = append(out, fmt.Sprintf("%d/%s %d %s -> %s", p.NodePort, p.Protocol, p.Port, p.Name, p.TargetPort.String()))
	}
	return out
}

func TestCompanionBelongsToItsAllocations(t *testing.T) {
	seen := healthy()
	seen.second("30008").UID = "u2"
	seen.close(1)
	got := Companion("shop", "shop", seen.Allocations, seen.Service, nil)
	if got.Namespace != "shop" || got.Name != "shop-nodeport" || got.Labels[v1alpha1.LabelPolicy] != "shop" || got.Spec.Type != corev1.ServiceTypeNodePort {
		t.Errorf("companion %+v", got)
	}
	var names []string
	for _, o := range got.OwnerReferences {
		names = append(names, o.APIVersion+" "+o.Kind+" "+o.Name+" "+string(o.UID))
		// A blocking owner would let the garbage collector hold up deletions.
		if o.Controller != nil || o.BlockOwnerDeletion != nil {
			t.Errorf("owner %+v", o)
		}
	}
	if want := []string{"portreeve.dev/v1alpha1 NodePortAllocation 30007 u1", "portreeve.dev/v1alpha1 NodePortAllocation 30008 u2"}; !slices.Equal(names, want) {
		t.Errorf("owners %q, want %q", names, want)
	}
	if !IsCompanion(got, "shop") || IsCompanion(got, "other") {
		t.Error("IsCompanion does not know its own")
	}
	if Companion("shop", "shop", nil, seen.Service, got) != nil {
		t.Error("without allocations there is a companion")
	}
}

func TestCompanionCopiesWhatTheServiceDecides(t *testing.T) {
	seen := healthy()
	seen.Service.Spec.PublishNotReadyAddresses = true
	seen.Service.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}
	seen.Service.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
	seen.Service.Spec.Ports[0].AppProtocol = ptr.To("https")
	seen.Service.Spec.Ports[0].TargetPort = intstr.FromString("web")
	got := Companion("shop", "shop", seen.Allocations, seen.Service, nil).Spec
	if got.Selector["app"] != "shop" || !got.PublishNotReadyAddresses ||
		!slices.Equal(got.IPFamilies, seen.Service.Spec.IPFamilies) || *got.IPFamilyPolicy != corev1.IPFamilyPolicyRequireDualStack {
		t.Errorf("spec %+v", got)
	}
	if p := got.Ports[0]; p.TargetPort.StrVal != "web" || p.AppProtocol == nil || *p.AppProtocol != "https" || p.Name != "https" || p.Port != 443 || p.NodePort != 30007 {
		t.Errorf("port %+v", p)
	}
}

func TestCompanionKeepsWhatItDoesNotDecide(t *testing.T) {
	seen := healthy()
	have := Companion("shop", "shop", seen.Allocations, seen.Service, nil)
	have.UID, have.ResourceVersion = "c1", "77"
	have.Annotations = map[string]string{"note": "of a person"}
	have.Labels["team"] = "payments"
	have.Spec.ClusterIP, have.Spec.ClusterIPs = "10.96.0.9", []string{"10.96.0.9"}
	have.Spec.TrafficDistribution = ptr.To(corev1.ServiceTrafficDistributionPreferSameZone)
	before := have.DeepCopy()
	if got := Companion("shop", "shop", seen.Allocations, seen.Service, have); !equality.Semantic.DeepEqual(got, have) {
		t.Errorf("settled, and yet changed:\n%+v\n%+v", have, got)
	}
	around := have.DeepCopy()
	around.Spec.ExternalIPs = []string{"192.0.2.1"} // past the node ports, where nobody filters
	if got := Companion("shop", "shop", seen.Allocations, seen.Service, around); !equality.Semantic.DeepEqual(got, have) {
		t.Errorf("external IPs %v stay", got.Spec.ExternalIPs)
	}
	seen.close(0)
	got := Companion("shop", "shop", seen.Allocations, seen.Service, have)
	if !equality.Semantic.DeepEqual(have, before) {
		t.Error("the input was changed")
	}
	if got.UID != "c1" || got.ResourceVersion != "77" || got.Annotations["note"] == "" || got.Labels["team"] == "" ||
		got.Spec.ClusterIP != "10.96.0.9" || *got.Spec.TrafficDistribution != corev1.ServiceTrafficDistributionPreferSameZone {
		t.Errorf("lost: %+v", got)
	}
}

// A number that rests is held where nobody can use it: no selector, and kube-proxy
// does not see the Service, because endpoints outlive a selector.
func TestCompanionThatOnlyHoldsIsHiddenFromKubeProxy(t *testing.T) {
	const label, value = "service.kubernetes.io/service-proxy-name", "portreeve.dev"
	for _, c := range []struct {
		name   string
		spoil  func(*Seen)
		hidden bool
	}{
		{"open", func(*Seen) {}, false},
		{"one of two is open", func(s *Seen) { s.second("30008"); s.close(0) }, false},
		{"all closed", func(s *Seen) { s.second("30008"); s.close(0); s.close(1) }, true},
		{"the Service is missing", func(s *Seen) { s.Service = nil }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := healthy()
			have := Companion("shop", "shop", seen.Allocations, seen.Service, nil)
			c.spoil(&seen)
			for _, have := range []*corev1.Service{nil, have} {
				got := Companion("shop", "shop", seen.Allocations, seen.Service, have)
				if hidden := got.Labels[label] == value; hidden != c.hidden || (len(got.Spec.Selector) == 0) != c.hidden {
					t.Errorf("labels %v, selector %v", got.Labels, got.Spec.Selector)
				}
				for i := range seen.Allocations {
					if n := NumberOf(&seen.Allocations[i]); len(Held(got)[n]) == 0 {
						t.Errorf("%d is not held", n)
					}
				}
				healed := healthy()
				back := Companion("shop", "shop", healed.Allocations, healed.Service, got)
				if _, hidden := back.Labels[label]; hidden || back.Spec.Selector["app"] != "shop" {
					t.Errorf("does not come back: labels %v, selector %v", back.Labels, back.Spec.Selector)
				}
			}
		})
	}
}

func TestCompanionKeepsTheTargetOfAPortThatTheServiceLost(t *testing.T) {
	seen := healthy()
	have := Companion("shop", "shop", seen.Allocations, seen.Service, nil)
	seen.Service.Spec.Ports = []corev1.ServicePort{{Name: "other", Port: 80}}
	if got := portsOf(Companion("shop", "shop", seen.Allocations, seen.Service, have)); !slices.Equal(got, []string{"30007/TCP 443 https -> 8443"}) {
		t.Errorf("ports %q", got)
	}
	if got := portsOf(Companion("shop", "shop", seen.Allocations, nil, have)); !slices.Equal(got, []string{"30007/TCP 443 https -> 8443"}) {
		t.Errorf("ports without a Service %q", got)
	}
}

func TestCompanionKeepsItsFirstFamily(t *testing.T) {
	four, six := corev1.IPv4Protocol, corev1.IPv6Protocol
	for _, c := range []struct {
		name          string
		have, service []corev1.IPFamily
		want          []corev1.IPFamily
		addresses     int
	}{
		{"a second family comes", []corev1.IPFamily{four}, []corev1.IPFamily{four, six}, []corev1.IPFamily{four, six}, 1},
		{"the second family goes", []corev1.IPFamily{four, six}, []corev1.IPFamily{four}, []corev1.IPFamily{four}, 1},
		{"the first family can't change", []corev1.IPFamily{four}, []corev1.IPFamily{six}, []corev1.IPFamily{four}, 1},
		{"nor can their order", []corev1.IPFamily{four, six}, []corev1.IPFamily{six, four}, []corev1.IPFamily{four, six}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := healthy()
			have := Companion("shop", "shop", seen.Allocations, seen.Service, nil)
			have.Spec.IPFamilies = c.have
			have.Spec.ClusterIPs = []string{"10.96.0.9", "2001:db8::9"}[:len(c.have)]
			seen.Service.Spec.IPFamilies = c.service
			got := Companion("shop", "shop", seen.Allocations, seen.Service, have).Spec
			if !slices.Equal(got.IPFamilies, c.want) || len(got.ClusterIPs) != c.addresses {
				t.Errorf("families %v, addresses %v", got.IPFamilies, got.ClusterIPs)
			}
		})
	}
}

func TestCompanionGivesWayWhereTwoWantOnePort(t *testing.T) {
	seen := healthy()
	moving := seen.second("30005") // the same port, open on two numbers: a pin is changing
	moving.Spec.Ports = slices.Clone(moving.Spec.Ports)
	renamed := seen.second("30009") // another port, under a name that 30007 has not given up yet
	renamed.Spec.Ports = []v1alpha1.ClaimedPort{{Protocol: "TCP", Name: "https", Port: 80}}
	clash := seen.second("30010") // the port that a resting number would take
	clash.Spec.Ports = []v1alpha1.ClaimedPort{{Protocol: "TCP", Name: "odd", Port: 30011}}
	seen.second("30011")
	seen.close(4)
	got := portsOf(Companion("shop", "shop", seen.Allocations, seen.Service, nil))
	want := []string{
		"30005/TCP 443 https -> 8443",
		"30009/TCP 80 port-30009-tcp -> 80",
		"30010/TCP 30011 odd -> 30011",
		"30007/TCP 30007 closing-30007-tcp -> 30007",
		"30011/TCP 30012 closing-30011-tcp -> 30011",
	}
	if !slices.Equal(got, want) {
		t.Errorf("ports\n%q, want\n%q", got, want)
	}
}

// Whatever allocations a policy has, the API server takes their companion: names
// and (port, protocol) are unique, every number is there once for each protocol,
// and the order does not show.
func TestCompanionIsAlwaysValid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		own := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) v1alpha1.NodePortAllocation {
			a := *version(fmt.Sprint(rapid.IntRange(30000, 30005).Draw(t, "number")), "1")
			a.UID = types.UID(a.Name)
			a.Spec.State = rapid.SampledFrom([]v1alpha1.AllocationState{v1alpha1.AllocationOpen, v1alpha1.AllocationClosed}).Draw(t, "state")
			for _, protocol := range rapid.SampledFrom([][]v1alpha1.Protocol{{"TCP"}, {"UDP"}, {"TCP", "UDP"}}).Draw(t, "protocols") {
				a.Spec.Protocols = append(a.Spec.Protocols, protocol)
				a.Spec.Ports = append(a.Spec.Ports, v1alpha1.ClaimedPort{
					Protocol: protocol, Name: rapid.SampledFrom([]string{"", "http", "https"}).Draw(t, "name"), Port: rapid.SampledFrom([]int32{80, 443, 30000, 30001, 65535}).Draw(t, "port"),
				})
			}
			return a
		}), 1, 6, func(a v1alpha1.NodePortAllocation) string { return a.Name }).Draw(t, "own")
		got := Companion("shop", "shop", own, healthy().Service, nil)
		names, ports := map[string]bool{}, map[string]bool{}
		for _, p := range got.Spec.Ports {
			port := fmt.Sprintf("%d/%s", p.Port, p.Protocol)
			if p.Name == "" || names[p.Name] || ports[port] || p.Port < 1 || p.Port > 65535 {
				t.Fatalf("port %s %q of\n%q", port, p.Name, portsOf(got))
			}
			names[p.Name], ports[port] = true, true
		}
		want := map[uint16][]v1alpha1.Protocol{}
		for i := range own {
			want[NumberOf(&own[i])] = own[i].Spec.Protocols
		}
		if held := Held(got); !maps.EqualFunc(held, want, slices.Equal) {
			t.Fatalf("holds %v, want %v", held, want)
		}
		if again := Companion("shop", "shop", rapid.Permutation(own).Draw(t, "shuffled"), healthy().Service, nil); !equality.Semantic.DeepEqual(again, got) {
			t.Fatalf("the order shows:\n%q\n%q", portsOf(got), portsOf(again))
		}
		if again := Companion("shop", "shop", own, healthy().Service, got); !equality.Semantic.DeepEqual(again, got) {
			t.Fatalf("not settled:\n%q\n%q", portsOf(got), portsOf(again))
		}
	})
}

func TestHeld(t *testing.T) {
	service := &corev1.Service{Spec: corev1.ServiceSpec{
		HealthCheckNodePort: 30009,
		Ports: []corev1.ServicePort{
			{Port: 53, NodePort: 30053, Protocol: corev1.ProtocolUDP},
			{Port: 53, NodePort: 30053, Protocol: corev1.ProtocolTCP},
			{Port: 80, NodePort: 30080}, // what defaults to TCP
			{Port: 81},
		},
	}}
	want := map[uint16][]v1alpha1.Protocol{30053: {"TCP", "UDP"}, 30080: {"TCP"}, 30009: {"TCP"}}
	if got := Held(service); !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("Held = %v, want %v", got, want)
	}
}

func TestRefusedNumberIsForeign(t *testing.T) {
	seen := healthy()
	a := &seen.Allocations[0]
	nobody := Refused(a, nil)
	if nobody.State != v1alpha1.AllocationForeign || nobody.Claim != (v1alpha1.Claim{}) || nobody.Grandfathered || nobody.Ports != nil ||
		nobody.Pool != "web" || nobody.Team != "payments" || !slices.Equal(nobody.Protocols, []v1alpha1.Protocol{"TCP"}) {
		t.Errorf("held by nobody we see: %+v", nobody)
	}
	// Rules of ours may already be in the cloud: their revocation is waited for.
	if !slices.Equal(nobody.CloudFirewalls, a.Spec.CloudFirewalls) {
		t.Errorf("cloud firewalls %v", nobody.CloudFirewalls)
	}
	holder := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ledger", Name: "squatter"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{NodePort: 30007, Protocol: corev1.ProtocolUDP}}}}
	if got := Refused(a, holder); got.Claim != (v1alpha1.Claim{Namespace: "ledger", Service: "squatter"}) || !slices.Equal(got.Protocols, []v1alpha1.Protocol{"UDP"}) || got.Grandfathered {
		t.Errorf("held by a Service: %+v", got)
	}
}

// A copy of a companion, with its label and its owners, is another Service.
func TestACopyOfACompanionIsNone(t *testing.T) {
	seen := healthy()
	companion := Companion("shop", "shop", seen.Allocations, seen.Service, nil)
	companion.Name = "copy"
	if IsCompanion(companion, "shop") {
		t.Error("a copy under another name counts as the companion")
	}
}

// The Service may call its ports as it likes: being exposed is read from the companion.
func TestAPortNamedLikeAClosingOneIsExposed(t *testing.T) {
	seen := healthy()
	seen.Service.Spec.Ports[0].Name = "closing-bell"
	seen.Allocations[0].Spec.Ports[0].Name = "closing-bell"
	seen.Companion = Companion("shop", "shop", seen.Allocations, seen.Service, nil)
	if g := seen.exposed(); !g.passed {
		t.Errorf("not exposed: %s", g.message)
	}
}
