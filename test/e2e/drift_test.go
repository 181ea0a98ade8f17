package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// A foreign flush of rules that are not ours alone is repaired within seconds, is
// counted and told; one of a table that is ours alone does nothing at all.
func TestAForeignFlushIsRepairedAndTold(t *testing.T) {
	s := open(t, "flushed", "30570-30579")
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	node := town.Nodes()[0]
	if out, err := node.Namespace.Output(s.ctx, "nft", "delete", "table", "inet", "portreeve"); err == nil {
		t.Errorf("somebody else deleted a table that is ours alone: %s", out)
	}
	s.silent(s.street, from(streetCIDR, 1), port)

	s.installation(func(p *v1alpha1.Portreeve) { p.Spec.Firewall = v1alpha1.FirewallIPTables })
	s.eventually("it filters by iptables", func() error {
		if d := s.report(node); !strings.HasPrefix(d.Datapath, "iptables") {
			return fmt.Errorf("%s: %s", d.Datapath, d.DatapathReason)
		}
		return nil
	})
	before := time.Now()
	if _, err := node.Namespace.Output(s.ctx, "iptables", "-w", "10", "-t", "mangle", "-F"); err != nil {
		t.Fatal(err)
	}
	s.eventually("the repair is reported", func() error {
		if r := s.report(node).Repairs; r == nil || r.Last.Time.Before(before.Add(-time.Second)) || r.Damage == "" {
			return fmt.Errorf("repairs: %+v", r)
		}
		return nil
	})
	s.silent(s.street, from(streetCIDR, 1), port)
	s.answers(s.office, from(officeCIDR, 1), port)
	s.eventually("there is an event", func() error {
		var list eventsv1.EventList
		if err := town.Client.List(s.ctx, &list); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Reason == "Repaired" && e.Regarding.Name == node.Name && e.Type == corev1.EventTypeWarning {
				return nil
			}
		}
		return fmt.Errorf("%d events, none of them", len(list.Items))
	})
}
