package aws_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

func TestAWrongSecretIsDenied(t *testing.T) {
	offline(t, "AKIDEXAMPLE", "not the secret")
	server := httptest.NewServer(cloudtest.NewEC2(cloudtest.Options{AccessKey: "AKIDEXAMPLE", SecretKey: "the secret"}))
	t.Cleanup(server.Close)
	wantDenied(t, server.URL, "SignatureDoesNotMatch")
}

func TestAnUnknownAccessKeyIsDenied(t *testing.T) {
	offline(t, "AKIDOTHER", "the secret")
	server := httptest.NewServer(cloudtest.NewEC2(cloudtest.Options{AccessKey: "AKIDEXAMPLE", SecretKey: "the secret"}))
	t.Cleanup(server.Close)
	wantDenied(t, server.URL, "AuthFailure")
}

func TestARequestFromAnotherTimeIsDenied(t *testing.T) {
	offline(t, "test", "test")
	server := httptest.NewServer(cloudtest.NewEC2(cloudtest.Options{
		Clock: func() time.Time { return time.Now().Add(16 * time.Minute) },
	}))
	t.Cleanup(server.Close)
	wantDenied(t, server.URL, "RequestExpired")
}

func TestARequestForAnotherRegionIsDenied(t *testing.T) {
	offline(t, "test", "test")
	server := httptest.NewServer(cloudtest.NewEC2(cloudtest.Options{Region: "eu-west-1"}))
	t.Cleanup(server.Close)
	wantDenied(t, server.URL, "AuthFailure")
}

func wantDenied(t *testing.T, endpoint, code string) {
	t.Helper()
	_, err := open(t, endpoint).List(t.Context(), "sg-1")
	var api interface{ ErrorCode() string }
	if !errors.Is(err, cloud.ErrDenied) || !errors.As(err, &api) || api.ErrorCode() != code {
		t.Errorf("error %v, want %s", err, code)
	}
}

func TestCallsSayWhoMakesThem(t *testing.T) {
	offline(t, "test", "test")
	account := cloudtest.NewEC2(cloudtest.Options{})
	account.AddGroup("sg-1")
	agent := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		agent = r.UserAgent()
		account.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	if _, err := open(t, server.URL).List(t.Context(), "sg-1"); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(agent, "portreeve") {
		t.Errorf("user agent %q", agent)
	}
}

func TestAShortThrottlingIsRiddenOutByTheSDK(t *testing.T) {
	offline(t, "test", "test")
	account := cloudtest.NewEC2(cloudtest.Options{})
	account.AddGroup("sg-1")
	account.Inject(cloudtest.Fault{Code: "RequestLimitExceeded", Times: 2})
	server := httptest.NewServer(account)
	t.Cleanup(server.Close)
	if _, err := open(t, server.URL).List(t.Context(), "sg-1"); err != nil {
		t.Error(err)
	}
}

func TestAGroupWithoutAnyRuleIsEmptyAndExists(t *testing.T) {
	offline(t, "test", "test")
	account := cloudtest.NewEC2(cloudtest.Options{})
	account.AddGroup("sg-1")
	account.DropEgress("sg-1")
	server := httptest.NewServer(account)
	t.Cleanup(server.Close)
	p := open(t, server.URL)
	if rules, err := p.List(t.Context(), "sg-1"); err != nil || len(rules) != 0 {
		t.Errorf("%v, %v", rules, err)
	}
	if _, err := p.List(t.Context(), "sg-2"); !errors.Is(err, cloud.ErrInvalid) {
		t.Errorf("error %v", err)
	}
}

