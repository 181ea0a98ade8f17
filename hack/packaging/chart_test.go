package packaging

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"sigs.k8s.io/yaml"
)

const root = "../.."

// values sets fields of a chart's values by their paths.
func values(pairs ...any) map[string]any {
	all := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		at, path := all, strings.Split(pairs[i].(string), ".")
		for _, name := range path[:len(path)-1] {
			if at[name] == nil {
				at[name] = map[string]any{}
			}
			at = at[name].(map[string]any)
		}
		at[path[len(path)-1]] = pairs[i+1]
	}
	return all
}

// images are values without which nothing is rendered.
func images(pairs ...any) map[string]any {
	return values(append([]any{"manager.image", "portreeve-manager:latest", "agent.image", "portreeve-agent:latest"}, pairs...)...)
}

// helm renders the chart as `helm install --namespace NAMESPACE` does, less what every
// release has besides.
func helm(t *testing.T, namespace string, with map[string]any) ([]Object, error) {
	t.Helper()
	c := load(t)
	all, err := chartutil.ToRenderValues(c, with, chartutil.ReleaseOptions{Name: "portreeve", Namespace: namespace, IsInstall: true}, chartutil.DefaultCapabilities.Copy())
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return nil, err
	}
	var objects []Object
	for path, text := range files {
		var object Object
		if err := yaml.UnmarshalStrict([]byte(text), &object); err != nil {
			t.Fatalf("%s: %v\n%s", path, err, text)
		}
		if len(object) > 0 {
			objects = append(objects, object)
		}
	}
	return objects, nil
}

var made = sync.OnceValues(func() (Files, error) {
	all, err := Build(filepath.Join(root, "config/all"))
	if err != nil {
		return nil, err
	}
	return Chart(all)
})

func load(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(filepath.Join(root, "charts/portreeve"))
	if err != nil {
		t.Fatal(err)
	}
	// As they would be generated now: TestTheChartIsCurrent sees to the difference.
	files, err := made()
	if err != nil {
		t.Fatal(err)
	}
	c.Templates = nil
	for _, path := range files.Paths() {
		c.Templates = append(c.Templates, &chart.File{Name: path, Data: []byte(files[path])})
	}
	return c
}

