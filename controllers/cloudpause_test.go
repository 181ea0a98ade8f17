package controllers

import (
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

// After a run that wrote, what only opens waits for company, and what closes hardly.
func TestABurstOfChangesTakesFewCalls(t *testing.T) {
	account := cloudtest.NewEC2(cloudtest.Options{})
	account.AddGroup("sg-1")
	claim, _ := shop()
	claim.Spec.CloudFirewalls = []v1alpha1.ObjectName{"aws"}
	f := firewallOf("aws", time.Hour, "sg-1")
	r := syncing(t, account, claim, &f)
	r.Client = store(t, claim, &f).WithStatusSubresource(&f).Build()
	r.Snapshot.Reader = r.Client
	now := time.Now()
	r.Now = func() time.Time { return now }
	serve := func(after time.Duration, wait bool, rules int) {
		t.Helper()
		now = now.Add(after)
		result, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&f)})
		if err != nil {
			t.Fatal(err)
		}
		if waits := result.RequeueAfter <= time.Second; waits != wait || len(account.Rules("sg-1")) != rules {
			t.Errorf("comes back after %s, and the group holds %v", result.RequeueAfter, account.Rules("sg-1"))
		}
	}
	edit := func(sources ...string) {
		t.Helper()
		if err := r.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); err != nil {
			t.Fatal(err)
		}
		claim.Spec.Ports[0].Sources = nil
		for _, s := range sources {
			claim.Spec.Ports[0].Sources = append(claim.Spec.Ports[0].Sources, v1alpha1.CIDR(s))
		}
		if err := r.Update(t.Context(), claim); err != nil {
			t.Fatal(err)
		}
	}
	serve(0, false, 1)
	edit("203.0.113.0/24", "198.51.100.0/24")
	serve(300*time.Millisecond, true, 1)
	serve(700*time.Millisecond, false, 2)
	edit("198.51.100.0/24")
	serve(300*time.Millisecond, false, 1)
}
