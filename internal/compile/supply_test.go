package compile

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

func TestSupplyIsWhatIsArmed(t *testing.T) {
	web, api := aged("web", 2, "30000-30009"), aged("api", 1, "30005-30019")
	web.Status.Armed, api.Status.Armed = []string{"30000-30004", "30008", "31000"}, []string{"30005-30019"}
	web.Spec.Reserved = []v1alpha1.ReservedPorts{{Ports: "30001", Reason: "legacy"}}
	web.Spec.Placement, web.Spec.Quota.PerNamespace = v1alpha1.PlacementBySource, 7
	api.Spec.Placement = v1alpha1.PlacementSpread
	supply := Supply(Owned([]v1alpha1.NodePortPool{api, web}, Limits{NodePorts: rule.NewPortRanges(rule.PortRange{First: 30000, Last: 30015})}))
	if len(supply) != 2 || supply[0].Name != "web" || supply[1].Name != "api" {
		t.Fatalf("supply %+v", supply)
	}
	if p := supply[0]; !slices.Equal(p.Ranges.Strings(), []string{"30000", "30002-30004", "30008"}) || p.Quota != 7 || !p.BySource || p.Used == nil {
		t.Errorf("web %+v", p)
	}
	if p := supply[1]; !slices.Equal(p.Ranges.Strings(), []string{"30010-30015"}) || p.Quota != 0 || p.BySource {
		t.Errorf("api %+v", p)
	}
}

// Equal keys mean equal cloud rules, so they say everything that a rule says but the
// number, and nothing else.
func TestSourceKey(t *testing.T) {
	port := func(change func(*v1alpha1.ClaimedPort)) []v1alpha1.ClaimedPort {
		p := v1alpha1.ClaimedPort{Protocol: "TCP", Name: "https", Port: 443, Sources: []v1alpha1.CIDR{"10.8.0.0/16"}}
		change(&p)
		return []v1alpha1.ClaimedPort{p}
	}
	plain := port(func(*v1alpha1.ClaimedPort) {})
	for _, c := range []struct {
		name  string
		ports []v1alpha1.ClaimedPort
		equal bool
	}{
		{"the same", port(func(*v1alpha1.ClaimedPort) {}), true},
		{"another port of the Service", port(func(p *v1alpha1.ClaimedPort) { p.Name, p.Port = "http", 80 }), true},
		{"beside a port that admits nobody", append(port(func(*v1alpha1.ClaimedPort) {}), v1alpha1.ClaimedPort{Protocol: "UDP", Port: 443}), true},
		{"another source", port(func(p *v1alpha1.ClaimedPort) { p.Sources = []v1alpha1.CIDR{"10.9.0.0/16"} }), false},
		{"another protocol", port(func(p *v1alpha1.ClaimedPort) { p.Protocol = "UDP" }), false},
		{"a set besides", port(func(p *v1alpha1.ClaimedPort) { p.AddressSets = []v1alpha1.ObjectName{"office"} }), false},
		{"everybody", port(func(p *v1alpha1.ClaimedPort) { p.World = true }), false},
		{"a second protocol besides", append(port(func(*v1alpha1.ClaimedPort) {}), v1alpha1.ClaimedPort{Protocol: "UDP", Sources: []v1alpha1.CIDR{"10.8.0.0/16"}}), false},
	} {
		if got := SourceKey(c.ports) == SourceKey(plain); got != c.equal {
			t.Errorf("%s: equal = %v", c.name, got)
		}
	}
	for name, ports := range map[string][]v1alpha1.ClaimedPort{"no port": nil, "nobody": {{Protocol: "TCP", Port: 443}}} {
		if got := SourceKey(ports); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := SourceKey([]v1alpha1.ClaimedPort{{Protocol: "TCP", World: true}}); got == "" {
		t.Error("everybody is nobody")
	}
	if got := (&Wish{}).SourceKey(Number{}); got != "" {
		t.Errorf("without a pool: %q", got)
	}
}

func TestRemembered(t *testing.T) {
	wanted := Number{Ports: []v1alpha1.ClaimedPort{{Protocol: "TCP", Name: "dns-tcp", Port: 53}, {Protocol: "UDP", Name: "dns", Port: 53}}}
	policy := &v1alpha1.NodePortPolicy{}
	policy.Status.Allocations = []v1alpha1.AllocatedPort{
		{Protocol: "UDP", Port: 53, NodePort: 30009}, {Protocol: "TCP", Port: 53, NodePort: 30005}, {Protocol: "TCP", Port: 80, NodePort: 30008}, {Protocol: "SCTP", Port: 53, NodePort: 30007},
	}
	carrier := &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{
		{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, NodePort: 30005},
		{Name: "dns-tcp", Port: 53, NodePort: 30004}, // what defaults to TCP
		{Name: "http", Port: 80, NodePort: 30001},
		{Name: "closing-30002-tcp", Port: 53, Protocol: corev1.ProtocolTCP, NodePort: 30002},
		{Name: "none", Port: 53, Protocol: corev1.ProtocolSCTP},
	}}}
	for _, c := range []struct {
		name    string
		policy  *v1alpha1.NodePortPolicy
		carrier *corev1.Service
		want    []uint16
	}{
		{"the carrier first, then the status, each number once", policy, carrier, []uint16{30004, 30005, 30009}},
		{"no carrier", policy, nil, []uint16{30005, 30009}},
		{"no status", &v1alpha1.NodePortPolicy{}, carrier, []uint16{30004, 30005}},
		{"neither", &v1alpha1.NodePortPolicy{}, nil, nil},
	} {
		if got := Remembered(wanted, c.policy, c.carrier); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
