package iptables

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/internal/rule"
)

// The small world in which the properties are tried out: every port, and an
// address in every place that the prefixes tell apart.
var (
	tryPorts = func() (out []rule.Port) {
		for n := uint16(1); n <= 3; n++ {
			for _, p := range rule.Protocols {
				out = append(out, rule.Port{Protocol: p, Number: n})
			}
		}
		return out
	}()
	tryAddrs = func() (out []netip.Addr) {
		for last := byte(0); last < 8; last++ {
			out = append(out, netip.AddrFrom4([4]byte{10, 0, 0, last}))
		}
		for _, s := range []string{"10.0.0.9", "200.0.0.1", "2001:db8::", "2001:db8::1", "2001:db8::2", "2001:db8::9", "9000::1"} {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}()
	anyPrefix = rapid.Custom(func(t *rapid.T) netip.Prefix {
		addr := rapid.SampledFrom(tryAddrs).Draw(t, "address")
		bits := addr.BitLen() - rapid.IntRange(0, 3).Draw(t, "wider")
		if rapid.IntRange(0, 9).Draw(t, "everybody") == 0 {
			bits = 0
		}
		return netip.PrefixFrom(addr, bits).Masked()
	})
)

// anySet has gates that may have ended before now, and end in the future.
func anySet(now int64) *rapid.Generator[rule.Set] {
	prefixes := rapid.SliceOfN(anyPrefix, 0, 4)
	few := rapid.SliceOfN(anyPrefix, 0, 2)
	ranges := func(t *rapid.T, least uint16, what string) rule.PortRanges {
		first := rapid.Uint16Range(least, 3).Draw(t, "first "+what)
		return rule.NewPortRanges(rule.PortRange{First: first, Last: rapid.Uint16Range(first, 3).Draw(t, "last "+what)})
	}
	return rapid.Custom(func(t *rapid.T) rule.Set {
		terms := map[rule.Port]rule.Terms{}
		for _, port := range tryPorts {
			if !rapid.Bool().Draw(t, "named") {
				continue
			}
			terms[port] = rule.Terms{
				Sources: prefixes.Draw(t, "sources"), Audited: few.Draw(t, "audited"),
				Limits:  rule.Limits{PerSecond: rapid.Uint32Range(0, 2).Draw(t, "rate")},
				Log:     rule.Log{Denied: rapid.Bool().Draw(t, "denials"), Accepted: rapid.Bool().Draw(t, "accepted"), PerSecond: 3},
				Expires: rapid.SampledFrom([]int64{0, 0, now - 3600, now + 3600, now + 7200, now + 10*maxTimeout}).Draw(t, "expires"),
				Local:   rapid.Bool().Draw(t, "local"),
			}
		}
		set := rule.Build(ranges(t, 1, "judged"), terms).WithAudited(ranges(t, 0, "audited"))
		if rapid.Bool().Draw(t, "denies") {
			set = set.WithDenied(few.Draw(t, "denied"))
		}
		return set
	})
}

// anyImage is also what a crash or a foreign hand leaves: entries of numbers
// that nobody judges, overlapping entries, numbers judged or audited by half, ends
// that nobody comes to, or of half.
func anyImage(now int64) *rapid.Generator[*image] {
	return rapid.Custom(func(t *rapid.T) *image {
		im := imageOf(anySet(now).Draw(t, "set"), now)
		if rapid.Bool().Draw(t, "clean") {
			return im
		}
		for range rapid.IntRange(0, 12).Draw(t, "changes") {
			e := element{port: rapid.SampledFrom(tryPorts).Draw(t, "port")}
			half := rapid.SampledFrom(halves[:]).Draw(t, "half")
			prefix := split([]netip.Prefix{anyPrefix.Draw(t, "prefix")})[0]
			switch e.set = rapid.SampledFrom([]setID{judged, audited, sctp4, sctpAudit4, admit4, aside4, denied4, ends4, alive4}).Draw(t, "set"); e.set {
			case sctp4:
				e.prefix, e.set = half, in(half.Addr(), sctp4, sctp6)
			case sctpAudit4:
				e.prefix, e.set = half, in(half.Addr(), sctpAudit4, sctpAudit6)
			case admit4:
				e.prefix, e.set = prefix, admitSet(prefix)
			case aside4:
				e.prefix, e.set = prefix, asideSet(prefix)
			case denied4:
				e.port, e.prefix, e.set = rule.Port{}, prefix, in(prefix.Addr(), denied4, denied6)
			case ends4:
				e.prefix, e.set, e.second = half, in(half.Addr(), ends4, ends6), now+1800
			case alive4:
				e.prefix, e.set, e.second = half, in(half.Addr(), alive4, alive6), now+1800
			}
			apply(im, step{rapid.SampledFrom([]verb{add, del}).Draw(t, "verb"), e})
		}
		return im
	})
}

// GoString is for rapid's report of a failure: ranges, not pages of bits.
func (im *image) GoString() string {
	out := fmt.Sprintf("judged %v, audited %v", im.judged.ranges(), im.audited.ranges())
	for half := range halves {
		out += fmt.Sprintf(", sctp %v less %v", im.sctp[half].ranges(), im.sctpAudit[half].ranges())
	}
	return out + fmt.Sprintf(", admit %v, aside %v, denied %v, places %v, ends %v, alive %v, %v", im.admit, im.aside, im.denied, im.places, im.ends, im.alive, im.properties)
}

// apply does what the kernel does.
func apply(im *image, s step) {
	list := func(list []netip.Prefix) []netip.Prefix {
		rest := slices.DeleteFunc(slices.Clone(list), func(p netip.Prefix) bool { return p == s.prefix })
		if s.verb == add {
			rest = append(rest, s.prefix)
		}
		slices.SortFunc(rest, rule.ComparePrefixes)
		return rest
	}
	ofPort := func(m map[rule.Port][]netip.Prefix) {
		if m[s.port] = list(m[s.port]); len(m[s.port]) == 0 {
			delete(m, s.port)
		}
	}
	number := func(set *numbers) {
		n := s.port.Number
		set[n/64] |= 1 << (n % 64)
		if s.verb == del {
			set[n/64] &^= 1 << (n % 64)
		}
	}
	second := func(m map[rule.Port]seconds) {
		at := m[s.port]
		if at[halfOf(s.prefix)] = s.second; s.verb == del {
			at[halfOf(s.prefix)] = 0
		}
		if m[s.port] = at; at == (seconds{}) {
			delete(m, s.port)
		}
	}
	switch s.set {
	case judged:
		number(&im.judged)
	case audited:
		number(&im.audited)
	case sctp4, sctp6:
		number(&im.sctp[halfOf(s.prefix)])
	case sctpAudit4, sctpAudit6:
		number(&im.sctpAudit[halfOf(s.prefix)])
	case admit4, admit6:
		ofPort(im.admit)
	case aside4, aside6:
		ofPort(im.aside)
	case denied4, denied6:
		im.denied = list(im.denied)
	case places4, places6:
		im.places = list(im.places)
	case ends4, ends6:
		second(im.ends)
	case alive4, alive6:
		second(im.alive)
	default:
		p, _, _ := parseProperty(s.set)
		if im.properties[p] == nil {
			im.properties[p] = map[rule.Port]halfMask{}
		}
		bit := halfMask(1 << halfOf(s.prefix))
		if im.properties[p][s.port] |= bit; s.verb == del {
			im.properties[p][s.port] &^= bit
		}
		if im.properties[p][s.port] == 0 {
			delete(im.properties[p], s.port)
		}
	}
}

// admits is the verdict of the rules over sets with these contents, in their order.
func (im *image) admits(port rule.Port, source netip.Addr, now int64) bool {
	single := netip.PrefixFrom(source, source.BitLen())
	half := halfOf(single)
	holds := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(source) })
	}
	isJudged, isAudited := im.judged.has(port.Number), im.audited.has(port.Number)
	if port.Protocol == rule.SCTP {
		isJudged, isAudited = im.sctp[half].has(port.Number), im.sctpAudit[half].has(port.Number)
	}
	switch {
	case !isJudged:
		return true
	case holds(im.denied):
		return false
	case im.ends[port][half] != 0 && im.alive[port][half] <= now:
		return false
	}
	return holds(im.admit[port]) || holds(im.aside[port]) || isAudited
}

