package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/explain"
	"github.com/portreeve/portreeve/internal/rule"
	"github.com/portreeve/portreeve/lab"
)

// listen lets a process of the node itself answer on a port, as a pod does, until
// the test ends.
func (s *scene) listen(node *lab.Node, number uint16) {
	s.Helper()
	l, err := node.Listen("tcp", fmt.Sprintf(":%d", number))
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintf(c, "host %s %s\n", c.RemoteAddr(), lines.Text())
				}
			}()
		}
	}()
}

// answersOn and silentOn ask one node.
func (s *scene) answersOn(node *lab.Node, c *lab.Client, source string, number uint16) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s answers %s on %d", node.Name, c.Name, number), func() error {
		if a := c.Ask(s.ctx, flow(node, from(source, 1), number)); a.Outcome != lab.Answered {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
}

func (s *scene) silentOn(node *lab.Node, c *lab.Client, source string, number uint16) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s is silent for %s on %d", node.Name, c.Name, number), func() error {
		if a := c.Ask(s.ctx, flow(node, from(source, 1), number)); a.Outcome != lab.TimedOut {
			return fmt.Errorf("BREACH: %s", a)
		}
		return nil
	})
}

// report is what the node's agent says.
func (s *scene) report(node *lab.Node) v1alpha1.NodeDatapathStatus {
	s.Helper()
	var d v1alpha1.NodeDatapath
	if err := town.Client.Get(s.ctx, client.ObjectKey{Name: node.Name}, &d); err != nil {
		s.Fatal(err)
	}
	return d.Status
}

func TestAHostListenerThatWasThereBeforeThePoolIsPassed(t *testing.T) {
	node := town.Nodes()[1]
	early := &scene{T: t, ctx: t.Context()}
	early.listen(node, 32680)
	s := open(t, "elders", "32680-32689")
	s.silentOn(node, s.street, streetCIDR, 32685)
	s.answersOn(node, s.street, streetCIDR, 32680)
	s.eventually("the node reports the listener", func() error {
		for _, e := range s.report(node).Exceptions {
			if e.Port == 32680 && strings.Contains(e.Reason, "tcp/32680") {
				return nil
			}
		}
		return fmt.Errorf("exceptions: %+v", s.report(node).Exceptions)
	})
	s.audits()
	a := s.explains("32680", from(streetCIDR, 1), explain.Partial, explain.GateAllocation, explain.ReasonUnclaimed)
	s.tooOpen(a, explain.GateNode, explain.ReasonExempt)
	s.listen(node, 32681)
	for range 2 { // before and after a restart of the agent
		s.silentOn(node, s.street, streetCIDR, 32681)
		s.answersOn(node, s.street, streetCIDR, 32680)
		town.Agent(node).Kill()
		<-town.Agent(node).Done()
		if err := town.RestartAgent(s.ctx, node); err != nil {
			t.Fatal(err)
		}
	}
	// An allocation judges a number that has one.
	policy := s.policy("shop", officeCIDR)
	policy.Spec.Ports[0].NodePort = 32680
	s.create(policy)
	s.awaitReady(policy)
	s.silentOn(node, s.street, streetCIDR, 32680)
	for _, e := range s.report(node).Exceptions {
		if e.Port == 32680 {
			t.Errorf("still an exception: %+v", e)
		}
	}
}

// A node starts, and its agent reaches no API server.
func TestANodeThatStartsAloneHasItsLastRules(t *testing.T) {
	s := open(t, "alone", "32700-32709")
	s.leaveFree()
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	outside := s.service("outside") // of any pool
	outside.Spec.Type = corev1.ServiceTypeNodePort
	outside.Spec.Ports = outside.Spec.Ports[:1]
	outside.Spec.Ports[0].NodePort = 32720
	s.create(outside)
	node := town.Nodes()[2]
	s.answersOn(node, s.street, streetCIDR, 32720)

	off := func() {
		t.Helper()
		if err := town.PowerOff(s.ctx, node); err != nil {
			t.Fatal(err)
		}
		s.answersOn(node, s.street, streetCIDR, port) // nothing of ours is left
	}
	start := func(how func(context.Context, *lab.Node) error) {
		t.Helper()
		if err := how(s.ctx, node); err != nil {
			t.Fatal(err)
		}
	}
	lastRules := func() {
		t.Helper()
		s.silentOn(node, s.street, streetCIDR, port)
		s.answersOn(node, s.office, officeCIDR, port)
		s.answersOn(node, s.street, streetCIDR, 32720)
	}
	rules := filepath.Join(town.AgentState(node), "rules")
	s.eventually("the rules are on the disk", func() error {
		data, err := os.ReadFile(rules)
		if err == nil && !strings.Contains(string(data), fmt.Sprintf("tcp/%d", port)) {
			err = fmt.Errorf("%s knows nothing of %d", rules, port)
		}
		return err
	})
	off()
	start(town.StartAgentAlone)
	lastRules()
	off()
	start(town.Boot)
	lastRules()

	// The disk has nothing that could be used: the range of node ports is closed.
	off()
	data, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(rules, data[:len(data)-10], 0o600); err != nil {
		t.Fatal(err)
	}
	start(town.StartAgentAlone)
	s.silentOn(node, s.street, streetCIDR, 32720)
	s.silentOn(node, s.office, officeCIDR, port)

	town.Agent(node).Kill()
	<-town.Agent(node).Done()
	start(town.RestartAgent)
	lastRules()
	s.awaitReady(policy)
	if s.report(node).ExposedSeconds == nil {
		t.Error("the node does not say for how long it was exposed")
	}
}

func TestANodeTakesNoSourcePortsOfAPool(t *testing.T) {
	s := open(t, "sources-of-our-own", "32740-32749")
	reserved := func() rule.PortRanges {
		text, err := town.Nodes()[0].Output(s.ctx, "cat", "/proc/sys/net/ipv4/ip_local_reserved_ports")
		if err != nil {
			t.Fatal(err)
		}
		list, err := rule.ParsePortRanges(strings.Split(strings.TrimSpace(text), ","))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	want := rule.NewPortRanges(rule.PortRange{First: 32740, Last: 32749})
	s.eventually("the numbers are reserved", func() error {
		if list := reserved(); len(want.Subtract(list)) > 0 {
			return fmt.Errorf("only %v", list.Strings())
		}
		return nil
	})
	s.delete(s.pool)
	s.eventually("the numbers are given back", func() error {
		if list := reserved(); len(want.Intersect(list)) > 0 {
			return fmt.Errorf("still %v", list.Strings())
		}
		return nil
	})
}
