package cloud_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/internal/rule"
)

const (
	ours   = "5f0c8a52-9d0e-4c39-8f0f-0c0a5d3c7a11"
	theirs = "00000000-0000-4000-8000-000000000000"
)

// TestPlan runs the scenarios in testdata/plan, each named by what it shows. The
// section of a group lists "id owner rule"; "plan" is written by hand. A rule may have a
// group for its source, then its priority, then "drop"; a grant may begin with its pool.
// Options are "coarsen", "priority N" and "pool NAME PORTS RULES".
func TestPlan(t *testing.T) {
	files, err := filepath.Glob("testdata/plan/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			want, have, can, expected := scenario(t, file)
			if got := spellPlan(cloud.Plan(want, have, can)); got != expected {
				t.Errorf("plan\n%s\nwant\n%s", got, expected)
			}
		})
	}
}

func scenario(t *testing.T, file string) (cloud.Want, map[string][]cloud.Rule, cloud.Capabilities, string) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := cloud.Want{Owner: ours, Limits: cloud.Count{IPv4: 60, IPv6: 60}, Pools: map[string]cloud.Pool{}}
	can := cloud.Capabilities{}
	have := map[string][]cloud.Rule{}
	expected := ""
	for _, section := range archive.Files {
		lines := strings.Split(strings.TrimSpace(string(section.Data)), "\n")
		switch section.Name {
		case "want":
			want.Grants = eachLine(lines, wantedGrant)
		case "options":
			for _, line := range lines {
				option(t, strings.Fields(line), &want, &can)
			}
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
	return want, have, can, expected
}

func option(t *testing.T, f []string, want *cloud.Want, can *cloud.Capabilities) {
	var err error
	switch f[0] {
	case "coarsen":
		want.Coarsen = true
	case "priority":
		can.Priority, err = strconv.Atoi(f[1])
	case "pool":
		pool := cloud.Pool{}
		pool.Rules, err = strconv.Atoi(f[3])
		ports, bad := rule.ParsePortRange(f[2])
		pool.Ports, err = rule.NewPortRanges(ports), errors.Join(err, bad)
		want.Pools[f[1]] = pool
	default:
		t.Fatalf("no such option: %q", f)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func wantedGrant(line string) cloud.Grant {
	pool, rest, pooled := strings.Cut(line, ": ")
	if !pooled {
		pool, rest = "", line
	}
	r := spelledRule(strings.Fields(rest))
	return cloud.Grant{Rule: r.Rule, Peer: r.Peer, Pool: pool}
}

// spelledRule reads "TCP 30080 sg-9 50 drop".
func spelledRule(f []string) (r cloud.Rule) {
	if strings.HasPrefix(f[2], "sg-") || strings.HasPrefix(f[2], "pl-") {
		r.Peer, f[2] = f[2], "group"
	}
	r.Rule = cloudtest.Parse(strings.Join(f[:3], " "))
	for _, more := range f[3:] {
		if r.Drop = more == "drop"; !r.Drop {
			r.Priority, _ = strconv.Atoi(more)
		}
	}
	return r
}

func spellGrant(g cloud.Grant) string {
	if g.Peer != "" {
		return fmt.Sprintf("%s %s %s", g.Protocol, g.Ports, g.Peer)
	}
	return cloudtest.Spell(g.Rule)
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
	f := strings.Fields(line)
	r := spelledRule(f[2:])
	r.ID, r.Owner = f[0], map[string]string{"ours": ours, "other": theirs, "-": ""}[f[1]]
	return r
}

func spellPlan(c cloud.Changes) string {
	var lines []string
	for _, g := range c.Groups {
		for _, a := range g.Add {
			lines = append(lines, g.ID+" add "+spellGrant(a))
		}
		for _, part := range []struct {
			verb  string
			rules []cloud.Rule
		}{{"keep", g.Keep}, {"remove", g.Remove}, {"foreign", g.Foreign}, {"serving", g.Serving}, {"shadowing", g.Shadowing}, {"hiding", g.Hiding}} {
			for _, r := range part.rules {
				lines = append(lines, g.ID+" "+part.verb+" "+r.ID)
			}
		}
	}
	for _, part := range []struct {
		verb   string
		grants []cloud.Grant
	}{{"overflow", c.Overflow}, {"over the quota of its pool", c.OverQuota}, {"coarse", c.Coarse}} {
		for _, o := range part.grants {
			lines = append(lines, part.verb+" "+spellGrant(o))
		}
	}
	return strings.Join(lines, "\n")
}
