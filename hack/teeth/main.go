// Command teeth breaks the code in one place at a time and requires a named test
// to fail for each: a promise whose test can't fail is not a promise.
//
//	go run ./hack/teeth            all of teeth.yaml
//	go run ./hack/teeth NAME ...   those whose name contains one of the words
//
// Nothing in the tree is touched: the broken file goes to the compiler as an
// overlay (`go help build`, -overlay), which GOFLAGS also hands to the builds that
// the tests start themselves.
package main

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

//go:embed teeth.yaml
var teethYAML []byte

// tooth is one broken promise.
type tooth struct {
	// Name says what is broken, as a sentence.
	Name string `json:"name"`
	// File is broken by replacing Old, which stands in it exactly once, with New.
	File string `json:"file"`
	Old  string `json:"old"`
	New  string `json:"new"`
	// Test of Package must fail then. A slash selects a subtest. Module is its folder, if
	// that is not the root's.
	Package string `json:"package"`
	Test    string `json:"test"`
	Module  string `json:"module"`
}

func main() {
	var teeth []tooth
	if err := yaml.UnmarshalStrict(teethYAML, &teeth); err != nil {
		fmt.Fprintln(os.Stderr, "teeth.yaml:", err)
		os.Exit(2)
	}
	passed, failed := 0, 0
	for _, t := range teeth {
		if !chosen(t, os.Args[1:]) {
			continue
		}
		began := time.Now()
		if err := t.bite(); err != nil {
			failed++
			fmt.Printf("BLUNT  %s\n       %v\n", t.Name, err)
			continue
		}
		passed++
		fmt.Printf("sharp  %s (%s, %.0fs)\n", t.Name, t.Test, time.Since(began).Seconds())
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 || passed == 0 {
		os.Exit(1)
	}
}

func chosen(t tooth, words []string) bool {
	return len(words) == 0 || slices.ContainsFunc(words, func(w string) bool { return strings.Contains(t.Name, w) })
}

// bite returns an error unless the test fails for the broken file.
func (t tooth) bite() error {
	dir, err := os.MkdirTemp("", "portreeve-teeth-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	overlay, err := t.overlay(dir)
	if err != nil {
		return err
	}
	test := exec.Command("go", "-C", cmp.Or(t.Module, "."), "test", "-count=1", "-timeout=10m", "-run", anchored(t.Test), t.Package)
	test.Env = append(os.Environ(), strings.TrimSpace("GOFLAGS="+os.Getenv("GOFLAGS")+" -overlay="+overlay))
	out, err := test.CombinedOutput()
	switch {
	case err == nil && strings.Contains(string(out), "no tests to run"):
		return fmt.Errorf("%s has no test %s", t.Package, t.Test)
	case err == nil:
		return fmt.Errorf("%s passes all the same", t.Test)
	case !strings.Contains(string(out), "--- FAIL: ") && !strings.Contains(string(out), "panic: "):
		return fmt.Errorf("%s did not get to run:\n%s", t.Test, tail(string(out)))
	}
	return nil
}

// overlay writes the broken file and the map that puts it in the sound one's place.
func (t tooth) overlay(dir string) (string, error) {
	path, err := filepath.Abs(t.File)
	if err != nil {
		return "", err
	}
	sound, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(sound), t.Old); n != 1 {
		return "", fmt.Errorf("%s has %q %d times, want once", t.File, t.Old, n)
	}
	broken := filepath.Join(dir, filepath.Base(path))
	if err := os.WriteFile(broken, []byte(strings.Replace(string(sound), t.Old, t.New, 1)), 0o600); err != nil {
		return "", err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {path: broken}})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, replace, 0o600)
}

// anchored makes each part of a test's path match that name only.
func anchored(test string) string {
	parts := strings.Split(test, "/")
	for i, p := range parts {
		parts[i] = "^" + p + "$"
	}
	return strings.Join(parts, "/")
}

func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
