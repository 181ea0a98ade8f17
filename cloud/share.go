package cloud

import (
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// share is one lot: what it wants, what it has, and what it lacks.
type share struct {
	lot
	exact  region // what was asked
	region region // the same, or coarser
	ours   []standing
	others []block // of foreign rules within the region
	taken  []block // by others, and not to be put back

	keep map[int]bool // of ours
	add  []block
}

// standing is a rule of ours where it stands.
type standing struct {
	block
	group int
	rule  Rule
}

// admits says whether the rule could be one of the lot.
func (l lot) admits(r Rule) bool {
	return !r.Drop && r.Protocol == l.protocol && r.Peer == l.peer && r.Source.IsValid() == (l.peer == "") && r.Source.Addr().Is6() == l.ipv6
}

// keepAll keeps whatever of ours admits nothing else than what is wanted, once, and
// returns it.
func (s *share) keepAll() []block {
	s.keep = map[int]bool{}
	once := map[block]bool{}
	var out []block
	for i, o := range s.ours {
		if !once[o.block] && s.region.holds(o.block) {
			once[o.block], s.keep[i], out = true, true, append(out, o.block)
		}
	}
	return out
}

// lacking is what rules of ours are for.
func (s *share) lacking() region { return s.region.minus(s.taken) }

// prune removes those of ours that the other ones, and those to be added, admit as
// well. Foreign ones may go any time, so they are no reason.
func (s *share) prune(added []block) {
	var blocks []block
	var index []int
	for i, o := range s.ours {
		if s.keep[i] {
			blocks, index = append(blocks, o.block), append(index, i)
		}
	}
	for i := range needless(blocks, added) {
		delete(s.keep, index[i])
	}
}

// anew makes the share as if nothing of ours stood there, but keeps what that has in
// common with what stands. It says whether that takes fewer rules.
func (s *share) anew() bool {
	fresh := cover(s.lacking(), s.others)
	if len(fresh) >= len(s.keep)+len(s.add) {
		return false
	}
	s.take(fresh)
	return true
}

// take makes the share consist of the blocks.
func (s *share) take(blocks []block) {
	s.keep, s.add = map[int]bool{}, nil
	at := map[block]int{}
	for i, o := range slices.Backward(s.ours) {
		at[o.block] = i
	}
	for _, b := range blocks {
		if i, ok := at[b]; ok {
			s.keep[i] = true
		} else {
			s.add = append(s.add, b)
		}
	}
}

// tellCoarse lists those rules of the share that admit more than was asked.
func (s *share) tellCoarse(c *Changes) {
	wider := func(g Grant) bool {
		return lotOf(g) == s.lot && !s.exact.holds(block{g.Ports, g.Source})
	}
	for i, o := range s.ours {
		if g := s.grant(o.block); s.keep[i] && wider(g) {
			c.Coarse = append(c.Coarse, g)
		}
	}
	for _, g := range c.Groups {
		for _, a := range g.Add {
			if wider(a) {
				c.Coarse = append(c.Coarse, a)
			}
		}
	}
}

func (s *share) grant(b block) Grant {
	return Grant{Rule: rule.Rule{Protocol: s.protocol, Ports: b.ports, Source: b.source}, Peer: s.peer, Pool: s.pool}
}
