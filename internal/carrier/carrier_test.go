package carrier

import (
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// verdict is what a fixture wants, written by a person.
type verdict struct {
	Name    string            `json:"name"`
	Layer   string            `json:"layer"`
	Gate    Gate              `json:"gate"`
	Cluster v1alpha1.ClientIP `json:"cluster"`
	Local   v1alpha1.ClientIP `json:"local"`
}

// Each fixture begins with the source by which its datapath is known.
func TestWhoCarriesNodePorts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(archive.Comment) == 0 {
				t.Error("no source is cited")
			}
			var facts v1alpha1.NodeFacts
			var want verdict
			for i, into := range []any{&facts, &want} {
				if err := yaml.UnmarshalStrict(archive.Files[i].Data, into); err != nil {
					t.Fatalf("%s: %v", archive.Files[i].Name, err)
				}
			}
			c := Of(facts)
			got := verdict{Name: c.Name, Layer: c.Layer, Gate: c.Gate}
			var why [2]string
			got.Cluster, why[0] = c.Client(Cluster)
			got.Local, why[1] = c.Client(Local)
			if got != want {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
			for _, text := range why {
				if !strings.HasPrefix(text, c.Name+" ") || len(text) == len(c.Name)+1 {
					t.Errorf("the reason %q does not say who carries the ports, and why", text)
				}
			}
			if around := c.Gate == Around; around != (len(c.Ways) > 0) || around != (c.Trouble() != "") || c.Gate != OnPath && c.Next == "" {
				t.Errorf("gate %s, ways %v, trouble %q, next step %q", c.Gate, c.Ways, c.Trouble(), c.Next)
			}
		})
	}
}

// Who is gone around is told by what, in which layer, and what to do.
func TestTroubleNamesTheLayerAndTheNextStep(t *testing.T) {
	c := Of(v1alpha1.NodeFacts{Ways: []v1alpha1.WayAround{{Interface: "eth0", Hook: "tcx", Program: "hijack"}, {Interface: "eth1", Hook: HookFilter, Program: "u32"}}})
	for _, part := range []string{"program hijack on the tcx hook of eth0", "a tc filter (u32) of eth1", "before netfilter", "--harmless-programs"} {
		if !strings.Contains(c.Trouble(), part) {
			t.Errorf("%q does not say %q", c.Trouble(), part)
		}
	}
}

func TestGatewayModeIsReadFromTheNode(t *testing.T) {
	for annotation, want := range map[string]string{
		`{"default":{"mode":"local","node-port-enable":"true","vlan-id":"0"}}`: "local",
		`{"default":{"mode":"shared"}}`:                                        "shared",
		`{"default":{"mode":"anything"}}`:                                      "",
		`{"other":{"mode":"local"}}`:                                           "",
		`{"default":{"mode":`:                                                  "",
		"":                                                                     "",
	} {
		if got := GatewayMode(annotation); got != want {
			t.Errorf("%s: %q, want %q", annotation, got, want)
		}
	}
}
