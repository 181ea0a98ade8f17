package compile

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/ports"
)

var update = flag.Bool("update", false, "write want/ of the scenarios anew; expect is always written by hand")

// clock is the time of every test.
var clock = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// TestPolicyScenarios leads each policy from its wish to its allocations and its
// companion, as the manager does, until nothing changes any more.
//
// in/*.yaml holds pools, at most one policy, Services (the companion among them)
// and the policy's allocations. expect is written by hand and says, line by line,
// what must come of it:
//
//	refused ServiceHeadless stalled            the policy, and whether a person must act
//	problem sources[0].cidr                    how a problem of the wish begins
//	30043 Open TCP https 10.8.0.0/16 2001:db8::/48
//	30043 Open UDP 53 nobody via aws-prod      unnamed port, no source, cloud firewalls
//	30044 Closed TCP+UDP
//	none TCP https Taken                       a wanted port without a number, and why
//	companion 30043 TCP https 443 -> 8443      a port the companion serves
//	companion 30044 TCP held                   a number that it only holds
//	companion selects app=shop                 "nobody" without a selector
//
// Lines about the companion may be left out altogether. want/ is the same in full.
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

// scene is the input of a scenario.
type scene struct {
	pools       []v1alpha1.NodePortPool
	policy      *v1alpha1.NodePortPolicy
	services    map[string]*corev1.Service
	allocations []v1alpha1.NodePortAllocation
	// firstTurn is which allocation is first brought up to date.
	firstTurn int
}

// clone shares what play does not change.
func (s scene) clone() *scene {
	s.pools, s.allocations = slices.Clone(s.pools), slices.Clone(s.allocations)
	return &s
}

func readScene(t *testing.T, archive *txtar.Archive) scene {
	t.Helper()
	s := scene{services: map[string]*corev1.Service{}}
	for _, f := range archive.Files {
		switch {
		case strings.HasPrefix(f.Name, "in/"):
			for doc := range strings.SplitSeq(string(f.Data), "\n---\n") {
				s.read(t, doc)
			}
		case f.Name != "expect" && f.Name != "want/result.yaml":
			t.Fatalf("unknown file %s", f.Name)
		}
	}
	return s
}

