package rule

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"

	"github.com/portreeve/portreeve/internal/table"
)

// ClassID names a distinct set of sources by its content: the first 128 bits of
// the SHA-256 of its canonical prefixes, in hexadecimal.
type ClassID string

// Set is everything a node must enforce. A packet to a judged address of the
// node, on a judged port number, passes only as its gate lets it; every other
// packet on a judged number is dropped, and a packet on any other number is none
// of our business.
//
// On an audited number, what would be dropped is passed and logged instead; what
// a gate lets in is passed in silence, as anywhere. A denied source passes nowhere.
// Whom a gate refuses is told so, and nobody else is.
//
// A Set is immutable: build it with NewSet, Build or a Builder, never write to its map.
type Set struct {
	Judged  PortRanges
	Audited PortRanges // among Judged; see WithAudited
	Ports   Gates
	Classes map[ClassID][]netip.Prefix
	// Denied are dropped on every judged number, ahead of any gate; canonical.
	Denied []netip.Prefix
	// Addresses are those of the node's own addresses on which packets are judged;
	// canonical, none for all of them.
	Addresses []netip.Prefix
}

// NewSet interns the sources of each port. Ports outside judged are added to
// it. A port without sources is closed: judged, and without a class, like a port
// that nobody claims, so that sets which enforce the same are equal.
func NewSet(judged PortRanges, sources map[Port][]netip.Prefix) Set {
	terms := make(map[Port]Terms, len(sources))
	for port, prefixes := range sources {
		terms[port] = Terms{Sources: prefixes}
	}
	return Build(judged, terms)
}

// Build interns the terms of each port; see NewSet. A port on which nobody passes
// has a gate only if its drops are to be logged.
func Build(judged PortRanges, terms map[Port]Terms) Set {
	ranges := slices.Clone(judged)
	for port := range terms {
		if !judged.Contains(port.Number) {
			ranges = append(ranges, PortRange{port.Number, port.Number})
		}
	}
	return new(Builder).Build(NewPortRanges(ranges...), terms)
}

// Gates are those of ports, in canonical order. The zero Gate stands for none.
type Gates = table.Table[Port, Gate]

// WithAudited returns the set with those of the ranges audited that it judges, and
// no others.
func (s Set) WithAudited(ranges PortRanges) Set {
	s.Audited = s.Judged.Intersect(ranges)
	return s
}

// WithDenied returns the set with those sources denied, and no others.
func (s Set) WithDenied(prefixes []netip.Prefix) Set {
	s.Denied = Canonical(prefixes)
	return s
}

// WithAddresses returns the set that judges on those addresses of the node only,
// or on all of them if there are none.
func (s Set) WithAddresses(prefixes []netip.Prefix) Set {
	s.Addresses = Canonical(prefixes)
	return s
}

// NameClass returns the name of the class of the canonical prefixes.
func NameClass(canonical []netip.Prefix) ClassID {
	h := sha256.New()
	var line []byte
	for _, p := range canonical {
		line = append(p.AppendTo(line[:0]), '\n')
		h.Write(line)
	}
	return ClassID(hex.EncodeToString(h.Sum(nil)[:16]))
}

// Sources returns the canonical prefixes that the port's gate admits; none when
// it admits nobody.
func (s Set) Sources(p Port) []netip.Prefix { return s.Classes[s.Ports.Get(p).passing()] }

// Refused returns the canonical prefixes that the port's gate refuses; none when it
// refuses nobody.
func (s Set) Refused(p Port) []netip.Prefix {
	if gate := s.Ports.Get(p); gate.Refuse {
		return s.Classes[gate.Class]
	}
	return nil
}

// Silenced returns the set that drops whom this one refuses, for a datapath that can't
// refuse.
func (s Set) Silenced() Set {
	ports := s.Ports.Edit()
	for port, gate := range s.Ports.All {
		if gate.Refuse {
			ports.Set(port, gate.silenced())
		}
	}
	s.Ports = ports.Table()
	return s
}

// Passing returns the canonical prefixes that pass the port's gate, be it only
// because it audits; none when nobody passes.
func (s Set) Passing(p Port) []netip.Prefix {
	gate := s.Ports.Get(p)
	if gate.Audit == "" {
		return s.Classes[gate.passing()]
	}
	return Canonical(slices.Concat(s.Classes[gate.passing()], s.Classes[gate.Audit]))
}

// Admits says whether a packet from source to the port would pass, be it only
// because the number or the port is audited. Limits are not asked, nor the time.
func (s Set) Admits(p Port, source netip.Addr) bool {
	holds := func(prefix netip.Prefix) bool { return prefix.Contains(source) }
	switch {
	case !s.Judged.Contains(p.Number):
		return true
	case slices.ContainsFunc(s.Denied, holds):
		return false
	case s.Audited.Contains(p.Number):
		return true
	}
	return slices.ContainsFunc(s.Passing(p), holds)
}

// Empty says whether the set judges nothing at all.
func (s Set) Empty() bool { return len(s.Judged) == 0 }

// Equal says whether two sets enforce the same, and log the same.
func (s Set) Equal(t Set) bool {
	return slices.Equal(s.Judged, t.Judged) && slices.Equal(s.Audited, t.Audited) && s.Ports.Equal(t.Ports) &&
		slices.Equal(s.Denied, t.Denied) && slices.Equal(s.Addresses, t.Addresses)
}