func clone(im *image) *image {
	out := *im
	out.admit, out.aside, out.ends, out.alive = maps.Clone(im.admit), maps.Clone(im.aside), maps.Clone(im.ends), maps.Clone(im.alive)
	out.properties = map[property]map[rule.Port]halfMask{}
	for p, ports := range im.properties {
		out.properties[p] = maps.Clone(ports)
	}
	return &out
}

// Every state that packets can meet on the way from any image to any set admits
// what both admit; first nothing that the old one did not, then exactly what
// both admit, then nothing that the new one does not.
func TestEveryStateOfAPlanIsHarmless(t *testing.T) {
	const now = 1_000_000_000
	rapid.Check(t, func(t *rapid.T) {
		have, set := anyImage(now).Draw(t, "have"), anySet(now).Draw(t, "want")
		want, state := imageOf(set, now), clone(have)
		p := newPlan(have, want, now)
		compare := func(bound func(old, new bool) bool, what string) {
			for _, port := range tryPorts {
				for _, source := range tryAddrs {
					old, new, passes := have.admits(port, source, now), want.admits(port, source, now), state.admits(port, source, now)
					// Closed when in doubt: one of the two lets pass what it does not
					// judge, or audits, and would not if it judged it.
					single := netip.PrefixFrom(source, source.BitLen())
					against := func(im *image) bool {
						return !im.drops(port, single) && (rule.Covers(im.denied, single) || im.ends[port] != (seconds{}))
					}
					doubt := against(have) || against(want)
					if old && new && !passes && !doubt {
						t.Fatalf("%s: drops %v from %v, which old and new admit", what, port, source)
					}
					if passes && !bound(old, new) {
						t.Fatalf("%s: admits %v from %v (old %t, new %t)", what, port, source, old, new)
					}
				}
			}
		}
		for _, s := range p.prepare {
			apply(state, s)
			compare(func(old, _ bool) bool { return old }, "preparing")
		}
		for _, s := range p.narrow {
			apply(state, s)
			compare(func(old, _ bool) bool { return old }, "narrowing")
		}
		compare(func(old, new bool) bool { return old && new }, "between")
		for _, s := range p.widen {
			apply(state, s)
			compare(func(_, new bool) bool { return new }, "widening")
		}
		for _, s := range p.finish {
			apply(state, s)
			compare(func(_, new bool) bool { return new }, "finishing")
		}
		if !state.equal(want) {
			t.Fatalf("the plan ends at %#v, want %#v", state, want)
		}
		if again := newPlan(state, want, now); len(again.steps()) != 0 {
			t.Fatalf("a second plan has steps: %+v", again)
		}
	})
}

