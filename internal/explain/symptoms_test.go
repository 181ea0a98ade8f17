package explain

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every cause that the page of symptoms names has a scene in the lab, with real packets, in
// which the program names it.
func TestEverySymptomHasAScene(t *testing.T) {
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	table, _, _ := strings.Cut(string(page), "\n## ")
	causes := map[string]bool{}
	for _, match := range regexp.MustCompile("`([A-Z][A-Za-z]+ \\([A-Z][A-Za-z]+\\))`").FindAllStringSubmatch(table, -1) {
		causes[match[1]] = true
	}
	if len(causes) < 20 {
		t.Fatalf("the page names %v", causes)
	}
	played := scenes(t)
	for _, cause := range slices.Sorted(maps.Keys(causes)) {
		if !played[cause] {
			t.Errorf("no scene of test/e2e has explain say %s; they have %q", cause, slices.Sorted(maps.Keys(played)))
		}
	}
}

// scenes are the causes that test/e2e wants to hear, each as "Gate (Reason)".
func scenes(t *testing.T) map[string]bool {
	t.Helper()
	words := map[string]string{}
	for _, folder := range []string{".", "../compile", "../../api/v1alpha1"} {
		inspect(t, folder+"/*.go", func(n ast.Node) {
			spec, is := n.(*ast.ValueSpec)
			if !is || len(spec.Names) != len(spec.Values) {
				return
			}
			for i, name := range spec.Names {
				if text, is := spec.Values[i].(*ast.BasicLit); is && text.Kind == token.STRING {
					words[name.Name] = strings.Trim(text.Value, `"`)
				}
			}
		})
	}
	word := func(e ast.Expr) string {
		if s, is := e.(*ast.SelectorExpr); is {
			return words[s.Sel.Name]
		}
		return ""
	}
	played := map[string]bool{}
	inspect(t, "../../test/e2e/*_test.go", func(n ast.Node) {
		call, is := n.(*ast.CallExpr)
		if !is {
			return
		}
		method, is := call.Fun.(*ast.SelectorExpr)
		if !is || method.Sel.Name != "explains" && method.Sel.Name != "tooOpen" {
			return
		}
		gate, reason := word(call.Args[len(call.Args)-2]), word(call.Args[len(call.Args)-1])
		played[gate+" ("+reason+")"] = true
	})
	return played
}

func inspect(t *testing.T, pattern string, visit func(ast.Node)) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v, %v", pattern, files, err)
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			visit(n)
			return true
		})
	}
}
