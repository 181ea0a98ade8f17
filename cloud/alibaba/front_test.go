package alibaba_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/alibaba"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

const owner = "5f0c8a52-9d0e-4c39-8f0f-0c0a5d3c7a11"

func TestWrongCredentialsAreDeniedAndNotRepeatedInErrors(t *testing.T) {
	offline(t)
	_, endpoint := serve(t, cloudtest.ECSOptions{Region: "eu-central-1", SecurityToken: "TheToken"})
	good := alibaba.Keys{AccessKeyID: keys.AccessKeyID, AccessKeySecret: keys.AccessKeySecret, SecurityToken: "TheToken"}
	for code, k := range map[string]alibaba.Keys{
		"InvalidAccessKeyId.NotFound":     {AccessKeyID: "LTAIOTHER", AccessKeySecret: good.AccessKeySecret, SecurityToken: "TheToken"},
		"SignatureDoesNotMatch":           {AccessKeyID: good.AccessKeyID, AccessKeySecret: "wrong secret", SecurityToken: "TheToken"},
		"InvalidSecurityToken.Expired":    {AccessKeyID: good.AccessKeyID, AccessKeySecret: good.AccessKeySecret, SecurityToken: "WrongToken"},
		"InvalidSecurityGroupId.NotFound": good, // good enough to hear that there is no such group
	} {
		_, err := open(t, alibaba.Options{Endpoint: endpoint, Keys: k}).List(t.Context(), "sg-1")
		wantCode(t, err, code)
		if code != "InvalidSecurityGroupId.NotFound" && !errors.Is(err, cloud.ErrDenied) {
			t.Errorf("%s: error %v", code, err)
		}
		for _, secret := range []string{k.AccessKeySecret, k.SecurityToken, "SignatureNonce"} {
			if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), secret) {
				t.Errorf("%s: the error shows %q: %v", code, secret, err)
			}
		}
	}
}

func TestARequestFromAnotherTimeIsDenied(t *testing.T) {
	offline(t)
	_, endpoint := serve(t, cloudtest.ECSOptions{Clock: func() time.Time { return time.Now().Add(16 * time.Minute) }})
	_, err := open(t, alibaba.Options{Endpoint: endpoint}).List(t.Context(), "sg-1")
	wantCode(t, err, "InvalidTimeStamp.Expired")
	if !errors.Is(err, cloud.ErrDenied) || !strings.Contains(err.Error(), "clock") {
		t.Errorf("error %v", err)
	}
}

func TestARequestForAnotherRegionIsInvalid(t *testing.T) {
	offline(t)
	_, endpoint := serve(t, cloudtest.ECSOptions{Region: "cn-hangzhou"})
	_, err := open(t, alibaba.Options{Endpoint: endpoint}).List(t.Context(), "sg-1")
	wantCode(t, err, "InvalidRegionId.NotFound")
	if !errors.Is(err, cloud.ErrInvalid) {
		t.Errorf("error %v", err)
	}
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var api interface{ ErrorCode() string }
	if !errors.As(err, &api) || api.ErrorCode() != code {
		t.Errorf("error %v, want %s", err, code)
	}
}

func TestARefusedCallNamesThePermissionItNeeds(t *testing.T) {
	offline(t)
	account, endpoint := serve(t, cloudtest.ECSOptions{})
	account.AddGroup("sg-1")
	p := open(t, alibaba.Options{Endpoint: endpoint})
	for action, do := range calls(p) {
		account.Inject(cloudtest.Fault{Action: action, Code: "Forbidden.RAM"})
		if err := do(t.Context()); !errors.Is(err, cloud.ErrDenied) || !strings.Contains(err.Error(), "missing permission ecs:"+action) {
			t.Errorf("%s: error %v", action, err)
		}
	}
}

