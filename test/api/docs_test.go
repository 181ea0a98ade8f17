package api

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	v1alpha1 "github.com/portreeve/portreeve/api/v1alpha1"
)

// page is one of the texts that people read.
type page struct{ path, text string }

func pages(t *testing.T) []page {
	t.Helper()
	docs, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	if err != nil || len(docs) == 0 {
		t.Fatalf("no pages in docs: %v", err)
	}
	var all []page
	for _, file := range append(docs, filepath.Join(root, "README.md"), filepath.Join(root, "CHANGELOG.md")) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		path, err := filepath.Rel(root, file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page{path, string(data)})
	}
	return all
}

// block is one fenced block; info are the words behind the opening fence.
type block struct {
	line int
	info []string
	text string
}

// split takes a page apart into its fenced blocks and the rest of its lines.
func (p page) split(t *testing.T) (blocks []block, prose []string) {
	t.Helper()
	open := false
	for i, line := range strings.Split(p.text, "\n") {
		info, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && !open:
			open = true
			blocks = append(blocks, block{line: i + 1, info: strings.Fields(info)})
		case fence:
			open = false
		case open:
			blocks[len(blocks)-1].text += line + "\n"
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			t.Errorf("%s:%d: an indented fence is not looked into; put it at the beginning of the line", p.path, i+1)
		default:
			prose = append(prose, line)
		}
	}
	if open {
		t.Errorf("%s: the last block has no end", p.path)
	}
	return blocks, prose
}

// Every example of our kinds is accepted as it stands. An excerpt of what a
// cluster shows, marked "yaml status KIND", has fields of that kind only.
func TestExamplesInTheDocsAreAccepted(t *testing.T) {
	client, kinds := apiServer(t), kinds(t)
	tried := 0
	for _, p := range pages(t) {
		blocks, _ := p.split(t)
		for _, b := range blocks {
			if len(b.info) == 0 || b.info[0] != "yaml" {
				continue
			}
			t.Run(p.path+":"+strconv.Itoa(b.line), func(t *testing.T) {
				if len(b.info) == 3 && b.info[1] == "status" {
					excerpt(t, b.info[2], b.text)
					return
				}
				for _, text := range strings.Split(b.text, "\n---\n") {
					object := &unstructured.Unstructured{Object: yamlObject(t, text)}
					if object.GroupVersionKind().Group != v1alpha1.GroupVersion.Group {
						continue // of somebody else: it was YAML
					}
					tried++
					i := slices.IndexFunc(kinds, func(k kind) bool { return k.String() == object.GetKind() })
					if i < 0 {
						t.Fatalf("no definition of %s", object.GetKind())
					}
					if kinds[i].Spec.Scope == "Namespaced" {
						object.SetNamespace("default") // the one that is always there
					}
					data, err := object.MarshalJSON()
					if err != nil {
						t.Fatal(err)
					}
					if _, err := resource(client, kinds[i], object.GetNamespace()).Patch(t.Context(), object.GetName(), types.ApplyYAMLPatchType, data, metav1.PatchOptions{
						DryRun: []string{metav1.DryRunAll}, FieldManager: "docs", Force: ptr.To(true), FieldValidation: metav1.FieldValidationStrict,
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
	if tried == 0 {
		t.Error("the docs have no example")
	}
}

func excerpt(t *testing.T, kind, text string) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	typed, err := scheme.New(v1alpha1.GroupVersion.WithKind(kind))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict([]byte(text), typed); err != nil {
		t.Error(err)
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	code    = regexp.MustCompile("`[^`\n]*`")
	noSlug  = regexp.MustCompile(`[^\p{L}\p{N}\- _]`)
	target  = regexp.MustCompile(`(?m)^([a-z][a-z-]*):`)
	command = regexp.MustCompile("make ([a-z][a-z-]*)")
)

// Links between our own files lead somewhere, headings included.
func TestLinksInTheDocsResolve(t *testing.T) {
	for _, p := range pages(t) {
		_, prose := p.split(t)
		text := code.ReplaceAllString(strings.Join(prose, "\n"), "") // a pattern in it may look like a link
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(match[1], "#")
			file := filepath.Join(root, p.path)
			if path != "" {
				file = filepath.Join(root, filepath.Dir(p.path), path)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s links to %s, which does not exist", p.path, match[1])
				continue
			}
			if anchor != "" && !slices.Contains(anchors(t, file), anchor) {
				t.Errorf("%s links to %s, and %s has no such heading", p.path, match[1], path)
			}
		}
	}
}

// anchors are the headings of a page as links spell them.
func anchors(t *testing.T, file string) []string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, match := range heading.FindAllStringSubmatch(string(data), -1) {
		slug := noSlug.ReplaceAllString(strings.ToLower(match[1]), "")
		all = append(all, strings.ReplaceAll(slug, " ", "-"))
	}
	return all
}

// What the docs tell people to make can be made.
func TestMakeTargetsInTheDocsExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	targets := map[string]bool{}
	for _, match := range target.FindAllStringSubmatch(string(makefile), -1) {
		targets[match[1]] = true
	}
	for _, p := range pages(t) {
		for _, code := range p.code(t) {
			for _, match := range command.FindAllStringSubmatch(code, -1) {
				if !targets[match[1]] {
					t.Errorf("%s says make %s, which the Makefile does not know", p.path, match[1])
				}
			}
		}
	}
}

var inline = regexp.MustCompile("`([^`]+)`")

// code lists what stands in backquotes or in a fenced block of the page.
func (p page) code(t *testing.T) []string {
	t.Helper()
	blocks, prose := p.split(t)
	var all []string
	for _, b := range blocks {
		all = append(all, b.text)
	}
	for _, match := range inline.FindAllStringSubmatch(strings.Join(prose, "\n"), -1) {
		all = append(all, match[1])
	}
	return all
}

var tableRow = regexp.MustCompile("(?m)^\\| `([A-Za-z]+)`")

// Condition types and reasons are closed lists. docs/policies.md has a table of
// each, with the next step; nothing is missing there, and nothing is made up.
func TestEveryConditionAndReasonIsExplained(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(root, "docs/policies.md"))
	if err != nil {
		t.Fatal(err)
	}
	kinds, reasons := conditionConstants(t)
	for title, want := range map[string][]string{"## Conditions\n": kinds, "## Reasons\n": reasons} {
		_, section, found := strings.Cut(string(data), "\n"+title)
		if !found {
			t.Errorf("docs/policies.md has no section %q", strings.TrimSpace(title))
		}
		section, _, _ = strings.Cut(section, "\n## ")
		explained := map[string]bool{}
		for _, match := range tableRow.FindAllStringSubmatch(section, -1) {
			explained[match[1]] = true
		}
		for _, name := range want {
			if !explained[name] {
				t.Errorf("docs/policies.md does not explain %s under %s", name, strings.TrimSpace(title))
			}
			delete(explained, name)
		}
		for _, name := range slices.Sorted(maps.Keys(explained)) {
			t.Errorf("docs/policies.md explains %s under %s, which api/v1alpha1 does not have", name, strings.TrimSpace(title))
		}
	}
}

// conditionConstants reads the closed lists from their source.
func conditionConstants(t *testing.T) (kinds, reasons []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "api/v1alpha1/conditions.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, name := range spec.Names {
			value, err := strconv.Unquote(spec.Values[i].(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(name.Name, "Reason") {
				reasons = append(reasons, value)
			} else {
				kinds = append(kinds, value)
			}
		}
		return true
	})
	if len(kinds) == 0 || len(reasons) == 0 {
		t.Fatal("api/v1alpha1/conditions.go has no constants")
	}
	return kinds, reasons
}
