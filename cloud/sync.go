package cloud

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Firewall is the security groups of one CloudFirewall, and what is remembered of
// them from one Sync to the next. Its methods are not to be called concurrently.
type Firewall struct {
	provider Provider
	now      func() time.Time
	memory   memory
}

// NewFirewall returns a Firewall that remembers nothing yet.
func NewFirewall(p Provider, now func() time.Time) *Firewall {
	return &Firewall{provider: p, now: now}
}

// Sync is Firewall.Sync without a memory.
func Sync(ctx context.Context, p Provider, want Want) (Report, error) {
	return NewFirewall(p, time.Now).Sync(ctx, want)
}

// Sync makes the groups hold exactly the wanted grants, as far as rules of ours
// go, and reports what a listing made after the last write has shown. When
// there is nothing to do it lists each group once and writes nothing.
//
// A nil error means that every grant is in force and that no other rule of ours
// is left. Otherwise the report still tells what was seen last, and the error
// wraps every kind that was met: ErrQuota with Overflow or OverQuota, ErrUnsupported
// with Unsupported, ErrHidden with Hiding or Ousted, ErrContended with Contended, ErrDrifted
// with Drifted, ErrObserving where there would be something to do, ErrStale when a
// write does not show in the listing yet (come back). Sync never waits.
func (f *Firewall) Sync(ctx context.Context, want Want) (Report, error) {
	if err := want.check(); err != nil {
		return Report{}, err
	}
	can := f.provider.Capabilities()
	want, unsupported := want.within(can)
	s := &session{provider: f.provider, can: can, want: want, unsupported: unsupported, memory: &f.memory, now: f.now, full: map[string]bool{}}
	s.memory.begin(f.now(), want.Groups)

	have, err := s.list(ctx)
	changes := s.plan(have)
	s.rivals = rivals(have, want.Owner)
	switch {
	case len(s.rivals) > 0 && !want.Confirmed:
		s.want.Observe = true
		return s.report(changes, errors.Join(err, fmt.Errorf("%w: rules of %s are in the groups, which is this cluster by name and not by the UID of its namespace kube-system: is this a copy of it?", ErrCloned, strings.Join(s.rivals, ", "))))
	case want.Observe:
		return s.report(changes, errors.Join(err, observing(changes)))
	case err != nil:
		return s.closeOnly(ctx, changes, err)
	}
	for !changes.Empty() {
		wrote := s.apply(ctx, changes)
		have, err = s.list(ctx)
		changes = s.plan(have)
		if err != nil || !s.again(wrote, changes) {
			return s.report(changes, errors.Join(wrote, err))
		}
	}
	return s.report(changes, nil)
}

