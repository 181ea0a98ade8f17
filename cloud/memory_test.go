package cloud_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/internal/rule"
)

// life is a Firewall that remembers, its account, and a clock.
type life struct {
	t        *testing.T
	ec2      *cloudtest.EC2
	calls    *recorder
	firewall *cloud.Firewall
	now      time.Time
}

func newLife(t *testing.T, rulesPerGroup int) *life {
	l := &life{t: t, now: time.Unix(1_700_000_000, 0)}
	l.ec2, l.calls = account(rulesPerGroup)
	l.firewall = cloud.NewFirewall(l.calls, func() time.Time { return l.now })
	return l
}

// sync runs Sync, which must end with an error of that kind, or none.
func (l *life) sync(want cloud.Want, kind error) cloud.Report {
	l.t.Helper()
	r, err := l.firewall.Sync(l.t.Context(), want)
	if !errors.Is(err, kind) || kind == nil && err != nil {
		l.t.Fatalf("error %v, want %v", err, kind)
	}
	return r
}

func (l *life) quiet(r cloud.Report) {
	l.t.Helper()
	if r.Calls.Mutating() != 0 {
		l.t.Errorf("it writes: %+v", r.Calls)
	}
}

func (l *life) lateWrite(action string, listings int) {
	l.ec2.Inject(cloudtest.Fault{Action: action, Unseen: listings})
}

const (
	authorize = "AuthorizeSecurityGroupIngress"
	revoke    = "RevokeSecurityGroupIngress"
	list      = "DescribeSecurityGroupRules"
	web       = "TCP 30080 10.8.0.0/16"
	api       = "TCP 30090 10.9.0.0/16"
)

func TestAWriteThatDoesNotShowYetIsNotRepeated(t *testing.T) {
	l := newLife(t, 60)
	l.lateWrite(authorize, 3)
	r := l.sync(wanted(one, web), cloud.ErrStale)
	if r.Covers(cloudtest.Parse(web)) || !r.Holds(cloudtest.Port(rule.TCP, 30080)) {
		t.Errorf("in force %v", r.InForce)
	}
	l.quiet(l.sync(wanted(one, web), cloud.ErrStale))
	if r := l.sync(wanted(one, web), cloud.ErrStale); r.Calls.Mutating() != 0 {
		t.Errorf("calls %+v", r.Calls)
	}
	l.quiet(l.sync(wanted(one, web), nil))
}

func TestWhatWasWrittenAndDoesNotShowIsRemovedWhenItDoes(t *testing.T) {
	l := newLife(t, 60)
	l.sync(wanted(one, api), nil)
	l.lateWrite(authorize, 3)
	l.sync(wanted(one, api, web), cloud.ErrStale)
	r := l.sync(wanted(one), cloud.ErrStale) // what can be removed is, and the number of the other one is held
	if !r.Holds(cloudtest.Port(rule.TCP, 30080)) {
		t.Errorf("the number is free: %+v", r)
	}
	wantGroup(t, l.ec2, "sg-1", web)
	l.sync(wanted(one), nil)
	wantGroup(t, l.ec2, "sg-1")
}

func TestWhatWasSentWithoutAnAnswerHoldsItsNumber(t *testing.T) {
	l := newLife(t, 60)
	l.ec2.Inject(cloudtest.Fault{Action: authorize, Unseen: 2, LoseAnswer: true})
	if _, err := l.firewall.Sync(t.Context(), wanted(one, web)); err == nil {
		t.Fatal("no error")
	}
	r := l.sync(wanted(one), cloud.ErrStale)
	if !r.Holds(cloudtest.Port(rule.TCP, 30080)) || r.Covers(cloudtest.Parse(web)) {
		t.Errorf("in force %v", r.InForce)
	}
	l.sync(wanted(one), nil)
	wantGroup(t, l.ec2, "sg-1")
}

func TestWhatWasRemovedAndStillShowsIsHeldAndProvesNothing(t *testing.T) {
	l := newLife(t, 60)
	l.sync(wanted(one, web), nil)
	l.lateWrite(revoke, 4)
	l.sync(wanted(one), cloud.ErrStale)
	l.ec2.Inject(cloudtest.Fault{Action: authorize, Code: "UnauthorizedOperation"})
	r := l.sync(wanted(one, web), cloud.ErrDenied)
	if r.Covers(cloudtest.Parse(web)) || !r.Holds(cloudtest.Port(rule.TCP, 30080)) {
		t.Errorf("in force %v", r.InForce)
	}
}

