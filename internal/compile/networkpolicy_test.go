package compile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// behind is a policy that asks for a NetworkPolicy: 30007 to https of Service shop, from
// 10.8.0.0/16, in a cluster of two nodes.
func behind() Ingress {
	seen := healthy()
	in := Ingress{Namespace: "shop", Policy: "shop", Allocations: seen.Allocations, Service: seen.Service, Now: clock}
	in.Places = NewPlaces(nil, NodeSets([]corev1.Node{addressed("192.0.2.1"), addressed("192.0.2.2", "2001:db8::2")}, nil))
	in.Allocations[0].Spec.NetworkPolicy = true
	in.Allocations[0].Spec.Ports[0].Sources = []v1alpha1.CIDR{"10.8.0.0/16"}
	return in
}

func addressed(addresses ...string) corev1.Node {
	n := corev1.Node{}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

// admits spells the rules, one a line: ports, then sources; "pods" are all of the cluster.
func admits(n *networkingv1.NetworkPolicy) (out []string) {
	if n == nil {
		return []string{"none"}
	}
	for _, r := range n.Spec.Ingress {
		line := "all"
		for _, p := range r.Ports {
			line = fmt.Sprintf("%s/%s", *p.Protocol, p.Port.String())
		}
		for _, from := range r.From {
			switch {
			case from.IPBlock != nil:
				line += " " + from.IPBlock.CIDR
			case from.PodSelector == nil && from.NamespaceSelector != nil && len(from.NamespaceSelector.MatchLabels)+len(from.NamespaceSelector.MatchExpressions) == 0:
				line += " pods"
			default:
				line += " ?"
			}
		}
		if len(r.From) == 0 {
			line += " EVERYBODY"
		}
		out = append(out, line)
	}
	return out
}

const (
	ofTheCluster = "all pods 192.0.2.1/32 192.0.2.2/32 2001:db8::2/128"
	ofHTTPS      = "TCP/8443 10.8.0.0/16 192.0.2.1/32 192.0.2.2/32 2001:db8::2/128"
)

func TestNetworkPolicyAdmitsWhatThePolicyAdmits(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Ingress)
		want   []string
	}{
		{"Cluster: the pods see nodes", func(*Ingress) {}, []string{ofTheCluster, ofHTTPS}},
		{"Local: the pods see clients", func(in *Ingress) { in.Allocations[0].Spec.ExternalTrafficPolicy = "Local" }, []string{ofTheCluster, "TCP/8443 10.8.0.0/16"}},
		{"in place the Service says so", func(in *Ingress) {
			in.Allocations[0].Spec.Carrier, in.Service.Spec.ExternalTrafficPolicy = "InPlace", "Local"
		}, []string{ofTheCluster, "TCP/8443 10.8.0.0/16"}},
		{"in place the policy says otherwise", func(in *Ingress) {
			in.Allocations[0].Spec.Carrier, in.Service.Spec.ExternalTrafficPolicy = "InPlace", "Local"
			in.Allocations[0].Spec.ExternalTrafficPolicy = "Cluster"
		}, []string{ofTheCluster, ofHTTPS}},
		{"what the Service says is not what its companion does", func(in *Ingress) { in.Service.Spec.ExternalTrafficPolicy = "Local" }, []string{ofTheCluster, ofHTTPS}},
		{"nobody", func(in *Ingress) { in.Allocations[0].Spec.Ports[0].Sources = nil }, []string{ofTheCluster}},
		{"closed", func(in *Ingress) {
			in.Allocations[0].Spec = closed(in.Allocations[0].Spec, metav1.NewMicroTime(clock))
		}, []string{ofTheCluster}},
		{"at its end", func(in *Ingress) { in.Allocations[0].Spec.ExpiresAt = &metav1.Time{Time: clock} }, []string{ofTheCluster}},
		{"before its end", func(in *Ingress) { in.Allocations[0].Spec.ExpiresAt = &metav1.Time{Time: clock.Add(time.Second)} }, []string{ofTheCluster, ofHTTPS}},
		{"in lockdown", func(in *Ingress) { in.Lockdown = true }, []string{ofTheCluster}},
		{"the world", func(in *Ingress) {
			in.Allocations[0].Spec.ExternalTrafficPolicy, in.Allocations[0].Spec.Ports[0].World = "Local", true
		}, []string{ofTheCluster, "TCP/8443 0.0.0.0/0 ::/0"}},
		{"a named target port", func(in *Ingress) { in.Service.Spec.Ports[0].TargetPort = intstr.FromString("web") }, []string{ofTheCluster, strings.Replace(ofHTTPS, "8443", "web", 1)}},
		{"no target port", func(in *Ingress) { in.Service.Spec.Ports[0].TargetPort = intstr.IntOrString{} }, []string{ofTheCluster, strings.Replace(ofHTTPS, "8443", "443", 1)}},
		{"the Service has the port no more", func(in *Ingress) { in.Service.Spec.Ports[0].Port = 444 }, []string{ofTheCluster}},
		{"the Service is gone", func(in *Ingress) { in.Service = nil }, []string{ofTheCluster}},
		{"a Service without a selector", func(in *Ingress) { in.Service.Spec.Selector = nil }, []string{"none"}},
		{"nobody asks", func(in *Ingress) { in.Allocations[0].Spec.NetworkPolicy = false }, []string{"none"}},
		{"no number", func(in *Ingress) { in.Allocations = nil }, []string{"none"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := behind()
			have := NetworkPolicy(in, nil)
			c.change(&in)
			got := NetworkPolicy(in, have)
			if !slices.Equal(admits(got), c.want) {
				t.Errorf("admits %q, want %q", admits(got), c.want)
			}
			if got != nil && len(got.Spec.PodSelector.MatchLabels) == 0 {
				t.Error("it selects every pod of the namespace")
			}
			if got != nil && !equality.Semantic.DeepEqual(NetworkPolicy(in, got), got) {
				t.Error("not settled")
			}
		})
	}
}

