package iptables

import (
	"fmt"
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
	anySet = rapid.Custom(func(t *rapid.T) rule.Set {
		sources := map[rule.Port][]netip.Prefix{}
		for _, port := range tryPorts {
			if rapid.Bool().Draw(t, "named") {
				sources[port] = rapid.SliceOfN(anyPrefix, 0, 4).Draw(t, "sources")
			}
		}
		first := rapid.Uint16Range(1, 3).Draw(t, "first")
		set := rule.NewSet(rule.NewPortRanges(rule.PortRange{First: first, Last: rapid.Uint16Range(first, 3).Draw(t, "last")}), sources)
		first = rapid.Uint16Range(0, 3).Draw(t, "first audited")
		return set.WithAudited(rule.NewPortRanges(rule.PortRange{First: first, Last: rapid.Uint16Range(first, 3).Draw(t, "last audited")}))
	})
	// anyImage is also what a crash or a foreign hand leaves: entries of numbers
	// that nobody judges, overlapping entries, numbers judged or audited by half.
	anyImage = rapid.Custom(func(t *rapid.T) *image {
		im := imageOf(anySet.Draw(t, "set"))
		if rapid.Bool().Draw(t, "clean") {
			return im
		}
		for range rapid.IntRange(0, 12).Draw(t, "changes") {
			e := element{port: rapid.SampledFrom(tryPorts).Draw(t, "port")}
			switch e.set = rapid.SampledFrom([]setID{judged, audited, sctp4, admit4}).Draw(t, "set"); e.set {
			case sctp4:
				e.prefix = rapid.SampledFrom(halves[:]).Draw(t, "half")
				e.set = sctpSet(e.prefix)
			case admit4:
				e.prefix = split([]netip.Prefix{anyPrefix.Draw(t, "prefix")})[0]
				e.set = admitSet(e.prefix)
			}
			apply(im, step{rapid.SampledFrom([]verb{add, del}).Draw(t, "verb"), e})
		}
		return im
	})
)

// GoString is for rapid's report of a failure: ranges, not pages of bits.
func (im *image) GoString() string {
	return fmt.Sprintf("judged %v, audited %v, sctp %v %v %v %v, admit %v", im.judged.ranges(), im.audited.ranges(),
		im.sctp[0].ranges(), im.sctp[1].ranges(), im.sctp[2].ranges(), im.sctp[3].ranges(), im.admit)
}

// apply does what the kernel does.
func apply(im *image, s step) {
	n := s.port.Number
	toggle := func(set *numbers) {
		set[n/64] |= 1 << (n % 64)
		if s.verb == del {
			set[n/64] &^= 1 << (n % 64)
		}
	}
	switch s.set {
	case judged:
		toggle(&im.judged)
	case audited:
		toggle(&im.audited)
	case sctp4, sctp6:
		toggle(&im.sctp[halfOf(s.prefix)])
	default:
		rest := slices.DeleteFunc(slices.Clone(im.admit[s.port]), func(p netip.Prefix) bool { return p == s.prefix })
		if s.verb == add {
			rest = append(rest, s.prefix)
		}
		slices.SortFunc(rest, rule.ComparePrefixes)
		im.admit[s.port] = rest
		if len(rest) == 0 {
			delete(im.admit, s.port)
		}
	}
}

// admits is the verdict of the rules over sets with these contents.
func (im *image) admits(port rule.Port, source netip.Addr) bool {
	return !im.drops(port, netip.PrefixFrom(source, source.BitLen())) ||
		slices.ContainsFunc(im.admit[port], func(p netip.Prefix) bool { return p.Contains(source) })
}

func clone(im *image) *image {
	out := &image{judged: im.judged, audited: im.audited, sctp: im.sctp, admit: map[rule.Port][]netip.Prefix{}}
	for port, prefixes := range im.admit {
		out.admit[port] = slices.Clone(prefixes)
	}
	return out
}

// Every state that packets can meet on the way from any image to any set admits
// what both admit; first nothing that the old one did not, then exactly what
// both admit, then nothing that the new one does not.
func TestEveryStateOfAPlanIsHarmless(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have, set := anyImage.Draw(t, "have"), anySet.Draw(t, "want")
		want, now := imageOf(set), clone(have)
		p := newPlan(have, want)
		compare := func(bound func(old, new bool) bool, what string) {
			for _, port := range tryPorts {
				for _, source := range tryAddrs {
					old, new, passes := have.admits(port, source), set.Admits(port, source), now.admits(port, source)
					if old && new && !passes {
						t.Fatalf("%s: drops %v from %v, which old and new admit", what, port, source)
					}
					if passes && !bound(old, new) {
						t.Fatalf("%s: admits %v from %v (old %t, new %t)", what, port, source, old, new)
					}
				}
			}
		}
		for _, s := range p.narrow {
			apply(now, s)
			compare(func(old, _ bool) bool { return old }, "narrowing")
		}
		compare(func(old, new bool) bool { return old && new }, "between")
		for _, s := range p.widen {
			apply(now, s)
			compare(func(_, new bool) bool { return new }, "widening")
		}
		if !now.equal(want) {
			t.Fatalf("the plan ends at %#v, want %#v", now, want)
		}
		if again := newPlan(now, want); len(again.narrow)+len(again.widen) != 0 {
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
	have := imageOf(rule.NewSet(nil, sources))
	port := rule.Port{Protocol: rule.TCP, Number: 30500}
	sources[port] = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("11.0.0.0/8")}
	p := newPlan(have, imageOf(rule.NewSet(nil, sources)))
	want := plan{
		narrow: []step{
			{add, element{admit4, port, netip.MustParsePrefix("10.1.0.0/16")}},
			{del, element{admit4, port, netip.MustParsePrefix("10.0.0.0/8")}},
		},
		widen: []step{{add, element{admit4, port, netip.MustParsePrefix("11.0.0.0/8")}}},
	}
	if !slices.Equal(p.narrow, want.narrow) || !slices.Equal(p.widen, want.widen) {
		t.Errorf("plan = %+v, want %+v", p, want)
	}
}

// What a set becomes as entries reads back as a set that admits the same.
func TestAnImageReadsBackAsTheSetItCameFrom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := anySet.Draw(t, "set")
		back, ok := imageOf(set).rules()
		if !ok || !slices.Equal(back.Judged, set.Judged) || !slices.Equal(back.Audited, set.Audited) {
			t.Fatalf("rules() = %+v, %t, want %+v", back, ok, set)
		}
		for _, port := range tryPorts {
			if !slices.Equal(back.Sources(port), set.Sources(port)) {
				t.Fatalf("%v: sources %v, want %v", port, back.Sources(port), set.Sources(port))
			}
		}
	})
}

// Dropping TCP on a number and not all of SCTP is damage, not a rule set; so is
// dropping SCTP on a number that is audited.
func TestHalfJudgedNumbersAreNoSet(t *testing.T) {
	im := imageOf(rule.NewSet(rule.NewPortRanges(rule.PortRange{First: 30000, Last: 30009}), nil))
	apply(im, step{del, element{sctp6, rule.Port{Protocol: rule.SCTP, Number: 30005}, halves[3]}})
	if set, ok := im.rules(); ok {
		t.Errorf("an image that judges TCP and not SCTP reads as %+v", set)
	}
	im = imageOf(rule.NewSet(rule.NewPortRanges(rule.PortRange{First: 30000, Last: 30009}), nil))
	apply(im, step{add, element{set: audited, port: rule.Port{Number: 30005}}})
	if set, ok := im.rules(); ok {
		t.Errorf("an image that audits TCP and drops SCTP reads as %+v", set)
	}
}
