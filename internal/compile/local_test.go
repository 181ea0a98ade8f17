package compile

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// endpoint of a node; how is a word of: not-ready, going (and serves), gone (and does not).
func endpoint(node, how string) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{NodeName: &node, Addresses: []string{"10.244.0.9"}}
	switch how {
	case "not-ready":
		e.Conditions = discoveryv1.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(false), Terminating: ptr.To(false)}
	case "going":
		e.Conditions = discoveryv1.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(true), Terminating: ptr.To(true)}
	case "gone":
		e.Conditions = discoveryv1.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(false), Terminating: ptr.To(true)}
	case "ready":
		e.Conditions = discoveryv1.EndpointConditions{Ready: ptr.To(true)}
	}
	return e
}

// sliceOf the companion's port https over TCP, in IPv4.
func sliceOf(endpoints ...discoveryv1.Endpoint) discoveryv1.EndpointSlice {
	return discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "shop-nodeport-x", Annotations: map[string]string{"a": "b"},
			Labels: map[string]string{discoveryv1.LabelServiceName: "shop-nodeport", "app": "shop"},
		},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints,
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: ptr.To(int32(8443)), Protocol: ptr.To(corev1.ProtocolTCP), AppProtocol: ptr.To("h2")}},
	}
}

// podsOn has the policy's number be Local, with those endpoints.
func (s *Seen) podsOn(all ...discoveryv1.EndpointSlice) {
	s.Allocations[0].Spec.LocalOnly = true
	s.Endpoints = EndpointsOf(all)
}

// kube-proxy leads to a pod of its own node that is ready, or going and still serves.
func TestEndpointsAreThoseThatKubeProxyUses(t *testing.T) {
	for how, want := range map[string]bool{"": true, "ready": true, "not-ready": false, "going": true, "gone": false} {
		all := []discoveryv1.EndpointSlice{sliceOf(endpoint("b", "not-ready"), endpoint("a", how))}
		carrier := healthy().Companion
		on := func(node, address string, protocol v1alpha1.Protocol) bool {
			return EndpointsOf(all).on(node, carrier, 30007, netip.MustParseAddr(address), protocol)
		}
		if got := on("a", "10.0.0.1", "TCP"); got != want {
			t.Errorf("%q: %v", how, got)
		}
		if on("b", "10.0.0.1", "TCP") || on("a", "2001:db8::1", "TCP") || on("a", "10.0.0.1", "UDP") {
			t.Errorf("%q: another node, family or protocol is served", how)
		}
		slim := []discoveryv1.EndpointSlice{*Slim(all[0].DeepCopy())}
		if !reflect.DeepEqual(EndpointsOf(slim), EndpointsOf(all)) {
			t.Errorf("%q: slim it says something else", how)
		}
	}
	headless := sliceOf(endpoint("a", ""))
	headless.Ports[0].Port = nil
	if len(EndpointsOf([]discoveryv1.EndpointSlice{headless})) > 0 {
		t.Error("a port without a number is served")
	}
}

// What is kept of a slice grows with the nodes, and is the same until another node has a
// pod.
func TestASlimSliceTellsNodesApartAndNothingElse(t *testing.T) {
	one, two := sliceOf(endpoint("b", ""), endpoint("a", "")), sliceOf(endpoint("a", "ready"), endpoint("a", "going"), endpoint("b", ""), endpoint("c", "gone"))
	two.Endpoints[0].Addresses, two.ManagedFields = []string{"10.244.0.10"}, []metav1.ManagedFieldsEntry{{Manager: "m"}}
	if !reflect.DeepEqual(Slim(&one), Slim(&two)) || len(one.Endpoints) != 2 || one.Endpoints[0].Addresses != nil || len(one.Labels) != 1 || one.Annotations != nil {
		t.Errorf("%+v\n%+v", one, two)
	}
}

