package least

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/portreeve/portreeve/test/stage"
)

const enforce = "pod-security.kubernetes.io/enforce"

// read decodes one manifest of config/.
func read(t *testing.T, into any, path ...string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{stage.Root(), "config"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

// The manager is content with the restricted Pod Security Standard, whatever the
// namespace allows; the agents need the privileged one, which their namespace has, and
// only for what is listed here. The API server's own admission says so.
func TestPodSecurity(t *testing.T) {
	var manager appsv1.Deployment
	var agent appsv1.DaemonSet
	var own corev1.Namespace
	read(t, &manager, "manager", "deployment.yaml")
	read(t, &agent, "agent", "daemonset.yaml")
	read(t, &own, "rbac", "namespace.yaml")
	if own.Labels[enforce] != "privileged" {
		t.Errorf("the namespace enforces %q", own.Labels[enforce])
	}
	for _, level := range []string{"restricted", "baseline", "privileged"} {
		name := "pods-" + level
		create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{enforce: level}}})
		for _, account := range []string{manager.Spec.Template.Spec.ServiceAccountName, agent.Spec.Template.Spec.ServiceAccountName} {
			create(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: account}})
		}
		admitted(t, name, "manager", manager.Spec.Template, nil)
		// Each of these is explained in docs/security.md.
		needs := map[string][]string{
			"restricted": {"host namespaces (hostNetwork=true)", "unrestricted capabilities", "restricted volume types", "runAsUser=0", "runAsNonRoot != true", "hostPort"},
			"baseline":   {"host namespaces (hostNetwork=true)", "non-default capabilities", "hostPath volumes", "hostPort"},
		}
		admitted(t, name, "agent", agent.Spec.Template, needs[level])
	}
}

func create(t *testing.T, o client.Object) {
	t.Helper()
	if err := town.Client.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

// admitted tries a pod of the template: refused for all of the reasons, or admitted when
// there is none.
func admitted(t *testing.T, namespace, name string, template corev1.PodTemplateSpec, reasons []string) {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: maps.Clone(template.Labels)},
		Spec:       *template.Spec.DeepCopy(),
	}
	eventually(t, fmt.Sprintf("%s in %s is judged", name, namespace), func() error {
		err := town.Client.Create(t.Context(), pod.DeepCopy(), client.DryRunAll)
		switch {
		case len(reasons) == 0:
			return err
		case !apierrors.IsForbidden(err):
			return fmt.Errorf("%s is not refused in %s: %w", name, namespace, err)
		}
		for _, r := range reasons {
			if !strings.Contains(err.Error(), r) {
				return fmt.Errorf("%s in %s is not refused for %s: %w", name, namespace, r, err)
			}
		}
		return nil
	})
}
