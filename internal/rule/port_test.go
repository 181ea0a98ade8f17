package rule

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParsePortRange(t *testing.T) {
	for _, c := range []struct {
		text string
		want PortRange
	}{
		{"1", PortRange{1, 1}},
		{"30180", PortRange{30180, 30180}},
		{"65535", PortRange{65535, 65535}},
		{"30000-30099", PortRange{30000, 30099}},
		{"30000-30000", PortRange{30000, 30000}},
		{"1-65535", PortRange{1, 65535}},
	} {
		if got, err := ParsePortRange(c.text); err != nil || got != c.want {
			t.Errorf("ParsePortRange(%q) = %v, %v, want %v", c.text, got, err, c.want)
		}
	}
}

// Each error names the value as it was written and says what would be right.
func TestParsePortRangeRefusesWithRemedy(t *testing.T) {
	for text, remedy := range map[string]string{
		"":                `"" is not a port number from 1 to 65535`,
		"0":               `"0" is not a port number from 1 to 65535`,
		"65536":           `"65536" is not a port number from 1 to 65535`,
		"030080":          `"030080" is not a port number`,
		"+30080":          `"+30080" is not a port number`,
		"-30080":          `"" is not a port number`,
		"30080-":          `"" is not a port number`,
		"30080 - 30090":   `"30080 " is not a port number`,
		"30000-30099-1":   `"30099-1" is not a port number`,
		"30000,30001":     `"30000,30001" is not a port number`,
		"30_000":          `"30_000" is not a port number`,
		"0x7530":          `"0x7530" is not a port number`,
		"30000:30099":     `"30000:30099" is not a port number`,
		"٣٠٠٨٠":           `is not a port number`,
		"30099-30000":     "ends before it begins; write 30000-30099",
		"30000-70000":     `"70000" is not a port number`,
		"99999999999-2":   `"99999999999" is not a port number`,
		"30000–30099":     "is not a port number", // an en dash, as word processors write it
		"30000-30099\n":   "is not a port number",
		"\x0030000-30099": "is not a port number",
	} {
		got, err := ParsePortRange(text)
		if err == nil {
			t.Errorf("ParsePortRange(%q) = %v, want an error", text, got)
			continue
		}
		if !strings.Contains(err.Error(), remedy) {
			t.Errorf("ParsePortRange(%q): error %q does not say %q", text, err, remedy)
		}
	}
}

func FuzzParsePortRange(f *testing.F) {
	for _, seed := range []string{"1", "30000-30099", "65535", "0", "030", "2-1", "-", "", "1-", "1-2-3", "+1", "９"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParsePortRange(text)
		if err != nil {
			if r != (PortRange{}) {
				t.Fatalf("ParsePortRange(%q) = %v beside the error %v", text, r, err)
			}
			return
		}
		if r.First == 0 || r.First > r.Last {
			t.Fatalf("ParsePortRange(%q) = %d-%d", text, r.First, r.Last)
		}
		if again, err := ParsePortRange(r.String()); err != nil || again != r {
			t.Fatalf("%q is spelled %q, which reads %v, %v", text, r, again, err)
		}
		if r.First != r.Last && r.String() != text {
			t.Fatalf("%q has a second spelling, %q", text, r)
		}
	})
}

func TestParsePortRangesJoinsAndFailsAsAWhole(t *testing.T) {
	got, err := ParsePortRanges([]string{"30010-30020", "30000", "30001-30009", "30040"})
	if err != nil || !slices.Equal(got.Strings(), []string{"30000-30020", "30040"}) {
		t.Errorf("ParsePortRanges = %v, %v", got.Strings(), err)
	}
	if got, err := ParsePortRanges([]string{"30000", "x"}); err == nil || got != nil {
		t.Errorf("ParsePortRanges = %v, %v, want only an error", got, err)
	}
	if got, err := ParsePortRanges(nil); err != nil || got.Len() != 0 {
		t.Errorf("ParsePortRanges of nothing = %v, %v", got, err)
	}
}

func TestPortRangesAtTheEdges(t *testing.T) {
	all := NewPortRanges(PortRange{0, 65535})
	if all.Len() != 65536 || !all.Contains(0) || !all.Contains(65535) {
		t.Errorf("all ports: Len %d, Contains(0) %v, Contains(65535) %v", all.Len(), all.Contains(0), all.Contains(65535))
	}
	if got := NewPortRanges(PortRange{65535, 65535}, PortRange{0, 0}, PortRange{1, 65534}); !slices.Equal(got, all) {
		t.Errorf("the three parts of all ports are %v", got)
	}
	if got := all.Subtract(NewPortRanges(PortRange{0, 0}, PortRange{65535, 65535})); !slices.Equal(got.Strings(), []string{"1-65534"}) {
		t.Errorf("all ports but the outermost are %v", got.Strings())
	}
	if got := all.Subtract(all); len(got) != 0 || got.Contains(0) || got.Len() != 0 {
		t.Errorf("nothing is %v", got)
	}
	var first []uint16
	for n := range all.Numbers {
		if first = append(first, n); len(first) == 3 {
			break
		}
	}
	if !slices.Equal(first, []uint16{0, 1, 2}) {
		t.Errorf("the first numbers are %v", first)
	}
}

