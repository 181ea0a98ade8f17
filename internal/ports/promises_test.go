package ports

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/internal/rule"
)

// question is one call of Choose.
type question struct {
	requests   []Request
	pools      []Pool
	taken      Numbers
	neighbours map[uint16]string
}

func (q question) choose() []Choice { return Choose(q.requests, q.pools, q.taken, q.neighbours) }

// again is the same question in other maps.
func (q question) again() question {
	q.pools = slices.Clone(q.pools)
	for i := range q.pools {
		q.pools[i].Used = maps.Clone(q.pools[i].Used)
	}
	other := map[uint16]string{}
	for _, n := range slices.Backward(slices.Sorted(maps.Keys(q.neighbours))) {
		other[n] = q.neighbours[n]
	}
	q.neighbours = other
	return q
}

func (q question) placed(bySource bool) question {
	q = q.again()
	for i := range q.pools {
		q.pools[i].BySource = bySource
	}
	return q
}

var (
	somePools   = []string{"a", "b", "c"}
	someNumbers = rapid.Uint16Range(1, 30)
	namespaces  = rapid.SampledFrom([]string{"shop", "bank"})
	someSources = rapid.SampledFrom([]string{"", "office", "partner", "world"})
)

func drawRequest(t *rapid.T) Request {
	r := Request{
		Namespace: namespaces.Draw(t, "namespace"),
		Pools:     rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "gone"}), 0, 3).Draw(t, "pools"),
		Sources:   someSources.Draw(t, "sources"),
	}
	if rapid.IntRange(0, 3).Draw(t, "pinned") == 0 {
		r.Pin = someNumbers.Draw(t, "pin")
	}
	if rapid.IntRange(0, 2).Draw(t, "remembers") == 0 {
		r.Prefer = rapid.SliceOfN(someNumbers, 0, 3).Draw(t, "prefer")
		r.Own = rapid.SliceOfN(someNumbers, 0, 3).Draw(t, "own")
	}
	return r
}

// drawQuestion makes pools of numbers up to 30: a has 1-9, b 11-19, c 21-29, or
// they overlap.
func drawQuestion(t *rapid.T, overlap bool) question {
	q := question{neighbours: map[uint16]string{}}
	for i, name := range somePools {
		low, high := uint16(i*10+1), uint16(i*10+9)
		if overlap {
			low, high = 1, 30
		}
		var ranges []rule.PortRange
		for range rapid.IntRange(0, 2).Draw(t, "ranges of "+name) {
			first := rapid.Uint16Range(low, high).Draw(t, "first")
			ranges = append(ranges, rule.PortRange{First: first, Last: rapid.Uint16Range(first, high).Draw(t, "last")})
		}
		q.pools = append(q.pools, Pool{
			Name: name, Ranges: rule.NewPortRanges(ranges...), BySource: rapid.Bool().Draw(t, "by source"),
			Quota: rapid.IntRange(0, 5).Draw(t, "quota"), Used: map[string]int{"shop": rapid.IntRange(0, 3).Draw(t, "used")},
		})
	}
	for _, n := range rapid.SliceOfN(rapid.Uint16Range(0, 31), 0, 20).Draw(t, "taken") {
		q.taken.Add(n)
		if rapid.Bool().Draw(t, "known") {
			q.neighbours[n] = someSources.Draw(t, "admits")
		}
	}
	q.requests = rapid.SliceOfN(rapid.Custom(drawRequest), 0, 30).Draw(t, "requests")
	return q
}

// TestChoiceIsAllowed: whatever the question, each number that is given may be given.
func TestChoiceIsAllowed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := drawQuestion(t, rapid.Bool().Draw(t, "overlap"))
		var given Numbers
		held := map[string]int{}
		for i, c := range q.choose() {
			r := q.requests[i]
			if c.Outcome != Chosen {
				continue
			}
			at := slices.Index(somePools, c.Pool)
			special := r.Pin != 0 || slices.Contains(r.Prefer, c.Number)
			switch {
			case r.Pin != 0 && c.Number != r.Pin:
				t.Fatalf("request %d pins %d and gets %d", i, r.Pin, c.Number)
			case !slices.Contains(r.Pools, c.Pool) || !q.pools[at].Ranges.Contains(c.Number):
				t.Fatalf("request %d gets %d of pool %s", i, c.Number, c.Pool)
			case q.taken.Has(c.Number) && !(special && slices.Contains(r.Own, c.Number)):
				t.Fatalf("request %d gets %d, which is taken", i, c.Number)
			case given.Has(c.Number):
				t.Fatalf("request %d gets %d, which was given twice", i, c.Number)
			}
			given.Add(c.Number)
			held[c.Pool+"/"+r.Namespace]++
		}
		for _, p := range q.pools {
			for _, namespace := range []string{"shop", "bank"} {
				if n := held[p.Name+"/"+namespace]; p.Quota > 0 && n > max(0, p.Quota-p.Used[namespace]) {
					t.Fatalf("%s gets %d of pool %s on top of %d, its quota is %d", namespace, n, p.Name, p.Used[namespace], p.Quota)
				}
			}
		}
	})
}

