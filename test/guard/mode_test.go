package guard

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/guard"
)

// offences are attempts of which every policy has one against it.
func offences(t *testing.T) map[string]trial {
	t.Helper()
	return map[string]trial{
		guard.Ports: {who: admin, attempt: dryCreate(nodePortService(30000))},
		guard.CaptureServices: {who: admin, attempt: dryCreate(service(func(s *corev1.Service) {
			s.Spec.ExternalIPs = []string{"203.0.113.7"}
			s.Spec.Ports[0].Port = 30000
		}))},
		guard.CapturePods: {who: admin, attempt: dryCreate(pod(corev1.ContainerPort{ContainerPort: 80, HostPort: 30000}))},
		guard.Allocations: {who: admin, attempt: dryCreate(newAllocation("30000"))},
		guard.Datapaths:   {who: agent(t, nil), attempt: dryCreate(newDatapath("n9"))},
		guard.Undeclared: {who: admin, attempt: dryCreate(service(func(s *corev1.Service) {
			s.Namespace, s.Spec.Type = strict, corev1.ServiceTypeNodePort
		}))},
	}
}

// setMode writes the policies and the bindings of a mode, as the manager, and waits
// until the API server goes by them.
func setMode(t *testing.T, mode v1alpha1.GuardMode, undeclared *metav1.LabelSelector) {
	t.Helper()
	writePolicies(t)
	want := map[string]admissionregistrationv1.ValidatingAdmissionPolicyBinding{}
	for _, b := range guard.Bindings(mode, undeclared) {
		want[b.Name] = b
	}
	for _, name := range guard.Names() {
		writeBinding(t, name, want)
	}
	for policy, c := range offences(t) {
		_, bound := want[policy]
		eventually(t, fmt.Sprintf("mode %s of %s", mode, policy), func() error {
			warnings, err := c.who.try(t.Context(), c.attempt)
			switch {
			case !bound:
				return passed(warnings, err)
			case mode == v1alpha1.GuardEnforce, policy == guard.Datapaths:
				return refused(err, policy)
			default:
				return warned(warnings, err, policy)
			}
		})
	}
}

// warned says what is wrong with an answer that should be a warning, and no more.
func warned(warnings []string, err error, policy string) error {
	start := "Validation failed for ValidatingAdmissionPolicy '" + policy + "' with binding '" + policy + "': "
	if err != nil || !slices.ContainsFunc(warnings, func(w string) bool { return strings.HasPrefix(w, start) }) {
		return fmt.Errorf("refused: %v, warnings: %q; want a warning of %s only", err, warnings, policy)
	}
	return nil
}

func policies(t *testing.T) []admissionregistrationv1.ValidatingAdmissionPolicy {
	t.Helper()
	all, err := guard.Policies("portreeve-system")
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func writePolicies(t *testing.T) {
	t.Helper()
	for _, p := range policies(t) {
		if err := manager.Create(t.Context(), &p); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
}

func writeBinding(t *testing.T, name string, all map[string]admissionregistrationv1.ValidatingAdmissionPolicyBinding) {
	t.Helper()
	want, bound := all[name]
	var have admissionregistrationv1.ValidatingAdmissionPolicyBinding
	err := manager.Get(t.Context(), client.ObjectKey{Name: name}, &have)
	switch {
	case apierrors.IsNotFound(err) && bound:
		err = manager.Create(t.Context(), &want)
	case err == nil && bound:
		have.Spec = want.Spec
		err = manager.Update(t.Context(), &have)
	case err == nil:
		err = manager.Delete(t.Context(), &have)
	}
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
}

func TestModes(t *testing.T) {
	for _, c := range []struct {
		mode       v1alpha1.GuardMode
		undeclared *metav1.LabelSelector
	}{
		{v1alpha1.GuardEnforce, undeclared},
		{v1alpha1.GuardAudit, undeclared},
		{v1alpha1.GuardOff, undeclared},
		{v1alpha1.GuardAudit, nil}, // Services without a policy are nobody's business
		{v1alpha1.GuardEnforce, nil},
	} {
		setMode(t, c.mode, c.undeclared) // tries an offence against each policy
	}
}

// An auditor finds in the API server's log what was warned of, or refused.
func TestAuditAndEnforceLeaveAnAuditTrail(t *testing.T) {
	for mode, actions := range map[v1alpha1.GuardMode]string{v1alpha1.GuardAudit: "[Warn Audit]", v1alpha1.GuardEnforce: "[Deny Audit]"} {
		t.Run(string(mode), func(t *testing.T) {
			setMode(t, mode, undeclared)
			missing := map[string]bool{}
			for _, name := range guard.Names() {
				missing[name] = true
			}
			eventually(t, "audit log", func() error {
				for _, e := range auditEvents(t) {
					if e.Actions == actions || e.Policy == guard.Datapaths && e.Actions == "[Deny Audit]" {
						delete(missing, e.Policy)
					}
				}
				if len(missing) > 0 {
					return fmt.Errorf("no failed validation with actions %s of %v", actions, slices.Sorted(maps.Keys(missing)))
				}
				return nil
			})
		})
	}
}

type auditEvent struct{ Policy, Actions string }

// auditEvents are the failed validations in the API server's audit log.
func auditEvents(t *testing.T) []auditEvent {
	t.Helper()
	data, err := os.ReadFile(auditLog)
	if err != nil {
		t.Fatal(err)
	}
	var all []auditEvent
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<22)
	for lines.Scan() {
		var event struct{ Annotations map[string]string }
		if json.Unmarshal(lines.Bytes(), &event) != nil {
			break // the last line is still being written
		}
		var failures []struct {
			Policy, Message   string
			ValidationActions []string
		}
		text, found := event.Annotations["validation.policy.admission.k8s.io/validation_failure"]
		if !found {
			continue
		}
		if err := json.Unmarshal([]byte(text), &failures); err != nil {
			t.Fatal(err)
		}
		for _, f := range failures {
			all = append(all, auditEvent{f.Policy, fmt.Sprint(f.ValidationActions)})
		}
	}
	return all
}
