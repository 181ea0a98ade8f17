package table

import (
	"cmp"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// number is a key of which many share a page, in order.
type number uint32

func (n number) Page() uint16         { return uint16(n / 4) }
func (n number) Compare(m number) int { return cmp.Compare(n, m) }

func collect(t Table[number, int]) (keys []number, all map[number]int) {
	all = map[number]int{}
	for k, v := range t.All {
		keys, all[k] = append(keys, k), v
	}
	return keys, all
}

// A table does what a map does, and leaves alone the table it was made of.
func TestTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tables []Table[number, int]
		var want []map[number]int
		now, model := Table[number, int]{}, map[number]int{}
		for range rapid.IntRange(1, 8).Draw(t, "edits") {
			tables, want = append(tables, now), append(want, maps.Clone(model))
			e := now.Edit()
			for range rapid.IntRange(0, 6).Draw(t, "changes") {
				key, value := number(rapid.SampledFrom([]int{0, 1, 3, 4, 9, 4094, 4095}).Draw(t, "key")), rapid.IntRange(0, 2).Draw(t, "value")
				e.Set(key, value)
				if model[key] = value; value == 0 {
					delete(model, key)
				}
				if e.Get(key) != value {
					t.Fatalf("%d is %d after it was set to %d", key, e.Get(key), value)
				}
			}
			now = e.Table()
		}
		tables, want = append(tables, now), append(want, model)
		for i, table := range tables {
			keys, all := collect(table)
			if !maps.Equal(all, want[i]) || table.Len() != len(all) || !slices.IsSorted(keys) {
				t.Fatalf("table %d has %d entries: %v %v, want %v", i, table.Len(), keys, all, want[i])
			}
			for key := range number(5000) {
				if table.Get(key) != all[key] {
					t.Fatalf("Get(%d) = %d", key, table.Get(key))
				}
			}
			checkChanges(t, table, now, all, model)
		}
	})
}

func checkChanges(t *rapid.T, from, to Table[number, int], was, is map[number]int) {
	patched := maps.Clone(was)
	for c := range from.Changes(to) {
		if c.From == c.To || patched[c.Key] != c.From {
			t.Fatalf("a change that is none: %+v", c)
		}
		if patched[c.Key] = c.To; c.To == 0 {
			delete(patched, c.Key)
		}
	}
	if !maps.Equal(patched, is) {
		t.Fatalf("the changes make %v of %v, want %v", patched, was, is)
	}
	if from.Equal(to) != maps.Equal(was, is) {
		t.Fatalf("%v and %v: Equal is %v", was, is, from.Equal(to))
	}
}

func TestChangesCanBeLeft(t *testing.T) {
	full := Table[number, int]{}.With(1, 1).With(2, 1).With(5000, 1)
	for range (Table[number, int]{}).Changes(full) {
		break
	}
	for range full.All {
		break
	}
}

// What is set to what it was shares everything.
func TestSettingTheSameCopiesNothing(t *testing.T) {
	full := Table[number, int]{}.With(1, 1)
	if full.With(1, 1) != full || full.With(7, 0) != full {
		t.Error("a change that is none made another table")
	}
}

func BenchmarkWith(b *testing.B) {
	e := Table[number, int]{}.Edit()
	for n := range number(10_000) {
		e.Set(n, 1)
	}
	full := e.Table()
	b.ReportAllocs()
	for b.Loop() {
		for range full.Changes(full.With(17, 2)) {
			continue
		}
	}
}
