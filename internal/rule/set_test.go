package rule

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestEqualSourcesAreOneClass(t *testing.T) {
	set := NewSet(nil, map[Port][]netip.Prefix{
		{TCP, 30000}: prefixes("10.8.0.0/16", "2001:db8::/48"),
		{UDP, 30000}: prefixes("2001:db8::/48", "10.8.128.0/17", "10.8.0.0/17"), // the same, spelled otherwise
		{TCP, 30001}: prefixes("10.9.0.0/16"),
		{TCP, 30002}: nil,
		{TCP, 30003}: {},
	})
	if len(set.Classes) != 2 {
		t.Errorf("two sets of sources are %d classes: %v", len(set.Classes), set.Classes)
	}
	if a, b := set.Ports.Get(Port{TCP, 30000}), set.Ports.Get(Port{UDP, 30000}); a != b {
		t.Errorf("equal sources have the classes %v and %v", a, b)
	}
	if got := set.Sources(Port{UDP, 30000}); !slices.Equal(got, prefixes("10.8.0.0/16", "2001:db8::/48")) {
		t.Errorf("the sources are not canonical: %v", got)
	}
	if got := set.Judged.Strings(); !slices.Equal(got, []string{"30000-30003"}) {
		t.Errorf("ports outside the judged ranges are not judged: %v", got)
	}
	var got []Port
	for port := range set.Ports.All {
		got = append(got, port)
	}
	if !slices.Equal(got, []Port{{TCP, 30000}, {UDP, 30000}, {TCP, 30001}}) {
		t.Errorf("ports in order: %v", got)
	}
}

// A class is named by its content alone, alike on every node and in every
// release: the hash of the list of its prefixes, one to a line. The value is
// that of
//
//	printf '10.8.0.0/16\n2001:db8::/48\n' | sha256sum | cut -c-32
func TestClassesKeepTheirNames(t *testing.T) {
	set := NewSet(nil, map[Port][]netip.Prefix{{TCP, 1}: prefixes("10.8.0.0/16", "2001:db8::/48"), {TCP, 2}: nil})
	for port, want := range map[Port]ClassID{{TCP, 1}: "00c2577b076f86f40182840ddf3cbd11", {TCP, 2}: ""} {
		if got := set.Ports.Get(port).Class; got != want {
			t.Errorf("class of %v is %s, want %s", port, got, want)
		}
	}
}

func TestSetEqual(t *testing.T) {
	pool := NewPortRanges(PortRange{30000, 30009})
	set := func(judged PortRanges, number uint16, sources ...string) Set {
		return NewSet(judged, map[Port][]netip.Prefix{{TCP, number}: prefixes(sources...)})
	}
	base := set(pool, 30000, "10.0.0.0/8")
	for _, c := range []struct {
		name  string
		other Set
		want  bool
	}{
		{"itself, built again", set(pool, 30000, "10.128.0.0/9", "10.0.0.0/9"), true},
		{"other sources", set(pool, 30000, "10.0.0.0/9"), false},
		{"another port", set(pool, 30001, "10.0.0.0/8"), false},
		{"closed", set(pool, 30000), false},
		{"one closed port more, which is judged all the same", NewSet(pool, map[Port][]netip.Prefix{{TCP, 30000}: prefixes("10.0.0.0/8"), {UDP, 30000}: nil}), true},
		{"one port more", NewSet(pool, map[Port][]netip.Prefix{{TCP, 30000}: prefixes("10.0.0.0/8"), {UDP, 30000}: prefixes("10.0.0.0/8")}), false},
		{"fewer judged", set(NewPortRanges(PortRange{30000, 30008}), 30000, "10.0.0.0/8"), false},
		{"nothing", Set{}, false},
		{"audited", base.WithAudited(pool), false},
		{"audited where nothing is judged", base.WithAudited(NewPortRanges(PortRange{30010, 30019})), true},
		{"no longer audited", base.WithAudited(pool).WithAudited(nil), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := base.Equal(c.other); got != c.want {
				t.Errorf("Equal = %v, want %v", got, c.want)
			}
			if got := c.other.Equal(base); got != c.want {
				t.Errorf("Equal the other way round = %v, want %v", got, c.want)
			}
		})
	}
	if !(Set{}).Empty() || base.Empty() || !(Set{}).Equal(NewSet(nil, nil)) {
		t.Error("only the set that judges nothing is empty")
	}
}

