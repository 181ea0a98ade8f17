package cloud

import (
	"cmp"
	"container/heap"
	"net/netip"
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// cover returns few blocks within the region that, together with those that stand,
// admit all of it. It never widens.
//
// Each candidate is one source on the longest run of ports that all admit it, so a
// block may lie over what others admit as well: a source that is admitted everywhere
// takes one rule, whoever else is admitted here and there. The one that admits most of
// what is missing is taken first.
func cover(r region, standing []block) []block {
	cells := cellsOf(r, standing)
	candidates := candidatesOf(cells)
	lacking := 0
	for _, c := range cells {
		lacking += len(c.missing)
	}
	queue := newQueue(cells, candidates)
	var out []block
	for lacking > 0 {
		c := queue.best()
		lacking -= queue.take(c)
		out = append(out, c.block)
	}
	slices.SortFunc(out, compareBlocks)
	superfluous := needless(out, standing)
	kept := out[:0:0]
	for i, b := range out {
		if !superfluous[i] {
			kept = append(kept, b)
		}
	}
	return kept
}

// cell is a run of ports on which the region and all that stands are the same.
type cell struct {
	span
	missing []netip.Prefix // what of the sources is not admitted yet
}

func cellsOf(r region, standing []block) []cell {
	cuts := cutsOf(append(r.blocks(), standing...))
	var cells []cell
	for _, s := range r {
		i, _ := slices.BinarySearch(cuts, uint32(s.ports.First))
		for ; cuts[i] <= uint32(s.ports.Last); i++ {
			ports := rule.PortRange{First: uint16(cuts[i]), Last: uint16(cuts[i+1] - 1)}
			cells = append(cells, cell{span: span{ports, s.sources}})
		}
	}
	admitted := make([][]netip.Prefix, len(cells))
	for _, b := range standing {
		i, _ := slices.BinarySearchFunc(cells, b.ports.First, func(c cell, first uint16) int { return cmp.Compare(c.ports.Last, first) })
		for ; i < len(cells) && cells[i].ports.First <= b.ports.Last; i++ {
			admitted[i] = append(admitted[i], b.source)
		}
	}
	for i := range cells {
		cells[i].missing = without(cells[i].sources, admitted[i])
	}
	return cells
}

// candidate is a block that may be taken, over the cells from first to last.
type candidate struct {
	block
	first, last int
	gain        int // how much of what is missing it admits
}

func candidatesOf(cells []cell) []*candidate {
	var sources []netip.Prefix
	for _, c := range cells {
		sources = append(sources, c.sources...)
	}
	slices.SortFunc(sources, rule.ComparePrefixes)
	sources = slices.Compact(sources)
	current := make(map[netip.Prefix]*candidate, len(sources))
	var out []*candidate
	for i, c := range cells {
		for _, wide := range c.sources {
			for _, source := range within(sources, wide) {
				run := current[source]
				if run != nil && run.last == i-1 && touch(cells[i-1].ports, c.ports) {
					run.last, run.ports.Last = i, c.ports.Last
					continue
				}
				run = &candidate{block: block{c.ports, source}, first: i, last: i}
				current[source] = run
				out = append(out, run)
			}
		}
	}
	return out
}

// within returns those of the sorted sources that wide covers.
func within(sources []netip.Prefix, wide netip.Prefix) []netip.Prefix {
	start, _ := slices.BinarySearchFunc(sources, wide, rule.ComparePrefixes)
	end := start
	for end < len(sources) && covers([]netip.Prefix{wide}, sources[end]) {
		end++
	}
	return sources[start:end]
}

// queue has the candidates by how much they admit of what is missing.
type queue struct {
	cells []cell
	by    map[place][]*candidate // who admits what is missing there
	candidates
}

// place is what is missing in a cell from one source.
type place struct {
	cell   int
	source netip.Prefix
}

func newQueue(cells []cell, all []*candidate) *queue {
	q := &queue{cells: cells, by: map[place][]*candidate{}}
	for _, c := range all {
		for _, p := range q.places(c) {
			q.by[p] = append(q.by[p], c)
			c.gain++
		}
		if c.gain > 0 {
			q.candidates = append(q.candidates, entry{c, c.gain})
		}
	}
	heap.Init(&q.candidates)
	return q
}

// places are those of the candidate's cells in which it admits what is missing.
func (q *queue) places(c *candidate) []place {
	var out []place
	for i := c.first; i <= c.last; i++ {
		for _, m := range q.cells[i].missing {
			if covers([]netip.Prefix{c.source}, m) {
				out = append(out, place{i, m})
			}
		}
	}
	return out
}

// best returns the candidate that gains most.
func (q *queue) best() *candidate {
	for {
		top := heap.Pop(&q.candidates).(entry)
		if top.gain == top.gains() {
			return top.candidate
		}
		if top.gains() > 0 { // others have taken some of it meanwhile
			heap.Push(&q.candidates, entry{top.candidate, top.gains()})
		}
	}
}

// take notes that what the candidate admits is missing no more, and counts that.
func (q *queue) take(c *candidate) (gained int) {
	for _, p := range q.places(c) {
		for _, other := range q.by[p] {
			other.gain--
		}
		if len(q.by[p]) > 0 {
			delete(q.by, p)
			gained++
		}
	}
	return gained
}

// entry is a candidate with its gain when it was queued.
type entry struct {
	*candidate
	gain int
}

func (e entry) gains() int { return e.candidate.gain }

// candidates is a heap: most gain first, then in canonical order.
type candidates []entry

func (c candidates) Len() int { return len(c) }
func (c candidates) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(c[j].gain, c[i].gain), compareBlocks(c[i].block, c[j].block)) < 0
}
func (c candidates) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c *candidates) Push(x any)   { *c = append(*c, x.(entry)) }
func (c *candidates) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}

// needless returns those of the blocks that the others, and what else stands, admit
// as well, one after the other: those that admit least go first.
func needless(blocks, others []block) map[int]bool {
	order := make([]int, len(blocks))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		return cmp.Or(cmp.Compare(size(blocks[i].ports), size(blocks[j].ports)), cmp.Compare(blocks[j].source.Bits(), blocks[i].source.Bits()), compareBlocks(blocks[i], blocks[j]))
	})
	all := newIndex(slices.Concat(blocks, others))
	out := map[int]bool{}
	for _, i := range order {
		var near []block
		all.meeting(blocks[i], func(j int) {
			if j != i && !out[j] {
				near = append(near, all.blocks[j])
			}
		})
		if len(near) > 0 && regionOf(near).holds(blocks[i]) {
			out[i] = true
		}
	}
	return out
}

func size(r rule.PortRange) int { return int(r.Last) - int(r.First) }
