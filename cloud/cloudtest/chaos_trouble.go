package cloudtest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// trouble stands between a cluster and its provider: it lets calls fail, and looks after
// each at what has become of the account.
type trouble struct {
	cloud.Provider
	cluster *chaosCluster

	stale   bool                    // a listing of this run was not the truth
	crowded bool                    // something did not fit in this run
	met     bool                    // the stranger was there in this run
	truth   map[string][]cloud.Rule // at the last listing
	last    map[string][]cloud.Rule // what was listed before, for stale readings
	protect cells                   // in force before this run, and wanted still
}

// begin is for a new run.
func (p *trouble) begin() {
	c := p.cluster
	p.stale, p.crowded, p.met, p.truth = false, false, false, map[string][]cloud.Rule{}
	if p.last == nil {
		p.last = map[string][]cloud.Rule{}
	}
	p.protect = c.ours().and(cellsOf(c.want.Grants, c.Peers))
}

var errBroken = errors.New("injected fault: the network is down")

// ill is what happens to a call: an account's fault, and the same played around it.
type ill struct {
	name   string
	fault  Fault
	err    error // instead of the answer
	before bool  // the call is not made
}

func (p *trouble) ill(action string) *ill {
	c := p.cluster
	if c.quiet || !c.chance(30) {
		return nil
	}
	c.seen.troubles++
	all := []ill{
		{"throttled", Fault{Code: c.API.Throttled}, cloud.ErrThrottled, true},
		{"denied", Fault{Code: c.API.Denied}, cloud.ErrDenied, true},
		{"5xx", Fault{Code: c.API.Broken}, errBroken, true},
	}
	if action == c.API.List {
		all = append(all, ill{"stale", Fault{Stale: true}, nil, false}, ill{"lost", Fault{LoseAnswer: true}, errBroken, false})
		if c.Inject != nil {
			all = append(all, ill{"partial", Fault{Partial: true}, nil, false})
		}
	} else {
		all = append(all,
			ill{"lost", Fault{LoseAnswer: true}, errBroken, false},
			ill{"halfway", Fault{Halfway: true, Code: c.API.Broken}, errBroken, false},
			ill{"halfway, denied", Fault{Halfway: true, Code: c.API.Denied}, cloud.ErrDenied, false})
		if c.Inject != nil {
			all = append(all, ill{"unseen", Fault{Unseen: 1 + c.rng.IntN(5)}, nil, false})
		}
	}
	if action == c.API.Authorize {
		all = append(all, ill{"full", Fault{Code: c.API.Full}, cloud.ErrQuota, true})
	}
	i := all[c.rng.IntN(len(all))]
	i.fault.Action, i.fault.Times = action, []int{1, 1, sdkAttempts}[c.rng.IntN(3)]
	if i.fault.Halfway || i.fault.Unseen > 0 {
		i.fault.Times = 1
	}
	return &i
}

