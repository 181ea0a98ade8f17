package cloudtest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portreeve/portreeve/cloud"
)

// Chaos is an account that two clusters and a stranger share, while almost nothing
// works.
//
//	wishes ─► cluster 0: cloud.Firewall ─► trouble ─► Providers[0] ─┐
//	wishes ─► cluster 1: cloud.Firewall ─► trouble ─► Providers[1] ─┼─► the account
//	                                       a stranger ──────────────┘
//
// After each call it compares what the account truly holds with what anybody asked for,
// address by address, in a world that is small enough for that (chaos_cells.go).
type Chaos struct {
	// Providers are two views of the account. Groups stand there, without rules; Peers
	// are two ids that rules may name as their source.
	Providers [2]cloud.Provider
	Groups    []string
	Peers     []string
	// Rules, Seed and Unseed are as those of Backend and EC2. Remake, unless it is nil,
	// deletes a group and makes it anew, empty.
	Rules  func(group string) []cloud.Rule
	Seed   func(group string, rules ...cloud.Rule)
	Unseed func(group string, r cloud.Rule)
	Remake func(group string)
	// API is how the account's faults are named; by default as EC2 does.
	API API
	// Inject and Heal, unless they are nil, let the account itself fail. Else calls fail
	// on their way there and back.
	Inject func(Fault)
	Heal   func()
	// At, unless it is nil, is a view of the account that writes rules of a priority.
	At func(priority int) cloud.Provider
	// Pass lets time pass in the account.
	Pass func(time.Duration)

	// Seed of everything that is random, and how many steps are taken.
	Random uint64
	Steps  int
}

// Chaos is one of this account with these views of it, in groups of its own.
func (e *EC2) Chaos(a, b cloud.Provider) Chaos {
	c := chaosOf(a, b)
	c.Rules, c.Seed, c.Inject, c.Heal = e.Rules, e.Seed, e.Inject, e.Heal
	c.Unseed = func(group string, r cloud.Rule) { e.removeRule(group, r.ID) }
	c.Remake = func(group string) { e.RemoveGroup(group); e.AddGroup(group) }
	for _, id := range slices.Concat(c.Groups, c.Peers) {
		e.AddGroup(id)
	}
	return c
}

func chaosOf(a, b cloud.Provider) Chaos {
	return Chaos{
		Providers: [2]cloud.Provider{a, b}, API: ec2API, Pass: func(time.Duration) {},
		Groups: []string{"sg-a", "sg-b", "sg-c"}, Peers: []string{"sg-peer-0", "sg-peer-1"},
	}
}

// Run takes all the steps. It stops at the first promise that is broken.
func (c Chaos) Run(t *testing.T) {
	t.Helper()
	if c.API == (API{}) {
		c.API = ec2API
	}
	w := &chaosWorld{Chaos: c, can: c.Providers[0].Capabilities(), t: t, rng: rand.New(rand.NewPCG(c.Random, 5)), now: time.Unix(1_700_000_000, 0), tainted: map[taint]bool{}}
	for i := range w.clusters {
		w.clusters[i] = newCluster(w, i)
	}
	t.Logf("seed %d, %d steps", c.Random, c.Steps)
	for w.step = 1; w.step <= c.Steps; w.step++ {
		w.live()
		if w.step%50 == 0 {
			w.calm(false)
		}
	}
	w.calm(true)
	t.Logf("%d runs, of which %d nil; %d calls, of which %d in trouble and %d mutating; %d deeds of the stranger; %d times calm, of which %d converged; %d runs with coarse rules, %d quota, %d contended",
		w.seen.runs, w.seen.fine, w.seen.calls, w.seen.troubles, w.seen.writes, w.seen.deeds, w.seen.calms, w.seen.converged, w.seen.coarse, w.seen.quota, w.seen.contended)
}

// chaosWorld is everything that goes on.
type chaosWorld struct {
	Chaos
	t        *testing.T
	can      cloud.Capabilities
	rng      *rand.Rand
	now      time.Time
	step     int
	clusters [2]*chaosCluster
	tainted  map[taint]bool // signed by a cluster, and made or edited by the stranger
	grudge   spelled        // what the stranger removes whenever it comes
	quiet    bool           // no trouble, no stranger
	story    []string
	seen     struct {
		runs, fine, calls, troubles, writes, deeds, calms, converged, coarse, quota, contended int
	}
}

