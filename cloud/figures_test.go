package cloud_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/internal/ports"
	"github.com/portreeve/portreeve/internal/rule"
)

// The figures of the goals "cloud rules for 2,768 ports, 20 teams x 10 CIDRs" and "cloud
// calls": whole runs of Sync, against the vendor's buckets.
const (
	figurePorts = 2768
	figureTeams = 20
	figureCIDRs = 10
)

// market is a pool in use, and the groups of an account in which it is in force.
type market struct {
	t        *testing.T
	bySource bool
	rng      *rand.Rand
	pool     ports.Pool
	held     map[uint16]string // team by number
	resting  ports.Numbers

	ec2      *cloudtest.EC2
	clock    *hands
	provider *paced
	firewall *cloud.Firewall
	want     cloud.Want
}

func newMarket(t *testing.T, bySource bool, groups, rulesPerGroup int) *market {
	m := &market{t: t, bySource: bySource, rng: rand.New(rand.NewPCG(3, 2768)), held: map[uint16]string{}, clock: &hands{now: time.Unix(1_700_000_000, 0)}}
	m.pool = ports.Pool{Name: "web", Ranges: rule.PortRanges{{First: 30000, Last: 30000 + figurePorts - 1}}, BySource: bySource}
	m.ec2 = cloudtest.NewEC2(cloudtest.Options{RulesPerGroup: rulesPerGroup, Clock: m.clock.Now})
	m.want = cloud.Want{Owner: ours, Pools: map[string]cloud.Pool{"web": {Ports: m.pool.Ranges}}}
	for i := range groups {
		m.want.Groups = append(m.want.Groups, fmt.Sprintf("sg-%02d", i))
		m.ec2.AddGroup(m.want.Groups[i])
	}
	m.provider = newPaced(m.ec2.Provider(), m.clock)
	m.firewall = cloud.NewFirewall(m.provider, m.clock.Now)
	return m
}

// come serves claims of random teams, by source or anywhere.
func (m *market) come(claims int) {
	teams := make([]string, claims)
	for i := range teams {
		teams[i] = fmt.Sprint("team ", m.rng.IntN(figureTeams))
	}
	taken := m.resting
	var free []uint16
	for n := range m.pool.Ranges.Numbers {
		if _, held := m.held[n]; held {
			taken.Add(n)
		} else if !taken.Has(n) {
			free = append(free, n)
		}
	}
	if !m.bySource {
		m.rng.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
		for i := range min(len(free), claims) {
			m.held[free[i]] = teams[i]
		}
		return
	}
	requests := make([]ports.Request, claims)
	for i, team := range teams {
		requests[i] = ports.Request{Pools: []string{"web"}, Sources: team}
	}
	for i, c := range ports.Choose(requests, []ports.Pool{m.pool}, taken, m.held) {
		if c.Outcome == ports.Chosen {
			m.held[c.Number] = teams[i]
		}
	}
}

// churn lets 5 % go and as many come; what is freed rests one round. It returns how many
// ports changed.
func (m *market) churn() int {
	var numbers []uint16
	for n := range m.pool.Ranges.Numbers {
		if _, ok := m.held[n]; ok {
			numbers = append(numbers, n)
		}
	}
	m.rng.Shuffle(len(numbers), func(i, j int) { numbers[i], numbers[j] = numbers[j], numbers[i] })
	gone := len(numbers) / 20
	m.resting = ports.Numbers{}
	for _, n := range numbers[:gone] {
		delete(m.held, n)
		m.resting.Add(n)
	}
	before := len(m.held)
	m.come(gone)
	return gone + len(m.held) - before
}

func (m *market) grants() (out []cloud.Grant) {
	for n, team := range m.held {
		for i := range figureCIDRs {
			number := 0
			_, _ = fmt.Sscanf(team, "team %d", &number)
			source := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(number), byte(2 * i), 0}), 24) // no two unite
			out = append(out, cloud.Grant{Rule: rule.Rule{Protocol: rule.TCP, Ports: rule.PortRange{First: n, Last: n}, Source: source}, Pool: "web", Description: team})
		}
	}
	return out
}