// call makes the call, in trouble or not; half makes it with half of its batch.
func (p *trouble) call(action string, whole, half func() error) (err error) {
	c := p.cluster
	c.seen.calls++
	if !c.quiet && c.chance(3) {
		p.met = true
		c.meddle()
	}
	i := p.ill(action)
	switch {
	case i == nil:
		err = whole()
	case c.Inject != nil:
		c.Inject(i.fault)
		err = whole()
		c.Heal()
	case i.before:
		err = i.err
	case i.fault.Halfway:
		err = cmpErr(half(), i.err)
	default:
		err = cmpErr(whole(), i.err)
	}
	if i != nil {
		c.tell("cluster %d: %s is %s (%d times): %v", c.index, action, i.name, i.fault.Times, err)
	}
	return err
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (p *trouble) List(ctx context.Context, group string) (out []cloud.Rule, err error) {
	c := p.cluster
	err = p.call(c.API.List, func() (err error) { out, err = p.Provider.List(ctx, group); return err }, nil)
	if err != nil {
		return nil, fmt.Errorf("%w", err)
	}
	if c.Inject == nil && !c.quiet && c.chance(10) && p.last[group] != nil {
		out = p.last[group]
	}
	p.last[group] = out
	p.truth[group] = c.Rules(group)
	if !same(out, p.truth[group]) {
		p.stale = true
		c.unsure = c.now.Add(5 * time.Minute)
		c.tell("cluster %d: the listing of %s is not the truth", c.index, group)
	}
	return slices.Clone(out), nil
}

func same(a, b []cloud.Rule) bool {
	ids := func(rules []cloud.Rule) (out []string) {
		for _, r := range rules {
			out = append(out, fmt.Sprint(r.ID, spelledOf(r)))
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(ids(a), ids(b))
}

func (p *trouble) Authorize(ctx context.Context, group, owner string, grants []cloud.Grant) error {
	c := p.cluster
	c.tell("cluster %d: authorize %v in %s", c.index, grants, group)
	return p.write(func() error {
		return p.call(c.API.Authorize,
			func() error { return p.Provider.Authorize(ctx, group, owner, grants) },
			func() error { return p.Provider.Authorize(ctx, group, owner, grants[:(len(grants)+1)/2]) })
	})
}

func (p *trouble) Revoke(ctx context.Context, group string, ids []string) error {
	c := p.cluster
	c.tell("cluster %d: revoke %v in %s", c.index, ids, group)
	return p.write(func() error {
		return p.call(c.API.Revoke,
			func() error { return p.Provider.Revoke(ctx, group, ids) },
			func() error { return p.Provider.Revoke(ctx, group, ids[:(len(ids)+1)/2]) })
	})
}

// write compares what belongs to others before and after, and what is open.
func (p *trouble) write(call func() error) error {
	c := p.cluster
	c.seen.writes++
	before, deeds := p.others(), c.seen.deeds
	err := call()
	p.crowded = p.crowded || errors.Is(err, cloud.ErrQuota)
	if after := p.others(); c.seen.deeds == deeds && !reflect.DeepEqual(before, after) {
		c.fatalf("cluster %d has changed what is not its own:\n%v\n%v", c.index, before, after)
	}
	c.forgetTaints()
	allowed := c.allowed
	allowed.or(c.widest())
	if at, ok := c.ours().within(allowed); !ok {
		c.fatalf("cluster %d opens %s, and no wish was for that", c.index, at)
	}
	if p.stale || p.crowded || p.met || c.now.Before(c.unsure) || c.want.Limits != (cloud.Count{}) || c.want.Pools["b"].Rules > 0 {
		return err
	}
	if at, ok := p.protect.within(c.everything()); !ok {
		c.fatalf("cluster %d closes %s, which is wanted, was in force, and would fit", c.index, at)
	}
	return err
}

// others are the rules that are not the cluster's, as they are in every detail.
func (p *trouble) others() map[string][]cloud.Rule {
	out := map[string][]cloud.Rule{}
	for _, group := range p.cluster.Groups {
		for _, r := range p.cluster.Rules(group) {
			if r.Owner != p.cluster.want.Owner {
				out[group] = append(out[group], r)
			}
		}
		slices.SortFunc(out[group], func(a, b cloud.Rule) int { return strings.Compare(a.ID, b.ID) })
	}
	return out
}

// everything is whom anybody's rules let in.
func (w *chaosWorld) everything() (out cells) {
	for _, group := range w.Groups {
		for _, r := range w.Rules(group) {
			if !r.Drop { // a drop is the stranger's deed, whoever closes nothing
				out.admit(r.Rule, r.Peer, w.Peers)
			}
		}
	}
	return out
}

// meddle is what the stranger does: rules of its own, and ours.
func (w *chaosWorld) meddle() {
	w.seen.deeds++
	group := w.Groups[w.rng.IntN(len(w.Groups))]
	rules := w.Rules(group)
	switch n := w.rng.IntN(12); {
	case n < 4 || len(rules) == 0:
		w.place(group, "")
	case n < 6:
		w.place(group, w.clusters[w.rng.IntN(2)].want.Owner)
	case n < 10:
		w.disturbed()
		w.remove(group, rules[w.rng.IntN(len(rules))])
	case n < 11: // a rule is edited: it keeps its signature
		w.disturbed()
		r := rules[w.rng.IntN(len(rules))]
		w.remove(group, r)
		w.place(group, r.Owner)
	case w.Remake != nil:
		w.disturbed()
		w.tell("stranger: makes %s anew", group)
		w.Remake(group)
	}
	w.forgetTaints()
}

func (w *chaosWorld) remove(group string, r cloud.Rule) {
	w.tell("stranger: removes %s %s%s of %q from %s", r.ID, Spell(r.Rule), r.Peer, r.Owner, group)
	w.Unseed(group, r)
}

// bearGrudge: one rule is removed whenever it comes, until the stranger picks another.
func (w *chaosWorld) bearGrudge() {
	for _, group := range w.Groups {
		for _, r := range w.Rules(group) {
			switch {
			case r.Owner == "":
			case w.grudge == spelledOf(r):
				w.disturbed()
				w.remove(group, r)
			case w.chance(1) && w.chance(20):
				w.grudge = spelledOf(r)
			}
		}
	}
}

// place adds a rule of the stranger's, signed with the owner.
func (w *chaosWorld) place(group, owner string) {
	var r cloud.Rule
	if r.Rule, r.Peer = w.drawRule(rule.PortRange{First: chaosFirst, Last: chaosFirst + chaosPorts - 1}); w.chance(10) {
		r.Source, r.Peer = rule.World[0], ""
	}
	if r.Priority = w.can.Priority; r.Priority > 0 && w.chance(30) {
		r.Priority = 1 + w.rng.IntN(2*w.can.Priority)
		if c := w.clusters[w.rng.IntN(2)]; w.chance(50) && len(c.want.Grants) > 0 { // what a cluster would write
			g := c.want.Grants[w.rng.IntN(len(c.want.Grants))]
			r.Rule, r.Peer = g.Rule, g.Peer
		}
	}
	for _, there := range w.Rules(group) {
		if there.Rule == r.Rule && there.Peer == r.Peer {
			return
		}
	}
	r.Owner, r.Description = owner, fmt.Sprintf("the stranger's no. %d", w.seen.deeds)
	r.Drop = w.can.Priority > 0 && owner == "" && w.chance(10)
	w.tell("stranger: adds %s%s of %q to %s, priority %d, drop %v", Spell(r.Rule), r.Peer, owner, group, r.Priority, r.Drop)
	w.Seed(group, r)
	if owner != "" {
		w.tainted[taint{group, spelledOf(r)}] = true
	}
}

// forgetTaints: a rule that is gone and comes again is the cluster's own.
func (w *chaosWorld) forgetTaints() {
	for t := range w.tainted {
		if !slices.ContainsFunc(w.Rules(t.group), func(r cloud.Rule) bool { return spelledOf(r) == t.spelled }) {
			delete(w.tainted, t)
		}
	}
}
