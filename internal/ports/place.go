package ports

import "slices"

// sight is how many gaps are looked at for one number, so that a choice takes
// microseconds also in a pool of 60,000 numbers full of holes. A pool with fewer
// gaps is seen whole; else those from the home of the sources on, where equal
// sources were put before.
const sight = 64

// farthest bounds what many numbers together see. More finds no better places.
const farthest = 4096

// view is how many gaps are looked at for n numbers: never too few to hold them.
func view(n int) int { return max(n, min(sight*n, farthest)) }

// group is the winners of one pool with equal sources.
type group struct {
	sources string
	members []int    // requests, in order
	numbers []uint16 // what they get
}

func (g *group) missing() int { return len(g.members) - len(g.numbers) }

// gap is a run of free numbers within a range of the pool. 32 bits, because one
// that is used up may begin after 65535.
type gap struct{ first, last uint32 }

func (g gap) len() int { return int(g.last) + 1 - int(g.first) }

// edge is a gap and whether the numbers beside it have the wanted sources. Looking
// them up costs more than all the rest, so the right side waits until it matters.
type edge struct {
	gap
	left, right bool
	looked      bool // right is known
}

// place gives the pool's winners the numbers they keep: first what extends runs
// of their own sources, then new runs for those who are left.
func (d *drawing) place(p *stock, requests []Request, choices []Choice) {
	if len(p.winners) == 0 {
		return
	}
	for _, i := range p.winners {
		d.used.remove(choices[i].Number)
	}
	groups := groupsOf(p.winners, requests)
	for i := range groups {
		d.extend(p, &groups[i])
	}
	d.found(p, groups)
	for _, g := range groups {
		slices.Sort(g.numbers) // so that the ports of one policy ascend
		for at, i := range g.members {
			choices[i].Number = g.numbers[at]
		}
	}
}

// groupsOf keeps the order of the winners: it decides who extends first.
func groupsOf(winners []int, requests []Request) (groups []group) {
	bySources := map[string]int{}
	for _, i := range winners {
		at, known := bySources[requests[i].Sources]
		if !known {
			at = len(groups)
			bySources[requests[i].Sources] = at
			groups = append(groups, group{sources: requests[i].Sources})
		}
		groups[at].members = append(groups[at].members, i)
	}
	return groups
}

// extend puts members of the group beside numbers that have their sources.
//
//	A A _ A A _ _ A B _ _ _ A      a hole inside a run heals it: the shortest first;
//	    1     2 3     6 5 4        then the end of a run with the most room
func (d *drawing) extend(p *stock, g *group) {
	gaps := d.gaps(p, g.sources, view(len(g.members)))
	edges := make([]edge, 0, len(gaps))
	for _, free := range gaps {
		e := edge{gap: free, left: d.admits(free.first-1, g.sources)}
		if e.left {
			d.look(&e, g)
		}
		if e.hole() && e.len() == 1 { // none is shorter
			if d.settle(g, e.first, 1); g.missing() == 0 {
				return
			}
			continue
		}
		edges = append(edges, e)
	}
	for g.missing() > 0 {
		best := shortestHole(edges)
		if best == nil {
			best = d.longestEnd(edges, g)
		}
		if best == nil {
			return
		}
		d.fill(g, best)
	}
}

// hole says whether filling the gap joins two runs.
func (e *edge) hole() bool { return e.left && e.right }

func (d *drawing) look(e *edge, g *group) {
	if !e.looked {
		e.right, e.looked = d.admits(e.last+1, g.sources), true
	}
}

func shortestHole(edges []edge) (best *edge) {
	for i := range edges {
		e := &edges[i]
		if e.hole() && e.len() > 0 && (best == nil || e.len() < best.len()) {
			best = e
		}
	}
	return best
}

func (d *drawing) longestEnd(edges []edge, g *group) (best *edge) {
	for i := range edges {
		e := &edges[i]
		if e.len() == 0 || best != nil && e.len() <= best.len() {
			continue
		}
		if !e.left {
			d.look(e, g)
		}
		if e.left || e.right {
			best = e
		}
	}
	return best
}

// fill takes as much of the gap as the group misses, from the run on.
func (d *drawing) fill(g *group, e *edge) {
	n := uint32(min(e.len(), g.missing()))
	if e.left {
		d.settle(g, e.first, n)
		e.first += n
		return
	}
	e.last -= n
	d.settle(g, e.last+1, n)
}

func (d *drawing) settle(g *group, first, n uint32) {
	for at := first; at < first+n; at++ {
		d.occupy(uint16(at), g.sources)
		g.numbers = append(g.numbers, uint16(at))
	}
}

// gaps lists the pool's gaps, at most limit of them, from the home of the sources
// on and round.
func (d *drawing) gaps(p *stock, sources string, limit int) []gap {
	// From a used number, or the gap around home would count as two; not from 0,
	// or nothing would be before it.
	start := d.used.nextIn(max(p.home(sources), 1), 1<<16-1)
	out := make([]gap, 0, sight)
	for _, half := range [2]gap{{start, 1<<16 - 1}, {0, start - 1}} {
		for _, span := range p.Ranges {
			at, last := max(half.first, uint32(span.First)), min(half.last, uint32(span.Last))
			for at <= last {
				first := d.used.nextOut(at, last)
				if first > last {
					break
				}
				if at = d.used.nextIn(first, last); len(out) == limit {
					return out
				}
				out = append(out, gap{first, at - 1})
			}
		}
	}
	return out
}

// home is the number where the sources begin to look: always the same one, and
// for others elsewhere (FNV-1a).
func (p *stock) home(sources string) uint32 {
	hash := uint32(2166136261)
	for i := range len(sources) {
		hash = (hash ^ uint32(sources[i])) * 16777619
	}
	first, last := uint32(p.Ranges[0].First), uint32(p.Ranges[len(p.Ranges)-1].Last)
	return first + hash%(last-first+1)
}

// admits says whether n is in use and has the sources. What is in use and nobody's
// neighbour admits nobody, like a number that rests.
func (d *drawing) admits(n uint32, sources string) bool {
	if n >= 1<<16 { // also 0-1
		return false
	}
	if len(d.placed) > 0 {
		if own, ok := d.placed[uint16(n)]; ok {
			return own == sources
		}
	}
	return d.neighbours[uint16(n)] == sources && (sources != "" || d.used.Has(uint16(n)))
}
