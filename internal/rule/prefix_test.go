package rule

import (
	"math"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestCanonical(t *testing.T) {
	for _, c := range []struct {
		name     string
		in, want []netip.Prefix
	}{
		{"nothing", nil, nil},
		{"host bits go", prefixes("10.8.3.4/16"), prefixes("10.8.0.0/16")},
		{"twice is once", prefixes("10.8.0.0/16", "10.8.1.0/16"), prefixes("10.8.0.0/16")},
		{"the wider one covers", prefixes("10.8.9.0/24", "10.0.0.0/8", "10.8.0.0/16"), prefixes("10.0.0.0/8")},
		{"siblings join", prefixes("10.8.1.0/24", "10.8.0.0/24"), prefixes("10.8.0.0/23")},
		{"neighbours that are no siblings stay", prefixes("10.8.1.0/24", "10.8.2.0/24"), prefixes("10.8.1.0/24", "10.8.2.0/24")},
		{"joining goes all the way up", prefixes("10.0.0.0/32", "10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/30"), prefixes("10.0.0.0/29")},
		{"two halves are the world", prefixes("128.0.0.0/1", "0.0.0.0/1"), prefixes("0.0.0.0/0")},
		{"two halves are the world in IPv6", prefixes("8000::/1", "::/1"), prefixes("::/0")},
		{"families never meet", prefixes("::/0", "0.0.0.0/0"), prefixes("0.0.0.0/0", "::/0")},
		{"IPv4 first", prefixes("2001:db8::/32", "203.0.113.0/24", "10.0.0.0/8"), prefixes("10.0.0.0/8", "203.0.113.0/24", "2001:db8::/32")},
		{"single addresses", prefixes("2001:db8::1/128", "2001:db8::/128"), prefixes("2001:db8::/127")},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Canonical(c.in); !slices.Equal(got, c.want) {
				t.Errorf("Canonical(%v) = %v, want %v", c.in, got, c.want)
			}
		})
	}
}

// small draws prefixes within one /28 of IPv4 or one /124 of IPv6, so that every
// address can be tried: they cover, join and repeat all the time.
var small = rapid.Custom(func(t *rapid.T) netip.Prefix {
	last := rapid.ByteMax(15).Draw(t, "last")
	length := rapid.IntRange(0, 4).Draw(t, "length")
	if rapid.Bool().Draw(t, "IPv6") {
		return netip.PrefixFrom(address6(last), 124+length) // host bits and all
	}
	return netip.PrefixFrom(address4(last), 28+length)
})

func address4(last byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, last}) }

func address6(last byte) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 15: last})
}

// universe is every address that small can hold, and neighbours that it can't.
func universe() (all []netip.Addr) {
	for last := range byte(18) {
		all = append(all, address4(last), address6(last))
	}
	return append(all, netip.MustParseAddr("::ffff:192.0.2.1"))
}

func holds(list []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

func TestCanonicalHasTheSameAddressesInTheFewestPrefixes(t *testing.T) {
	all := universe()
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfN(small, 0, 12).Draw(t, "in")
		before := slices.Clone(in)
		out := Canonical(in)
		if !slices.Equal(in, before) {
			t.Fatalf("the input was changed from %v to %v", before, in)
		}
		for _, a := range all {
			if holds(in, a) != holds(out, a) {
				t.Fatalf("Canonical(%v) = %v: %v was in %v and is in %v", in, out, a, holds(in, a), holds(out, a))
			}
		}
		if fewest := fewest(in); len(out) != fewest {
			t.Fatalf("Canonical(%v) = %v, but %d prefixes would do", in, out, fewest)
		}
		if !slices.IsSortedFunc(out, ComparePrefixes) {
			t.Fatalf("Canonical(%v) = %v is not sorted", in, out)
		}
		if again := Canonical(out); !slices.Equal(again, out) {
			t.Fatalf("Canonical(%v) = %v", out, again)
		}
		if shuffled := Canonical(rapid.Permutation(in).Draw(t, "shuffled")); !slices.Equal(shuffled, out) {
			t.Fatalf("the order of the input shows: %v, %v", out, shuffled)
		}
	})
}

