package rule

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

func TestNarrowed(t *testing.T) {
	pool := NewPortRanges(PortRange{30000, 30009})
	tcp := Port{TCP, 30000}
	set := func(sources ...string) Set {
		return NewSet(pool, map[Port][]netip.Prefix{tcp: prefixes(sources...)})
	}
	refusing := Build(pool, map[Port]Terms{tcp: {Sources: prefixes("10.0.0.0/8"), Refuse: true}})
	world := map[Port][]netip.Prefix{}
	for _, p := range Protocols {
		world[Port{p, 30000}] = World
	}
	for _, c := range []struct {
		name       string
		have, want Set
		narrowed   []string
	}{
		{"nothing changed", set("10.0.0.0/8"), set("10.0.0.0/8"), nil},
		{"a source was added", set("10.0.0.0/8"), set("10.0.0.0/8", "11.0.0.0/8"), nil},
		{"a source grew", set("10.0.0.0/16"), set("10.0.0.0/8"), nil},
		{"a source shrank", set("10.0.0.0/8"), set("10.0.0.0/16"), []string{"30000"}},
		{"a source went", set("10.0.0.0/8", "2001:db8::/48"), set("10.0.0.0/8"), []string{"30000"}},
		{"the port closed", set("10.0.0.0/8"), set(), []string{"30000"}},
		{"a source came to be refused", set("10.0.0.0/8"), refusing, []string{"30000"}},
		{"a source is no longer refused", refusing, set("10.0.0.0/8"), nil},
		{"a source is refused no more, and dropped", refusing, set(), nil},
		{"the pool came", Set{}, NewSet(pool, nil), []string{"30000-30009"}},
		{"the pool came, open to the world", Set{}, NewSet(nil, world), nil},
		{"the pool went", NewSet(pool, nil), Set{}, nil},
		{"the pool came, audited", Set{}, NewSet(pool, nil).WithAudited(pool), nil},
		{"the audited pool went", NewSet(pool, nil).WithAudited(pool), Set{}, nil},
		{"auditing began, and the source went", set("10.0.0.0/8"), set().WithAudited(pool), nil},
		{"auditing ended", set("10.0.0.0/8").WithAudited(pool), set("10.0.0.0/8"), []string{"30000-30009"}},
		{"auditing ended on a part", set().WithAudited(pool), set().WithAudited(NewPortRanges(PortRange{30003, 30009})), []string{"30000-30002"}},
		{"auditing ended, open to the world", NewSet(nil, world).WithAudited(pool), NewSet(nil, world), nil},
		{"a source went, audited before and after", set("10.0.0.0/8").WithAudited(pool), set().WithAudited(pool), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Narrowed(c.have, c.want).Numbers().Strings(); !slices.Equal(got, c.narrowed) {
				t.Errorf("Narrowed = %v, want %v", got, c.narrowed)
			}
		})
	}
}

// A number is narrowed exactly when some packet passed before and does not now;
// with sources drawn from a /29, trying its eight addresses and one outside
// tries them all.
func TestNarrowedFindsExactlyTheNumbersThatLostASource(t *testing.T) {
	source := rapid.Custom(func(t *rapid.T) netip.Prefix {
		last := rapid.ByteMax(7).Draw(t, "last")
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, last}), rapid.IntRange(29, 32).Draw(t, "bits")).Masked()
	})
	number := rapid.Custom(func(t *rapid.T) PortRange {
		n := rapid.Uint16Range(1, 4).Draw(t, "number")
		return PortRange{n, n}
	})
	set := rapid.Custom(func(t *rapid.T) Set {
		sources := map[Port][]netip.Prefix{}
		for n := uint16(1); n <= 4; n++ {
			if rapid.Bool().Draw(t, "named") {
				sources[Port{rapid.SampledFrom(Protocols).Draw(t, "protocol"), n}] = rapid.SliceOfN(source, 0, 3).Draw(t, "sources")
			}
		}
		first := rapid.Uint16Range(1, 4).Draw(t, "first")
		judged := NewPortRanges(PortRange{first, rapid.Uint16Range(first, 4).Draw(t, "last")})
		return NewSet(judged, sources).WithAudited(NewPortRanges(rapid.SliceOfN(number, 0, 2).Draw(t, "audited")...))
	})
	rapid.Check(t, func(t *rapid.T) {
		have, want := set.Draw(t, "have"), set.Draw(t, "want")
		lost := map[Protocol][]PortRange{}
		for n := uint16(1); n <= 4; n++ {
			for last := byte(0); last <= 8; last++ {
				for _, protocol := range Protocols {
					p, a := Port{protocol, n}, netip.AddrFrom4([4]byte{10, 0, 0, last})
					if have.Admits(p, a) && !want.Admits(p, a) {
						lost[protocol] = append(lost[protocol], PortRange{n, n})
					}
				}
			}
		}
		got := Narrowed(have, want)
		for _, protocol := range Protocols {
			if expect := NewPortRanges(lost[protocol]...); !slices.Equal(got[protocol], expect) {
				t.Errorf("Narrowed = %v of %s, want %v", got[protocol], protocol, expect)
			}
		}
	})
}

// A port that one protocol lost is not looked for by the others: a sweep goes through
// the kernel's table of connections for each of them.
func TestNarrowedNamesTheProtocolThatLostASource(t *testing.T) {
	pool := NewPortRanges(PortRange{30000, 30009})
	tcp, udp := Port{TCP, 30000}, Port{UDP, 30000}
	have := NewSet(pool, map[Port][]netip.Prefix{tcp: prefixes("10.0.0.0/8"), udp: prefixes("10.0.0.0/8")})
	want := NewSet(pool, map[Port][]netip.Prefix{udp: prefixes("10.0.0.0/8")})
	lost := Narrowed(have, want)
	if !lost.Contains(tcp) || lost.Contains(udp) || len(lost) != 1 {
		t.Errorf("Narrowed = %v, want TCP's 30000 alone", lost)
	}
}
