package rule

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
)

// ComparePrefixes orders IPv4 before IPv6, then by address, then widest first.
func ComparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// Canonical returns the smallest list of prefixes with exactly the same
// addresses: masked, covered ones dropped, siblings joined, sorted. It never
// widens.
func Canonical(prefixes []netip.Prefix) []netip.Prefix {
	sorted := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		sorted = append(sorted, p.Masked())
	}
	slices.SortFunc(sorted, ComparePrefixes)
	out := sorted[:0]
	for _, p := range sorted {
		if n := len(out); n > 0 && CoversPrefix(out[n-1], p) {
			continue
		}
		out = append(out, p)
		for len(out) > 1 {
			parent, ok := joined(out[len(out)-2], out[len(out)-1])
			if !ok {
				break
			}
			out = append(out[:len(out)-2], parent)
		}
	}
	return slices.Clip(out)
}

// joined returns the parent of two sibling prefixes a < b.
func joined(a, b netip.Prefix) (netip.Prefix, bool) {
	if a.Bits() != b.Bits() || a.Bits() == 0 || a.Addr().BitLen() != b.Addr().BitLen() || a == b {
		return netip.Prefix{}, false
	}
	parent := netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked()
	return parent, parent.Contains(b.Addr())
}

// CoversPrefix says whether every address of inner is in outer.
func CoversPrefix(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// Covers says whether one of the prefixes covers inner. On a canonical list
// this is the same as asking whether all of inner's addresses are in the union.
func Covers(prefixes []netip.Prefix, inner netip.Prefix) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return CoversPrefix(p, inner) })
}

// CoversAll says whether each of inner is covered by one of the prefixes. On a
// canonical list of prefixes this is the same as asking about the two unions.
func CoversAll(prefixes, inner []netip.Prefix) bool {
	return !slices.ContainsFunc(inner, func(p netip.Prefix) bool { return !Covers(prefixes, p) })
}

// CountAddresses counts the addresses of a canonical list, as far as they can be
// compared: IPv4 by address, IPv6 by network of 64 bits, which is what one host
// may well have to itself. A prefix of IPv6 that is longer than that counts 1. A
// count that would not fit, such as the world's, is the largest there is.
func CountAddresses(prefixes []netip.Prefix) uint64 {
	var sum uint64
	for _, p := range prefixes {
		whole := 64
		if p.Addr().Is4() {
			whole = 32
		}
		n := uint64(1) << max(0, whole-p.Bits()) // 0 for ::/0, the one that does not fit
		if n == 0 || sum+n < sum {
			return math.MaxUint64
		}
		sum += n
	}
	return sum
}

// Intersect returns, canonically, the addresses that are in both lists.
func Intersect(a, b []netip.Prefix) []netip.Prefix {
	var both []netip.Prefix
	for _, p := range a {
		for _, q := range b {
			switch {
			case CoversPrefix(p, q):
				both = append(both, q)
			case CoversPrefix(q, p):
				both = append(both, p)
			}
		}
	}
	return Canonical(both)
}

// Subtract returns, canonically, the addresses of a that are not in b. One prefix
// less a longer one leaves as many prefixes as the longer one has more bits.
func Subtract(a, b []netip.Prefix) []netip.Prefix {
	b = Canonical(b)
	var left []netip.Prefix
	for _, p := range Canonical(a) {
		if !Covers(b, p) {
			left = appendWithout(left, p, Intersect([]netip.Prefix{p}, b))
		}
	}
	return Canonical(left)
}

// appendWithout appends what of p is in none of the holes, which are canonical and
// within p, p itself not among them.
func appendWithout(left []netip.Prefix, p netip.Prefix, holes []netip.Prefix) []netip.Prefix {
	if len(holes) == 0 {
		return append(left, p)
	}
	lower, upper := halves(p)
	// The holes are in order, so those of the lower half come first.
	in, _ := slices.BinarySearchFunc(holes, upper, ComparePrefixes)
	if in == 0 || holes[0] != lower {
		left = appendWithout(left, lower, holes[:in])
	}
	if in == len(holes) || holes[in] != upper {
		left = appendWithout(left, upper, holes[in:])
	}
	return left
}

// halves of a prefix that is no single address.
func halves(p netip.Prefix) (lower, upper netip.Prefix) {
	bits := p.Bits() + 1
	second := p.Masked().Addr().AsSlice()
	second[(bits-1)/8] |= 0x80 >> ((bits - 1) % 8)
	middle, _ := netip.AddrFromSlice(second)
	return netip.PrefixFrom(p.Masked().Addr(), bits), netip.PrefixFrom(middle, bits)
}

// World is every IPv4 and every IPv6 address.
var World = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// Rule is the atom a cloud firewall understands: one protocol, one range of
// ports, one source prefix. Two rules are equal when they let in the same
// packets; who wrote them and why is not part of a Rule.
type Rule struct {
	Protocol Protocol
	Ports    PortRange
	Source   netip.Prefix
}

// CompareRules is the canonical order: protocol, ports, source.
func CompareRules(a, b Rule) int {
	return cmp.Or(
		cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.Ports.First, b.Ports.First),
		cmp.Compare(a.Ports.Last, b.Ports.Last),
		ComparePrefixes(a.Source, b.Source),
	)
}

// Covers says whether a admits everything that b admits.
func (a Rule) Covers(b Rule) bool {
	return a.Protocol == b.Protocol && a.Ports.First <= b.Ports.First && b.Ports.Last <= a.Ports.Last &&
		CoversPrefix(a.Source, b.Source)
}
