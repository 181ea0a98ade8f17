package main

import (
	"fmt"
	"log/slog"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/iptables"
	"github.com/portreeve/portreeve/datapath/nftables"
	"github.com/portreeve/portreeve/internal/agent"
)

// backends are the ways this agent can enforce, the preferred first: nobody else's
// rules run ahead of a chain of our own, and its changes are transactions.
func backends(o options, log *slog.Logger) []agent.Backend {
	return []agent.Backend{
		{Firewall: v1alpha1.FirewallNFTables, Open: func() (datapath.Datapath, string, error) {
			d, err := nftables.New()
			if err != nil {
				return nil, "", err
			}
			if d.Owned() {
				return d, "nftables (owner)", nil
			}
			return d, "nftables (shared)", nil
		}},
		{Firewall: v1alpha1.FirewallIPTables, Open: func() (datapath.Datapath, string, error) {
			d, err := iptables.New(o.firewallMode)
			if err != nil {
				return nil, "", err
			}
			if found := d.Detection(); len(found.Hinted) > 1 {
				log.Warn("Kubernetes' own rules stand in more than one firewall mode of this node; set --firewall-mode", "modes", found.Hinted, "using", found.Mode)
			}
			return d, fmt.Sprintf("iptables (%s)", d.Detection().Mode), nil
		}},
	}
}
