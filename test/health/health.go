package health

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// Verdict is what an object is to be called.
type Verdict struct {
	Argo    string
	Kstatus status.Status
}

// The verdicts there are.
var (
	// InForce: as wished, and proved.
	InForce = Verdict{"Healthy", status.CurrentStatus}
	// Working: on its way, or waiting for something that may come by itself.
	Working = Verdict{"Progressing", status.InProgressStatus}
	// Paused: not in force, because a person wishes so for now.
	Paused = Verdict{"Suspended", status.InProgressStatus}
	// Stuck: a person must act.
	Stuck = Verdict{"Degraded", status.FailedStatus}
)

// Meant returns the verdict on an object of which the condition named is True, with a
// reason, as in "Reconciling Lockdown".
func Meant(condition, reason string) Verdict {
	switch {
	case condition == v1alpha1.Ready:
		return InForce
	case condition == v1alpha1.Stalled:
		return Stuck
	case reason == v1alpha1.ReasonLockdown || reason == v1alpha1.ReasonObserving:
		return Paused
	}
	return Working
}

// Check requires that Argo CD and kstatus call the object as wanted, and, while a newer
// spec waits to be looked at, in progress.
func Check(t testing.TB, object client.Object, want Verdict) {
	t.Helper()
	have := Untyped(t, object)
	check(t, "", have, want)
	have.SetGeneration(have.GetGeneration() + 1)
	check(t, "with a newer spec ", have, Working)
}

func check(t testing.TB, which string, object *unstructured.Unstructured, want Verdict) {
	t.Helper()
	health, message, err := Argo(object)
	if err != nil {
		t.Fatalf("%s %s: %v", object.GetKind(), object.GetName(), err)
	}
	if health != want.Argo || message == "" {
		t.Errorf("%sArgo CD calls the %s %s (%q), want %s", which, object.GetKind(), health, message, want.Argo)
	}
	result, err := status.Compute(object)
	if err != nil {
		t.Fatal(err)
	}
	if result.Status != want.Kstatus {
		t.Errorf("%skstatus calls the %s %s (%s), want %s", which, object.GetKind(), result.Status, result.Message, want.Kstatus)
	}
}

var scheme = sync.OnceValue(func() *runtime.Scheme {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		panic(err) // two kinds of one name
	}
	return scheme
})

// Untyped is the object as the API server shows it.
func Untyped(t testing.TB, object client.Object) *unstructured.Unstructured {
	t.Helper()
	gvk, err := apiutil.GVKForObject(object, scheme())
	if err != nil {
		t.Fatal(err)
	}
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		t.Fatal(err)
	}
	untyped := &unstructured.Unstructured{Object: fields}
	untyped.SetGroupVersionKind(gvk)
	return untyped
}

// Of reads a sentence of the tests: "ready REASON", "in progress REASON",
// "stalled REASON", or the condition's name, in any case, with its reason.
func Of(sentence string) Verdict {
	if reason, ok := strings.CutPrefix(sentence, "in progress "); ok {
		return Meant(v1alpha1.Reconciling, reason)
	}
	words := append(strings.Fields(sentence), "", "")
	for _, condition := range []string{v1alpha1.Ready, v1alpha1.Reconciling, v1alpha1.Stalled} {
		if strings.EqualFold(words[0], condition) {
			return Meant(condition, words[1])
		}
	}
	panic("a sentence of another kind: " + sentence)
}

func (v Verdict) String() string { return fmt.Sprintf("%s (kstatus %s)", v.Argo, v.Kstatus) }
