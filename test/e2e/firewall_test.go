package e2e

import (
	"fmt"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// The nodes change from one firewall to the other and back under a connection that
// lives on, and nothing is left of the one that went.
func TestTheNodesChangeTheirFirewall(t *testing.T) {
	s := open(t, "firewall", "30560-30569")
	policy := s.policy("shop", officeCIDR, officeCIDR6)
	s.create(policy)
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), port)
	held, err := s.office.Hold(s.ctx, patiently(flow(town.Nodes()[0], from(officeCIDR, 1), port)))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for _, change := range []struct {
		wish           v1alpha1.Firewall
		here, gone     string
		listing, other []string
	}{
		{v1alpha1.FirewallIPTables, "iptables (nft)", "nftables (owner)", []string{"iptables-save", "-t", "mangle"}, []string{"nft", "list", "tables"}},
		{v1alpha1.FirewallAuto, "nftables (owner)", "iptables (nft)", []string{"nft", "list", "tables"}, []string{"iptables-save", "-t", "mangle"}},
	} {
		s.installation(func(p *v1alpha1.Portreeve) { p.Spec.Firewall = change.wish })
		for _, n := range town.Nodes() {
			s.eventually(n.Name+" filters by "+change.here, func() error {
				var d v1alpha1.NodeDatapath
				if err := town.Client.Get(s.ctx, client.ObjectKey{Name: n.Name}, &d); err != nil {
					return err
				}
				if d.Status.Datapath != change.here {
					return fmt.Errorf("%s: %s", d.Status.Datapath, d.Status.DatapathReason)
				}
				return nil
			})
			s.eventually("nothing is left of "+change.gone, func() error {
				here, err := n.Namespace.Output(s.ctx, change.listing...)
				if err != nil {
					return err
				}
				gone, err := n.Namespace.Output(s.ctx, change.other...)
				if err != nil {
					return err
				}
				if ours(gone) || !ours(here) {
					return fmt.Errorf("%s lists\n%s\nand %s\n%s", change.listing[0], here, change.other[0], gone)
				}
				return nil
			})
		}
		s.awaitReady(policy)
		select {
		case <-held.Cut():
			t.Errorf("a connection did not outlive the change to %s: %s", change.here, held.End())
		default:
		}
		s.answers(s.office, from(officeCIDR, 1), port)
		s.answers(s.office, from(officeCIDR6, 1), port)
		s.silent(s.street, from(streetCIDR, 1), port)
		s.silent(s.street, from(streetCIDR6, 1), port)
	}
}

func ours(listing string) bool {
	return strings.Contains(strings.ToLower(listing), "portreeve")
}
