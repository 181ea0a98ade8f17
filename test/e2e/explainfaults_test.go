package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/explain"
	"github.com/portreeve/portreeve/lab"
)

// Too open: a node without an agent, and without a rule of ours, lets everybody in.
func TestExplainNamesTheNodeThatNobodyFilters(t *testing.T) {
	s := open(t, "ungated", "30815-30819")
	s.audits()
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	node := town.Nodes()[2]
	t.Cleanup(func() {
		select {
		case <-town.Agent(node).Done():
			_ = town.RestartAgent(context.Background(), node)
		default:
		}
	})
	if err := town.PowerOff(s.ctx, node); err != nil {
		t.Fatal(err)
	}
	s.delete(&v1alpha1.NodeDatapath{ObjectMeta: metav1.ObjectMeta{Name: node.Name}})
	s.answersOn(node, s.street, streetCIDR, port)
	a := s.explains("shop", from(streetCIDR, 1), explain.Partial, explain.GateSources, explain.ReasonNotListed)
	s.tooOpen(a, explain.GateNode, compile.NodeUngated)
	if a.TooOpen != nil && (a.TooOpen.Subject != node.Name || !strings.Contains(a.TooOpen.Remedy, node.Name)) {
		t.Errorf("%+v does not name %s", a.TooOpen, node.Name)
	}
	if out, status := s.plugin("auditors", "audit", "--fail-on", "Ungated", "-o", "csv"); status != 1 || !strings.Contains(out, node.Name) {
		t.Errorf("exit status %d: %s", status, out)
	}
	if err := town.RestartAgent(s.ctx, node); err != nil {
		t.Fatal(err)
	}
	s.silentOn(node, s.street, streetCIDR, port)
	a = s.explains("shop", from(streetCIDR, 1), explain.Closed, explain.GateSources, explain.ReasonNotListed)
	if a.TooOpen != nil {
		t.Errorf("too open: %+v", a.TooOpen)
	}
}

// Too open: the pool itself lets pass what nobody claims.
func TestExplainNamesThePoolThatDropsNothing(t *testing.T) {
	s := open(t, "lenient", "30830-30834")
	s.audits()
	s.leaveFree()
	node := town.Nodes()[0]
	s.listen(node, 30833)
	s.silentOn(node, s.street, streetCIDR, 30833)
	unclaimed := func(how v1alpha1.Unclaimed) explain.PortAnswer {
		t.Helper()
		edit(s, s.pool, func(p *v1alpha1.NodePortPool) { p.Spec.Unclaimed = how })
		s.answersOn(node, s.street, streetCIDR, 30833)
		return s.explains("30833", from(streetCIDR, 1), explain.Unproved, explain.GateService, explain.ReasonNoService)
	}
	s.tooOpen(unclaimed(v1alpha1.UnclaimedIgnore), explain.GateAllocation, explain.ReasonNotGated)
	s.tooOpen(unclaimed(v1alpha1.UnclaimedAudit), explain.GateAllocation, explain.ReasonAudited)
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) { p.Spec.Unclaimed = v1alpha1.UnclaimedDrop })
	s.silentOn(node, s.street, streetCIDR, 30833)
	s.explains("30833", from(streetCIDR, 1), explain.Closed, explain.GateAllocation, explain.ReasonUnclaimed)
}

// Uneven load: with Local each node has its own endpoints only, and with an affinity each
// client its own endpoint. The lines of the Service and its endpoints say so.
func TestExplainTellsWhyTheLoadIsUneven(t *testing.T) {
	s := open(t, "uneven", "30835-30839")
	s.audits()
	one, two := town.Nodes()[0], town.Nodes()[1] // with so many pods
	for _, name := range []string{"pod-2", "pod-3"} {
		if _, err := town.AddPod(s.ctx, two, s.namespace, name, map[string]string{"app": s.namespace}); err != nil {
			t.Fatal(err)
		}
	}
	policy := s.policy("shop", officeCIDR)
	policy.Spec.ExternalTrafficPolicy = v1alpha1.TrafficLocal
	s.create(policy)
	port := s.awaitReady(policy)
	s.eventually("each node uses its own pods, and all of them", func() error {
		if pods, err := s.pods(one, port); err != nil || len(pods) != 1 {
			return fmt.Errorf("%s: %v, %v", one.Name, pods, err)
		}
		if pods, err := s.pods(two, port); err != nil || len(pods) != 2 {
			return fmt.Errorf("%s: %v, %v", two.Name, pods, err)
		}
		return nil
	})
	a := s.explains("shop", from(officeCIDR, 1), explain.Partial, explain.GateNode, explain.ReasonNoLocal)
	s.tells(a, explain.GateEndpoints, fmt.Sprintf("ready: 1 on %s, 2 on %s", one.Name, two.Name))
	s.tells(a, explain.GateService, "externalTrafficPolicy Local: only nodes with an endpoint answer")

	edit(s, policy, func(p *v1alpha1.NodePortPolicy) {
		p.Spec.ExternalTrafficPolicy = v1alpha1.TrafficCluster
		p.Spec.SessionAffinity = &v1alpha1.SessionAffinity{ClientIPTimeoutSeconds: 600}
	})
	s.awaitReady(policy)
	s.eventually("a client keeps to one pod", func() error {
		if pods, err := s.pods(two, port); err != nil || len(pods) != 1 {
			return fmt.Errorf("%v, %v", pods, err)
		}
		return nil
	})
	s.tells(s.explains("shop", from(officeCIDR, 1), explain.Open, "", ""), explain.GateService, "each client keeps to one endpoint")
}

// pods asks a node until it is unlikely that one more of its pods would answer.
func (s *scene) pods(node *lab.Node, port uint16) (map[string]bool, error) {
	pods := map[string]bool{}
	for range 16 {
		a := s.office.Ask(s.ctx, flow(node, from(officeCIDR, 1), port))
		if a.Outcome != lab.Answered {
			return nil, fmt.Errorf("%s", a)
		}
		pods[a.Pod] = true
	}
	return pods, nil
}

// tells wants a line of the gate to say so.
func (s *scene) tells(a explain.PortAnswer, gate, text string) {
	s.Helper()
	if !slices.ContainsFunc(a.Gates, func(g explain.Gate) bool { return g.Gate == gate && strings.Contains(g.Message, text) }) {
		s.Errorf("%s does not say %q: %+v", gate, text, a.Gates)
	}
}
