package controllers

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// gatewayNode is a Ready node with an agent that has reported up to version 90, and its pod.
func gatewayNode(name string, agent corev1.ConditionStatus) []client.Object {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		NodeInfo:   corev1.NodeSystemInfo{BootID: "boot-1"},
	}}
	report := &v1alpha1.NodeDatapath{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.NodeDatapathStatus{
		BootID: "boot-1", Marks: v1alpha1.Marks{Allocations: "9000", GatewaySets: "9000"},
	}}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "agent-" + name, Namespace: "portreeve-system", Labels: compile.AgentPods},
		Spec:       corev1.PodSpec{NodeName: name},
		Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: agent}}},
	}
	return []client.Object{node, report, pod}
}

// An agent dies, and nothing happens after that: the controller asks to be woken at the
// very moment at which the agent counts as lost, and then chooses the next node.
func TestAGatewayIsReplacedWhenItsAgentHasLongBeenDown(t *testing.T) {
	a := &v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: "30000"}}
	a.Spec.State = v1alpha1.AllocationOpen
	a.Spec.Gateways = &v1alpha1.ClaimedGateways{Active: 1}
	a.Spec.Gateways.Set = "gw-3838e5c59283b8ed3996" // made of how it is chosen
	set := &v1alpha1.GatewaySet{ObjectMeta: metav1.ObjectMeta{Name: string(a.Spec.Gateways.Set)}, Spec: v1alpha1.GatewaySetSpec{Nodes: []v1alpha1.ObjectName{"a"}}}
	objects := slices.Concat([]client.Object{a, set}, gatewayNode("a", corev1.ConditionFalse), gatewayNode("b", corev1.ConditionTrue))
	c := store(t, objects...).Build()
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	r := &GatewaySet{Client: c, Snapshot: Snapshot{Reader: c, Namespace: "portreeve-system"}, Now: func() time.Time { return now }}
	reconcileOnce := func() time.Duration {
		t.Helper()
		result, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(set)})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(set), set); err != nil {
			t.Fatal(err)
		}
		return result.RequeueAfter
	}
	wake := reconcileOnce()
	if wake != 30*time.Second || !slices.Equal(set.Spec.Nodes, []v1alpha1.ObjectName{"a"}) {
		t.Fatalf("again in %s, gateways %v", wake, set.Spec.Nodes)
	}
	now = now.Add(wake - time.Millisecond)
	if left := reconcileOnce(); left != time.Millisecond || !slices.Equal(set.Spec.Nodes, []v1alpha1.ObjectName{"a"}) {
		t.Fatalf("again in %s, gateways %v", left, set.Spec.Nodes)
	}
	now = now.Add(time.Millisecond)
	if left := reconcileOnce(); left != 0 || !slices.Equal(set.Spec.Nodes, []v1alpha1.ObjectName{"b"}) {
		t.Fatalf("again in %s, gateways %v", left, set.Spec.Nodes)
	}
}

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
	answered := hostStatus(v1alpha1.ReasonOK, "192.0.2.2:30000")
	answered.Answered = []v1alpha1.AnsweredAddress{{Address: "192.0.2.2:30000", AnsweredFrom: v1alpha1.AnsweredFromNode}}
	silent := hostStatus(v1alpha1.ReasonOK, "192.0.2.2:30000")
	silent.Conditions = slices.Insert(silent.Conditions, 1, metav1.Condition{Type: v1alpha1.Unanswered, Status: metav1.ConditionTrue})
	for name, c := range map[string]struct {
		before, after v1alpha1.NodePortPolicyStatus
		seen          compile.Seen
		want          urgent
	}{
		"an address was seen to answer":       {now, answered, everywhere, doubt},
		"nothing answers any more":            {answered, silent, everywhere, doubt},
		"it still answers":                    {answered, answered, everywhere, nothing},
		"nothing answers, as before":          {silent, silent, everywhere, nothing},
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
