package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

func TestExactlyTheNamedSourcesAreAnsweredOnEveryNode(t *testing.T) {
	s := open(t, "expose", "30000-30009")
	policy := s.policy("shop", officeCIDR, officeCIDR6)
	s.create(policy)
	port := s.awaitReady(policy)

	s.answers(s.office, from(officeCIDR, 1), port)
	s.silent(s.street, from(streetCIDR, 1), port)
	s.silentSoon(s.office, from(officeCIDR, 1), port+1) // that a node has read the pool is no part of the proof
	if town.IPv6() {
		s.answers(s.office, from(officeCIDR6, 1), port)
		s.silent(s.street, from("2001:db8:51::/64", 1), port)
	}
	if policy.Status.Nodes == nil || policy.Status.Nodes.Enforced != v1alpha1.EnforcedAll {
		t.Errorf("status.nodes is %+v, want All", policy.Status.Nodes)
	}
	register, err := town.Kubectl(s.ctx, "get", "npa", fmt.Sprint(port), "--no-headers")
	if err != nil {
		t.Fatal(err)
	}
	for _, column := range []string{"TCP", "expose", "team-expose", "shop", "Open"} {
		if !strings.Contains(register, column) {
			t.Errorf("the register %q does not show %q", register, column)
		}
	}
}

func TestSourcesOfOnePortDoNotReachAnother(t *testing.T) {
	s := open(t, "subset", "30010-30019")
	policy := s.policy("shop")
	policy.Spec.Ports = []v1alpha1.PolicyPort{{Name: "https"}, {Name: "http"}}
	policy.Spec.Sources = []v1alpha1.Source{
		{CIDR: officeCIDR, Ports: []string{"https"}},
		{CIDR: streetCIDR, Ports: []string{"http"}},
	}
	s.create(policy)
	s.awaitReady(policy)
	numbers := byName(policy)

	s.answers(s.office, from(officeCIDR, 1), numbers["https"])
	s.answers(s.street, from(streetCIDR, 1), numbers["http"])
	s.silent(s.office, from(officeCIDR, 1), numbers["http"])
	s.silent(s.street, from(streetCIDR, 1), numbers["https"])
}

func TestTCPAndUDPOfOneServicePortShareANumber(t *testing.T) {
	s := open(t, "dns", "30020-30029")
	policy := s.policy("shop", officeCIDR)
	policy.Spec.Ports = []v1alpha1.PolicyPort{{Port: 53}}
	s.create(policy)
	port := s.awaitReady(policy)
	numbers := byName(policy)
	if numbers["dns-tcp"] != port || numbers["dns-udp"] != port {
		t.Fatalf("the ports are %v, want both on %d", numbers, port)
	}
	s.answers(s.office, from(officeCIDR, 1), port)
	for _, node := range town.Nodes() {
		f := flow(node, from(officeCIDR, 1), port)
		f.Network = "udp"
		s.eventually(node.Name+" answers UDP", func() error {
			if a := s.office.Ask(s.ctx, f); a.Outcome != lab.Answered {
				return fmt.Errorf("%s", a)
			}
			return nil
		})
		f.From, f.Timeout = from(streetCIDR, 1), 300*time.Millisecond
		if a := s.street.Ask(s.ctx, f); a.Outcome != lab.TimedOut {
			t.Errorf("BREACH: %s: UDP from the street: %s, want it dropped", node.Name, a)
		}
	}
}

func TestAPinIsKeptAndAPinnedPortOfAnotherIsAConflict(t *testing.T) {
	s := open(t, "pins", "30030-30039")
	first := s.policy("first", officeCIDR)
	first.Spec.Ports[0].NodePort = 30037
	s.create(first)
	if port := s.awaitReady(first); port != 30037 {
		t.Fatalf("the pinned policy got %d, want 30037", port)
	}
	second := s.policy("second", officeCIDR)
	second.Spec.Ports[0].NodePort = 30037
	s.create(second)
	if c := s.awaitReason(second, v1alpha1.Stalled, v1alpha1.ReasonConflict); !strings.Contains(c.Message, "policy pins/first") {
		t.Errorf("the conflict %q does not name the holder", c.Message)
	}
	outside := s.policy("outside", officeCIDR)
	outside.Spec.Ports[0].NodePort = 30099
	s.create(outside)
	s.awaitReason(outside, v1alpha1.Accepted, v1alpha1.ReasonPinOutsidePool)

	edit(s, second, func(p *v1alpha1.NodePortPolicy) { p.Spec.Ports[0].NodePort = 30038 })
	if port := s.awaitReady(second); port != 30038 {
		t.Errorf("the mended policy got %d, want 30038", port)
	}
}

func TestARepinnedPolicyMovesAndItsOldPortCloses(t *testing.T) {
	s := open(t, "repin", "30040-30049")
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	before := s.awaitReady(policy)
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Ports[0].NodePort = 30048 })
	s.eventually("the policy is Ready on its new port", func() error {
		if port := s.awaitReady(policy); port != 30048 || len(policy.Status.Allocations) != 1 {
			return fmt.Errorf("allocations are %+v", policy.Status.Allocations)
		}
		return nil
	})
	s.answers(s.office, from(officeCIDR, 1), 30048)
	s.silent(s.office, from(officeCIDR, 1), before)
}

