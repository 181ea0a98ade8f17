package ports

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// The figures of the goal "cloud rules for 2,768 ports, 20 teams x 10 CIDRs".
const (
	figurePorts = 2768
	figureTeams = 20
	figureCIDRs = 10
)

// networks of a team: no two unite.
func networks(team int) []netip.Prefix {
	out := make([]netip.Prefix, figureCIDRs)
	for i := range out {
		out[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(team), byte(2 * i), 0}), 24)
	}
	return out
}

// identities are the Sources of the teams.
var identities = func() (out [figureTeams]string) {
	for team := range out {
		out[team] = fmt.Sprint(networks(team))
	}
	return out
}()

// fleet is a pool in use: who holds which number, what rests, who waits.
type fleet struct {
	pools   []Pool
	held    map[uint16]string
	resting Numbers
	waiting []string
	rng     *rand.Rand
	arrive  func(*fleet) // serves those that wait, the oldest first
}

func newFleet(seed uint64, bySource bool, arrive func(*fleet)) *fleet {
	return &fleet{
		pools: []Pool{{Name: "web", Ranges: rule.PortRanges{{First: 30000, Last: 30000 + figurePorts - 1}}, BySource: bySource}},
		held:  map[uint16]string{}, rng: rand.New(rand.NewPCG(seed, 2768)), arrive: arrive,
	}
}

// come lets claims of random teams come.
func (f *fleet) come(claims int) {
	for range claims {
		f.waiting = append(f.waiting, identities[f.rng.IntN(figureTeams)])
	}
	f.arrive(f)
}

// churn lets 5 % of the claims go and as many come. What is freed rests one round.
func (f *fleet) churn() {
	numbers := make([]uint16, 0, len(f.held))
	for n := range f.pools[0].Ranges.Numbers {
		if _, ok := f.held[n]; ok {
			numbers = append(numbers, n)
		}
	}
	f.rng.Shuffle(len(numbers), func(i, j int) { numbers[i], numbers[j] = numbers[j], numbers[i] })
	gone := (len(f.held) + len(f.waiting)) / 20
	f.resting = Numbers{}
	for _, n := range numbers[:gone] {
		delete(f.held, n)
		f.resting.Add(n)
	}
	f.come(gone)
}

func (f *fleet) serve(n int) (served int) {
	taken := f.resting
	for number := range f.held {
		taken.Add(number)
	}
	requests := make([]Request, n)
	for i := range requests {
		requests[i] = Request{Pools: []string{"web"}, Sources: f.waiting[i]}
	}
	for i, c := range Choose(requests, f.pools, taken, f.held) {
		if c.Outcome == Chosen { // the first ones: all want the same
			f.held[c.Number] = requests[i].Sources
			served++
		}
	}
	f.waiting = f.waiting[served:]
	return served
}

func together(f *fleet) { f.serve(len(f.waiting)) }

func oneByOne(f *fleet) {
	for len(f.waiting) > 0 && f.serve(1) > 0 {
	}
}

func anywhere(f *fleet) {
	var free []uint16
	for n := range f.pools[0].Ranges.Numbers {
		if _, held := f.held[n]; !held && !f.resting.Has(n) {
			free = append(free, n)
		}
	}
	f.rng.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	n := min(len(free), len(f.waiting))
	for i := range n {
		f.held[free[i]] = f.waiting[i]
	}
	f.waiting = f.waiting[n:]
}

// rules counts the exact cloud rules: each run of equal sources takes one per CIDR.
func (f *fleet) rules() int {
	runs := 0
	for n, sources := range f.held {
		if before, ok := f.held[n-1]; !ok || before != sources {
			runs++
		}
	}
	return runs * figureCIDRs
}

// optimum is what the same claims take when all can be placed anew.
func (f *fleet) optimum() int {
	present := map[string]bool{}
	for _, sources := range f.held {
		present[sources] = true
	}
	return len(present) * figureCIDRs
}

