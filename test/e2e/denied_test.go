package e2e

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

func TestDeniedSetsComeBeforeEveryPolicy(t *testing.T) {
	s := open(t, "unwelcome", "32630-32639")
	bad := s.set("denied-bad", "203.0.113.4/30")
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 4), port)
	held, err := s.office.Hold(s.ctx, flow(town.Nodes()[0], from(officeCIDR, 4), port))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()

	s.installation(func(p *v1alpha1.Portreeve) { p.Spec.DenyAddressSets = []v1alpha1.ObjectName{"denied-bad"} })
	s.silentSoon(s.office, from(officeCIDR, 4), port)
	s.cut(held)
	s.answers(s.office, from(officeCIDR, 1), port)
	s.awaitReady(policy)

	edit(s, bad, func(a *v1alpha1.AddressSet) { a.Spec.CIDRs = []v1alpha1.CIDR{"203.0.113.8/30"} })
	s.answers(s.office, from(officeCIDR, 4), port)
	s.silentSoon(s.office, from(officeCIDR, 8), port)

	// Deleting the set lets nobody in, and is said.
	s.delete(bad)
	s.installationSays(v1alpha1.ReasonAddressSetNotFound)
	s.eventually("the nodes say so", func() error {
		for _, n := range town.Nodes() {
			var d v1alpha1.NodeDatapath
			if err := town.Client.Get(s.ctx, client.ObjectKey{Name: n.Name}, &d); err != nil {
				return err
			}
			if len(d.Status.Exceptions) == 0 || !strings.Contains(d.Status.Exceptions[0].Reason, "denied-bad is gone") {
				return fmt.Errorf("%s: %+v", n.Name, d.Status.Exceptions)
			}
		}
		return nil
	})
	s.silent(s.office, from(officeCIDR, 8), port)
	s.installation(func(p *v1alpha1.Portreeve) { p.Spec.DenyAddressSets = nil })
	s.answers(s.office, from(officeCIDR, 8), port)
	s.installationSays(v1alpha1.ReasonOK)
}

// installationSays waits for the reason of Ready of the Portreeve object.
func (s *scene) installationSays(reason string) {
	s.Helper()
	s.eventually("the installation says "+reason, func() error {
		var object v1alpha1.Portreeve
		if err := town.Client.Get(s.ctx, client.ObjectKey{Name: v1alpha1.InstallationName}, &object); err != nil {
			return err
		}
		for _, c := range object.Status.Conditions {
			if c.Type == v1alpha1.Ready && c.Reason == reason && c.ObservedGeneration == object.Generation {
				return nil
			}
		}
		return fmt.Errorf("conditions: %s", describe(object.Status.Conditions))
	})
}

// On addresses that are not listed nothing is dropped, of neither family.
func TestPortsAreJudgedOnTheListedAddressesOnly(t *testing.T) {
	s := open(t, "judged-on", "32640-32649")
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	s.silent(s.street, from(streetCIDR, 1), port)
	s.silent(s.street, from(streetCIDR6, 1), port)
	s.installation(func(p *v1alpha1.Portreeve) { p.Spec.NodeAddresses = []v1alpha1.Network{"0.0.0.0/0"} })
	s.answers(s.street, from(streetCIDR6, 1), port)
	s.silent(s.street, from(streetCIDR, 1), port)
	s.installation(func(p *v1alpha1.Portreeve) { p.Spec.NodeAddresses = nil })
	s.silentSoon(s.street, from(streetCIDR6, 1), port)
}