// model is the set of numbers up to modelSize as a map: no cleverness to err in.
type model [modelSize]bool

const modelSize = 70

func modelOf(ranges []PortRange) (m model) {
	for _, r := range ranges {
		for n := r.First; n <= r.Last; n++ {
			m[n] = true
		}
	}
	return m
}

func (m model) with(o model, keep func(a, b bool) bool) (out model) {
	for n := range m {
		out[n] = keep(m[n], o[n])
	}
	return out
}

var anyRanges = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) PortRange {
	first := rapid.Uint16Range(0, modelSize-1).Draw(t, "first")
	return PortRange{first, rapid.Uint16Range(first, modelSize-1).Draw(t, "last")}
}), 0, 8)

func TestPortRangesAreSetsOfNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		listA, listB := anyRanges.Draw(t, "a"), anyRanges.Draw(t, "b")
		before := slices.Clone(listA)
		a, b := NewPortRanges(listA...), NewPortRanges(listB...)
		inA, inB := modelOf(listA), modelOf(listB)
		for _, c := range []struct {
			name string
			got  PortRanges
			want model
		}{
			{"a", a, inA},
			{"a ∪ b", a.Union(b), inA.with(inB, func(x, y bool) bool { return x || y })},
			{"a ∩ b", a.Intersect(b), inA.with(inB, func(x, y bool) bool { return x && y })},
			{"a ∖ b", a.Subtract(b), inA.with(inB, func(x, y bool) bool { return x && !y })},
		} {
			var numbers []uint16
			for n, in := range c.want {
				if in {
					numbers = append(numbers, uint16(n))
				}
				if c.got.Contains(uint16(n)) != in {
					t.Fatalf("%s = %v: Contains(%d) = %v", c.name, c.got, n, !in)
				}
			}
			if got := slices.Collect(c.got.Numbers); !slices.Equal(got, numbers) {
				t.Fatalf("%s = %v: Numbers are %v, want %v", c.name, c.got, got, numbers)
			}
			if c.got.Len() != len(numbers) {
				t.Fatalf("%s = %v: Len is %d, want %d", c.name, c.got, c.got.Len(), len(numbers))
			}
			requireCanonical(t, c.name, c.got)
		}
		if !slices.Equal(listA, before) {
			t.Fatalf("the input was changed from %v to %v", before, listA)
		}
		if again := NewPortRanges(rapid.Permutation(listA).Draw(t, "shuffled")...); !slices.Equal(again, a) {
			t.Fatalf("the order of the input shows: %v, %v", a, again)
		}
	})
}

// requireCanonical: sorted, disjoint, not even adjacent, so that equal sets are
// equal slices.
func requireCanonical(t *rapid.T, name string, s PortRanges) {
	for i, r := range s {
		if r.First > r.Last || i > 0 && int(r.First) <= int(s[i-1].Last)+1 {
			t.Fatalf("%s = %v is not canonical", name, s)
		}
	}
}

func TestPortRangesSpellingsAreRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ranges := NewPortRanges(anyRanges.Draw(t, "ranges")...).Subtract(NewPortRanges(PortRange{0, 0}))
		if back, err := ParsePortRanges(ranges.Strings()); err != nil || !slices.Equal(back, ranges) {
			t.Fatalf("%v is spelled %q, which reads %v, %v", ranges, ranges.Strings(), back, err)
		}
	})
}

func TestPortsAreOrderedByNumberThenProtocol(t *testing.T) {
	ports := []Port{{UDP, 30000}, {TCP, 30001}, {TCP, 30000}, {SCTP, 30000}, {SCTP, 65535}}
	slices.SortFunc(ports, ComparePorts)
	var texts []string
	for _, p := range ports {
		texts = append(texts, p.String())
	}
	if got := strings.Join(texts, " "); got != "sctp/30000 tcp/30000 udp/30000 tcp/30001 sctp/65535" {
		t.Errorf("order: %s", got)
	}
	if !slices.IsSorted(Protocols) {
		t.Errorf("Protocols %v are not in canonical order", Protocols)
	}
}

// Each of these, dropped, locks people out of a node or a cluster.
func TestFailSafePortsAreListed(t *testing.T) {
	want := []string{"22", "53", "179", "443", "2379-2380", "6443", "10248-10259"}
	if got := FailSafe.Strings(); !slices.Equal(got, want) {
		t.Errorf("FailSafe = %v, want %v", got, want)
	}
}
