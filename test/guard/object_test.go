package guard

import (
	"fmt"
	"reflect"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/guard"
)

// The API server adds nothing to what the manager writes, so the manager can see
// by comparing whether there is something to write.
func TestWhatIsStoredIsWhatWasWritten(t *testing.T) {
	setMode(t, v1alpha1.GuardEnforce, undeclared)
	for _, want := range policies(t) {
		var have admissionregistrationv1.ValidatingAdmissionPolicy
		if err := manager.Get(t.Context(), client.ObjectKey{Name: want.Name}, &have); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(have.Spec, want.Spec) || !reflect.DeepEqual(have.Labels, want.Labels) {
			t.Errorf("policy %s is stored as %v, %+v; written was %v, %+v", want.Name, have.Labels, have.Spec, want.Labels, want.Spec)
		}
	}
	for _, want := range guard.Bindings(v1alpha1.GuardEnforce, undeclared) {
		var have admissionregistrationv1.ValidatingAdmissionPolicyBinding
		if err := manager.Get(t.Context(), client.ObjectKey{Name: want.Name}, &have); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(have.Spec, want.Spec) || !reflect.DeepEqual(have.Labels, want.Labels) {
			t.Errorf("binding %s is stored as %v, %+v; written was %v, %+v", want.Name, have.Labels, have.Spec, want.Labels, want.Spec)
		}
	}
}

// The API server's controller reads each expression against the definitions of
// what it judges. A policy with a mistake shows that it does.
func TestTypeCheckingFindsNothingInThePolicies(t *testing.T) {
	writePolicies(t)
	for _, p := range policies(t) {
		if warnings := typeCheck(t, p.Name); len(warnings) > 0 {
			t.Errorf("%s: %v", p.Name, warnings)
		}
	}
	for _, wrong := range policies(t) {
		wrong.Name += "-wrong"
		wrong.Spec.Validations = append(wrong.Spec.Validations, admissionregistrationv1.Validation{Expression: "object.metadata.nothing == 1"})
		create(t, admin, &wrong)
		if warnings := typeCheck(t, wrong.Name); len(warnings) != 1 {
			t.Errorf("%s: %v; want a warning of the last validation", wrong.Name, warnings)
		}
	}
}

func typeCheck(t *testing.T, name string) []admissionregistrationv1.ExpressionWarning {
	t.Helper()
	var p admissionregistrationv1.ValidatingAdmissionPolicy
	eventually(t, "type checking of "+name, func() error {
		if err := admin.Get(t.Context(), client.ObjectKey{Name: name}, &p); err != nil {
			return err
		}
		if p.Status.ObservedGeneration != p.Generation || p.Status.TypeChecking == nil {
			return fmt.Errorf("status %+v of generation %d", p.Status, p.Generation)
		}
		return nil
	})
	return p.Status.TypeChecking.ExpressionWarnings
}

// A definition of NodePortPool that is not there yet, or no longer, stops nobody's
// Services and pods. The same policy with failurePolicy Fail shows that it would,
// whatever the conditions and the mode.
func TestAMissingDefinitionOfPoolsStopsNoServicesAndPods(t *testing.T) {
	create(t, admin, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "hostage", Labels: map[string]string{"hostage": "true"}}})
	if err := awaitServiceAccount(t.Context(), "hostage"); err != nil {
		t.Fatal(err)
	}
	setMode(t, v1alpha1.GuardOff, nil)
	all := policies(t)
	for i, binding := range guard.Bindings(v1alpha1.GuardAudit, nil) {
		policy := all[i]
		if policy.Spec.ParamKind == nil {
			continue
		}
		for _, failure := range []admissionregistrationv1.FailurePolicyType{admissionregistrationv1.Ignore, admissionregistrationv1.Fail} {
			p, b := policy.DeepCopy(), binding.DeepCopy()
			p.Name += "-" + map[admissionregistrationv1.FailurePolicyType]string{admissionregistrationv1.Ignore: "ignore", admissionregistrationv1.Fail: "fail"}[failure]
			b.Name, b.Spec.PolicyName = p.Name, p.Name
			p.Spec.ParamKind.Kind = "NodePortPoolThatIsNot"
			if failure == admissionregistrationv1.Fail {
				p.Spec.FailurePolicy = ptr.To(failure)
				p.Spec.MatchConstraints.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"hostage": "true"}}
			}
			create(t, admin, p)
			create(t, admin, b)
		}
	}
	// Written last, seen last: what is refused in one namespace passes in the other.
	for name, o := range map[string]client.Object{"service": service(), "pod": pod()} {
		o.SetNamespace("hostage")
		eventually(t, name+" where the policy is fatal", func() error {
			_, err := admin.try(t.Context(), dryCreate(o))
			return fatal(err)
		})
		o.SetNamespace("default")
		if err := passed(admin.try(t.Context(), dryCreate(o))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func fatal(err error) error {
	if err == nil {
		return fmt.Errorf("passed; want it refused for the missing definition")
	}
	return nil
}
