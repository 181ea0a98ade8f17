package ports

import "slices"

// group is the winners of one pool with equal sources.
type group struct {
	sources string
	members []int    // requests, in order
	numbers []uint16 // what they get
}

func (g *group) missing() int { return len(g.members) - len(g.numbers) }

// edge is a gap and whether the numbers beside it have the wanted sources. Asking
// costs more than all the rest, so the right side waits until it matters.
type edge struct {
	gap
	left, right bool
	asked       bool // right is known
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
	gaps := d.look(p, g.sources, len(g.members))
	edges := make([]edge, 0, near+far)
	for _, free := range gaps {
		e := edge{gap: free, left: d.admits(free.first-1, g.sources)}
		if e.left {
			d.ask(&e, g)
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

func (d *drawing) ask(e *edge, g *group) {
	if !e.asked {
		e.right, e.asked = d.admits(e.last+1, g.sources), true
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
			d.ask(e, g)
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
