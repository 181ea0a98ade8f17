package ports

import (
	"cmp"
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// How many gaps are seen for one number, so that a choice takes microseconds also in
// a pool of 60,000 numbers full of holes.
const (
	near = 32 // around the home of its sources
	far  = 48 // all over the pool
)

// farthest bounds what many numbers together see. More finds no better places.
const farthest = 1024

// nearby is how many gaps are seen around home for n numbers: enough to hold them.
func nearby(n int) int { return max(n, min(near*n, farthest)) }

// gap is a run of free numbers within a range of the pool. 32 bits, because one
// that is used up may begin after 65535.
type gap struct{ first, last uint32 }

func (g gap) len() int { return int(g.last) + 1 - int(g.first) }

// look lists gaps in which n numbers of the sources may belong: all, if they are
// few. Else those around the home of the sources, where those of which there are
// few meet, and some from all over the pool, where those of which there are many
// find their like.
func (d *drawing) look(p *stock, sources string, n int) []gap {
	gaps := d.around(p, p.home(sources), nearby(n))
	if len(gaps) < nearby(n) {
		return gaps
	}
	return d.sample(p, gaps, min(far*n, farthest))
}

// around lists gaps from a number on and round, limit at most. The list is good until
// the next.
func (d *drawing) around(p *stock, home uint32, limit int) []gap {
	// From a used number, or the gap at home would count as two; not from 0, or
	// nothing would be before it.
	home = d.used.nextIn(max(home, 1), 1<<16-1)
	gaps := d.seen[:0]
	for g, ok := d.next(p, home); ok && len(gaps) < limit; g, ok = d.next(p, g.last+1) {
		gaps = append(gaps, g)
	}
	for g, ok := d.next(p, 0); ok && g.first < home && len(gaps) < limit; g, ok = d.next(p, g.last+1) {
		gaps = append(gaps, g)
	}
	return gaps
}

// sample adds n gaps, less those that are listed, which follow on evenly spaced
// numbers. With each change of what is used it starts from another number: who
// comes often sees all of the pool in time.
func (d *drawing) sample(p *stock, gaps []gap, n int) []gap {
	var listed Numbers
	for _, g := range gaps {
		listed.Add(uint16(g.first))
	}
	state := uint64(0)
	for _, word := range d.used {
		state ^= word
	}
	first, size := p.hull()
	offset := uint32(state*0x9e3779b97f4a7c15>>32) % size // 2^64 by the golden ratio: neighbours go far apart
	for i := range uint32(n) {
		at := first + (offset+uint32(uint64(size)*uint64(i)/uint64(n)))%size
		g, ok := d.next(p, d.used.nextIn(at, 1<<16-1))
		if ok && !listed.Has(uint16(g.first)) {
			listed.Add(uint16(g.first))
			gaps = append(gaps, g)
		}
	}
	return gaps
}

// next returns the first gap that begins at n or later. n is not inside a gap.
func (d *drawing) next(p *stock, n uint32) (gap, bool) {
	i, _ := slices.BinarySearchFunc(p.Ranges, n, func(r rule.PortRange, n uint32) int { return cmp.Compare(uint32(r.Last), n) })
	for _, span := range p.Ranges[i:] {
		last := uint32(span.Last)
		if first := d.used.nextOut(max(n, uint32(span.First)), last); first <= last {
			return gap{first, d.used.nextIn(first, last) - 1}, true
		}
	}
	return gap{}, false
}

// home is the number around which the sources gather: always the same one, and
// for others elsewhere (FNV-1a).
func (p *stock) home(sources string) uint32 {
	hash := uint32(2166136261)
	for i := range len(sources) {
		hash = (hash ^ uint32(sources[i])) * 16777619
	}
	first, size := p.hull()
	return first + hash%size
}

// hull is the first number of the pool, and how many there are up to the last.
func (p *stock) hull() (first, size uint32) {
	first = uint32(p.Ranges[0].First)
	return first, uint32(p.Ranges[len(p.Ranges)-1].Last) - first + 1
}