// rivals are the owners of listed rules that have the owner's name and are not it.
func rivals(have map[string][]Rule, owner string) []string {
	name, _, named := strings.Cut(owner, "/")
	if !named {
		return nil
	}
	found := map[string]bool{}
	for _, listed := range have {
		for _, r := range listed {
			if r.Owner != owner && strings.HasPrefix(r.Owner, name+"/") {
				found[r.Owner] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func observing(c Changes) error {
	if c.Empty() {
		return nil
	}
	add, remove := 0, 0
	for _, g := range c.Groups {
		add, remove = add+len(g.Add), remove+len(g.Remove)
	}
	return fmt.Errorf("%w: %d rules would be added and %d removed", ErrObserving, add, remove)
}

// session is one run of Sync: what it does and what it has learnt so far.
type session struct {
	provider    Provider
	can         Capabilities
	want        Want
	unsupported []Grant
	memory      *memory
	now         func() time.Time

	calls    Calls
	fading   map[string][]Rule // removed, and listed still
	waiting  map[string][]Rule // to be removed, and not listed yet
	rivals   []string
	lost     []Grant // may have been added, and is not listed
	held     held
	full     map[string]bool // groups that refused for their quota
	learnt   bool            // how much a group holds
	relisted bool            // a stale reading has had its retry
	partial  bool            // not all groups could be read
	passes   int
	order    order
}

// mostPasses bounds a run that others keep busy.
const mostPasses = 3

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

// plan compares with what is listed, and with what was written and does not show yet.
func (s *session) plan(have map[string][]Rule) Changes {
	for group, listed := range have {
		s.memory.unlearn(group, GroupChanges{Foreign: listed}.used(s.want.Limits))
	}
	s.lost = s.memory.lost(have)
	have, s.fading = s.memory.believe(have, s.want.Owner)
	s.want.Known = s.memory.known()
	s.want.Taken, s.memory.gone = nil, s.memory.missed(have)
	if s.want.Report {
		s.want.Taken, s.memory.gone = s.memory.gone, nil
	}
	changes := Plan(s.want, have, s.can)
	s.memory.taken = changes.Taken
	s.held = s.memory.hold(&changes, s.want.Report, s.can.Priority)
	s.waiting = map[string][]Rule{}
	for i := range changes.Groups { // what has no id yet cannot be removed
		g := &changes.Groups[i]
		s.waiting[g.ID], g.Remove = split(g.Remove, Rule.unseen)
	}
	return changes
}

// apply authorizes, then revokes. When something could not be authorized, or is left to
// others, only what cuts nobody off is revoked. An error that is not confined to its group
// ends it at once.
func (s *session) apply(ctx context.Context, c Changes) error {
	var failed []error
	var added []Grant
	emptied, others := split(c.Groups, s.empties)
	for _, g := range slices.Concat(others, emptied) {
		if s.empties(g) && (len(failed) > 0 || !s.held.empty()) {
			g.Remove = c.cuttingNobody(s.want.Grants, slices.Concat(added, g.Add)).of(g.ID).Remove
		}
		done, err := s.authorize(ctx, g)
		added = append(added, done...)
		if err == nil {
			continue
		}
		failed = append(failed, err)
		if !confined(err) {
			return errors.Join(failed...)
		}
	}
	if len(failed) > 0 || s.partial || !s.held.empty() {
		c = c.cuttingNobody(s.want.Grants, added)
	}
	for _, g := range c.Groups { // what authorize has removed already is left out
		if err := s.revoke(ctx, g.ID, g.Remove); err != nil {
			failed = append(failed, err)
			if !confined(err) {
				break
			}
		}
	}
	return errors.Join(failed...)
}

// empties says whether the group gives up old rules before it takes new ones.
func (s *session) empties(g GroupChanges) bool {
	return s.order == revokeFirst && s.full[g.ID] && len(g.Add) > 0
}

// authorize adds what the group is to get and returns what came. Those whose source is
// another group go one by one: the cloud may not know it, and refuse the whole call.
func (s *session) authorize(ctx context.Context, g GroupChanges) (added []Grant, err error) {
	if s.empties(g) {
		return s.exchange(ctx, g)
	}
	swaps, adds := split(g.Add, func(a Grant) bool { return g.equal(a) >= 0 })
	peers, prefixes := split(adds, func(g Grant) bool { return g.Peer != "" })
	var failed []error
	for batch := range slices.Chunk(prefixes, max(1, s.can.Batch)) {
		done, err := s.fill(ctx, g, batch)
		added = append(added, done...)
		if err != nil {
			failed = append(failed, err)
			break
		}
	}
	for _, p := range peers {
		if len(failed) > 0 && !confined(failed[len(failed)-1]) {
			break
		}
		done, err := s.fill(ctx, g, []Grant{p})
		added = append(added, done...)
		if err != nil {
			failed = append(failed, err)
		}
	}
	for _, a := range swaps {
		if len(failed) > 0 {
			break
		}
		if err := s.swap(ctx, g, a); err != nil {
			failed = append(failed, err)
			break
		}
		added = append(added, a)
	}
	return added, errors.Join(failed...)
}

// fill adds the grants, and if they are too many as many as there is room for.
func (s *session) fill(ctx context.Context, g GroupChanges, grants []Grant) (added []Grant, err error) {
	err = s.send(ctx, g.ID, grants)
	switch {
	case err == nil:
		return grants, nil
	case !errors.Is(err, ErrQuota):
		return nil, fmt.Errorf("authorize %d rules in %s: %w", len(grants), g.ID, err)
	}
	s.full[g.ID] = true
	if half := len(grants) / 2; half > 0 {
		if added, err = s.fill(ctx, g, grants[:half]); err != nil {
			return added, err
		}
		rest, err := s.fill(ctx, s.grown(g, added), grants[half:])
		return append(added, rest...), err
	}
	s.learnt = s.memory.learn(g.ID, g.used(s.want.Limits), costOf(grants[0].Source, s.want.Limits), s.now()) || s.learnt
	return nil, fmt.Errorf("authorize in %s: %w", g.ID, err)
}

// send makes the call, and remembers what it sent.
func (s *session) send(ctx context.Context, group string, grants []Grant) error {
	s.calls.Authorize++
	err := s.provider.Authorize(ctx, group, s.want.Owner, grants)
	rules := make([]Rule, len(grants))
	for i, g := range grants {
		rules[i] = written(g, s.want.Owner, s.can.Priority)
	}
	switch {
	case err == nil:
		s.memory.authorized(group, rules, s.now())
	case !refused(err):
		s.memory.attempted(group, rules, s.now())
	}
	return err
}

// grown is the group with what it got meanwhile.
func (s *session) grown(g GroupChanges, added []Grant) GroupChanges {
	g.Keep = slices.Clone(g.Keep)
	for _, a := range added {
		g.Keep = append(g.Keep, Rule{Rule: a.Rule, Peer: a.Peer})
	}
	return g
}

// used counts the rules that stand in the group now.
func (g GroupChanges) used(limits Count) (n Count) {
	for _, r := range slices.Concat(g.Keep, g.Remove, g.Foreign) {
		n = n.plus(costOf(r.Source, limits))
	}
	return n
}

// revoke removes the rules that this run has not removed yet.
func (s *session) revoke(ctx context.Context, group string, rules []Rule) error {
	_, rules = split(rules, func(r Rule) bool { _, gone := s.memory.removed[r.ID]; return gone })
	for batch := range slices.Chunk(rules, max(1, s.can.Batch)) {
		ids := make([]string, len(batch))
		for i, r := range batch {
			ids[i] = r.ID
		}
		s.calls.Revoke++
		if err := s.provider.Revoke(ctx, group, ids); err != nil {
			if !refused(err) {
				s.memory.revoking(group, batch)
			}
			return fmt.Errorf("revoke %d rules in %s: %w", len(ids), group, err)
		}
		s.memory.revoked(group, batch, s.now())
	}
	return nil
}

// again says whether another pass may succeed where this one failed: once after
// a stale reading, after learning how much a group holds, and for a full group as
// long as something can be removed.
func (s *session) again(err error, next Changes) bool {
	learnt := s.learnt
	s.learnt = false
	s.passes++
	switch {
	case err == nil:
		return s.passes < mostPasses // the listing shows more than it did before
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
		return learnt && !next.Empty()
	}
	return false
}

// closeOnly serves a run in which some group could not be read. What is new may stand
// there unseen, and is not added; but a source that was revoked must not stay open
// because of another group's trouble, so rules are narrowed and removed.
func (s *session) closeOnly(ctx context.Context, c Changes, cause error) (Report, error) {
	if !confined(cause) {
		return s.report(c, cause)
	}
	narrowing := Changes{}
	for _, g := range c.Groups {
		heirs, _ := split(g.Add, c.replaces)
		g.Add = heirs
		narrowing.Groups = append(narrowing.Groups, g)
	}
	if narrowing.Empty() {
		return s.report(c, cause)
	}
	s.partial = true
	wrote := s.apply(ctx, narrowing)
	have, err := s.list(ctx)
	return s.report(s.plan(have), errors.Join(wrote, err))
}
