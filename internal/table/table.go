// Package table has a map that is never changed: a change makes another map, which
// shares with the first all that is equal in both. So a map of ten thousand entries is
// kept, handed on and compared at the cost of what changed.
package table

import (
	"slices"
)

// Key is what a table can have as key.
type Key[K any] interface {
	comparable
	// Page says with which others the key stands. It grows with the key if a table is to
	// be gone through in order, and spreads keys evenly in any case.
	Page() uint16
	// Compare orders keys.
	Compare(other K) int
}

// pages of a table. A change copies the list of them and one page, so at ten thousand
// entries each of the two copies is of a few kilobytes.
const pages = 1024

// Table has a value for each key; the zero value stands for none. Tables that are ==
// are equal, but equal ones need not be ==. The zero Table is empty.
type Table[K Key[K], V comparable] struct {
	pages *[pages]*page[K, V]
	size  int
}

// page has its entries in order. A page that is nil is empty.
type page[K Key[K], V comparable] []entry[K, V]

type entry[K Key[K], V comparable] struct {
	key   K
	value V
}

func (p *page[K, V]) find(key K) (at int, found bool) {
	if p == nil {
		return 0, false
	}
	return slices.BinarySearchFunc(*p, key, func(e entry[K, V], k K) int { return e.key.Compare(k) })
}

// Len counts the entries.
func (t Table[K, V]) Len() int { return t.size }

// Get returns the value of the key, the zero value if it has none.
func (t Table[K, V]) Get(key K) (value V) {
	if t.pages == nil {
		return value
	}
	p := t.pages[key.Page()%pages]
	if at, found := p.find(key); found {
		return (*p)[at].value
	}
	return value
}

// All yields all entries, in order if the pages of the keys are.
func (t Table[K, V]) All(yield func(K, V) bool) {
	if t.pages == nil {
		return
	}
	for _, p := range t.pages {
		if p == nil {
			continue
		}
		for _, e := range *p {
			if !yield(e.key, e.value) {
				return
			}
		}
	}
}

// Change is a key whose value is another in one table than in the other; the zero
// value stands for none.
type Change[K Key[K], V comparable] struct {
	Key      K
	From, To V
}

// Changes yields what makes the other table of this one.
func (t Table[K, V]) Changes(other Table[K, V]) func(yield func(Change[K, V]) bool) {
	return func(yield func(Change[K, V]) bool) {
		if t.pages == other.pages {
			return
		}
		for i := range pages {
			if a, b := t.page(i), other.page(i); a != b && !changes(a, b, yield) {
				return
			}
		}
	}
}

func (t Table[K, V]) page(i int) *page[K, V] {
	if t.pages == nil {
		return nil
	}
	return t.pages[i]
}

func changes[K Key[K], V comparable](from, to *page[K, V], yield func(Change[K, V]) bool) bool {
	var a, b page[K, V]
	if from != nil {
		a = *from
	}
	if to != nil {
		b = *to
	}
	for len(a) > 0 || len(b) > 0 {
		var c Change[K, V]
		order := 0
		switch {
		case len(b) == 0:
			order = -1
		case len(a) == 0:
			order = 1
		default:
			order = a[0].key.Compare(b[0].key)
		}
		if order <= 0 {
			c.Key, c.From, a = a[0].key, a[0].value, a[1:]
		}
		if order >= 0 {
			c.Key, c.To, b = b[0].key, b[0].value, b[1:]
		}
		if c.From != c.To && !yield(c) {
			return false
		}
	}
	return true
}

// Equal says whether both have the same values for the same keys.
func (t Table[K, V]) Equal(other Table[K, V]) bool {
	if t.size != other.size {
		return false
	}
	for range t.Changes(other) {
		return false
	}
	return true
}

// With returns the table with that value for the key.
func (t Table[K, V]) With(key K, value V) Table[K, V] {
	e := t.Edit()
	e.Set(key, value)
	return e.Table()
}

// Edit begins a change of many entries.
func (t Table[K, V]) Edit() *Editor[K, V] { return &Editor[K, V]{table: t} }

// Editor makes a table of another one. It copies each page once.
type Editor[K Key[K], V comparable] struct {
	table Table[K, V]
	began bool        // table.pages is the editor's own
	own   [pages]bool // so are these
}

// Set gives the key that value, the zero value to have none.
func (e *Editor[K, V]) Set(key K, value V) {
	if e.table.Get(key) == value {
		return
	}
	var none V
	p := e.page(int(key.Page() % pages))
	at, found := p.find(key)
	switch {
	case value == none:
		*p = slices.Delete(*p, at, at+1)
		e.table.size--
	case found:
		(*p)[at].value = value
	default:
		*p = slices.Insert(*p, at, entry[K, V]{key, value})
		e.table.size++
	}
	if len(*p) == 0 {
		e.table.pages[key.Page()%pages] = nil
	}
}

// page returns a page that may be changed.
func (e *Editor[K, V]) page(i int) *page[K, V] {
	if !e.began {
		copied := [pages]*page[K, V]{}
		if e.table.pages != nil {
			copied = *e.table.pages
		}
		e.table.pages, e.began = &copied, true
	}
	p := e.table.pages[i]
	switch {
	case p == nil:
		p = &page[K, V]{}
	case !e.own[i]:
		copied := slices.Clone(*p)
		p = &copied
	}
	e.table.pages[i], e.own[i] = p, true
	return p
}

// Get returns the value of the key, as it is by now.
func (e *Editor[K, V]) Get(key K) V { return e.table.Get(key) }

// Table returns what the changes have made. The editor may go on from there.
func (e *Editor[K, V]) Table() Table[K, V] {
	e.began, e.own = false, [pages]bool{}
	return e.table
}
