package api

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// Every field of a spec, leaf or not, has at least one bad value in test/invalid.
// NodeDatapath has a status only.
func TestEveryFieldHasABadValue(t *testing.T) {
	tables := tables(t)
	for _, k := range kinds(t) {
		tab, ok := tables[k.String()]
		if !ok {
			t.Errorf("%s: no table of bad input in test/invalid", k)
			continue
		}
		spoilt := map[string]bool{}
		for _, c := range tab.Cases {
			spoilt[inSchema(c.At)] = true
			spoilt[inSchema(c.field())] = true
		}
		for _, n := range walk(k.schema, "spec") {
			if !spoilt[n.path] {
				t.Errorf("%s: no case of test/invalid spoils %s", k, n.path)
			}
		}
	}
}

// Every leaf of a spec changes behaviour, and honoured.yaml names the test that
// shows it: a Go test, or a scenario file.
func TestEveryLeafIsHonoured(t *testing.T) {
	data, err := os.ReadFile("honoured.yaml")
	if err != nil {
		t.Fatal(err)
	}
	honoured := map[string]map[string]string{}
	if err := yaml.UnmarshalStrict(data, &honoured); err != nil {
		t.Fatal(err)
	}
	exists := testsOfTheTree(t)
	var missing []string
	for _, k := range kinds(t) {
		list := honoured[k.String()]
		delete(honoured, k.String())
		for _, leaf := range specLeaves(k) {
			name, listed := list[leaf]
			delete(list, leaf)
			switch {
			case !listed:
				t.Errorf("%s: %s is not in honoured.yaml", k, leaf)
			case name == "":
				missing = append(missing, k.String()+" "+leaf)
			case !exists[name]:
				t.Errorf("%s: %s is honoured by %s, which does not exist", k, leaf, name)
			}
		}
		for leaf := range list {
			t.Errorf("%s: honoured.yaml lists %s, which is no leaf of the spec", k, leaf)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(honoured)) {
		t.Errorf("honoured.yaml lists the kind %s, which does not exist", name)
	}
	if len(missing) > 0 {
		t.Errorf("no test is named for %d fields:\n\t%s", len(missing), strings.Join(missing, "\n\t"))
	}
}

var testFunction = regexp.MustCompile(`(?m)^func (Test\w+)\(`)

// testsOfTheTree knows all test functions by name and all scenarios by path.
func testsOfTheTree(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && path != root:
			return filepath.SkipDir
		case strings.HasSuffix(path, ".txtar"):
			relative, err := filepath.Rel(root, path)
			found[filepath.ToSlash(relative)] = true
			return err
		case strings.HasSuffix(path, "_test.go"):
			source, err := os.ReadFile(path)
			for _, match := range testFunction.FindAllSubmatch(source, -1) {
				found[string(match[1])] = true
			}
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
