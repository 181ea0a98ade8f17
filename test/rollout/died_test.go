package rollout

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
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
	// An agent that dies before it has done what it was told is replaced sooner.
	s.eventually("the policy is in force", func() error {
		if err := s.town.Client.Get(s.ctx, client.ObjectKeyFromObject(policy), policy); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(policy.Status.Conditions, v1alpha1.Ready) {
			return fmt.Errorf("%+v", policy.Status.Conditions)
		}
		return nil
	})
	program := filepath.Join(s.town.Bin, "agent")
	if err := os.Rename(program, program+"-away"); err != nil {
		s.Fatal(err)
	}
	agent, err := s.agentOn(first)
	if err != nil {
		s.Fatal(err)
	}
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

// gateway waits until the policy lists the addresses of one node that is not the former,
// and returns that.
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

// agentOn returns the program of the node's agent: of the only pod that it has.
func (s *scene) agentOn(node *lab.Node) (*lab.Process, error) {
	var pods corev1.PodList
	if err := s.town.Client.List(s.ctx, &pods, client.InNamespace("portreeve-system")); err != nil {
		return nil, err
	}
	var own []corev1.Pod
	for _, p := range pods.Items {
		if p.Spec.NodeName == node.Name {
			own = append(own, p)
		}
	}
	if len(own) != 1 || own[0].DeletionTimestamp != nil {
		return nil, fmt.Errorf("%s has %d agents, want one that stays", node.Name, len(own))
	}
	if pod := node.Pod(own[0].Namespace, own[0].Name); pod != nil {
		if agent := pod.Process("agent"); agent != nil {
			return agent, nil
		}
	}
	return nil, fmt.Errorf("%s has an agent that does not run yet", node.Name)
}

// ran waits until the pods are what the DaemonSet wishes, on each node one that runs: what
// the object says is a little older, and a controller may have taken agents away by the
// stranger's word in between.
func (s *scene) ran() {
	s.Helper()
	s.eventually("each node has its agent", func() error {
		agents := s.agents()
		if have := agents.Status; have.ObservedGeneration != agents.Generation || have.UpdatedNumberScheduled != 3 || have.NumberReady != 3 {
			return fmt.Errorf("generation %d: %+v", agents.Generation, have)
		}
		for _, node := range s.town.Nodes() {
			if _, err := s.agentOn(node); err != nil {
				return err
			}
		}
		return s.says("portreeve-agent:v2")
	})
}
