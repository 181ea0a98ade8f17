// Package olm has a real Operator Lifecycle Manager install us from our catalog, with no
// rights but those of our bundle, and upgrade us from an earlier version under traffic.
// Its programs take minutes to build: it runs by make test-olm.
//
//	opm ──serves──► catalog/ ──► CatalogSource
//	catalog, olm (OLM's operators) ──► InstallPlan ──► our kinds, accounts, Deployment
//	our manager ──► the agents' DaemonSet ──► nodes filter
package olm

import (
	"fmt"
	"net/netip"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// What is checked in is installed from the catalog, and does its work.
func TestOLMInstallsUs(t *testing.T) {
	ctx, bin := build(t)
	now, err := checkedIn(bin, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := setUp(ctx, t, now)
	s.runsInForce(now)
	s.guarded()
	s.confined(now)
	s.removed(now)
}

// An earlier version is upgraded to this one while a policy is in force and everybody
// knocks: the port, the rules and the connections stay.
func TestOLMUpgradesUs(t *testing.T) {
	ctx, bin := build(t)
	then, genuine, err := earlier(ctx, bin, t.TempDir(), "0.0.1", "")
	if err != nil {
		t.Fatal(err)
	}
	now, err := generated(ctx, bin, t.TempDir(), "BUNDLE_REPLACES="+then.name)
	if err != nil {
		t.Fatal(err)
	}
	s := setUp(ctx, t, then, now)
	s.runsInForce(then)
	s.Run("the earlier version is another one", func(t *testing.T) {
		if !genuine {
			t.Skip("this clone has no history: upgraded from its own programs under a lower number")
		}
		if err := s.knowsGateways(); !apierrors.IsNotFound(err) {
			t.Errorf("it knows gateways: %v", err)
		}
	})
	traffic := s.replacedBy(now)
	if err := s.knowsGateways(); err != nil {
		s.Errorf("the new version does not know gateways: %v", err)
	}
	s.confined(now)
	// By a word that only the new version understands.
	s.revoked(traffic, func(p *v1alpha1.NodePortPolicy) { p.Spec.ExternalTrafficPolicy = v1alpha1.TrafficLocal })
	if have := s.companion().Spec.ExternalTrafficPolicy; have != corev1.ServiceExternalTrafficPolicyLocal {
		s.Errorf("the companion's traffic policy is %s", have)
	}
}

// OLM knows no way back but the earlier version under a higher number: that, too, leaves
// the port, the rules and the connections.
func TestOLMTakesUsBack(t *testing.T) {
	ctx, bin := build(t)
	now, err := checkedIn(bin, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	back, _, err := earlier(ctx, bin, t.TempDir(), "9.0.0", now.name)
	if err != nil {
		t.Fatal(err)
	}
	s := setUp(ctx, t, now, back)
	s.runsInForce(now)
	traffic := s.replacedBy(back)
	s.revoked(traffic, func(*v1alpha1.NodePortPolicy) {})
}

// runsInForce has a release installed, and a policy in force, and OLM busy with nothing.
func (s *scene) runsInForce(r release) {
	s.Helper()
	s.offers(r)
	s.subscribed()
	s.installed(r)
	s.created(r)
	s.exposed()
	s.planned()
}

// replacedBy offers another release under traffic, and waits until all of it runs.
func (s *scene) replacedBy(r release) *traffic {
	s.Helper()
	kept := s.identities()
	traffic := s.goes()
	s.offers(r)
	s.installed(r)
	s.eventually("three agents of "+r.agent+" are ready", func() error { return s.runs(r.agent) })
	s.eventually("the policy is Ready", s.ready)
	traffic.report(s)
	if have := s.identities(); have != kept {
		s.Errorf("with %s there are %+v, before there were %+v", r.name, have, kept)
	}
	return traffic
}

// created is the object that the bundle wants to be made first.
func (s *scene) created(r release) {
	s.Helper()
	if err := s.town.ApplyYAML(s.ctx, nil, r.first); err != nil {
		s.Fatal(err)
	}
	s.object = &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName}}
	s.eventually("three agents are ready, and the object says so", func() error { return s.runs(r.agent) })
}

// runs sees that all agents are of the image.
func (s *scene) runs(image string) error {
	if err := s.client.Get(s.ctx, client.ObjectKeyFromObject(s.object), s.object); err != nil {
		return err
	}
	want := v1alpha1.AgentStatus{Image: image, Nodes: 3, Updated: 3, Ready: 3}
	ready := meta.FindStatusCondition(s.object.Status.Conditions, v1alpha1.Ready)
	if s.object.Status.Agent == nil || *s.object.Status.Agent != want || ready == nil || ready.Status != metav1.ConditionTrue {
		return fmt.Errorf("%+v, Ready %+v", s.object.Status.Agent, ready)
	}
	return nil
}

// guarded sees the admission policies, which a bundle can't carry: the manager makes them.
func (s *scene) guarded() {
	s.Helper()
	s.eventually("there are admission policies, each with its binding", func() error {
		var policies admissionv1.ValidatingAdmissionPolicyList
		if err := s.client.List(s.ctx, &policies, client.MatchingLabels{"app.kubernetes.io/part-of": "portreeve"}); err != nil {
			return err
		}
		var bindings admissionv1.ValidatingAdmissionPolicyBindingList
		if err := s.client.List(s.ctx, &bindings); err != nil {
			return err
		}
		if len(policies.Items) < 5 || len(bindings.Items) < 4 { // one is bound only where namespaces are named
			return fmt.Errorf("%d policies, %d bindings", len(policies.Items), len(bindings.Items))
		}
		return nil
	})
}

const poolFirst = 30000

// exposed has a team's port open to half of the office.
func (s *scene) exposed() {
	s.Helper()
	if _, err := s.town.AddPod(s.ctx, s.town.Nodes()[0], "shop", "pod", map[string]string{"app": "shop"}); err != nil {
		s.Fatal(err)
	}
	pool := &v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: v1alpha1.NodePortPoolSpec{
		Category: "web", Team: "shop", Ranges: []v1alpha1.PortRange{"30000-30009"},
		AllocateTo: v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{"shop"}},
	}}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: "shop"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "shop"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(lab.EchoPort)}},
	}}
	s.policy = &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: "shop"}, Spec: v1alpha1.NodePortPolicySpec{
		Category: "web", ServiceRef: v1alpha1.ServiceReference{Name: "shop"}, Sources: []v1alpha1.Source{{CIDR: "203.0.113.0/29"}},
	}}
	for _, o := range []client.Object{pool, service, s.policy} {
		if err := s.client.Create(s.ctx, o); err != nil {
			s.Fatal(err)
		}
	}
	s.eventually("the policy is Ready", s.ready)
	s.port = uint16(s.policy.Status.Allocations[0].NodePort)
	s.eventually("every node judges", func() error { return s.asked(lab.Answered) })
}

