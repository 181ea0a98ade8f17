package cloud

import (
	"cmp"
	"math"
	"net/netip"
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// No source is widened beyond these, in bits.
const (
	coarsest4 = 8
	coarsest6 = 24
)

// coarsen joins blocks until there are at most n, or no two are left that may be
// joined: those first that admit least which nobody asked for. No port comes in that
// is not among the allowed ones.
func coarsen(blocks []block, n int, allowed rule.PortRanges) []block {
	out := slices.Clone(blocks)
	for len(out) > n {
		joins := joinsOf(out, allowed)
		if len(joins) == 0 {
			break
		}
		// The last few one by one, so that none is widened that need not be.
		gone := map[int]bool{}
		for _, j := range joins[:min(len(joins), max(1, (len(out)-n)/4))] {
			if gone[j.a] || gone[j.b] {
				continue
			}
			gone[j.a], gone[j.b] = true, true
			out = append(out, j.block)
		}
		left := out[:0:0]
		for i, b := range out {
			if !gone[i] {
				left = append(left, b)
			}
		}
		out = apart(left)
	}
	return out
}

// apart drops what another of the blocks admits whole.
func apart(blocks []block) []block {
	slices.SortFunc(blocks, compareBlocks)
	blocks = slices.Compact(blocks)
	needless := needless(blocks, nil)
	var out []block
	for i, b := range blocks {
		if !needless[i] {
			out = append(out, b)
		}
	}
	return out
}

// join is what two of the blocks become, and what that adds to them.
type join struct {
	block
	a, b  int
	added float64 // ports times addresses
}

// joinsOf returns the joins of neighbours, in the order of ports and in that of
// sources, the cheapest first.
func joinsOf(blocks []block, allowed rule.PortRanges) []join {
	var out []join
	for _, order := range [][]int{
		sorted(blocks, compareBlocks),
		sorted(blocks, func(a, b block) int {
			return cmp.Or(rule.ComparePrefixes(a.source, b.source), compareBlocks(a, b))
		}),
	} {
		for i := 1; i < len(order); i++ {
			if j, ok := joined(blocks, order[i-1], order[i], allowed); ok {
				out = append(out, j)
			}
		}
	}
	slices.SortFunc(out, func(a, b join) int {
		return cmp.Or(cmp.Compare(a.added, b.added), compareBlocks(a.block, b.block), cmp.Compare(a.a, b.a), cmp.Compare(a.b, b.b))
	})
	return out
}

func sorted(blocks []block, compare func(a, b block) int) []int {
	order := make([]int, len(blocks))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return compare(blocks[i], blocks[j]) })
	return order
}

func joined(blocks []block, a, b int, allowed rule.PortRanges) (join, bool) {
	x, y := blocks[a], blocks[b]
	hull := block{rule.PortRange{First: min(x.ports.First, y.ports.First), Last: max(x.ports.Last, y.ports.Last)}, x.source}
	if x.source.IsValid() {
		var ok bool
		if hull.source, ok = around(x.source, y.source); !ok {
			return join{}, false
		}
	}
	if strange := (rule.PortRanges{hull.ports}).Subtract(rule.NewPortRanges(append(slices.Clone(allowed), x.ports, y.ports)...)); len(strange) > 0 {
		return join{}, false
	}
	return join{hull, a, b, hull.area() - x.area() - y.area()}, true
}

// around returns the longest prefix that holds both, unless that is too wide.
func around(a, b netip.Prefix) (netip.Prefix, bool) {
	coarsest := coarsest4
	if a.Addr().Is6() {
		coarsest = coarsest6
	}
	for bits := min(a.Bits(), b.Bits()); bits >= coarsest || bits == a.Bits() || bits == b.Bits(); bits-- {
		if p := netip.PrefixFrom(a.Addr(), bits).Masked(); p.Contains(b.Addr()) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func (b block) area() float64 {
	ports := float64(size(b.ports) + 1)
	if !b.source.IsValid() {
		return ports
	}
	return ports * math.Exp2(float64(b.source.Addr().BitLen()-b.source.Bits()))
}

// hull is the narrowest block around what of the region is in the block.
func (r region) hull(b block) (out block) {
	for i, m := range r.meeting(b) {
		if i == 0 {
			out = m
			continue
		}
		out.ports = rule.PortRange{First: min(out.ports.First, m.ports.First), Last: max(out.ports.Last, m.ports.Last)}
		if m.source.IsValid() {
			var ok bool
			if out.source, ok = around(out.source, m.source); !ok {
				return block{}
			}
		}
	}
	return out
}
