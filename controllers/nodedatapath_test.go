package controllers

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// Each repair of a node is told once, and none that is an hour old.
func TestRepairsAreTold(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	report := &v1alpha1.NodeDatapath{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	report.Status.Repairs = &v1alpha1.Repairs{Count: 3, Last: metav1.NewTime(now.Add(-time.Hour)), Damage: "old"}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(report).Build()
	recorder := events.NewFakeRecorder(8)
	r := &NodeDatapath{Client: c, Events: recorder, Now: func() time.Time { return now }}
	look := func() {
		t.Helper()
		if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Name: "n1"}}); err != nil {
			t.Fatal(err)
		}
	}
	look()
	look()
	if len(recorder.Events) > 0 {
		t.Errorf("told of an old repair: %s", <-recorder.Events)
	}
	report.Status.Repairs = &v1alpha1.Repairs{Count: 4, Last: metav1.NewTime(now.Add(-time.Second)), Damage: "chain judge has 3 rules instead of 7"}
	if err := c.Update(t.Context(), report); err != nil {
		t.Fatal(err)
	}
	look()
	look()
	if len(recorder.Events) != 1 {
		t.Errorf("%d events, want one", len(recorder.Events))
	}
}

// A node that is Ready and has no report of this boot is counted at once and told after
// a while, once; one that is not Ready, virtual or deleted is neither.
func TestUngatedNodesAreToldOnce(t *testing.T) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	node.Status.NodeInfo.BootID = "b2"
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	report := &v1alpha1.NodeDatapath{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	report.Status.BootID = "b1" // of an earlier boot
	c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(node, report).Build()
	recorder := events.NewFakeRecorder(8)
	r := &NodeDatapath{Client: c, Events: recorder, Now: func() time.Time { return now }}
	look := func(counted float64, told int) reconcile.Result {
		t.Helper()
		result, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Name: "n1"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := testutil.ToFloat64(ungatedNodes); got != counted {
			t.Errorf("%v nodes are counted, want %v", got, counted)
		}
		if got := len(recorder.Events); got != told {
			t.Errorf("%d events, want %d", got, told)
		}
		return result
	}
	if again := look(1, 0).RequeueAfter; again != grace {
		t.Errorf("looks again after %s", again)
	}
	now = now.Add(grace)
	look(1, 1)
	look(1, 1)
	report.Status.BootID = "b2"
	if err := c.Update(t.Context(), report); err != nil {
		t.Fatal(err)
	}
	look(0, 1)
	report.Status.BootID = ""
	if err := c.Update(t.Context(), report); err != nil {
		t.Fatal(err)
	}
	look(1, 1)
	node.Status.Conditions[0].Status = corev1.ConditionFalse
	if err := c.Status().Update(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	look(0, 1)
	if err := c.Delete(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	look(0, 1)
}
