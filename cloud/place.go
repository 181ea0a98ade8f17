package cloud

import (
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// place gives each rule that is missing to the first group with room, if need be with
// the room that removals make. What takes the place of a rule being removed goes
// first: its clients are in force today and must not lose to a newcomer.
func (p *planner) place() Changes {
	out := Changes{Groups: slices.Clone(p.groups)}
	rooms := p.rooms()
	quota := p.quotas()
	for i := range out.Groups {
		out.Groups[i].Remove = slices.Clone(p.groups[i].Remove)
	}
	var missing []Grant
	for _, key := range p.order {
		s := p.lots[key]
		for i, o := range s.ours {
			g := &out.Groups[o.group]
			if s.keep[i] {
				g.Keep = append(g.Keep, o.rule)
			} else {
				g.Remove = append(g.Remove, o.rule)
			}
		}
		for _, b := range s.add {
			missing = append(missing, s.grant(b))
		}
	}
	slices.SortFunc(missing, compareGrants)
	heirs, newcomers := split(missing, func(g Grant) bool { return out.replaces(g) })
	for _, m := range slices.Concat(heirs, newcomers) {
		left, bounded := quota[m.Pool]
		if !bounded {
			left = unlimited
		}
		if left <= 0 {
			out.OverQuota = append(out.OverQuota, m)
			continue
		}
		slots := rooms.settle(m, left)
		for _, s := range slots {
			out.Groups[s.group].Add = append(out.Groups[s.group].Add, s.Grant)
		}
		switch {
		case len(slots) == 0 && rooms.find(m, rooms.free, foreign) >= 0:
			out.Ousted = append(out.Ousted, m)
		case len(slots) == 0:
			out.Overflow = append(out.Overflow, m)
		case bounded:
			quota[m.Pool] -= len(slots)
		}
	}
	for i := range out.Groups {
		slices.SortFunc(out.Groups[i].Add, compareGrants)
	}
	slices.SortFunc(out.Overflow, compareGrants)
	slices.SortFunc(out.OverQuota, compareGrants)
	return out
}

func split[T any](all []T, first func(T) bool) (a, b []T) {
	for _, v := range all {
		if first(v) {
			a = append(a, v)
		} else {
			b = append(b, v)
		}
	}
	return a, b
}

// rooms is how much each group can still take, and all of them together. Room that must
// be made first is the last resort: it takes a gap, or calls in vain.
type rooms struct {
	limits   Count
	now      []Count // as the groups are
	free     []Count // when what is to be removed is gone
	together int
	bounded  bool
	seats    []seats
}

func (p *planner) rooms() *rooms {
	r := &rooms{limits: p.want.Limits, together: p.can.RulesTogether, bounded: p.can.RulesTogether > 0, seats: p.seats()}
	for _, g := range p.groups {
		free := r.limits
		if known, ok := p.want.Known[g.ID]; ok {
			free = free.least(known)
		}
		for _, f := range g.Foreign {
			free = free.minus(costOf(f.Source, r.limits))
			r.together--
		}
		now := free
		for _, gone := range g.Remove {
			now = now.minus(costOf(gone.Source, r.limits))
		}
		r.free, r.now = append(r.free, free), append(r.now, now)
	}
	for _, s := range p.lots {
		for i, o := range s.ours {
			cost := costOf(o.source, r.limits)
			r.now[o.group] = r.now[o.group].minus(cost)
			if s.keep[i] {
				r.free[o.group] = r.free[o.group].minus(cost)
				r.together--
			}
		}
	}
	return r
}

// quotas is how many rules more each pool with a quota may have.
func (p *planner) quotas() map[string]int {
	out := map[string]int{}
	for name, pool := range p.want.Pools {
		if pool.Rules > 0 {
			out[name] = pool.Rules
		}
	}
	for key, s := range p.lots {
		if _, bounded := out[key.pool]; bounded {
			out[key.pool] -= len(s.keep)
		}
	}
	return out
}

// replaces says whether the rule admits a part of what one that goes admits.
func (c Changes) replaces(g Grant) bool {
	for _, group := range c.Groups {
		for _, r := range group.Remove {
			if r.Peer == g.Peer && r.Protocol == g.Protocol && (block{r.Ports, r.Source}).meets(block{g.Ports, g.Source}) {
				return true
			}
		}
	}
	return false
}

// findStrangers sorts out what the foreign rules of a group do to what is wanted.
func (p *planner) findStrangers(g *GroupChanges) {
	for _, r := range g.Foreign {
		serves, shadows, hides := false, false, false
		for _, s := range p.lots {
			serves = serves || p.serves(r, s)
			hides = hides || p.hides(r, s)
		}
		if !serves && !r.Drop {
			shadows = p.shadows(r)
		}
		switch {
		case serves:
			g.Serving = append(g.Serving, r)
		case shadows:
			g.Shadowing = append(g.Shadowing, r)
		case hides:
			g.Hiding = append(g.Hiding, r)
		}
	}
}

// serves says whether a foreign rule admits a part of what the lot wants and nothing
// else. One that comes behind ours does not: a drop between the two would hide it.
func (p *planner) serves(r Rule, s *share) bool {
	return s.admits(r) && r.Priority <= p.can.Priority && s.region.holds(block{r.Ports, r.Source})
}

// hides says whether a foreign rule drops a part of what the lot wants: at equal
// priority dropping wins. One whose source is no prefix may.
func (p *planner) hides(r Rule, s *share) bool {
	return r.Drop && r.Priority <= p.can.Priority && (r.Protocol == s.protocol || r.Protocol == AnyProtocol) &&
		slices.ContainsFunc(s.exact, func(sp span) bool {
			return overlap(sp.ports, r.Ports) && (!r.Source.IsValid() || s.peer != "" ||
				slices.ContainsFunc(sp.sources, r.Source.Overlaps))
		})
}

// shadows says whether a foreign rule admits to a wanted port what no grant for that
// port admits, of whichever pool.
func (p *planner) shadows(r Rule) bool {
	if !r.Source.IsValid() {
		return false
	}
	for protocol, w := range p.wanted() {
		if r.Protocol != protocol && r.Protocol != AnyProtocol {
			continue
		}
		for _, ports := range w.ports.Intersect(rule.PortRanges{r.Ports}) {
			if !w.admitted.holds(block{ports, r.Source}) {
				return true
			}
		}
	}
	return false
}

// wanted is what is asked of one protocol, of all pools.
type wanted struct {
	ports    rule.PortRanges
	admitted region // to prefixes
}

func (p *planner) wanted() map[rule.Protocol]wanted {
	if p.all != nil {
		return p.all
	}
	ports, blocks := map[rule.Protocol][]rule.PortRange{}, map[rule.Protocol][]block{}
	for key, s := range p.lots {
		for _, b := range s.exact.blocks() {
			ports[key.protocol] = append(ports[key.protocol], b.ports)
			if key.peer == "" {
				blocks[key.protocol] = append(blocks[key.protocol], b)
			}
		}
	}
	p.all = map[rule.Protocol]wanted{}
	for protocol, ranges := range ports {
		p.all[protocol] = wanted{rule.NewPortRanges(ranges...), regionOf(blocks[protocol])}
	}
	return p.all
}
