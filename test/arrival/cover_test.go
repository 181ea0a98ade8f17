package arrival

import (
	"slices"
	"testing"
)

// cover returns rows with one choice for each parameter, of which there are so many
// choices each, such that every pair of choices of two parameters is in a row. It takes
// the combination that brings the most new pairs, the first of equals, until none is
// missing: not the fewest rows that there can be, but close.
func cover(sizes []int) [][]int {
	missing := pairs(sizes)
	all := product(sizes)
	var rows [][]int
	for len(missing) > 0 {
		best, most := all[0], 0
		for _, row := range all {
			if n := len(newPairs(row, missing)); n > most {
				best, most = row, n
			}
		}
		for _, p := range newPairs(best, missing) {
			delete(missing, p)
		}
		rows = append(rows, best)
	}
	return rows
}

// product returns every combination.
func product(sizes []int) [][]int {
	rows := [][]int{nil}
	for _, size := range sizes {
		var longer [][]int
		for _, row := range rows {
			for choice := range size {
				longer = append(longer, append(slices.Clone(row), choice))
			}
		}
		rows = longer
	}
	return rows
}

// pair is a choice each of two parameters, the lower one first.
type pair struct{ a, choiceA, b, choiceB int }

func pairs(sizes []int) map[pair]bool {
	all := map[pair]bool{}
	for a := range sizes {
		for b := a + 1; b < len(sizes); b++ {
			for choiceA := range sizes[a] {
				for choiceB := range sizes[b] {
					all[pair{a, choiceA, b, choiceB}] = true
				}
			}
		}
	}
	return all
}

func newPairs(row []int, missing map[pair]bool) (out []pair) {
	for a := range row {
		for b := a + 1; b < len(row); b++ {
			if p := (pair{a, row[a], b, row[b]}); missing[p] {
				out = append(out, p)
			}
		}
	}
	return out
}

func TestEveryPairIsCovered(t *testing.T) {
	for _, c := range []struct {
		sizes []int
		most  int
	}{
		{parameters, 9}, {[]int{2, 2}, 4}, {[]int{3, 1, 2}, 6}, {[]int{4, 4, 4}, 24},
	} {
		rows := cover(c.sizes)
		missing := pairs(c.sizes)
		for _, row := range rows {
			if len(row) != len(c.sizes) {
				t.Fatalf("%v: row %v", c.sizes, row)
			}
			for _, p := range newPairs(row, missing) {
				delete(missing, p)
			}
		}
		if len(missing) > 0 || len(rows) > c.most {
			t.Errorf("%v: %d rows, want at most %d; not covered: %v", c.sizes, len(rows), c.most, missing)
		}
	}
	if all := product(parameters); len(all) != 96 {
		t.Errorf("%d combinations", len(all))
	}
}
