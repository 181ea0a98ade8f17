package e2e

import (
	"context"
	"fmt"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/explain"
	"github.com/portreeve/portreeve/test/health"
)

// set makes an AddressSet that every namespace may refer to.
func (s *scene) set(name string, cidrs ...v1alpha1.CIDR) *v1alpha1.AddressSet {
	s.Helper()
	set := &v1alpha1.AddressSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.AddressSetSpec{CIDRs: cidrs, AllowedFor: &v1alpha1.NamespaceChoice{}},
	}
	s.create(set)
	s.Cleanup(func() { _ = town.Client.Delete(context.Background(), set) })
	return set
}

func TestAnAddressSetReachesEveryPolicy(t *testing.T) {
	s := open(t, "sets", "31100-31109")
	place := s.set("sets-place", officeCIDR)
	var numbers []uint16
	var versions []string
	for i := range 3 {
		policy := s.policy(fmt.Sprintf("p%d", i))
		policy.Spec.Sources = []v1alpha1.Source{{AddressSet: "sets-place"}}
		s.create(policy)
		numbers = append(numbers, s.awaitReady(policy))
		versions = append(versions, s.allocation(numbers[i]).ResourceVersion)
	}
	s.answers(s.office, from(officeCIDR, 1), numbers[0])
	s.silent(s.street, from(streetCIDR, 1), numbers[0])

	edit(s, place, func(a *v1alpha1.AddressSet) { a.Spec.CIDRs = []v1alpha1.CIDR{streetCIDR} })
	for _, n := range numbers {
		s.answers(s.street, from(streetCIDR, 1), n)
		s.silentSoon(s.office, from(officeCIDR, 1), n)
	}
	for i, n := range numbers {
		if got := s.allocation(n).ResourceVersion; got != versions[i] {
			t.Errorf("allocation %d was written for a change of its set", n)
		}
	}

	s.delete(place)
	for _, n := range numbers {
		s.silentSoon(s.street, from(streetCIDR, 1), n)
	}
	policy := s.policy("p0")
	s.awaitReason(policy, v1alpha1.Accepted, v1alpha1.ReasonSourceRefused)
}

func TestAnAddressSetThatGrowsIsJudgedAgain(t *testing.T) {
	s := open(t, "grows", "31110-31119")
	place := s.set("grows-place", officeCIDR)
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) { p.Spec.Guardrails.WidestIPv4 = ptr.To[int32](24) })
	policy := s.policy("shop", streetCIDR)
	policy.Spec.Sources = append(policy.Spec.Sources, v1alpha1.Source{AddressSet: "grows-place"})
	s.create(policy)
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), port)
	edit(s, place, func(a *v1alpha1.AddressSet) { a.Spec.CIDRs = []v1alpha1.CIDR{"203.0.112.0/23"} })
	s.awaitReason(policy, v1alpha1.Accepted, v1alpha1.ReasonSourceRefused)
	s.silentSoon(s.office, from(officeCIDR, 1), port)
	s.answers(s.street, from(streetCIDR, 1), port)
}

func TestTheWorldIsOpenedByItsOwnWordAndThePools(t *testing.T) {
	s := open(t, "world", "31120-31129")
	policy := s.policy("shop")
	policy.Spec.Sources = []v1alpha1.Source{{Entity: v1alpha1.EntityWorld}}
	s.create(policy)
	s.awaitReason(policy, v1alpha1.Accepted, v1alpha1.ReasonSourceRefused)
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) { p.Spec.Guardrails.World = v1alpha1.Allow })
	port := s.awaitReady(policy)
	s.answers(s.street, from(streetCIDR, 1), port)
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) { p.Spec.Guardrails.World = v1alpha1.Deny })
	s.silentSoon(s.street, from(streetCIDR, 1), port)
}

func TestAbsentSourcesAreThePoolsDefaults(t *testing.T) {
	s := open(t, "defaults", "31130-31139")
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) {
		p.Spec.DefaultSources = []v1alpha1.DefaultSource{{CIDR: officeCIDR}}
	})
	absent, empty := s.policy("absent"), s.policy("empty")
	empty.Spec.Sources = []v1alpha1.Source{}
	s.create(absent)
	s.create(empty)
	s.answers(s.office, from(officeCIDR, 1), s.awaitReady(absent))
	s.silent(s.office, from(officeCIDR, 1), s.awaitReady(empty))
}

func TestPortsOpenOnAllowedNodesOnly(t *testing.T) {
	s := open(t, "nodes", "31140-31149")
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) {
		p.Spec.Guardrails.AllowedNodes = &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/hostname": town.Nodes()[0].Name}}
	})
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	s.askedOn(town.Nodes()[0].Name, port, true)
	s.askedOn(town.Nodes()[1].Name, port, false)
	s.audits()
	s.explains("shop", from(officeCIDR, 1), explain.Partial, explain.GateNode, explain.ReasonNotSelected)
}

func TestLockdownClosesEverything(t *testing.T) {
	s := open(t, "lockdown", "31150-31159")
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), port)
	held, err := s.office.Hold(s.ctx, flow(town.Nodes()[0], from(officeCIDR, 1), port))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	s.installation(func(p *v1alpha1.Portreeve) { p.Spec.Lockdown = true })
	s.silentSoon(s.office, from(officeCIDR, 2), port)
	s.eventually("the live connection is cut", func() error {
		select {
		case <-held.Cut():
			return nil
		default:
			return fmt.Errorf("it lives")
		}
	})
	s.awaitReason(policy, v1alpha1.Ready, v1alpha1.ReasonLockdown)
	health.Check(t, policy, health.Paused)
	s.installation(func(p *v1alpha1.Portreeve) { p.Spec.Lockdown = false })
	s.answers(s.office, from(officeCIDR, 2), port)
	s.awaitReady(policy)
}