// calls are all that the provider does to a group sg-1, by the action it takes.
func calls(p *alibaba.Provider) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"DescribeSecurityGroupAttribute": func(ctx context.Context) error { _, err := p.List(ctx, "sg-1"); return err },
		"AuthorizeSecurityGroup": func(ctx context.Context) error {
			return p.Authorize(ctx, "sg-1", owner, []cloud.Grant{cloudtest.Grant("TCP 30080 10.8.0.0/16")})
		},
		"RevokeSecurityGroup":    func(ctx context.Context) error { return p.Revoke(ctx, "sg-1", []string{"sgr-1"}) },
		"DescribeSecurityGroups": func(ctx context.Context) error { return p.Exists(ctx, "sg-1") },
		"DescribePrefixListAttributes": func(ctx context.Context) error {
			_, err := p.PrefixList(ctx, "pl-1")
			return err
		},
	}
}

func TestWhatTheVendorRefusesSaysWhatToDo(t *testing.T) {
	offline(t)
	account, endpoint := serve(t, cloudtest.ECSOptions{})
	for _, id := range []string{"sg-managed", "sg-advanced", "sg-basic", "sg-peer"} {
		account.AddGroup(id)
	}
	account.Manage("sg-managed")
	account.Advance("sg-advanced")
	p := open(t, alibaba.Options{Endpoint: endpoint})
	for _, c := range []struct {
		group string
		grant cloud.Grant
		says  string
	}{
		{"sg-managed", cloudtest.Grant("TCP 30080 10.8.0.0/16"), "name another group"},
		{"sg-advanced", cloudtest.PeerGrant("TCP 30080 group", "sg-peer"), "name networks, or use a basic group"},
		{"sg-basic", cloudtest.PeerGrant("TCP 30080 group", "sg-nobody"), "InvalidSourceGroupId.NotFound"},
		{"sg-basic", cloudtest.PeerGrant("TCP 30080 group", "sg-basic"), "InvalidParamter.Conflict"},
	} {
		err := p.Authorize(t.Context(), c.group, owner, []cloud.Grant{c.grant})
		if !errors.Is(err, cloud.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: error %v, want %q", c.group, err, c.says)
		}
		if have := account.Rules(c.group); len(have) != 0 {
			t.Errorf("%s holds %v", c.group, have)
		}
	}
	if err := p.Authorize(t.Context(), "sg-advanced", owner, []cloud.Grant{cloudtest.Grant("TCP 30080 10.8.0.0/16")}); err != nil {
		t.Errorf("an advanced group takes networks: %v", err)
	}
}

func TestMoreThanTwentyGroupsAsSourcesAreNoQuotaOfRules(t *testing.T) {
	offline(t)
	account, endpoint := serve(t, cloudtest.ECSOptions{})
	account.AddGroup("sg-1")
	var grants []cloud.Grant
	for i := range 21 {
		peer := fmt.Sprintf("sg-peer-%d", i)
		account.AddGroup(peer)
		grants = append(grants, cloudtest.PeerGrant("TCP 30080 group", peer))
	}
	p := open(t, alibaba.Options{Endpoint: endpoint})
	if err := p.Authorize(t.Context(), "sg-1", owner, grants); !errors.Is(err, cloud.ErrInvalid) || errors.Is(err, cloud.ErrQuota) {
		t.Errorf("21: %v", err)
	}
	if err := p.Authorize(t.Context(), "sg-1", owner, grants[:20]); err != nil {
		t.Errorf("20: %v", err)
	}
}

func TestAnUnknownIDIsStaleSinceTheVendorSaysSo(t *testing.T) {
	offline(t)
	account, endpoint := serve(t, cloudtest.ECSOptions{})
	account.AddGroup("sg-1")
	err := open(t, alibaba.Options{Endpoint: endpoint}).Revoke(t.Context(), "sg-1", []string{"sgr-1"})
	wantCode(t, err, "InvalidParam.SecurityGroupRuleId")
	if !errors.Is(err, cloud.ErrStale) {
		t.Errorf("error %v", err)
	}
}

