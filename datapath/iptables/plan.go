package iptables

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// step is one change of one entry.
type step struct {
	verb verb
	element
}

type verb int

const (
	add verb = iota
	del
)

// plan is the ordered way from one image to another. ipset changes one entry at
// a time, so packets meet every state in between; the order makes each of them
// harmless:
//
//	           admitted by each state         the steps
//	prepare    as old                         what limits and logs more ports; who is
//	                                          alive that begins to end
//	narrow     at least old AND new,          add what old covers (A)
//	           at most old                    drop on more numbers and addresses,
//	                                          deny, end (B)
//	                                          remove what new does not cover (C)
//	--------   exactly old AND new
//	widen      at least old AND new,          add the rest of new (D)
//	           at most new                    drop on fewer numbers and addresses,
//	                                          deny less, end later (E)
//	                                          remove what new covers or nobody drops (F)
//	finish     as new                         what limits and logs fewer ports
//
// The middle is exact because prefixes are laminar: of two that overlap one
// covers the other, so the intersection of two lists is the union of the old
// ones that new covers, which C spares, and the new ones that old covers, which
// A has added before C takes away what covered them. On a number on which old
// drops nothing, as it is not judged or is audited, old covers everything. A source
// that goes from a gate's class to those it audits, or back, is covered all along.
//
// Where only one of the two judges, on a number or an address, what both let in may
// be dropped in between, if the other tables of that one (whom it denies, its gates)
// would not let it in: closed when in doubt.
type plan struct {
	prepare, narrow, widen, finish []step
}

func newPlan(have, want *image, now int64) plan {
	var p plan
	var a, c, d, f []step
	for _, port := range changedPorts(have, want) {
		covered, covering := have.passing(port), want.passing(port)
		compare := func(old, new []netip.Prefix, set func(netip.Prefix) setID) {
			for _, prefix := range minus(new, old) {
				s := step{add, element{set: set(prefix), port: port, prefix: prefix}}
				if !have.drops(port, prefix) || rule.Covers(covered, prefix) {
					a = append(a, s)
				} else {
					d = append(d, s)
				}
			}
			for _, prefix := range minus(old, new) {
				s := step{del, element{set: set(prefix), port: port, prefix: prefix}}
				if want.drops(port, prefix) && !rule.Covers(covering, prefix) {
					c = append(c, s)
				} else {
					f = append(f, s)
				}
			}
		}
		compare(have.admit[port], want.admit[port], admitSet)
		compare(have.aside[port], want.aside[port], asideSet)
	}
	b, e := numberSteps(have, want)
	moreDenied, lessDenied := listSteps(have.denied, want.denied, denied4, denied6)
	morePlaces, fewerPlaces := listSteps(have.places, want.places, places4, places6)
	living, ending, lasting, forgotten := endSteps(have, want, now)
	more, fewer := propertySteps(have, want)
	for _, phase := range [][]step{a, c, d, f, living, ending, lasting, forgotten, more, fewer} { // one set after the other: long messages
		slices.SortStableFunc(phase, func(s, t step) int { return cmp.Or(cmp.Compare(s.verb, t.verb), cmp.Compare(s.set, t.set)) })
	}
	p.prepare = slices.Concat(more, living)
	p.narrow = slices.Concat(a, ending, moreDenied, morePlaces, b, c)
	p.widen = slices.Concat(d, e, lasting, lessDenied, fewerPlaces, f)
	p.finish = slices.Concat(forgotten, fewer)
	return p
}

// steps are all of a plan, in order.
func (p plan) steps() []step { return slices.Concat(p.prepare, p.narrow, p.widen, p.finish) }

// numberSteps returns the steps by which more numbers drop (B) and those by which
// fewer do (E). A number that is audited before and after, or on one side, and not
// judged on the other, drops in no state between: it is judged only while it
// stands among the audited.
func numberSteps(have, want *image) (more, fewer []step) {
	both := func(oldJudged, newJudged, oldAudited, newAudited *numbers, toggle func(v verb, audit bool, of numbers) []step) {
		judge, release := newJudged.minus(oldJudged), oldJudged.minus(newJudged)
		audit, enforce := newAudited.minus(oldAudited), oldAudited.minus(newAudited)
		more = slices.Concat(more,
			toggle(add, true, audit.minus(oldJudged)),
			toggle(add, false, judge),
			toggle(del, true, enforce.and(newJudged)),
		)
		fewer = slices.Concat(fewer,
			toggle(add, true, audit.and(oldJudged)),
			toggle(del, false, release),
			toggle(del, true, enforce.minus(newJudged)),
		)
	}
	both(&have.judged, &want.judged, &have.audited, &want.audited, func(v verb, audit bool, of numbers) []step {
		set := judged
		if audit {
			set = audited
		}
		return toggle(v, element{set: set}, of)
	})
	for i, half := range halves {
		both(&have.sctp[i], &want.sctp[i], &have.sctpAudit[i], &want.sctpAudit[i], func(v verb, audit bool, of numbers) []step {
			set := in(half.Addr(), sctp4, sctp6)
			if audit {
				set = in(half.Addr(), sctpAudit4, sctpAudit6)
			}
			return toggle(v, element{set: set, port: rule.Port{Protocol: rule.SCTP}, prefix: half}, of)
		})
	}
	return more, fewer
}

