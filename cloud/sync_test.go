package cloud_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/internal/rule"
)

// recorder notes the calls in order.
type recorder struct {
	cloud.Provider
	calls []string
}

func (r *recorder) List(ctx context.Context, group string) ([]cloud.Rule, error) {
	r.calls = append(r.calls, "list "+group)
	return r.Provider.List(ctx, group)
}

func (r *recorder) Authorize(ctx context.Context, group, owner string, grants []cloud.Grant) error {
	r.calls = append(r.calls, "authorize "+group)
	return r.Provider.Authorize(ctx, group, owner, grants)
}

func (r *recorder) Revoke(ctx context.Context, group string, ids []string) error {
	r.calls = append(r.calls, "revoke "+group)
	return r.Provider.Revoke(ctx, group, ids)
}

// account is a simulated account with groups sg-1 and sg-2, watched.
func account(rulesPerGroup int) (*cloudtest.EC2, *recorder) {
	ec2 := cloudtest.NewEC2(cloudtest.Options{RulesPerGroup: rulesPerGroup})
	ec2.AddGroup("sg-1")
	ec2.AddGroup("sg-2")
	return ec2, &recorder{Provider: ec2.Provider()}
}

func wanted(groups []string, spelled ...string) cloud.Want {
	return cloud.Want{Owner: ours, Groups: groups, Grants: eachLine(spelled, cloudtest.Grant)}
}

var one, both = []string{"sg-1"}, []string{"sg-1", "sg-2"}

func wantCalls(t *testing.T, r *recorder, calls ...string) {
	t.Helper()
	if !slices.Equal(r.calls, calls) {
		t.Errorf("calls %q\n want %q", r.calls, calls)
	}
}

func wantGroup(t *testing.T, ec2 *cloudtest.EC2, group string, spelled ...string) {
	t.Helper()
	var have []string
	for _, r := range ec2.Rules(group) {
		have = append(have, cloudtest.Spell(r.Rule))
	}
	if !slices.Equal(have, spelled) {
		t.Errorf("%s holds %q\n want %q", group, have, spelled)
	}
}

func TestSyncAuthorizesInEveryGroupBeforeItRevokesInAny(t *testing.T) {
	ec2, p := account(60)
	ec2.Seed("sg-2", cloudtest.Signed("TCP 30080 10.8.0.0/16", ours))
	if _, err := cloud.Sync(t.Context(), p, wanted(both, "TCP 30080 10.0.0.0/8")); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, p, "list sg-1", "list sg-2", "authorize sg-1", "revoke sg-2", "list sg-1", "list sg-2")
}

func TestSyncMakesRoomInAFullGroupByClosingWhatNobodyWants(t *testing.T) {
	ec2, p := account(1)
	ec2.Seed("sg-1", cloudtest.Signed("TCP 30080 10.8.0.0/16", ours))
	if _, err := cloud.Sync(t.Context(), p, wanted(one, "TCP 30081 10.8.0.0/16")); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, p, "list sg-1", "authorize sg-1", "revoke sg-1", "list sg-1", "authorize sg-1", "list sg-1")
	wantGroup(t, ec2, "sg-1", "TCP 30081 10.8.0.0/16")
}

func TestSyncRevokesFirstOnlyWhereAFullGroupLeavesNoOtherWay(t *testing.T) {
	ec2, p := account(1)
	ec2.Seed("sg-1", cloudtest.Signed("TCP 30080 10.8.0.0/16", ours))
	if _, err := cloud.Sync(t.Context(), p, wanted(one, "TCP 30080 10.0.0.0/8")); err != nil {
		t.Fatal(err)
	}
	wantCalls(t, p, "list sg-1", "authorize sg-1", "list sg-1", "revoke sg-1", "authorize sg-1", "list sg-1")
	wantGroup(t, ec2, "sg-1", "TCP 30080 10.0.0.0/8")
}

// denying refuses to authorize in one group.
type denying struct {
	cloud.Provider
	group string
}

func (d denying) Authorize(ctx context.Context, group, owner string, grants []cloud.Grant) error {
	if group == d.group {
		return cloud.ErrDenied
	}
	return d.Provider.Authorize(ctx, group, owner, grants)
}

func TestSyncRevokesNothingFirstWhoseHeirAnotherGroupRefuses(t *testing.T) {
	ec2, p := account(1)
	old := "TCP 30080-30081 10.8.0.0/16"
	ec2.Seed("sg-1", cloudtest.Signed(old, ours))
	_, err := cloud.Sync(t.Context(), denying{p, "sg-2"}, wanted(both, "TCP 30080 10.8.0.0/16", "TCP 30081 10.8.0.0/17"))
	if !errors.Is(err, cloud.ErrDenied) {
		t.Errorf("error %v", err)
	}
	wantGroup(t, ec2, "sg-1", old)
}

