package controllers

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// hostStatus is a status whose gate on the nodes has that reason, and so has Ready.
func hostStatus(reason string, addresses ...string) v1alpha1.NodePortPolicyStatus {
	is := metav1.ConditionFalse
	if reason == v1alpha1.ReasonOK {
		is = metav1.ConditionTrue
	}
	return v1alpha1.NodePortPolicyStatus{
		Addresses:   addresses,
		Allocations: []v1alpha1.AllocatedPort{{Protocol: "TCP", NodePort: 30000}},
		Conditions: []metav1.Condition{
			{Type: v1alpha1.HostEnforced, Status: is, Reason: reason}, {Type: v1alpha1.Ready, Status: is, Reason: reason},
		},
	}
}

// Between the end of a gateway and its successor nobody answers, for a moment; and all
// nodes have yet to hear. Neither is worth a write for each policy, but addresses that no
// longer answer are corrected in the end.
func TestAFailOverIsNoNewsUntilItSettles(t *testing.T) {
	ok, none := hostStatus(v1alpha1.ReasonOK), hostStatus(v1alpha1.ReasonNoGateways)
	pending := hostStatus(v1alpha1.ReasonNodesPending)
	pending.Nodes = &v1alpha1.NodesStatus{Failing: []v1alpha1.NodeFailure{{Node: "a", Reason: compile.NodePending}}}
	a := v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: "30000"}}
	a.Spec.State, a.Spec.Gateways = v1alpha1.AllocationOpen, &v1alpha1.ClaimedGateways{Active: 1, Set: "gw"}
	ready := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.2"}},
	}}
	moved := compile.Seen{Allocations: []v1alpha1.NodePortAllocation{a}, Nodes: []compile.NodeReport{{Node: ready}}}
	moved.Proof.Gateways = compile.GatewaySets{"gw": {Spec: v1alpha1.GatewaySetSpec{Nodes: []v1alpha1.ObjectName{"b"}}}}
	everywhere := moved
	everywhere.Allocations = []v1alpha1.NodePortAllocation{*a.DeepCopy()}
	everywhere.Allocations[0].Spec.Gateways = nil
	former, now := hostStatus(v1alpha1.ReasonOK, "192.0.2.1:30000"), hostStatus(v1alpha1.ReasonOK, "192.0.2.2:30000")
	both := hostStatus(v1alpha1.ReasonOK, "192.0.2.1:30000", "192.0.2.2:30000")
	for name, c := range map[string]struct {
		before, after v1alpha1.NodePortPolicyStatus
		seen          compile.Seen
		want          urgent
	}{
		"nobody answers, just now":            {ok, none, compile.Seen{}, settling},
		"nobody answered, and one does again": {none, ok, compile.Seen{}, transition},
		"nodes have yet to hear":              {ok, pending, compile.Seen{}, doubt},
		"the address of the former gateway":   {former, now, moved, doubt},
		"the address of the present one":      {now, now, moved, nothing},
		"a node that joined, all answer":      {former, both, everywhere, doubt},
		"a node that went, all answered":      {both, now, everywhere, progress},
	} {
		t.Run(name, func(t *testing.T) {
			if got := urgency(c.before, c.after, c.seen); got != c.want {
				t.Errorf("urgency %d, want %d", got, c.want)
			}
		})
	}
}