// taint is a rule that bears a cluster's signature and is not its work.
type taint struct {
	group string
	spelled
}

type spelled struct{ rule, peer, owner string }

func spelledOf(r cloud.Rule) spelled { return spelled{Spell(r.Rule), r.Peer, r.Owner} }

func (w *chaosWorld) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *chaosWorld) tell(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf("%4d ", w.step)+fmt.Sprintf(format, args...))
	w.story = w.story[max(0, len(w.story)-60):]
}

func (w *chaosWorld) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d, step %d: %s\nbefore that:\n%s\nthe account:\n%s", w.Random, w.step, fmt.Sprintf(format, args...), strings.Join(w.story, "\n"), w.account())
}

func (w *chaosWorld) account() string {
	var out []string
	for _, group := range w.Groups {
		for _, r := range w.Rules(group) {
			out = append(out, fmt.Sprintf("%s %s %s%s drop=%v priority=%d owner=%q", group, r.ID, Spell(r.Rule), r.Peer, r.Drop, r.Priority, r.Owner))
		}
	}
	return strings.Join(out, "\n")
}

// pass lets time go on for everybody.
func (w *chaosWorld) pass(d time.Duration) {
	w.now = w.now.Add(d)
	w.Pass(d)
}

// live is one step: something changes, and somebody synchronises.
func (w *chaosWorld) live() {
	w.pass(time.Duration(w.rng.IntN(40)) * time.Second)
	if w.chance(10) {
		w.pass(10 * time.Minute)
	}
	c := w.clusters[w.rng.IntN(2)]
	switch n := w.rng.IntN(100); {
	case n < 40:
		c.changeMind()
	case n < 55:
		w.meddle()
	case n < 60:
		c.changeSettings()
	case n < 62:
		c.skew = time.Duration(w.rng.IntN(400)-200) * time.Minute / 10
		w.tell("cluster %d: its clock is %s ahead", c.index, c.skew)
		w.disturbed()
	case n < 64:
		c.restart()
	}
	w.bearGrudge()
	_, _ = c.sync() // whatever became of it: sync has looked at it
}

// disturbed notes that what a cluster remembers is wrong for a while.
func (w *chaosWorld) disturbed() {
	for _, c := range w.clusters {
		c.unsure = w.now.Add(5 * time.Minute)
	}
}

// calm lets both clusters work undisturbed until they are content. At the end what is
// wanted must fit, and then nothing but exactly that will do.
func (w *chaosWorld) calm(end bool) {
	w.quiet = true
	defer func() { w.quiet = false }()
	w.seen.calms++
	if w.Heal != nil {
		w.Heal()
	}
	if end {
		w.makeRoom()
	}
	for _, c := range w.clusters {
		c.want.Observe, c.want.Report = false, false
	}
	content := false
	for round := 0; round < 16 && !content; round++ {
		w.pass(2 * time.Minute)
		if round == 6 {
			w.pass(2 * time.Hour) // what was left to others, and limits that were learnt
		}
		content = true
		for _, c := range w.clusters {
			r, err := c.sync()
			content = content && (err == nil || !end && excused(err)) && r.Calls.Mutating() == 0 && !c.provider.stale
		}
	}
	if !content {
		w.fatalf("in calm they do not come to rest: %v; %v", w.clusters[0].err, w.clusters[1].err)
	}
	if w.clusters[0].err == nil && w.clusters[1].err == nil {
		w.seen.converged++
	}
	for _, c := range w.clusters {
		if r, _ := c.sync(); r.Calls.Mutating() != 0 {
			w.fatalf("cluster %d writes in calm: %+v", c.index, r.Calls)
		}
	}
}

// makeRoom leaves so little in the account, and of the wishes, that all fits.
func (w *chaosWorld) makeRoom() {
	for _, group := range w.Groups {
		for i, r := range w.Rules(group) {
			if (i >= 2 || r.Drop) && r.Owner != w.clusters[0].want.Owner && r.Owner != w.clusters[1].want.Owner {
				w.Unseed(group, r)
			}
		}
	}
	for _, c := range w.clusters {
		c.want.Grants = c.want.Grants[:min(len(c.want.Grants), 5)]
		c.want.Limits, c.want.Pools = cloud.Count{}, chaosPools(0)
		c.wished()
	}
}
