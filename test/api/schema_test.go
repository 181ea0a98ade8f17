package api

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// root of the repository, as seen from this package.
const root = "../.."

// crdFiles are the generated definitions.
func crdFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "config/crd/portreeve.dev_*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no definitions in config/crd: %v", err)
	}
	return files
}

// kind is one custom resource definition and the schema of its only version.
type kind struct {
	*apiextensionsv1.CustomResourceDefinition
	schema *apiextensionsv1.JSONSchemaProps
}

func (k kind) String() string { return k.Spec.Names.Kind }

func (k kind) version() apiextensionsv1.CustomResourceDefinitionVersion { return k.Spec.Versions[0] }

// kinds reads all definitions, in the order of their file names.
func kinds(t testing.TB) []kind {
	t.Helper()
	var all []kind
	for _, file := range crdFiles(t) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(data, crd); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if len(crd.Spec.Versions) != 1 {
			t.Fatalf("%s: %d versions, and the tests know of one", file, len(crd.Spec.Versions))
		}
		all = append(all, kind{crd, crd.Spec.Versions[0].Schema.OpenAPIV3Schema})
	}
	return all
}

// node is one place of a schema: "spec.sources[].cidr".
type node struct {
	path   string
	schema *apiextensionsv1.JSONSchemaProps
}

// leaf says whether nothing lies below the node.
func (n node) leaf() bool { return len(n.schema.Properties) == 0 && n.schema.Items == nil }

// walk lists a schema's nodes below and including one of its fields.
func walk(schema *apiextensionsv1.JSONSchemaProps, field string) []node {
	top, ok := schema.Properties[field]
	if !ok {
		return nil
	}
	nodes := below(node{field, &top})
	slices.SortFunc(nodes, func(a, b node) int { return strings.Compare(a.path, b.path) })
	return nodes
}

func below(n node) []node {
	nodes := []node{n}
	for name, property := range n.schema.Properties {
		nodes = append(nodes, below(node{n.path + "." + name, &property})...)
	}
	if n.schema.Items != nil {
		nodes = append(nodes, below(node{n.path + "[]", n.schema.Items.Schema})...)
	}
	return nodes
}

// specLeaves lists the leaves of a kind's spec by path.
func specLeaves(k kind) []string {
	var leaves []string
	for _, n := range walk(k.schema, "spec") {
		if n.leaf() {
			leaves = append(leaves, n.path)
		}
	}
	return leaves
}

// Every field explains itself to `kubectl explain`.
func TestEveryFieldIsDescribed(t *testing.T) {
	for _, k := range kinds(t) {
		for _, field := range []string{"spec", "status"} {
			for _, n := range walk(k.schema, field) {
				if strings.HasSuffix(n.path, "[]") {
					continue
				}
				if strings.TrimSpace(n.schema.Description) == "" {
					t.Errorf("%s: %s has no description", k, n.path)
				}
			}
		}
	}
}

// What the server evaluates must be bounded, and so must what it stores: a list
// of a spec without a limit is one that nobody has thought about.
func TestEveryListAndStringOfASpecIsBounded(t *testing.T) {
	for _, k := range kinds(t) {
		for _, n := range walk(k.schema, "spec") {
			s := n.schema
			switch {
			case s.Type == "array" && s.MaxItems == nil:
				t.Errorf("%s: %s has no maxItems", k, n.path)
			case s.AdditionalProperties != nil && s.MaxProperties == nil:
				t.Errorf("%s: %s has no maxProperties", k, n.path)
			case s.AdditionalProperties != nil && s.AdditionalProperties.Schema.MaxLength == nil:
				t.Errorf("%s: the values of %s have no maxLength", k, n.path)
			case s.Type == "string" && s.MaxLength == nil && len(s.Enum) == 0 && s.Format == "":
				t.Errorf("%s: %s has no maxLength", k, n.path)
			}
		}
	}
}
