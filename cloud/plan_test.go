package cloud_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

const (
	ours   = "5f0c8a52-9d0e-4c39-8f0f-0c0a5d3c7a11"
	theirs = "00000000-0000-4000-8000-000000000000"
)

// TestPlan runs the scenarios in testdata/plan, each named by what it shows. The
// section of a group lists "id owner rule"; "plan" is written by hand.
func TestPlan(t *testing.T) {
	files, err := filepath.Glob("testdata/plan/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			want, have, expected := scenario(t, file)
			if got := spellPlan(cloud.Plan(want, have, cloud.Capabilities{})); got != expected {
				t.Errorf("plan\n%s\nwant\n%s", got, expected)
			}
		})
	}
}

func scenario(t *testing.T, file string) (cloud.Want, map[string][]cloud.Rule, string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := cloud.Want{Owner: ours, Limits: cloud.Count{IPv4: 60, IPv6: 60}}
	have := map[string][]cloud.Rule{}
	expected := ""
	for _, section := range archive.Files {
		lines := strings.Split(strings.TrimSpace(string(section.Data)), "\n")
		switch section.Name {
		case "want":
			want.Grants = eachLine(lines, cloudtest.Grant)
		case "limits":
			if _, err := fmt.Sscan(lines[0], &want.Limits.IPv4, &want.Limits.IPv6); err != nil {
				t.Fatal(err)
			}
		case "unlisted":
			want.Groups = append(want.Groups, lines...)
		case "plan":
			expected = strings.TrimSpace(string(section.Data))
		default:
			want.Groups = append(want.Groups, section.Name)
			have[section.Name] = eachLine(lines, listedRule)
		}
	}
	return want, have, expected
}

func eachLine[T any](lines []string, parse func(string) T) []T {
	var out []T
	for _, line := range lines {
		if line != "" {
			out = append(out, parse(line))
		}
	}
	return out
}

func listedRule(line string) cloud.Rule {
	f := strings.SplitN(line, " ", 3)
	owners := map[string]string{"ours": ours, "other": theirs, "-": ""}
	return cloud.Rule{ID: f[0], Owner: owners[f[1]], Rule: cloudtest.Parse(f[2])}
}

func spellPlan(c cloud.Changes) string {
	var lines []string
	for _, g := range c.Groups {
		for _, a := range g.Add {
			lines = append(lines, g.ID+" add "+cloudtest.Spell(a.Rule))
		}
		for _, part := range []struct {
			verb  string
			rules []cloud.Rule
		}{{"keep", g.Keep}, {"remove", g.Remove}, {"foreign", g.Foreign}, {"shadowing", g.Shadowing}} {
			for _, r := range part.rules {
				lines = append(lines, g.ID+" "+part.verb+" "+r.ID)
			}
		}
	}
	for _, o := range c.Overflow {
		lines = append(lines, "overflow "+cloudtest.Spell(o.Rule))
	}
	return strings.Join(lines, "\n")
}
