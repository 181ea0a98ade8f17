package api

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/portreeve/portreeve/internal/rule"
)

// The names by which people ask for our kinds.
func TestShortNamesAndCategory(t *testing.T) {
	want := map[string]string{
		"NodePortPolicy": "npp", "NodePortPool": "nppool", "NodePortAllocation": "npa",
		"CloudFirewall": "cfw", "NodeDatapath": "nodedp", "AddressSet": "addrset", "Portreeve": "reeve", "GatewaySet": "gwset",
	}
	for _, k := range kinds(t) {
		names := k.Spec.Names
		if !slices.Equal(names.ShortNames, []string{want[k.String()]}) {
			t.Errorf("%s: short names %v, want %q", k, names.ShortNames, want[k.String()])
		}
		if !slices.Equal(names.Categories, []string{"portreeve"}) {
			t.Errorf("%s: categories %v, want portreeve", k, names.Categories)
		}
	}
}

// To kubectl the word portreeve means everything of ours, never the one object of
// the kind Portreeve, which a person in a hurry reaches by its short name.
func TestTheInstallationHasANameOfItsOwn(t *testing.T) {
	client, tables := apiServer(t), tables(t)
	for _, k := range kinds(t) {
		if k.String() == "Portreeve" || k.String() == "AddressSet" {
			create(t, resource(client, k, ""), &unstructured.Unstructured{Object: runtime.DeepCopyJSON(tables[k.String()].Base)})
		}
	}
	cache := "--cache-dir=" + t.TempDir() // what kinds there are; all labs have one address
	all, err := server.cluster.Kubectl(t.Context(), cache, "get", "portreeve", "-o", "name")
	if want := "addressset.portreeve.dev/office\nportreeve.portreeve.dev/cluster\n"; err != nil || all != want {
		t.Errorf("kubectl get portreeve: %q, want %q (%v)", all, want, err)
	}
	for _, name := range []string{"reeve", "portreeves"} {
		if out, err := server.cluster.Kubectl(t.Context(), cache, "patch", name, "cluster", "--type=merge", `-p={"spec":{"lockdown":true}}`); err != nil {
			t.Errorf("kubectl patch %s cluster: %v %s", name, err, out)
		}
	}
}

// The API server prints only the first match of a column's path. A column over a
// list's items would show one of them as if it were all.
func TestColumnsShowWholeLists(t *testing.T) {
	for _, k := range kinds(t) {
		for _, column := range k.version().AdditionalPrinterColumns {
			if strings.Contains(column.JSONPath, "[*]") {
				t.Errorf("%s: column %s shows only the first of %s", k, column.Name, column.JSONPath)
			}
			if !inSchemaOf(k.schema, column.JSONPath) {
				t.Errorf("%s: column %s shows %s, which does not exist", k, column.Name, column.JSONPath)
			}
		}
	}
}

// inSchemaOf says whether a column's path names fields that exist, as far as the
// first filter.
func inSchemaOf(schema *apiextensionsv1.JSONSchemaProps, path string) bool {
	path, _, _ = strings.Cut(path, "[")
	if strings.HasPrefix(path, ".metadata.") {
		return true
	}
	for field := range strings.SplitSeq(strings.TrimPrefix(path, "."), ".") {
		next, ok := schema.Properties[field]
		if !ok {
			return false
		}
		schema = &next
	}
	return true
}

// The schemas hold the fail-safe ports as literals; the rules hold them as code.
// They must be the same.
func TestFailSafePortsOfTheSchemasAreThoseOfTheRules(t *testing.T) {
	client := apiServer(t)
	tables := tables(t)
	try := func(t *testing.T, k kind, at string, value any) error {
		object := runtime.DeepCopyJSON(tables[k.String()].Base)
		if err := change(object, at, &value); err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{Object: object}
		_, err := resource(client, k, u.GetNamespace()).Create(t.Context(), u, dryCreate)
		return err
	}
	for _, k := range kinds(t) {
		at, inText := "", true
		switch k.String() {
		case "NodePortPool":
			at = "spec.ranges[0]"
		case "NodePortAllocation":
			at = "metadata.name"
		case "NodePortPolicy":
			at, inText = "spec.ports[0].nodePort", false
		default:
			continue
		}
		t.Run(k.String(), func(t *testing.T) {
			for _, number := range portsAround(rule.FailSafe) {
				var value any = int64(number)
				if inText {
					value = strconv.Itoa(int(number))
				}
				err := try(t, k, at, value)
				if refused := err != nil; refused != rule.FailSafe.Contains(number) {
					t.Errorf("port %d: refused is %v, and the rules say %v (%v)", number, refused, !refused, err)
				}
			}
		})
	}
}

// portsAround lists the numbers in the ranges and those next to them.
func portsAround(ranges rule.PortRanges) []uint16 {
	var numbers []uint16
	for _, r := range ranges {
		for n := r.First - 1; n <= r.Last+1; n++ {
			numbers = append(numbers, n)
		}
	}
	return numbers
}
