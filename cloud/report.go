package cloud

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/portreeve/portreeve/internal/rule"
)

// Report is what Sync has seen in its last listing. It says nothing about when:
// a caller who needs "listed after X" calls Sync after X.
type Report struct {
	// Groups that were listed, in order of filling.
	Groups []GroupReport
	// Unlisted are the groups that could not be read; what they admit is unknown.
	Unlisted []string
	// InForce is every rule of ours that stands, wanted or not, and every foreign rule that serves
	// what is wanted and nothing else; sorted, each once, without descriptions. Ask it
	// with Covers and Holds.
	InForce []Grant
	// Doubtful are rules of ours that may be in force or not: written and not listed
	// yet, sent without an answer, or removed and listed still. Covers does not count on
	// them, Holds does.
	Doubtful []Grant
	// Overflow are the rules for which there is no room, OverQuota those that are more
	// than their pool may have. Not known, and nil, while a group is unlisted.
	Overflow, OverQuota []Grant
	// Ousted are those that somebody else's equal rule of a worse priority keeps out.
	Ousted []Grant
	// Coarse are the rules that admit more than was asked, so that they fit.
	Coarse []Grant
	// Unsupported are the grants this cloud cannot express exactly.
	Unsupported []Grant
	// Contended are the rules that others removed again and again, and that are left
	// to them for a while.
	Contended []Grant
	// Drifted says what others did to our rules, where that is only to be reported.
	Drifted []string
	// Rivals are the owners of listed rules that bear this cluster's name and are not it.
	Rivals []string
	// Restored counts the rules that others had removed and that were put back.
	Restored int
	// Calls counts the calls that were made.
	Calls Calls
	// drops: the cloud has rules that drop, which may stand in a group that is unlisted.
	drops bool
}

// GroupReport is one group as listed.
type GroupReport struct {
	ID            string
	Ours, Foreign []Rule
	// Shadowing are the foreign rules that let in, on a wanted port, more than
	// the grants do.
	Shadowing []Rule
	// Dropping are the foreign rules that drop ahead of some of ours, Hiding those among them that
	// drop what is wanted.
	Dropping, Hiding []Rule
	// Add and Remove are what is still to be done.
	Add    []Grant
	Remove []Rule
	Budget Budget
}

// Budget is how much of a group is used, by ours and foreign rules together.
type Budget struct{ Used, Limit Count }

// Calls counts calls of a Provider.
type Calls struct{ List, Authorize, Revoke int }

// Mutating counts the calls that were to change something.
func (c Calls) Mutating() int { return c.Authorize + c.Revoke }

// Covers says whether the atom is proved to be in force: rules admit it, and none that
// is not ours drops it. Where rules drop, nothing is proved while a group is unlisted.
func (r Report) Covers(atom rule.Rule) bool {
	if r.drops && len(r.Unlisted) > 0 {
		return false
	}
	var rules []rule.Rule
	for _, g := range r.InForce {
		if g.Peer == "" {
			rules = append(rules, g.Rule)
		}
	}
	hidden := slices.ContainsFunc(r.Groups, func(g GroupReport) bool {
		return slices.ContainsFunc(g.Dropping, func(h Rule) bool {
			return (h.Protocol == atom.Protocol || h.Protocol == AnyProtocol) && overlap(h.Ports, atom.Ports) && (!h.Source.IsValid() || h.Source.Overlaps(atom.Source))
		})
	})
	return !hidden && Covered(rules, atom)
}

// Holds says whether a rule of ours may still admit something to the port: one
// was seen or is on its way, or a group could not be read. While it is true the number must not
// be given to somebody else.
func (r Report) Holds(port rule.Port) bool {
	return len(r.Unlisted) > 0 || slices.ContainsFunc(slices.Concat(r.InForce, r.Doubtful), func(f Grant) bool {
		return f.Protocol == port.Protocol && f.Ports.Contains(port.Number)
	})
}

