package iptables

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// image is what the sets hold, or should hold: entry by entry, so that it can
// also express what a crash or a foreign hand left behind.
type image struct {
	judged    numbers
	audited   numbers
	sctp      [len(halves)]numbers // by the half of all addresses
	sctpAudit [len(halves)]numbers
	admit     map[rule.Port][]netip.Prefix
	aside     map[rule.Port][]netip.Prefix
	denied    []netip.Prefix
	places    []netip.Prefix
	// ends is the second in which a port's gate ends, alive how long it is let be,
	// by half; 0 for no entry.
	ends  map[rule.Port]seconds
	alive map[rule.Port]seconds
	// properties has an entry for each property that has a set, be it empty.
	properties map[property]map[rule.Port]halfMask
	// connections are no entries of a set but the rules of chainCount.
	connections map[rule.Port]uint32
}

// seconds is a Unix second for each half of all addresses.
type seconds [len(halves)]int64

// halfMask has a bit for each half.
type halfMask uint8

const allHalves halfMask = 1<<len(halves) - 1

// element is one entry of one set.
type element struct {
	set    setID
	port   rule.Port    // a number only in judged, audited and those of SCTP; none in denied and places
	prefix netip.Prefix // none in judged and audited
	second int64        // in ends and alive: until when
}

func newImage() *image {
	return &image{
		admit: map[rule.Port][]netip.Prefix{}, aside: map[rule.Port][]netip.Prefix{},
		ends: map[rule.Port]seconds{}, alive: map[rule.Port]seconds{},
		properties: map[property]map[rule.Port]halfMask{}, connections: map[rule.Port]uint32{},
	}
}

// imageOf spells a rule.Set as entries, as they are to be at a time. Ports of one
// class share one slice.
func imageOf(s rule.Set, now int64) *image {
	im := newImage()
	for n := range s.Judged.Numbers {
		im.judged.add(n)
	}
	for n := range s.Audited.Numbers {
		im.audited.add(n)
	}
	for half := range halves {
		im.sctp[half], im.sctpAudit[half] = im.judged, im.audited
	}
	im.denied = split(s.Denied)
	im.places = split(s.Addresses)
	if len(s.Addresses) == 0 {
		im.places = halves[:]
	}
	entries := make(map[rule.ClassID][]netip.Prefix, len(s.Classes))
	for id, prefixes := range s.Classes {
		entries[id] = split(prefixes)
	}
	for port, gate := range s.Silenced().Ports.All {
		if list := entries[gate.Class]; len(list) > 0 {
			im.admit[port] = list
		}
		if list := entries[gate.Audit]; len(list) > 0 {
			im.aside[port] = list
		}
		if gate.Expires != 0 {
			im.ends[port] = inEachHalf(gate.Expires)
			if until := aliveUntil(gate.Expires, now); until != 0 {
				im.alive[port] = inEachHalf(until)
			}
		}
		if gate.Limits.Connections > 0 {
			im.connections[port] = gate.Limits.Connections
		}
		for _, p := range properties(gate) {
			if im.properties[p] == nil {
				im.properties[p] = map[rule.Port]halfMask{}
			}
			im.properties[p][port] = allHalves
		}
	}
	return im
}

