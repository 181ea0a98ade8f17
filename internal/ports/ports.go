// Package ports chooses port numbers. It is pure: the same requests, pools and
// taken numbers always give the same choice, so two managers, or one manager
// restarted, decide alike.
//
//	requests ─► pins ─► preferences ─► winners by order, pool by pool ─► places
//	            (Pin)   (Prefer)       (Quota, free numbers)             (BySource)
package ports

import "github.com/portreeve/portreeve/internal/rule"

// Request asks for one number. Requests are served in the order given.
type Request struct {
	// Namespace that the number counts against, in pools with a quota.
	Namespace string
	// Pin is the only number that will do; 0 for any.
	Pin uint16
	// Prefer are tried before any other number, in this order. One that is
	// outside the pools, not available or over quota is passed over.
	Prefer []uint16
	// Own are numbers that this request may pin or prefer although they are
	// taken, because they are so only by its own Service. What the register holds
	// does not belong here, whoever holds it.
	Own []uint16
	// Pools to draw from, in order of preference.
	Pools []string
	// Sources is the identity of who may connect: numbers of equal Sources are
	// worth placing side by side. "" admits nobody.
	Sources string
}

// Pool is the numbers that may be handed out from one pool.
type Pool struct {
	Name   string
	Ranges rule.PortRanges
	// Quota bounds the numbers of one namespace; 0 for no bound.
	Quota int
	// Used counts the numbers of the pool that each namespace holds already.
	Used map[string]int
	// BySource places a number beside numbers of equal sources; otherwise the
	// lowest free one is given.
	BySource bool
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
	// OverQuota: there are free numbers (the pin is free), but the namespace has
	// used up its quota in every pool that has them.
	OverQuota
)

// Choice answers one Request.
type Choice struct {
	Outcome Outcome
	Number  uint16
	Pool    string
	// Ahead counts the earlier requests that found one of the same pools exhausted.
	Ahead int
}

// Choose serves pins first, because nothing else will do for them; then those
// whose preference can be met; then the others. Each of these gets a number of
// its first pool that has one and whose quota allows it, so who wins when numbers
// are short depends on the order alone. Which number it is, the pool's placement
// decides for all winners together. The answers stand in the order of the requests.
//
// neighbours are the numbers in use and the Sources they admit; one that is missing
// admits nobody. Only pools with BySource look at them. No argument is changed.
func Choose(requests []Request, pools []Pool, taken Numbers, neighbours map[uint16]string) []Choice {
	var d drawing
	d.open(len(requests), pools, &taken, neighbours)
	choices := make([]Choice, len(requests))
	for i := range requests {
		if requests[i].Pin != 0 {
			choices[i] = d.pin(&requests[i])
		}
	}
	others := make([]int, 0, len(requests))
	for i := range requests {
		if requests[i].Pin != 0 {
			continue
		}
		met := false
		if choices[i], met = d.prefer(&requests[i]); !met {
			others = append(others, i)
		}
	}
	var waiting queues
	for _, i := range others {
		choices[i] = d.any(&requests[i], i)
		if choices[i].Outcome == Exhausted {
			choices[i].Ahead = waiting.join(requests[i].Pools)
		}
	}
	for i := range d.pools {
		d.place(&d.pools[i], requests, choices)
	}
	return choices
}
