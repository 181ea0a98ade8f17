package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

func TestExceptionsAreNotAdmitted(t *testing.T) {
	s := open(t, "except", "32600-32609")
	policy := s.policy("shop", officeCIDR) // .0 to .15
	policy.Spec.Sources[0].Except = []v1alpha1.CIDR{"203.0.113.8/30"}
	s.create(policy)
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 7), port)
	s.answers(s.office, from(officeCIDR, 12), port)
	s.silent(s.office, from(officeCIDR, 8), port)
	held, err := s.office.Hold(s.ctx, flow(town.Nodes()[0], from(officeCIDR, 7), port))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Sources[0].Except = []v1alpha1.CIDR{"203.0.113.4/30"} })
	s.answers(s.office, from(officeCIDR, 8), port)
	s.silentSoon(s.office, from(officeCIDR, 7), port)
	s.cut(held)
}

// cut waits for the end of a connection.
func (s *scene) cut(held *lab.Held) {
	s.Helper()
	s.eventually("the live connection is cut", func() error {
		select {
		case <-held.Cut():
			return nil
		default:
			return fmt.Errorf("it lives")
		}
	})
}

// between asks the port on one machine of the lab from another, until the answer is as
// wanted.
func (s *scene) between(who *lab.Namespace, to *lab.Node, number uint16, want lab.Outcome) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s asked on %d: %s", to.Name, number, want), func() error {
		if a := who.Ask(s.ctx, flow(to, netip.AddrPort{}, number)); a.Outcome != want {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
}

func TestEntityNodesFollowsTheNodes(t *testing.T) {
	s := open(t, "entity-nodes", "32610-32619")
	policy := s.policy("shop")
	policy.Spec.Sources = []v1alpha1.Source{{Entity: v1alpha1.EntityNodes}}
	s.create(policy)
	port := s.awaitReady(policy)
	one, two := town.Nodes()[0], town.Nodes()[1]
	pod, err := town.AddPod(s.ctx, two, s.namespace, "neighbour", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.between(two.Namespace, one, port, lab.Answered)
	s.between(pod.Namespace, one, port, lab.TimedOut) // a pod is no node
	s.silent(s.office, from(officeCIDR, 3), port)

	// A node joins: none that enforces, so nobody waits for its proof.
	before := s.allocation(port).ResourceVersion
	visitor := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "visitor", Labels: map[string]string{corev1.LabelOSStable: "windows"}}}
	s.create(visitor)
	s.Cleanup(func() { _ = town.Client.Delete(context.Background(), visitor) })
	s.eventually("it has an address", func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(visitor), visitor); err != nil {
			return err
		}
		visitor.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: from(officeCIDR, 3).Addr().String()}}
		return town.Client.Status().Update(s.ctx, visitor)
	})
	s.answers(s.office, from(officeCIDR, 3), port)
	s.silent(s.office, from(officeCIDR, 4), port)
	if after := s.allocation(port).ResourceVersion; after != before {
		t.Error("the allocation was written for a node that joined")
	}

	// What somebody writes into the set is undone.
	var sets v1alpha1.AddressSetList
	if err := town.Client.List(s.ctx, &sets, client.MatchingLabels{v1alpha1.LabelEntity: string(v1alpha1.EntityNodes)}); err != nil || len(sets.Items) != 1 {
		t.Fatalf("%d sets with addresses of nodes: %v", len(sets.Items), err)
	}
	kept := &sets.Items[0]
	edit(s, kept, func(a *v1alpha1.AddressSet) { a.Spec.CIDRs = append(a.Spec.CIDRs, streetCIDR) })
	s.eventually("the set is set right", func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(kept), kept); err != nil {
			return err
		}
		if slices.Contains(kept.Spec.CIDRs, streetCIDR) {
			return fmt.Errorf("it holds %v", kept.Spec.CIDRs)
		}
		return nil
	})
	s.silentSoon(s.street, from(streetCIDR, 1), port)

	s.delete(visitor)
	s.silentSoon(s.office, from(officeCIDR, 3), port)
	s.between(two.Namespace, one, port, lab.Answered)
}

func TestEntityClusterNeedsItsNetworks(t *testing.T) {
	s := open(t, "entity-cluster", "32620-32629")
	policy := s.policy("shop")
	policy.Spec.Sources = []v1alpha1.Source{{Entity: v1alpha1.EntityCluster}}
	s.create(policy)
	s.awaitReason(policy, v1alpha1.Accepted, v1alpha1.ReasonSourceRefused)
	one, two := town.Nodes()[0], town.Nodes()[1]
	pod, err := town.AddPod(s.ctx, two, s.namespace, "neighbour", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.installation(func(p *v1alpha1.Portreeve) {
		for _, n := range town.Nodes() {
			for _, c := range n.PodCIDRs {
				p.Spec.ClusterCIDRs = append(p.Spec.ClusterCIDRs, v1alpha1.CIDR(c.String()))
			}
		}
	})
	port := s.awaitReady(policy)
	s.between(pod.Namespace, one, port, lab.Answered)
	s.between(two.Namespace, one, port, lab.Answered)
	s.silent(s.street, from(streetCIDR, 1), port)
	s.installation(func(p *v1alpha1.Portreeve) { p.Spec.ClusterCIDRs = nil })
	s.between(pod.Namespace, one, port, lab.TimedOut)
	s.awaitReason(policy, v1alpha1.Accepted, v1alpha1.ReasonSourceRefused)
}
