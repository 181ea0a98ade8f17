// Command generate writes the templates of the Helm chart, made of config/.
//
//	generate ROOT OUT   read the tree at ROOT, write below OUT
package main

import (
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
	return write(filepath.Join(out, "charts/portreeve"), "templates", chart)
}

// write makes the folder of that name hold the files and no others.
func write(parent, folder string, files packaging.Files) error {
	if err := os.RemoveAll(filepath.Join(parent, folder)); err != nil {
		return err
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
