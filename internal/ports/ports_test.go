package ports

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/internal/rule"
)

func pool(t testing.TB, name string, ranges ...string) Pool {
	t.Helper()
	parsed, err := rule.ParsePortRanges(ranges)
	if err != nil {
		t.Fatal(err)
	}
	return Pool{Name: name, Ranges: parsed}
}

func numbers(list ...uint16) (set Numbers) {
	for _, n := range list {
		set.Add(n)
	}
	return set
}

func TestChoose(t *testing.T) {
	web, api := pool(t, "web", "30000-30002"), pool(t, "api", "30100", "30200-30201")
	from := func(pools ...string) Request { return Request{Pools: pools} }
	pin := func(n uint16, pools ...string) Request { return Request{Pin: n, Pools: pools} }
	chosen := func(n uint16, pool string) Choice { return Choice{Outcome: Chosen, Number: n, Pool: pool} }
	waits := func(ahead int) Choice { return Choice{Outcome: Exhausted, Ahead: ahead} }
	for _, c := range []struct {
		name     string
		requests []Request
		taken    []uint16
		want     []Choice
	}{
		{"nobody asks", nil, nil, []Choice{}},
		{"the lowest free number", []Request{from("web"), from("web")}, []uint16{30000}, []Choice{chosen(30001, "web"), chosen(30002, "web")}},
		{"from range to range", []Request{from("api"), from("api")}, []uint16{30200}, []Choice{chosen(30100, "api"), chosen(30201, "api")}},
		{"the first pool that has one, in the order of the request", []Request{from("api", "web"), from("web", "api")}, nil, []Choice{chosen(30100, "api"), chosen(30000, "web")}},
		{"the next pool when the first is full", []Request{from("web", "api")}, []uint16{30000, 30001, 30002}, []Choice{chosen(30100, "api")}},
		{"a pool that does not exist has no number", []Request{from("db"), from("db", "web")}, nil, []Choice{waits(0), chosen(30000, "web")}},
		{"a pin before an older request for any number", []Request{from("web"), pin(30000, "web")}, nil, []Choice{chosen(30001, "web"), chosen(30000, "web")}},
		{"a pin into the second pool", []Request{pin(30201, "web", "api")}, nil, []Choice{chosen(30201, "api")}},
		{"the first of two equal pins", []Request{pin(30001, "web"), pin(30001, "web")}, nil, []Choice{chosen(30001, "web"), {Outcome: Taken, Number: 30001, Pool: "web"}}},
		{"a pin that is taken", []Request{pin(30001, "web")}, []uint16{30001}, []Choice{{Outcome: Taken, Number: 30001, Pool: "web"}}},
		{"a pin between the ranges", []Request{pin(30150, "api")}, nil, []Choice{{Outcome: Outside, Number: 30150}}},
		{"a pin into a pool that was not asked", []Request{pin(30100, "web")}, nil, []Choice{{Outcome: Outside, Number: 30100}}},
		{"a taken pin outside is outside", []Request{pin(30100, "web")}, []uint16{30100}, []Choice{{Outcome: Outside, Number: 30100}}},
		{
			"who comes too late waits behind those before it",
			[]Request{from("web"), from("web"), from("web"), from("web"), from("web")}, []uint16{30001},
			[]Choice{chosen(30000, "web"), chosen(30002, "web"), waits(0), waits(1), waits(2)},
		},
		{
			"who waits for another pool is not ahead",
			[]Request{from("web"), from("api"), from("web", "api"), from("web")}, []uint16{30000, 30001, 30002, 30100, 30200, 30201},
			[]Choice{waits(0), waits(0), waits(2), waits(2)},
		},
		{
			"a pin that is refused does not wait",
			[]Request{pin(30000, "web"), from("web")}, []uint16{30000, 30001, 30002},
			[]Choice{{Outcome: Taken, Number: 30000, Pool: "web"}, waits(0)},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Choose(c.requests, []Pool{web, api}, numbers(c.taken...), nil); !slices.Equal(got, c.want) {
				t.Errorf("Choose = %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestChooseWithQuotasAndPreferences(t *testing.T) {
	web, api := pool(t, "web", "30000-30002"), pool(t, "api", "30100-30101")
	web.Quota, web.Used = 2, map[string]int{"shop": 1}
	shop := Request{Namespace: "shop", Pools: []string{"web"}}
	both := Request{Namespace: "shop", Pools: []string{"web", "api"}}
	bank := Request{Namespace: "bank", Pools: []string{"web"}}
	pin := func(r Request, n uint16) Request { r.Pin = n; return r }
	prefer := func(r Request, n ...uint16) Request { r.Prefer = n; return r }
	own := func(r Request, n ...uint16) Request { r.Own = n; return r }
	chosen := func(n uint16, pool string) Choice { return Choice{Outcome: Chosen, Number: n, Pool: pool} }
	over := Choice{Outcome: OverQuota}
	for _, c := range []struct {
		name     string
		requests []Request
		taken    []uint16
		want     []Choice
	}{
		{"up to the quota, each namespace on its own", []Request{shop, shop, bank, bank}, nil, []Choice{chosen(30000, "web"), over, chosen(30001, "web"), chosen(30002, "web")}},
		{"over quota in one pool, the next pool", []Request{both, both, both, both}, nil, []Choice{chosen(30000, "web"), chosen(30100, "api"), chosen(30101, "api"), over}},
		{"a full pool is no matter of quota", []Request{pin(shop, 30000), shop}, []uint16{30001, 30002}, []Choice{chosen(30000, "web"), {Outcome: Exhausted}}},
		{"who is over quota waits behind nobody and is not ahead", []Request{shop, shop, bank, bank, bank}, []uint16{30000}, []Choice{chosen(30001, "web"), over, chosen(30002, "web"), {Outcome: Exhausted}, {Outcome: Exhausted, Ahead: 1}}},
		{"a pin over quota", []Request{shop, pin(shop, 30001), pin(shop, 30002)}, nil, []Choice{over, chosen(30001, "web"), {Outcome: OverQuota, Number: 30002, Pool: "web"}}},
		{"a taken pin is taken, whatever the quota", []Request{pin(shop, 30001), pin(shop, 30002)}, []uint16{30002}, []Choice{chosen(30001, "web"), {Outcome: Taken, Number: 30002, Pool: "web"}}},
		{"a preference before an older request without", []Request{bank, prefer(bank, 30000)}, nil, []Choice{chosen(30001, "web"), chosen(30000, "web")}},
		{"a pin before an older preference", []Request{prefer(bank, 30000), pin(bank, 30000)}, nil, []Choice{chosen(30001, "web"), chosen(30000, "web")}},
		{"the first preference that can be met", []Request{prefer(bank, 30100, 30000, 30002, 30001)}, []uint16{30000}, []Choice{chosen(30002, "web")}},
		{"without a preference that can be met, like the others", []Request{bank, prefer(bank, 30100)}, nil, []Choice{chosen(30000, "web"), chosen(30001, "web")}},
		{"a preference over quota is passed over", []Request{pin(shop, 30001), prefer(both, 30000, 30101)}, nil, []Choice{chosen(30001, "web"), chosen(30101, "api")}},
		{"its own number, when preferred", []Request{prefer(bank, 30001), own(prefer(bank, 30001), 30001)}, []uint16{30001}, []Choice{chosen(30000, "web"), chosen(30001, "web")}},
		{"its own number, when pinned", []Request{pin(bank, 30001), own(pin(bank, 30001), 30001)}, []uint16{30001}, []Choice{{Outcome: Taken, Number: 30001, Pool: "web"}, chosen(30001, "web")}},
		{"its own number once", []Request{own(pin(bank, 30001), 30001), own(prefer(bank, 30001), 30001), own(pin(bank, 30001), 30001)}, []uint16{30001}, []Choice{chosen(30001, "web"), chosen(30000, "web"), {Outcome: Taken, Number: 30001, Pool: "web"}}},
		{"its own number not by chance", []Request{own(bank, 30000)}, []uint16{30000}, []Choice{chosen(30001, "web")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Choose(c.requests, []Pool{web, api}, numbers(c.taken...), nil); !slices.Equal(got, c.want) {
				t.Errorf("Choose = %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestChooseReachesBothEndsOfTheNumbers(t *testing.T) {
	all := []Pool{{Name: "all", Ranges: rule.NewPortRanges(rule.PortRange{First: 1, Last: 1}, rule.PortRange{First: 65535, Last: 65535})}}
	any := Request{Pools: []string{"all"}}
	got := Choose([]Request{any, any, any}, all, Numbers{}, nil)
	want := []Choice{{Outcome: Chosen, Number: 1, Pool: "all"}, {Outcome: Chosen, Number: 65535, Pool: "all"}, {Outcome: Exhausted}}
	if !slices.Equal(got, want) {
		t.Errorf("Choose = %+v, want %+v", got, want)
	}
}

// Pools are disjoint when they come from compile.Owned; nothing here rests on it.
func TestChooseGivesANumberOfTwoPoolsOnce(t *testing.T) {
	pools := []Pool{pool(t, "web", "30000-30001"), pool(t, "twin", "30000-30002")}
	web, twin := Request{Pools: []string{"web"}}, Request{Pools: []string{"twin"}}
	got := Choose([]Request{web, twin, web, twin}, pools, Numbers{}, nil)
	want := []Choice{
		{Outcome: Chosen, Number: 30000, Pool: "web"}, {Outcome: Chosen, Number: 30001, Pool: "twin"},
		{Outcome: Exhausted}, {Outcome: Chosen, Number: 30002, Pool: "twin"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("Choose = %+v, want %+v", got, want)
	}
}

// TestChooseKeepsItsPromises compares with the promise itself, read slowly: pins
// in order first, then for each the lowest free number of its first pool with one.
func TestChooseKeepsItsPromises(t *testing.T) {
	names := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		var pools []Pool
		for i, name := range names { // disjoint, as compile.Owned makes them
			var ranges []rule.PortRange
			for range rapid.IntRange(0, 2).Draw(t, "ranges of "+name) {
				first := rapid.Uint16Range(uint16(i*10+1), uint16(i*10+9)).Draw(t, "first")
				ranges = append(ranges, rule.PortRange{First: first, Last: rapid.Uint16Range(first, uint16(i*10+9)).Draw(t, "last")})
			}
			pools = append(pools, Pool{Name: name, Ranges: rule.NewPortRanges(ranges...)})
		}
		taken := numbers(rapid.SliceOfN(rapid.Uint16Range(1, 30), 0, 20).Draw(t, "taken")...)
		requests := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Request {
			r := Request{Pools: rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "gone"}), 0, 3).Draw(t, "pools")}
			if rapid.Bool().Draw(t, "pinned") {
				r.Pin = rapid.Uint16Range(1, 30).Draw(t, "pin")
			}
			return r
		}), 0, 30).Draw(t, "requests")

		got := Choose(requests, pools, taken, nil)

		want := make([]Choice, len(requests))
		used := taken
		for i, r := range requests {
			if r.Pin != 0 {
				want[i] = Choice{Outcome: Outside, Number: r.Pin}
				for _, p := range pools {
					if slices.Contains(r.Pools, p.Name) && p.Ranges.Contains(r.Pin) {
						want[i] = Choice{Outcome: Taken, Number: r.Pin, Pool: p.Name}
						if !used.Has(r.Pin) {
							want[i].Outcome = Chosen
							used.Add(r.Pin)
						}
					}
				}
			}
		}
		for i, r := range requests {
			if r.Pin != 0 {
				continue
			}
			want[i] = Choice{Outcome: Exhausted}
			for _, p := range inOrder(pools, r.Pools) {
				if n, ok := lowestFree(p, &used); ok {
					want[i] = Choice{Outcome: Chosen, Number: n, Pool: p.Name}
					used.Add(n)
					break
				}
			}
			for j, earlier := range requests[:i] {
				if want[i].Outcome == Exhausted && want[j].Outcome == Exhausted && slices.ContainsFunc(r.Pools, func(p string) bool { return slices.Contains(earlier.Pools, p) }) {
					want[i].Ahead++
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("Choose\n%+v\nwant\n%+v", got, want)
		}
		given := taken
		for i, c := range got {
			if c.Outcome != Chosen {
				continue
			}
			if given.Has(c.Number) {
				t.Fatalf("choice %d: %d is taken, or was given twice", i, c.Number)
			}
			given.Add(c.Number)
		}
		if again := Choose(requests, pools, taken, nil); !slices.Equal(again, got) {
			t.Fatalf("the same question has two answers:\n%+v\n%+v", got, again)
		}
	})
}

func inOrder(pools []Pool, names []string) (out []Pool) {
	for _, name := range names {
		for _, p := range pools {
			if p.Name == name {
				out = append(out, p)
			}
		}
	}
	return out
}

func lowestFree(p Pool, used *Numbers) (uint16, bool) {
	for n := range p.Ranges.Numbers {
		if !used.Has(n) {
			return n, true
		}
	}
	return 0, false
}

func TestNumbersHoldEveryPort(t *testing.T) {
	var all Numbers
	for n := range rule.NewPortRanges(rule.PortRange{First: 0, Last: 65535}).Numbers {
		if all.Has(n) {
			t.Fatalf("%d is in before it was added", n)
		}
		all.Add(n)
		if !all.Has(n) {
			t.Fatalf("%d is not in after it was added", n)
		}
	}
}
