package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// A node that is cleaned by hand is vouched for by nobody, from before its rules go until
// an agent has put them back.
func TestANodeThatIsCleanedIsNotVouchedFor(t *testing.T) {
	s := open(t, "cleaned", "30790-30799")
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	node := town.Nodes()[1]
	town.Agent(node).Kill()
	<-town.Agent(node).Done()
	t.Cleanup(func() { // whatever becomes of this test, the next ones want their agent
		select {
		case <-town.Agent(node).Done():
			if err := town.RestartAgent(context.Background(), node); err != nil {
				t.Error(err)
			}
		default:
		}
	})
	before := s.report(node)

	// Who can't take the report back removes no rule, and says so.
	alone, err := town.WriteKubeconfig("nowhere", &rest.Config{Host: "https://127.0.0.1:1", BearerToken: "none"})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := town.Cleanup(s.ctx, node, "--kubeconfig", alone); err == nil || !strings.Contains(out, "the rules are left in force") {
		t.Errorf("cleaned, although the report could not be taken back: %v: %s", err, out)
	}
	waiting, err := town.Run(s.ctx, lab.Command{Name: "cleanup-" + node.Name, In: node.Namespace, Argv: []string{
		filepath.Join(town.Bin, "agent"), "cleanup", "--stay", "--node", node.Name, "--kubeconfig", alone, "--state-dir", town.AgentState(node),
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.eventually("a clean-up that stays tries again", func() error {
		log, err := os.ReadFile(waiting.Log)
		if tries := strings.Count(string(log), "trying again"); tries < 2 {
			return fmt.Errorf("%d tries, %v", tries, err)
		}
		return nil
	})
	waiting.Stop(10 * time.Second)
	s.silentOn(node, s.street, streetCIDR, port)
	if after := s.report(node); after.Marks != before.Marks {
		t.Errorf("marks %+v, want still %+v", after.Marks, before.Marks)
	}

	if out, err := town.Cleanup(s.ctx, node); err != nil {
		t.Fatal(err, out)
	}
	after := s.report(node)
	if c := after.Conditions; after.Marks != (v1alpha1.Marks{}) || after.BootID != "" || len(c) != 1 || c[0].Reason != v1alpha1.ReasonCleaned {
		t.Errorf("the report of a clean node: %+v", after)
	}
	if c := s.awaitReason(policy, v1alpha1.HostEnforced, v1alpha1.ReasonNodesFailing); !strings.Contains(c.Message, node.Name+" "+v1alpha1.ReasonCleaned) {
		t.Errorf("HostEnforced says %q", c.Message)
	}
	s.answersOn(node, s.street, streetCIDR, port) // status says it because it is so
	s.audits()
	s.eventually("explain tells why the node filters nothing", func() error {
		out, _ := s.plugin("auditors", "explain", strconv.Itoa(int(port)), "--from", from(streetCIDR, 1).Addr().String())
		if !strings.Contains(out, "removed by agent cleanup") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})

	if err := town.RestartAgent(s.ctx, node); err != nil {
		t.Fatal(err)
	}
	s.awaitReady(policy)
	s.silentOn(node, s.street, streetCIDR, port)
	s.answersOn(node, s.office, officeCIDR, port)
}
