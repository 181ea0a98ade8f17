package api

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"

	v1alpha1 "github.com/portreeve/portreeve/api/v1alpha1"
)

// conditions written when the object's generation was 1.
func conditions(pairs ...string) []metav1.Condition {
	var all []metav1.Condition
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, metav1.Condition{
			Type: pairs[i], Status: metav1.ConditionStatus(pairs[i+1]),
			ObservedGeneration: 1, Reason: v1alpha1.ReasonProgressing, Message: "as the test says",
		})
	}
	return all
}

// kstatusCases is how kstatus, and with it Flux, must read our conditions.
var kstatusCases = []struct {
	name       string
	generation int64
	observed   int64
	conditions []metav1.Condition
	want       status.Status
}{
	{"fresh", 1, -1, nil, status.InProgressStatus},
	{"healthy, of an older spec", 2, 1, conditions(v1alpha1.Ready, "True"), status.InProgressStatus},
	{"healthy", 1, 1, conditions(v1alpha1.Ready, "True"), status.CurrentStatus},
	{"healthy, and says so in full", 1, 1, conditions(v1alpha1.Ready, "True", v1alpha1.Reconciling, "False", v1alpha1.Stalled, "False"), status.CurrentStatus},
	{"not there yet", 1, 1, conditions(v1alpha1.Ready, "False"), status.InProgressStatus},
	{"working", 1, 1, conditions(v1alpha1.Ready, "False", v1alpha1.Reconciling, "True"), status.InProgressStatus},
	{"unknown", 1, 1, conditions(v1alpha1.Ready, "Unknown"), status.InProgressStatus},
	{"waits for a person", 1, 1, conditions(v1alpha1.Ready, "False", v1alpha1.Stalled, "True"), status.FailedStatus},
	{"ready, but shadowed", 1, 1, conditions(v1alpha1.Ready, "True", v1alpha1.Shadowed, "True"), status.CurrentStatus},
}

func TestKstatusReadsOurStatusRightly(t *testing.T) {
	for _, c := range kstatusCases {
		t.Run(c.name, func(t *testing.T) {
			objects := map[string]any{
				"NodePortPolicy": &v1alpha1.NodePortPolicy{Status: v1alpha1.NodePortPolicyStatus{ObservedGeneration: c.observed, Conditions: c.conditions}},
				"NodePortPool":   &v1alpha1.NodePortPool{Status: v1alpha1.NodePortPoolStatus{ObservedGeneration: c.observed, Conditions: c.conditions}},
				"Portreeve":      &v1alpha1.Portreeve{Status: v1alpha1.PortreeveStatus{ObservedGeneration: c.observed, Conditions: c.conditions}},
				"CloudFirewall":  &v1alpha1.CloudFirewall{Status: v1alpha1.CloudFirewallStatus{ObservedGeneration: c.observed, Conditions: c.conditions}},
			}
			for kind, typed := range objects {
				fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
				if err != nil {
					t.Fatal(err)
				}
				object := &unstructured.Unstructured{Object: fields}
				object.SetAPIVersion(v1alpha1.GroupVersion.String())
				object.SetKind(kind)
				object.SetGeneration(c.generation)
				wantStatus(t, object, c.want)
			}
		})
	}
}

// A fresh object, and one whose status somebody has emptied, come from the API
// server in progress: without the defaults kstatus would call them healthy.
func TestKstatusNeverTakesAFreshObjectForAHealthyOne(t *testing.T) {
	client := apiServer(t)
	tables := tables(t)
	for _, k := range kinds(t) {
		if _, reports := k.schema.Properties["status"].Properties["observedGeneration"]; !reports {
			continue
		}
		t.Run(k.String(), func(t *testing.T) {
			base := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(tables[k.String()].Base)}
			objects := resource(client, k, base.GetNamespace())
			have := create(t, objects, base)
			wantStatus(t, have, status.InProgressStatus)
			have.Object["status"] = map[string]any{}
			have, err := objects.UpdateStatus(t.Context(), have, metav1.UpdateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			wantStatus(t, have, status.InProgressStatus)
		})
	}
}

func wantStatus(t *testing.T, object *unstructured.Unstructured, want status.Status) {
	t.Helper()
	result, err := status.Compute(object)
	if err != nil {
		t.Fatal(err)
	}
	if result.Status != want {
		t.Errorf("%s: kstatus says %s (%s), want %s", object.GetKind(), result.Status, result.Message, want)
	}
}
