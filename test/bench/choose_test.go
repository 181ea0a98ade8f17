package bench

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/internal/ports"
	"github.com/portreeve/portreeve/internal/rule"
)

// BenchmarkChoosingAPort asks for one number at a time of 60,000 in 20 pools, of which
// nine in ten are held after claims have come and gone. Package ports has more of its
// kind. Processor time is counted: the machine may be busy with others.
func BenchmarkChoosingAPort(b *testing.B) {
	fmt.Printf("60000 ports in %d pools, nine of ten held; %s\n", teams, machine())
	for _, bySource := range []bool{false, true} {
		name := map[bool]string{false: "Spread", true: "BySource"}[bySource]
		b.Run(name, func(b *testing.B) {
			took := choose(b, bySource)
			sum := time.Duration(0)
			for _, d := range took {
				sum += d
			}
			mean := sum / time.Duration(len(took))
			goal(b, "choosing a port, "+name+", mean", micro(mean), "µs", 10)
			note("the same, p99", micro(at(took, 99)), "µs")
			b.ReportMetric(micro(mean), "µs/port")
		})
	}
}

func micro(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// choose returns, sorted, how long each choice took.
func choose(b *testing.B, bySource bool) []time.Duration {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r := newRegister(bySource)
	took := make([]time.Duration, 10_000)
	for i := range took {
		request := []ports.Request{r.request()}
		began := worked(b)
		choice := ports.Choose(request, r.pools, r.taken, r.held)[0]
		took[i] = worked(b) - began
		if choice.Outcome != ports.Chosen || r.taken.Has(choice.Number) {
			b.Fatalf("chosen: %+v", choice)
		}
	}
	slices.Sort(took)
	return took
}

// register is pools in use: which numbers are held, and by whom.
type register struct {
	pools []ports.Pool
	taken ports.Numbers
	held  map[uint16]string
	rng   *rand.Rand
}

// newRegister fills pools, and lets a twentieth of the claims go and as many come, for
// some time.
func newRegister(bySource bool) *register {
	const size = 60_000 / teams
	r := &register{held: map[uint16]string{}, rng: rand.New(rand.NewPCG(1, 2))}
	for t := range teams {
		first := uint16(2000 + t*size)
		r.pools = append(r.pools, ports.Pool{Name: team(t), Ranges: rule.NewPortRanges(rule.PortRange{First: first, Last: first + size - 1}), BySource: bySource})
	}
	r.claim(54_000)
	for range 20 {
		r.taken = ports.Numbers{}
		before := len(r.held)
		for _, n := range slices.Sorted(maps.Keys(r.held)) {
			if r.rng.IntN(20) == 0 {
				delete(r.held, n)
			} else {
				r.taken.Add(n)
			}
		}
		r.claim(before - len(r.held))
	}
	return r
}

func (r *register) request() ports.Request {
	return ports.Request{Namespace: "shop", Pools: []string{team(r.rng.IntN(teams))}, Sources: "the networks of " + team(r.rng.IntN(teams))}
}

func (r *register) claim(n int) {
	requests := make([]ports.Request, n)
	for i := range requests {
		requests[i] = r.request()
	}
	for i, c := range ports.Choose(requests, r.pools, r.taken, r.held) {
		if c.Outcome == ports.Chosen {
			r.taken.Add(c.Number)
			r.held[c.Number] = requests[i].Sources
		}
	}
}

// worked is how long the processors have worked for this thread.
func worked(b *testing.B) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}
