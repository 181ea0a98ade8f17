package health

import (
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// reporting are the kinds with Ready, Reconciling and Stalled, each with the status given.
func reporting(observed int64, conditions []metav1.Condition) []client.Object {
	meta := metav1.ObjectMeta{Name: "web", Generation: 2}
	return []client.Object{
		&v1alpha1.NodePortPolicy{ObjectMeta: meta, Status: v1alpha1.NodePortPolicyStatus{ObservedGeneration: observed, Conditions: conditions}},
		&v1alpha1.NodePortPool{ObjectMeta: meta, Status: v1alpha1.NodePortPoolStatus{ObservedGeneration: observed, Conditions: conditions}},
		&v1alpha1.CloudFirewall{ObjectMeta: meta, Status: v1alpha1.CloudFirewallStatus{ObservedGeneration: observed, Conditions: conditions}},
		&v1alpha1.Portreeve{ObjectMeta: meta, Status: v1alpha1.PortreeveStatus{ObservedGeneration: observed, Conditions: conditions}},
	}
}

// one sets of Ready, Reconciling and Stalled only the condition named.
func one(name, reason string) (all []metav1.Condition) {
	for _, kind := range []string{v1alpha1.Ready, v1alpha1.Reconciling, v1alpha1.Stalled} {
		c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: "as the test says", ObservedGeneration: 2}
		if kind == name {
			c.Status = metav1.ConditionTrue
		}
		all = append(all, c)
	}
	return all
}

// Every reason of the closed list, under each of the three conditions.
func TestEveryReasonIsReadRightly(t *testing.T) {
	known := reasons(t)
	for _, reason := range known {
		for _, condition := range []string{v1alpha1.Ready, v1alpha1.Reconciling, v1alpha1.Stalled} {
			for _, object := range reporting(2, one(condition, reason)) {
				Check(t, object, Meant(condition, reason))
			}
		}
	}
	for _, paused := range []string{v1alpha1.ReasonLockdown, v1alpha1.ReasonObserving} {
		if !slices.Contains(known, paused) || Meant(v1alpha1.Reconciling, paused) != Paused {
			t.Errorf("%s is no pause", paused)
		}
	}
}

func reasons(t *testing.T) (all []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../api/v1alpha1/conditions.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && strings.HasPrefix(spec.Names[0].Name, "Reason") {
			text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, text)
		}
		return true
	})
	if len(all) < 20 {
		t.Fatalf("only %d reasons found", len(all))
	}
	return all
}

// A fresh object, one whose status was emptied, and one without Ready are never healthy.
func TestNothingIsHealthyBeforeItWasLookedAt(t *testing.T) {
	for _, conditions := range [][]metav1.Condition{nil, {}, one(v1alpha1.Ready, v1alpha1.ReasonOK)} {
		for _, object := range reporting(-1, conditions) {
			Check(t, object, Working)
		}
	}
	for _, object := range reporting(2, one(v1alpha1.Ready, v1alpha1.ReasonOK)[1:]) {
		bare := Untyped(t, object)
		if health, _, err := Argo(bare); err != nil || health != Working.Argo {
			t.Errorf("without Ready Argo CD calls the %s %s, %v", bare.GetKind(), health, err)
		}
		for _, status := range []any{nil, map[string]any{}} {
			bare.Object["status"] = status
			if health, _, err := Argo(bare); err != nil || health != Working.Argo {
				t.Errorf("with status %v Argo CD calls the %s %s, %v", status, bare.GetKind(), health, err)
			}
		}
	}
	report := Untyped(t, &v1alpha1.NodeDatapath{})
	if health, _, err := Argo(report); err != nil || health != Working.Argo {
		t.Errorf("a report that says nothing is %s, %v", health, err)
	}
}

// What is wrong although an object is Ready is told beside its health.
func TestAnAbnormalConditionIsTold(t *testing.T) {
	for _, kind := range []string{v1alpha1.Shadowed, v1alpha1.Conflict, v1alpha1.Unanswered, v1alpha1.Overlaps, v1alpha1.OutOfRange, v1alpha1.Exhausted} {
		conditions := append(one(v1alpha1.Ready, v1alpha1.ReasonOK), metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: kind, Message: "by somebody"})
		for _, object := range reporting(2, conditions) {
			Check(t, object, InForce)
			if _, message, _ := Argo(Untyped(t, object)); !strings.Contains(message, kind+": by somebody") {
				t.Errorf("nothing of %s in %q", kind, message)
			}
		}
	}
}

func TestAnAllocationIsHealthyUntilItCloses(t *testing.T) {
	for state, want := range map[v1alpha1.AllocationState]string{
		v1alpha1.AllocationOpen: "Healthy", v1alpha1.AllocationForeign: "Healthy", v1alpha1.AllocationClosed: "Progressing",
	} {
		a := &v1alpha1.NodePortAllocation{Spec: v1alpha1.NodePortAllocationSpec{State: state}}
		if got, _, err := Argo(Untyped(t, a)); got != want || err != nil {
			t.Errorf("%s is %s, %v, want %s", state, got, err, want)
		}
	}
}

// Each kind has a script, but the one that has nothing to say.
func TestEveryKindHasAScript(t *testing.T) {
	for kind, typed := range map[string]any{
		"NodePortPolicy": v1alpha1.NodePortPolicy{}, "NodePortPool": v1alpha1.NodePortPool{}, "CloudFirewall": v1alpha1.CloudFirewall{}, "Portreeve": v1alpha1.Portreeve{},
		"NodePortAllocation": v1alpha1.NodePortAllocation{}, "NodeDatapath": v1alpha1.NodeDatapath{}, "AddressSet": v1alpha1.AddressSet{},
	} {
		script, err := Script(kind)
		if err != nil {
			t.Fatal(err)
		}
		_, reports := reflect.TypeOf(typed).FieldByName("Status")
		if needs := reports || kind == "NodePortAllocation"; needs != (script != "") {
			t.Errorf("%s has a status: %v; its script: %q", kind, reports, script)
		}
	}
}
