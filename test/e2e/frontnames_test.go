package e2e

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// What is not ours stays as it is, and the policy says so; its ports are in force all
// the same.
func TestAFrontTouchesNothingThatIsNotOurs(t *testing.T) {
	s := open(t, "fronttaken", "30760-30764")
	theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "taken"}, Data: map[string]string{"a": "b"}}
	s.create(theirs)
	policy := s.policy("shop", officeCIDR)
	policy.Spec.Front = &v1alpha1.Front{Nginx: &v1alpha1.ProxyFront{ConfigMap: "taken"}, HAProxy: &v1alpha1.ProxyFront{ConfigMap: "free"}}
	s.create(policy)
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), port)
	s.awaitReason(policy, v1alpha1.Fronted, v1alpha1.ReasonFrontNameTaken)
	s.awaitReason(policy, v1alpha1.Conflict, v1alpha1.ReasonFrontNameTaken)
	if !meta.IsStatusConditionTrue(policy.Status.Conditions, v1alpha1.Ready) {
		t.Errorf("conditions: %s", describe(policy.Status.Conditions))
	}
	s.names("free", town.Nodes()...)
	if have := s.front("taken"); have.ResourceVersion != theirs.ResourceVersion {
		t.Errorf("the ConfigMap of somebody else was written: %v", have)
	}
	s.delete(theirs)
	s.names("taken", town.Nodes()...)
	s.awaitReason(policy, v1alpha1.Fronted, v1alpha1.ReasonOK)
	if meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.Conflict) != nil {
		t.Errorf("conditions: %s", describe(policy.Status.Conditions))
	}
	// A hand in our own is undone; a label of somebody else stays.
	ours := s.front("taken")
	config := ours.Data[compile.NginxKey]
	edit(s, ours, func(c *corev1.ConfigMap) {
		c.Data[compile.NginxKey] += "server { listen 22; }\n"
		c.Labels["team"] = "shop"
	})
	s.eventually("the hand is undone", func() error {
		if c := s.front("taken"); c.Data[compile.NginxKey] != config || c.Labels["team"] != "shop" {
			return fmt.Errorf("%v %v", c.Labels, c.Data)
		}
		return nil
	})
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Front = nil })
	s.gone("taken")
	s.gone("free")
	s.eventually("Fronted is not told any more", func() error {
		if err := s.ready(policy, func() []metav1.Condition { return policy.Status.Conditions }); err != nil {
			return err
		}
		if meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.Fronted) != nil {
			return fmt.Errorf("conditions: %s", describe(policy.Status.Conditions))
		}
		return nil
	})
}

// Without external-dns the rest of a policy works, and its records as soon as there is
// one. A name is published only within the domains of the pool.
func TestRecordsFollowTheNodes(t *testing.T) {
	s := open(t, "frontdns", "30765-30769")
	policy := s.policy("shop", officeCIDR)
	policy.Spec.Front = &v1alpha1.Front{DNS: &v1alpha1.DNSFront{Hostname: "shop.example.org", TTLSeconds: 30, AddressType: v1alpha1.InternalIP}}
	s.create(policy)
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), port)
	if !s.knowsDNS() {
		s.awaitReason(policy, v1alpha1.Fronted, v1alpha1.ReasonExternalDNSNotFound)
	}
	if err := town.Apply(s.ctx, "testdata/dnsendpoint.yaml"); err != nil {
		t.Fatal(err)
	}
	s.awaitReason(policy, v1alpha1.Fronted, v1alpha1.ReasonHostnameRefused)
	if got := s.targets(); len(got) > 0 {
		t.Errorf("published without the pool's word: %v", got)
	}
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) { p.Spec.Guardrails.DNSDomains = []v1alpha1.DNSDomain{"example.org"} })
	s.awaitReason(policy, v1alpha1.Fronted, v1alpha1.ReasonOK)
	nodes := town.Nodes()
	addresses := func(last int) (all []string) {
		for family := range nodes[0].Addrs {
			for _, n := range nodes[:last] {
				all = append(all, n.Addrs[family].String())
			}
		}
		return all
	}
	s.publishes(addresses(3))
	second := s.policy("second", officeCIDR)
	second.Spec.Front = policy.Spec.Front.DeepCopy()
	s.create(second)
	s.awaitReason(second, v1alpha1.Fronted, v1alpha1.ReasonHostnameRefused)
	edit(s, second, func(p *v1alpha1.NodePortPolicy) { p.Spec.Front.DNS.Hostname = "second.example.org" })
	s.awaitReason(second, v1alpha1.Fronted, v1alpha1.ReasonOK)
	s.delete(second)
	if err := nodes[2].Fail(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.publishes(addresses(2))
	s.eventually("the address is not told any more", func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(policy), policy); err != nil {
			return err
		}
		gone := fmt.Sprintf("%s:%d", nodes[2].Addrs[0], port)
		if slices.Contains(policy.Status.Addresses, gone) || len(policy.Status.Addresses) != 2*len(nodes[0].Addrs) {
			return fmt.Errorf("addresses %v", policy.Status.Addresses)
		}
		return nil
	})
	if err := nodes[2].Recover(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.publishes(addresses(3))
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Front = nil })
	s.eventually("the records are gone", func() error {
		err := town.Client.Get(s.ctx, client.ObjectKey{Namespace: s.namespace, Name: "shop-nodeport"}, s.endpoint())
		if err == nil {
			return fmt.Errorf("the DNSEndpoint is there")
		}
		return client.IgnoreNotFound(err)
	})
}

func (s *scene) endpoint() *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(compile.DNSEndpoint)
	return o
}

// knowsDNS says whether an earlier run of the test has brought the kind.
func (s *scene) knowsDNS() bool {
	s.Helper()
	o := s.endpoint()
	err := town.Client.Get(s.ctx, client.ObjectKey{Namespace: s.namespace, Name: "none"}, o)
	if err != nil && !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) {
		s.Fatal(err)
	}
	return apierrors.IsNotFound(err)
}

// targets are those of the policy's records, IPv4 first.
func (s *scene) targets() (all []string) {
	s.Helper()
	o := s.endpoint()
	if err := town.Client.Get(s.ctx, client.ObjectKey{Namespace: s.namespace, Name: "shop-nodeport"}, o); client.IgnoreNotFound(err) != nil {
		s.Fatal(err)
	}
	records, _, _ := unstructured.NestedSlice(o.Object, "spec", "endpoints")
	for _, r := range records {
		targets, _, _ := unstructured.NestedStringSlice(r.(map[string]any), "targets")
		all = append(all, targets...)
	}
	return all
}

func (s *scene) publishes(want []string) {
	s.Helper()
	s.eventually(fmt.Sprintf("the records have %v", want), func() error {
		if got := s.targets(); !slices.Equal(got, want) {
			return fmt.Errorf("they have %v", got)
		}
		return nil
	})
}
