package cloud

import (
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// remedies are what is done for the lots that do not fit, one after the other; each
// says whether it changed something.
func (p *planner) remedies() []func(map[lot]int) bool {
	anew := func(crowded map[lot]int) (changed bool) {
		for _, key := range p.order {
			if crowded[key] > 0 {
				changed = p.lots[key].anew() || changed
			}
		}
		return changed
	}
	out := []func(map[lot]int) bool{anew}
	if p.want.Coarsen {
		out = append(out, p.stayCoarse)
	}
	// In a group that could not be read there may be room, or all that seems to be missing.
	if p.want.Coarsen && len(p.groups) == len(distinct(p.want.Groups)) {
		for range 3 { // what was joined may be placed otherwise
			out = append(out, p.coarsen)
		}
	}
	return append(out, p.giveUp)
}

// giveUp is for pools that do not fit whatever is done: they are as wide as they were.
func (p *planner) giveUp(crowded map[lot]int) bool {
	pools := map[string]bool{}
	for key := range crowded {
		pools[key.pool] = true
	}
	for key, s := range p.lots {
		if pools[key.pool] {
			p.widenAsBefore(s)
		}
	}
	return true
}

// losing returns the shares of which something would go that is in force and wanted,
// for the sake of something that did not fit.
func (p *planner) losing(c Changes) (out []*share) {
	for key := range c.crowded() {
		s := p.lots[key]
		stands := slices.Clone(s.others)
		for i, o := range s.ours {
			if s.keep[i] {
				stands = append(stands, o.block)
			}
		}
		for _, g := range c.Groups {
			for _, a := range g.Add {
				if lotOf(a) == key {
					stands = append(stands, block{a.Ports, a.Source})
				}
			}
		}
		left := regionOf(stands)
		if slices.ContainsFunc(s.ours, func(o standing) bool { return s.region.holds(o.block) && !left.holds(o.block) }) {
			out = append(out, s)
		}
	}
	return out
}

// stayCoarse lets stay what was widened before: clients and calls are spared when a
// wish changes that does not fit.
func (p *planner) stayCoarse(crowded map[lot]int) (changed bool) {
	for key := range crowded {
		changed = p.widenAsBefore(p.lots[key]) || changed
	}
	return changed
}

// widenAsBefore makes the share as wide as its rules in force are, if that is no wider
// than it takes, and says whether it is wider than was asked.
func (p *planner) widenAsBefore(s *share) (wider bool) {
	blocks := s.exact.blocks()
	own := p.want.Pools[s.pool].Ports.Union(s.exact.ports())
	for _, o := range s.ours {
		strange := len(rule.PortRanges{o.ports}.Subtract(own)) > 0
		if p.want.Coarsen && !strange && !s.exact.holds(o.block) && s.exact.hull(o.block) == o.block {
			blocks, wider = append(blocks, o.block), true
		}
	}
	s.region = regionOf(blocks)
	p.draft(s)
	return wider
}

// coarsen widens each lot that does not fit until it takes as many rules fewer.
func (p *planner) coarsen(crowded map[lot]int) (changed bool) {
	for _, key := range p.order {
		s := p.lots[key]
		if crowded[key] == 0 {
			continue
		}
		exact := cover(s.region, nil)
		n := max(1, len(s.keep)+len(s.add)-crowded[key])
		coarse := coarsen(exact, n, p.want.Pools[key.pool].Ports)
		if len(coarse) < len(exact) {
			s.region, changed = regionOf(coarse), true
			p.draft(s)
			s.anew()
		}
	}
	return changed
}

// crowded counts, by lot, the rules that do not fit.
func (c Changes) crowded() map[lot]int {
	out := map[lot]int{}
	for _, list := range [][]Grant{c.Overflow, c.OverQuota} {
		for _, g := range list {
			out[lotOf(g)]++
		}
	}
	return out
}
