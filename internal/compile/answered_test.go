package compile

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// looked is a scene of three nodes whose agents have asked on all that was there.
func looked() Seen {
	seen := crowd(3)
	for _, n := range seen.Nodes {
		n.Datapath.Status.Answers = &v1alpha1.NodeAnswers{
			Addresses: []string{n.Status.Addresses[0].Address}, Allocations: "100", NodeLabels: LabelsHash(n.Labels),
		}
	}
	return seen
}

// silentOn says of nodes that nothing answers there on those ports.
func (s *Seen) silentOn(ports []int32, nodes ...int) {
	for _, i := range nodes {
		seen := s.Nodes[i].Datapath.Status.Answers
		for _, port := range ports {
			seen.Unanswered = append(seen.Unanswered, v1alpha1.UnansweredPort{Port: port})
			seen.UnansweredPorts++
		}
	}
}

// Which of three addresses are said to answer, and whether it is said that none does.
func TestAnswered(t *testing.T) {
	port := []int32{30007}
	first := func(s *Seen) *v1alpha1.NodeAnswers { return s.Nodes[0].Datapath.Status.Answers }
	for _, c := range []struct {
		name  string
		spoil func(*Seen)
		want  string // the last numbers of the addresses
		none  bool
	}{
		{"all answer", func(*Seen) {}, "1 2 3", false},
		{"nobody looks", func(s *Seen) { s.Nodes = crowd(3).Nodes }, "", false},
		{"a node does not look", func(s *Seen) { s.Nodes[0].Datapath.Status.Answers = &v1alpha1.NodeAnswers{} }, "2 3", false},
		{"a node looked before the port was as it is", func(s *Seen) { first(s).Allocations = "89" }, "2 3", false},
		{"a node looked in another boot", func(s *Seen) {
			s.Nodes[0].Datapath.Status.BootID = "boot-0"
			rebooted(&s.Nodes[0])
		}, "2 3", false},
		{"an address that is on no interface", func(s *Seen) { first(s).Addresses = nil }, "2 3", false},
		{"a node does not answer", func(s *Seen) { s.silentOn(port, 0) }, "2 3", false},
		{"a node answers on another address", func(s *Seen) {
			s.silentOn(port, 0)
			first(s).Unanswered[0].Addresses = []string{"198.51.100.200"}
		}, "1 2 3", false},
		{"another port does not answer", func(s *Seen) { s.silentOn([]int32{30006, 30008}, 0, 1, 2) }, "1 2 3", false},
		{"what comes after a list that was cut off is not known", func(s *Seen) {
			s.silentOn([]int32{30006}, 0)
			first(s).UnansweredPorts = 2
		}, "2 3", false},
		{"what comes before its end is", func(s *Seen) {
			s.silentOn([]int32{30008}, 0)
			first(s).UnansweredPorts = 2
		}, "1 2 3", false},
		{"UDP can't be asked", func(s *Seen) {
			s.Allocations[0].Spec.Ports[0].Protocol = "UDP"
			s.Allocations[0].Spec.Protocols = []v1alpha1.Protocol{"UDP"}
			s.Companion.Spec.Ports[0].Protocol = "UDP"
			s.silentOn(port, 0, 1, 2)
		}, "", false},
		{"no node answers", func(s *Seen) { s.silentOn(port, 0, 1, 2) }, "", true},
		{"no node answers that looked", func(s *Seen) {
			s.silentOn(port, 0, 1)
			s.Nodes[2].Datapath.Status.Answers = nil
		}, "", false},
		{"a node that should not answer need not look", func(s *Seen) {
			s.silentOn(port, 0, 1)
			s.Nodes[2].Datapath.Status.Answers = nil
			notReady(&s.Nodes[2])
		}, "", true},
		{"the only gateway", func(s *Seen) {
			s.gateways(gatewaySet("60", "node-00"))
			for i := range s.Nodes {
				s.Nodes[i].Datapath.Status.Answers.GatewaySets = "60"
			}
			s.silentOn(port, 0)
		}, "", true},
		{"the next gateway has not looked since", func(s *Seen) {
			s.gateways(gatewaySet("61", "node-01"))
			for i := range s.Nodes {
				s.Nodes[i].Datapath.Status.Marks.GatewaySets, s.Nodes[i].Datapath.Status.Answers.GatewaySets = "61", "60"
			}
			s.Proof.ListedGateways = "61"
		}, "", false},
		{"a node that was labelled has not looked since", func(s *Seen) {
			s.Allocations[0].Spec.Gateways = &v1alpha1.ClaimedGateways{NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"edge": "yes"}}}
			s.Nodes[0].Labels = map[string]string{"edge": "yes"}
			s.Nodes[0].Datapath.Status.NodeLabels = LabelsHash(s.Nodes[0].Labels)
		}, "", false},
		{"closed", func(s *Seen) { s.close(0); s.silentOn(port, 0, 1, 2) }, "", false},
		{"lockdown", func(s *Seen) { s.Lockdown = true; s.silentOn(port, 0, 1, 2) }, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := looked()
			c.spoil(&seen)
			status := Status(seen, metav1.NewTime(clock))
			var got []string
			for _, a := range status.Answered {
				if a.AnsweredFrom != v1alpha1.AnsweredFromNode {
					t.Errorf("%+v", a)
				}
				got = append(got, strings.TrimSuffix(strings.TrimPrefix(a.Address, "198.51.100."), ":30007"))
			}
			if spelled := strings.Join(got, " "); spelled != c.want {
				t.Errorf("answered %q, want %q; of %v", spelled, c.want, status.Addresses)
			}
			if none := meta.IsStatusConditionTrue(status.Conditions, v1alpha1.Unanswered); none != c.none {
				t.Errorf("Unanswered: %t, want %t", none, c.none)
			}
			if ready := meta.IsStatusConditionTrue(status.Conditions, v1alpha1.Ready); c.none && !ready {
				t.Error("that nothing answers is a matter of what stands behind the gates: they are as before")
			}
		})
	}
}

