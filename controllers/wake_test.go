package controllers

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

func namesOf(requests []reconcile.Request) []string {
	var out []string
	for _, r := range requests {
		out = append(out, r.String())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// A policy whose new reference can't be had goes on exposing the Service it had:
// what becomes of that one still matters.
func TestAServiceWakesThePoliciesThatStillExposeIt(t *testing.T) {
	claim, rest := shop()
	rest[1].(*v1alpha1.NodePortPolicy).Spec.ServiceRef.Name = "missing"
	c := store(t, append(rest, claim)...).Build()
	woken := Snapshot{Reader: c}.policiesOf(t.Context(), serviceOn("shop", "shop", 0))
	if got := namesOf(woken); !slices.Equal(got, []string{"shop/web"}) {
		t.Errorf("woken: %q", got)
	}
}

// A companion may give up a number of a category that its policy has left.
func TestAFreedNumberWakesTheCategoryOfItsPool(t *testing.T) {
	claim, rest := shop()
	policy := rest[1].(*v1alpha1.NodePortPolicy)
	policy.Spec.Category = "api"
	c := store(t, rest...).Build()
	companion := compile.Companion("shop", "web", []v1alpha1.NodePortAllocation{*claim}, nil, nil)
	r := &Allocator{Client: c, Snapshot: Snapshot{Reader: c}}
	if got := namesOf(r.categoriesOfService(t.Context(), companion)); !slices.Equal(got, []string{"/api", "/web"}) {
		t.Errorf("woken: %q", got)
	}
}

// Whoever believed in a node's report must hear that it is gone.
func TestAReportThatIsGoneWakesEveryPolicy(t *testing.T) {
	_, rest := shop()
	policy := rest[1].(*v1alpha1.NodePortPolicy)
	policy.Status.Conditions = []metav1.Condition{{Type: v1alpha1.HostEnforced, Status: metav1.ConditionTrue}}
	report := &v1alpha1.NodeDatapath{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}, Status: v1alpha1.NodeDatapathStatus{
		Conditions: []metav1.Condition{{Type: v1alpha1.Enforced, Status: metav1.ConditionTrue}},
	}}
	for name, c := range map[string]struct {
		objects []client.Object
		want    int
	}{
		"the report stands":  {append(slices.Clone(rest), report), 0},
		"the report is gone": {rest, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Policy{Client: store(t, c.objects...).Build()}
			if got := r.ofNodes(t.Context(), report); len(got) != c.want {
				t.Errorf("woken: %q", namesOf(got))
			}
		})
	}
}

// The status of policies rests on what was read of a firewall.
func TestPoliciesHearThatAFirewallIsGone(t *testing.T) {
	clouds := NewClouds()
	clouds.Forget("never seen")
	if len(clouds.changed) != 0 {
		t.Error("woken for nothing")
	}
	clouds.Saw("aws", Reading{CloudSeen: compile.CloudSeen{Read: true}})
	clouds.Forget("aws")
	if len(clouds.changed) != 2 || len(clouds.cleared) != 2 {
		t.Errorf("%d and %d wakings, want 2 and 2", len(clouds.changed), len(clouds.cleared))
	}
}
