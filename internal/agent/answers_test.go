package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// fakePorts is who answers on a node with two addresses.
type fakePorts struct {
	mu        sync.Mutex
	addresses []netip.Addr
	silent    map[string]bool // "192.0.2.1:30080"
	scarce    bool            // the node can't ask
	asked     []string
	last      time.Time
	closest   time.Duration // between two questions
	slow      time.Duration // what a question takes
}

func newFakePorts() *fakePorts {
	return &fakePorts{
		addresses: []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("192.0.2.1")},
		silent:    map[string]bool{}, closest: time.Hour,
	}
}

func (p *fakePorts) answers(interval time.Duration) Answers {
	return Answers{Interval: interval, Random: func() float64 { return 0.5 }, Dial: p.dial, Addresses: func(context.Context) ([]netip.Addr, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.addresses == nil {
			return nil, errFault
		}
		return slices.Clone(p.addresses), nil
	}}
}

func (p *fakePorts) dial(_ context.Context, to netip.AddrPort) (bool, error) {
	time.Sleep(p.slow) // in the bubble
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if !p.last.IsZero() {
		p.closest = min(p.closest, now.Sub(p.last))
	}
	p.last = now
	p.asked = append(p.asked, to.String())
	if p.scarce {
		return false, errFault
	}
	return !p.silent[to.String()], nil
}

// set changes the fake from outside.
func (p *fakePorts) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// take returns how often each was asked since the last time.
func (p *fakePorts) take() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	times := map[string]int{}
	for _, to := range p.asked {
		times[to]++
	}
	p.asked = nil
	return times
}

// wantAnswers looks at what is reported of answers: addresses, mark, and ports that do not.
func (l *lab) wantAnswers(want string) {
	l.t.Helper()
	got := "nothing"
	if a := l.status().Answers; a != nil {
		got = fmt.Sprint(a.Addresses, " ", a.Allocations)
		for _, u := range a.Unanswered {
			got += fmt.Sprint(" ", u.Port, u.Addresses)
		}
		if int(a.UnansweredPorts) != len(a.Unanswered) {
			got += fmt.Sprint(" of ", a.UnansweredPorts)
		}
	}
	if got != want {
		l.t.Errorf("answers: %s, want %s", got, want)
	}
}

const both = "[192.0.2.1 2001:db8::1]"

func TestTheAgentAsksItsOwnNode(t *testing.T) {
	inLab(t, func(l *lab) {
		p := newFakePorts()
		p.silent["192.0.2.1:30080"] = true
		l.ports, l.answerInterval = p, 5*time.Minute
		l.allocations.put(func() v1alpha1.NodePortAllocation { // UDP can't be asked
			a := open(30085, "203.0.113.0/24")
			a.Spec.Ports[0].Protocol, a.Spec.Protocols = "UDP", []v1alpha1.Protocol{"UDP"}
			return a
		}())
		l.start()
		l.wantAnswers("nothing") // not all is asked
		l.pass(2 * askSoon)
		l.wantAnswers("nothing") // once is no news
		l.pass(2 * askAgain)
		l.wantAnswers(both + " 104 30080 [192.0.2.1]")
		if asked := p.take(); len(asked) != 2 {
			t.Errorf("asked %v, want the open TCP port alone", asked)
		}
		writes := len(l.reports.written())

		// What does not answer is asked again soon, what does in five minutes; nothing new is
		// no report.
		l.pass(2 * time.Minute)
		if asked := p.take(); asked["192.0.2.1:30080"] < 3 || asked["[2001:db8::1]:30080"] != 0 {
			t.Errorf("asked %v in two minutes", asked)
		}
		l.pass(10 * time.Minute)
		if asked := p.take(); asked["[2001:db8::1]:30080"] != 2 {
			t.Errorf("asked %v in ten minutes", asked)
		}
		if more := len(l.reports.written()) - writes; more != 0 {
			t.Errorf("%d reports without news", more)
		}
		p.set(func() { p.silent = map[string]bool{} })
		l.pass(askSilent + 2*askAgain)
		l.wantAnswers(both + " 104")

		// A change that opens nothing here costs no report of its own.
		writes = len(l.reports.written())
		l.allocations.put(closed(30081))
		l.pass(time.Minute)
		l.wantAnswers(both + " 105")
		if more := len(l.reports.written()) - writes; more != 1 {
			t.Errorf("%d reports of a change, want 1", more)
		}
		// One that does is told when all has been asked.
		l.allocations.put(open(30082))
		l.pass(time.Second)
		l.wantAnswers(both + " 105")
		l.pass(marksEvery)
		l.wantAnswers(both + " 106")
		if asked := p.take(); asked["192.0.2.1:30082"] == 0 {
			t.Errorf("asked %v", asked)
		}
	})
}