// The other one removes the rule a moment after it came; we look more often than a
// write may take to show.
func TestARuleThatOthersRemoveAgainAndAgainIsLeftToThemForAnHour(t *testing.T) {
	l := newLife(t, 60)
	want := wanted(one, web, api)
	l.sync(want, nil)
	kind := func() error {
		_, err := l.firewall.Sync(t.Context(), want)
		return err
	}
	var writes int
	for at := time.Duration(0); at < 20*time.Minute; at += 30 * time.Second {
		l.ec2.Unseed("sg-1", cloudtest.Parse(web))
		l.now = l.now.Add(30 * time.Second)
		before := len(l.calls.calls)
		_ = kind()
		for _, call := range l.calls.calls[before:] {
			if call == "authorize sg-1" {
				writes++
			}
		}
	}
	if err := kind(); !errors.Is(err, cloud.ErrContended) || writes != 3 {
		t.Fatalf("written %d times, then %v; want 3 times", writes, err)
	}
	l.now = l.now.Add(time.Hour)
	l.sync(want, nil)
	wantGroup(t, l.ec2, "sg-1", web, api)
}

func TestARuleIsNotGivenUpForOneThatOthersRemove(t *testing.T) {
	l := newLife(t, 60)
	wide := "TCP 30080 10.8.0.0/15"
	for range 3 {
		l.sync(wanted(one, wide), nil)
		l.ec2.Unseed("sg-1", cloudtest.Parse(wide))
		l.now = l.now.Add(2 * time.Minute)
	}
	l.sync(wanted(one, wide), nil)
	l.ec2.Unseed("sg-1", cloudtest.Parse(wide))
	l.ec2.Seed("sg-1", cloudtest.Signed(web, ours))
	l.now = l.now.Add(2 * time.Minute)
	want := wanted(one, wide)
	r := l.sync(want, cloud.ErrContended)
	if len(r.Contended) == 0 || !r.Covers(cloudtest.Parse(web)) {
		t.Errorf("contended %v, in force %v", r.Contended, r.InForce)
	}
}

func TestRulesThatMoveToAnotherGroupAreNobodysDoing(t *testing.T) {
	l := newLife(t, 60)
	for _, report := range []bool{false, true} {
		for i := range 8 {
			want := wanted([]string{both[i%2]}, web)
			want.Report = report
			l.sync(want, nil)
			l.sync(cloud.Want{Owner: ours, Groups: []string{both[1-i%2]}}, nil)
			l.now = l.now.Add(2 * time.Minute)
		}
	}
}

func TestWhatOthersDoIsReportedAndLeftWhereThatIsWished(t *testing.T) {
	l := newLife(t, 60)
	report := func(spelled ...string) cloud.Want {
		w := wanted(one, spelled...)
		w.Report = true
		return w
	}
	l.sync(report(web, api), nil)
	l.ec2.Unseed("sg-1", cloudtest.Parse(web))
	l.ec2.Seed("sg-1", cloudtest.Signed("TCP 30070 10.8.0.0/16", ours))
	l.now = l.now.Add(2 * time.Minute)
	for range 3 {
		r := l.sync(report(web, api), cloud.ErrDrifted)
		l.quiet(r)
		if len(r.Drifted) != 2 || r.Covers(cloudtest.Parse(web)) {
			t.Errorf("drifted %q, in force %v", r.Drifted, r.InForce)
		}
	}
	l.sync(report(api), cloud.ErrDrifted)
	l.sync(report(api, web), cloud.ErrDrifted) // a new wish
	wantGroup(t, l.ec2, "sg-1", "TCP 30070 10.8.0.0/16", web, api)
	l.sync(wanted(one, web, api), nil)
	wantGroup(t, l.ec2, "sg-1", web, api)
}

