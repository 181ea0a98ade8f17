package compile

import (
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// vouching makes nodes say all that agents say.
func vouching(s *Seen) {
	for i := range s.Nodes {
		n := &s.Nodes[i]
		n.Datapath.Status.Facts, n.Datapath.Status.NodeLabels = ptr.To(proxied), LabelsHash(n.Labels)
	}
}

// turned has a node be Ready, or not, and returns what that is to policies.
func (s *Seen) turned(i int, ready bool) *Turn {
	before := s.Nodes[i].DeepCopy()
	after := before.DeepCopy()
	after.Status.Conditions[0].Status = corev1.ConditionFalse
	if ready {
		after.Status.Conditions[0].Status = corev1.ConditionTrue
	}
	s.Nodes[i].Node = after
	return TurnOf(before, after, s.Nodes)
}

// told has the policy say what its status is, until there is nothing more to say.
func (s *Seen) told() v1alpha1.NodePortPolicyStatus {
	for range 2 {
		s.Policy.Status = Status(*s, metav1.NewTime(clock))
	}
	return s.Policy.Status
}

// A node that dies or returns concerns the policies that list it, and no other.
func TestANodeThatTurnsConcernsWhoListsIt(t *testing.T) {
	s := crowd(20)
	vouching(&s)
	s.told()
	listed := func(i int) bool {
		return slices.Contains(s.Policy.Status.Addresses, s.Nodes[i].Status.Addresses[0].Address+":30007")
	}
	concerned := 0
	for i := range s.Nodes {
		if got := s.turned(i, false).Concerns(s.Policy); got != listed(i) {
			t.Errorf("%s is not Ready: concerns %t, listed %t", s.Nodes[i].Name, got, listed(i))
		}
		if s.turned(i, false).Concerns(s.Policy) {
			t.Errorf("%s is still not Ready, and that concerns somebody", s.Nodes[i].Name)
		}
		if got := s.turned(i, true).Concerns(s.Policy); got != listed(i) {
			t.Errorf("%s is Ready: concerns %t, listed %t", s.Nodes[i].Name, got, listed(i))
		}
		if listed(i) {
			concerned++
		}
	}
	if concerned != maxListed {
		t.Errorf("%d nodes concern the policy", concerned)
	}
	for what, change := range map[string]func(*NodeReport){
		"an address": address(corev1.NodeExternalIP, "192.0.2.77"), "a label": role("edge"), "another boot": func(n *NodeReport) { n.Status.NodeInfo.BootID = "boot-2" }, "out of service": givenUp,
	} {
		before := s.Nodes[0]
		after := NodeReport{Node: before.DeepCopy()}
		if change(&after); TurnOf(before.Node, after.Node, s.Nodes) != nil {
			t.Errorf("%s is no mere turn", what)
		}
	}
}

// Whatever the nodes say, a turn that concerns nobody leaves nothing to be told.
func TestATurnThatConcernsNobodyChangesNoStatus(t *testing.T) {
	spared := 0
	for seed := range uint64(6000) {
		r := rand.New(rand.NewPCG(seed, 7))
		s := crowd(1 + r.IntN(18))
		odd := func() bool { return r.IntN(25) == 0 }
		for i := range s.Nodes {
			if n := &s.Nodes[i]; r.IntN(3) == 0 {
				role("edge")(n)
			}
		}
		vouching(&s)
		for i := range s.Nodes {
			n := &s.Nodes[i]
			if odd() {
				mark([]string{"89", "95", "101"}[r.IntN(3)])(n)
			}
			if odd() {
				toldThat(central)(n)
			}
			if odd() {
				n.Datapath.Status.Datapath = "iptables (nft)"
			}
			if odd() {
				exception(30007, "Failed")(n)
			}
			if odd() {
				rebooted(n)
			}
			if odd() {
				n.Datapath.Status.NodeLabels = "others"
			}
			if odd() {
				enforced(v1alpha1.ReasonFailed)(n)
			}
			if r.IntN(6) == 0 {
				notReady(n)
			}
		}
		switch r.IntN(4) {
		case 0:
			s.Allocations[0].Spec.Gateways = &v1alpha1.ClaimedGateways{NodeSelector: selector("edge")}
		case 1:
			s.gateways(gatewaySet("60", v1alpha1.ObjectName(s.Nodes[0].Name)))
		case 2:
			s.Allocations[0].Spec.NodeSelector = selector("edge")
		}
		if r.IntN(2) == 0 {
			s.local()
			s.Allocations[0].Spec.LocalOnly, s.Endpoints = true, Endpoints{}
			for _, n := range s.Nodes {
				if r.IntN(5) > 0 {
					s.Endpoints[endpointKey{n.Name, "https", corev1.ProtocolTCP, discoveryv1.AddressTypeIPv4}] = true
				}
			}
		}
		if r.IntN(4) == 0 { // on hardly any node something answers
			for i := range s.Nodes {
				n := s.Nodes[i]
				if n.Datapath == nil {
					continue
				}
				seen := &v1alpha1.NodeAnswers{Allocations: "95", GatewaySets: "95", NodeLabels: LabelsHash(n.Labels)}
				for _, host := range Addresses(n.Node) {
					seen.Addresses = append(seen.Addresses, host.String())
				}
				if r.IntN(8) > 0 {
					seen.Unanswered, seen.UnansweredPorts = []v1alpha1.UnansweredPort{{Port: 30007}}, 1
				}
				n.Datapath.Status.Answers = seen
			}
		}
		before := s.told()
		i := r.IntN(len(s.Nodes))
		if s.turned(i, !Ready(s.Nodes[i].Node)).Concerns(s.Policy) {
			continue
		}
		spared++
		after := Status(s, metav1.NewTime(clock))
		before.TotalAddresses, after.TotalAddresses = 0, 0
		if !equality.Semantic.DeepEqual(before, after) {
			t.Fatalf("seed %d: %s turns, Ready %t:\n%+v\nbecomes\n%+v", seed, s.Nodes[i].Name, Ready(s.Nodes[i].Node), before, after)
		}
	}
	if spared < 300 {
		t.Errorf("only %d turns concerned nobody: nothing was seen", spared)
	}
}
