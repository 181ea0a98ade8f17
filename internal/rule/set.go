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

// Set is everything a node must enforce. A packet to a judged address of the
// node, on a judged port number, passes only as its gate lets it; every other
// packet on a judged number is dropped, and a packet on any other number is none
// of our business.
//
// On an audited number, what would be dropped is passed and logged instead; what
// a gate lets in is passed in silence, as anywhere. A denied source passes nowhere.
//
// A Set is immutable: build it with NewSet or Build, never write to its maps.
type Set struct {
	Judged  PortRanges
	Audited PortRanges // among Judged; see WithAudited
	Ports   map[Port]Gate
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
	s := Set{Ports: make(map[Port]Gate, len(terms)), Classes: map[ClassID][]netip.Prefix{}}
	ranges := slices.Clone(judged)
	known := interned{}
	for port, t := range terms {
		gate := Gate{Class: s.intern(t.Sources, known), Audit: s.intern(t.Audited, known), Limits: t.Limits, Log: t.Log, Expires: t.Expires}
		if gate = gate.canonical(); gate != (Gate{}) {
			s.Ports[port] = gate
		}
		if !judged.Contains(port.Number) {
			ranges = append(ranges, PortRange{port.Number, port.Number})
		}
	}
	s.Judged = NewPortRanges(ranges...)
	return s
}

// interned are the classes of slices that were seen before: ports that share a list
// often share the slice, and sorting and hashing it once is enough.
type interned map[list]ClassID

// list is a slice of prefixes by its identity.
type list struct {
	first  *netip.Prefix
	length int
}

// intern returns the name of the class of the prefixes, "" for none.
func (s Set) intern(prefixes []netip.Prefix, known interned) ClassID {
	if len(prefixes) == 0 {
		return ""
	}
	key := list{&prefixes[0], len(prefixes)}
	if id, ok := known[key]; ok {
		return id
	}
	canonical := Canonical(prefixes)
	id := NameClass(canonical)
	s.Classes[id], known[key] = canonical, id
	return id
}

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
func (s Set) Sources(p Port) []netip.Prefix { return s.Classes[s.Ports[p].Class] }

// Passing returns the canonical prefixes that pass the port's gate, be it only
// because it audits; none when nobody passes.
func (s Set) Passing(p Port) []netip.Prefix {
	gate := s.Ports[p]
	if gate.Audit == "" {
		return s.Classes[gate.Class]
	}
	return Canonical(slices.Concat(s.Classes[gate.Class], s.Classes[gate.Audit]))
}

// SortedPorts lists the ports that have a gate, in canonical order.
func (s Set) SortedPorts() []Port { return slices.SortedFunc(maps.Keys(s.Ports), ComparePorts) }

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
	return slices.Equal(s.Judged, t.Judged) && slices.Equal(s.Audited, t.Audited) && maps.Equal(s.Ports, t.Ports) &&
		slices.Equal(s.Denied, t.Denied) && slices.Equal(s.Addresses, t.Addresses)
}