// fewest counts, in either family, the smallest number of prefixes that hold
// exactly the addresses of in: a block that is full is one, else its halves count.
func fewest(in []netip.Prefix) int {
	var count func(address func(byte) netip.Addr, first, size byte) int
	count = func(address func(byte) netip.Addr, first, size byte) int {
		have := 0
		for i := range size {
			if holds(in, address(first+i)) {
				have++
			}
		}
		switch have {
		case 0:
			return 0
		case int(size):
			return 1
		}
		return count(address, first, size/2) + count(address, first+size/2, size/2)
	}
	return count(address4, 0, 16) + count(address6, 0, 16)
}

func TestIntersectHoldsWhatBothHold(t *testing.T) {
	all := universe()
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.SliceOfN(small, 0, 6).Draw(t, "a"), rapid.SliceOfN(small, 0, 6).Draw(t, "b")
		both := Intersect(a, b)
		for _, x := range all {
			if holds(both, x) != (holds(a, x) && holds(b, x)) {
				t.Fatalf("Intersect(%v, %v) = %v: wrong about %v", a, b, both, x)
			}
		}
		if again := Intersect(b, a); !slices.Equal(again, both) {
			t.Fatalf("Intersect is not symmetric: %v, %v", both, again)
		}
		if !slices.Equal(Canonical(both), both) {
			t.Fatalf("Intersect(%v, %v) = %v is not canonical", a, b, both)
		}
	})
}

func TestSubtract(t *testing.T) {
	for _, c := range []struct {
		name       string
		a, b, want []netip.Prefix
	}{
		{"nothing", nil, prefixes("10.0.0.0/8"), nil},
		{"from nothing", prefixes("10.8.0.0/16"), nil, prefixes("10.8.0.0/16")},
		{"a half", prefixes("10.0.0.0/8"), prefixes("10.128.0.0/9"), prefixes("10.0.0.0/9")},
		{"a quarter", prefixes("10.0.0.0/8"), prefixes("10.64.0.0/10"), prefixes("10.0.0.0/10", "10.128.0.0/9")},
		{"all of it", prefixes("10.8.0.0/16"), prefixes("10.0.0.0/9", "10.128.0.0/9"), nil},
		{"what is elsewhere", prefixes("10.8.0.0/16"), prefixes("10.9.0.0/16", "::/0"), prefixes("10.8.0.0/16")},
		{"both ends", prefixes("192.0.2.0/29"), prefixes("192.0.2.0/32", "192.0.2.7/32"), prefixes("192.0.2.1/32", "192.0.2.2/31", "192.0.2.4/31", "192.0.2.6/32")},
		{"of several", prefixes("192.0.2.0/31", "192.0.2.4/31"), prefixes("192.0.2.1/32", "192.0.2.4/32"), prefixes("192.0.2.0/32", "192.0.2.5/32")},
		{"one of the world", prefixes("0.0.0.0/0"), prefixes("128.0.0.0/2"), prefixes("0.0.0.0/1", "192.0.0.0/2")},
		{"the end of IPv6", prefixes("::/0"), prefixes("::/1", "8000::/2"), prefixes("c000::/2")},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Subtract(c.a, c.b); !slices.Equal(got, c.want) {
				t.Errorf("Subtract(%v, %v) = %v, want %v", c.a, c.b, got, c.want)
			}
		})
	}
	if got := Subtract(prefixes("10.0.0.0/8"), prefixes("10.8.9.7/32")); len(got) != 24 {
		t.Errorf("a /8 less a /32 is %v, want 24 prefixes", got)
	}
	if got := Subtract(prefixes("2001:db8::/32"), prefixes("2001:db8::1/128")); len(got) != 96 {
		t.Errorf("a /32 less a /128 is %v, want 96 prefixes", got)
	}
}

