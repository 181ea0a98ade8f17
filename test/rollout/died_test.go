package rollout

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// died kills the agent of a gateway, which does not come back, and nothing else happens:
// the next node takes over in the time that docs/gateways.md states, and keeps its place.
func (s *scene) died() {
	s.Helper()
	policy := &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Name: "edge", Namespace: "shop"}, Spec: v1alpha1.NodePortPolicySpec{
		Category: "web", ServiceRef: v1alpha1.ServiceReference{Name: "shop"}, Sources: []v1alpha1.Source{{CIDR: "203.0.113.0/29"}},
		Gateways: &v1alpha1.Gateways{Mode: v1alpha1.GatewaysCentralized, Active: 1},
	}}
	if err := s.town.Client.Create(s.ctx, policy); err != nil {
		s.Fatal(err)
	}
	first := s.gateway(policy, nil)
	program := filepath.Join(s.town.Bin, "agent")
	if err := os.Rename(program, program+"-away"); err != nil {
		s.Fatal(err)
	}
	agent := s.agentOn(first)
	start := time.Now()
	agent.Kill()
	<-agent.Done()
	second := s.gateway(policy, first)
	took := time.Since(start)
	s.Logf("%s took over from %s, and the policy lists it, %s after the agent died", second.Name, first.Name, took.Round(100*time.Millisecond))
	if least, most := 30*time.Second, 50*time.Second; took < least || took > most {
		s.Errorf("the fail-over took %s, want %s to %s", took, least, most)
	}
	if err := os.Rename(program+"-away", program); err != nil {
		s.Fatal(err)
	}
	s.eventually("all agents are ready again", func() error { return s.says("portreeve-agent:v2") })
	if still := s.gateway(policy, nil); still != second {
		s.Errorf("%s is the gateway when the first is back, want %s", still.Name, second.Name)
	}
	if err := s.town.Client.Delete(s.ctx, policy); err != nil {
		s.Fatal(err)
	}
}

// gateway waits until the policy is Ready and lists the addresses of one node that is not
// the former, and returns that.
func (s *scene) gateway(policy *v1alpha1.NodePortPolicy, former *lab.Node) (gateway *lab.Node) {
	s.Helper()
	s.eventually("the policy lists a gateway", func() error {
		if err := s.town.Client.Get(s.ctx, client.ObjectKeyFromObject(policy), policy); err != nil {
			return err
		}
		for _, node := range s.town.Nodes() {
			if node != former && slices.Contains(policy.Status.Addresses, netip.AddrPortFrom(node.Addrs[0], s.numberOf(policy)).String()) {
				gateway = node
				return nil
			}
		}
		return fmt.Errorf("addresses %v", policy.Status.Addresses)
	})
	return gateway
}

func (s *scene) numberOf(policy *v1alpha1.NodePortPolicy) uint16 {
	if len(policy.Status.Allocations) == 0 {
		return 0
	}
	return uint16(policy.Status.Allocations[0].NodePort)
}

// agentOn returns the program of the node's agent.
func (s *scene) agentOn(node *lab.Node) *lab.Process {
	s.Helper()
	var pods corev1.PodList
	if err := s.town.Client.List(s.ctx, &pods, client.InNamespace("portreeve-system")); err != nil {
		s.Fatal(err)
	}
	for _, p := range pods.Items {
		if p.Spec.NodeName == node.Name && p.DeletionTimestamp == nil {
			return node.Pod(p.Namespace, p.Name).Process("agent")
		}
	}
	s.Fatalf("%s has no agent", node.Name)
	return nil
}
