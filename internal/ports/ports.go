// Package ports chooses port numbers. It is pure: the same requests, pools and
// taken numbers always give the same choice, so two managers, or one manager
// restarted, decide alike.
package ports

import (
	"math"
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// Request asks for one number. Requests are served in the order given.
type Request struct {
	// Pin is the only number that will do; 0 for any.
	Pin uint16
	// Pools to draw from, in order of preference.
	Pools []string
}

// Pool is the numbers that may be handed out from one pool.
type Pool struct {
	Name   string
	Ranges rule.PortRanges
}

// Outcome says how a request ended.
type Outcome int

const (
	// Chosen: Number and Pool are set.
	Chosen Outcome = iota
	// Exhausted: none of the pools has a free number.
	Exhausted
	// Outside: the pin is in none of the pools.
	Outside
	// Taken: the pin is held by somebody else.
	Taken
)

// Choice answers one Request.
type Choice struct {
	Outcome Outcome
	Number  uint16
	Pool    string
	// Ahead counts the earlier requests that found one of the same pools exhausted.
	Ahead int
}

// Numbers is a set of port numbers with constant-time access.
type Numbers [1 << 16 / 64]uint64

// Add puts n into the set.
func (s *Numbers) Add(n uint16) { s[n/64] |= 1 << (n % 64) }

// Has says whether n is in the set.
func (s *Numbers) Has(n uint16) bool { return s[n/64]&(1<<(n%64)) != 0 }

// Choose serves the requests one after the other: pins first, because nothing
// else will do for them, then each gets the lowest free number of its first pool
// that has one. The answers stand in the order of the requests.
func Choose(requests []Request, pools []Pool, taken Numbers) []Choice {
	choices := make([]Choice, len(requests))
	for i, r := range requests {
		if r.Pin != 0 {
			choices[i] = choosePin(r, pools, &taken)
		}
	}
	next := map[string]uint32{} // lowest number of the pool not yet looked at
	var waiting queues
	for i, r := range requests {
		if r.Pin != 0 {
			continue
		}
		choices[i] = chooseAny(r, pools, &taken, next)
		if choices[i].Outcome == Exhausted {
			choices[i].Ahead = waiting.join(r.Pools)
		}
	}
	return choices
}

func choosePin(r Request, pools []Pool, taken *Numbers) Choice {
	for _, p := range pools {
		if !slices.Contains(r.Pools, p.Name) || !p.Ranges.Contains(r.Pin) {
			continue
		}
		if taken.Has(r.Pin) {
			return Choice{Outcome: Taken, Number: r.Pin, Pool: p.Name}
		}
		taken.Add(r.Pin)
		return Choice{Outcome: Chosen, Number: r.Pin, Pool: p.Name}
	}
	return Choice{Outcome: Outside, Number: r.Pin}
}

func chooseAny(r Request, pools []Pool, taken *Numbers, next map[string]uint32) Choice {
	for _, name := range r.Pools {
		i := slices.IndexFunc(pools, func(p Pool) bool { return p.Name == name })
		if i < 0 {
			continue
		}
		for _, span := range pools[i].Ranges {
			for n := max(uint32(span.First), next[name]); n <= uint32(span.Last); n++ {
				if !taken.Has(uint16(n)) {
					taken.Add(uint16(n))
					next[name] = n + 1
					return Choice{Outcome: Chosen, Number: uint16(n), Pool: name}
				}
			}
		}
		next[name] = math.MaxUint16 + 1 // so that the next to ask need not look
	}
	return Choice{Outcome: Exhausted}
}

// queues count waiting requests by the pools they wait for: few lists of pools
// serve many requests.
type queues []queue

type queue struct {
	pools  []string
	length int
}

// join counts those that wait for one of the pools, and adds one to them.
func (q *queues) join(pools []string) (ahead int) {
	own := -1
	for i, other := range *q {
		if slices.ContainsFunc(other.pools, func(p string) bool { return slices.Contains(pools, p) }) {
			ahead += other.length
		}
		if slices.Equal(other.pools, pools) {
			own = i
		}
	}
	if own < 0 {
		*q, own = append(*q, queue{pools: pools}), len(*q)
	}
	(*q)[own].length++
	return ahead
}
