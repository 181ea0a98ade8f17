package compile

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// Facts of nodes, as agents report them.
var (
	proxied  = v1alpha1.NodeFacts{KubeProxy: []v1alpha1.KubeProxyRules{v1alpha1.KubeProxyNFTables}}
	tables   = v1alpha1.NodeFacts{KubeProxy: []v1alpha1.KubeProxyRules{v1alpha1.KubeProxyIPTablesNFT}}
	central  = v1alpha1.NodeFacts{KubeProxy: []v1alpha1.KubeProxyRules{v1alpha1.KubeProxyIPVS}, Links: []string{"ovn0"}, CentralizedSubnets: []string{"10.16.0.0/16"}}
	cilium   = v1alpha1.NodeFacts{Ways: []v1alpha1.WayAround{{Interface: "eth0", Hook: "tcx", Program: "cil_from_netdev"}}}
	viaHost  = v1alpha1.NodeFacts{Links: []string{"ovn-k8s-mp0"}, GatewayMode: "local"}
	untold   = func(*NodeReport) {}
	toldThat = func(f v1alpha1.NodeFacts) func(*NodeReport) {
		return func(n *NodeReport) { n.Datapath.Status.Facts = &f }
	}
)

func (s *Seen) local() {
	s.Companion.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func TestClientAddressSaidPlainly(t *testing.T) {
	for _, c := range []struct {
		sentence string
		spoil    func(*Seen)
		a, b     func(*NodeReport)
		want     v1alpha1.ClientIP
		says     []string
	}{
		{"no node has told", func(*Seen) {}, untold, untold, "", nil},
		{"kube-proxy masquerades", func(*Seen) {}, toldThat(proxied), toldThat(proxied), v1alpha1.ClientIPReplaced, []string{"kube-proxy (nftables) masquerades", "externalTrafficPolicy of Service shop-nodeport is Cluster"}},
		{"kube-proxy keeps it with Local", (*Seen).local, toldThat(proxied), toldThat(proxied), v1alpha1.ClientIPPreserved, []string{"kube-proxy (nftables) keeps"}},
		{"centralized subnets masquerade also with Local", (*Seen).local, toldThat(central), toldThat(central), v1alpha1.ClientIPReplaced, []string{"centralized subnets", "distributed"}},
		{"it is Cilium's choice", func(*Seen) {}, toldThat(cilium), toldThat(cilium), v1alpha1.ClientIPDepends, []string{"DSR"}},
		{"nodes differ", (*Seen).local, toldThat(proxied), toldThat(central), v1alpha1.ClientIPDepends, []string{"on nodes such as a kube-proxy (nftables) keeps", "on nodes such as b kube-proxy (ipvs) beside Kube-OVN masquerades"}},
		{"nodes differ in how, and not in what", (*Seen).local, toldThat(proxied), toldThat(tables), v1alpha1.ClientIPPreserved, []string{"on nodes such as a kube-proxy (nftables)", "on nodes such as b kube-proxy (iptables-nft)"}},
		{"a node that joins has told nothing yet", (*Seen).local, toldThat(proxied), untold, v1alpha1.ClientIPPreserved, []string{"kube-proxy (nftables) keeps"}},
		{"a node that is not Ready is not asked", (*Seen).local, toldThat(proxied), func(n *NodeReport) { toldThat(central)(n); notReady(n) }, v1alpha1.ClientIPPreserved, nil},
		{"a node that the pool does not pick is not asked", func(s *Seen) {
			s.local()
			s.Nodes[0].Labels["edge"] = "yes"
			s.Allocations[0].Spec.NodeSelector = &v1alpha1.LabelSelector{MatchLabels: map[string]string{"edge": "yes"}}
		}, toldThat(proxied), toldThat(central), v1alpha1.ClientIPPreserved, nil},
		{"in place it is the team's own Service that counts", func(s *Seen) {
			s.Allocations[0].Spec.Carrier = v1alpha1.ServiceInPlace
			s.Service.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}, toldThat(proxied), toldThat(proxied), v1alpha1.ClientIPPreserved, nil},
		{"and beside a companion it is not", func(s *Seen) {
			s.Service.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}, toldThat(proxied), toldThat(proxied), v1alpha1.ClientIPReplaced, nil},
		{"nothing is open", func(s *Seen) { s.close(0) }, toldThat(proxied), toldThat(proxied), "", nil},
		{"nothing carries it yet", func(s *Seen) { s.Companion = nil }, toldThat(proxied), toldThat(proxied), "", nil},
	} {
		s := healthy()
		c.spoil(&s)
		c.a(&s.Nodes[0])
		c.b(&s.Nodes[1])
		status := Status(s, metav1.NewTime(clock))
		if status.ClientIPPreserved != c.want || (c.want == "") != (status.ClientIPReason == "") {
			t.Errorf("%s: %s (%s), want %s", c.sentence, status.ClientIPPreserved, status.ClientIPReason, c.want)
		}
		for _, part := range c.says {
			if !strings.Contains(status.ClientIPReason, part) {
				t.Errorf("%s: %q does not say %q", c.sentence, status.ClientIPReason, part)
			}
		}
	}
}

// A node of a known kind that joins changes no word of any policy, also where nodes differ.
func TestANodeThatJoinsChangesNoReason(t *testing.T) {
	s := healthy()
	s.local()
	toldThat(proxied)(&s.Nodes[0])
	toldThat(central)(&s.Nodes[1])
	before := Status(s, metav1.NewTime(clock))
	s.Nodes = append(s.Nodes, node("c", toldThat(proxied)), node("d", toldThat(central)), node("e"))
	after := Status(s, metav1.NewTime(clock))
	if before.ClientIPReason != after.ClientIPReason || before.ClientIPPreserved != after.ClientIPPreserved {
		t.Errorf("%q became %q", before.ClientIPReason, after.ClientIPReason)
	}
}

// A reason never outgrows the schema, however many kinds of nodes there are.
func TestAReasonForTheClientAddressHasAnEnd(t *testing.T) {
	s := healthy()
	s.local()
	for i := range 40 {
		f := proxied
		f.Links = []string{"ovn0"}
		f.DistributedSubnets = []string{"10.16.0.0/16"}
		f.CentralizedSubnets = []string{strings.Repeat("10.17.0.0/16 ", i+1)}
		s.Nodes = append(s.Nodes, node(strings.Repeat("n", i+1), toldThat(f)))
	}
	status := Status(s, metav1.NewTime(clock))
	if n := len(status.ClientIPReason); n > maxReason || n < maxReason/2 {
		t.Errorf("the reason has %d characters", n)
	}
}

// A policy whose nodes are gone around says by what, in which layer, and what to do.
func TestAPolicyNamesWhatGoesAroundItsRules(t *testing.T) {
	s := healthy()
	s.Nodes[1] = node("b", mark(""), enforced(v1alpha1.ReasonEnforcementUnsupported), toldThat(cilium))
	c := meta.FindStatusCondition(Status(s, metav1.NewTime(clock)).Conditions, v1alpha1.HostEnforced)
	for _, part := range []string{"node b", "Cilium's kube-proxy replacement", "before netfilter", "program cil_from_netdev on the tcx hook of eth0", "kubeProxyReplacement"} {
		if !strings.Contains(c.Message, part) {
			t.Errorf("%q does not say %q", c.Message, part)
		}
	}
}

// With the local gateway of OVN-Kubernetes a Service with externalTrafficPolicy Local is
// not promised, because for pods of the host's network its flows go around our rules.
func TestALocalGatewayPromisesNoServiceWithTrafficPolicyLocal(t *testing.T) {
	for _, local := range []bool{false, true} {
		s := healthy()
		s.Nodes[0] = node("a", toldThat(viaHost))
		if local {
			s.local()
		}
		c := meta.FindStatusCondition(Status(s, metav1.NewTime(clock)).Conditions, v1alpha1.HostEnforced)
		if unsupported := c.Status == metav1.ConditionFalse && c.Reason == v1alpha1.ReasonEnforcementUnsupported; unsupported != local {
			t.Errorf("local %t: %s %s: %s", local, c.Status, c.Reason, c.Message)
		}
	}
}