func TestSubtractHoldsWhatOnlyTheFirstHolds(t *testing.T) {
	all := universe()
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.SliceOfN(small, 0, 6).Draw(t, "a"), rapid.SliceOfN(small, 0, 6).Draw(t, "b")
		beforeA, beforeB := slices.Clone(a), slices.Clone(b)
		rest := Subtract(a, b)
		for _, x := range all {
			if holds(rest, x) != (holds(a, x) && !holds(b, x)) {
				t.Fatalf("Subtract(%v, %v) = %v: wrong about %v", a, b, rest, x)
			}
		}
		if !slices.Equal(Canonical(rest), rest) {
			t.Fatalf("Subtract(%v, %v) = %v is not canonical", a, b, rest)
		}
		if both := Intersect(a, b); !slices.Equal(Canonical(slices.Concat(rest, both)), Canonical(a)) {
			t.Fatalf("%v less %v is %v, and with what both hold, %v, it is not whole again", a, b, rest, both)
		}
		if !slices.Equal(a, beforeA) || !slices.Equal(b, beforeB) {
			t.Fatal("the input was changed")
		}
	})
}

// On a canonical list, Covers asks about the union.
func TestCoversAsksAboutTheUnion(t *testing.T) {
	all := universe()
	rapid.Check(t, func(t *rapid.T) {
		list, inner := Canonical(rapid.SliceOfN(small, 0, 8).Draw(t, "list")), small.Draw(t, "inner").Masked()
		want := true
		for _, a := range all {
			want = want && (!inner.Contains(a) || holds(list, a))
		}
		if got := Covers(list, inner); got != want {
			t.Fatalf("Covers(%v, %v) = %v", list, inner, got)
		}
	})
}

func TestCoversAllAsksAboutBothUnions(t *testing.T) {
	all := universe()
	rapid.Check(t, func(t *rapid.T) {
		list, inner := Canonical(rapid.SliceOfN(small, 0, 8).Draw(t, "list")), rapid.SliceOfN(small, 0, 4).Draw(t, "inner")
		want := true
		for _, a := range all {
			want = want && (!holds(inner, a) || holds(list, a))
		}
		if got := CoversAll(list, Canonical(inner)); got != want {
			t.Fatalf("CoversAll(%v, %v) = %v", list, inner, got)
		}
	})
}

func TestCountAddresses(t *testing.T) {
	for _, c := range []struct {
		name string
		list []netip.Prefix
		want uint64
	}{
		{"nobody", nil, 0},
		{"one address", prefixes("192.0.2.1/32"), 1},
		{"one address, IPv6", prefixes("2001:db8::1/128"), 1},
		{"a /16", prefixes("10.8.0.0/16"), 1 << 16},
		{"all of IPv4", prefixes("0.0.0.0/0"), 1 << 32},
		{"a network of 64 bits", prefixes("2001:db8::/64"), 1},
		{"half of one", prefixes("2001:db8::/65"), 1},
		{"two addresses of one network", prefixes("2001:db8::1/128", "2001:db8::3/128"), 2},
		{"a /48", prefixes("2001:db8::/48"), 1 << 16},
		{"both families", prefixes("10.0.0.0/8", "192.0.2.0/31", "2001:db8::/56"), 1<<24 + 2 + 256},
		{"half of IPv6", prefixes("8000::/1"), 1 << 63},
		{"all of IPv6 but the first network", allBut("::/64"), math.MaxUint64},
		{"all of IPv6 but the first two", allBut("::/63"), math.MaxUint64 - 1},
		{"all of IPv6", prefixes("::/0"), math.MaxUint64},
		{"half of IPv6 twice, not canonical", prefixes("8000::/1", "8000::/1"), math.MaxUint64},
		{"the world", World, math.MaxUint64},
	} {
		if got := CountAddresses(c.list); got != c.want {
			t.Errorf("%s: CountAddresses = %d, want %d", c.name, got, c.want)
		}
	}
}

