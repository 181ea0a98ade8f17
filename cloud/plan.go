package cloud

import (
	"fmt"
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// Want is everything this cluster's rules in a CloudFirewall's groups shall be.
type Want struct {
	// Owner is the signature: the id of this cluster. Never empty.
	Owner string
	// Groups are the group ids in order of filling. All of them are attached to
	// every node, so a rule counts in whichever it stands.
	Groups []string
	// Limits is what one group holds. Zero: as the provider's Capabilities say.
	Limits Count
	// Grants are merged rules (see Merge), in any order.
	Grants []Grant
}

// Changes is what has to be done to the groups, and what stays.
type Changes struct {
	// Groups in order of filling; groups without a listing are left out.
	Groups []GroupChanges
	// Overflow are the grants for which no group has room.
	Overflow []Grant
}

// GroupChanges is the part of Changes in one group. Each list is in canonical
// order; Keep, Remove and Foreign together are the listing.
type GroupChanges struct {
	ID                    string
	Add                   []Grant
	Keep, Remove, Foreign []Rule
	// Shadowing are the foreign rules which admit to a wanted port what no grant
	// for that port admits. Rules whose source is a group or a prefix list are
	// left out: nobody here knows who its members are.
	Shadowing []Rule
}

// Empty says whether there is nothing to write.
func (c Changes) Empty() bool {
	return !slices.ContainsFunc(c.Groups, func(g GroupChanges) bool { return len(g.Add)+len(g.Remove) > 0 })
}

// Plan compares what is wanted with what the groups list. Groups of want that
// have no listing take no part: absent is not empty. The result does not depend
// on the order of the inputs, except for the order of groups.
func Plan(want Want, have map[string][]Rule) Changes {
	want.Grants = canonicalGrants(want.Grants)
	wanted := make(map[rule.Rule]bool, len(want.Grants))
	for _, g := range want.Grants {
		wanted[g.Rule] = true
	}
	var out Changes
	inForce := make(map[rule.Rule]bool, len(want.Grants))
	for _, id := range distinct(want.Groups) {
		if listed, ok := have[id]; ok {
			out.Groups = append(out.Groups, sortOut(id, listed, want.Owner, wanted, inForce))
		}
	}
	for _, g := range out.Groups {
		for _, r := range g.Foreign {
			inForce[r.Rule] = true // equal to a grant, or of no consequence here
		}
	}
	missing := slices.DeleteFunc(slices.Clone(want.Grants), func(g Grant) bool { return inForce[g.Rule] })
	out.place(missing, want.Limits)
	out.findShadows(want.Grants)
	return out
}

// sortOut says of each listed rule whether it stays, goes or is foreign, and
// marks in kept what stays.
func sortOut(id string, listed []Rule, owner string, wanted, kept map[rule.Rule]bool) GroupChanges {
	g := GroupChanges{ID: id}
	sorted := slices.Clone(listed)
	for i := range sorted {
		sorted[i].Rule = masked(sorted[i].Rule)
	}
	slices.SortFunc(sorted, compareListed)
	for _, r := range sorted {
		switch {
		case !r.signed(owner):
			g.Foreign = append(g.Foreign, r)
		case wanted[r.Rule] && !kept[r.Rule]:
			kept[r.Rule] = true
			g.Keep = append(g.Keep, r)
		default: // no longer wanted, or a second copy of what an earlier group holds
			g.Remove = append(g.Remove, r)
		}
	}
	return g
}

// place gives each missing grant to the first group with room, counting on the
// room that removals make. What takes the place of a rule being removed goes
// first: its clients are in force today and must not lose to a newcomer.
func (c *Changes) place(missing []Grant, limits Count) {
	room := make([]Count, len(c.Groups))
	for i, g := range c.Groups {
		room[i] = limits.minus(g.stays(limits))
	}
	var heirs, newcomers []Grant
	for _, m := range missing {
		if c.replaces(m.Rule) {
			heirs = append(heirs, m)
		} else {
			newcomers = append(newcomers, m)
		}
	}
	for _, m := range slices.Concat(heirs, newcomers) {
		cost := costOf(m.Source, limits)
		i := slices.IndexFunc(room, func(free Count) bool { return free.holds(cost) })
		if i < 0 {
			c.Overflow = append(c.Overflow, m)
			continue
		}
		room[i] = room[i].minus(cost)
		c.Groups[i].Add = append(c.Groups[i].Add, m)
	}
	for i := range c.Groups {
		slices.SortFunc(c.Groups[i].Add, compareGrants)
	}
	slices.SortFunc(c.Overflow, compareGrants)
}

// stays counts the rules that are listed now and not going to be removed.
func (g GroupChanges) stays(limits Count) Count {
	var n Count
	for _, r := range slices.Concat(g.Keep, g.Foreign) {
		n = n.plus(costOf(r.Source, limits))
	}
	return n
}

func (c *Changes) replaces(want rule.Rule) bool {
	for _, g := range c.Groups {
		for _, r := range g.Remove {
			if _, meet := intersect(r.Rule, want); meet {
				return true
			}
		}
	}
	return false
}

func (c *Changes) findShadows(grants []Grant) {
	wanted := spansByProtocol(rulesOf(grants))
	for i := range c.Groups {
		g := &c.Groups[i]
		for _, r := range g.Foreign {
			if shadows(r, wanted) {
				g.Shadowing = append(g.Shadowing, r)
			}
		}
	}
}

func shadows(foreign Rule, wanted map[rule.Protocol][]span) bool {
	if !foreign.Source.IsValid() {
		return false
	}
	for protocol, spans := range wanted {
		if foreign.Protocol != protocol && foreign.Protocol != AnyProtocol {
			continue
		}
		for _, s := range spans {
			if overlap(s.ports, foreign.Ports) && !rule.Covers(s.sources, foreign.Source) {
				return true
			}
		}
	}
	return false
}

// cuttingNobody returns the part of the changes that can be done although not
// every grant could be: removals of what admits nothing wanted, or only what
// other rules in force, or added, admit as well. A revoked source is so cut off
// even while another group or grant is in trouble.
func (c Changes) cuttingNobody(grants []Grant, added []rule.Rule) Changes {
	standing := slices.Clone(added)
	for _, g := range c.Groups {
		standing = append(standing, g.admitting(grants)...)
	}
	out := Changes{}
	for _, g := range c.Groups {
		harmless := slices.DeleteFunc(slices.Clone(g.Remove), func(r Rule) bool {
			return slices.ContainsFunc(grants, func(w Grant) bool {
				lost, meet := intersect(r.Rule, masked(w.Rule))
				return meet && !Covered(standing, lost)
			})
		})
		out.Groups = append(out.Groups, GroupChanges{ID: g.ID, Remove: harmless})
	}
	return out
}

// admitting lists the rules that stay and satisfy a grant: ours and foreign
// equals.
func (g GroupChanges) admitting(grants []Grant) []rule.Rule {
	var out []rule.Rule
	for _, r := range g.Keep {
		out = append(out, r.Rule)
	}
	for _, r := range g.Foreign {
		if slices.ContainsFunc(grants, func(w Grant) bool { return masked(w.Rule) == r.Rule }) {
			out = append(out, r.Rule)
		}
	}
	return out
}

// intersect returns what both rules admit.
func intersect(a, b rule.Rule) (rule.Rule, bool) {
	if a.Protocol != b.Protocol || !overlap(a.Ports, b.Ports) || !a.Source.Overlaps(b.Source) {
		return rule.Rule{}, false
	}
	both := rule.Rule{
		Protocol: a.Protocol,
		Ports:    rule.PortRange{First: max(a.Ports.First, b.Ports.First), Last: min(a.Ports.Last, b.Ports.Last)},
		Source:   a.Source,
	}
	if b.Source.Bits() > a.Source.Bits() {
		both.Source = b.Source
	}
	return both, true
}

func overlap(a, b rule.PortRange) bool { return a.First <= b.Last && b.First <= a.Last }

// canonicalGrants returns the grants masked, sorted and without repetition.
func canonicalGrants(grants []Grant) []Grant {
	out := slices.Clone(grants)
	for i := range out {
		out[i].Rule = masked(out[i].Rule)
	}
	slices.SortFunc(out, compareGrants)
	return slices.CompactFunc(out, func(a, b Grant) bool { return a.Rule == b.Rule })
}

// distinct returns the ids without repetition, each at its first place.
func distinct(ids []string) []string {
	var out []string
	for _, id := range ids {
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

// check refuses a want that must never reach a cloud: without an owner every
// unsigned rule would look like ours.
func (w Want) check() error {
	if w.Owner == "" {
		return fmt.Errorf("%w: no owner to sign rules with", ErrInvalid)
	}
	for _, g := range w.Grants {
		if !g.Source.IsValid() || g.Ports.First == 0 || g.Ports.First > g.Ports.Last ||
			!slices.Contains(rule.Protocols, g.Protocol) {
			return fmt.Errorf("%w: no rule: %s %s from %s", ErrInvalid, g.Protocol, g.Ports, g.Source)
		}
	}
	return nil
}

// within fits the want to the provider: its limits, unless others are wished,
// and without the grants that it cannot express exactly, which are returned.
func (w Want) within(c Capabilities) (Want, []Grant) {
	if w.Limits == (Count{}) {
		w.Limits = c.RulesPerGroup
	}
	var can, cannot []Grant
	for _, g := range canonicalGrants(w.Grants) {
		if slices.Contains(c.Protocols, g.Protocol) {
			can = append(can, g)
		} else {
			cannot = append(cannot, g)
		}
	}
	w.Grants = can
	return w, cannot
}