func TestSetAdmits(t *testing.T) {
	set := NewSet(NewPortRanges(PortRange{30000, 30009}), map[Port][]netip.Prefix{
		{TCP, 30000}: prefixes("10.8.0.0/16", "2001:db8::/48"),
		{TCP, 30001}: nil,
	})
	for _, c := range []struct {
		name   string
		port   Port
		source string
		want   bool
	}{
		{"a source of its class", Port{TCP, 30000}, "10.8.255.255", true},
		{"a source of its class, IPv6", Port{TCP, 30000}, "2001:db8:0:ffff::1", true},
		{"the next address", Port{TCP, 30000}, "10.9.0.0", false},
		{"another protocol of the number", Port{UDP, 30000}, "10.8.0.1", false},
		{"a closed port", Port{TCP, 30001}, "10.8.0.1", false},
		{"a judged port without a class", Port{TCP, 30009}, "10.8.0.1", false},
		{"a port below", Port{TCP, 29999}, "203.0.113.7", true},
		{"a port above", Port{UDP, 30010}, "203.0.113.7", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := set.Admits(c.port, netip.MustParseAddr(c.source)); got != c.want {
				t.Errorf("Admits(%v, %s) = %v, want %v", c.port, c.source, got, c.want)
			}
		})
	}
}

func TestAuditedNumbersAdmitEverybody(t *testing.T) {
	pool := NewPortRanges(PortRange{30000, 30009})
	plain := NewSet(pool, map[Port][]netip.Prefix{{TCP, 30005}: prefixes("10.8.0.0/16")})
	set := plain.WithAudited(NewPortRanges(PortRange{29990, 30002}, PortRange{30005, 30006}))
	if got := set.Audited.Strings(); !slices.Equal(got, []string{"30000-30002", "30005-30006"}) {
		t.Errorf("more is audited than judged: %v", got)
	}
	if len(plain.Audited) > 0 || set.Empty() {
		t.Errorf("the set was changed to %v, or its copy is empty: %v", plain, set)
	}
	stranger := netip.MustParseAddr("203.0.113.7")
	for n := uint16(29999); n <= 30010; n++ {
		for _, p := range Protocols {
			want := !pool.Contains(n) || set.Audited.Contains(n)
			if got := set.Admits(Port{p, n}, stranger); got != want {
				t.Errorf("Admits(%v, %v) = %v", Port{p, n}, stranger, got)
			}
		}
	}
	if got := set.Sources(Port{TCP, 30005}); !slices.Equal(got, prefixes("10.8.0.0/16")) {
		t.Errorf("auditing made the sources %v", got)
	}
}

// Whatever is put in, a set admits what was asked for, judges at least what was
// asked for, leaves its input alone, and is equal exactly when it does the same.
func TestSetSaysWhatItWasBuiltFrom(t *testing.T) {
	all := universe()
	sourcesByPort := rapid.MapOfN(
		rapid.Custom(func(t *rapid.T) Port {
			return Port{rapid.SampledFrom(Protocols).Draw(t, "protocol"), rapid.Uint16Range(1, 5).Draw(t, "number")}
		}),
		rapid.SliceOfN(small, 0, 4), 0, 6)
	judgedNumbers := rapid.Custom(func(t *rapid.T) PortRanges {
		first := rapid.Uint16Range(1, 6).Draw(t, "first")
		return NewPortRanges(PortRange{first, rapid.Uint16Range(first, 6).Draw(t, "last")})
	})
	admitted := func(s Set) (out []bool) {
		for n := uint16(0); n < 8; n++ {
			for _, p := range Protocols {
				for _, a := range all {
					out = append(out, s.Admits(Port{p, n}, a))
				}
			}
		}
		return out
	}
	rapid.Check(t, func(t *rapid.T) {
		sources, judged := sourcesByPort.Draw(t, "sources"), judgedNumbers.Draw(t, "judged")
		before := maps.Clone(sources)
		set := NewSet(judged, sources)
		if !maps.EqualFunc(before, sources, slices.Equal) {
			t.Fatalf("the input was changed from %v to %v", before, sources)
		}
		for n := uint16(0); n < 8; n++ {
			for _, p := range Protocols {
				asked, named := sources[Port{p, n}]
				if named && !set.Judged.Contains(n) {
					t.Fatalf("%v has sources and is not judged: %v", Port{p, n}, set.Judged)
				}
				for _, a := range all {
					if want := !set.Judged.Contains(n) || holds(asked, a); set.Admits(Port{p, n}, a) != want {
						t.Fatalf("%v: Admits(%v, %v) = %v", set, Port{p, n}, a, !want)
					}
				}
			}
		}
		if len(judged.Subtract(set.Judged)) > 0 {
			t.Fatalf("judges %v, less than %v", set.Judged, judged)
		}
		if len(set.Classes) > set.Ports.Len() {
			t.Fatalf("%d classes for %d ports", len(set.Classes), set.Ports.Len())
		}
		other := NewSet(judgedNumbers.Draw(t, "other judged"), sourcesByPort.Draw(t, "other sources"))
		if set.Equal(other) && !slices.Equal(admitted(set), admitted(other)) {
			t.Fatalf("equal, but not the same: %v, %v", set, other)
		}
	})
}
