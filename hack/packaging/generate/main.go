// Command generate writes the templates of the Helm chart, the OLM bundle and its
// catalog, and the page docs/api.md, made of config/.
//
//	generate ROOT OUT   read the tree at ROOT, write below OUT
//
// The bundle names the images $MANAGER_IMAGE, $AGENT_IMAGE and, in the catalog,
// $BUNDLE_IMAGE; those checked in are ones that nobody has. $BUNDLE_VERSION is in place of this
// tree's, and $BUNDLE_REPLACES, portreeve.v0.1.0 for example, is what OLM upgrades to it.
package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"

	"github.com/portreeve/portreeve/hack/packaging"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: generate ROOT OUT")
		os.Exit(2)
	}
	if err := generate(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func generate(root, out string) error {
	all, err := packaging.Build(filepath.Join(root, "config/all"))
	if err != nil {
		return err
	}
	chart, err := packaging.Chart(all)
	if err != nil {
		return err
	}
	if err := write(filepath.Join(out, "charts/portreeve"), chart, "templates"); err != nil {
		return err
	}
	install, err := packaging.Build(filepath.Join(root, "config/default"))
	if err != nil {
		return err
	}
	reference, err := packaging.Reference(install)
	if err != nil {
		return err
	}
	if err := write(out, packaging.Files{"docs/api.md": reference}); err != nil {
		return err
	}
	samples, err := packaging.Build(filepath.Join(root, "config/samples"))
	if err != nil {
		return err
	}
	bundle, err := packaging.Bundle(install, samples, packaging.Release{
		Version: version(), Replaces: os.Getenv("BUNDLE_REPLACES"), Images: packaging.Images{
			Manager: image("MANAGER_IMAGE", "portreeve-manager"), Agent: image("AGENT_IMAGE", "portreeve-agent"), Bundle: image("BUNDLE_IMAGE", "portreeve-bundle"),
		},
	})
	if err != nil {
		return err
	}
	return write(out, bundle, "bundle", "catalog")
}

func version() string { return cmp.Or(os.Getenv("BUNDLE_VERSION"), packaging.Version) }

// image is what the variable says, else one that nobody has.
func image(variable, name string) string {
	return cmp.Or(os.Getenv(variable), "registry.example.com/"+name+":v"+version())
}

// write makes the folders hold the files and no others.
func write(parent string, files packaging.Files, folders ...string) error {
	for _, folder := range folders {
		if err := os.RemoveAll(filepath.Join(parent, folder)); err != nil {
			return err
		}
	}
	for _, path := range files.Paths() {
		file := filepath.Join(parent, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(files[path]), 0o644); err != nil {
			return err
		}
	}
	return nil
}
