package rule

import (
	"maps"
	"net/netip"
)

// Builder builds one set after the other. What does not change from one to the next
// they share, so that both building and comparing them costs what changed.
type Builder struct {
	last Set
	uses map[ClassID]int // how many ports of it have the class
}

// Build returns the set of the last time, in which those ports have those terms and
// those numbers are judged, which must be all that have a gate. It leaves audited,
// denied and addresses to others.
func (b *Builder) Build(judged PortRanges, changed map[Port]Terms) Set {
	ports, fresh, known := b.last.Ports.Edit(), map[ClassID][]netip.Prefix{}, interned{}
	before := map[ClassID]int{} // how often those were used whose use may change
	if b.uses == nil {
		b.uses = map[ClassID]int{}
	}
	for port, t := range changed {
		gate := Gate{Class: known.name(t.Sources, fresh), Audit: known.name(t.Audited, fresh), Refuse: t.Refuse, Local: t.Local, Limits: t.Limits, Log: t.Log, Expires: t.Expires}
		gate = gate.canonical()
		was := ports.Get(port)
		if gate == was {
			continue
		}
		ports.Set(port, gate)
		b.count(was, -1, before)
		b.count(gate, 1, before)
	}
	b.last.Ports, b.last.Judged = ports.Table(), judged
	b.last.Classes = b.classes(before, fresh)
	return b.last
}

func (b *Builder) count(g Gate, ports int, before map[ClassID]int) {
	for _, id := range []ClassID{g.Class, g.Audit} {
		if id == "" {
			continue
		}
		if _, noted := before[id]; !noted {
			before[id] = b.uses[id]
		}
		b.uses[id] += ports
	}
}

// classes are those in use, the same map as before if they are the same.
func (b *Builder) classes(before map[ClassID]int, fresh map[ClassID][]netip.Prefix) map[ClassID][]netip.Prefix {
	next, copied := b.last.Classes, false
	for id, uses := range before {
		if (uses > 0) == (b.uses[id] > 0) {
			continue
		}
		if !copied {
			next, copied = maps.Clone(next), true
		}
		if next == nil {
			next = map[ClassID][]netip.Prefix{}
		}
		if b.uses[id] > 0 {
			next[id] = fresh[id]
		} else {
			delete(next, id)
			delete(b.uses, id)
		}
	}
	return next
}

// interned are the classes of slices that were seen before: ports that share a list
// often share the slice, and sorting and hashing it once is enough.
type interned map[list]ClassID

// list is a slice of prefixes by its identity.
type list struct {
	first  *netip.Prefix
	length int
}

// name returns the name of the class of the prefixes, "" for none, and keeps in fresh
// what it holds.
func (known interned) name(prefixes []netip.Prefix, fresh map[ClassID][]netip.Prefix) ClassID {
	if len(prefixes) == 0 {
		return ""
	}
	key := list{&prefixes[0], len(prefixes)}
	if id, ok := known[key]; ok {
		return id
	}
	canonical := Canonical(prefixes)
	id := NameClass(canonical)
	fresh[id], known[key] = canonical, id
	return id
}

// Gates are those of the set of the last time.
func (b *Builder) Gates() Gates { return b.last.Ports }
