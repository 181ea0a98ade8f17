package controllers

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
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
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
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