func TestOnlyNodesWithAPodAnswer(t *testing.T) {
	ipv6 := sliceOf(endpoint("b", ""))
	ipv6.AddressType = discoveryv1.AddressTypeIPv6
	for _, c := range []struct {
		name  string
		spoil func(*Seen)
		want  string // addresses
		said  string // of Exposed
	}{
		{"Cluster", func(*Seen) {}, "10.0.0.1:30007 [2001:db8::b]:30007", "carries the ports"},
		{"on both", func(s *Seen) { s.podsOn(sliceOf(endpoint("a", ""), endpoint("b", ""))) }, "10.0.0.1:30007", "carries the ports"},
		{"on one", func(s *Seen) { s.podsOn(sliceOf(endpoint("b", ""))) }, "10.0.0.1:30007", "carries the ports"},
		{"on one, by both families", func(s *Seen) { s.podsOn(sliceOf(endpoint("b", "")), ipv6) }, "10.0.0.1:30007 [2001:db8::b]:30007", "carries the ports"},
		{"nowhere", func(s *Seen) { s.podsOn() }, "", "no pod is ready for port 30007"},
		{"on a node that is none of those that answer", func(s *Seen) { s.podsOn(sliceOf(endpoint("c", ""))) }, "", "NoEndpoints none of the nodes that answer on port 30007"},
		{"on a node that is not Ready", func(s *Seen) { s.podsOn(sliceOf(endpoint("a", ""))); notReady(&s.Nodes[0]) }, "", "NoEndpoints none of the nodes"},
		{"on no gateway", func(s *Seen) {
			s.gateways(gatewaySet("60", "a"))
			s.podsOn(sliceOf(endpoint("b", "")))
		}, "", "NoEndpoints no active gateway has a ready pod for port 30007"},
		{"on the gateway", func(s *Seen) {
			s.gateways(gatewaySet("60", "b"))
			s.podsOn(sliceOf(endpoint("b", "")))
		}, "10.0.0.1:30007", "carries the ports"},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := healthy()
			for i := range seen.Nodes { // each has one of IPv4, b one of IPv6 besides
				seen.Nodes[i].Status.Addresses = nil
			}
			address(corev1.NodeInternalIP, "10.0.0.1")(&seen.Nodes[1])
			address(corev1.NodeInternalIP, "2001:db8::b")(&seen.Nodes[1])
			if strings.HasPrefix(c.name, "on both") {
				address(corev1.NodeInternalIP, "fd00::a")(&seen.Nodes[0])
			}
			c.spoil(&seen)
			got, _ := seen.sight().addresses(seen.Policy, seen.open())
			if strings.Join(got, " ") != c.want {
				t.Errorf("addresses %v, want %s", got, c.want)
			}
			if g := seen.exposed(); !strings.Contains(g.reason+" "+g.message, c.said) {
				t.Errorf("exposed: %s %s", g.reason, g.message)
			}
		})
	}
}

// A proxy's file names the nodes that have a pod, by the protocol for which they have
// one; where nobody has, it stays as it was.
func TestFrontsNameNodesWithAPod(t *testing.T) {
	seen := healthy()
	seen.podsOn(sliceOf(endpoint("b", "")))
	want := &v1alpha1.ProxyFront{ConfigMap: "web"}
	f := Front{Policy: seen.Policy, Allocations: seen.Allocations, Sight: seen.sight()}
	f.Policy.Spec.Front = &v1alpha1.Front{Nginx: want}
	one := f.Nginx(want, nil)
	if nodes := one.Annotations[v1alpha1.AnnotationFrontNodes]; nodes != "b" || one.Why != nil {
		t.Errorf("it names %q, and says %+v", nodes, one.Why)
	}
	f.Sight.Endpoints = nil
	none := f.Nginx(want, one.ConfigMap(nil))
	if !none.Unwritten || none.Why == nil || none.Why.Reason != v1alpha1.ReasonNoEndpoints {
		t.Errorf("without a pod: unwritten %v, %+v", none.Unwritten, none.Why)
	}
	f.Sight.Endpoints = EndpointsOf([]discoveryv1.EndpointSlice{sliceOf(endpoint("c", ""))})
	if moved := f.Nginx(want, one.ConfigMap(nil)); moved.Unwritten || moved.Annotations[v1alpha1.AnnotationFrontNodes] != "" {
		t.Errorf("with a pod where nobody answers it names %q", moved.Annotations[v1alpha1.AnnotationFrontNodes])
	}

	// TCP and UDP on one number, with a pod each, on two nodes.
	a := &f.Allocations[0]
	a.Spec.Protocols = []v1alpha1.Protocol{"TCP", "UDP"}
	a.Spec.Ports = append(a.Spec.Ports, v1alpha1.ClaimedPort{Protocol: "UDP", Name: "quic", Port: 443, Sources: a.Spec.Ports[0].Sources})
	f.Sight.Companion.Spec.Ports = append(f.Sight.Companion.Spec.Ports, corev1.ServicePort{Name: "quic", Protocol: "UDP", Port: 443, NodePort: 30007})
	quic := sliceOf(endpoint("b", ""))
	quic.Ports[0].Name, quic.Ports[0].Protocol = ptr.To("quic"), ptr.To(corev1.ProtocolUDP)
	f.Sight.Endpoints = EndpointsOf([]discoveryv1.EndpointSlice{sliceOf(endpoint("a", "")), quic})
	picked := f.pick("", Listed{})
	listeners, _ := f.listeners(picked)
	if len(picked) != 2 || len(listeners) != 2 {
		t.Fatalf("%d nodes, %d listeners", len(picked), len(listeners))
	}
	for _, l := range listeners {
		want := map[string]string{"TCP": "a", "UDP": "b"}[string(l.Protocol)]
		if len(l.Servers) != 1 || l.Servers[0].Name != want {
			t.Errorf("%s: %+v, want %s", l.Protocol, l.Servers, want)
		}
	}
}