// TestWinnersAreThoseOfThePromise: who gets a number, and of which pool, is what
// the promise says when it is read slowly. How numbers are placed has no say in it.
func TestWinnersAreThoseOfThePromise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := drawQuestion(t, false)
		got, want := q.choose(), promised(q)
		for i := range want {
			c := got[i]
			if want[i].Number == 0 {
				c.Number = 0 // any of the pool
			}
			if c != want[i] {
				t.Fatalf("request %d: %+v, want %+v", i, got[i], want[i])
			}
		}
		bySource, spread := q.placed(true).choose(), q.placed(false).choose()
		for i := range want {
			bySource[i].Number, spread[i].Number = 0, 0
		}
		if !slices.Equal(bySource, spread) {
			t.Fatalf("by source\n%+v\nspread\n%+v", bySource, spread)
		}
	})
}

// promised reads the promise slowly. Where the placement decides, Number is 0.
func promised(q question) []Choice {
	want := make([]Choice, len(q.requests))
	used, given, held := q.taken, Numbers{}, map[string]int{}
	room := func(p Pool, r Request) bool {
		return p.Quota == 0 || p.Used[r.Namespace]+held[p.Name+"/"+r.Namespace] < p.Quota
	}
	free := func(n uint16, r Request) bool {
		return !given.Has(n) && (!used.Has(n) || slices.Contains(r.Own, n))
	}
	take := func(p Pool, r Request, n uint16) Choice {
		used.Add(n)
		given.Add(n)
		held[p.Name+"/"+r.Namespace]++
		return Choice{Outcome: Chosen, Number: n, Pool: p.Name}
	}
	for i, r := range q.requests {
		if r.Pin == 0 {
			continue
		}
		want[i] = Choice{Outcome: Outside, Number: r.Pin}
		for _, p := range inOrder(q.pools, r.Pools) {
			switch {
			case want[i].Outcome != Outside || !p.Ranges.Contains(r.Pin):
			case !free(r.Pin, r):
				want[i] = Choice{Outcome: Taken, Number: r.Pin, Pool: p.Name}
			case !room(p, r):
				want[i] = Choice{Outcome: OverQuota, Number: r.Pin, Pool: p.Name}
			default:
				want[i] = take(p, r, r.Pin)
			}
		}
	}
	served := map[int]bool{}
	for i, r := range q.requests {
		for _, n := range r.Prefer {
			for _, p := range inOrder(q.pools, r.Pools) {
				if r.Pin == 0 && !served[i] && p.Ranges.Contains(n) && free(n, r) && room(p, r) {
					want[i], served[i] = take(p, r, n), true
				}
			}
		}
	}
	for i, r := range q.requests {
		if r.Pin != 0 || served[i] {
			continue
		}
		want[i] = Choice{Outcome: Exhausted}
		for _, p := range inOrder(q.pools, r.Pools) {
			n, ok := lowestFree(p, &used)
			if !ok {
				continue
			}
			want[i].Outcome = OverQuota
			if room(p, r) {
				want[i] = take(p, r, n)
				want[i].Number = 0
				break
			}
		}
		for j, earlier := range q.requests[:i] {
			share := slices.ContainsFunc(r.Pools, func(p string) bool { return slices.Contains(earlier.Pools, p) })
			if want[i].Outcome == Exhausted && want[j].Outcome == Exhausted && share {
				want[i].Ahead++
			}
		}
	}
	return want
}

// TestWhoWaitsIsNotOvertaken: with equal pools and namespace, the order decides.
func TestWhoWaitsIsNotOvertaken(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := drawQuestion(t, rapid.Bool().Draw(t, "overlap"))
		choices := q.choose()
		for i, r := range q.requests {
			if r.Pin != 0 || choices[i].Outcome == Chosen {
				continue
			}
			for j, later := range q.requests[i+1:] {
				plain := later.Pin == 0 && len(later.Prefer) == 0
				if c := choices[i+1+j]; plain && c.Outcome == Chosen && later.Namespace == r.Namespace && slices.Equal(later.Pools, r.Pools) {
					t.Fatalf("request %d is %+v, and request %d gets %+v", i, choices[i], i+1+j, c)
				}
			}
		}
	})
}

// TestEqualQuestionsHaveEqualAnswers, and asking changes nothing.
func TestEqualQuestionsHaveEqualAnswers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := drawQuestion(t, rapid.Bool().Draw(t, "overlap"))
		before := q.again()
		first, second := q.choose(), q.again().choose()
		if !slices.Equal(first, second) {
			t.Fatalf("the same question has two answers:\n%+v\n%+v", first, second)
		}
		for i := range q.pools {
			if !maps.Equal(q.pools[i].Used, before.pools[i].Used) {
				t.Fatalf("Used of pool %s is changed", q.pools[i].Name)
			}
		}
		if !maps.Equal(q.neighbours, before.neighbours) {
			t.Fatal("neighbours are changed")
		}
	})
}
