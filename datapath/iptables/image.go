package iptables

import (
	"iter"
	"maps"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// image is what the sets hold, or should hold: entry by entry, so that it can
// also express what a crash or a foreign hand left behind.
type image struct {
	judged  numbers
	audited numbers
	sctp    [len(halves)]numbers // by the half of all addresses
	admit   map[rule.Port][]netip.Prefix
}

// element is one entry of one set.
type element struct {
	set    setID
	port   rule.Port    // judged, audited, sctp4 and sctp6 use only its number
	prefix netip.Prefix // unused in judged and audited
}

// imageOf spells a rule.Set as entries. Ports of one class share one slice.
func imageOf(s rule.Set) *image {
	im := &image{admit: make(map[rule.Port][]netip.Prefix, len(s.Ports))}
	for n := range s.Judged.Numbers {
		im.judged.add(n)
	}
	for n := range s.Audited.Numbers {
		im.audited.add(n)
	}
	for half := range im.sctp {
		im.sctp[half] = im.judged.minus(&im.audited)
	}
	entries := make(map[rule.ClassID][]netip.Prefix, len(s.Classes))
	for id, prefixes := range s.Classes {
		entries[id] = split(prefixes)
	}
	for port, gate := range s.Ports {
		if list := entries[gate.Class]; len(list) > 0 {
			im.admit[port] = list
		}
	}
	return im
}

// split puts two halves in the place of a /0.
func split(canonical []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(canonical)+2)
	for _, p := range canonical {
		if p.Bits() > 0 {
			out = append(out, p)
			continue
		}
		for _, half := range halves {
			if half.Addr().BitLen() == p.Addr().BitLen() {
				out = append(out, half)
			}
		}
	}
	return out
}

// rules reads the image back as a rule.Set; ok is false when it is not the
// image of any, because TCP and SCTP disagree on where to drop. Entries of
// numbers that are not judged mean nothing and are left out.
func (im *image) rules() (s rule.Set, ok bool) {
	for _, half := range im.sctp {
		if half != im.judged.minus(&im.audited) {
			return rule.Set{}, false
		}
	}
	sources := make(map[rule.Port][]netip.Prefix, len(im.admit))
	for port, prefixes := range im.admit {
		if im.judged.has(port.Number) {
			sources[port] = prefixes
		}
	}
	return rule.NewSet(im.judged.ranges(), sources).WithAudited(im.audited.ranges()), true
}

// drops says whether packets to the port from a source in prefix are dropped
// unless they are admitted. A prefix other than a /0 lies in one half.
func (im *image) drops(port rule.Port, prefix netip.Prefix) bool {
	if port.Protocol != rule.SCTP {
		return im.judged.has(port.Number) && !im.audited.has(port.Number)
	}
	return im.sctp[halfOf(prefix)].has(port.Number)
}

func halfOf(prefix netip.Prefix) int {
	return slices.IndexFunc(halves[:], func(half netip.Prefix) bool { return rule.CoversPrefix(half, prefix) })
}

// add puts an element in; it is not there yet.
func (im *image) add(e element) {
	switch e.set {
	case judged:
		im.judged.add(e.port.Number)
	case audited:
		im.audited.add(e.port.Number)
	case sctp4, sctp6:
		if half := slices.Index(halves[:], e.prefix); half >= 0 {
			im.sctp[half].add(e.port.Number)
		}
	case admit4, admit6:
		im.admit[e.port] = append(im.admit[e.port], e.prefix)
	}
}

// counts says how many entries each set holds; those of kube-ipvs0 are no part
// of an image.
func (im *image) counts() [setCount]int {
	var c [setCount]int
	c[judged] = im.judged.len()
	c[audited] = im.audited.len()
	c[sctp4] = im.sctp[0].len() + im.sctp[1].len()
	c[sctp6] = im.sctp[2].len() + im.sctp[3].len()
	for _, prefixes := range im.admit {
		for _, p := range prefixes {
			c[admitSet(p)]++
		}
	}
	return c
}

func (im *image) equal(other *image) bool {
	return im.judged == other.judged && im.audited == other.audited && im.sctp == other.sctp &&
		maps.EqualFunc(im.admit, other.admit, slices.Equal[[]netip.Prefix])
}

// sort puts the prefixes of each port in canonical order, as imageOf has them.
func (im *image) sort() {
	for _, prefixes := range im.admit {
		slices.SortFunc(prefixes, rule.ComparePrefixes)
	}
}

func admitSet(p netip.Prefix) setID {
	if p.Addr().Is4() {
		return admit4
	}
	return admit6
}

func sctpSet(half netip.Prefix) setID {
	if half.Addr().Is4() {
		return sctp4
	}
	return sctp6
}

// numbers is a set of port numbers: 8 KiB, comparable, and as cheap for ten
// thousand scattered numbers as for one range.
type numbers [1 << 16 / 64]uint64

func (s *numbers) has(n uint16) bool { return s[n/64]&(1<<(n%64)) != 0 }
func (s *numbers) add(n uint16)      { s[n/64] |= 1 << (n % 64) }

func (s *numbers) len() int {
	n := 0
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}

func (s *numbers) minus(t *numbers) numbers {
	out := *s
	for i := range out {
		out[i] &^= t[i]
	}
	return out
}

func (s *numbers) and(t *numbers) numbers {
	out := *s
	for i := range out {
		out[i] &= t[i]
	}
	return out
}

// all yields the numbers, ascending.
func (s *numbers) all() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for i := range s {
			for word := s[i]; word != 0; word &= word - 1 {
				if !yield(uint16(i*64 + bits.TrailingZeros64(word))) {
					return
				}
			}
		}
	}
}

func (s *numbers) ranges() rule.PortRanges {
	var out []rule.PortRange
	for n := range s.all() {
		out = append(out, rule.PortRange{First: n, Last: n})
	}
	return rule.NewPortRanges(out...)
}

// contains answers as the kernel does when a set with these entries is asked
// for an element: see the function contains.
func (im *image) contains(e element) bool {
	switch e.set {
	case judged:
		return im.judged.has(e.port.Number)
	case audited:
		return im.audited.has(e.port.Number)
	case sctp4, sctp6:
		return im.sctp[halfOf(e.prefix)].has(e.port.Number)
	}
	if e.prefix.IsSingleIP() {
		return rule.Covers(im.admit[e.port], e.prefix)
	}
	return slices.Contains(im.admit[e.port], e.prefix)
}
