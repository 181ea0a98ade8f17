package api

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/utils/ptr"
)

// What is installed, the Helm chart's and the bundle's source, is accepted as it stands,
// with no field that the API server does not know. The Prometheus operator's kinds are
// not here.
func TestWhatIsInstalledIsAccepted(t *testing.T) {
	client := apiServer(t)
	kustomize, err := exec.Command(filepath.Join(root, "hack/tools.sh"), "kustomize").Output()
	if err != nil {
		t.Fatal(err)
	}
	built, err := exec.Command(strings.TrimSpace(string(kustomize)), "build", filepath.Join(root, "config/all")).Output()
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, text := range strings.Split(string(built), "\n---\n") {
		object := &unstructured.Unstructured{Object: yamlObject(t, text)}
		kind := object.GetKind()
		if object.GroupVersionKind().Group == "monitoring.coreos.com" {
			continue
		}
		dry := []string{metav1.DryRunAll}
		if kind == "Namespace" { // the others stand in it
			dry = nil
		}
		tried++
		data, err := object.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		plural, _ := meta.UnsafeGuessKindToResource(object.GroupVersionKind())
		var objects dynamic.ResourceInterface = client.Resource(plural)
		if object.GetNamespace() != "" {
			objects = client.Resource(plural).Namespace(object.GetNamespace())
		}
		if _, err := objects.Patch(t.Context(), object.GetName(), types.ApplyYAMLPatchType, data, metav1.PatchOptions{
			DryRun: dry, FieldManager: "install", Force: ptr.To(true), FieldValidation: metav1.FieldValidationStrict,
		}); err != nil {
			t.Errorf("%s %s: %v", kind, object.GetName(), err)
		}
	}
	if tried < 20 {
		t.Errorf("only %d objects tried", tried)
	}
}
