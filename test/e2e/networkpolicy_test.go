package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
	"github.com/portreeve/portreeve/lab"
)

// behind waits until the NetworkPolicy admits that, a rule a line.
func (s *scene) behind(name string, want ...string) {
	s.Helper()
	s.eventually(fmt.Sprintf("NetworkPolicy %s admits %q", name, want), func() error {
		var n networkingv1.NetworkPolicy
		if err := town.Client.Get(s.ctx, client.ObjectKey{Namespace: s.namespace, Name: name}, &n); err != nil {
			return err
		}
		var got []string
		for _, r := range n.Spec.Ingress {
			line := "all"
			for _, p := range r.Ports {
				line = fmt.Sprintf("%s/%s", *p.Protocol, p.Port.String())
			}
			for _, from := range r.From {
				if from.IPBlock != nil {
					line += " " + from.IPBlock.CIDR
				} else {
					line += " pods"
				}
			}
			got = append(got, line)
		}
		if !slices.Equal(got, want) || n.Spec.PodSelector.MatchLabels["app"] != s.namespace {
			return fmt.Errorf("it admits %q to %v", got, n.Spec.PodSelector)
		}
		return nil
	})
}

// Nothing in the lab enforces a NetworkPolicy, so this is about the object, and that the
// manager may write it.
func TestANetworkPolicyStandsBehindThePort(t *testing.T) {
	s := open(t, "behind", "30680-30689")
	set := &v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: "behind"}, Spec: v1alpha1.AddressSetSpec{CIDRs: []v1alpha1.CIDR{"192.0.2.0/28"}}}
	set.Spec.AllowedFor = &v1alpha1.NamespaceChoice{}
	s.create(set)
	policy := s.policy("shop", officeCIDR)
	policy.Spec.NetworkPolicy = true
	policy.Spec.Sources[0].Except = []v1alpha1.CIDR{"203.0.113.8/29"}
	policy.Spec.Sources = append(policy.Spec.Sources, v1alpha1.Source{AddressSet: "behind"})
	s.create(policy)
	port := s.awaitReady(policy)
	const name = "shop-nodeport"
	cluster, target := s.admitting("all pods"), fmt.Sprintf("TCP/%d", lab.EchoPort)
	s.behind(name, cluster, s.admitting(target, "192.0.2.0/28", "203.0.113.0/29"))
	s.answers(s.office, from(officeCIDR, 1), port)

	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.ExternalTrafficPolicy = v1alpha1.TrafficLocal })
	s.behind(name, cluster, target+" 192.0.2.0/28 203.0.113.0/29")
	edit(s, set, func(a *v1alpha1.AddressSet) { a.Spec.CIDRs = []v1alpha1.CIDR{"192.0.2.16/28"} })
	s.behind(name, cluster, target+" 192.0.2.16/28 203.0.113.0/29")

	deny := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "deny"}, Spec: networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Ingress"}}}
	s.create(deny)
	s.behind(name, target+" 192.0.2.16/28 203.0.113.0/29")
	s.delete(deny)
	s.behind(name, cluster, target+" 192.0.2.16/28 203.0.113.0/29")
	s.awaitReady(policy)

	s.delete(policy)
	s.eventually("the NetworkPolicy is gone", func() error {
		err := town.Client.Get(s.ctx, client.ObjectKey{Namespace: s.namespace, Name: name}, &networkingv1.NetworkPolicy{})
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
}

// admitting is the rule for these sources and all nodes.
func (s *scene) admitting(line string, sources ...string) string {
	var all []netip.Prefix
	for _, source := range sources {
		all = append(all, netip.MustParsePrefix(source))
	}
	for _, n := range town.Nodes() {
		for _, a := range n.Addrs {
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	for _, p := range rule.Canonical(all) {
		line += " " + p.String()
	}
	return line
}

func TestANetworkPolicyThatIsNotOursIsLeftAlone(t *testing.T) {
	s := open(t, "not-ours", "30690-30699")
	theirs := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "shop-nodeport", Labels: map[string]string{v1alpha1.LabelPolicy: "shop"}}}
	s.create(theirs)
	policy := s.policy("shop", officeCIDR)
	policy.Spec.NetworkPolicy = true
	s.create(policy)
	s.awaitReason(policy, v1alpha1.Exposed, v1alpha1.ReasonNetworkPolicyNameTaken)
	var after networkingv1.NetworkPolicy
	if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(theirs), &after); err != nil || after.ResourceVersion != theirs.ResourceVersion {
		t.Errorf("theirs was touched: %v, %+v", err, after)
	}
	s.delete(theirs)
	s.awaitReady(policy)
	s.eventually("ours is there", func() error { return town.Client.Get(s.ctx, client.ObjectKeyFromObject(theirs), &after) })

	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.NetworkPolicy = false })
	s.eventually("ours is gone", func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(theirs), &after); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
}
