package packaging

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// kindWords are how a console shows a kind.
type kindWords struct {
	Kind        string   `json:"kind"`
	DisplayName string   `json:"displayName"`
	Resources   []string `json:"resources"`
}

// apiVersions of what our kinds lead to.
var apiVersions = map[string]string{
	"Service": "v1", "Node": "v1", "ValidatingAdmissionPolicy": "admissionregistration.k8s.io/v1",
	"NodePortAllocation": "portreeve.dev/v1alpha1", "NodePortPolicy": "portreeve.dev/v1alpha1", "AddressSet": "portreeve.dev/v1alpha1",
}

// kinds describes our definitions, with each field of their specs and statuses.
func kinds(install []Object) (all []any, err error) {
	var names []kindWords
	if err := word("names.yaml", &names); err != nil {
		return nil, err
	}
	definitions := slices.DeleteFunc(slices.Clone(install), func(o Object) bool { return o.Text("kind") != "CustomResourceDefinition" })
	if len(definitions) != len(names) {
		return nil, fmt.Errorf("hack/packaging/csv/names.yaml names %d kinds, there are %d", len(names), len(definitions))
	}
	for _, n := range names {
		i := slices.IndexFunc(definitions, func(o Object) bool { return o.Text("spec", "names", "kind") == n.Kind })
		if i < 0 {
			return nil, fmt.Errorf("no definition of %s", n.Kind)
		}
		definition := definitions[i]
		versions, _ := definition.field("spec", "versions").([]any)
		version := Object(versions[0].(map[string]any))
		schema := version.fields("schema", "openAPIV3Schema")
		var resources []any
		for _, kind := range n.Resources {
			resources = append(resources, map[string]any{"kind": kind, "name": "", "version": apiVersions[kind]})
		}
		described := map[string]any{
			"name": definition.Text("metadata", "name"), "kind": n.Kind, "version": version.Text("name"),
			"displayName": n.DisplayName, "description": line(schema.Text("description")), "resources": resources,
		}
		for _, part := range []string{"spec", "status"} {
			if descriptors := descriptors(schema, part); len(descriptors) > 0 {
				described[part+"Descriptors"] = descriptors
			}
		}
		all = append(all, described)
	}
	return all, nil
}

// descriptors tell a console what the fields of a spec or status are.
func descriptors(schema Object, part string) (all []any) {
	fields, _ := schema.field("properties", part, "properties").(map[string]any)
	for _, name := range sorted(fields) {
		field := Object(fields[name].(map[string]any))
		described := map[string]any{"path": name, "displayName": display(name), "description": line(field.Text("description"))}
		switch {
		case name == "conditions":
			described["x-descriptors"] = []any{"urn:alm:descriptor:io.kubernetes.conditions"}
		case field.Text("type") == "boolean":
			described["x-descriptors"] = []any{"urn:alm:descriptor:com.tectonic.ui:booleanSwitch"}
		case field.Text("type") == "integer" && part == "spec":
			described["x-descriptors"] = []any{"urn:alm:descriptor:com.tectonic.ui:number"}
		case part == "spec" && field["enum"] != nil:
			var selects []any
			for _, value := range field["enum"].([]any) {
				selects = append(selects, fmt.Sprintf("urn:alm:descriptor:com.tectonic.ui:select:%v", value))
			}
			described["x-descriptors"] = selects
		}
		all = append(all, described)
	}
	return all
}

// display makes "Cool Down" of coolDown.
func display(name string) string {
	var out strings.Builder
	for i, r := range name {
		if i == 0 {
			r = unicode.ToUpper(r)
		} else if unicode.IsUpper(r) && !unicode.IsUpper(rune(name[i-1])) {
			out.WriteByte(' ')
		}
		out.WriteRune(r)
	}
	return out.String()
}

// line is the text without its line breaks.
func line(text string) string { return strings.Join(strings.Fields(text), " ") }

func sorted(fields map[string]any) []string { return slices.Sorted(maps.Keys(fields)) }