// sync brings what is held into force. Full groups may take more than one run.
func (m *market) sync() (calls cloud.Calls, last cloud.Report) {
	m.want.Grants = m.grants()
	for range 5 {
		r, err := m.firewall.Sync(context.Background(), m.want)
		calls.Authorize, calls.Revoke = calls.Authorize+r.Calls.Authorize, calls.Revoke+r.Calls.Revoke
		if err == nil {
			return calls, r
		}
		if !errors.Is(err, cloud.ErrQuota) {
			m.t.Fatal(err)
		}
	}
	m.t.Fatal("five runs are not enough")
	return calls, last
}

func (m *market) rules() (out map[string]bool) {
	out = map[string]bool{}
	for _, group := range m.want.Groups {
		for _, r := range m.ec2.Rules(group) {
			out[r.ID] = true
		}
	}
	return out
}

// hands is a clock that goes on when somebody sleeps.
type hands struct{ now time.Time }

func (h *hands) Now() time.Time { return h.now }

func (h *hands) Sleep(_ context.Context, d time.Duration) error {
	h.now = h.now.Add(d)
	return nil
}

// paced is an account as a manager reaches it: at the documented rates of EC2.
type paced struct {
	cloud.Provider
	lists, authorizes, revokes *cloud.Pace
	throttled                  int
}

func newPaced(p cloud.Provider, clock cloud.Clock) *paced {
	write := cloud.Rate{Burst: 49, PerSecond: 5} // one less than documented: two clocks round differently
	return &paced{Provider: p, lists: cloud.NewPace(cloud.Rate{Burst: 99, PerSecond: 20}, clock), authorizes: cloud.NewPace(write, clock), revokes: cloud.NewPace(write, clock)}
}

func (p *paced) count(wait, err error) error {
	if errors.Is(err, cloud.ErrThrottled) {
		p.throttled++
	}
	return errors.Join(wait, err)
}

func (p *paced) List(ctx context.Context, group string) ([]cloud.Rule, error) {
	wait := p.lists.Wait(ctx)
	out, err := p.Provider.List(ctx, group)
	return out, p.count(wait, err)
}

func (p *paced) Authorize(ctx context.Context, group, owner string, grants []cloud.Grant) error {
	return p.count(p.authorizes.Wait(ctx), p.Provider.Authorize(ctx, group, owner, grants))
}

func (p *paced) Revoke(ctx context.Context, group string, ids []string) error {
	return p.count(p.revokes.Wait(ctx), p.Provider.Revoke(ctx, group, ids))
}

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "MISSED"
}

func TestFiguresOfASettledCluster(t *testing.T) {
	m := newMarket(t, true, 16, 60)
	m.come(figurePorts)
	began := m.clock.now
	_, r := m.sync()
	used := 0
	for _, g := range r.Groups {
		if len(g.Ours) > 0 {
			used++
		}
	}
	rules, calls := len(m.rules()), float64(r.Calls.Mutating())*1000/figurePorts
	naive := (figurePorts*figureCIDRs + 199) / 200
	t.Logf(`
%d ports, %d teams x %d CIDRs             settled  goal       one rule per port and CIDR
rules                                     %7d  200 %-7s %d
groups of 60                              %7d              %d
mutating calls per 1,000 ports            %7.1f  4   %-7s %.1f, in batches of 200
calls refused for their rate              %7d  0   %-7s
time on the vendor's buckets              %7s              %s`,
		figurePorts, figureTeams, figureCIDRs, rules, verdict(rules <= 200), figurePorts*figureCIDRs,
		used, (figurePorts*figureCIDRs+59)/60, calls, verdict(calls <= 4), float64(naive)*1000/figurePorts,
		m.provider.throttled, verdict(m.provider.throttled == 0), m.clock.now.Sub(began), time.Duration(naive-50)*time.Second/5)
	if rules > 200 || calls > 4 || m.provider.throttled > 0 {
		t.Error("a goal that was met is missed")
	}
	if again, _ := m.sync(); again.Mutating() > 0 {
		t.Errorf("a second run writes: %+v", again)
	}
}

