package packaging

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// Namespace is where config/ puts everything.
const Namespace = "portreeve-system"

// Object is one manifest.
type Object map[string]any

// Build is what kustomize makes of a folder.
func Build(folder string) ([]Object, error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return nil, err
	}
	var all []Object
	for _, resource := range built.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			return nil, err
		}
		var object Object
		if err := yaml.Unmarshal(text, &object); err != nil {
			return nil, err
		}
		all = append(all, object)
	}
	return all, nil
}

// Text returns the field at the path, "" where there is none.
func (o Object) Text(path ...string) string {
	text, _ := o.field(path...).(string)
	return text
}

func (o Object) field(path ...string) any {
	var at any = map[string]any(o)
	for _, name := range path {
		fields, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = fields[name]
	}
	return at
}

// fields returns the object at the path, which must be there.
func (o Object) fields(path ...string) Object {
	fields, ok := o.field(path...).(map[string]any)
	if !ok {
		panic(fmt.Sprintf("%s has no object %s", o.ID(), strings.Join(path, ".")))
	}
	return fields
}

// ID is kind and name, by which the objects of an installation differ.
func (o Object) ID() string { return o.Text("kind") + " " + o.Text("metadata", "name") }

// container returns the one container of a workload.
func (o Object) container() Object {
	list, _ := o.fields("spec", "template", "spec")["containers"].([]any)
	if len(list) != 1 {
		panic(fmt.Sprintf("%s has %d containers, want one", o.ID(), len(list)))
	}
	return list[0].(map[string]any)
}

// Files are contents by path.
type Files map[string]string

// Paths in order.
func (f Files) Paths() []string { return slices.Sorted(maps.Keys(f)) }
