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
//	narrow     at least old AND new,          add what old covers (A)
//	           at most old                    drop on more numbers (B)
//	                                          remove what new does not cover (C)
//	--------   exactly old AND new
//	widen      at least old AND new,          add the rest of new (D)
//	           at most new                    drop on fewer numbers (E)
//	                                          remove what new covers or nobody drops (F)
//
// The middle is exact because prefixes are laminar: of two that overlap one
// covers the other, so the intersection of two lists is the union of the old
// ones that new covers, which C spares, and the new ones that old covers, which
// A has added before C takes away what covered them. On a number on which old
// drops nothing, as it is not judged or is audited, old covers everything.
type plan struct {
	narrow, widen []step
}

func newPlan(have, want *image) plan {
	var a, b, c, d, e, f []step
	for _, port := range changedPorts(have, want) {
		old, new := have.admit[port], want.admit[port]
		covered, covering := rule.Canonical(old), rule.Canonical(new)
		for _, p := range minus(new, old) {
			s := step{add, element{admitSet(p), port, p}}
			if !have.drops(port, p) || rule.Covers(covered, p) {
				a = append(a, s)
			} else {
				d = append(d, s)
			}
		}
		for _, p := range minus(old, new) {
			s := step{del, element{admitSet(p), port, p}}
			if want.drops(port, p) && !rule.Covers(covering, p) {
				c = append(c, s)
			} else {
				f = append(f, s)
			}
		}
	}
	b, e = numberSteps(have, want)
	for _, phase := range [][]step{a, c, d, f} { // one set after the other: long messages
		slices.SortStableFunc(phase, func(s, t step) int { return cmp.Compare(s.set, t.set) })
	}
	return plan{narrow: slices.Concat(a, b, c), widen: slices.Concat(d, e, f)}
}

// numberSteps returns the steps by which more numbers drop (B) and those by which
// fewer do (E). A number that is audited before and after, or on one side, and not
// judged on the other, drops in no state between: it is judged only while it
// stands among the audited.
func numberSteps(have, want *image) (more, fewer []step) {
	judge, release := want.judged.minus(&have.judged), have.judged.minus(&want.judged)
	audit, enforce := want.audited.minus(&have.audited), have.audited.minus(&want.audited)
	more = slices.Concat(
		toggle(add, audited, audit.minus(&have.judged)),
		toggle(add, judged, judge),
		toggle(del, audited, enforce.and(&want.judged)),
	)
	fewer = slices.Concat(
		toggle(add, audited, audit.and(&have.judged)),
		toggle(del, judged, release),
		toggle(del, audited, enforce.minus(&want.judged)),
	)
	for i, half := range halves {
		begin, end := want.sctp[i].minus(&have.sctp[i]), have.sctp[i].minus(&want.sctp[i])
		for n := range begin.all() {
			more = append(more, step{add, element{sctpSet(half), rule.Port{Protocol: rule.SCTP, Number: n}, half}})
		}
		for n := range end.all() {
			fewer = append(fewer, step{del, element{sctpSet(half), rule.Port{Protocol: rule.SCTP, Number: n}, half}})
		}
	}
	return more, fewer
}

// toggle lists a step for each of the numbers of a bitmap.
func toggle(v verb, set setID, of numbers) []step {
	var out []step
	for n := range of.all() {
		out = append(out, step{v, element{set: set, port: rule.Port{Number: n}}})
	}
	return out
}

func changedPorts(have, want *image) []rule.Port {
	changed := map[rule.Port]bool{}
	for port, prefixes := range have.admit {
		if !slices.Equal(prefixes, want.admit[port]) {
			changed[port] = true
		}
	}
	for port := range want.admit {
		if _, known := have.admit[port]; !known {
			changed[port] = true
		}
	}
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