func (s *scene) read(t *testing.T, doc string) {
	t.Helper()
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
		t.Fatal(err)
	}
	var err error
	switch kind.Kind {
	case "NodePortPolicy":
		s.policy = &v1alpha1.NodePortPolicy{}
		err = yaml.UnmarshalStrict([]byte(doc), s.policy)
	case "Service":
		service := &corev1.Service{}
		err = yaml.UnmarshalStrict([]byte(doc), service)
		s.services[service.Name] = service
	default:
		readObject(t, doc, &s.pools, &s.allocations)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// ending is what came of a scene.
type ending struct {
	Refusal     *Refusal                      `json:"refusal,omitempty"`
	Problems    []string                      `json:"problems,omitempty"`
	Allocations []v1alpha1.NodePortAllocation `json:"allocations,omitempty"`
	Unserved    []string                      `json:"unserved,omitempty"`
	Companion   *corev1.Service               `json:"companion,omitempty"`
}

// play does what the manager does, and requires that it comes to rest.
func (s *scene) play(t *testing.T) ending {
	t.Helper()
	const patience = 10
	for range patience {
		before := mustJSON(t, s.allocations)
		end := s.round()
		if bytes.Equal(before, mustJSON(t, s.allocations)) {
			return end
		}
	}
	t.Fatalf("no rest after %d rounds:\n%s", patience, mustJSON(t, s.allocations))
	return ending{}
}

func (s *scene) round() (end ending) {
	pools, now := Owned(s.pools), metav1.NewMicroTime(clock)
	var wish *Wish
	if s.policy != nil {
		wish, end.Refusal = NewWish(s.policy, s.services[s.policy.Spec.ServiceRef.Name], pools)
	}
	if wish != nil {
		end.Problems = wish.Problems
		end.Unserved = s.allocate(wish, pools)
	}
	for turn := range s.allocations {
		a := &s.allocations[(turn+s.firstTurn)%len(s.allocations)]
		a.Spec = Allocation(a, s.policy, wish, end.Refusal, s.allocations, pools, now)
	}
	end.Allocations = slices.SortedFunc(slices.Values(s.allocations), func(a, b v1alpha1.NodePortAllocation) int { return strings.Compare(a.Name, b.Name) })
	end.Companion = s.companion()
	return end
}

// allocate gives out missing numbers, and says why some are not.
func (s *scene) allocate(wish *Wish, pools []Pool) (unserved []string) {
	var taken ports.Numbers
	for i := range s.allocations {
		taken.Add(NumberOf(&s.allocations[i]))
	}
	for _, service := range s.services {
		for n := range Held(service) {
			taken.Add(n)
		}
	}
	var offers []ports.Pool
	for _, p := range pools {
		offers = append(offers, ports.Pool{Name: p.Name, Ranges: p.Armed})
	}
	missing := Assign(wish, s.allocations).Missing
	var requests []ports.Request
	for _, i := range missing {
		requests = append(requests, ports.Request{Pin: wish.Numbers[i].Pin, Pools: wish.Pools})
	}
	for i, choice := range ports.Choose(requests, offers, taken) {
		wanted := wish.Numbers[missing[i]]
		if choice.Outcome != ports.Chosen {
			why := []string{ports.Exhausted: "Exhausted", ports.Outside: "Outside", ports.Taken: "Taken"}[choice.Outcome]
			for _, p := range wanted.Ports {
				unserved = append(unserved, fmt.Sprintf("none %s %s %s", p.Protocol, nameOrPort(p), why))
			}
			continue
		}
		pool := slices.IndexFunc(pools, func(p Pool) bool { return p.Name == choice.Pool })
		s.allocations = append(s.allocations, v1alpha1.NodePortAllocation{
			ObjectMeta: metav1.ObjectMeta{Name: strconv.Itoa(int(choice.Number)), CreationTimestamp: metav1.NewTime(clock)},
			Spec:       Claim(s.policy, wanted, pools[pool].NodePortPool),
		})
	}
	return unserved
}

func (s *scene) companion() *corev1.Service {
	var service *corev1.Service
	claim := v1alpha1.Claim{}
	for _, a := range s.allocations {
		claim = a.Spec.Claim
		if a.Spec.State == v1alpha1.AllocationOpen {
			service = s.services[claim.Service]
		}
	}
	if service != nil && len(service.Spec.Selector) == 0 {
		service = nil
	}
	return Companion(claim.Namespace, claim.Policy, s.allocations, service, s.services[claim.Policy+v1alpha1.CompanionSuffix])
}

func (e ending) render(t *testing.T) []byte {
	t.Helper()
	data, err := yaml.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (e ending) requireLines(t *testing.T, want []string) {
	t.Helper()
	got := e.lines()
	if companionExpected := slices.ContainsFunc(want, isCompanionLine); !companionExpected {
		got = slices.DeleteFunc(got, isCompanionLine)
	}
	for _, problem := range want {
		for i := range got {
			if strings.HasPrefix(problem, "problem ") && strings.HasPrefix(got[i], problem) {
				got[i] = problem
				break
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("came of it:\n\t%s\nexpected:\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func isCompanionLine(line string) bool { return strings.HasPrefix(line, "companion ") }

func (e ending) lines() []string {
	out := slices.Clone(e.Unserved)
	if e.Refusal != nil {
		end := "stalled"
		if e.Refusal.Waits {
			end = "waits"
		}
		out = append(out, fmt.Sprintf("refused %s %s", e.Refusal.Reason, end))
	}
	for _, p := range e.Problems {
		out = append(out, "problem "+p)
	}
	for i := range e.Allocations {
		out = append(out, describeAllocation(&e.Allocations[i])...)
	}
	if c := e.Companion; c != nil {
		out = append(out, describeCompanion(c)...)
	}
	return out
}

func describeAllocation(a *v1alpha1.NodePortAllocation) (out []string) {
	if a.Spec.State != v1alpha1.AllocationOpen {
		var protocols []string
		for _, p := range a.Spec.Protocols {
			protocols = append(protocols, string(p))
		}
		return []string{fmt.Sprintf("%s %s %s", a.Name, a.Spec.State, strings.Join(protocols, "+"))}
	}
	for _, p := range a.Spec.Ports {
		line := fmt.Sprintf("%s Open %s %s", a.Name, p.Protocol, nameOrPort(p))
		for _, s := range p.Sources {
			line += " " + string(s)
		}
		if len(p.Sources) == 0 {
			line += " nobody"
		}
		for i, f := range a.Spec.CloudFirewalls {
			line += map[bool]string{true: " via ", false: ","}[i == 0] + string(f)
		}
		out = append(out, line)
	}
	return out
}

func nameOrPort(p v1alpha1.ClaimedPort) string {
	if p.Name != "" {
		return p.Name
	}
	return strconv.Itoa(int(p.Port))
}

func describeCompanion(c *corev1.Service) (out []string) {
	for _, p := range c.Spec.Ports {
		line := fmt.Sprintf("companion %d %s held", p.NodePort, p.Protocol)
		if !strings.HasPrefix(p.Name, closingPrefix) {
			line = fmt.Sprintf("companion %d %s %s %d -> %s", p.NodePort, p.Protocol, p.Name, p.Port, p.TargetPort.String())
		}
		out = append(out, line)
	}
	selected := "nobody"
	for _, key := range slices.Sorted(maps.Keys(c.Spec.Selector)) {
		selected = key + "=" + c.Spec.Selector[key]
	}
	return append(out, "companion selects "+selected)
}

// The register says whose a port is, in words that people search it by.
func TestClaimSaysWhoseItIs(t *testing.T) {
	seen := healthy()
	pool := aged("web-2", 1, "30000-30009")
	pool.Spec.Team = "till"
	got := Claim(seen.Policy, seen.Wish.Numbers[0], &pool)
	if got.Team != "till" || got.Pool != "web-2" || got.Claim != (v1alpha1.Claim{Namespace: "shop", Policy: "shop", Service: "shop"}) {
		t.Errorf("claim %+v", got)
	}
}