func TestARefusedCallNamesThePermissionItNeeds(t *testing.T) {
	offline(t, "test", "test")
	account := cloudtest.NewEC2(cloudtest.Options{})
	account.AddGroup("sg-1")
	account.DropEgress("sg-1")
	server := httptest.NewServer(account)
	t.Cleanup(server.Close)
	p := open(t, server.URL)
	for action, call := range map[string]func() error{
		"AuthorizeSecurityGroupIngress and ec2:CreateTags": func() error {
			return p.Authorize(t.Context(), "sg-1", "me", []cloud.Grant{cloudtest.Grant("TCP 30080 10.8.0.0/16")})
		},
		"RevokeSecurityGroupIngress":  func() error { return p.Revoke(t.Context(), "sg-1", []string{"sgr-1"}) },
		"DescribeSecurityGroupRules":  func() error { _, err := p.List(t.Context(), "sg-1"); return err },
		"DescribeSecurityGroups":      func() error { return p.Exists(t.Context(), "sg-1") },
		"GetManagedPrefixListEntries": func() error { _, err := p.PrefixList(t.Context(), "pl-1"); return err },
	} {
		name, _, _ := strings.Cut(action, " ")
		account.Inject(cloudtest.Fault{Action: name, Code: "UnauthorizedOperation"})
		if err := call(); !errors.Is(err, cloud.ErrDenied) || !strings.Contains(err.Error(), "missing permission ec2:"+action+":") {
			t.Errorf("%s: error %v", name, err)
		}
		account.Inject(cloudtest.Fault{Action: name, Code: "AuthFailure"})
		if err := call(); !errors.Is(err, cloud.ErrDenied) || strings.Contains(err.Error(), "permission") {
			t.Errorf("%s with bad credentials: error %v", name, err)
		}
	}
}