func (s *scene) ready() error {
	if err := s.client.Get(s.ctx, client.ObjectKeyFromObject(s.policy), s.policy); err != nil {
		return err
	}
	ready := meta.FindStatusCondition(s.policy.Status.Conditions, v1alpha1.Ready)
	if ready == nil || ready.Status != metav1.ConditionTrue || s.policy.Status.ObservedGeneration != s.policy.Generation {
		return fmt.Errorf("generation %d: %+v", s.policy.Generation, s.policy.Status)
	}
	return nil
}

// asked sees what becomes, on each node, of the half of the office that was named first,
// and that the other half is dropped.
func (s *scene) asked(named lab.Outcome) error {
	for _, node := range s.town.Nodes() {
		for source, want := range map[string]lab.Outcome{"203.0.113.1": named, "203.0.113.9": lab.TimedOut} {
			flow := lab.Flow{From: netip.AddrPortFrom(netip.MustParseAddr(source), 0), To: netip.AddrPortFrom(node.Addrs[0], s.port)}
			if want == lab.Answered {
				flow.Timeout = patience
			}
			if a := s.office.Ask(s.ctx, flow); a.Outcome != want {
				return fmt.Errorf("%s asks %s: %s", source, node.Name, a)
			}
		}
	}
	return nil
}