// report turns the comparison with the last listing into the answer. What the
// comparison still finds missing becomes an error if there is none yet.
func (s *session) report(c Changes, err error) (Report, error) {
	r := Report{
		Overflow: c.Overflow, OverQuota: c.OverQuota, Ousted: c.Ousted, Coarse: c.Coarse,
		Unsupported: s.unsupported, Contended: s.held.contended, Drifted: s.held.drifted, Restored: s.memory.restored, Calls: s.calls,
		Doubtful: slices.Clone(s.lost), Rivals: s.rivals, drops: s.can.Priority > 0,
	}
	worst := s.can.Priority // of what is in force: it may have been another before
	for _, g := range c.Groups {
		for _, r := range slices.Concat(g.Keep, g.Remove, g.Serving) {
			worst = max(worst, r.Priority)
		}
	}
	for _, g := range c.Groups {
		unseen, ours := split(slices.Concat(g.Keep, g.Remove), Rule.unseen)
		for _, in := range slices.Concat(ours, g.Serving) {
			r.InForce = append(r.InForce, Grant{Rule: in.Rule, Peer: in.Peer})
		}
		for _, maybe := range slices.Concat(unseen, s.waiting[g.ID], s.fading[g.ID]) {
			r.Doubtful = append(r.Doubtful, Grant{Rule: maybe.Rule, Peer: maybe.Peer})
		}
		ours = append(ours, s.fading[g.ID]...)
		dropping, _ := split(g.Foreign, func(f Rule) bool { return f.Drop && f.Priority <= worst })
		slices.SortFunc(ours, compareListed)
		r.Groups = append(r.Groups, GroupReport{
			ID: g.ID, Ours: ours, Foreign: g.Foreign, Shadowing: g.Shadowing, Dropping: dropping, Hiding: g.Hiding, Add: g.Add, Remove: g.Remove,
			Budget: Budget{Used: GroupChanges{Keep: ours, Foreign: g.Foreign}.used(s.want.Limits), Limit: s.limit(g.ID)},
		})
	}
	for _, id := range distinct(s.want.Groups) {
		if !slices.ContainsFunc(r.Groups, func(g GroupReport) bool { return g.ID == id }) {
			r.Unlisted = append(r.Unlisted, id)
		}
	}
	if len(r.Unlisted) > 0 {
		r.Overflow, r.OverQuota, r.Ousted = nil, nil, nil
	} else {
		s.memory.listed(c, s.held, s.now())
	}
	for _, list := range []*[]Grant{&r.InForce, &r.Doubtful} {
		slices.SortFunc(*list, compareGrants)
		*list = slices.Compact(*list)
	}
	return r, s.verdict(r, !c.Empty() && !s.want.Observe || len(r.Doubtful) > 0, err)
}

// limit is what the group holds, as far as is known.
func (s *session) limit(group string) Count {
	if known, ok := s.want.Known[group]; ok {
		return s.want.Limits.least(known)
	}
	return s.want.Limits
}

// verdict adds to err what the report shows to be missing.
func (s *session) verdict(r Report, pending bool, err error) error {
	all := []error{err}
	if err == nil && pending {
		all = append(all, fmt.Errorf("%w: written, but the listing does not show it yet", ErrStale))
	}
	if n := len(r.Overflow); n > 0 {
		all = append(all, fmt.Errorf("%w: no room for %d more rules, first %s", ErrQuota, n, spell(r.Overflow[0])))
	}
	if n := len(r.OverQuota); n > 0 {
		all = append(all, fmt.Errorf("%w: pool %s may have %d rules (quota.cloudRules) and needs %d more, first %s", ErrQuota, r.OverQuota[0].Pool, s.want.Pools[r.OverQuota[0].Pool].Rules, n, spell(r.OverQuota[0])))
	}
	if n := len(r.Unsupported); n > 0 {
		all = append(all, fmt.Errorf("%w: %d rules would admit more than was asked, first %s", ErrUnsupported, n, spell(r.Unsupported[0])))
	}
	if n := len(r.Contended); n > 0 {
		all = append(all, fmt.Errorf("%w: others removed %d rules %d times running, first %s; find out who, and take the rule out of their hands or the source out of the policy", ErrContended, n, contended, spell(r.Contended[0])))
	}
	if len(r.Drifted) > 0 {
		all = append(all, fmt.Errorf("%w: %s", ErrDrifted, strings.Join(r.Drifted[:min(len(r.Drifted), 8)], "; ")))
	}
	if n := len(r.Ousted); n > 0 {
		all = append(all, fmt.Errorf("%w: %d rules, first %s, stand in the groups already at a worse priority, and are not ours; remove them, or give them priority %d or better", ErrHidden, n, spell(r.Ousted[0]), s.can.Priority))
	}
	for _, g := range r.Groups {
		if len(g.Hiding) > 0 {
			h := g.Hiding[0]
			all = append(all, fmt.Errorf("%w: %d rules of group %s drop what is wanted ahead of ours, first %s (%s, priority %d); remove them, or give ours a better priority", ErrHidden, len(g.Hiding), g.ID, h.ID, spell(Grant{Rule: h.Rule, Peer: h.Peer}), h.Priority))
		}
	}
	return errors.Join(all...)
}

func spell(g Grant) string {
	if g.Peer != "" {
		return fmt.Sprintf("%s %s from %s", g.Protocol, g.Ports, g.Peer)
	}
	return fmt.Sprintf("%s %s from %s", g.Protocol, g.Ports, g.Source)
}
