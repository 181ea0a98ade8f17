package guard

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

type (
	policy  = admissionregistrationv1.ValidatingAdmissionPolicy
	binding = admissionregistrationv1.ValidatingAdmissionPolicyBinding
)

func policies(t *testing.T) []policy {
	t.Helper()
	all, err := Policies(namespace)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestNamesAreThoseOfThePoliciesAndOfTheirBindings(t *testing.T) {
	var inFiles, bound []string
	for _, p := range policies(t) {
		inFiles = append(inFiles, p.Name)
	}
	for _, b := range Bindings(v1alpha1.GuardEnforce, &metav1.LabelSelector{}) {
		bound = append(bound, b.Name)
		if b.Spec.PolicyName != b.Name {
			t.Errorf("binding %s is of policy %s; want its own name", b.Name, b.Spec.PolicyName)
		}
	}
	if !slices.Equal(inFiles, Names()) {
		t.Errorf("the files have %v; Names has %v", inFiles, Names())
	}
	if !slices.Equal(bound, Names()) {
		t.Errorf("there are bindings for %v; Names has %v", bound, Names())
	}
}

func TestAModeIsASetOfBindings(t *testing.T) {
	const (
		deny  = admissionregistrationv1.Deny
		warn  = admissionregistrationv1.Warn
		audit = admissionregistrationv1.Audit
	)
	everyone := &metav1.LabelSelector{}
	for name, c := range map[string]struct {
		mode       v1alpha1.GuardMode
		undeclared *metav1.LabelSelector
		want       []string
		actions    []admissionregistrationv1.ValidationAction
	}{
		"off is none":                             {mode: v1alpha1.GuardOff, undeclared: everyone},
		"audit warns and leaves an audit trail":   {v1alpha1.GuardAudit, everyone, Names(), []admissionregistrationv1.ValidationAction{warn, audit}},
		"enforce refuses, with an audit trail":    {v1alpha1.GuardEnforce, everyone, Names(), []admissionregistrationv1.ValidationAction{deny, audit}},
		"undeclared Services need a choice":       {v1alpha1.GuardEnforce, nil, slices.DeleteFunc(Names(), isUndeclared), []admissionregistrationv1.ValidationAction{deny, audit}},
		"and so they do where they are warned of": {v1alpha1.GuardAudit, nil, slices.DeleteFunc(Names(), isUndeclared), []admissionregistrationv1.ValidationAction{warn, audit}},
	} {
		t.Run(name, func(t *testing.T) {
			var have []string
			for _, b := range Bindings(c.mode, c.undeclared) {
				have = append(have, b.Name)
				want := c.actions
				if b.Name == Datapaths { // whoever reports for another node is never only warned
					want = []admissionregistrationv1.ValidationAction{deny, audit}
				}
				if !slices.Equal(b.Spec.ValidationActions, want) {
					t.Errorf("%s: actions %v; want %v", b.Name, b.Spec.ValidationActions, want)
				}
			}
			if !slices.Equal(have, c.want) {
				t.Errorf("bindings %v; want %v", have, c.want)
			}
		})
	}
}

func isUndeclared(name string) bool { return name == Undeclared }

// A binding with parameters for a policy without, or the other way round, would
// judge nothing, or everything with no pool in hand.
func TestPoliciesOfPoolsAreBoundToEveryPoolAndTheOthersToNone(t *testing.T) {
	bindings := Bindings(v1alpha1.GuardEnforce, &metav1.LabelSelector{})
	for i, p := range policies(t) {
		ref := bindings[i].Spec.ParamRef
		if (p.Spec.ParamKind != nil) != (ref != nil) {
			t.Errorf("%s: paramKind %v, paramRef of the binding %v", p.Name, p.Spec.ParamKind, ref)
			continue
		}
		if ref == nil {
			continue
		}
		if kind := (admissionregistrationv1.ParamKind{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodePortPool"}); *p.Spec.ParamKind != kind {
			t.Errorf("%s: paramKind %v; want %v", p.Name, *p.Spec.ParamKind, kind)
		}
		if ref.Selector == nil || len(ref.Selector.MatchLabels)+len(ref.Selector.MatchExpressions) > 0 {
			t.Errorf("%s: selector %v; want all pools", p.Name, ref.Selector)
		}
		if *ref.ParameterNotFoundAction != admissionregistrationv1.AllowAction {
			t.Errorf("%s: without pools %s; want Allow", p.Name, *ref.ParameterNotFoundAction)
		}
	}
}

// A policy with parameters fails as a whole when their definition is missing: that
// must not be what stops a cluster's Services and pods.
func TestNoPolicyThatNeedsPoolsIsFatal(t *testing.T) {
	for _, p := range policies(t) {
		want := admissionregistrationv1.Fail
		if p.Spec.ParamKind != nil {
			want = admissionregistrationv1.Ignore
		}
		if *p.Spec.FailurePolicy != want {
			t.Errorf("%s: failurePolicy %s; want %s", p.Name, *p.Spec.FailurePolicy, want)
		}
	}
}

func TestEveryRefusalIsForbiddenAndHasAMessageForItself(t *testing.T) {
	for _, p := range policies(t) {
		for _, v := range p.Spec.Validations {
			// Invalid, the default, would read like a node port that is taken.
			if v.Reason == nil || *v.Reason != metav1.StatusReasonForbidden {
				t.Errorf("%s: %s: no reason Forbidden", p.Name, v.Expression)
			}
			// The message is what is left of a messageExpression that is too long.
			if v.MessageExpression == "" || v.Message == "" {
				t.Errorf("%s: %s: want a message and a messageExpression", p.Name, v.Expression)
			}
		}
	}
}

// What several policies say of a pool, they say alike.
func TestPoliciesReadPoolsAlike(t *testing.T) {
	said := map[string]string{}
	for _, p := range policies(t) {
		if p.Spec.ParamKind == nil {
			continue
		}
		for _, name := range []string{"ranges", "reserved", "lowest", "highest"} {
			i := slices.IndexFunc(p.Spec.Variables, func(v admissionregistrationv1.Variable) bool { return v.Name == name })
			if i < 0 {
				t.Errorf("%s does not say what the %s of a pool are", p.Name, name)
				continue
			}
			expression := p.Spec.Variables[i].Expression
			if said[name] == "" {
				said[name] = expression
			}
			if said[name] != expression {
				t.Errorf("%s: variable %s is %s; elsewhere it is %s", p.Name, name, expression, said[name])
			}
		}
	}
}

func TestTheManagerAndTheAgentsAreThoseOfTheInstallation(t *testing.T) {
	moved, err := Policies("ports")
	if err != nil {
		t.Fatal(err)
	}
	known := 0
	for i, p := range policies(t) {
		for j, condition := range p.Spec.MatchConditions {
			want := strings.ReplaceAll(condition.Expression, "'system:serviceaccount:portreeve-system:portreeve-", "'system:serviceaccount:ports:portreeve-")
			if want != condition.Expression {
				known++
			}
			if have := moved[i].Spec.MatchConditions[j].Expression; have != want {
				t.Errorf("%s, installed in namespace ports: %s; want %s", p.Name, have, want)
			}
		}
		// Names of ServiceAccounts stand in match conditions, and nowhere else.
		moved[i].Spec.MatchConditions = p.Spec.MatchConditions
		if !reflect.DeepEqual(moved[i], p) {
			t.Errorf("%s: more than its match conditions depends on the namespace", p.Name)
		}
	}
	if known != 4 { // the manager in three, the agents in one
		t.Errorf("%d match conditions name a ServiceAccount; want 4", known)
	}
	for _, wrong := range []string{"", "Ports", "a:b", "a'b"} {
		if _, err := Policies(wrong); err == nil {
			t.Errorf("%q passes for a namespace", wrong)
		}
	}
}

func TestResultsShareNothing(t *testing.T) {
	undeclared := &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
	first := Bindings(v1alpha1.GuardEnforce, undeclared)
	second := Bindings(v1alpha1.GuardEnforce, undeclared)
	want := append([]binding(nil), second...)
	for i := range first {
		first[i].Labels["x"] = "y"
		first[i].Spec.ValidationActions[0] = admissionregistrationv1.Warn
		if first[i].Spec.MatchResources != nil {
			first[i].Spec.MatchResources.NamespaceSelector.MatchLabels["a"] = "c"
		}
	}
	if !reflect.DeepEqual(second, want) || second[0].Labels["x"] != "" || second[0].Spec.ValidationActions[0] != admissionregistrationv1.Deny || undeclared.MatchLabels["a"] != "b" {
		t.Error("changing the bindings changes others, or the selector they were made from")
	}
}
