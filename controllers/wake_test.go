package controllers

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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

// A node that ceases to be Ready wakes the policies that list it, and those of whose
// status it is not known yet what it says: one that is looked at just now may have been
// judged by the node as it was.
func TestANodesDeathWakesWhoListsItAndWhoMay(t *testing.T) {
	alive := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
	}}
	dead := alive.DeepCopy()
	dead.Status.Conditions[0].Status = corev1.ConditionUnknown
	moved := dead.DeepCopy()
	moved.Status.Addresses[0].Address = "192.0.2.2"
	objects := []client.Object{dead}
	for name, address := range map[string]string{"listing": "192.0.2.1:30000", "other": "192.0.2.9:30000", "busy": "192.0.2.9:30000", "written": "192.0.2.9:30000"} {
		p := &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, ResourceVersion: "7"}}
		p.Status = hostStatus(v1alpha1.ReasonOK, address)
		objects = append(objects, p)
	}
	c := store(t, objects...).Build()
	r := &Policy{
		Client: c, Snapshot: Snapshot{Reader: c}, notes: map[types.NamespacedName]note{}, busy: map[types.NamespacedName]bool{},
	}
	r.note(types.NamespacedName{Namespace: "shop", Name: "written"}, note{version: "8"})
	r.note(types.NamespacedName{Namespace: "shop", Name: "other"}, note{version: "7"})
	done := r.look(types.NamespacedName{Namespace: "shop", Name: "busy"})
	for _, one := range []struct {
		what string
		to   *corev1.Node
		want []string
	}{
		{"it dies", dead, []string{"shop/busy", "shop/listing", "shop/written"}},
		{"it moves as well", moved, []string{"shop/busy", "shop/listing", "shop/other", "shop/written"}},
		{"nothing turns", alive, []string{"shop/busy", "shop/written"}},
	} {
		if got := namesOf(r.concerned(t.Context(), alive, one.to)); !slices.Equal(got, one.want) {
			t.Errorf("%s: woken %q, want %q", one.what, got, one.want)
		}
	}
	done()
	if got := namesOf(r.concerned(t.Context(), alive, dead)); !slices.Equal(got, []string{"shop/listing", "shop/written"}) {
		t.Errorf("after the look: woken %q", got)
	}
}
