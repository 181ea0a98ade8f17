package cloud

import (
	"context"
	"fmt"
	"slices"
)

// equal returns which of the rules to be removed the cloud takes for the grant's own, at
// whatever priority; -1 if none.
func (g GroupChanges) equal(a Grant) int {
	return slices.IndexFunc(g.Remove, func(r Rule) bool { return matchOf(r).whatever() == matchOf(written(a, "", 0)) })
}

// swap takes a rule out and puts it back at once at another priority. It leaves a gap of
// one call, and is for what cannot be halved and has no other group to go to.
func (s *session) swap(ctx context.Context, g GroupChanges, a Grant) error {
	if err := s.revoke(ctx, g.ID, g.Remove[g.equal(a):][:1]); err != nil {
		return err
	}
	if err := s.send(ctx, g.ID, []Grant{a}); err != nil {
		return fmt.Errorf("authorize in %s: %w", g.ID, err)
	}
	return nil
}

// exchange takes one rule at a time out of a full group, and puts what takes its
// place there before it touches the next.
func (s *session) exchange(ctx context.Context, g GroupChanges) (added []Grant, err error) {
	missing := slices.Clone(g.Add)
	for _, old := range g.Remove {
		if err := s.revoke(ctx, g.ID, []Rule{old}); err != nil {
			return added, err
		}
		i := heir(missing, old, s.want.Limits)
		if i < 0 {
			continue
		}
		if err := s.send(ctx, g.ID, missing[i:i+1]); err != nil {
			return added, fmt.Errorf("authorize in %s: %w", g.ID, err)
		}
		added, missing = append(added, missing[i]), slices.Delete(missing, i, i+1)
	}
	if len(missing) == 0 {
		return added, nil
	}
	rest, err := s.fill(ctx, s.grown(GroupChanges{ID: g.ID, Keep: g.Keep, Foreign: g.Foreign}, added), missing)
	return append(added, rest...), err
}

// heir returns which of the grants takes the place of the rule: one that admits a
// part of the same, else one that takes no more room; -1 if there is none.
func heir(grants []Grant, old Rule, limits Count) int {
	fits := func(g Grant) bool { return costOf(old.Source, limits).holds(costOf(g.Source, limits)) }
	same := func(g Grant) bool {
		return g.Protocol == old.Protocol && g.Peer == old.Peer && (block{g.Ports, g.Source}).meets(block{old.Ports, old.Source})
	}
	if i := slices.IndexFunc(grants, func(g Grant) bool { return fits(g) && same(g) }); i >= 0 {
		return i
	}
	return slices.IndexFunc(grants, fits)
}
