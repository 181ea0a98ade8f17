package cloud

import (
	"context"
	"errors"
	"fmt"

	"github.com/portreeve/portreeve/internal/rule"
)

// Sync makes the groups hold exactly the wanted grants, as far as rules of ours
// go, and reports what a listing made after the last write has shown. When
// there is nothing to do it lists each group once and writes nothing.
//
// A nil error means that every grant is in force and that no other rule of ours
// is left. Otherwise the report still tells what was seen last, and the error
// wraps every kind that was met: ErrQuota with Overflow, ErrUnsupported with
// Unsupported, ErrStale when a write does not show in the listing yet (come
// back). Sync never waits. Do not run it twice at a time over the same group.
func Sync(ctx context.Context, p Provider, want Want) (Report, error) {
	if err := want.check(); err != nil {
		return Report{}, err
	}
	want, unsupported := want.within(p.Capabilities())
	s := &session{provider: p, want: want, unsupported: unsupported, full: map[string]bool{}}

	have, err := s.list(ctx)
	changes := Plan(want, have)
	if err != nil {
		return s.closeOnly(ctx, changes, err)
	}
	for !changes.Empty() {
		wrote := s.apply(ctx, changes)
		have, err = s.list(ctx)
		changes = Plan(want, have)
		if err != nil || !s.again(wrote, changes) {
			return s.report(changes, errors.Join(wrote, err))
		}
	}
	return s.report(changes, nil)
}

// session is one run of Sync: what it does and what it has learnt so far.
type session struct {
	provider    Provider
	want        Want
	unsupported []Grant
	calls       Calls
	full        map[string]bool // groups that refused for their quota
	relisted    bool            // a stale reading has had its retry
	order       order
}

// order is how a full group is treated. Each step is taken at most once a run.
type order int

const (
	authorizeFirst order = iota // cuts nobody off
	afterClosing                // the same, once what harms nobody was removed
	revokeFirst                 // the last resort: a short gap for what is replaced
)

// list reads every group it can; the error joins those of the groups left out.
func (s *session) list(ctx context.Context) (map[string][]Rule, error) {
	have := map[string][]Rule{}
	var failed []error
	for _, group := range distinct(s.want.Groups) {
		s.calls.List++
		rules, err := s.provider.List(ctx, group)
		if err == nil {
			have[group] = rules
			continue
		}
		failed = append(failed, fmt.Errorf("list %s: %w", group, err))
		if !confined(err) {
			break
		}
	}
	return have, errors.Join(failed...)
}

// apply authorizes, then revokes. When something could not be authorized, only
// what cuts nobody off is revoked. An error that is not confined to its group
// ends it at once.
func (s *session) apply(ctx context.Context, c Changes) error {
	var failed []error
	var added []rule.Rule
	for _, g := range c.Groups {
		err := s.authorize(ctx, g)
		if err == nil {
			added = append(added, rulesOf(g.Add)...)
			continue
		}
		failed = append(failed, err)
		if !confined(err) {
			return errors.Join(failed...)
		}
	}
	if len(failed) > 0 {
		c = c.cuttingNobody(s.want.Grants, added)
	}
	for _, g := range c.Groups {
		if s.empties(g) {
			continue // done by authorize
		}
		if err := s.revoke(ctx, g.ID, g.Remove); err != nil {
			failed = append(failed, err)
			if !confined(err) {
				break
			}
		}
	}
	return errors.Join(failed...)
}

func (s *session) authorize(ctx context.Context, g GroupChanges) error {
	if len(g.Add) == 0 {
		return nil
	}
	if s.empties(g) {
		if err := s.revoke(ctx, g.ID, g.Remove); err != nil {
			return err
		}
	}
	s.calls.Authorize++
	err := s.provider.Authorize(ctx, g.ID, s.want.Owner, g.Add)
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrQuota) {
		s.full[g.ID] = true
	}
	return fmt.Errorf("authorize %d rules in %s: %w", len(g.Add), g.ID, err)
}

// empties says whether the group gives up its old rules before it takes new.
func (s *session) empties(g GroupChanges) bool { return s.order == revokeFirst && s.full[g.ID] }

func (s *session) revoke(ctx context.Context, group string, rules []Rule) error {
	if len(rules) == 0 {
		return nil
	}
	ids := make([]string, len(rules))
	for i, r := range rules {
		ids[i] = r.ID
	}
	s.calls.Revoke++
	if err := s.provider.Revoke(ctx, group, ids); err != nil {
		return fmt.Errorf("revoke %d rules in %s: %w", len(ids), group, err)
	}
	return nil
}

// again says whether another pass may succeed where this one failed: once after
// a stale reading, and for a full group as long as something can be removed.
func (s *session) again(err error, next Changes) bool {
	switch {
	case errors.Is(err, ErrStale) && !s.relisted:
		s.relisted = true
		return true
	case errors.Is(err, ErrQuota) && s.order < revokeFirst:
		s.order++
		if s.order == afterClosing && s.calls.Revoke > 0 {
			return true
		}
		s.order = revokeFirst
		for _, g := range next.Groups {
			if s.full[g.ID] && len(g.Remove) > 0 {
				return true
			}
		}
	}
	return false
}

// closeOnly serves a run in which some group could not be read. Nothing may be
// added, for it may stand in the group unseen; but a source that was revoked
// must not stay open because of another group's trouble.
func (s *session) closeOnly(ctx context.Context, c Changes, cause error) (Report, error) {
	closing := c.cuttingNobody(s.want.Grants, nil)
	if closing.Empty() || !confined(cause) {
		return s.report(c, cause)
	}
	wrote := s.apply(ctx, closing)
	have, err := s.list(ctx)
	return s.report(Plan(s.want, have), errors.Join(wrote, err))
}