func TestCallsSayWhoMakesThemAndKeepTheirParametersOutOfTheURL(t *testing.T) {
	offline(t)
	var seen []*http.Request
	account, endpoint := serve(t, cloudtest.ECSOptions{}, watch(&seen))
	account.AddGroup("sg-1")
	p := open(t, alibaba.Options{Endpoint: endpoint})
	var grants []cloud.Grant
	for i := range 100 {
		g := cloudtest.Grant(fmt.Sprintf("TCP 30080 10.%d.0.0/16", i))
		g.Description = strings.Repeat("x", 600)
		grants = append(grants, g)
	}
	if err := p.Authorize(t.Context(), "sg-1", owner, grants); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 1 || seen[0].URL.RawQuery != "" || !strings.Contains(seen[0].UserAgent(), "portreeve") {
		t.Errorf("requests %v", seen)
	}
}

// watch notes each request.
func watch(seen *[]*http.Request) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			*seen = append(*seen, r)
			next.ServeHTTP(w, r)
		})
	}
}

func TestWhatPassesIsRiddenOutInAFewAttempts(t *testing.T) {
	offline(t)
	for name, c := range map[string]struct {
		fault cloudtest.Fault
		kind  error
		calls int
	}{
		"throttled twice":     {cloudtest.Fault{Code: "Throttling.User", Times: 2}, nil, 3},
		"throttled for long":  {cloudtest.Fault{Code: "Throttling.User", Times: 9}, cloud.ErrThrottled, 3},
		"broken twice":        {cloudtest.Fault{Code: "InternalError", Times: 2}, nil, 3},
		"not there once":      {cloudtest.Fault{Code: "ServiceUnavailable"}, nil, 2},
		"an answer lost":      {cloudtest.Fault{LoseAnswer: true}, nil, 2},
		"a nonce drawn twice": {cloudtest.Fault{Code: "SignatureNonceUsed"}, nil, 2},
		"denied":              {cloudtest.Fault{Code: "Forbidden.RAM"}, cloud.ErrDenied, 1},
		"full":                {cloudtest.Fault{Code: "AuthorizationLimitExceed"}, cloud.ErrQuota, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var seen []*http.Request
			account, endpoint := serve(t, cloudtest.ECSOptions{Older: true}, watch(&seen)) // which tells if anything is written twice
			account.AddGroup("sg-1")
			account.Inject(c.fault)
			err := calls(open(t, alibaba.Options{Endpoint: endpoint}))["AuthorizeSecurityGroup"](t.Context())
			if (c.kind == nil) != (err == nil) || !errors.Is(err, c.kind) || len(seen) != c.calls {
				t.Errorf("error %v after %d calls, want %v after %d", err, len(seen), c.kind, c.calls)
			}
			if wrote := len(account.Rules("sg-1")); (err == nil) != (wrote == 1) {
				t.Errorf("%d rules", wrote)
			}
		})
	}
}

func TestACallEndsWithItsContextAndSaysNothingOfItsSignature(t *testing.T) {
	offline(t)
	ctx, cancel := context.WithCancel(t.Context())
	hang := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm() // reads the body, so that the server hears when the client goes
		cancel()
		<-r.Context().Done()
	}))
	t.Cleanup(hang.Close)
	_, err := open(t, alibaba.Options{Endpoint: hang.URL}).List(ctx, "sg-1")
	if !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "http") || strings.Contains(err.Error(), keys.AccessKeyID) {
		t.Errorf("error %v", err)
	}
	_, err = open(t, alibaba.Options{Endpoint: hang.URL}).List(ctx, "sg-1")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

func TestARuleBoundToADestinationSatisfiesNobodyAndStays(t *testing.T) {
	offline(t)
	account, endpoint := serve(t, cloudtest.ECSOptions{})
	account.AddGroup("sg-1")
	p := open(t, alibaba.Options{Endpoint: endpoint})
	want := cloud.Want{Owner: owner, Groups: []string{"sg-1"}, Grants: []cloud.Grant{cloudtest.Grant("TCP 30080 10.8.0.0/16")}}
	if _, err := cloud.Sync(t.Context(), p, want); err != nil {
		t.Fatal(err)
	}
	account.Narrow("sg-1", account.Rules("sg-1")[0].ID, "192.0.2.7/32")
	narrowed := account.Rules("sg-1")[0]
	r, err := cloud.Sync(t.Context(), p, want)
	if err != nil || !r.Covers(want.Grants[0].Rule) {
		t.Fatalf("%+v, %v", r, err)
	}
	if have := account.Rules("sg-1"); len(have) != 2 || !slices.ContainsFunc(have, func(r cloud.Rule) bool { return reflect.DeepEqual(r, narrowed) }) {
		t.Errorf("rules %+v", have)
	}
}

