package olm

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

// release is a version of ours that OLM can install.
type release struct {
	name           string // of its ClusterServiceVersion
	manager, agent string // images
	first          string // the object that it wants to be created first, as JSON
	bin            string // folder with the programs
	catalog        string // folder with the catalog, for opm
}

// checkedIn is the bundle and the catalog as they stand in the tree.
func checkedIn(bin, out string) (release, error) {
	return pack(stage.Root(), bin, out, edit{Replacer: strings.NewReplacer()})
}

// generated is what make bundle makes of this tree, with these variables.
func generated(ctx context.Context, bin, out string, variables ...string) (release, error) {
	files := filepath.Join(out, "made")
	command := exec.CommandContext(ctx, "go", "-C", filepath.Join(stage.Root(), "hack/packaging"), "run", "./generate", stage.Root(), files)
	command.Env = append(os.Environ(), "MANAGER_IMAGE=", "AGENT_IMAGE=", "BUNDLE_IMAGE=", "BUNDLE_VERSION=", "BUNDLE_REPLACES=")
	command.Env = append(command.Env, variables...)
	if text, err := command.CombinedOutput(); err != nil {
		return release{}, fmt.Errorf("make the bundle: %w\n%s", err, text)
	}
	return pack(files, bin, out, edit{Replacer: strings.NewReplacer()})
}

// earlier is an earlier commit's version under a number, in place of the one that it
// replaces, "" for none. Where the clone has no history it is this tree, and genuine is
// false.
func earlier(ctx context.Context, bin, out, number, replaces string) (r release, genuine bool, err error) {
	find := exec.CommandContext(ctx, filepath.Join(stage.Root(), "hack", "earlier.sh"), "bundled")
	find.Stderr = os.Stderr // a cold build says so there
	text, err := find.Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == 3:
		r, err = generated(ctx, bin, out, "BUNDLE_VERSION="+number, "BUNDLE_REPLACES="+replaces)
		return r, false, err
	case err != nil:
		return r, false, fmt.Errorf("find the earlier version: %w", err)
	}
	// Until there is a release all commits have one number.
	other := strings.NewReplacer("v0.1.0", "v"+number, "version: 0.1.0", "version: "+number)
	folder := strings.TrimSpace(string(text))
	r, err = pack(folder, filepath.Join(folder, "bin"), out, edit{Replacer: other, replaces: replaces})
	return r, true, err
}

// edit is what is changed in a bundle and its catalog: words, and what they replace.
type edit struct {
	*strings.Replacer
	replaces string
}

// pack reads bundle/ and catalog/ below a folder, and writes a catalog that has the bundle
// in it, as there is no container engine to unpack one from an image. All else is as the
// catalog has it.
func pack(files, bin, out string, edit edit) (release, error) {
	r := release{bin: bin, catalog: filepath.Join(out, "catalog")}
	manifests, err := filepath.Glob(filepath.Join(files, "bundle/manifests/*.yaml"))
	if err != nil {
		return r, err
	}
	var inline []any
	for _, file := range manifests {
		object, err := read(file, edit)
		if err != nil {
			return r, err
		}
		if object.GetKind() == "ClusterServiceVersion" {
			r.describe(object)
		}
		data, err := object.MarshalJSON()
		if err != nil {
			return r, err
		}
		inline = append(inline, map[string]any{
			"type": "olm.bundle.object", "value": map[string]any{"data": base64.StdEncoding.EncodeToString(data)},
		})
	}
	if r.name == "" || r.manager == "" || r.agent == "" || r.first == "" {
		return r, fmt.Errorf("%s: the bundle lacks something: %+v", files, r)
	}
	return r, writeCatalog(filepath.Join(files, "catalog/portreeve/catalog.yaml"), filepath.Join(r.catalog, "portreeve"), edit, inline)
}

func read(file string, edit edit) (*unstructured.Unstructured, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	object := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(edit.Replace(string(text))), &object.Object); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return object, nil
}

func (r *release) describe(csv *unstructured.Unstructured) {
	r.name = csv.GetName()
	r.first = csv.GetAnnotations()["operatorframework.io/initialization-resource"]
	images, _, _ := unstructured.NestedSlice(csv.Object, "spec", "relatedImages")
	for _, image := range images {
		image, _ := image.(map[string]any)
		switch name, _ := image["image"].(string); image["name"] {
		case "manager":
			r.manager = name
		case "agent":
			r.agent = name
		}
	}
}

func writeCatalog(from, to string, edit edit, inline []any) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var parts []string
	for part := range strings.SplitSeq(edit.Replace(string(text)), "\n---\n") {
		var blob map[string]any
		if err := yaml.Unmarshal([]byte(part), &blob); err != nil {
			return fmt.Errorf("%s: %w", from, err)
		}
		entries, _ := blob["entries"].([]any)
		for _, entry := range entries {
			if entry, _ := entry.(map[string]any); edit.replaces != "" {
				entry["replaces"] = edit.replaces
			}
		}
		if blob["schema"] == "olm.bundle" {
			properties := inline
			list, _ := blob["properties"].([]any)
			for _, p := range list { // the metadata stand for a bundle that is elsewhere
				if p, _ := p.(map[string]any); p["type"] != "olm.csv.metadata" {
					properties = append(properties, p)
				}
			}
			blob["image"], blob["properties"] = "", properties
		}
		out, err := yaml.Marshal(blob)
		if err != nil {
			return err
		}
		parts = append(parts, string(out))
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(to, "catalog.yaml"), []byte(strings.Join(parts, "---\n")), 0o644)
}

// What pods run in place of images: the programs, with the pod's own token and, for
// agents, the node's own disk where a container would have its volumes.
const (
	managerInPod = `program=$1; shift; exec "$PROGRAM" "$@"`
	agentInPod   = `program=$1; shift; exec "$PROGRAM" "$@" --kubeconfig="$KUBECONFIG" --state-dir="$LAB_NODE_DIR" --reserved-ports-file=/proc/sys/net/ipv4/ip_local_reserved_ports`
)

func images(releases ...release) map[string]lab.Image {
	all := map[string]lab.Image{}
	for _, r := range releases {
		all[r.manager] = lab.Image{Argv: []string{"/bin/sh", "-c", managerInPod, "manager-in-a-pod"}, Env: []string{"PROGRAM=" + filepath.Join(r.bin, "manager")}}
		all[r.agent] = lab.Image{Argv: []string{"/bin/sh", "-c", agentInPod, "agent-in-a-pod"}, Env: []string{"PROGRAM=" + filepath.Join(r.bin, "agent")}}
	}
	return all
}