// toggle lists a step for each of the numbers of a bitmap.
func toggle(v verb, e element, of numbers) []step {
	var out []step
	for n := range of.all() {
		e.port.Number = n
		out = append(out, step{v, e})
	}
	return out
}

// listSteps returns the steps by which a list of prefixes grows, and those by which
// it shrinks.
func listSteps(old, new []netip.Prefix, v4, v6 setID) (more, fewer []step) {
	for _, p := range minus(new, old) {
		more = append(more, step{add, element{set: in(p.Addr(), v4, v6), prefix: p}})
	}
	for _, p := range minus(old, new) {
		fewer = append(fewer, step{del, element{set: in(p.Addr(), v4, v6), prefix: p}})
	}
	return more, fewer
}

// endSteps returns the steps that matter only later (living: who is alive before it
// can end), those by which gates end, or end sooner (ending), those by which they
// end later or not at all (lasting), and those that nothing depends on any more.
func endSteps(have, want *image, now int64) (living, ending, lasting, forgotten []step) {
	ports := map[rule.Port]bool{}
	for _, m := range []map[rule.Port]seconds{have.ends, have.alive, want.ends, want.alive} {
		for port := range m {
			ports[port] = true
		}
	}
	for _, port := range slices.SortedFunc(maps.Keys(ports), rule.ComparePorts) {
		for half, prefix := range halves {
			end, wantEnd := have.ends[port][half], want.ends[port][half]
			until, wantUntil := have.alive[port][half], want.alive[port][half]
			live := step{add, element{set: in(prefix.Addr(), alive4, alive6), port: port, prefix: prefix, second: wantUntil}}
			last := step{add, element{set: in(prefix.Addr(), ends4, ends6), port: port, prefix: prefix, second: wantEnd}}
			switch {
			case wantEnd == 0: // never
				live.verb, last.verb = del, del
				live.second, last.second = 0, 0
				if end != 0 {
					lasting = append(lasting, last)
				}
				if until != 0 {
					forgotten = append(forgotten, live)
				}
				continue
			case end == 0 && wantUntil != 0:
				living = append(living, live)
			case armed(wantEnd, until, now):
			case wantUntil == 0:
				live.verb = del
				ending = append(ending, live)
			case until > wantUntil:
				ending = append(ending, live)
			default:
				lasting = append(lasting, live)
			}
			if end != wantEnd {
				ending = append(ending, last)
			}
		}
	}
	return living, ending, lasting, forgotten
}

// propertySteps returns the steps by which ports gain properties, and those by which
// they lose them. While a port changes from one to another it has both.
func propertySteps(have, want *image) (more, fewer []step) {
	diff := func(v verb, a, b map[property]map[rule.Port]halfMask) (out []step) {
		for p, ports := range a {
			sets, others := p.sets(), b[p]
			for port, mask := range ports {
				missing := mask &^ others[port]
				for half, prefix := range halves {
					if missing&(1<<half) != 0 {
						out = append(out, step{v, element{set: in(prefix.Addr(), sets[0], sets[1]), port: port, prefix: prefix}})
					}
				}
			}
		}
		slices.SortFunc(out, func(s, t step) int { return rule.ComparePorts(s.port, t.port) })
		return out
	}
	return diff(add, want.properties, have.properties), diff(del, have.properties, want.properties)
}

func changedPorts(have, want *image) []rule.Port {
	changed := map[rule.Port]bool{}
	compare := func(old, new map[rule.Port][]netip.Prefix) {
		for port, prefixes := range old {
			if !slices.Equal(prefixes, new[port]) {
				changed[port] = true
			}
		}
		for port := range new {
			if _, known := old[port]; !known {
				changed[port] = true
			}
		}
	}
	compare(have.admit, want.admit)
	compare(have.aside, want.aside)
	return slices.SortedFunc(maps.Keys(changed), rule.ComparePorts)
}

// minus returns the prefixes of a that b does not list; b is sorted.
func minus(a, b []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range a {
		if _, listed := slices.BinarySearchFunc(b, p, rule.ComparePrefixes); !listed {
			out = append(out, p)
		}
	}
	return out
}
