package ports

import (
	"cmp"
	"slices"
)

// run is n numbers in a row for one group.
type run struct {
	*group
	n int
}

// found starts new runs for the members that have no place beside their own. The
// longest is placed first, each in the largest gap, and what stays free in a gap is
// shared out before, between and behind its runs, so that each can grow.
//
//	B B _ _ _ _ _ _ _ _ _ C  ─►  B B _ _ X X X _ _ Y _ _ C
func (d *drawing) found(p *stock, groups []group) {
	var runs []run
	total := 0
	for i := range groups {
		if n := groups[i].missing(); n > 0 {
			runs = append(runs, run{&groups[i], n})
			total += n
		}
	}
	if total == 0 {
		return
	}
	slices.SortStableFunc(runs, func(a, b run) int { return cmp.Compare(b.n, a.n) })
	gaps := d.around(p, p.home(runs[0].sources), nearby(total))
	pieces := share(runs, gaps, largest)
	if len(pieces) > len(runs) { // some run was cut, which a tighter packing may avoid
		if tight := share(runs, gaps, tightest); len(tight) < len(pieces) {
			pieces = tight
		}
	}
	slices.SortStableFunc(pieces, func(a, b piece) int { return cmp.Compare(a.gap, b.gap) })
	for len(pieces) > 0 {
		end := 1
		for end < len(pieces) && pieces[end].gap == pieces[0].gap {
			end++
		}
		d.spread(gaps[pieces[0].gap], pieces[:end])
		pieces = pieces[end:]
	}
}

// piece is a run, or a part of one, in a gap.
type piece struct {
	run
	gap int // its index
}

// share deals the runs to the gaps. A run that fits nowhere is cut: it fills the
// largest gap and goes on with its rest.
func share(runs []run, gaps []gap, prefer func(a, b, n int) bool) (pieces []piece) {
	room := make([]int, len(gaps))
	for i, free := range gaps {
		room[i] = free.len()
	}
	for _, r := range runs {
		for r.n > 0 {
			best := 0
			for i := range room {
				if prefer(room[i], room[best], r.n) {
					best = i
				}
			}
			n := min(r.n, room[best])
			pieces = append(pieces, piece{run{r.group, n}, best})
			room[best] -= n
			r.n -= n
		}
	}
	return pieces
}

// largest prefers room a to room b, because it leaves more to grow.
func largest(a, b, _ int) bool { return a > b }

// tightest prefers room a to room b for n numbers, because it wastes less.
func tightest(a, b, n int) bool {
	if a >= n && b >= n {
		return a < b
	}
	return a > b
}

// spread lays the pieces into the gap with even room between them.
func (d *drawing) spread(free gap, pieces []piece) {
	room, at := free.len(), free.first
	for _, r := range pieces {
		room -= r.n
	}
	for i, r := range pieces {
		lead := room / (len(pieces) - i + 1)
		room -= lead
		d.settle(r.group, at+uint32(lead), uint32(r.n))
		at += uint32(lead + r.n)
	}
}
