package e2e

import (
	"syscall"
	"testing"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

func TestRulesStayWhenAnAgentEnds(t *testing.T) {
	s := open(t, "static", "30400-30409")
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	node := town.Nodes()[0]
	agent := town.Agent(node)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		agent.Signal(signal)
		<-agent.Done()
		s.answers(s.office, from(officeCIDR, 1), port)
		s.silent(s.street, from(streetCIDR, 1), port)
		s.silent(s.office, from(officeCIDR, 1), port+1)
		if err := town.StartAgent(s.ctx, node); err != nil {
			t.Fatal(err)
		}
		agent = town.Agent(node)
	}
	// The restarted agent takes up its work.
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) {
		p.Spec.Sources = append(p.Spec.Sources, v1alpha1.Source{CIDR: streetCIDR})
	})
	s.awaitReady(policy)
	s.answers(s.street, from(streetCIDR, 1), port)
}

// The API server is away for a minute and an agent is restarted meanwhile:
// allowed traffic flows on, denied traffic stays denied, the whole time.
func TestAMinuteWithoutAPIServerChangesNothingForTraffic(t *testing.T) {
	s := open(t, "outage", "30410-30419")
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), port)
	node := town.Nodes()[0]
	held, err := s.office.Hold(s.ctx, patiently(flow(node, from(officeCIDR, 2), port)))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()

	town.StopAPIServer()
	ends := time.Now().Add(time.Minute)
	agent := town.Agent(node)
	agent.Kill()
	<-agent.Done()
	if err := town.RestartAgent(s.ctx, node); err != nil {
		t.Fatal(err)
	}
	for time.Now().Before(ends) {
		s.answers(s.office, from(officeCIDR, 1), port)
		s.silent(s.street, from(streetCIDR, 1), port)
		s.silent(s.office, from(officeCIDR, 1), port+1)
	}
	select {
	case <-held.Cut():
		t.Errorf("an allowed connection was cut during the outage: %s", held.End())
	default:
	}
	if err := town.StartAPIServer(s.ctx); err != nil {
		t.Fatal(err)
	}
	// A manager that can't renew its lease ends, and is started again as a
	// Deployment would.
	<-town.Manager().Done()
	if err := town.StartManager(s.ctx, nil); err != nil {
		t.Fatal(err)
	}
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Sources = nil })
	s.awaitReady(policy)
	s.silentSoon(s.office, from(officeCIDR, 1), port)
	// kube-proxy looks again after up to half a minute; later tests need it sooner.
	for _, node := range town.Nodes() {
		node.StopKubeProxy()
		if err := node.StartKubeProxy(s.ctx); err != nil {
			t.Fatal(err)
		}
	}
}
