package cloud

import (
	"cmp"
	"slices"
)

// index finds those of many blocks that meet another one: a binary tree of intervals of
// ports, the middle of each stretch of the order being its root.
type index struct {
	blocks []block
	order  []int    // by first port
	reach  []uint16 // by the place of a root: the last port in all of its stretch
}

func newIndex(blocks []block) *index {
	x := &index{blocks: blocks, order: make([]int, len(blocks)), reach: make([]uint16, len(blocks))}
	for i := range x.order {
		x.order[i] = i
	}
	slices.SortFunc(x.order, func(i, j int) int {
		return cmp.Or(cmp.Compare(blocks[i].ports.First, blocks[j].ports.First), cmp.Compare(i, j))
	})
	x.measure(0, len(blocks))
	return x
}

func (x *index) measure(from, to int) (reach uint16) {
	if from == to {
		return 0
	}
	root := (from + to) / 2
	x.reach[root] = max(x.blocks[x.order[root]].ports.Last, x.measure(from, root), x.measure(root+1, to))
	return x.reach[root]
}

// meeting calls visit with the place of each block that meets b, in order of ports.
func (x *index) meeting(b block, visit func(i int)) { x.search(b, 0, len(x.order), visit) }

func (x *index) search(b block, from, to int, visit func(i int)) {
	root := (from + to) / 2
	if from == to || x.reach[root] < b.ports.First {
		return
	}
	x.search(b, from, root, visit)
	i := x.order[root]
	if x.blocks[i].ports.First > b.ports.Last {
		return
	}
	if x.blocks[i].meets(b) {
		visit(i)
	}
	x.search(b, root+1, to, visit)
}