func TestNetworkPolicyDeniesWhomTheInstallationDenies(t *testing.T) {
	in := behind()
	in.Allocations[0].Spec.ExternalTrafficPolicy = "Local"
	set := v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Spec: v1alpha1.AddressSetSpec{CIDRs: []v1alpha1.CIDR{"10.8.128.0/17"}}}
	in.Places = NewPlaces(nil, []v1alpha1.AddressSet{set}).Within(&v1alpha1.Portreeve{Spec: v1alpha1.PortreeveSpec{DenyAddressSets: []v1alpha1.ObjectName{"bad"}}})
	if got, want := admits(NetworkPolicy(in, nil)), []string{"all pods", "TCP/8443 10.8.0.0/17"}; !slices.Equal(got, want) {
		t.Errorf("admits %q, want %q", got, want)
	}
}

// Pods are named as pods where nodes admit the whole cluster, and not where a guard-rail,
// a denied set or the lack of its networks keeps some of it out: somebody's own
// NetworkPolicy would be widened by those.
func TestNetworkPolicyAdmitsPodsOnlyWhereNodesAdmitTheCluster(t *testing.T) {
	cluster := v1alpha1.PortreeveSpec{ClusterCIDRs: []v1alpha1.CIDR{"10.244.0.0/16", "fd00:10:244::/56"}}
	for _, c := range []struct {
		name         string
		installation v1alpha1.PortreeveSpec
		rails        v1alpha1.Guardrails
		want         string
	}{
		{"as asked", cluster, v1alpha1.Guardrails{}, "TCP/8443 10.8.0.0/16 10.244.0.0/16 fd00:10:244::/56 pods"},
		{"the pool allows other networks", cluster, v1alpha1.Guardrails{AllowedSources: []v1alpha1.CIDR{"10.8.0.0/16"}}, "TCP/8443 10.8.0.0/16"},
		{"the pool allows a half of it", cluster, v1alpha1.Guardrails{AllowedSources: []v1alpha1.CIDR{"10.0.0.0/8"}}, "TCP/8443 10.8.0.0/16 10.244.0.0/16"},
		{"its networks are not known", v1alpha1.PortreeveSpec{}, v1alpha1.Guardrails{}, "TCP/8443 10.8.0.0/16"},
		{"some of it is denied", v1alpha1.PortreeveSpec{ClusterCIDRs: []v1alpha1.CIDR{"10.244.0.0/16"}, DenyAddressSets: []v1alpha1.ObjectName{"bad"}}, v1alpha1.Guardrails{},
			"TCP/8443 10.8.0.0/16 10.244.0.0/17"},
	} {
		in := behind()
		in.Others = []networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Name: "deny"}}}
		a := &in.Allocations[0].Spec
		a.ExternalTrafficPolicy, a.Ports[0].Entities = "Local", []v1alpha1.Entity{v1alpha1.EntityCluster}
		pool := v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: a.Pool}, Spec: v1alpha1.NodePortPoolSpec{Guardrails: c.rails}}
		bad := v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Spec: v1alpha1.AddressSetSpec{CIDRs: []v1alpha1.CIDR{"10.244.128.0/17"}}}
		in.Places = NewPlaces([]v1alpha1.NodePortPool{pool}, []v1alpha1.AddressSet{bad}).Within(&v1alpha1.Portreeve{Spec: c.installation})
		if got := admits(NetworkPolicy(in, nil)); !slices.Equal(got, []string{c.want}) {
			t.Errorf("%s: admits %q, want %q", c.name, got, c.want)
		}
	}
}