// What a cloud holds of us is cut as it takes fewest rules: a neighbour that comes or goes
// must not put back what others took, in another shape.
func TestWhatOthersTookIsNotPutBackInAnotherShape(t *testing.T) {
	const first, second, both, third = "TCP 31000 10.8.0.0/16", "TCP 31001 10.8.0.0/16", "TCP 31000-31001 10.8.0.0/16", "TCP 31002 10.8.0.0/16"
	report := func(spelled ...string) cloud.Want {
		w := wanted(one, spelled...)
		w.Report = true
		return w
	}
	t.Run("a neighbour comes", func(t *testing.T) {
		l := newLife(t, 60)
		l.sync(report(first), nil)
		l.ec2.Unseed("sg-1", cloudtest.Parse(first))
		for range 2 { // at once, and when it has been said
			r := l.sync(report(first, second), cloud.ErrDrifted)
			if len(r.Drifted) != 1 || r.Covers(cloudtest.Parse(first)) || !r.Covers(cloudtest.Parse(second)) {
				t.Errorf("drifted %q, in force %v", r.Drifted, r.InForce)
			}
			wantGroup(t, l.ec2, "sg-1", second)
		}
		l.sync(report(first, second, third), cloud.ErrDrifted)
		wantGroup(t, l.ec2, "sg-1", "TCP 31001-31002 10.8.0.0/16")
		l.ec2.Seed("sg-1", cloudtest.Signed(first, ours)) // by hand
		l.sync(report(first, second, third), nil)
	})
	t.Run("a neighbour goes", func(t *testing.T) {
		l := newLife(t, 60)
		l.sync(report(first, second), nil)
		wantGroup(t, l.ec2, "sg-1", both)
		l.ec2.Unseed("sg-1", cloudtest.Parse(both))
		l.sync(report(first), cloud.ErrDrifted)
		wantGroup(t, l.ec2, "sg-1")
		l.sync(report(), nil)
		l.sync(report(first), nil) // a new wish
		wantGroup(t, l.ec2, "sg-1", first)
	})
	t.Run("the wish becomes wider", func(t *testing.T) {
		l := newLife(t, 60)
		l.sync(report(first), nil)
		l.ec2.Unseed("sg-1", cloudtest.Parse(first))
		l.sync(report("TCP 31000 10.8.0.0/15"), cloud.ErrDrifted)
		wantGroup(t, l.ec2, "sg-1", "TCP 31000 10.9.0.0/16")
	})
	t.Run("it is to be repaired", func(t *testing.T) {
		l := newLife(t, 60)
		l.sync(report(first, third), nil)
		l.ec2.Unseed("sg-1", cloudtest.Parse(first))
		l.sync(report(first, third), cloud.ErrDrifted)
		l.sync(wanted(one, first, third), nil)
		wantGroup(t, l.ec2, "sg-1", first, third)
		l.sync(report(first, third), nil)
	})
}

// What others took counts as restored in whatever shape it comes back, and what we remove
// ourselves does not count.
func TestWhatIsPutBackInAnotherShapeCountsAsRestored(t *testing.T) {
	const first, second, both = "TCP 31000 10.8.0.0/16", "TCP 31001 10.8.0.0/16", "TCP 31000-31001 10.8.0.0/16"
	l := newLife(t, 60)
	restored := func(want cloud.Want) int { return l.sync(want, nil).Restored }
	for i, step := range []struct {
		taken string
		want  []string
		n     int
	}{
		{"", []string{first}, 0},
		{first, []string{first, second}, 1},
		{"", []string{first}, 0},
		{"", []string{first, second}, 0},
		{"", []string{second}, 0},
		{second, []string{first, second}, 1},
		{both, nil, 0},
		{"", []string{first}, 0},
	} {
		if step.taken != "" {
			l.ec2.Unseed("sg-1", cloudtest.Parse(step.taken))
		}
		if n := restored(wanted(one, step.want...)); n != step.n {
			t.Errorf("step %d: restored %d, want %d", i, n, step.n)
		}
	}
}

// A revocation whose answer is lost is ours: what takes its place is no drift.
func TestARevocationWhoseAnswerWasLostIsNoDrift(t *testing.T) {
	const wide, narrow = "TCP 31000-31001 10.8.0.0/16", "TCP 31000 10.8.0.0/16"
	l := newLife(t, 3)
	l.ec2.Seed("sg-1", cloudtest.Foreign("TCP 22 10.0.0.0/8"), cloudtest.Foreign("TCP 23 10.0.0.0/8"))
	want := wanted(one, wide)
	want.Report = true
	l.sync(want, nil)
	l.ec2.Inject(cloudtest.Fault{Action: revoke, LoseAnswer: true})
	l.ec2.Inject(cloudtest.Fault{Action: list})
	want.Grants = eachLine([]string{narrow}, cloudtest.Grant)
	_, _ = l.firewall.Sync(t.Context(), want)
	l.now = l.now.Add(2 * time.Minute)
	l.sync(want, nil)
	wantGroup(t, l.ec2, "sg-1", "TCP 22 10.0.0.0/8", "TCP 23 10.0.0.0/8", narrow)
}

