package compile

import (
	"bytes"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

var update = flag.Bool("update", false, "write want/ of the scenarios anew; expect is always written by hand")

// clock is the time of every test.
var clock = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// TestPolicyScenarios leads each policy from its wish to its allocations and what
// carries them, as the manager does, until nothing changes any more.
//
// in/*.yaml holds pools, AddressSets, the Portreeve object, the policy's namespace,
// policies (the first is played, the others are its rivals; none: it is gone), Services
// (the companion among them) and allocations; now, if it is there, the time. expect is
// written by hand and says, line by line, what must come of it:
//
//	refused ServiceHeadless stalled            the policy, and whether a person must act
//	problem sources[0].cidr                    how a problem of the wish begins
//	30043 Open TCP https 10.8.0.0/16 2001:db8::/48
//	30043 Open UDP 53 nobody via aws-prod      unnamed port, no source, cloud firewalls
//	30043 Open TCP https @office Nodes world   an AddressSet; an entity; everybody
//	30043 Open TCP https pl-1                  a prefix list
//	30043 Open TCP https sg-1 within 10.8.0.0/16   a security group, and what bounds it
//	30043 Open TCP https nobody on role=edge   only on those nodes
//	30043 Open TCP https nobody, in audit, at most 100, 50 a second, 75 at once, logs denied, 10 a second
//	30044 Closed TCP+UDP in place, adopted     carried by the Service itself, which had it
//	none TCP https Taken                       a wanted port without a number, and why
//	admits 30043 TCP https 192.0.2.0/24        whom nodes admit at the moment
//	cloud 30043 TCP:192.0.2.0/24 TCP:sg-1      whom clouds do
//	companion 30043 TCP https 443 -> 8443      a port the companion serves
//	companion 30044 TCP held                   a number that it only holds
//	companion selects app=shop                 "nobody" without a selector
//	service shop NodePort https/TCP=30043      the Service itself, with its node ports
//
// A refusal may go on with ": " and how its message begins. Lines that begin with
// companion, service, admits or cloud may be left out, all of a kind. want/ is the same in full.
func TestPolicyScenarios(t *testing.T) {
	for file, archive := range scenarios(t, "testdata/policy") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			s := readScene(t, archive)
			got := s.play(t)
			got.requireLines(t, lines(fileOf(archive, "expect")))
			rendered := got.render(t)
			if *update {
				writeWant(t, file, archive, rendered)
			} else if want := fileOf(archive, "want/result.yaml"); !bytes.Equal(rendered, want) {
				t.Errorf("result\n%s\nwant\n%s", rendered, want)
			}
		})
	}
}

// TestPolicyScenariosInAnyOrder: the order in which objects are read, or
// allocations come to their turn, changes no byte of the outcome.
func TestPolicyScenariosInAnyOrder(t *testing.T) {
	const orders = 12
	for file, archive := range scenarios(t, "testdata/policy") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			first := readScene(t, archive)
			want := mustJSON(t, first.clone().play(t))
			random := rand.New(rand.NewPCG(1, 2))
			for range orders {
				s := first.clone()
				random.Shuffle(len(s.pools), func(i, j int) { s.pools[i], s.pools[j] = s.pools[j], s.pools[i] })
				random.Shuffle(len(s.sets), func(i, j int) { s.sets[i], s.sets[j] = s.sets[j], s.sets[i] })
				random.Shuffle(len(s.rivals), func(i, j int) { s.rivals[i], s.rivals[j] = s.rivals[j], s.rivals[i] })
				random.Shuffle(len(s.allocations), func(i, j int) { s.allocations[i], s.allocations[j] = s.allocations[j], s.allocations[i] })
				s.firstTurn = random.IntN(16)
				if got := mustJSON(t, s.play(t)); !bytes.Equal(got, want) {
					t.Fatalf("in another order\n%s\nwant\n%s", got, want)
				}
			}
		})
	}
}

func scenarios(t *testing.T, dir string) map[string]*txtar.Archive {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios in %s: %v", dir, err)
	}
	found := map[string]*txtar.Archive{}
	for _, file := range files {
		if found[file], err = txtar.ParseFile(file); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

func fileOf(archive *txtar.Archive, name string) []byte {
	for _, f := range archive.Files {
		if f.Name == name {
			return f.Data
		}
	}
	return nil
}

func writeWant(t *testing.T, file string, archive *txtar.Archive, data []byte) {
	t.Helper()
	archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return strings.HasPrefix(f.Name, "want/") })
	archive.Files = append(archive.Files, txtar.File{Name: "want/result.yaml", Data: data})
	if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
		t.Fatal(err)
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The register says whose a port is, in words that people search it by.
func TestClaimSaysWhoseItIs(t *testing.T) {
	seen := healthy()
	pool := aged("web-2", 1, "30000-30009")
	pool.Spec.Team = "till"
	seen.Wish.offers = map[string]offer{"web-2": {pool: &Pool{NodePortPool: &pool}}}
	got := seen.Wish.Claim(seen.Wish.Numbers[0], "web-2")
	if got.Team != "till" || got.Pool != "web-2" || got.Claim != (v1alpha1.Claim{Namespace: "shop", Policy: "shop", Service: "shop"}) {
		t.Errorf("claim %+v", got)
	}
}