func TestNetworkPolicyBelongsToItsAllocations(t *testing.T) {
	got := NetworkPolicy(behind(), nil)
	if got.Name != "shop-nodeport" || got.Namespace != "shop" || got.Labels[v1alpha1.LabelPolicy] != "shop" ||
		len(got.OwnerReferences) != 1 || got.OwnerReferences[0].Kind != "NodePortAllocation" || got.OwnerReferences[0].Name != "30007" {
		t.Errorf("%+v", got.ObjectMeta)
	}
	if got.Spec.PodSelector.MatchLabels["app"] != "shop" || !slices.Equal(got.Spec.PolicyTypes, []networkingv1.PolicyType{"Ingress"}) {
		t.Errorf("%+v", got.Spec)
	}
	if !IsNetworkPolicyOf(got, "shop") || IsNetworkPolicyOf(got, "other") {
		t.Error("IsNetworkPolicyOf does not know its own")
	}
	got.OwnerReferences = nil
	if IsNetworkPolicyOf(got, "shop") {
		t.Error("one without an allocation is taken for ours")
	}
}

// A rule for the cluster is added where its absence would cut somebody off, and left out
// where it would let somebody in.
func TestNetworkPolicyChangesNothingWithinTheCluster(t *testing.T) {
	expression := func(key string, operator metav1.LabelSelectorOperator, values ...string) metav1.LabelSelector {
		return metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: operator, Values: values}}}
	}
	for _, c := range []struct {
		name     string
		selector metav1.LabelSelector
		types    []networkingv1.PolicyType
		isolates bool
	}{
		{"every pod", metav1.LabelSelector{}, nil, true},
		{"these pods", metav1.LabelSelector{MatchLabels: map[string]string{"app": "shop"}}, []networkingv1.PolicyType{"Ingress", "Egress"}, true},
		{"some of these pods", metav1.LabelSelector{MatchLabels: map[string]string{"app": "shop", "tier": "canary"}}, nil, true},
		{"pods that may be these", expression("tier", "In", "canary"), nil, true},
		{"these by an expression", expression("app", "In", "shop", "till"), nil, true},
		{"other pods", metav1.LabelSelector{MatchLabels: map[string]string{"app": "till"}}, nil, false},
		{"others by an expression", expression("app", "In", "till"), nil, false},
		{"all but these", expression("app", "NotIn", "shop"), nil, false},
		{"those without the label", expression("app", "DoesNotExist"), nil, false},
		{"what leaves these pods", metav1.LabelSelector{}, []networkingv1.PolicyType{"Egress"}, false},
	} {
		in := behind()
		in.Others = []networkingv1.NetworkPolicy{*NetworkPolicy(in, nil), {ObjectMeta: metav1.ObjectMeta{Name: "other"}, Spec: networkingv1.NetworkPolicySpec{PodSelector: c.selector, PolicyTypes: c.types}}}
		want := []string{ofTheCluster, ofHTTPS}
		if c.isolates {
			want = want[1:]
		}
		if got := admits(NetworkPolicy(in, nil)); !slices.Equal(got, want) {
			t.Errorf("%s: admits %q, want %q", c.name, got, want)
		}
	}
	// Two of ours are no reason for each other.
	in := behind()
	second := NetworkPolicy(in, nil)
	second.Name, second.Labels[v1alpha1.LabelPolicy] = "second-nodeport", "second"
	in.Others = []networkingv1.NetworkPolicy{*second}
	if got := admits(NetworkPolicy(in, nil)); got[0] != ofTheCluster {
		t.Errorf("beside another of ours: %q", got)
	}
}