func TestOnlyHTTPSIsSpokenUnlessToldOtherwise(t *testing.T) {
	offline(t)
	secure := httptest.NewTLSServer(cloudtest.NewECS(cloudtest.ECSOptions{}))
	t.Cleanup(secure.Close)
	host := strings.TrimPrefix(secure.URL, "https://")
	for _, endpoint := range []string{host, secure.URL} {
		_, err := open(t, alibaba.Options{Endpoint: endpoint}).List(t.Context(), "sg-1")
		if err == nil || !strings.Contains(err.Error(), "certificate") { // it spoke TLS and trusted nobody
			t.Errorf("%s: error %v", endpoint, err)
		}
	}
	for _, endpoint := range []string{"ftp://ecs", "https://ecs/path", "https://user@ecs", "https://"} {
		if _, err := alibaba.New(alibaba.Options{Region: "eu-central-1", Endpoint: endpoint, Keys: keys}); !errors.Is(err, cloud.ErrInvalid) {
			t.Errorf("%s: error %v", endpoint, err)
		}
	}
}

func TestCallsKeepToTheRate(t *testing.T) {
	offline(t)
	account, endpoint := serve(t, cloudtest.ECSOptions{})
	account.AddGroup("sg-1")
	clock := &counting{}
	p := open(t, alibaba.Options{Endpoint: endpoint, Paces: cloud.NewPaces(clock)})
	for range 60 {
		if _, err := p.List(t.Context(), "sg-1"); err != nil {
			t.Fatal(err)
		}
	}
	if clock.slept < 4*time.Second { // a burst of 50, then two a second
		t.Errorf("60 calls waited %s", clock.slept)
	}
}

// counting is a clock that moves only when somebody sleeps by it.
type counting struct{ slept time.Duration }

func (c *counting) Now() time.Time { return time.Unix(0, 0).Add(c.slept) }

func (c *counting) Sleep(ctx context.Context, d time.Duration) error {
	c.slept += d
	return ctx.Err()
}

func TestCallsAtOnceDoNotMeet(t *testing.T) {
	offline(t)
	account, endpoint := serve(t, cloudtest.ECSOptions{})
	p := open(t, alibaba.Options{Endpoint: endpoint})
	var all sync.WaitGroup
	for i := range 20 {
		group := fmt.Sprintf("sg-%d", i)
		account.AddGroup(group)
		all.Go(func() {
			err := p.Authorize(t.Context(), group, owner, []cloud.Grant{cloudtest.Grant(fmt.Sprintf("TCP 30080 10.%d.0.0/16", i))})
			have, listing := p.List(t.Context(), group)
			if err != nil || listing != nil || len(have) != 1 || have[0].Source.Addr().As4()[1] != byte(i) {
				t.Errorf("%s: %+v, %v, %v", group, have, err, listing)
			}
		})
	}
	all.Wait()
}

// A rule is the same to the cloud at any priority, so that a better one can't stand
// beside it for a moment: the halves of it do.
func TestAChangedPriorityIsWrittenAnew(t *testing.T) {
	offline(t)
	account, endpoint := serve(t, cloudtest.ECSOptions{})
	account.AddGroup("sg-1")
	want := cloud.Want{Owner: owner, Groups: []string{"sg-1"}, Grants: []cloud.Grant{cloudtest.Grant("TCP 30080 10.8.0.0/16")}}
	for i, priority := range []int{1, 50, 7} {
		if _, err := cloud.Sync(t.Context(), open(t, alibaba.Options{Endpoint: endpoint, Priority: priority}), want); err != nil {
			t.Fatal(err)
		}
		if have := account.Rules("sg-1"); len(have) != 1+i%2 || have[0].Priority != priority || have[0].Owner != owner {
			t.Errorf("rules %+v, want priority %d", have, priority)
		}
	}
}