// News of a node go to the policies that have a port there which does not answer, or an
// address there that was not known to.
func TestAnswersMatter(t *testing.T) {
	status := v1alpha1.NodePortPolicyStatus{
		Allocations: []v1alpha1.AllocatedPort{{NodePort: 30007}}, Addresses: []string{"192.0.2.1:30007", "[2001:db8::1]:30007"},
	}
	known := status
	for _, a := range status.Addresses {
		known.Answered = append(known.Answered, v1alpha1.AnsweredAddress{Address: a, AnsweredFrom: v1alpha1.AnsweredFromNode})
	}
	on := func(address string, silent ...int32) *v1alpha1.NodeAnswers {
		seen := &v1alpha1.NodeAnswers{Addresses: []string{address}}
		for _, port := range silent {
			seen.Unanswered = append(seen.Unanswered, v1alpha1.UnansweredPort{Port: port})
		}
		return seen
	}
	for i, c := range []struct {
		status v1alpha1.NodePortPolicyStatus
		seen   *v1alpha1.NodeAnswers
		want   bool
	}{
		{status, nil, false},
		{status, on("192.0.2.1"), true},
		{status, on("2001:db8::1"), true},
		{status, on("192.0.2.2"), false},
		{known, on("192.0.2.1"), false},
		{known, on("192.0.2.1", 30007), true},
		{known, on("192.0.2.2", 30007), true},
		{known, on("192.0.2.1", 30008), false},
	} {
		if got := AnswersMatter(c.status, c.seen); got != c.want {
			t.Errorf("case %d: %t, want %t", i, got, c.want)
		}
	}
}

func TestToAnswer(t *testing.T) {
	edge := &metav1.LabelSelector{MatchLabels: map[string]string{"edge": "yes"}}
	for _, c := range []struct {
		name  string
		spoil func(*NodeInput, *v1alpha1.NodePortAllocation)
		want  bool
	}{
		{"open", func(*NodeInput, *v1alpha1.NodePortAllocation) {}, true},
		{"closed", func(_ *NodeInput, a *v1alpha1.NodePortAllocation) { a.Spec.State = v1alpha1.AllocationClosed }, false},
		{"foreign", func(_ *NodeInput, a *v1alpha1.NodePortAllocation) { a.Spec.State = v1alpha1.AllocationForeign }, false},
		{"UDP", func(_ *NodeInput, a *v1alpha1.NodePortAllocation) { a.Spec.Ports[0].Protocol = "UDP" }, false},
		{"ended", func(in *NodeInput, a *v1alpha1.NodePortAllocation) { a.Spec.ExpiresAt = &metav1.Time{Time: in.Now} }, false},
		{"lockdown", func(in *NodeInput, _ *v1alpha1.NodePortAllocation) { in.Installation.Spec.Lockdown = true }, false},
		{"selected", func(_ *NodeInput, a *v1alpha1.NodePortAllocation) {
			a.Spec.Gateways = &v1alpha1.ClaimedGateways{NodeSelector: edge}
		}, true},
		{"labels are not known", func(in *NodeInput, a *v1alpha1.NodePortAllocation) {
			in.Unlabelled = true
			a.Spec.Gateways = &v1alpha1.ClaimedGateways{NodeSelector: edge}
		}, false},
		{"not selected", func(in *NodeInput, a *v1alpha1.NodePortAllocation) {
			in.Labels = nil
			a.Spec.Gateways = &v1alpha1.ClaimedGateways{NodeSelector: edge}
		}, false},
		{"a gateway", func(_ *NodeInput, a *v1alpha1.NodePortAllocation) {
			a.Spec.Gateways = &v1alpha1.ClaimedGateways{Active: 1, Set: "gw"}
		}, true},
		{"no gateway", func(in *NodeInput, a *v1alpha1.NodePortAllocation) {
			in.Node = "b"
			a.Spec.Gateways = &v1alpha1.ClaimedGateways{Active: 1, Set: "gw"}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := manyPorts(1)
			in.Node, in.Labels, in.Installation = "a", map[string]string{"edge": "yes"}, &v1alpha1.Portreeve{}
			in.GatewaySets = ObjectsOf(gatewaySet("1", "a"))
			a := in.Allocations.Get("10000").(*v1alpha1.NodePortAllocation).DeepCopy()
			c.spoil(&in, a)
			if got := in.ToAnswer(a); got != c.want {
				t.Errorf("to answer: %t, want %t", got, c.want)
			}
		})
	}
}