func TestSyncNamesWhatDoesNotFitWhenTheRealQuotaIsSmallerThanSaid(t *testing.T) {
	ec2, p := account(1)
	ec2.Seed("sg-1", cloudtest.Signed("TCP 30080 10.8.0.0/16", ours))
	want := wanted(one, "TCP 30080 10.8.0.0/16", "TCP 30090 10.8.0.0/16")
	want.Limits = cloud.Count{IPv4: 60, IPv6: 60}
	r, err := cloud.Sync(t.Context(), p, want)
	if !errors.Is(err, cloud.ErrQuota) || len(r.Overflow) != 1 || r.Overflow[0].Ports.First != 30090 {
		t.Errorf("overflow %v, error %v", r.Overflow, err)
	}
	wantCalls(t, p, "list sg-1", "authorize sg-1", "list sg-1")
	wantGroup(t, ec2, "sg-1", "TCP 30080 10.8.0.0/16")
}

func TestSyncThatMayNotAuthorizeStillClosesButCutsNobodyOff(t *testing.T) {
	ec2, p := account(60)
	ec2.Seed("sg-1", cloudtest.Signed("TCP 30080 10.8.0.0/16", ours), cloudtest.Signed("TCP 30081 10.8.0.0/16", ours))
	ec2.Inject(cloudtest.Fault{Action: "AuthorizeSecurityGroupIngress", Code: "UnauthorizedOperation"})
	r, err := cloud.Sync(t.Context(), p, wanted(one, "TCP 30080 10.0.0.0/8"))
	if !errors.Is(err, cloud.ErrDenied) {
		t.Errorf("error %v", err)
	}
	wantGroup(t, ec2, "sg-1", "TCP 30080 10.8.0.0/16") // not replaced, so not removed
	if r.Holds(cloudtest.Port(rule.TCP, 30081)) || !r.Covers(cloudtest.Parse("TCP 30080 10.8.0.0/16")) {
		t.Errorf("in force %v", r.InForce)
	}
}

func TestSyncThatIsThrottledMakesNoFurtherChange(t *testing.T) {
	ec2, p := account(60)
	ec2.Seed("sg-1", cloudtest.Signed("TCP 30080 10.8.0.0/16", ours))
	ec2.Inject(cloudtest.Fault{Action: "AuthorizeSecurityGroupIngress", Code: "RequestLimitExceeded"})
	r, err := cloud.Sync(t.Context(), p, wanted(one, "TCP 30081 10.8.0.0/16"))
	if !errors.Is(err, cloud.ErrThrottled) || len(r.InForce) != 1 {
		t.Errorf("in force %v, error %v", r.InForce, err)
	}
	wantCalls(t, p, "list sg-1", "authorize sg-1", "list sg-1")
}

func TestSyncListsAgainOnceWhenTheGroupIsNotWhatItRead(t *testing.T) {
	ec2, p := account(60)
	ec2.Inject(cloudtest.Fault{Action: "AuthorizeSecurityGroupIngress", Code: "InvalidPermission.Duplicate", Times: 9})
	_, err := cloud.Sync(t.Context(), p, wanted(one, "TCP 30081 10.8.0.0/16"))
	if !errors.Is(err, cloud.ErrStale) {
		t.Errorf("error %v", err)
	}
	wantCalls(t, p, "list sg-1", "authorize sg-1", "list sg-1", "authorize sg-1", "list sg-1")
}

func TestSyncWithoutTheLeaseChangesNothing(t *testing.T) {
	ec2, p := account(60)
	ec2.Seed("sg-1", cloudtest.Signed("TCP 30080 10.8.0.0/16", ours))
	lost := errors.New("the lease went to another manager")
	leased := cloud.Leased(p, func(context.Context) error { return lost })
	for _, want := range []cloud.Want{wanted(one), wanted(one, "TCP 30080 10.8.0.0/16", "TCP 30081 10.8.0.0/16")} {
		if _, err := cloud.Sync(t.Context(), leased, want); !errors.Is(err, lost) {
			t.Errorf("error %v", err)
		}
	}
	if _, err := cloud.Sync(t.Context(), leased, wanted(one, "TCP 30080 10.8.0.0/16")); err != nil {
		t.Errorf("nothing to write, yet %v", err)
	}
	wantGroup(t, ec2, "sg-1", "TCP 30080 10.8.0.0/16")
	if slices.Contains(p.calls, "authorize sg-1") || slices.Contains(p.calls, "revoke sg-1") {
		t.Errorf("calls %q", p.calls)
	}
}

