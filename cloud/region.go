package cloud

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// lot is a part of the wish that is planned by itself: only what is of one lot can
// become one rule.
type lot struct {
	pool     string
	protocol rule.Protocol
	peer     string // "" where the sources are prefixes
	ipv6     bool
}

func lotOf(g Grant) lot {
	return lot{g.Pool, g.Protocol, g.Peer, g.Source.Addr().Is6()}
}

func compareLots(a, b lot) int {
	six := func(l lot) int {
		if l.ipv6 {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(a.pool, b.pool), cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.peer, b.peer), cmp.Compare(six(a), six(b)))
}

// block is a rule of a lot: one source to a run of ports. The source of a lot with a
// peer is the zero Prefix.
type block struct {
	ports  rule.PortRange
	source netip.Prefix
}

func compareBlocks(a, b block) int {
	return cmp.Or(cmp.Compare(a.ports.First, b.ports.First), cmp.Compare(a.ports.Last, b.ports.Last), rule.ComparePrefixes(a.source, b.source))
}

// span is a run of ports with the same sources, canonical.
type span struct {
	ports   rule.PortRange
	sources []netip.Prefix
}

// region is what a lot admits: spans in order, of which no two neighbours have the
// same sources.
type region []span

// regionOf returns the union of the blocks. It cuts the ports wherever a block begins
// or ends.
func regionOf(blocks []block) region {
	cuts := cutsOf(blocks)
	sources := make([][]netip.Prefix, len(cuts))
	for _, b := range blocks {
		i, _ := slices.BinarySearch(cuts, uint32(b.ports.First))
		for ; cuts[i] <= uint32(b.ports.Last); i++ {
			sources[i] = append(sources[i], b.source)
		}
	}
	var out region
	for i, s := range sources {
		if len(s) == 0 {
			continue
		}
		next := span{rule.PortRange{First: uint16(cuts[i]), Last: uint16(cuts[i+1] - 1)}, canonical(s)}
		if n := len(out); n > 0 && touch(out[n-1].ports, next.ports) && slices.Equal(out[n-1].sources, next.sources) {
			out[n-1].ports.Last = next.ports.Last
			continue
		}
		out = append(out, next)
	}
	return out
}

// cutsOf returns where blocks begin, and where the first port behind one is, sorted.
func cutsOf(blocks []block) []uint32 { // 32 bits: one beyond port 65535 is a cut
	cuts := make([]uint32, 0, 2*len(blocks))
	for _, b := range blocks {
		cuts = append(cuts, uint32(b.ports.First), uint32(b.ports.Last)+1)
	}
	slices.Sort(cuts)
	return slices.Compact(cuts)
}

// holds says whether the region admits all of the block.
func (r region) holds(b block) bool {
	i, _ := slices.BinarySearchFunc(r, b.ports.First, func(s span, first uint16) int { return cmp.Compare(s.ports.Last, first) })
	next := uint32(b.ports.First)
	for ; i < len(r) && uint32(r[i].ports.First) <= next; i++ {
		if !covers(r[i].sources, b.source) {
			return false
		}
		if next = uint32(r[i].ports.Last) + 1; next > uint32(b.ports.Last) {
			return true
		}
	}
	return false
}

// minus returns what of the region none of the blocks admits.
func (r region) minus(others []block) region {
	if len(others) == 0 {
		return r
	}
	var left []block
	for _, c := range cellsOf(r, others) {
		for _, source := range c.missing {
			left = append(left, block{c.ports, source})
		}
	}
	return regionOf(left)
}

// common returns what of the region the blocks admit.
func (r region) common(blocks []block) region { return r.minus(r.minus(blocks).blocks()) }

func (r region) ports() rule.PortRanges {
	var out []rule.PortRange
	for _, s := range r {
		out = append(out, s.ports)
	}
	return rule.NewPortRanges(out...)
}

// blocks are the spans, source by source.
func (r region) blocks() []block {
	var out []block
	for _, s := range r {
		for _, source := range s.sources {
			out = append(out, block{s.ports, source})
		}
	}
	return out
}

// canonical is rule.Canonical; the sources of a lot with a peer are one.
func canonical(sources []netip.Prefix) []netip.Prefix {
	if !sources[0].IsValid() {
		return sources[:1]
	}
	return rule.Canonical(sources)
}

// covers is rule.Covers; a peer covers itself.
func covers(sources []netip.Prefix, inner netip.Prefix) bool {
	if !inner.IsValid() {
		return len(sources) > 0
	}
	return rule.Covers(sources, inner)
}

// without returns what of the sources is in none of the others.
func without(sources, others []netip.Prefix) []netip.Prefix {
	switch {
	case len(others) == 0:
		return sources
	case len(sources) > 0 && !sources[0].IsValid():
		return nil
	}
	return rule.Subtract(sources, others)
}

func overlap(a, b rule.PortRange) bool { return a.First <= b.Last && b.First <= a.Last }

func touch(a, b rule.PortRange) bool { return uint32(a.Last)+1 == uint32(b.First) }

func (b block) meets(c block) bool {
	return overlap(b.ports, c.ports) && (!b.source.IsValid() || b.source.Overlaps(c.source))
}
