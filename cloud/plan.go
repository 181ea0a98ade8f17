package cloud

import (
	"fmt"
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// Want is everything this cluster's rules in a CloudFirewall's groups shall be.
type Want struct {
	// Owner is the signature: the id of this cluster. Never empty. With a slash in it the
	// name of the cluster stands before, and what tells it from its copies behind.
	Owner string
	// Confirmed: a person has said that it is this cluster which may change the rules,
	// although a copy of it has some in the groups.
	Confirmed bool
	// Groups are the group ids in order of filling. All of them are attached to
	// every node, so a rule counts in whichever it stands.
	Groups []string
	// Limits is what one group holds. Zero: as the provider's Capabilities say.
	Limits Count
	// Known is what single groups were found to hold, where that is less.
	Known map[string]Count
	// Grants are what is to be admitted, in any order. Those of a pool may overlap,
	// and are joined as far as that admits nobody else.
	Grants []Grant
	// Pools by the name in their grants.
	Pools map[string]Pool
	// Coarsen a pool's rules when they do not fit: they then admit more than was asked,
	// but no other pool's ports.
	Coarsen bool
	// Observe only: say what would be done, and change nothing.
	Observe bool
	// Report what others removed or added of ours, and leave it so.
	Report bool
	// Taken are rules of ours that others removed and that are not to be put back, in
	// whatever shape. Sync knows them.
	Taken []Taken
}

// Taken is what others removed of ours.
type Taken struct {
	Grant
	// From are the groups that it stood in.
	From []string
}

// Pool bounds the rules of one pool.
type Pool struct {
	// Ports are its own: no other pool's rules ever stand on them.
	Ports rule.PortRanges
	// Rules is how many rules it may have in all groups together; 0: any.
	Rules int
}

// Changes is what has to be done to the groups, and what stays.
type Changes struct {
	// Groups in order of filling; groups without a listing are left out.
	Groups []GroupChanges
	// Overflow are the rules for which no group has room.
	Overflow []Grant
	// OverQuota are those for which there is room, and which are more than their
	// pool may have.
	OverQuota []Grant
	// Ousted are those that no group takes because an equal rule stands there, not ours
	// and at a worse priority.
	Ousted []Grant
	// Coarse are the rules that admit more than was asked, so that they fit.
	Coarse []Grant
	// Taken is what of want.Taken is still wanted, and what no rule admits.
	Taken []Taken
}

// GroupChanges is the part of Changes in one group. Each list is in canonical
// order; Keep, Remove and Foreign together are the listing.
type GroupChanges struct {
	ID                    string
	Add                   []Grant
	Keep, Remove, Foreign []Rule
	// Serving are the foreign rules that admit a part of what is wanted, and nothing
	// else.
	Serving []Rule
	// Shadowing are the foreign rules which admit to a wanted port what no grant
	// for that port admits. Rules whose source is a group or a prefix list are
	// left out: nobody here knows who its members are.
	Shadowing []Rule
	// Hiding are the foreign rules that drop a part of what is wanted, ahead of ours.
	Hiding []Rule
}

// Empty says whether there is nothing to write.
func (c Changes) Empty() bool {
	return !slices.ContainsFunc(c.Groups, func(g GroupChanges) bool { return len(g.Add)+len(g.Remove) > 0 })
}

// Plan compares what is wanted with what the groups list. Groups of want that
// have no listing take no part: absent is not empty. The result does not depend
// on the order of the inputs, except for the order of groups.
//
// A rule of ours stays as long as all that it admits is wanted and the others do not
// admit it as well; what is missing then is covered by few more. Only where those do
// not fit is a pool's share made anew.
func Plan(want Want, have map[string][]Rule, can Capabilities) Changes {
	p := newPlanner(want, have, can)
	var taken []Taken
	for _, key := range p.order {
		taken = append(taken, p.leave(p.lots[key])...)
		p.draft(p.lots[key])
	}
	out := p.place()
	for _, remedy := range p.remedies() {
		if crowded := out.crowded(); len(crowded) > 0 && remedy(crowded) {
			out = p.place()
		}
	}
	for losing := p.losing(out); len(losing) > 0; losing = p.losing(out) {
		for _, s := range losing { // and never again: all of it stays
			s.keepAll()
			s.prune(nil)
		}
		out = p.place()
	}
	for _, key := range p.order {
		p.lots[key].tellCoarse(&out)
	}
	p.describe(&out)
	out.Taken = taken
	for i := range out.Groups {
		g := &out.Groups[i]
		p.findStrangers(g)
		slices.SortFunc(g.Keep, compareListed)
		slices.SortFunc(g.Remove, compareListed)
	}
	return out
}

// planner is one Plan in the making.
type planner struct {
	want   Want
	can    Capabilities
	groups []GroupChanges
	grants map[lot][]Grant
	lots   map[lot]*share
	order  []lot
	all    map[rule.Protocol]wanted
}

func newPlanner(want Want, have map[string][]Rule, can Capabilities) *planner {
	p := &planner{want: want, can: can, grants: map[lot][]Grant{}, lots: map[lot]*share{}}
	for _, g := range canonicalGrants(want.Grants) {
		p.grants[lotOf(g)] = append(p.grants[lotOf(g)], g)
	}
	for key, grants := range p.grants {
		p.order = append(p.order, key)
		s := &share{lot: key, exact: regionOf(blocksOf(grants))}
		s.region = s.exact
		p.lots[key] = s
	}
	slices.SortFunc(p.order, compareLots)
	for _, id := range distinct(want.Groups) {
		if listed, ok := have[id]; ok {
			p.sortOut(id, listed)
		}
	}
	return p
}

// sortOut says of each listed rule whether it is ours or foreign.
func (p *planner) sortOut(id string, listed []Rule) {
	g := GroupChanges{ID: id}
	sorted := slices.Clone(listed)
	for i := range sorted {
		sorted[i].Rule = masked(sorted[i].Rule)
	}
	slices.SortFunc(sorted, compareListed)
	for _, r := range sorted {
		if r.signed(p.want.Owner) {
			p.claim(len(p.groups), &g, r)
		} else {
			g.Foreign = append(g.Foreign, r)
		}
	}
	p.groups = append(p.groups, g)
}

// claim gives a rule of ours to the lots that it may serve, be they exact or coarse;
// one that serves none is removed.
func (p *planner) claim(group int, g *GroupChanges, r Rule) {
	b := block{r.Ports, r.Source}
	for _, key := range p.order {
		s := p.lots[key]
		if s.admits(r) && r.Priority == p.can.Priority && slices.ContainsFunc(s.exact, func(sp span) bool { return overlap(sp.ports, r.Ports) }) {
			s.ours = append(s.ours, standing{b, group, r})
			return
		}
	}
	g.Remove = append(g.Remove, r)
}

// draft decides which rules stay and what is missing.
func (p *planner) draft(s *share) {
	s.others = nil
	for _, g := range p.groups {
		for _, r := range g.Foreign {
			if p.serves(r, s) {
				s.others = append(s.others, block{r.Ports, r.Source})
			}
		}
	}
	s.add = cover(s.lacking(), append(s.keepAll(), s.others...))
	s.prune(s.add)
}

// leave finds what of the share others took and nothing admits: it is not added.
func (p *planner) leave(s *share) (out []Taken) {
	var stands []block
	for _, o := range s.ours {
		if s.exact.holds(o.block) {
			stands = append(stands, o.block)
		}
	}
	for _, g := range p.groups {
		for _, r := range g.Foreign {
			if p.serves(r, s) {
				stands = append(stands, block{r.Ports, r.Source})
			}
		}
	}
	for _, t := range p.want.Taken {
		if !s.admits(Rule{Rule: t.Rule, Peer: t.Peer}) {
			continue
		}
		for _, b := range s.exact.common([]block{{t.Ports, t.Source}}).minus(stands).blocks() {
			s.taken = append(s.taken, b)
			out = append(out, Taken{Grant{Rule: rule.Rule{Protocol: t.Protocol, Ports: b.ports, Source: b.source}, Peer: t.Peer}, t.From})
		}
	}
	return out
}

// describe writes beside each new rule whom it serves.
func (p *planner) describe(c *Changes) {
	served := map[lot]*index{}
	for i := range c.Groups {
		for j := range c.Groups[i].Add {
			a := &c.Groups[i].Add[j]
			key := lotOf(*a)
			if served[key] == nil {
				served[key] = newIndex(blocksOf(p.grants[key]))
			}
			a.Description = described(*a, p.grants[key], served[key])
		}
	}
}

// check refuses a want that must never reach a cloud: without an owner every
// unsigned rule would look like ours.
func (w Want) check() error {
	if w.Owner == "" {
		return fmt.Errorf("%w: no owner to sign rules with", ErrInvalid)
	}
	for _, g := range w.Grants {
		if g.Source.IsValid() == (g.Peer != "") || g.Ports.First == 0 || g.Ports.First > g.Ports.Last ||
			!slices.Contains(rule.Protocols, g.Protocol) {
			return fmt.Errorf("%w: no rule: %s", ErrInvalid, spell(g))
		}
	}
	return nil
}

// within fits the want to the provider: its limits, unless others are wished, and
// without the grants that it cannot express exactly, which are returned.
func (w Want) within(c Capabilities) (Want, []Grant) {
	var can, cannot []Grant
	for _, g := range canonicalGrants(w.Grants) {
		if slices.Contains(c.Protocols, g.Protocol) {
			can = append(can, g)
		} else {
			cannot = append(cannot, g)
		}
	}
	w.Grants = can
	if w.Limits == (Count{}) {
		w.Limits = c.RulesPerGroup
	}
	return w, cannot
}