func TestWhatAnEarlierAgentSawStandsUntilItIsSeenAnew(t *testing.T) {
	inLab(t, func(l *lab) {
		p := newFakePorts()
		p.silent["192.0.2.1:30080"], p.silent["[2001:db8::1]:30080"] = true, true
		l.ports, l.answerInterval = p, 5*time.Minute
		l.start()
		l.pass(time.Minute)
		l.wantAnswers(both + " 103 30080 []")
		addresses := p.addresses
		p.set(func() { p.addresses = nil }) // the API server does not answer
		l.restart()
		l.pass(time.Minute)
		l.wantAnswers(both + " 103 30080 []")
		p.set(func() { p.addresses, p.silent = addresses, map[string]bool{} })
		l.pass(2 * time.Minute)
		l.wantAnswers(both + " 103")

		// Another boot is another node, and one that does not look takes back what it said.
		l.reboot()
		p.set(func() { p.addresses = nil })
		l.start()
		l.wantAnswers("nothing")
		p.set(func() { p.addresses = addresses })
		l.pass(2 * time.Minute)
		l.wantAnswers(both + " 103")
		l.answerInterval = 0
		l.restart()
		l.wantAnswers("[] ")
	})
}

func TestNobodyAsksInLockdownNorWhereTheNodeRefuses(t *testing.T) {
	inLab(t, func(l *lab) {
		p := newFakePorts()
		l.ports, l.answerInterval = p, time.Minute
		a := open(30082, "203.0.113.0/24")
		a.Spec.Gateways = &v1alpha1.ClaimedGateways{Active: 1, Set: "gw"}
		l.allocations.put(a)
		l.gateways.put(gateways("gw", "n2"))
		l.start()
		l.pass(5 * time.Minute)
		if asked := p.take(); asked["192.0.2.1:30080"] == 0 || asked["192.0.2.1:30082"] != 0 {
			t.Errorf("asked %v, want 30080 alone", asked)
		}
		l.gateways.put(gateways("gw", "n1"))
		l.pass(time.Minute)
		if asked := p.take(); asked["192.0.2.1:30082"] == 0 {
			t.Errorf("the new gateway asked %v", asked)
		}
		l.installation.put(installation(true))
		l.pass(time.Second)
		p.take()
		l.pass(5 * time.Minute)
		if asked := p.take(); len(asked) != 0 {
			t.Errorf("asked %v in lockdown", asked)
		}
	})
}

func TestQuestionsAreFew(t *testing.T) {
	for name, slow := range map[string]time.Duration{"quick": 0, "slow": time.Second} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				p := newFakePorts()
				p.slow = slow
				l.ports, l.answerInterval = p, time.Second
				for i := range uint16(19) {
					l.allocations.put(open(30000 + i))
				}
				l.start()
				l.pass(5 * time.Minute)
				asked := p.take()
				p.set(func() {
					if p.closest < askPace {
						t.Errorf("two questions within %s", p.closest)
					}
				})
				for _, to := range []string{"192.0.2.1:30000", "[2001:db8::1]:30018"} {
					if asked[to] < 3 {
						t.Errorf("%s was asked %d times in five minutes", to, asked[to])
					}
				}
			})
		})
	}
}

func TestWhatCannotBeAskedIsNotSaidToBeSilent(t *testing.T) {
	inLab(t, func(l *lab) {
		p := newFakePorts()
		p.scarce = true
		l.ports, l.answerInterval = p, time.Minute
		l.start()
		l.pass(5 * time.Minute)
		l.wantAnswers("nothing")
		p.set(func() { p.scarce = false })
		l.pass(time.Minute)
		l.wantAnswers(both + " 103")
	})
}