// removed takes away what a person has made for OLM: the manager goes, and the rights of
// both, and with nobody left to tell them the agents keep what was in force.
func (s *scene) removed(r release) {
	s.Helper()
	if out, err := s.town.Kubectl(s.ctx, "delete", "-n", namespace, "subscriptions.operators.coreos.com,clusterserviceversions.operators.coreos.com", "--all"); err != nil {
		s.Fatal(out, err)
	}
	s.eventually("the managers are gone, the agents are not", func() error {
		var pods corev1.PodList
		if err := s.client.List(s.ctx, &pods, client.InNamespace(namespace)); err != nil {
			return err
		}
		seen := map[string]int{}
		for _, pod := range pods.Items {
			seen[pod.Labels["app.kubernetes.io/component"]]++
		}
		if seen["manager"] != 0 || seen["agent"] != 3 {
			return fmt.Errorf("there are pods of %v", seen)
		}
		return nil
	})
	s.eventually("nobody has their rights", func() error { return s.bindings(r, leftBinding) })
	s.eventually("nor their names", func() error {
		var accounts corev1.ServiceAccountList
		if err := s.client.List(s.ctx, &accounts, client.InNamespace(namespace)); err != nil {
			return err
		}
		for i := range accounts.Items {
			if name := accounts.Items[i].Name; name != "default" {
				return fmt.Errorf("there is %s", name)
			}
		}
		return nil
	})
	if err := s.asked(lab.Answered); err != nil {
		s.Errorf("without a manager: %v", err)
	}
}

// knowsGateways is nil where there is the definition of GatewaySets.
func (s *scene) knowsGateways() error {
	definition := &metav1.PartialObjectMetadata{}
	definition.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition"})
	return s.client.Get(s.ctx, client.ObjectKey{Name: "gatewaysets." + v1alpha1.GroupVersion.Group}, definition)
}

// identity is what an upgrade must leave alone.
type identity struct {
	port                int32
	allocation, service types.UID
	servicePort         int32
}

func (s *scene) identities() identity {
	s.Helper()
	var allocation v1alpha1.NodePortAllocation
	for o, key := range map[client.Object]client.ObjectKey{
		s.policy: client.ObjectKeyFromObject(s.policy), &allocation: {Name: fmt.Sprint(s.port)},
	} {
		if err := s.client.Get(s.ctx, key, o); err != nil {
			s.Fatal(err)
		}
	}
	service := s.companion()
	return identity{s.policy.Status.Allocations[0].NodePort, allocation.UID, service.UID, service.Spec.Ports[0].NodePort}
}

func (s *scene) companion() *corev1.Service {
	s.Helper()
	var service corev1.Service
	if err := s.client.Get(s.ctx, client.ObjectKey{Namespace: "shop", Name: "shop-nodeport"}, &service); err != nil {
		s.Fatal(err)
	}
	return &service
}

// revoked gives the port to others, and something more: those who were let in by the
// version before are cut off.
func (s *scene) revoked(t *traffic, and func(*v1alpha1.NodePortPolicy)) {
	s.Helper()
	s.eventually("edit the policy", func() error {
		if err := s.client.Get(s.ctx, client.ObjectKeyFromObject(s.policy), s.policy); err != nil {
			return err
		}
		s.policy.Spec.Sources = []v1alpha1.Source{{CIDR: "198.51.100.0/29"}}
		and(s.policy)
		return s.client.Update(s.ctx, s.policy)
	})
	s.eventually("the policy is Ready", s.ready)
	if err := s.asked(lab.TimedOut); err != nil {
		s.Errorf("after their right was taken: %v", err)
	}
	for i, held := range t.held {
		select {
		case <-held.Cut():
		case <-s.ctx.Done():
			s.Errorf("the connection to %s goes on", s.town.Nodes()[i].Name)
		}
	}
}