func mustHelm(t *testing.T, namespace string, with map[string]any) []Object {
	t.Helper()
	objects, err := helm(t, namespace, with)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func build(t *testing.T, folder string) []Object {
	t.Helper()
	objects, err := Build(filepath.Join(root, folder))
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// same requires the same objects, whatever their order. An empty list is no list, and
// what tells Helm to leave definitions behind is for Helm alone.
func same(t *testing.T, name string, have, want []Object) {
	t.Helper()
	index := func(objects []Object) map[string]any {
		all := map[string]any{}
		for _, o := range objects {
			if all[o.ID()] != nil {
				t.Errorf("%s has %s twice", name, o.ID())
			}
			all[o.ID()] = pruned(map[string]any(o))
		}
		return all
	}
	left, right := index(have), index(want)
	for id := range left {
		if right[id] == nil {
			t.Errorf("%s has %s besides", name, id)
		}
	}
	for id := range right {
		if !reflect.DeepEqual(left[id], right[id]) {
			a, _ := yaml.Marshal(left[id])
			b, _ := yaml.Marshal(right[id])
			t.Errorf("%s has another %s:\n%s\nwant\n%s", name, id, a, b)
		}
	}
}

func pruned(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, value := range v {
			if value = pruned(value); value != nil && key != "helm.sh/resource-policy" {
				out[key] = value
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case []any:
		var out []any
		for _, item := range v {
			out = append(out, pruned(item))
		}
		if out == nil {
			return nil
		}
		return out
	}
	return v
}

// One source: kustomize, dist/install.yaml and Helm install the same.
func TestKustomizeInstallYAMLAndHelmYieldTheSame(t *testing.T) {
	install := build(t, "config/default")
	if len(install) < 20 {
		t.Fatalf("config/default has only %d objects", len(install))
	}
	same(t, "Helm", mustHelm(t, Namespace, images("namespace.create", true)), install)

	out, err := exec.Command("make", "-s", "-C", root, "install-yaml").Output()
	if err != nil {
		t.Fatal(err)
	}
	var printed []Object
	for _, text := range strings.Split(string(out), "\n---\n") {
		var object Object
		if err := yaml.Unmarshal([]byte(text), &object); err != nil {
			t.Fatal(err)
		}
		printed = append(printed, object)
	}
	same(t, "dist/install.yaml", printed, install)

	everything := images("namespace.create", true, "networkPolicy.enabled", true, "prometheus.enabled", true, "agent.bootProgram", true,
		"grants.fronts", true, "grants.networkPolicies", true, "grants.records", true)
	same(t, "Helm with all", mustHelm(t, Namespace, everything), build(t, "config/all"))
}

func TestTheChartIsCurrent(t *testing.T) {
	want, err := made()
	if err != nil {
		t.Fatal(err)
	}
	have := Files{}
	c, err := loader.Load(filepath.Join(root, "charts/portreeve"))
	if err != nil {
		t.Fatal(err)
	}
	for _, template := range c.Templates {
		have[template.Name] = string(template.Data)
	}
	if !reflect.DeepEqual(have, want) {
		t.Errorf("charts/portreeve/templates are not current: run make generate (have %q, want %q)", have.Paths(), want.Paths())
	}
}

// In another namespace nothing speaks of the usual one.
func TestTheChartGoesIntoAnyNamespace(t *testing.T) {
	for _, object := range mustHelm(t, "reeves", images("prometheus.enabled", true, "networkPolicy.enabled", true, "namespace.create", true, "crds.install", false)) {
		text, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), Namespace) {
			t.Errorf("%s:\n%s", object.ID(), text)
		}
	}
}

// What cannot be meant is refused, not ignored.
func TestTheChartRefuses(t *testing.T) {
	for name, with := range map[string]map[string]any{
		"no image of the manager":  values("agent.image", "a"),
		"no image of the agent":    values("manager.image", "m"),
		"a value that is misspelt": images("manager.replica", 3),
		"a component that is none": images("managr.replicas", 3),
		"no manager":               images("manager.replicas", 0),
		"text where a list is due": images("agent.extraArgs", "--check-interval=5s"),
	} {
		if objects, err := helm(t, Namespace, with); err == nil {
			t.Errorf("%s: %d objects", name, len(objects))
		}
	}
}

// Every value changes what is installed.
func TestEveryValueOfTheChartIsHonoured(t *testing.T) {
	before := mustHelm(t, Namespace, images())
	tried := 0
	walk(load(t).Values, nil, func(path []string, value any) {
		tried++
		name := strings.Join(path, ".")
		after, err := helm(t, Namespace, images(name, another(path[len(path)-1], value)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if a, b := text(t, before), text(t, after); a == b {
			t.Errorf("%s changes nothing", name)
		}
	})
	if tried < 20 {
		t.Errorf("only %d values tried", tried)
	}
}

// walk visits the values that templates speak of.
func walk(at map[string]any, path []string, visit func([]string, any)) {
	for name, value := range at {
		here := append(slices.Clone(path), name)
		fields, ok := value.(map[string]any)
		if whole := []string{"resources", "nodeSelector", "serviceAccountAnnotations"}; ok && !slices.Contains(whole, name) {
			walk(fields, here, visit)
			continue
		}
		visit(here, value)
	}
}

// another value of the same kind.
func another(name string, value any) any {
	switch v := value.(type) {
	case bool:
		return !v
	case string:
		return v + "another"
	case float64:
		return v + 1
	case []any:
		if name == "extraArgs" {
			return []any{"--another"}
		}
		return []any{map[string]any{"name": "another", "key": "another"}}
	}
	return map[string]any{"another": "another"}
}

func text(t *testing.T, objects []Object) string {
	t.Helper()
	slices.SortFunc(objects, func(a, b Object) int { return strings.Compare(a.ID(), b.ID()) })
	out, err := json.Marshal(objects)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// A change of the definitions is upgraded, and uninstalling leaves them and with them
// every policy and claim.
func TestUninstallingTheChartLeavesTheDefinitions(t *testing.T) {
	found := 0
	for _, object := range mustHelm(t, Namespace, images()) {
		if object.Text("kind") == "CustomResourceDefinition" {
			found++
			if object.Text("metadata", "annotations", "helm.sh/resource-policy") != "keep" {
				t.Errorf("%s goes with the release", object.ID())
			}
		}
	}
	if files, err := os.ReadDir(filepath.Join(root, "config/crd")); err != nil || found != len(files)-1 {
		t.Errorf("%d definitions of %d files, %v", found, len(files)-1, err)
	}
}