// Whatever changes and whoever answers, an agenda asks what is there and nothing else, and
// says in the end what is so.
func TestAgenda(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now, numbers := time.Unix(1e9, 0), []uint16{30000, 30001, 30002, 30003}
		g := agenda{interval: time.Minute, random: func() float64 { return 0.5 }}
		host := netip.MustParseAddr("192.0.2.1")
		if rapid.Bool().Draw(t, "known at once") {
			g.addresses = []netip.Addr{host}
		}
		in, silent, version := compile.NodeInput{Node: "n1"}, map[uint16]bool{}, 100
		know := func() { in.Now = now; g.know(in, heard{allocations: fmt.Sprint(version)}, now) }
		ask := func(times int) {
			for range times {
				q, wait := g.next(now)
				if q == nil {
					now = now.Add(max(wait, time.Second))
					continue
				}
				if a := in.Allocations.Get(compile.Name(fmt.Sprint(q.to.Port()))); a == nil || !in.ToAnswer(a.(*v1alpha1.NodePortAllocation)) {
					t.Fatalf("asks %s, which is not open", q.to)
				}
				g.saw(q, !silent[q.to.Port()], now)
			}
		}
		for range rapid.IntRange(1, 20).Draw(t, "edits") {
			number := rapid.SampledFrom(numbers).Draw(t, "number")
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0, 1:
				a := rapid.SampledFrom([]func(uint16, ...v1alpha1.CIDR) v1alpha1.NodePortAllocation{
					open, func(n uint16, _ ...v1alpha1.CIDR) v1alpha1.NodePortAllocation { return closed(n) },
				}).Draw(t, "state")(number)
				version++
				a.ResourceVersion = fmt.Sprint(version)
				in.Allocations = in.Allocations.With(compile.Name(a.Name), &a)
			case 2:
				version++
				in.Allocations = in.Allocations.With(compile.Name(fmt.Sprint(number)), nil)
			case 3:
				silent[number] = !silent[number]
			case 4:
				p := installation(rapid.Bool().Draw(t, "lockdown"))
				in.Installation = &p
			case 5:
				g.addresses = []netip.Addr{host}
			}
			know()
			ask(rapid.IntRange(0, 5).Draw(t, "questions"))
		}
		g.addresses = []netip.Addr{host}
		know()
		ask(400)
		want := map[int32]bool{}
		for _, o := range in.Allocations.All {
			if a := o.(*v1alpha1.NodePortAllocation); in.ToAnswer(a) && silent[compile.NumberOf(a)] {
				want[int32(compile.NumberOf(a))] = true
			}
		}
		r := g.report()
		if r == nil || r.Allocations != fmt.Sprint(version) || !slices.Equal(r.Addresses, []string{"192.0.2.1"}) || int(r.UnansweredPorts) != len(want) || g.silent != len(want) {
			t.Fatalf("reports %+v at version %d, %d are counted, want %v", r, version, g.silent, want)
		}
		for _, u := range r.Unanswered {
			if !want[u.Port] {
				t.Fatalf("says that %d does not answer", u.Port)
			}
		}
	})
}

func TestAReportOfSilenceIsBounded(t *testing.T) {
	g := agenda{interval: time.Minute, random: func() float64 { return 0 }, addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	in, now := compile.NodeInput{Now: time.Unix(1e9, 0)}, time.Unix(1e9, 0)
	for i := range uint16(100) {
		a := open(30100 - i)
		in.Allocations = in.Allocations.With(compile.Name(a.Name), &a)
	}
	g.know(in, heard{allocations: "7"}, now)
	for range 1000 {
		now = now.Add(time.Second)
		if q, _ := g.next(now); q != nil {
			g.saw(q, false, now)
		}
	}
	r := g.report()
	if r == nil || r.UnansweredPorts != 100 || len(r.Unanswered) != maxUnanswered || r.Unanswered[0].Port != 30001 || r.Unanswered[maxUnanswered-1].Port != 30000+maxUnanswered {
		t.Errorf("reports %+v", r)
	}
}