func TestARuleWhoseAnswerWasLostIsOursAndNoDrift(t *testing.T) {
	l := newLife(t, 60)
	want := wanted(one, api)
	want.Report = true
	l.sync(want, nil)
	l.ec2.Inject(cloudtest.Fault{Action: authorize, LoseAnswer: true})
	l.ec2.Inject(cloudtest.Fault{Action: list})
	l.ec2.Inject(cloudtest.Fault{Action: list, Code: "InternalError"})
	want.Grants = eachLine([]string{api, web}, cloudtest.Grant)
	if _, err := l.firewall.Sync(t.Context(), want); err == nil {
		t.Fatal("no error")
	}
	l.now = l.now.Add(10 * time.Minute)
	want.Grants = want.Grants[:1]
	l.sync(want, nil)
	wantGroup(t, l.ec2, "sg-1", api)
}

func TestALearntLimitHoldsForAnHour(t *testing.T) {
	l := newLife(t, 1)
	want := wanted(one, web, api)
	want.Limits = cloud.Count{IPv4: 60, IPv6: 60}
	if r := l.sync(want, cloud.ErrQuota); r.Groups[0].Budget.Limit.IPv4 != 1 || len(r.Overflow) != 1 {
		t.Errorf("limit %+v, overflow %v", r.Groups[0].Budget.Limit, r.Overflow)
	}
	l.now = l.now.Add(59 * time.Minute)
	l.quiet(l.sync(want, cloud.ErrQuota))
	l.now = l.now.Add(2 * time.Minute)
	if r := l.sync(want, cloud.ErrQuota); r.Calls.Authorize == 0 {
		t.Error("the limit is not tried again")
	}
}

func TestALimitThatOthersHaveFilledMeanwhileIsNotLearntForGood(t *testing.T) {
	l := newLife(t, 60)
	l.ec2.Seed("sg-1", cloudtest.Foreign("TCP 22 10.0.0.0/8"))
	// The listings show nothing of what fills the group.
	for i := range 59 {
		g := cloudtest.Foreign("TCP 23 10.0.0.0/8")
		g.Ports.First, g.Ports.Last = uint16(100+i), uint16(100+i)
		l.ec2.Seed("sg-1", g)
	}
	l.ec2.Inject(cloudtest.Fault{Action: authorize, Code: "RulesPerSecurityGroupLimitExceeded"})
	l.sync(wanted(one), nil)
	for _, r := range l.ec2.Rules("sg-1")[:30] {
		l.ec2.Unseed("sg-1", r.Rule)
	}
	if r, err := l.firewall.Sync(t.Context(), wanted(one, web)); len(r.Overflow) == 0 && err == nil {
		t.Fatalf("the injected refusal was not met: %+v", r)
	}
	for i := range 20 { // others go beyond what was learnt: so there is more
		g := cloudtest.Foreign("TCP 24 10.0.0.0/8")
		g.Ports.First, g.Ports.Last = uint16(200+i), uint16(200+i)
		l.ec2.Seed("sg-1", g)
	}
	l.sync(wanted(one), nil)
	for _, r := range l.ec2.Rules("sg-1")[:10] {
		l.ec2.Unseed("sg-1", r.Rule)
	}
	l.sync(wanted(one, web), nil)
}

func TestObservingWritesNothing(t *testing.T) {
	l := newLife(t, 60)
	l.ec2.Seed("sg-1", cloudtest.Signed(api, ours))
	want := wanted(both, web)
	want.Observe = true
	r := l.sync(want, cloud.ErrObserving)
	if len(r.Groups) != 2 || len(r.Groups[0].Add) != 1 || len(r.Groups[0].Remove) != 1 {
		t.Errorf("report %+v", r)
	}
	l.ec2.RemoveGroup("sg-2")
	l.sync(want, cloud.ErrObserving)
	if slices.ContainsFunc(l.calls.calls, func(c string) bool { return c[:4] != "list" }) {
		t.Errorf("calls %q", l.calls.calls)
	}
}

func TestNothingIsWidenedBecauseAGroupCannotBeRead(t *testing.T) {
	l := newLife(t, 60)
	var grants []string
	for i := range 6 {
		grants = append(grants, fmt.Sprintf("TCP 30080 10.%d.0.0/16", 2*i))
	}
	want := wanted(both, grants...)
	want.Coarsen, want.Limits = true, cloud.Count{IPv4: 3, IPv6: 3}
	l.sync(want, nil)
	l.ec2.Inject(cloudtest.Fault{Action: list}) // not this one
	l.ec2.Inject(cloudtest.Fault{Action: list, Code: "UnauthorizedOperation"})
	r := l.sync(want, cloud.ErrDenied)
	for _, group := range both {
		for _, in := range l.ec2.Rules(group) {
			if !cloud.Covered(justRules(eachLine(grants, cloudtest.Grant)), in.Rule) {
				t.Errorf("%s is open: %+v", cloudtest.Spell(in.Rule), r)
			}
		}
	}
}