func TestSyncRefusesToSignWithNothing(t *testing.T) {
	ec2, p := account(60)
	ec2.Seed("sg-1", cloudtest.Foreign("TCP 22 10.0.0.0/8"))
	if _, err := cloud.Sync(t.Context(), p, cloud.Want{Groups: one}); !errors.Is(err, cloud.ErrInvalid) {
		t.Errorf("error %v", err)
	}
	wantCalls(t, p)
	wantGroup(t, ec2, "sg-1", "TCP 22 10.0.0.0/8")
}

func TestSyncNamesWhatTheCloudCannotExpressAndOpensTheRest(t *testing.T) {
	ec2, p := account(60)
	r, err := cloud.Sync(t.Context(), p, wanted(one, "SCTP 30080 10.8.0.0/16", "TCP 30080 10.8.0.0/16"))
	if !errors.Is(err, cloud.ErrUnsupported) || len(r.Unsupported) != 1 || r.Covers(cloudtest.Parse("SCTP 30080 10.8.0.0/16")) {
		t.Errorf("report %+v, error %v", r, err)
	}
	wantGroup(t, ec2, "sg-1", "TCP 30080 10.8.0.0/16")
}

func TestSyncOfAnUnreadableGroupReportsThatNothingIsProved(t *testing.T) {
	ec2, p := account(60)
	ec2.Inject(cloudtest.Fault{Action: "DescribeSecurityGroupRules", Code: "InternalError"})
	r, err := cloud.Sync(t.Context(), p, wanted(one))
	if err == nil || !r.Holds(cloudtest.Port(rule.TCP, 30080)) || !slices.Equal(r.Unlisted, one) {
		t.Errorf("report %+v, error %v", r, err)
	}
	wantCalls(t, p, "list sg-1")
}

func TestSyncOfThousandPortsNeedsFewCalls(t *testing.T) {
	_, p := account(60)
	var atoms []cloud.Grant
	for port := uint16(30000); port < 31000; port++ {
		for _, source := range []string{"10.8.0.0/17", "10.8.128.0/17", "2001:db8::/48"} {
			g := cloudtest.Grant("TCP 30000 " + source)
			g.Ports = rule.PortRange{First: port, Last: port}
			atoms = append(atoms, g)
		}
	}
	r, err := cloud.Sync(t.Context(), p, cloud.Want{Owner: ours, Groups: one, Grants: cloud.Merge(atoms)})
	if err != nil || r.Calls.Mutating() != 1 || len(r.InForce) != 2 {
		t.Errorf("calls %+v, in force %v, error %v", r.Calls, r.InForce, err)
	}
	for _, a := range atoms {
		if !r.Covers(a.Rule) {
			t.Fatalf("%v is not covered", a.Rule)
		}
	}
}

func TestMergeNamesEverybodyWhomARuleServes(t *testing.T) {
	merged := cloud.Merge([]cloud.Grant{
		{Rule: cloudtest.Parse("TCP 30001 10.8.0.0/16"), Description: "team=b"},
		{Rule: cloudtest.Parse("TCP 30000 10.8.0.0/17"), Description: "team=a"},
		{Rule: cloudtest.Parse("TCP 30000 10.8.128.0/17"), Description: "team=a"},
		{Rule: cloudtest.Parse("UDP 30001 10.8.0.0/16"), Description: "team=c"},
	})
	if len(merged) != 2 || merged[0].Description != "team=a; team=b" || merged[1].Description != "team=c" {
		t.Errorf("merged %v", merged)
	}
}

func TestSyncOfACopyOfAClusterChangesNothingUntilSomebodySaysSo(t *testing.T) {
	ec2, p := account(60)
	ec2.Seed("sg-1", cloudtest.Signed("TCP 30080 10.8.0.0/16", "prod/1"), cloudtest.Signed("TCP 30081 10.8.0.0/16", "production/1"))
	want := wanted(one, "TCP 30090 10.8.0.0/16")
	want.Owner = "prod/2"
	r, err := cloud.Sync(t.Context(), p, want)
	if !errors.Is(err, cloud.ErrCloned) || !slices.Equal(r.Rivals, []string{"prod/1"}) || r.Calls.Mutating() != 0 || len(r.Groups[0].Add) != 1 {
		t.Errorf("report %+v, error %v", r, err)
	}
	want.Confirmed = true
	if _, err := cloud.Sync(t.Context(), p, want); err != nil {
		t.Errorf("confirmed: %v", err)
	}
	wantGroup(t, ec2, "sg-1", "TCP 30080 10.8.0.0/16", "TCP 30081 10.8.0.0/16", "TCP 30090 10.8.0.0/16")
	want.Owner, want.Confirmed = "2", false
	if _, err := cloud.Sync(t.Context(), p, want); errors.Is(err, cloud.ErrCloned) {
		t.Errorf("without a name there are no copies: %v", err)
	}
}
