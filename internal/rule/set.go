package rule

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/netip"
	"slices"
)

// ClassID names a distinct set of sources by its content: the first 128 bits of
// the SHA-256 of its canonical prefixes, in hexadecimal.
type ClassID string

// Set is everything a node must enforce. A packet to a local address on a
// judged port number passes only if its (protocol, number) has a class and the
// class holds its source; every other packet on a judged number is dropped, and
// a packet on any other number is none of our business.
//
// On an audited number, what would be dropped is passed and logged instead; what
// a class admits is passed in silence, as anywhere.
//
// A Set is immutable: build it with NewSet, never write to its maps.
type Set struct {
	Judged  PortRanges
	Audited PortRanges // among Judged; see WithAudited
	Ports   map[Port]ClassID
	Classes map[ClassID][]netip.Prefix
}

// NewSet interns the sources of each port. Ports outside judged are added to
// it. A port without sources is closed: judged, and without a class, like a port
// that nobody claims, so that sets which enforce the same are equal.
func NewSet(judged PortRanges, sources map[Port][]netip.Prefix) Set {
	s := Set{Ports: make(map[Port]ClassID, len(sources)), Classes: map[ClassID][]netip.Prefix{}}
	ranges := slices.Clone(judged)
	for port, prefixes := range sources {
		canonical := Canonical(prefixes)
		if len(canonical) > 0 {
			id := classID(canonical)
			s.Ports[port], s.Classes[id] = id, canonical
		}
		if !judged.Contains(port.Number) {
			ranges = append(ranges, PortRange{port.Number, port.Number})
		}
	}
	s.Judged = NewPortRanges(ranges...)
	return s
}

// WithAudited returns the set with those of the ranges audited that it judges, and
// no others.
func (s Set) WithAudited(ranges PortRanges) Set {
	s.Audited = s.Judged.Intersect(ranges)
	return s
}

func classID(canonical []netip.Prefix) ClassID {
	h := sha256.New()
	for _, p := range canonical {
		h.Write([]byte(p.String()))
		h.Write([]byte{'\n'})
	}
	return ClassID(hex.EncodeToString(h.Sum(nil)[:16]))
}

// Sources returns the canonical prefixes that may reach the port; none when
// nobody may.
func (s Set) Sources(p Port) []netip.Prefix { return s.Classes[s.Ports[p]] }

// SortedPorts lists the ports that have a class, in canonical order.
func (s Set) SortedPorts() []Port { return slices.SortedFunc(maps.Keys(s.Ports), ComparePorts) }

// Admits says whether a packet from source to the port would pass, be it only
// because the number is audited.
func (s Set) Admits(p Port, source netip.Addr) bool {
	if !s.Judged.Contains(p.Number) {
		return true
	}
	if s.Audited.Contains(p.Number) {
		return true
	}
	return slices.ContainsFunc(s.Sources(p), func(prefix netip.Prefix) bool { return prefix.Contains(source) })
}

// Empty says whether the set judges nothing at all.
func (s Set) Empty() bool { return len(s.Judged) == 0 }

// Equal says whether two sets enforce the same, and log the same.
func (s Set) Equal(t Set) bool {
	return slices.Equal(s.Judged, t.Judged) && slices.Equal(s.Audited, t.Audited) && maps.Equal(s.Ports, t.Ports)
}
