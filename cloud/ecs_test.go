package cloud_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/internal/rule"
)

// ecs is a simulated account of Alibaba Cloud with groups sg-1 and sg-2, whose provider
// writes rules of priority 50.
func ecs(o cloudtest.ECSOptions) *cloudtest.ECS {
	o.Priority = 50
	account := cloudtest.NewECS(o)
	account.AddGroup("sg-1")
	account.AddGroup("sg-2")
	return account
}

// watched looks after each call whether the atoms are admitted.
type watched struct {
	cloud.Provider
	t       *testing.T
	account *cloudtest.ECS
	atoms   []rule.Rule
	gaps    int
}

func (w *watched) look() {
	var open []rule.Rule
	for _, group := range both {
		for _, r := range w.account.Rules(group) {
			open = append(open, r.Rule)
		}
	}
	for _, atom := range w.atoms {
		if !cloud.Covered(open, atom) {
			w.gaps++
		}
	}
}

func (w *watched) Authorize(ctx context.Context, group, owner string, grants []cloud.Grant) error {
	defer w.look()
	return w.Provider.Authorize(ctx, group, owner, grants)
}

func (w *watched) Revoke(ctx context.Context, group string, ids []string) error {
	defer w.look()
	return w.Provider.Revoke(ctx, group, ids)
}

// The rules move to another group, or come as halves. What can do neither has a gap of one
// call, and so has what there is no room for.
func TestAPriorityChangesWithoutAGap(t *testing.T) {
	many := []string{"TCP 30080 10.8.0.0/16", "TCP 30080-30089 2001:db8::/128", "UDP 30090-30091 203.0.113.7/32"}
	for _, c := range []struct {
		what   string
		o      cloudtest.ECSOptions
		groups []string
		wants  []string
		gaps   int
		rules  int
	}{
		{"halves", cloudtest.ECSOptions{}, one, many, 0, 6},
		{"another group", cloudtest.ECSOptions{}, both, many, 0, 3},
		{"one address and one port, another group", cloudtest.ECSOptions{}, both, []string{"TCP 30080 203.0.113.7/32"}, 0, 1},
		{"one address and one port", cloudtest.ECSOptions{}, one, []string{"TCP 30080 203.0.113.7/32"}, 1, 1},
		{"a full group", cloudtest.ECSOptions{RulesPerGroup: 3}, one, many, 3, 3},
	} {
		for _, older := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, older: %v", c.what, older), func(t *testing.T) {
				c.o.Older = older
				account := ecs(c.o)
				want := wanted(c.groups, c.wants...)
				if _, err := cloud.Sync(t.Context(), account.Provider(), want); err != nil {
					t.Fatal(err)
				}
				w := &watched{Provider: account.At(20), t: t, account: account}
				for _, g := range want.Grants {
					w.atoms = append(w.atoms, g.Rule)
				}
				if _, err := cloud.Sync(t.Context(), w, want); err != nil || w.gaps != c.gaps {
					t.Errorf("%v, %d gaps", err, w.gaps)
				}
				rules := slices.Concat(account.Rules("sg-1"), account.Rules("sg-2"))
				if len(rules) != c.rules || slices.ContainsFunc(rules, func(r cloud.Rule) bool { return r.Priority != 20 }) {
					t.Errorf("rules %+v", rules)
				}
				if r, err := cloud.Sync(t.Context(), w, want); err != nil || r.Calls.Mutating() > 0 {
					t.Errorf("a second run: %v, %+v", err, r.Calls)
				}
			})
		}
	}
}

// An equal rule of somebody else's at a worse priority may be dropped by what comes between;
// ours goes in beside it if it can, and else it is said.
func TestAnEqualRuleOfAWorsePriorityKeepsNobodyOut(t *testing.T) {
	for _, older := range []bool{false, true} {
		account := ecs(cloudtest.ECSOptions{Older: older})
		for _, s := range []string{"TCP 30080 10.8.0.0/16", "TCP 30081 203.0.113.7/32"} {
			r := cloudtest.Foreign(s)
			r.Priority = 90
			account.Seed("sg-1", r)
		}
		report, err := cloud.Sync(t.Context(), account.Provider(), wanted(one, "TCP 30080 10.8.0.0/16", "TCP 30081 203.0.113.7/32"))
		if !errors.Is(err, cloud.ErrHidden) || errors.Is(err, cloud.ErrStale) || len(report.Ousted) != 1 || len(account.Rules("sg-1")) != 4 {
			t.Errorf("older %v: %v, %+v", older, err, account.Rules("sg-1"))
		}
		if _, err = cloud.Sync(t.Context(), account.Provider(), wanted(both, "TCP 30080 10.8.0.0/16", "TCP 30081 203.0.113.7/32")); err != nil {
			t.Errorf("older %v, with another group: %v", older, err)
		}
	}
}

func TestNothingIsProvedWhileADropMayStandInAGroupThatWasNotRead(t *testing.T) {
	account := ecs(cloudtest.ECSOptions{})
	account.Seed("sg-1", cloudtest.Signed("TCP 30080 10.8.0.0/16", ours))
	atom := cloudtest.Grant("TCP 30080 10.8.0.0/16").Rule
	want := wanted([]string{"sg-1", "sg-gone"}, "TCP 30080 10.8.0.0/16")
	report, err := cloud.Sync(t.Context(), account.Provider(), want)
	if !errors.Is(err, cloud.ErrInvalid) || report.Covers(atom) {
		t.Errorf("while sg-gone is not read: %v, covers: %v", err, report.Covers(atom))
	}
	account.AddGroup("sg-gone")
	if report, err = cloud.Sync(t.Context(), account.Provider(), want); err != nil || !report.Covers(atom) {
		t.Errorf("once it is: %v, covers: %v", err, report.Covers(atom))
	}
}

func TestNothingIsProvedThatADropHidesWantedOrNot(t *testing.T) {
	account := ecs(cloudtest.ECSOptions{})
	account.Seed("sg-1", cloudtest.Signed("TCP 30080 10.8.0.0/16", ours))
	drop := cloudtest.Foreign("TCP 30080 10.8.9.0/24")
	drop.Drop, drop.Priority = true, 50
	account.Seed("sg-2", drop)
	want := wanted(both)
	want.Observe = true
	report, err := cloud.Sync(t.Context(), account.Provider(), want)
	if !errors.Is(err, cloud.ErrObserving) || report.Covers(cloudtest.Grant("TCP 30080 10.8.0.0/16").Rule) || !report.Covers(cloudtest.Grant("TCP 30080 10.8.8.0/24").Rule) {
		t.Errorf("%v: %+v", err, report)
	}
}
