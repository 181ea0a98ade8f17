package controllers

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud"
)

func readyNode(name, boot string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.NodeInfo.BootID = boot
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	return n
}

func reportOf(name, mark string, conditions ...metav1.Condition) *v1alpha1.NodeDatapath {
	return &v1alpha1.NodeDatapath{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.NodeDatapathStatus{
		BootID: "b", Marks: v1alpha1.Marks{Allocations: mark}, Conditions: conditions,
	}}
}

// A census tells what is there when it is asked, and nothing while another leads.
func TestACensusCountsWhatIsThere(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	condition := func(kind string, status metav1.ConditionStatus, reason string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, Reason: reason}
	}
	policy := func(name string, conditions ...metav1.Condition) *v1alpha1.NodePortPolicy {
		return &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Status: v1alpha1.NodePortPolicyStatus{Conditions: conditions}}
	}
	firewall := &v1alpha1.CloudFirewall{ObjectMeta: metav1.ObjectMeta{Name: "aws"}}
	firewall.Status.Conditions = []metav1.Condition{condition(v1alpha1.Ready, metav1.ConditionFalse, v1alpha1.ReasonDrifted)}
	claim, _ := shop()
	claim.ResourceVersion = "30"
	down := readyNode("down", "b")
	down.Status.Conditions = nil
	windows := readyNode("windows", "b")
	windows.Labels = map[string]string{corev1.LabelOSStable: "windows"}
	c := store(t, claim, firewall,
		policy("a", condition(v1alpha1.Ready, metav1.ConditionTrue, v1alpha1.ReasonOK)), policy("b", condition(v1alpha1.Ready, metav1.ConditionTrue, v1alpha1.ReasonOK)),
		policy("c", condition(v1alpha1.Ready, metav1.ConditionFalse, v1alpha1.ReasonPoolNotFound)),
		readyNode("ok", "b"), reportOf("ok", "30"), readyNode("behind", "b"), reportOf("behind", "29"), readyNode("open", "b"), down, windows,
		readyNode("around", "b"), reportOf("around", "", condition(v1alpha1.Enforced, metav1.ConditionFalse, v1alpha1.ReasonEnforcementUnsupported)),
	).Build()
	elected := make(chan struct{})
	census := &census{
		snapshot: Snapshot{Reader: c}, elected: elected, now: func() time.Time { return now },
		refused: func() map[cloud.API]int {
			return map[cloud.API]int{{Account: "1", Region: "eu", Name: "Describe"}: 2, {Account: "2", Region: "eu", Name: "Describe"}: 3}
		},
	}
	if n := testutil.CollectAndCount(census); n != 0 {
		t.Errorf("%d figures while another manager leads", n)
	}
	close(elected)
	wants := func(lag string) {
		t.Helper()
		want := `
			portreeve_policies{condition="Ready",reason="OK",status="True"} 2
			portreeve_policies{condition="Ready",reason="PoolNotFound",status="False"} 1
			portreeve_nodes{state="Enforced"} 1
			portreeve_nodes{state="EnforcementUnsupported"} 1
			portreeve_nodes{state="NotReady"} 1
			portreeve_nodes{state="Ungated"} 1
			portreeve_cloud_firewall_ready{firewall="aws",reason="Drifted"} 0
			portreeve_cloud_throttled_total{api="Describe",region="eu"} 5
		` + lag
		if have := figures(t, census); have != sorted(want) {
			t.Errorf("have\n%s\nwant\n%s", have, sorted(want))
		}
	}
	wants("portreeve_nodes{state=\"Pending\"} 1\nportreeve_node_lag_seconds{node=\"behind\"} 0")
	now = now.Add(40 * time.Second)
	wants("portreeve_nodes{state=\"Pending\"} 1\nportreeve_node_lag_seconds{node=\"behind\"} 40")

	// Who has caught up has no lag, and is counted once.
	var report v1alpha1.NodeDatapath
	if err := c.Get(t.Context(), client.ObjectKey{Name: "behind"}, &report); err != nil {
		t.Fatal(err)
	}
	report.Status.Marks.Allocations = "31"
	if err := c.Update(t.Context(), &report); err != nil {
		t.Fatal(err)
	}
	if have := figures(t, census); strings.Contains(have, "lag") || !strings.Contains(have, `portreeve_nodes{state="Enforced"} 2`) {
		t.Errorf("have\n%s", have)
	}
}

// The clock runs from the first sight of a generation to the first proof of each gate, once.
func TestTheTimeFromApplyToProofIsMeasuredOnce(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	appliedSeconds.Reset()
	var timer timer
	key := client.ObjectKey{Namespace: "shop", Name: "web"}
	policy := &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Generation: 1}, Status: v1alpha1.NodePortPolicyStatus{ObservedGeneration: -1}}
	saw := func(ready metav1.ConditionStatus, after time.Duration) {
		now = now.Add(after)
		timer.begin(key, policy, now)
		timer.saw(key, []metav1.Condition{
			{Type: v1alpha1.HostEnforced, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonOK, ObservedGeneration: policy.Generation},
			{Type: v1alpha1.CloudEnforced, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonNotRequired, ObservedGeneration: policy.Generation},
			{Type: v1alpha1.Ready, Status: ready, Reason: v1alpha1.ReasonOK, ObservedGeneration: policy.Generation},
		}, now)
	}
	wants := func(gate string, n int, sum float64) {
		t.Helper()
		have := figures(t, appliedSeconds)
		if want := "portreeve_policy_applied_seconds{gate=\"" + gate + "\"} " + histogram(n, sum); n > 0 && !strings.Contains(have, want) || n == 0 && strings.Contains(have, gate) {
			t.Errorf("have\n%s\nwant %s", have, want)
		}
	}
	timer.begin(key, policy, now)
	saw(metav1.ConditionFalse, time.Second)
	wants(v1alpha1.HostEnforced, 1, 1)
	wants(v1alpha1.Ready, 0, 0)
	saw(metav1.ConditionTrue, time.Second)
	policy.Status.ObservedGeneration = 1
	saw(metav1.ConditionTrue, time.Hour)
	wants(v1alpha1.HostEnforced, 1, 1)
	wants(v1alpha1.Ready, 1, 2)
	wants(v1alpha1.CloudEnforced, 0, 0)

	policy.Generation = 2
	timer.begin(key, policy, now)
	saw(metav1.ConditionTrue, 3*time.Second)
	wants(v1alpha1.Ready, 2, 5)
	timer.forget(key)
	if len(timer.pending) != 0 {
		t.Errorf("pending: %v", timer.pending)
	}
}
