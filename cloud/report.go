package cloud

import (
	"errors"
	"fmt"
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// Report is what Sync has seen in its last listing. It says nothing about when:
// a caller who needs "listed after X" calls Sync after X.
type Report struct {
	// Groups that were listed, in order of filling.
	Groups []GroupReport
	// Unlisted are the groups that could not be read; what they admit is unknown.
	Unlisted []string
	// InForce is every rule of ours, wanted or not, and every foreign rule equal
	// to a grant; sorted, each once. Ask it with Covered and Holds.
	InForce []rule.Rule
	// Overflow are the grants for which there is no room. Not known, and nil,
	// while a group is unlisted.
	Overflow []Grant
	// Unsupported are the grants this cloud cannot express exactly.
	Unsupported []Grant
	// Calls counts the calls that were made.
	Calls Calls
}

// GroupReport is one group as listed.
type GroupReport struct {
	ID            string
	Ours, Foreign []Rule
	// Shadowing are the foreign rules that let in, on a wanted port, more than
	// the grants do.
	Shadowing []Rule
	Budget    Budget
}

// Budget is how much of a group is used, by ours and foreign rules together.
type Budget struct{ Used, Limit Count }

// Calls counts calls of a Provider.
type Calls struct{ List, Authorize, Revoke int }

// Mutating counts the calls that were to change something.
func (c Calls) Mutating() int { return c.Authorize + c.Revoke }

// Covers says whether the atom is proved to be in force.
func (r Report) Covers(atom rule.Rule) bool { return Covered(r.InForce, atom) }

// Holds says whether a rule of ours may still admit something to the port: one
// was seen, or a group could not be read. While it is true the number must not
// be given to somebody else.
func (r Report) Holds(port rule.Port) bool {
	return len(r.Unlisted) > 0 || slices.ContainsFunc(r.InForce, func(f rule.Rule) bool {
		return f.Protocol == port.Protocol && f.Ports.Contains(port.Number)
	})
}

// report turns the comparison with the last listing into the answer. What the
// comparison still finds missing becomes an error if there is none yet.
func (s *session) report(c Changes, err error) (Report, error) {
	r := Report{Overflow: slices.Clone(c.Overflow), Unsupported: s.unsupported, Calls: s.calls}
	for _, g := range c.Groups {
		ours := slices.SortedFunc(slices.Values(slices.Concat(g.Keep, g.Remove)), compareListed)
		group := GroupReport{ID: g.ID, Ours: ours, Foreign: g.Foreign, Shadowing: g.Shadowing}
		group.Budget.Limit = s.want.Limits
		for _, listed := range slices.Concat(g.Keep, g.Remove, g.Foreign) {
			group.Budget.Used = group.Budget.Used.plus(costOf(listed.Source, s.want.Limits))
		}
		r.Groups = append(r.Groups, group)
		r.InForce = append(r.InForce, g.admitting(s.want.Grants)...)
		for _, unwanted := range g.Remove {
			r.InForce = append(r.InForce, unwanted.Rule)
		}
		if s.full[g.ID] {
			r.Overflow = append(r.Overflow, g.Add...)
		}
	}
	for _, id := range distinct(s.want.Groups) {
		if !slices.ContainsFunc(r.Groups, func(g GroupReport) bool { return g.ID == id }) {
			r.Unlisted = append(r.Unlisted, id)
		}
	}
	if len(r.Unlisted) > 0 {
		r.Overflow = nil
	}
	slices.SortFunc(r.InForce, rule.CompareRules)
	r.InForce = slices.Compact(r.InForce)
	slices.SortFunc(r.Overflow, compareGrants)
	return r, s.verdict(r, c, err)
}

// verdict adds to err what the report shows to be missing.
func (s *session) verdict(r Report, c Changes, err error) error {
	all := []error{err}
	if err == nil && !c.Empty() {
		all = append(all, fmt.Errorf("%w: written, but the listing does not show it yet", ErrStale))
	}
	if n := len(r.Overflow); n > 0 && !errors.Is(err, ErrQuota) {
		all = append(all, fmt.Errorf("%w: no room for %d of %d rules, first %s", ErrQuota, n, len(s.want.Grants), spell(r.Overflow[0])))
	}
	if n := len(r.Unsupported); n > 0 {
		all = append(all, fmt.Errorf("%w: %d rules would admit more than was asked, first %s", ErrUnsupported, n, spell(r.Unsupported[0])))
	}
	return errors.Join(all...)
}

func spell(g Grant) string {
	return fmt.Sprintf("%s %s from %s", g.Protocol, g.Ports, g.Source)
}