// Whether a number is Local is what the policy says, and in place, where it is silent,
// what the Service says by itself.
func TestAllocationsSayWhetherTheirServiceIsLocal(t *testing.T) {
	lent := func(was, is corev1.ServiceExternalTrafficPolicy) *corev1.Service {
		s := withTraffic(serving("NodePort", "https/443/30004"), was, 0)
		lend(s, "shop", traffic{policy: is})
		return s
	}
	for _, c := range []struct {
		name    string
		mode    v1alpha1.ServiceMode
		policy  v1alpha1.ExternalTrafficPolicy
		service *corev1.Service
		want    bool
	}{
		{"a silent policy has a companion with Cluster", "", "", withTraffic(serving("NodePort", "https/443/30004"), "Local", 0), false},
		{"Local", "", "Local", serving("ClusterIP"), true},
		{"Cluster", "Companion", "Cluster", serving("ClusterIP"), false},
		{"in place, silent", "InPlace", "", withTraffic(serving("NodePort", "https/443/30004"), "Local", 0), true},
		{"in place, silent, and the Service says nothing", "InPlace", "", serving("ClusterIP"), false},
		{"in place, and the policy has the word", "InPlace", "Cluster", withTraffic(serving("NodePort", "https/443/30004"), "Local", 0), false},
		{"in place, silent by now, on the way back to Cluster", "InPlace", "", lent("Cluster", "Local"), false},
		{"in place, silent by now, on the way back to Local", "InPlace", "", lent("Local", "Cluster"), true},
	} {
		policy := &v1alpha1.NodePortPolicy{Spec: v1alpha1.NodePortPolicySpec{Service: c.mode, ExternalTrafficPolicy: c.policy}}
		if got := localOnly(policy, c.service); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	spec := closed(v1alpha1.NodePortAllocationSpec{State: v1alpha1.AllocationOpen, LocalOnly: true}, metav1.NewMicroTime(clock))
	if spec.LocalOnly {
		t.Error("a closed number is Local")
	}
}

// A node refuses for want of a pod only where it may, only what is Local, and only whom
// it would let in.
func TestNodesRefuseForWantOfAPodOnlyWhereTheyMay(t *testing.T) {
	local := func(name string, change func(*v1alpha1.NodePortAllocationSpec)) *v1alpha1.NodePortAllocation {
		a := &v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.NodePortAllocationSpec{
			State: v1alpha1.AllocationOpen, LocalOnly: true, Protocols: []v1alpha1.Protocol{"TCP"},
			Ports: []v1alpha1.ClaimedPort{{Protocol: "TCP", Port: 443, Sources: []v1alpha1.CIDR{"10.8.0.0/16"}}},
		}}
		change(&a.Spec)
		return a
	}
	nothing := func(*v1alpha1.NodePortAllocationSpec) {}
	in := NodeInput{Node: "a", Refuses: true, Allocations: ObjectsOf(
		local("30000", nothing),
		local("30001", func(s *v1alpha1.NodePortAllocationSpec) { s.LocalOnly = false }),
		local("30002", func(s *v1alpha1.NodePortAllocationSpec) { s.Ports[0].Sources = nil }),
		local("30003", func(s *v1alpha1.NodePortAllocationSpec) { s.State, s.Grandfathered = v1alpha1.AllocationForeign, true }),
		local("30004", func(s *v1alpha1.NodePortAllocationSpec) { s.State = v1alpha1.AllocationClosed }),
		local("30005", func(s *v1alpha1.NodePortAllocationSpec) { s.Gateways = &v1alpha1.ClaimedGateways{Set: "gw", Active: 1} }),
		local("30006", func(s *v1alpha1.NodePortAllocationSpec) {
			s.NodeSelector = &v1alpha1.LabelSelector{MatchLabels: map[string]string{"role": "edge"}}
		}),
	)}
	compiler := new(NodeCompiler)
	for _, c := range []struct{ refuses, lockdown bool }{{true, false}, {false, false}, {true, true}, {true, false}} {
		in.Refuses, in.Installation = c.refuses, &v1alpha1.Portreeve{Spec: v1alpha1.PortreeveSpec{Lockdown: c.lockdown}}
		set, _ := compiler.Compile(in)
		if scratch, _ := Node(in); !scratch.Equal(set) {
			t.Errorf("%+v: another set from scratch", c)
		}
		for number := uint16(30000); number < 30007; number++ {
			want := number == 30000 && c.refuses && !c.lockdown
			if got := set.Ports.Get(rule.Port{Protocol: rule.TCP, Number: number}).Local; got != want {
				t.Errorf("%+v: %d is Local: %v", c, number, got)
			}
		}
		if !compiler.Local() {
			t.Error("nobody asked for it")
		}
	}
	in.Allocations = ObjectsOf(local("30001", func(s *v1alpha1.NodePortAllocationSpec) { s.LocalOnly = false }))
	compiler.Compile(in)
	if compiler.Local() {
		t.Error("somebody still asks for it")
	}
}
