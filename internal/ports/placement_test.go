package ports

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/internal/rule"
)

// street is a pool as a picture: a letter for each number in use, by its sources;
// z admits nobody, # is in use and nobody's neighbour, _ is free, | is outside.
type street string

const firstHouse = 30000

func (s street) read() (pools []Pool, taken Numbers, neighbours map[uint16]string) {
	neighbours = map[uint16]string{}
	var ranges []rule.PortRange
	for i, c := range string(s) {
		n := uint16(firstHouse + i)
		if c != '|' {
			ranges = append(ranges, rule.PortRange{First: n, Last: n})
		}
		if !strings.ContainsRune("_|", c) {
			taken.Add(n)
		}
		if !strings.ContainsRune("_|#", c) {
			neighbours[n] = sourcesOf(c)
		}
	}
	return []Pool{{Name: "street", Ranges: rule.NewPortRanges(ranges...), BySource: true}}, taken, neighbours
}

func sourcesOf(c rune) string {
	if c == 'z' {
		return ""
	}
	return string(c)
}

// settle draws the picture after all requests were served, new numbers in capitals.
func (s street) settle(requests ...Request) string {
	pools, taken, neighbours := s.read()
	for i := range requests {
		requests[i].Pools = []string{"street"}
	}
	out := []byte(s)
	for i, c := range Choose(requests, pools, taken, neighbours) {
		if c.Outcome == Chosen {
			out[c.Number-firstHouse] = strings.ToUpper(requests[i].Sources + "z")[0]
		}
	}
	return string(out)
}

func TestPlacementBySource(t *testing.T) {
	for _, c := range []struct {
		name     string
		street   street
		arrivals string
		want     string
	}{
		{"into a hole of its own run", "aa_aa___b__a_", "a", "aaAaa___b__a_"},
		{"into the shortest hole", "a__a_a____", "a", "a__aAa____"},
		{"into a longer hole before the end of a run", "a__a________", "a", "aA_a________"},
		{"holes first, then the end with most room", "a_a_b___a_____", "aaa", "aAa_b___aAA___"},
		{"the end with most room, also downwards", "b_____a__b", "a", "b____Aa__b"},
		{"the rest to the next end when one is full", "b__a_bbbb___", "aaa", "bAAaAbbbb___"},
		{"a number that rests heals nothing", "a#_b__a___", "a", "a#_b__aA__"},
		{"new sources into the middle of the largest gap", "a_____b__", "c", "a__C__b__"},
		{"new sources side by side", "a______b__", "ccc", "a_CCC__b__"},
		{"new sources with room for each to grow", "____________", "ababb", "__BBB__AA___"},
		{"new sources without a number to spare", "_____", "babab", "BBBAA"},
		{"packed tightly when a run would be cut else", "__________#______", "aaaaaabbbbbccccc", "BBBBBCCCCC#AAAAAA"},
		{"cut only where there is no room", "__#_#___", "aaaaa", "AA#_#AAA"},
		{"the last free number", "abc_ba", "d", "abcDba"},
		{"who admits nobody heals no hole of others", "a_a__b_z____", "z", "a_a__b_zZ___"},
		{"who admits nobody stands beside what rests", "a_a_#___b", "z", "a_a_#Z__b"},
		{"a run beside the range goes on in it", "a_a|a____|_____", "a", "aAa|a____|_____"},
		{"no neighbour across what is outside", "a|____|____b", "a", "a|_A__|____b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var requests []Request
			for _, a := range c.arrivals {
				requests = append(requests, Request{Sources: sourcesOf(a)})
			}
			if got := c.street.settle(requests...); got != c.want {
				t.Errorf("%s with %s\n is %s, want %s", c.street, c.arrivals, got, c.want)
			}
		})
	}
}

func TestPlacementSeesWhatIsPinnedAndPreferredInTheSameCall(t *testing.T) {
	got := street("____________").settle(
		Request{Sources: "a"},
		Request{Sources: "a", Pin: firstHouse + 2},
		Request{Sources: "b"},
		Request{Sources: "b", Prefer: []uint16{firstHouse + 11}},
		Request{Sources: "a", Prefer: []uint16{firstHouse + 4}},
	)
	if want := "__AAA_____BB"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPlacementSeesNeighboursOutsideThePool(t *testing.T) {
	pools := []Pool{{Name: "street", Ranges: rule.PortRanges{{First: 30000, Last: 30009}}, BySource: true}}
	a := []Request{{Sources: "a", Pools: []string{"street"}}}
	if got := Choose(a, pools, numbers(29999), map[uint16]string{29999: "a"})[0].Number; got != 30000 {
		t.Errorf("beside 29999 comes %d", got)
	}
	if got := Choose(a, pools, numbers(30010), map[uint16]string{30010: "a"})[0].Number; got != 30009 {
		t.Errorf("beside 30010 comes %d", got)
	}
}

func TestPlacementReachesBothEndsOfTheNumbers(t *testing.T) {
	for _, span := range []rule.PortRange{{First: 0, Last: 2}, {First: 65533, Last: 65535}} {
		pools := []Pool{{Name: "end", Ranges: rule.PortRanges{span}, BySource: true}}
		for _, sources := range []string{"", "a", "b", "c"} { // each has another home
			r := Request{Sources: sources, Pools: []string{"end"}}
			var got []uint16
			for i, c := range Choose([]Request{r, r, r, r}, pools, Numbers{}, nil) {
				if want := (i == 3); want != (c.Outcome == Exhausted) {
					t.Fatalf("request %d for %v: %+v", i, span, c)
				}
				got = append(got, c.Number)
			}
			if !slices.Equal(got[:3], []uint16{span.First, span.First + 1, span.Last}) {
				t.Errorf("%v is given as %v", span, got)
			}
		}
	}
}

// TestPlacementKeepsEqualSourcesTogether: in one gap all fit, each in one run.
func TestPlacementKeepsEqualSourcesTogether(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sources := rapid.SliceOfN(rapid.StringMatching("[a-e]"), 1, 60).Draw(t, "sources")
		spare := rapid.IntRange(0, 20).Draw(t, "spare")
		requests := make([]Request, len(sources))
		for i, s := range sources {
			requests[i].Sources = s
		}
		got := street(strings.Repeat("_", len(sources)+spare)).settle(requests...)
		runs := map[byte]int{}
		for i := range got {
			if i == 0 || got[i] != got[i-1] {
				runs[got[i]]++
			}
		}
		delete(runs, '_')
		for letter, n := range runs {
			if n > 1 {
				t.Errorf("%c is cut into %d: %s", letter, n, got)
			}
		}
	})
}

// TestPlacementCutsNoNewRunThatFits: new sources that fit into some gap are not cut.
func TestPlacementCutsNoNewRunThatFits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching("[_b#]{1,60}").Draw(t, "street")
		longest := 0
		for _, gap := range strings.FieldsFunc(s, func(c rune) bool { return c != '_' }) {
			longest = max(longest, len(gap))
		}
		n := rapid.IntRange(0, longest).Draw(t, "arrivals")
		requests := make([]Request, n)
		for i := range requests {
			requests[i].Sources = "a"
		}
		if got := street(s).settle(requests...); !strings.Contains(got, strings.Repeat("A", n)) {
			t.Errorf("%d new in %s are cut: %s", n, s, got)
		}
	})
}