// A change of one port touches the entries that differ, and nothing else.
func TestAPlanTouchesOnlyWhatChanged(t *testing.T) {
	sources := map[rule.Port][]netip.Prefix{}
	for n := uint16(30000); n < 32000; n++ {
		sources[rule.Port{Protocol: rule.TCP, Number: n}] = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	}
	have := imageOf(rule.NewSet(nil, sources), 0)
	port := rule.Port{Protocol: rule.TCP, Number: 30500}
	sources[port] = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("11.0.0.0/8")}
	p := newPlan(have, imageOf(rule.NewSet(nil, sources), 0), 0)
	narrow := []step{
		{add, element{set: admit4, port: port, prefix: netip.MustParsePrefix("10.1.0.0/16")}},
		{del, element{set: admit4, port: port, prefix: netip.MustParsePrefix("10.0.0.0/8")}},
	}
	widen := []step{{add, element{set: admit4, port: port, prefix: netip.MustParsePrefix("11.0.0.0/8")}}}
	if !slices.Equal(p.narrow, narrow) || !slices.Equal(p.widen, widen) || len(p.prepare)+len(p.finish) > 0 {
		t.Errorf("plan = %+v, want %+v and %+v", p, narrow, widen)
	}
}

// What a set becomes as entries reads back as that set, also once gates have ended.
func TestAnImageReadsBackAsTheSetItCameFrom(t *testing.T) {
	const now = 1_000_000_000
	rapid.Check(t, func(t *rapid.T) {
		set := anySet(now).Draw(t, "set")
		if back, what := imageOf(set, now).rules(now); !back.Equal(set) {
			t.Fatalf("rules() = %+v, %q, want %+v", back, what, set)
		}
	})
}

// Dropping TCP on a number and not all of SCTP is damage, not a rule set; so is
// dropping SCTP on a number that is audited, and a gate that ends by half.
func TestHalvesThatDisagreeAreNoSet(t *testing.T) {
	const now = 1_000_000_000
	port := rule.Port{Protocol: rule.TCP, Number: 30005}
	whole := func() *image {
		return imageOf(rule.Build(rule.NewPortRanges(rule.PortRange{First: 30000, Last: 30009}), map[rule.Port]rule.Terms{
			port: {Sources: rule.World, Expires: now + 10, Log: rule.Log{Denied: true}},
		}), now)
	}
	if _, what := whole().rules(now); what != "" {
		t.Fatalf("a whole image is none: %s", what)
	}
	for sentence, s := range map[string]step{
		"judges TCP and not SCTP":         {del, element{set: sctp6, port: rule.Port{Protocol: rule.SCTP, Number: 30005}, prefix: halves[3]}},
		"audits TCP and not SCTP":         {add, element{set: audited, port: rule.Port{Number: 30005}}},
		"ends a gate for some":            {del, element{set: ends4, port: port, prefix: halves[1]}},
		"has ended a gate for some":       {del, element{set: alive6, port: port, prefix: halves[3]}},
		"lets a gate live beyond its end": {add, element{set: alive6, port: port, prefix: halves[3], second: now + 20}},
		"logs for some":                   {del, element{set: property{denials, 1, 0}.set("4"), port: port, prefix: halves[0]}},
		"counts, and has no rule for it":  {add, element{set: property{kind: counted}.set("4"), port: port, prefix: halves[0]}},
	} {
		im := whole()
		apply(im, s)
		if set, what := im.rules(now); what == "" {
			t.Errorf("an image that %s reads as %+v", sentence, set)
		}
	}
	im := whole()
	im.places = nil
	if set, what := im.rules(now); what == "" {
		t.Errorf("an image that judges nowhere reads as %+v", set)
	}
}

// A gate beyond what ipset counts is armed again long before that is over, and not at
// each look.
func TestAFarEndIsArmedAgainInTime(t *testing.T) {
	const end, begin = 1_900_000_000, 1_800_000_000
	until, armings := int64(0), 0
	for now := int64(begin); now < end+10_000; now += 3600 {
		if !armed(end, until, now) {
			until = aliveUntil(end, now)
			armings++
		}
		if ended := until <= now; ended != (now >= end) {
			t.Fatalf("%d s before the end, ended is %t", end-now, ended)
		}
	}
	if most := (end-begin)/(maxTimeout/2) + 2; armings > most {
		t.Errorf("armed %d times, want at most %d", armings, most)
	}
}