func TestStatusSaysWhatTheNetworkPolicyMeans(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*Seen)
		reason  string
		message string
	}{
		{"Cluster", func(*Seen) {}, v1alpha1.ReasonOK, "all nodes, because with externalTrafficPolicy Cluster the pods see the address of a node"},
		{"within the cluster", func(*Seen) {}, v1alpha1.ReasonOK, "pods and nodes of the cluster reach them on every port"},
		{"another says so", func(s *Seen) {
			s.Ingress.Others = []networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Name: "deny"}}}
			s.NetworkPolicy = NetworkPolicy(*s.Ingress, s.NetworkPolicy)
		}, v1alpha1.ReasonOK, "NetworkPolicy deny says"},
		{"not there", func(s *Seen) { s.NetworkPolicy = nil }, v1alpha1.ReasonProgressing, "waits for NetworkPolicy shop-nodeport"},
		{"not yet what it must be", func(s *Seen) { s.NetworkPolicy.Spec.Ingress = nil }, v1alpha1.ReasonProgressing, "waits for NetworkPolicy shop-nodeport"},
		{"somebody else's", func(s *Seen) { s.NetworkPolicy.OwnerReferences = nil }, v1alpha1.ReasonNetworkPolicyNameTaken, "rename or delete it"},
		{"a right is missing", func(s *Seen) {
			s.NetworkPolicy, s.Ingress.Forbidden = nil, &Refusal{Reason: v1alpha1.ReasonForbidden, Message: "kubectl create"}
		}, v1alpha1.ReasonForbidden, "kubectl create"},
		{"no selector", func(s *Seen) { s.Service.Spec.Selector = nil }, v1alpha1.ReasonServiceWithoutSelector, "there is no NetworkPolicy shop-nodeport, because Service shop has no selector"},
	} {
		seen := healthy()
		in := behind()
		seen.Allocations, seen.Ingress, seen.NetworkPolicy = in.Allocations, &in, NetworkPolicy(in, nil)
		in.Service = seen.Service
		c.change(&seen)
		got := meta.FindStatusCondition(Status(seen, metav1.NewTime(clock)).Conditions, v1alpha1.Exposed)
		if got.Reason != c.reason || !strings.Contains(got.Message, c.message) {
			t.Errorf("%s: %s %q, want %s with %q", c.name, got.Reason, got.Message, c.reason, c.message)
		}
	}
}

func TestExposedWaitsForWhatThePolicySays(t *testing.T) {
	seen := healthy()
	asking("Local", 60)(&seen.Allocations[0])
	exposed := func() metav1.Condition {
		return *meta.FindStatusCondition(Status(seen, metav1.NewTime(clock)).Conditions, v1alpha1.Exposed)
	}
	if got := exposed(); got.Status != metav1.ConditionFalse || !strings.Contains(got.Message, "externalTrafficPolicy Local and sessionAffinity ClientIP for 60 seconds") {
		t.Errorf("%+v", got)
	}
	seen.Companion = Companion("shop", "shop", seen.Allocations, seen.Service, seen.Companion)
	if got := exposed(); got.Status != metav1.ConditionTrue {
		t.Errorf("%+v", got)
	}
}
