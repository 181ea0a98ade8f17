package cloud

import (
	"math"
	"net/netip"
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// To a cloud with priorities a rule is the same at any of them, so that a group takes none
// beside its equal of another priority: after the firewall's priority was changed, or where
// somebody else's stands at a worse one. The rule then goes to another group, or in as two
// halves; only one port from one address cannot be halved.

// seats are the rules of a group that keep their equals out.
type seats map[match]seat

type seat int

const (
	vacant  seat = iota
	leaving      // a rule of ours, which goes
	foreign      // somebody else's
)

func (p *planner) seats() []seats {
	out := make([]seats, len(p.groups))
	for i, g := range p.groups {
		out[i] = seats{}
		if p.can.Priority == 0 {
			continue
		}
		for _, r := range g.Remove {
			out[i][matchOf(r).whatever()] = leaving
		}
		for _, r := range g.Foreign {
			if !r.Drop {
				out[i][matchOf(r).whatever()] = foreign
			}
		}
	}
	return out
}

func (s seats) of(g Grant) seat { return s[matchOf(written(g, "", 0))] }

// slot is a grant in its group.
type slot struct {
	Grant
	group int
}

// mostHalvings bounds into how many parts a grant goes.
const mostHalvings = 2

// settle finds groups for the grant, or for parts of it where most allows several rules.
// Without room it returns none. What leaves no gap comes first, then what needs room to be
// made, then what must take a rule's place.
func (r *rooms) settle(g Grant, most int) []slot {
	if out := r.gapless(g, most, mostHalvings); out != nil {
		return out
	}
	if out := r.seated(g); out != nil {
		return out
	}
	return r.both(g, most, func(half Grant, _ int) []slot { return r.seated(half) })
}

// gapless settles the grant, or its halves, where there is room now and no equal rule.
func (r *rooms) gapless(g Grant, most, halvings int) []slot {
	if i := r.find(g, r.now, vacant); i >= 0 {
		return r.take(slot{g, i})
	}
	if halvings == 0 {
		return nil
	}
	return r.both(g, most, func(half Grant, most int) []slot { return r.gapless(half, most, halvings-1) })
}

// seated settles the grant where there is room or will be.
func (r *rooms) seated(g Grant) []slot {
	for _, s := range []seat{vacant, leaving} {
		if i := r.find(g, r.free, s); i >= 0 {
			return r.take(slot{g, i})
		}
	}
	return nil
}

// both settles the two halves of a grant that an equal rule keeps out of some group, or
// none of them.
func (r *rooms) both(g Grant, most int, settle func(Grant, int) []slot) []slot {
	a, b, ok := halves(g)
	if !ok || most < 2 || !slices.ContainsFunc(r.seats, func(s seats) bool { return s.of(g) != vacant }) {
		return nil
	}
	before := *r
	r.now, r.free = slices.Clone(r.now), slices.Clone(r.free)
	if first := settle(a, most-1); first != nil {
		if second := settle(b, most-len(first)); second != nil {
			return append(first, second...)
		}
	}
	*r = before
	return nil
}

// halves are two grants that admit together what the one does.
func halves(g Grant) (a, b Grant, ok bool) {
	a, b = g, g
	switch {
	case g.Source.IsValid() && !g.Source.IsSingleIP():
		a.Source = netip.PrefixFrom(g.Source.Masked().Addr(), g.Source.Bits()+1)
		raw := a.Source.Addr().AsSlice()
		raw[g.Source.Bits()/8] |= 0x80 >> (g.Source.Bits() % 8)
		upper, _ := netip.AddrFromSlice(raw)
		b.Source = netip.PrefixFrom(upper, g.Source.Bits()+1)
	case g.Ports.First < g.Ports.Last:
		middle := g.Ports.First + (g.Ports.Last-g.Ports.First)/2
		a.Ports, b.Ports = rule.PortRange{First: g.Ports.First, Last: middle}, rule.PortRange{First: middle + 1, Last: g.Ports.Last}
	default:
		return a, b, false
	}
	return a, b, true
}

// find returns the first group with room in which the grant's seat is so, -1 if there is
// none.
func (r *rooms) find(g Grant, room []Count, s seat) int {
	if r.bounded && r.together <= 0 {
		return -1
	}
	cost := costOf(g.Source, r.limits)
	for i, c := range room {
		if c.holds(cost) && r.seats[i].of(g) == s {
			return i
		}
	}
	return -1
}

// take takes the slot's room.
func (r *rooms) take(s slot) []slot {
	cost := costOf(s.Source, r.limits)
	r.now[s.group], r.free[s.group] = r.now[s.group].minus(cost), r.free[s.group].minus(cost)
	r.together--
	return []slot{s}
}

// unlimited is for pools without a quota.
const unlimited = math.MaxInt
