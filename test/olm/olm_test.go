// Package olm has a real Operator Lifecycle Manager install us from our catalog, with no
// rights but those of our bundle, and upgrade us from an earlier version under traffic.
// Its programs take minutes to build: it runs by make test-olm.
//
//	opm ──serves──► catalog/ ──► CatalogSource
//	catalog, olm (OLM's operators) ──► InstallPlan ──► our kinds, accounts, Deployment
//	our manager ──► the agents' DaemonSet ──► nodes filter
package olm

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
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
	s.offers(now)
	s.subscribed()
	s.installed(now)
	s.created(now)
	s.guarded()
	s.exposed()
	s.confined(now)
	s.removed()
}

// The version before is upgraded to this one while a policy is in force and everybody
// knocks: the port, the rules and the connections stay.
func TestOLMUpgradesUs(t *testing.T) {
	ctx, bin := build(t)
	then, genuine, err := before(ctx, bin, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	now, err := generated(ctx, bin, t.TempDir(), "BUNDLE_REPLACES="+then.name)
	if err != nil {
		t.Fatal(err)
	}
	s := setUp(ctx, t, then, now)
	s.offers(then)
	s.subscribed()
	s.installed(then)
	s.created(then)
	s.exposed()
	s.Run("the version before is another one", func(t *testing.T) {
		if !genuine {
			t.Skip("this clone has no history: upgraded from its own programs under a lower number")
		}
		if err := s.knowsGateways(); !apierrors.IsNotFound(err) {
			t.Errorf("it knows gateways: %v", err)
		}
	})
	kept := s.identities()
	traffic := s.goes()

	s.offers(now)
	s.installed(now)
	s.eventually("three agents of the new version are ready", func() error { return s.runs(now.agent) })
	s.eventually("the policy is Ready", s.ready)
	traffic.report(s)

	if have := s.identities(); have != kept {
		s.Errorf("after the upgrade there are %+v, before there were %+v", have, kept)
	}
	if err := s.knowsGateways(); err != nil {
		s.Errorf("the new version does not know gateways: %v", err)
	}
	s.confined(now)
	s.revoked(traffic)
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
			if a := s.office.Ask(s.ctx, flow); a.Outcome != want {
				return fmt.Errorf("%s asks %s: %s", source, node.Name, a)
			}
		}
	}
	return nil
}

// removed takes away what a person has made for OLM: the manager goes, and with nobody
// left to tell them the agents keep what was in force.
func (s *scene) removed() {
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
	var service corev1.Service
	for o, key := range map[client.Object]client.ObjectKey{
		s.policy:    client.ObjectKeyFromObject(s.policy),
		&allocation: {Name: fmt.Sprint(s.port)},
		&service:    {Namespace: "shop", Name: "shop-nodeport"},
	} {
		if err := s.client.Get(s.ctx, key, o); err != nil {
			s.Fatal(err)
		}
	}
	return identity{s.policy.Status.Allocations[0].NodePort, allocation.UID, service.UID, service.Spec.Ports[0].NodePort}
}

