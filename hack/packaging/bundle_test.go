package packaging

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/operator-framework/api/crds"
	"github.com/operator-framework/api/pkg/apis/scorecard/v1alpha3"
	"github.com/operator-framework/api/pkg/manifests"
	"github.com/operator-framework/api/pkg/operators/v1alpha1"
	"github.com/operator-framework/api/pkg/validation"
	"github.com/operator-framework/api/pkg/validation/errors"
	"github.com/operator-framework/operator-registry/alpha/declcfg"
	"github.com/operator-framework/operator-registry/alpha/model"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apischema "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"sigs.k8s.io/yaml"
)

var checkedIn = Release{Version: Version, Images: Images{
	Manager: "registry.example.com/portreeve-manager:v" + Version, Agent: "registry.example.com/portreeve-agent:v" + Version,
	Bundle: "registry.example.com/portreeve-bundle:v" + Version,
}}

func bundle(t *testing.T, release Release) Files {
	t.Helper()
	files, err := Bundle(build(t, "config/default"), build(t, "config/samples"), release)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func clusterServiceVersion(t *testing.T, files Files) (csv Object) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(files["bundle/manifests/portreeve.clusterserviceversion.yaml"]), &csv); err != nil {
		t.Fatal(err)
	}
	return csv
}

// written puts the files into a folder.
func written(t *testing.T, files Files) string {
	t.Helper()
	dir := t.TempDir()
	for path, text := range files {
		file := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTheBundleIsCurrent(t *testing.T) {
	want := bundle(t, checkedIn)
	have := Files{}
	for _, top := range []string{"bundle", "bundle.Dockerfile", "catalog", "catalog.Dockerfile"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			path, err = filepath.Rel(root, path)
			have[path] = string(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(have.Paths(), want.Paths()) {
		t.Errorf("there are %q, want %q", have.Paths(), want.Paths())
	}
	for path := range want {
		if have[path] != want[path] {
			t.Errorf("%s is not current: run make bundle", path)
		}
	}
}

// unasked are the validators that are not asked, each with its reason.
var unasked = map[string]string{
	"MultipleArchitecturesValidator": "it pulls the images, and none are published",
}

// explained are warnings that stand, each with its reason.
var explained = map[string]string{
	`channel(s) ["alpha"] are not following the recommended naming convention`: "an alpha API is offered as what it is; who wants the name of the convention subscribes to stable",
}

// Operator Framework's own validators have nothing to say: no error, and no warning that
// is not explained.
func TestValidatorsHaveNothingToSayOfTheBundle(t *testing.T) {
	loaded, err := manifests.GetBundleFromDir(filepath.Join(written(t, bundle(t, checkedIn)), "bundle"))
	if err != nil {
		t.Fatal(err)
	}
	validators := validation.AllValidators
	asked := validators[:0:0]
	for _, v := range validators {
		if reflect.ValueOf(v).Pointer() != reflect.ValueOf(validation.MultipleArchitecturesValidator).Pointer() {
			asked = append(asked, v)
		}
	}
	if len(asked) != len(validators)-len(unasked) {
		t.Fatalf("%d of %d validators are asked", len(asked), len(validators))
	}
	objects := []any{loaded, loaded.CSV, map[string]string{"k8s-version": "1.35.0"}}
	for _, crd := range loaded.V1CRDs {
		objects = append(objects, crd)
	}
	for _, object := range loaded.Objects {
		objects = append(objects, object)
	}
	results, left := 0, slices.Collect(maps.Keys(explained))
	for _, validator := range asked {
		for _, result := range validator.Validate(objects...) {
			results++
			for _, problem := range result.Errors {
				t.Errorf("%s: %s", result.Name, problem.Error())
			}
			for _, problem := range result.Warnings {
				before := len(left)
				left = slices.DeleteFunc(left, func(text string) bool { return strings.Contains(problem.Error(), text) })
				if len(left) == before {
					t.Errorf("%s: %s", result.Name, problem.Error())
				}
			}
		}
	}
	if len(left) > 0 {
		t.Errorf("nobody warns any more of %q", left)
	}
	if results < 10 || len(loaded.V1CRDs) != 8 {
		t.Errorf("only %d results for %d definitions", results, len(loaded.V1CRDs))
	}
}

// OLM's own definition takes the ClusterServiceVersion, and knows all of its fields.
func TestOLMTakesTheClusterServiceVersion(t *testing.T) {
	files := bundle(t, checkedIn)
	text := files["bundle/manifests/portreeve.clusterserviceversion.yaml"]
	if err := yaml.UnmarshalStrict([]byte(text), &v1alpha1.ClusterServiceVersion{}); err != nil {
		t.Error(err)
	}
	var schema apiextensions.JSONSchemaProps
	definition := crds.ClusterServiceVersion().Spec.Versions[0].Schema.OpenAPIV3Schema
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(definition, &schema, nil); err != nil {
		t.Fatal(err)
	}
	validator, _, err := apischema.NewSchemaValidator(&schema)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range apischema.ValidateCustomResource(nil, map[string]any(clusterServiceVersion(t, files)), validator) {
		t.Error(problem)
	}
}

// A validator that has nothing to say of a bad bundle would prove nothing.
func TestValidatorsSpeakOfABadBundle(t *testing.T) {
	files := bundle(t, checkedIn)
	const path = "bundle/manifests/portreeve.clusterserviceversion.yaml"
	files[path] = strings.Replace(files[path], "minKubeVersion: 1.35.0", "minKubeVersion: soon", 1)
	loaded, err := manifests.GetBundleFromDir(filepath.Join(written(t, files), "bundle"))
	if err != nil {
		t.Fatal(err)
	}
	var problems []errors.Error
	for _, result := range validation.AllValidators[:8].Validate(loaded) {
		problems = append(problems, result.Errors...)
	}
	if len(problems) == 0 {
		t.Error("nobody minds")
	}
}

// The bundle installs what kustomize does: the same manager with the same rights, the
// same definitions and roles, and of the agent its rights and the name of its image.
func TestTheBundleInstallsWhatKustomizeDoes(t *testing.T) {
	images := Images{Manager: "portreeve-manager:latest", Agent: "portreeve-agent:latest", Bundle: "b"}
	files, install := bundle(t, Release{Version: Version, Images: images}), build(t, "config/default")
	spec := clusterServiceVersion(t, files).fields("spec", "install", "spec")
	var have, want []Object
	for path, text := range files {
		if strings.HasPrefix(path, "bundle/manifests/") && !strings.Contains(path, "clusterserviceversion") {
			var object Object
			if err := yaml.Unmarshal([]byte(text), &object); err != nil {
				t.Fatal(err)
			}
			have = append(have, object)
		}
	}
	for _, object := range install {
		switch kind, name := object.Text("kind"), object.Text("metadata", "name"); {
		case kind == "CustomResourceDefinition", kind == "ClusterRole" && !slices.Contains(accounts, name):
			want = append(want, object)
		case kind == "Role", kind == "RoleBinding": // in the namespace in which OLM installs
			local := clone(object)
			delete(local.fields("metadata"), "namespace")
			if kind == "RoleBinding" {
				delete(local["subjects"].([]any)[0].(map[string]any), "namespace")
			}
			want = append(want, local)
		case kind == "Deployment":
			deployments := spec["deployments"].([]any)
			deployment := Object(deployments[0].(map[string]any))
			manager := Object(object.fields("spec", "template", "spec")["containers"].([]any)[0].(map[string]any))
			manager["env"] = append(manager["env"].([]any), map[string]any{"name": "RELATED_IMAGE_AGENT", "value": images.Agent})
			if len(deployments) != 1 || deployment["name"] != name || !reflect.DeepEqual(deployment["spec"], object["spec"]) {
				t.Errorf("the bundle's Deployment is %v, want %v", deployment, object)
			}
		case kind == "ClusterRole":
			grants(t, spec, "clusterPermissions", name, object["rules"])
		}
	}
	if spec["permissions"] != nil {
		t.Error("OLM makes ClusterRoles of permissions, where an operator is for all namespaces")
	}
	same(t, "the bundle", have, want)
}

func grants(t *testing.T, spec Object, list, account string, rules any) {
	t.Helper()
	for _, permission := range spec[list].([]any) {
		if p := Object(permission.(map[string]any)); p["serviceAccountName"] == account && reflect.DeepEqual(p["rules"], rules) {
			return
		}
	}
	t.Errorf("%s do not give %s %v", list, account, rules)
}

// What the Dockerfiles copy is there, and .dockerignore lets it in.
func TestDockerfilesCopyWhatTheyMay(t *testing.T) {
	ignored, err := os.ReadFile(filepath.Join(root, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	files := bundle(t, checkedIn)
	copied := 0
	for _, file := range []string{"bundle.Dockerfile", "catalog.Dockerfile"} {
		for line := range strings.Lines(files[file]) {
			words := strings.Fields(line)
			if len(words) != 3 || words[0] != "COPY" {
				continue
			}
			copied++
			top, _, _ := strings.Cut(words[1], "/")
			if !strings.Contains(string(ignored), "\n!"+top+"\n") {
				t.Errorf("%s copies %s, which .dockerignore keeps out", file, words[1])
			}
			if !slices.ContainsFunc(files.Paths(), func(path string) bool { return strings.HasPrefix(path, words[1]+"/") }) {
				t.Errorf("%s copies %s, which is not there", file, words[1])
			}
		}
	}
	if copied != 4 {
		t.Errorf("%d folders are copied", copied)
	}
}

// Every image that anything runs is named where mirrors look for it.
func TestRelatedImagesAreAllImages(t *testing.T) {
	files := bundle(t, checkedIn)
	related := clusterServiceVersion(t, files).fields("spec")["relatedImages"].([]any)
	var names []string
	for _, image := range related {
		names = append(names, Object(image.(map[string]any)).Text("image"))
	}
	if !slices.Equal(names, []string{checkedIn.Manager, checkedIn.Agent}) {
		t.Errorf("related images are %q", names)
	}
}

// Every field of our kinds is described, and every kind has an example.
func TestEveryFieldIsDescribed(t *testing.T) {
	csv := clusterServiceVersion(t, bundle(t, checkedIn))
	var examples []Object
	if err := json.Unmarshal([]byte(csv.Text("metadata", "annotations", "alm-examples")), &examples); err != nil {
		t.Fatal(err)
	}
	var first Object
	if err := json.Unmarshal([]byte(csv.Text("metadata", "annotations", "operatorframework.io/initialization-resource")), &first); err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(examples, func(o Object) bool { return o.ID() == first.ID() }); i < 0 || !reflect.DeepEqual(examples[i], first) {
		t.Errorf("what is to be created first is %v, and no example says so", first)
	}
	owned := csv.fields("spec", "customresourcedefinitions")["owned"].([]any)
	if len(owned) != 8 || len(examples) != 8 {
		t.Errorf("%d kinds and %d examples", len(owned), len(examples))
	}
	for _, kind := range owned {
		kind := Object(kind.(map[string]any))
		for _, part := range []string{"specDescriptors", "statusDescriptors"} {
			list, _ := kind[part].([]any)
			for _, descriptor := range list {
				if d := Object(descriptor.(map[string]any)); d.Text("path") == "" || d.Text("displayName") == "" || d.Text("description") == "" {
					t.Errorf("%s: %v", kind.Text("kind"), d)
				}
			}
		}
	}
}

// The catalog is one that opm takes, and offers this bundle in every channel.
func TestTheCatalogOffersTheBundle(t *testing.T) {
	offered := offered(t, bundle(t, checkedIn))
	if offered.DefaultChannel.Name != Channels[0] || len(offered.Channels) != len(Channels) {
		t.Fatalf("the catalog offers %+v", offered)
	}
	for _, channel := range Channels {
		head, err := offered.Channels[channel].Head()
		if err != nil || head.Name != "portreeve.v"+Version || head.Image != checkedIn.Bundle || head.Replaces != "" {
			t.Errorf("channel %s: %+v, %v", channel, head, err)
		}
	}
}

// offered is our package in the catalog, as opm reads it.
func offered(t *testing.T, files Files) *model.Package {
	t.Helper()
	config, err := declcfg.LoadFS(t.Context(), os.DirFS(filepath.Join(written(t, files), "catalog")))
	if err != nil {
		t.Fatal(err)
	}
	all, err := declcfg.ConvertToModel(*config)
	if err != nil {
		t.Fatal(err)
	}
	if err := all.Validate(); err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[Package] == nil {
		t.Fatalf("the catalog offers %+v", all)
	}
	return all[Package]
}

// Scorecard, which nobody runs here for want of its images, takes its configuration, and
// each of its tests is one that its image has.
func TestScorecardTakesItsConfiguration(t *testing.T) {
	files := bundle(t, checkedIn)
	var config v1alpha3.Configuration
	if err := yaml.UnmarshalStrict([]byte(files["bundle/tests/scorecard/config.yaml"]), &config); err != nil {
		t.Fatal(err)
	}
	if config.APIVersion != v1alpha3.GroupVersion.String() || config.Kind != v1alpha3.ConfigurationKind || config.Metadata.Name != "config" {
		t.Errorf("%s %s %s", config.APIVersion, config.Kind, config.Metadata.Name)
	}
	var tests []string
	for _, stage := range config.Stages {
		for _, test := range stage.Tests {
			if len(test.Entrypoint) != 2 || test.Entrypoint[0] != "scorecard-test" || test.Image == "" || test.Labels["test"] != test.Entrypoint[1]+"-test" {
				t.Errorf("%+v", test)
			}
			tests = append(tests, test.Entrypoint[1])
		}
	}
	slices.Sort(tests)
	want := []string{"basic-check-spec", "olm-bundle-validation", "olm-crds-have-resources", "olm-crds-have-validation", "olm-spec-descriptors", "olm-status-descriptors"}
	if !slices.Equal(tests, want) {
		t.Errorf("the tests are %q", tests)
	}
}

// A bundle that says what it replaces is valid as it stands, and so is a catalog that has
// it alone: whoever has the earlier version finds the way to this one.
func TestAReleaseReplacesTheOneBeforeIt(t *testing.T) {
	release := checkedIn
	release.Version, release.Replaces = "0.9.0", checkedIn.Name()
	files := bundle(t, release)
	if csv := clusterServiceVersion(t, files); csv.Text("metadata", "name") != "portreeve.v0.9.0" || csv.Text("spec", "version") != "0.9.0" || csv.Text("spec", "replaces") != checkedIn.Name() {
		t.Errorf("%s %s replaces %q", csv.Text("metadata", "name"), csv.Text("spec", "version"), csv.Text("spec", "replaces"))
	}
	for _, channel := range Channels {
		head, err := offered(t, files).Channels[channel].Head()
		if err != nil || head.Name != release.Name() || head.Replaces != checkedIn.Name() {
			t.Errorf("channel %s: %+v, %v", channel, head, err)
		}
	}
	if csv := clusterServiceVersion(t, bundle(t, checkedIn)); csv.field("spec", "replaces") != nil {
		t.Error("the first version replaces another")
	}
}

func TestChartBundleAndProgramsHaveOneVersion(t *testing.T) {
	chart := load(t).Metadata
	if chart.Version != Version || chart.AppVersion != Version {
		t.Errorf("the chart is %s of %s, the bundle %s", chart.Version, chart.AppVersion, Version)
	}
	source, err := os.ReadFile(filepath.Join(root, "internal/version/version.go"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(source), fmt.Sprintf("var Number = %q", Version)) {
		t.Errorf("the programs are not %s", Version)
	}
}
