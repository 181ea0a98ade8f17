package api

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	v1alpha1 "github.com/portreeve/portreeve/api/v1alpha1"
)

// documents reads the objects of our kinds from YAML files.
func documents(t *testing.T, pattern string) []*unstructured.Unstructured {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing at %s: %v", pattern, err)
	}
	var all []*unstructured.Unstructured
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range strings.Split(string(data), "\n---\n") {
			object := &unstructured.Unstructured{Object: yamlObject(t, text)}
			if object.GroupVersionKind().Group == v1alpha1.GroupVersion.Group {
				all = append(all, object)
			}
		}
	}
	return all
}

// Good input is accepted, and stored as it was written: an empty list is not an
// absent one, and nothing is merged, sorted or dropped.
func TestGoodInputIsAcceptedAndKeptAsWritten(t *testing.T) {
	client := apiServer(t)
	kinds := kinds(t)
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	for _, object := range append(documents(t, "test/valid/*.yaml"), append(documents(t, "config/samples/*.yaml"), documents(t, "hack/packaging/csv/examples.yaml")...)...) {
		t.Run(object.GetKind()+"/"+object.GetName(), func(t *testing.T) {
			i := slices.IndexFunc(kinds, func(k kind) bool { return k.String() == object.GetKind() })
			if i < 0 {
				t.Fatalf("no definition of %s", object.GetKind())
			}
			if object.GetNamespace() != "" {
				object.SetNamespace("default") // the one that is always there
			}
			have := create(t, resource(client, kinds[i], object.GetNamespace()), object)
			keeps(t, "spec", have.Object["spec"], object.Object["spec"])
			goTypesKeep(t, scheme, have)
		})
	}
}

// keeps checks that a value holds what was written. Objects may have got defaults
// beside it; null is the same as nothing.
func keeps(t *testing.T, at string, have, written any) {
	t.Helper()
	fields, object := written.(map[string]any)
	if !object {
		if !reflect.DeepEqual(have, written) {
			t.Errorf("%s is kept as %v, written %v", at, have, written)
		}
		return
	}
	kept, ok := have.(map[string]any)
	if !ok {
		t.Errorf("%s is kept as %v, written %v", at, have, written)
	}
	for field, want := range fields {
		if want != nil {
			keeps(t, at+"."+field, kept[field], want)
		}
	}
}

// goTypesKeep checks that a program that reads and writes the object through our
// Go types, as the manager does, changes nothing in its spec.
func goTypesKeep(t *testing.T, scheme *runtime.Scheme, have *unstructured.Unstructured) {
	t.Helper()
	typed, err := scheme.New(have.GroupVersionKind())
	if err != nil {
		t.Fatal(err)
	}
	data, err := have.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, typed); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(typed)
	if err != nil {
		t.Fatal(err)
	}
	back, err := scheme.New(have.GroupVersionKind())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(again, back); err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(typed, back) {
		t.Errorf("the Go types lose something:\n%s\n%s", data, again)
	}
	if _, policy := typed.(*v1alpha1.NodePortPolicy); policy {
		emptyIsNotAbsent(t, have, again)
	}
}

// emptyIsNotAbsent: semantic equality takes nil and empty lists for the same, and
// for these fields they are not.
func emptyIsNotAbsent(t *testing.T, have *unstructured.Unstructured, again []byte) {
	t.Helper()
	back := &unstructured.Unstructured{}
	if err := back.UnmarshalJSON(again); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"sources", "cloudFirewalls"} {
		_, before, _ := unstructured.NestedSlice(have.Object, "spec", field)
		_, after, _ := unstructured.NestedSlice(back.Object, "spec", field)
		if before != after {
			t.Errorf("spec.%s: present before the Go types: %v, after: %v", field, before, after)
		}
	}
}

// What is not said has the documented value, and a fresh object never looks
// healthy.
func TestDefaults(t *testing.T) {
	client := apiServer(t)
	want := map[string]map[string]any{
		"NodePortPool": {
			"spec.coolDown": "10m", "spec.grandfather": true, "spec.placement": "Spread", "spec.unclaimed": "Drop", "spec.hold": true,
			"spec.allocateTo.priority": int64(50), "spec.guardrails.world": "Deny", "spec.guardrails.maxTTL": nil,
			"spec.quota": nil, "spec.defaultSources": nil, "status.observedGeneration": int64(-1),
		},
		"NodePortPolicy": {
			"spec.ports": nil, "spec.sources": nil, "spec.cloudFirewalls": nil, "spec.expiresAt": nil,
			"spec.mode": "Enforce", "spec.service": "Companion", "status.observedGeneration": int64(-1),
		},
		"AddressSet":         {"spec.cidrs": nil, "spec.allowedFor": nil, "status": nil},
		"Portreeve":          {"spec.guard": "Audit", "spec.lockdown": nil, "spec.nodePortRange": nil, "status.observedGeneration": int64(-1)},
		"CloudFirewall":      {"spec.resync": "5m", "spec.endpoint": nil, "spec.mode": "Enforce", "spec.drift": "Repair", "spec.onBudget": "Fail", "spec.deletionPolicy": "Retain", "spec.credentials": nil, "spec.priority": nil, "status.observedGeneration": int64(-1)},
		"NodePortAllocation": {"spec.grandfathered": nil, "spec.closedAt": nil, "spec.carrier": nil, "spec.since": nil, "status": nil},
		"NodeDatapath":       {"status": nil},
		"GatewaySet":         {"spec.nodes": nil, "status": nil},
	}
	smallest := map[string]string{
		"NodePortPool":       `{category: web, team: payments, ranges: ["30000"], allocateTo: {}, guardrails: {}}`,
		"AddressSet":         `{}`,
		"GatewaySet":         `{}`,
		"NodePortPolicy":     `{category: web, serviceRef: {name: shop}}`,
		"CloudFirewall":      `{provider: AWS, region: eu-central-1, groups: [{id: sg-1}]}`,
		"NodePortAllocation": `{state: Foreign, protocols: [TCP], claim: {}, pool: web, team: payments}`,
	}
	for _, k := range kinds(t) {
		t.Run(k.String(), func(t *testing.T) {
			object := &unstructured.Unstructured{Object: map[string]any{}}
			object.SetAPIVersion(v1alpha1.GroupVersion.String())
			object.SetKind(k.String())
			object.SetName("defaults")
			switch k.String() {
			case "NodePortAllocation":
				object.SetName("30000")
			case "Portreeve":
				object.SetName(v1alpha1.InstallationName)
			}
			if k.Spec.Scope == "Namespaced" {
				object.SetNamespace("default")
			}
			if spec, ok := smallest[k.String()]; ok {
				object.Object["spec"] = yamlObject(t, spec)
			}
			have := create(t, resource(client, k, object.GetNamespace()), object)
			for path, value := range want[k.String()] {
				got, _, err := unstructured.NestedFieldNoCopy(have.Object, strings.Split(path, ".")...)
				if err != nil || !reflect.DeepEqual(got, value) {
					t.Errorf("%s is %v, want %v (%v)", path, got, value, err)
				}
			}
		})
	}
}