func TestEachKindOfUnfitServiceHasItsReason(t *testing.T) {
	s := open(t, "unfit", "30050-30059")
	headless, external, bare := s.service("headless"), s.service("external"), s.service("bare")
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	external.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.test"}
	bare.Spec.Selector = nil
	for _, o := range []client.Object{headless, external, bare} {
		s.create(o)
	}
	for service, reason := range map[string]string{
		"headless": v1alpha1.ReasonServiceHeadless, "external": v1alpha1.ReasonServiceExternalName,
		"bare": v1alpha1.ReasonServiceWithoutSelector, "absent": v1alpha1.ReasonServiceNotFound,
	} {
		policy := s.policy("of-"+service, officeCIDR)
		policy.Spec.ServiceRef.Name = service
		s.create(policy)
		if c := s.awaitReason(policy, v1alpha1.Accepted, reason); !strings.Contains(c.Message, service) {
			t.Errorf("%s: the message %q does not name the Service", service, c.Message)
		}
	}
	ambiguous := s.policy("ambiguous", officeCIDR)
	ambiguous.Spec.Ports = nil
	s.create(ambiguous)
	s.awaitReason(ambiguous, v1alpha1.Stalled, v1alpha1.ReasonServicePortsAmbiguous)

	s.create(s.service("absent"))
	late := s.policy("of-absent")
	s.awaitReady(late)
}

func TestTheCompanionFollowsTheServiceItExposes(t *testing.T) {
	s := open(t, "follow", "30060-30069")
	policy := s.policy("shop", officeCIDR)
	policy.Spec.Ports = []v1alpha1.PolicyPort{{Port: 443}}
	s.create(policy)
	port := s.awaitReady(policy)
	if _, err := town.AddPod(s.ctx, town.Nodes()[1], s.namespace, "other", map[string]string{"app": "other"}); err != nil {
		t.Fatal(err)
	}
	service := s.service("shop")
	edit(s, service, func(o *corev1.Service) {
		o.Spec.Selector = map[string]string{"app": "other"}
		o.Spec.Ports[0].Name = "web"
		o.Spec.Ports[0].TargetPort = intstr.FromInt32(lab.EchoPort)
	})
	to := netip.AddrPortFrom(town.Nodes()[0].Addrs[0], port)
	s.eventually("the other pod answers", func() error {
		if a := s.office.Ask(s.ctx, lab.Flow{To: to, From: from(officeCIDR, 1)}); a.Pod != "other" {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
	s.eventually("status shows the new name", func() error {
		s.awaitReady(policy)
		if policy.Status.Allocations[0].Name != "web" || policy.Status.Allocations[0].NodePort != int32(port) {
			return fmt.Errorf("allocations are %+v", policy.Status.Allocations)
		}
		return nil
	})

	s.delete(service)
	s.awaitReason(policy, v1alpha1.Ready, v1alpha1.ReasonServiceNotFound)
	s.eventually("the port is held without endpoints", func() error {
		companion := &corev1.Service{}
		if err := town.Client.Get(s.ctx, client.ObjectKey{Namespace: s.namespace, Name: "shop-nodeport"}, companion); err != nil {
			return err
		}
		if len(companion.Spec.Selector) != 0 || companion.Spec.Ports[0].NodePort != int32(port) {
			return fmt.Errorf("the companion is %+v", companion.Spec)
		}
		return nil
	})
	s.create(s.service("shop"))
	if again := s.awaitReady(policy); again != port {
		t.Errorf("after the Service came back the port is %d, want %d", again, port)
	}
}

func TestAServiceThatIsNotOursIsNeverTouched(t *testing.T) {
	s := open(t, "taken", "30070-30079")
	squatter := s.service("shop-nodeport")
	s.create(squatter)
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	s.awaitReason(policy, v1alpha1.Stalled, v1alpha1.ReasonServiceNameTaken)
	after := &corev1.Service{}
	if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(squatter), after); err != nil {
		t.Fatal(err)
	}
	if after.ResourceVersion != squatter.ResourceVersion {
		t.Errorf("the Service that is not ours was written to: %+v", after)
	}
	s.delete(squatter)
	s.awaitReady(policy)
}

func TestAServiceExposedBesideItsPolicyIsShadowed(t *testing.T) {
	s := open(t, "shadow", "30080-30089")
	service := s.service("shop")
	edit(s, service, func(o *corev1.Service) {
		o.Spec.Type = corev1.ServiceTypeNodePort
		for i := range o.Spec.Ports { // it keeps them, so random ones might be a later test's
			o.Spec.Ports[i].NodePort = 30090 + int32(i)
		}
	})
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	s.awaitReady(policy)
	s.awaitReason(policy, v1alpha1.Shadowed, v1alpha1.ReasonServiceNodePort)
}

func byName(p *v1alpha1.NodePortPolicy) map[string]uint16 {
	numbers := map[string]uint16{}
	for _, a := range p.Status.Allocations {
		numbers[a.Name] = uint16(a.NodePort)
	}
	return numbers
}

func TestACompanionThatAQuotaForbidsIsSaidAndMadeLater(t *testing.T) {
	s := open(t, "quota", "30500-30509")
	quota := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "no-node-ports"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourceServicesNodePorts: resource.MustParse("0")}},
	}
	s.create(quota)
	// A quota holds as soon as somebody has counted; no controller does so in the lab.
	quota.Status.Hard = quota.Spec.Hard
	quota.Status.Used = corev1.ResourceList{corev1.ResourceServicesNodePorts: resource.MustParse("0")}
	if err := town.Client.Status().Update(s.ctx, quota); err != nil {
		t.Fatal(err)
	}
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	if c := s.awaitReason(policy, v1alpha1.Stalled, v1alpha1.ReasonServiceRefused); !strings.Contains(c.Message, "no-node-ports") {
		t.Errorf("the message %q does not say what forbids it", c.Message)
	}
	s.delete(quota)
	s.awaitReady(policy)
}