func TestADeletedGroupIsNamedByEveryCall(t *testing.T) {
	offline(t, "test", "test")
	account := cloudtest.NewEC2(cloudtest.Options{})
	server := httptest.NewServer(account)
	t.Cleanup(server.Close)
	p := open(t, server.URL)
	_, listing := p.List(t.Context(), "sg-gone")
	for name, err := range map[string]error{
		"list":      listing,
		"exists":    p.Exists(t.Context(), "sg-gone"),
		"authorize": p.Authorize(t.Context(), "sg-gone", "me", []cloud.Grant{cloudtest.Grant("TCP 30080 10.8.0.0/16")}),
		"revoke":    p.Revoke(t.Context(), "sg-gone", []string{"sgr-1"}),
	} {
		if !errors.Is(err, cloud.ErrInvalid) || !strings.Contains(err.Error(), "sg-gone") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestAPeerOfAnotherAccountIsReadWithItAndIsNotOurs(t *testing.T) {
	offline(t, "test", "test")
	account := cloudtest.NewEC2(cloudtest.Options{})
	account.AddGroup("sg-1")
	account.AddPeer("sg-theirs", "999988887777")
	account.Seed("sg-1", cloudtest.Peering("TCP 30080 group", "999988887777/sg-theirs"))
	server := httptest.NewServer(account)
	t.Cleanup(server.Close)
	p := open(t, server.URL)
	have, err := p.List(t.Context(), "sg-1")
	if err != nil || len(have) != 1 || have[0].Peer != "999988887777/sg-theirs" || have[0].Owner != "" {
		t.Errorf("listed %+v, %v", have, err)
	}
	if err := p.Exists(t.Context(), "sg-theirs"); !errors.Is(err, cloud.ErrInvalid) {
		t.Errorf("found in our account: %v", err)
	}
}

// EC2 finds a group of another account only by the account as well.
func TestARuleForAGroupOfAnotherAccountNamesTheAccount(t *testing.T) {
	offline(t, "test", "test")
	account := cloudtest.NewEC2(cloudtest.Options{})
	account.AddGroup("sg-1")
	account.AddGroup("sg-2")
	account.AddPeer("sg-theirs", "999988887777")
	server := httptest.NewServer(account)
	t.Cleanup(server.Close)
	p := open(t, server.URL)
	theirs := cloudtest.PeerGrant("TCP 30080 group", "999988887777/sg-theirs")
	want := cloud.Want{Owner: "owner", Groups: []string{"sg-1"}, Grants: []cloud.Grant{theirs, cloudtest.PeerGrant("TCP 30081 group", "sg-2")}}
	for range 2 {
		if _, err := cloud.Sync(t.Context(), p, want); err != nil {
			t.Fatal(err)
		}
	}
	if have := account.Rules("sg-1"); len(have) != 2 || have[0].Peer != theirs.Peer || have[1].Peer != "sg-2" {
		t.Errorf("rules %+v", have)
	}
	if err := p.Exists(t.Context(), theirs.Peer); err != nil {
		t.Errorf("a group that is not shown to us: %v", err)
	}
	if err := p.Exists(t.Context(), "123456789012/sg-2"); !errors.Is(err, cloud.ErrInvalid) {
		t.Errorf("our own account: %v", err)
	}
	if err := p.Authorize(t.Context(), "sg-1", "owner", []cloud.Grant{cloudtest.PeerGrant("TCP 30082 group", "sg-theirs")}); !errors.Is(err, cloud.ErrInvalid) {
		t.Errorf("without its account: %v", err)
	}
}

// A prefix list weighs as much as it may ever hold, a group one in both families.
func TestPeersWeighOnTheQuotasAsOnEC2(t *testing.T) {
	offline(t, "test", "test")
	for name, c := range map[string]struct {
		room       int
		entry      string
		fits, full string
	}{
		"IPv4": {58, "10.0.0.0/8", "TCP 30080 2001:db8::/48", "TCP 30080 10.8.0.0/16"},
		"IPv6": {58, "2001:db8::/48", "TCP 30080 10.8.0.0/16", "TCP 30080 2001:db8::/48"},
	} {
		account := cloudtest.NewEC2(cloudtest.Options{})
		account.AddGroup("sg-1")
		account.AddGroup("sg-2")
		account.AddPrefixList("pl-1", c.room, prefix(c.entry))
		account.Seed("sg-1", cloudtest.Peering("TCP 443 group", "pl-1"), cloudtest.Peering("TCP 22 group", "sg-2"))
		server := httptest.NewServer(account)
		t.Cleanup(server.Close)
		p := open(t, server.URL)
		authorize := func(grants ...cloud.Grant) error { return p.Authorize(t.Context(), "sg-1", "me", grants) }
		if err := authorize(cloudtest.PeerGrant("TCP 30080 group", "sg-2")); err != nil {
			t.Errorf("%s: the last free place: %v", name, err)
		}
		if err := authorize(cloudtest.Grant(c.full)); !errors.Is(err, cloud.ErrQuota) {
			t.Errorf("%s: one more of the list's family: %v", name, err)
		}
		if err := authorize(cloudtest.Grant(c.fits)); err != nil {
			t.Errorf("%s: one of the other family: %v", name, err)
		}
	}
}

func TestAWriteMayBeSeenLateAndSurvivesThat(t *testing.T) {
	offline(t, "test", "test")
	account := cloudtest.NewEC2(cloudtest.Options{})
	account.AddGroup("sg-1")
	server := httptest.NewServer(account)
	t.Cleanup(server.Close)
	p := open(t, server.URL)
	account.Inject(cloudtest.Fault{Action: "AuthorizeSecurityGroupIngress", Unseen: 2})
	if err := p.Authorize(t.Context(), "sg-1", "me", []cloud.Grant{cloudtest.Grant("TCP 30080 10.8.0.0/16")}); err != nil {
		t.Fatal(err)
	}
	for reading, want := range []int{0, 0, 1, 1} {
		if have, err := p.List(t.Context(), "sg-1"); err != nil || len(have) != want {
			t.Errorf("reading %d shows %v, %v; want %d rules", reading+1, have, err, want)
		}
	}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// A cloud that answers with every group stands for any whose patterns mean more than
// we know of.
func TestAFilterThatFindsTooMuchDoesNotWidenTheWish(t *testing.T) {
	offline(t, "test", "test")
	var items strings.Builder
	for id, value := range map[string]string{"sg-1": "managed", "sg-2": "managed by hand", "sg-3": ""} {
		items.WriteString("<item><groupId>" + id + "</groupId><tagSet><item><key>portreeve</key><value>" + value + "</value></item></tagSet></item>")
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("<DescribeSecurityGroupsResponse><securityGroupInfo>" + items.String() + "</securityGroupInfo></DescribeSecurityGroupsResponse>"))
	}))
	t.Cleanup(server.Close)
	have, err := open(t, server.URL).Tagged(t.Context(), map[string]string{"portreeve": "managed"})
	if err != nil || !slices.Equal(have, []string{"sg-1"}) {
		t.Errorf("found %v, %v", have, err)
	}
}