// Under churn a rule is moved when it is added or removed, and the calls are those for
// 1,000 changed ports: at least 50, for ten networks that do not unite are ten rules to
// add or to remove, and a call carries 200. The optimum is what the same placement takes when all rules are
// made anew; if all ports could move as well it were 200. The groups hold more than any
// vendor allows, so that all of every placement fits.
func TestFiguresOfChurn(t *testing.T) {
	rounds, fills := 2, []float64{0.6}
	if os.Getenv("PORTREEVE_SCALE") == "soak" {
		rounds, fills = 60, []float64{0.6, 0.9, 1}
	}
	table := []string{fmt.Sprintf("%-34s %9s %9s %9s %12s %9s", fmt.Sprintf("5 %% churn, mean of %d rounds", rounds), "rules", "optimum", "moved", "calls/1,000", "time")}
	for _, fill := range fills {
		for _, bySource := range []bool{true, false} {
			m := newMarket(t, bySource, 16, 2000)
			m.come(int(fill * figurePorts))
			m.sync()
			began := m.clock.now
			var rules, optimum, moves, changes, calls int
			for range rounds {
				before := m.rules()
				changes += m.churn()
				made, _ := m.sync()
				after := m.rules()
				calls += made.Mutating()
				moves += difference(before, after) + difference(after, before)
				rules += len(after)
				optimum += len(cloud.Merge(m.grants()))
			}
			if m.provider.throttled > 0 {
				t.Errorf("throttled %d times", m.provider.throttled)
			}
			name := map[bool]string{true: "BySource", false: "at random"}[bySource]
			table = append(table, fmt.Sprintf("%-34s %9d %9d %9.1f %12.1f %9s", fmt.Sprintf("%s, %.0f %% full", name, 100*fill),
				rules/rounds, optimum/rounds, float64(moves)/float64(changes), float64(calls)*1000/float64(changes), m.clock.now.Sub(began)/time.Duration(rounds)))
		}
	}
	t.Log("\n" + strings.Join(table, "\n"))
}

// Changes rarely come together. Those that come within a pause share their calls; the
// rest is what one change takes.
func TestFiguresOfArrival(t *testing.T) {
	n, rates := 20, []int{10, 100}
	if os.Getenv("PORTREEVE_SCALE") == "soak" {
		n, rates = 200, []int{1, 10, 100}
	}
	table := []string{fmt.Sprintf("%-34s %12s %12s %14s", fmt.Sprintf("%d changes, BySource, 60 %% full", n), "no pause", "with pauses", "least possible")}
	for _, perSecond := range rates {
		var calls [2]float64
		for i, pausing := range []bool{false, true} {
			m := newMarket(t, true, 2, 8000) // of 16, listing alone lets a run take a second and a half
			m.come(figurePorts * 6 / 10)
			m.sync()
			calls[i] = float64(m.arrive(n, time.Second/time.Duration(perSecond), pausing)) * 1000 / float64(n)
		}
		table = append(table, fmt.Sprintf("%-34s %12.0f %12.0f %14.0f", fmt.Sprintf("calls/1,000 changes, %d a second", perSecond), calls[0], calls[1], float64(figureCIDRs*1000)/200))
	}
	t.Log("\n" + strings.Join(table, "\n"))
}

// arrive lets one port go or come at a time, and synchronises as a manager does: at once,
// or after a pause. What comes while a run is under way is of the next one.
func (m *market) arrive(n int, every time.Duration, pausing bool) (calls int) {
	var had []cloud.Grant
	var ended time.Time
	next := m.clock.now
	for i := range n {
		if m.clock.now.Before(next) {
			m.clock.now = next
		}
		if next = next.Add(every); i%2 == 0 {
			m.go1()
		} else {
			m.come(1)
		}
		if !m.clock.now.Before(next) && i < n-1 {
			continue
		}
		if pausing {
			pause := cloud.Pause(m.clock.now.Sub(ended), had, m.grants())
			if m.clock.now.Add(pause).After(next) && i < n-1 {
				continue
			}
			m.clock.now = m.clock.now.Add(pause)
		}
		made, _ := m.sync()
		calls, ended, had = calls+made.Mutating(), m.clock.now, m.want.Grants
	}
	return calls
}

// go1 lets a random port go.
func (m *market) go1() {
	var numbers []uint16
	for n := range m.pool.Ranges.Numbers {
		if _, ok := m.held[n]; ok {
			numbers = append(numbers, n)
		}
	}
	n := numbers[m.rng.IntN(len(numbers))]
	delete(m.held, n)
	m.resting.Add(n)
}

func difference(a, b map[string]bool) (n int) {
	for id := range a {
		if !b[id] {
			n++
		}
	}
	return n
}
