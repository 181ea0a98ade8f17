package ports

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/portreeve/portreeve/internal/rule"
)

// BenchmarkChoose hands out 60,000 ports of 20 pools, then lets as many wait in
// vain. The goal is 10 µs a port.
func BenchmarkChoose(b *testing.B) {
	const poolCount, size = 20, 3000
	var pools []Pool
	var requests []Request
	for i := range poolCount {
		first := uint16(2000 + i*size)
		name := fmt.Sprintf("pool-%02d", i)
		pools = append(pools, Pool{Name: name, Ranges: rule.NewPortRanges(rule.PortRange{First: first, Last: first + size - 1})})
	}
	for i := range 2 * poolCount * size {
		r := Request{Pools: []string{pools[i%poolCount].Name}}
		if i%100 == 7 && i < poolCount*size {
			r.Pin = pools[i%poolCount].Ranges[0].Last - uint16(i/poolCount)
		}
		requests = append(requests, r)
	}
	for b.Loop() {
		choices := Choose(requests, pools, Numbers{}, nil)
		if last := choices[len(choices)-1]; last.Outcome != Exhausted || last.Ahead != size-1 {
			b.Fatalf("the last choice is %+v", last)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(requests)), "ns/port")
}

// town is a register in use: pools, and who holds which number.
type town struct {
	pools []Pool
	taken Numbers
	held  map[uint16]string
	rng   *rand.Rand
}

// newTown makes pools of 60,000 numbers together, nine of ten held, after claims
// have come and gone.
func newTown(pools int, bySource bool) *town {
	size := 60000 / pools
	t := &town{held: map[uint16]string{}, rng: rand.New(rand.NewPCG(1, 2))}
	for i := range pools {
		first := uint16(2000 + i*size)
		t.pools = append(t.pools, Pool{Name: fmt.Sprintf("pool-%02d", i), Ranges: rule.PortRanges{{First: first, Last: first + uint16(size-1)}}, BySource: bySource})
	}
	t.claim(54000)
	for range 20 {
		gone := 0
		t.each(func(n uint16) {
			if t.taken.Has(n) && t.rng.IntN(20) == 0 {
				t.free(n)
				gone++
			}
		})
		t.claim(gone)
	}
	return t
}

func (t *town) each(number func(uint16)) {
	for _, p := range t.pools {
		for n := range p.Ranges.Numbers {
			number(n)
		}
	}
}

func (t *town) hold(n uint16, sources string) {
	t.taken.Add(n)
	t.held[n] = sources
}

func (t *town) free(n uint16) {
	t.taken.remove(n)
	delete(t.held, n)
}

func (t *town) request() Request {
	return Request{
		Namespace: "shop", Pools: []string{t.pools[t.rng.IntN(len(t.pools))].Name},
		Sources: fmt.Sprint(networks(t.rng.IntN(figureTeams))), // a string of its own, as a caller has it
	}
}

func (t *town) claim(n int) {
	requests := make([]Request, n)
	for i := range requests {
		requests[i] = t.request()
	}
	for i, c := range Choose(requests, t.pools, t.taken, t.held) {
		if c.Outcome == Chosen {
			t.hold(c.Number, requests[i].Sources)
		}
	}
}

// stripe holds every other number: the most gaps there can be.
func (t *town) stripe() {
	t.each(func(n uint16) {
		if t.free(n); n%2 == 0 {
			t.hold(n, t.request().Sources)
		}
	})
}

// fill leaves the last number of the last pool.
func (t *town) fill() {
	var last uint16
	t.each(func(n uint16) {
		t.hold(n, t.request().Sources)
		last = n
	})
	t.free(last)
}

// BenchmarkChooseOne asks for one number at a time of 60,000 in pools. The goal is
// 10 µs.
func BenchmarkChooseOne(b *testing.B) {
	for _, bySource := range []bool{false, true} {
		for _, pools := range []int{1, 20} {
			town := newTown(pools, bySource)
			run := func(name string) {
				requests := make([][]Request, 1000)
				for i := range requests {
					requests[i] = []Request{town.request()}
				}
				b.Run(fmt.Sprintf("BySource=%v/pools=%d/%s", bySource, pools, name), func(b *testing.B) {
					for i := 0; b.Loop(); i++ {
						Choose(requests[i%len(requests)], town.pools, town.taken, town.held)
					}
				})
			}
			run("aged")
			town.stripe()
			run("striped")
			town.fill()
			run("full")
		}
	}
}

// BenchmarkChooseBatch asks for 3,000 numbers of a pool of 2,768, and for as many of
// one of 60,000 in which every other number is held.
func BenchmarkChooseBatch(b *testing.B) {
	striped := newTown(1, true)
	striped.stripe()
	requests := make([]Request, 3000)
	alone := make([]Request, 3000)
	for i := range requests {
		requests[i] = striped.request()
		alone[i] = requests[i]
		alone[i].Sources += fmt.Sprint(i)
	}
	small := []Pool{striped.pools[0]}
	small[0].Ranges = rule.PortRanges{{First: 30000, Last: 30000 + figurePorts - 1}}
	spread := []Pool{small[0]}
	spread[0].BySource = false
	for _, c := range []struct {
		name     string
		requests []Request
		pools    []Pool
		taken    Numbers
	}{
		{"empty/Spread", requests, spread, Numbers{}},
		{"empty/BySource", requests, small, Numbers{}},
		{"striped/teams", requests, striped.pools, striped.taken},
		{"striped/no two alike", alone, striped.pools, striped.taken},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				Choose(c.requests, c.pools, c.taken, striped.held)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(c.requests)), "ns/port")
		})
	}
}