// revoked gives the port to others by a policy that only the new version understands
// whole: those who were let in by the version before are cut off.
func (s *scene) revoked(t *traffic) {
	s.Helper()
	s.eventually("edit the policy", func() error {
		if err := s.client.Get(s.ctx, client.ObjectKeyFromObject(s.policy), s.policy); err != nil {
			return err
		}
		s.policy.Spec.Sources = []v1alpha1.Source{{CIDR: "198.51.100.0/29"}}
		s.policy.Spec.ExternalTrafficPolicy = v1alpha1.TrafficLocal
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
	var service corev1.Service
	if err := s.client.Get(s.ctx, client.ObjectKey{Namespace: "shop", Name: "shop-nodeport"}, &service); err != nil {
		s.Fatal(err)
	}
	if have := service.Spec.ExternalTrafficPolicy; have != corev1.ServiceExternalTrafficPolicyLocal {
		s.Errorf("the companion's traffic policy is %s", have)
	}
}

// confined sees that what runs has the rights that the bundle gives to its ServiceAccount,
// no others, and needs none that it has not.
func (s *scene) confined(r release) {
	s.Helper()
	// OLM adds a variable to the Deployment when it has Succeeded: the pods come anew.
	s.eventually("two managers and three agents run as their ServiceAccounts", s.accounts)
	s.eventually("they are bound to the bundle's roles", func() error { return s.bound(r) })
	s.secrets()
	s.unrefused()
}

func (s *scene) accounts() error {
	var pods corev1.PodList
	if err := s.client.List(s.ctx, &pods, client.InNamespace(namespace)); err != nil {
		return err
	}
	seen := map[string]int{}
	for i := range pods.Items {
		pod := &pods.Items[i]
		component := pod.Labels["app.kubernetes.io/component"]
		kubeconfig := filepath.Join(s.town.Dir(), pod.Namespace+"_"+pod.Name+".kubeconfig")
		who, err := s.town.KubectlWith(s.ctx, kubeconfig, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
		if err != nil || strings.TrimSpace(who) != "system:serviceaccount:"+namespace+":portreeve-"+component {
			return fmt.Errorf("pod %s is %q: %v", pod.Name, who, err)
		}
		seen[component]++
	}
	if seen["manager"] != 2 || seen["agent"] != 3 || len(seen) != 2 {
		return fmt.Errorf("there are pods of %v", seen)
	}
	return nil
}

// bound sees that our ServiceAccounts are bound to nothing else than this release says: of
// a permission for one namespace OLM makes one for all, where it is left to it. What OLM
// gives to every operator is its own OperatorCondition, by a role of the release's name.
func (s *scene) bound(r release) error {
	var cluster rbacv1.ClusterRoleBindingList
	var local rbacv1.RoleBindingList
	if err := errors.Join(s.client.List(s.ctx, &cluster), s.client.List(s.ctx, &local)); err != nil {
		return err
	}
	var have []string
	note := func(kind string, b metav1.ObjectMeta, subjects []rbacv1.Subject) {
		for _, subject := range subjects {
			if cmp.Or(subject.Namespace, b.Namespace) == namespace && strings.HasPrefix(subject.Name, "portreeve-") && b.Name != r.name {
				have = append(have, fmt.Sprintf("%s of %q for %s", kind, b.Labels["olm.owner"], subject.Name))
			}
		}
	}
	for i := range cluster.Items {
		note("ClusterRoleBinding", cluster.Items[i].ObjectMeta, cluster.Items[i].Subjects)
	}
	for i := range local.Items {
		note("RoleBinding", local.Items[i].ObjectMeta, local.Items[i].Subjects)
	}
	slices.Sort(have)
	want := []string{
		fmt.Sprintf("ClusterRoleBinding of %q for portreeve-agent", r.name),
		fmt.Sprintf("ClusterRoleBinding of %q for portreeve-manager", r.name),
		`RoleBinding of "" for portreeve-manager`,
	}
	if !slices.Equal(have, want) {
		return fmt.Errorf("there are %q", have)
	}
	return nil
}

// secrets sees whose Secrets the manager may read.
func (s *scene) secrets() {
	s.Helper()
	for in, want := range map[string]bool{namespace: true, "shop": false, "": false} {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:               "system:serviceaccount:" + namespace + ":portreeve-manager",
			Groups:             []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: in, Verb: "get", Resource: "secrets"},
		}}
		if err := s.client.Create(s.ctx, review); err != nil {
			s.Fatal(err)
		}
		if review.Status.Allowed != want {
			s.Errorf("the manager may read Secrets in %q: %t", in, review.Status.Allowed)
		}
	}
}

// unrefused reads in the logs that nothing was forbidden to our programs.
func (s *scene) unrefused() {
	s.Helper()
	logs, err := filepath.Glob(filepath.Join(s.town.LogDir(), namespace+"_*.log"))
	if err != nil || len(logs) < 5 {
		s.Fatalf("only the logs %q: %v", logs, err)
	}
	for _, log := range logs {
		file, err := os.Open(log)
		if err != nil {
			s.Fatal(err)
		}
		lines := bufio.NewScanner(file)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if strings.Contains(strings.ToLower(lines.Text()), "forbidden") {
				s.Errorf("%s: %s", filepath.Base(log), lines.Text())
			}
		}
		file.Close()
	}
}