func inEachHalf(second int64) (s seconds) {
	for half := range s {
		s[half] = second
	}
	return s
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

// rules reads the image back as a rule.Set. The image may be that of none, because
// the halves, or TCP and SCTP, disagree, or the clock and what is alive do: then what
// names the sets. Entries of numbers that are not judged mean nothing and are left
// out.
func (im *image) rules(now int64) (s rule.Set, what string) {
	for half := range halves {
		if im.sctp[half] != im.judged || im.sctpAudit[half] != im.audited {
			return rule.Set{}, "PORTREEVE-JUDGED, -AUDIT, -SCTP* and -SCTPAUDIT* on which numbers are judged and audited"
		}
	}
	terms := map[rule.Port]rule.Terms{}
	put := func(port rule.Port, f func(t *rule.Terms)) {
		if im.judged.has(port.Number) {
			t := terms[port]
			f(&t)
			terms[port] = t
		}
	}
	for port, prefixes := range im.admit {
		put(port, func(t *rule.Terms) { t.Sources = prefixes })
	}
	for port, prefixes := range im.aside {
		put(port, func(t *rule.Terms) { t.Audited = prefixes })
	}
	for port, connections := range im.connections {
		put(port, func(t *rule.Terms) { t.Limits.Connections = connections })
	}
	if what := im.checkProperties(now); what != "" {
		return rule.Set{}, what
	}
	for port, at := range im.ends {
		put(port, func(t *rule.Terms) { t.Expires = at[0] })
	}
	for p, ports := range im.properties {
		for port := range ports {
			put(port, p.put)
		}
	}
	s = rule.Build(im.judged.ranges(), terms).WithAudited(im.audited.ranges()).WithDenied(im.denied)
	if places := rule.Canonical(im.places); !slices.Equal(places, rule.World) {
		s = s.WithAddresses(places)
		if len(places) == 0 {
			return rule.Set{}, "PORTREEVE-PLACES*, which are empty, on where to judge"
		}
	}
	return s, ""
}

// checkProperties says which sets disagree on what ports have beyond who passes.
func (im *image) checkProperties(now int64) string {
	for port, at := range im.ends {
		if at != inEachHalf(at[0]) {
			return "PORTREEVE-ENDS* on when " + port.String() + " ends"
		}
		for _, until := range im.alive[port] {
			if !armed(at[0], until, now) {
				return "PORTREEVE-ENDS* and -ALIVE* on when " + port.String() + " ends"
			}
		}
	}
	for p, ports := range im.properties {
		for port, mask := range ports {
			if mask != allHalves || p.kind == counted && im.connections[port] == 0 {
				return string(p.set("*")) + " on the terms of " + port.String()
			}
		}
	}
	for port := range im.connections {
		if im.properties[property{kind: counted}][port] == 0 {
			return chainCount + " and " + string(property{kind: counted}.set("*")) + " on " + port.String()
		}
	}
	return ""
}

// drops says whether packets to the port from a source in prefix are dropped
// unless they are admitted. A prefix other than a /0 lies in one half.
func (im *image) drops(port rule.Port, prefix netip.Prefix) bool {
	if port.Protocol != rule.SCTP {
		return im.judged.has(port.Number) && !im.audited.has(port.Number)
	}
	half := halfOf(prefix)
	return im.sctp[half].has(port.Number) && !im.sctpAudit[half].has(port.Number)
}

// passing lists who is let in to the port, be it only because the gate audits.
func (im *image) passing(port rule.Port) []netip.Prefix {
	if len(im.aside[port]) == 0 {
		return rule.Canonical(im.admit[port])
	}
	return rule.Canonical(slices.Concat(im.admit[port], im.aside[port]))
}

func halfOf(prefix netip.Prefix) int {
	return slices.IndexFunc(halves[:], func(half netip.Prefix) bool { return rule.CoversPrefix(half, prefix) })
}

// add puts an element in; it is not there yet.
func (im *image) add(e element) {
	half := slices.Index(halves[:], e.prefix)
	switch e.set {
	case judged:
		im.judged.add(e.port.Number)
	case audited:
		im.audited.add(e.port.Number)
	case admit4, admit6:
		im.admit[e.port] = append(im.admit[e.port], e.prefix)
	case aside4, aside6:
		im.aside[e.port] = append(im.aside[e.port], e.prefix)
	case denied4, denied6:
		im.denied = append(im.denied, e.prefix)
	case places4, places6:
		im.places = append(im.places, e.prefix)
	default:
		if half >= 0 { // anything else is somebody's addition, and matches nothing that we ask
			im.addHalf(e, half)
		}
	}
}

func (im *image) addHalf(e element, half int) {
	switch e.set {
	case sctp4, sctp6:
		im.sctp[half].add(e.port.Number)
	case sctpAudit4, sctpAudit6:
		im.sctpAudit[half].add(e.port.Number)
	case ends4, ends6:
		at := im.ends[e.port]
		at[half] = e.second
		im.ends[e.port] = at
	case alive4, alive6:
		until := im.alive[e.port]
		until[half] = e.second
		im.alive[e.port] = until
	}
}

// having returns what takes in the entries of one of a property's sets.
func (im *image) having(p property) func(element) {
	if im.properties[p] == nil {
		im.properties[p] = map[rule.Port]halfMask{}
	}
	ports := im.properties[p]
	return func(e element) {
		if half := slices.Index(halves[:], e.prefix); half >= 0 {
			ports[e.port] |= 1 << half
		}
	}
}

// counts says how many entries each set holds; those of kube-ipvs0 are no part
// of an image, and those that are alive go by themselves.
func (im *image) counts() map[setID]int {
	c := map[setID]int{judged: im.judged.len(), audited: im.audited.len()}
	for half, prefix := range halves {
		c[in(prefix.Addr(), sctp4, sctp6)] += im.sctp[half].len()
		c[in(prefix.Addr(), sctpAudit4, sctpAudit6)] += im.sctpAudit[half].len()
		for _, at := range im.ends {
			if at[half] != 0 {
				c[in(prefix.Addr(), ends4, ends6)]++
			}
		}
		for p, ports := range im.properties {
			sets := p.sets()
			id := in(prefix.Addr(), sets[0], sets[1])
			for _, mask := range ports {
				if mask&(1<<half) != 0 {
					c[id]++
				}
			}
		}
	}
	tally := func(prefixes []netip.Prefix, v4, v6 setID) {
		for _, p := range prefixes {
			c[in(p.Addr(), v4, v6)]++
		}
	}
	for _, prefixes := range im.admit {
		tally(prefixes, admit4, admit6)
	}
	for _, prefixes := range im.aside {
		tally(prefixes, aside4, aside6)
	}
	tally(im.denied, denied4, denied6)
	tally(im.places, places4, places6)
	return c
}

// equal compares all but what is alive, which the clock changes.
func (im *image) equal(other *image) bool {
	return im.judged == other.judged && im.audited == other.audited && im.sctp == other.sctp && im.sctpAudit == other.sctpAudit &&
		maps.EqualFunc(im.admit, other.admit, slices.Equal[[]netip.Prefix]) &&
		maps.EqualFunc(im.aside, other.aside, slices.Equal[[]netip.Prefix]) &&
		slices.Equal(im.denied, other.denied) && slices.Equal(im.places, other.places) &&
		maps.Equal(im.ends, other.ends) &&
		maps.EqualFunc(im.present(), other.present(), maps.Equal[map[rule.Port]halfMask])
}

// present are the properties that some port has: a set may be there, and empty.
func (im *image) present() map[property]map[rule.Port]halfMask {
	out := maps.Clone(im.properties)
	maps.DeleteFunc(out, func(_ property, ports map[rule.Port]halfMask) bool { return len(ports) == 0 })
	return out
}

// sort puts the prefixes in canonical order, as imageOf has them.
func (im *image) sort() {
	for _, m := range []map[rule.Port][]netip.Prefix{im.admit, im.aside} {
		for _, prefixes := range m {
			slices.SortFunc(prefixes, rule.ComparePrefixes)
		}
	}
	slices.SortFunc(im.denied, rule.ComparePrefixes)
	slices.SortFunc(im.places, rule.ComparePrefixes)
}

// contains answers as the kernel does when a set with these entries is asked
// for an element: see the function contains.
func (im *image) contains(e element) bool {
	covers := func(list []netip.Prefix) bool {
		if e.prefix.IsSingleIP() {
			return rule.Covers(list, e.prefix)
		}
		return slices.Contains(list, e.prefix)
	}
	switch e.set {
	case judged:
		return im.judged.has(e.port.Number)
	case audited:
		return im.audited.has(e.port.Number)
	case admit4, admit6:
		return covers(im.admit[e.port])
	case aside4, aside6:
		return covers(im.aside[e.port])
	case denied4, denied6:
		return covers(im.denied)
	case places4, places6:
		return covers(im.places)
	}
	half := halfOf(e.prefix)
	switch e.set {
	case sctp4, sctp6:
		return im.sctp[half].has(e.port.Number)
	case sctpAudit4, sctpAudit6:
		return im.sctpAudit[half].has(e.port.Number)
	case ends4, ends6:
		return im.ends[e.port][half] != 0
	case alive4, alive6:
		return im.alive[e.port][half] != 0
	}
	p, _, _ := parseProperty(e.set)
	return im.properties[p][e.port]&(1<<half) != 0
}