func (f *fleet) grants() (out []cloud.Grant) {
	for n, sources := range f.held {
		for _, source := range networks(slices.Index(identities[:], sources)) {
			out = append(out, cloud.Grant{Rule: rule.Rule{Protocol: rule.TCP, Ports: rule.PortRange{First: n, Last: n}, Source: source}})
		}
	}
	return out
}

// way is how numbers are placed.
type way struct {
	name     string
	bySource bool
	arrive   func(*fleet)
}

var ways = []way{
	{"BySource, together", true, together},
	{"BySource, one by one", true, oneByOne},
	{"lowest free", false, together},
	{"random", false, anywhere},
}

var fills = []float64{0.6, 0.9, 1}

func atFill(fill float64) int { return int(fill * figurePorts) }

func TestSettledRulesAreFew(t *testing.T) {
	bounds := map[string][]int{"BySource, together": {200, 200, 200}, "BySource, one by one": {250, 400, 600}}
	table := []string{fmt.Sprintf("%-22s %8s %8s %8s", "settled, full to", "60 %", "90 %", "100 %")}
	for _, w := range ways {
		line := fmt.Sprintf("%-22s", w.name)
		for i, fill := range fills {
			f := newFleet(1, w.bySource, w.arrive)
			f.come(atFill(fill))
			if len(f.held) != atFill(fill) {
				t.Fatalf("%s: %d of %d are served", w.name, len(f.held), atFill(fill))
			}
			if bound := bounds[w.name]; bound != nil && f.rules() > bound[i] {
				t.Errorf("%s, %.0f %% full: %d rules, at most %d are right", w.name, 100*fill, f.rules(), bound[i])
			}
			line += fmt.Sprintf(" %8d", f.rules())
		}
		table = append(table, line)
	}
	t.Log("\n" + strings.Join(table, "\n"))
}

func TestRulesAreCountedAsTheCloudMergesThem(t *testing.T) {
	f := newFleet(1, true, oneByOne)
	f.come(atFill(0.6))
	f.churn()
	if merged := len(cloud.Merge(f.grants())); merged != f.rules() {
		t.Errorf("counted %d rules, the cloud has %d", f.rules(), merged)
	}
}

func TestRulesStayFewUnderChurn(t *testing.T) {
	rounds := 60
	if os.Getenv("PORTREEVE_SCALE") == "soak" {
		rounds = 2000
	}
	table := []string{fmt.Sprintf("%-22s %8s %8s %8s", fmt.Sprintf("5 %% churn, %d rounds", rounds), "60 %", "90 %", "100 %")}
	means := map[string][]int{}
	for _, w := range ways {
		line := fmt.Sprintf("%-22s", w.name)
		for _, fill := range fills {
			mean, optimum := meanUnderChurn(w, fill, rounds)
			means[w.name] = append(means[w.name], mean)
			means["optimum"] = append(means["optimum"], optimum)
			line += fmt.Sprintf(" %8d", mean)
		}
		table = append(table, line)
	}
	table = append(table, fmt.Sprintf("%-22s %8d %8d %8d", "optimum, all moved", means["optimum"][0], means["optimum"][1], means["optimum"][2]))
	t.Log("\n" + strings.Join(table, "\n"))
	for i, most := range []float64{0.16, 0.2, 0.45} { // of random placement
		for _, w := range ways[:2] {
			if share := float64(means[w.name][i]) / float64(means["random"][i]); share > most {
				t.Errorf("%s, %.0f %% full: %.2f of the rules of random placement, at most %.2f are right", w.name, 100*fills[i], share, most)
			}
		}
	}
}

// meanUnderChurn is over the second half of the rounds, when it no longer shows how
// all began.
func meanUnderChurn(w way, fill float64, rounds int) (mean, optimum int) {
	f := newFleet(2, w.bySource, w.arrive)
	f.come(atFill(fill))
	sum, counted := 0, 0
	for round := range rounds {
		f.churn()
		if round >= rounds/2 {
			sum += f.rules()
			counted++
		}
	}
	return sum / counted, f.optimum()
}
