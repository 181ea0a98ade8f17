package packaging

import (
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

//go:embed csv
var words embed.FS

// Version of what is packaged; charts/portreeve/Chart.yaml and internal/version have it, too.
const Version = "0.1.0"

// Channels of the catalog; the first is what a subscription gets that names none.
var Channels = []string{"alpha", "stable"}

// Package is the name under which a catalog offers us.
const Package = "portreeve"

// Images are what a bundle refers to.
type Images struct{ Manager, Agent, Bundle string }

// Release is one version of the bundle. Version is semantic, without a v. Replaces is the
// ClusterServiceVersion that OLM upgrades to it, "" where there is none.
type Release struct {
	Version, Replaces string
	Images
}

// Name of the release's ClusterServiceVersion.
func (r Release) Name() string { return Package + ".v" + r.Version }

const mediaType = "registry+v1"

// Bundle returns the OLM bundle, its Dockerfile and a file-based catalog that offers it,
// for the objects of config/default, with the samples as examples.
func Bundle(install, samples []Object, release Release) (Files, error) {
	csv, err := csv(install, samples, release)
	if err != nil {
		return nil, err
	}
	files := Files{}
	put := func(path string, content any) {
		text, marshalErr := yaml.Marshal(content)
		if marshalErr != nil && err == nil {
			err = fmt.Errorf("%s: %w", path, marshalErr)
		}
		files[path] = string(text)
	}
	put("bundle/manifests/portreeve.clusterserviceversion.yaml", csv)
	for _, object := range install {
		name := object.Text("metadata", "name")
		switch {
		case object.Text("kind") == "CustomResourceDefinition":
			put("bundle/manifests/"+name+".crd.yaml", object)
		case object.Text("kind") == "ClusterRole" && !slices.Contains(accounts, name): // people's
			put("bundle/manifests/"+name+".clusterrole.yaml", object)
		case object.Text("kind") == "Role", object.Text("kind") == "RoleBinding":
			put("bundle/manifests/"+name+"."+strings.ToLower(object.Text("kind"))+".yaml", local(object))
		}
	}
	put("bundle/metadata/annotations.yaml", map[string]any{"annotations": labels()})
	scorecard, readErr := words.ReadFile("csv/scorecard.yaml")
	if readErr != nil {
		return nil, readErr
	}
	files["bundle/tests/scorecard/config.yaml"] = string(scorecard)
	files["bundle.Dockerfile"] = dockerfile()
	catalog, catalogErr := catalog(csv, release)
	if catalogErr != nil {
		return nil, catalogErr
	}
	files["catalog/portreeve/catalog.yaml"] = catalog
	files["catalog.Dockerfile"] = catalogDockerfile
	return files, err
}

// accounts are our ServiceAccounts, and the roles that are theirs.
var accounts = []string{"portreeve-agent", "portreeve-manager"}

// csv is the ClusterServiceVersion: its words, and what config/ says of rights, the
// manager's Deployment and the kinds.
func csv(install, samples []Object, release Release) (Object, error) {
	images := release.Images
	var out Object
	if err := word("csv.yaml", &out); err != nil {
		return nil, err
	}
	description, err := words.ReadFile("csv/description.md")
	if err != nil {
		return nil, err
	}
	icon, err := words.ReadFile("csv/icon.svg")
	if err != nil {
		return nil, err
	}
	kinds, err := kinds(install)
	if err != nil {
		return nil, err
	}
	examples, err := examples(kinds, samples)
	if err != nil {
		return nil, err
	}
	out.fields("metadata")["name"] = release.Name()
	out.fields("metadata", "annotations")["alm-examples"] = examples
	out.fields("metadata", "annotations")["containerImage"] = images.Manager
	spec := out.fields("spec")
	spec["version"] = release.Version
	if release.Replaces != "" {
		spec["replaces"] = release.Replaces
	}
	spec["description"] = string(description)
	spec["icon"] = []any{map[string]any{"base64data": base64.StdEncoding.EncodeToString(icon), "mediatype": "image/svg+xml"}}
	spec["customresourcedefinitions"] = map[string]any{"owned": kinds}
	spec["relatedImages"] = []any{
		map[string]any{"name": "manager", "image": images.Manager},
		map[string]any{"name": "agent", "image": images.Agent},
	}
	spec["install"] = map[string]any{"strategy": "deployment", "spec": map[string]any{
		"clusterPermissions": permissions(install),
		"deployments":        deployments(install, images),
	}}
	return out, nil
}

func word(file string, into any) error {
	text, err := words.ReadFile("csv/" + file)
	if err != nil {
		return err
	}
	return yaml.UnmarshalStrict(text, into)
}

// local is a Role or RoleBinding for the namespace in which OLM installs. It stands beside
// the ClusterServiceVersion: of its permissions for one namespace OLM makes a ClusterRole
// where an operator is for all namespaces, and the manager could read every Secret.
func local(object Object) Object {
	out := clone(object)
	delete(out.fields("metadata"), "namespace")
	subjects, _ := out["subjects"].([]any)
	for _, subject := range subjects {
		delete(subject.(map[string]any), "namespace") // the binding's own
	}
	return out
}

// permissions of our ServiceAccounts for the whole cluster; OLM makes the accounts.
func permissions(install []Object) (all []any) {
	for _, object := range install {
		if name := object.Text("metadata", "name"); object.Text("kind") == "ClusterRole" && slices.Contains(accounts, name) {
			all = append(all, map[string]any{"serviceAccountName": name, "rules": object["rules"]})
		}
	}
	return all
}

func deployments(install []Object, images Images) (all []any) {
	for _, object := range install {
		if object.Text("kind") == "Deployment" {
			spec := clone(object.fields("spec"))
			manager := Object{"kind": "Deployment", "spec": map[string]any(spec)}.container()
			manager["image"] = images.Manager
			env, _ := manager["env"].([]any) // what the manager runs where the Portreeve object says so
			manager["env"] = append(env, map[string]any{"name": "RELATED_IMAGE_AGENT", "value": images.Agent})
			all = append(all, map[string]any{
				"name": object.Text("metadata", "name"), "label": object.field("metadata", "labels"), "spec": map[string]any(spec),
			})
		}
	}
	return all
}

func clone(o Object) (out Object) {
	text, err := json.Marshal(o)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	if err != nil {
		panic(err) // it came from YAML
	}
	return out
}

// examples are one object of each kind, as JSON.
func examples(kinds []any, samples []Object) (string, error) {
	text, err := words.ReadFile("csv/examples.yaml")
	if err != nil {
		return "", err
	}
	var objects []Object
	for _, part := range strings.Split(string(text), "\n---\n") {
		var object Object
		if err := yaml.UnmarshalStrict([]byte(part), &object); err != nil {
			return "", err
		}
		objects = append(objects, object)
	}
	objects = append(objects, samples...)
	var all []Object
	for _, kind := range kinds {
		name := kind.(map[string]any)["kind"]
		i := slices.IndexFunc(objects, func(o Object) bool { return o["kind"] == name })
		if i < 0 {
			return "", fmt.Errorf("no sample of %s", name)
		}
		all = append(all, objects[i])
	}
	out, err := json.MarshalIndent(all, "", "  ")
	return string(out), err
}

// labels of a bundle's image, by which OLM knows what it is.
func labels() map[string]any {
	const prefix = "operators.operatorframework.io."
	return map[string]any{
		prefix + "bundle.mediatype.v1":       mediaType,
		prefix + "bundle.manifests.v1":       "manifests/",
		prefix + "bundle.metadata.v1":        "metadata/",
		prefix + "bundle.package.v1":         Package,
		prefix + "bundle.channels.v1":        strings.Join(Channels, ","),
		prefix + "bundle.channel.default.v1": Channels[0],
		prefix + "test.mediatype.v1":         "scorecard+v1",
		prefix + "test.config.v1":            "tests/scorecard/",
	}
}

func dockerfile() string {
	var out strings.Builder
	out.WriteString("# Generated by make bundle.\nFROM scratch\n")
	labels := labels()
	for _, key := range sorted(labels) {
		fmt.Fprintf(&out, "LABEL %s=%s\n", key, labels[key])
	}
	for _, folder := range []string{"manifests", "metadata", "tests/scorecard"} {
		fmt.Fprintf(&out, "COPY bundle/%[1]s /%[1]s/\n", folder)
	}
	return out.String()
}