// allBut lists what is left of IPv6 without a prefix that begins it.
func allBut(first string) (out []netip.Prefix) {
	for bits := netip.MustParsePrefix(first).Bits(); bits > 0; bits-- {
		half := netip.IPv6Unspecified().As16()
		half[(bits-1)/8] = 1 << (7 - (bits-1)%8)
		out = append(out, netip.PrefixFrom(netip.AddrFrom16(half), bits))
	}
	return Canonical(out)
}

// Of IPv4 every address counts, once.
func TestCountAddressesCounts(t *testing.T) {
	all := universe()
	rapid.Check(t, func(t *rapid.T) {
		list := Canonical(rapid.SliceOfN(small.Filter(func(p netip.Prefix) bool { return p.Addr().Is4() }), 0, 8).Draw(t, "list"))
		want := uint64(0)
		for _, a := range all {
			if holds(list, a) {
				want++
			}
		}
		if got := CountAddresses(list); got != want {
			t.Fatalf("CountAddresses(%v) = %d, want %d", list, got, want)
		}
	})
}

func TestTheWorldHoldsEveryAddress(t *testing.T) {
	for _, a := range []string{"0.0.0.0", "203.0.113.7", "255.255.255.255", "::", "2001:db8::7", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"} {
		if !holds(World, netip.MustParseAddr(a)) {
			t.Errorf("%s is not in the world %v", a, World)
		}
	}
	if got := Canonical(World); !slices.Equal(got, World) {
		t.Errorf("World is not canonical: %v", got)
	}
}

func TestRuleCovers(t *testing.T) {
	atom := func(p Protocol, first, last uint16, source string) Rule {
		return Rule{p, PortRange{first, last}, netip.MustParsePrefix(source)}
	}
	wide := atom(TCP, 30000, 30099, "10.8.0.0/16")
	for _, c := range []struct {
		name  string
		inner Rule
		want  bool
	}{
		{"itself", wide, true},
		{"one port of it", atom(TCP, 30099, 30099, "10.8.0.0/16"), true},
		{"part of its sources", atom(TCP, 30000, 30099, "10.8.9.0/24"), true},
		{"part of both", atom(TCP, 30010, 30020, "10.8.9.9/32"), true},
		{"another protocol", atom(UDP, 30000, 30099, "10.8.0.0/16"), false},
		{"one port below", atom(TCP, 29999, 30099, "10.8.0.0/16"), false},
		{"one port above", atom(TCP, 30000, 30100, "10.8.0.0/16"), false},
		{"wider sources", atom(TCP, 30000, 30099, "10.8.0.0/15"), false},
		{"other sources", atom(TCP, 30000, 30099, "10.9.0.0/16"), false},
		{"the other family", atom(TCP, 30000, 30099, "2001:db8::/32"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := wide.Covers(c.inner); got != c.want {
				t.Errorf("%v covers %v = %v, want %v", wide, c.inner, got, c.want)
			}
		})
	}
}

func TestRulesHaveOneOrder(t *testing.T) {
	atom := func(p Protocol, first, last uint16, source string) Rule {
		return Rule{p, PortRange{first, last}, netip.MustParsePrefix(source)}
	}
	want := []Rule{
		atom(SCTP, 30009, 30009, "10.0.0.0/8"),
		atom(TCP, 30000, 30000, "10.0.0.0/8"),
		atom(TCP, 30000, 30000, "10.0.0.0/16"),
		atom(TCP, 30000, 30000, "2001:db8::/32"),
		atom(TCP, 30000, 30001, "10.0.0.0/8"),
		atom(TCP, 30001, 30001, "10.0.0.0/8"),
		atom(UDP, 30000, 30000, "10.0.0.0/8"),
	}
	rapid.Check(t, func(t *rapid.T) {
		got := rapid.Permutation(want).Draw(t, "shuffled")
		slices.SortFunc(got, CompareRules)
		if !slices.Equal(got, want) {
			t.Fatalf("order %v", got)
		}
	})
}
