package controllers

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// An object that no longer asks for agents takes none with it when it goes: whoever runs
// them now must not lose them to garbage collection.
func TestAgentsThatAreNotAskedForStayWhenTheObjectGoes(t *testing.T) {
	object := &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName, UID: "mine"}}
	object.Spec.Agent = &v1alpha1.AgentRollout{}
	c := store(t, object).Build()
	r := &Installation{Client: c, Snapshot: Snapshot{Reader: c, Namespace: "ours"}, AgentImage: "agent:v1"}
	owners := func() []types.UID {
		t.Helper()
		var seen compile.InstallationSeen
		if gone, err := r.agents(t.Context(), object, &seen); gone || err != nil {
			t.Fatalf("gone %t, %v", gone, err)
		}
		var set appsv1.DaemonSet
		if err := c.Get(t.Context(), types.NamespacedName{Namespace: "ours", Name: v1alpha1.AgentName}, &set); err != nil {
			t.Fatal(err)
		}
		var out []types.UID
		for _, o := range set.OwnerReferences {
			out = append(out, o.UID)
		}
		return out
	}
	if got := owners(); len(got) != 1 || got[0] != "mine" {
		t.Fatalf("owners %v", got)
	}
	object.Spec.Agent = nil
	for range 2 {
		if got := owners(); len(got) != 0 {
			t.Fatalf("owners %v", got)
		}
	}
}
