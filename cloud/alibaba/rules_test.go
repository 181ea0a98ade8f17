package alibaba

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"

	sdkerrors "github.com/aliyun/alibaba-cloud-sdk-go/sdk/errors"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

const owner = "5f0c8a52-9d0e-4c39-8f0f-0c0a5d3c7a11"

func TestTheSignatureIsTheOneThatCloudtestKnows(t *testing.T) {
	for _, r := range []cloud.Rule{
		cloudtest.Signed("TCP 30080-30089 10.8.0.0/16", owner), cloudtest.Signed("UDP 53 2001:db8::/48", owner),
		{Rule: cloudtest.Parse("TCP 30080 group"), Peer: "sg-1", Owner: owner},
	} {
		if ours, theirs := signature(owner, r.Rule, r.Peer), cloudtest.ECSMark(r); ours != theirs {
			t.Errorf("alibaba signs with %q, cloudtest with %q", ours, theirs)
		}
	}
}

func TestASignatureIsReadBackFromItsOwnRuleOnly(t *testing.T) {
	r := cloudtest.Parse("TCP 30080 10.8.0.0/16")
	signed := describe(signature(owner, r, ""), "team=payments pool=web")
	for description, want := range map[string]string{
		signed:                        owner,
		signature(owner, r, ""):       owner,
		signed + " and more":          owner, // text is for people
		" " + signed:                  "",
		strings.ToUpper(signed):       "",
		signed[:len(signed)-60]:       "",
		signature(owner, r, "") + "x": "",
		strings.Replace(signed, owner, "another", 1):                                 "",
		describe(signature(owner, cloudtest.Parse("TCP 30081 10.8.0.0/16"), ""), ""): "", // copied
		describe(signature(owner, cloudtest.Parse("TCP 30080 10.0.0.0/8"), ""), ""):  "",
		describe(signature("another", r, ""), "x"):                                   "another",
		mark + owner:   "",
		mark + sumMark: "",
		"":             "",
		"made by hand": "",
	} {
		got, text := signer(r, "", description)
		if got != want || (want == "" && text != description) {
			t.Errorf("%q: owner %q and text %q, want %q", description, got, text, want)
		}
	}
	if _, text := signer(r, "", signed); text != "team=payments pool=web" {
		t.Errorf("text %q", text)
	}
}

func TestWhoCannotSignIsInvalid(t *testing.T) {
	for _, who := range []string{"", "two words", "größe", "a\n"} {
		if _, err := permissionsOf(who, "1", []cloud.Grant{cloudtest.Grant("TCP 30080 10.8.0.0/16")}); !errors.Is(err, cloud.ErrInvalid) {
			t.Errorf("%q: error %v", who, err)
		}
	}
}

func TestErrorCodesHaveTheirKinds(t *testing.T) {
	for code, kind := range map[string]error{
		"AuthorizationLimitExceed":                       cloud.ErrQuota,
		"AuthorizedGroupRule.LimitExceed":                cloud.ErrInvalid,
		"Throttling":                                     cloud.ErrThrottled,
		"Throttling.User":                                cloud.ErrThrottled,
		"Throttling.Api":                                 cloud.ErrThrottled,
		"Forbidden":                                      cloud.ErrDenied,
		"Forbidden.RAM":                                  cloud.ErrDenied,
		"InvalidAccessKeyId.NotFound":                    cloud.ErrDenied,
		"InvalidSecurityToken.Malformed":                 cloud.ErrDenied,
		"SignatureDoesNotMatch":                          cloud.ErrDenied,
		"InvalidParam.SecurityGroupRuleId":               cloud.ErrStale,
		"InvalidOperation.RuleDuplicate":                 cloud.ErrStale,
		"InvalidOperation.ResourceManagedByCloudProduct": cloud.ErrInvalid,
		"InvalidSecurityGroupId.NotFound":                cloud.ErrInvalid,
		"InvalidParam.PortRange":                         cloud.ErrInvalid,
		"InvalidPrefixListId.NotFound":                   cloud.ErrInvalid,
	} {
		err := classify("ecs:AuthorizeSecurityGroup", sdkerrors.NewServerError(403, `{"Code": "`+code+`", "Message": "said so", "RequestId": "42"}`, ""))
		if !errors.Is(err, kind) || !strings.Contains(err.Error(), code) || !strings.Contains(err.Error(), "request 42") {
			t.Errorf("%s became %v, want %v around it", code, err, kind)
		}
	}
}

func TestUnknownErrorsHaveNoKind(t *testing.T) {
	for _, err := range []error{
		classify("ecs:X", errors.New("connection refused")),
		classify("ecs:X", sdkerrors.NewServerError(500, `{"Code": "InternalError"}`, "")),
		classify("ecs:X", sdkerrors.NewServerError(503, `{"Code": "ServiceUnavailable"}`, "")),
		classify("ecs:X", sdkerrors.NewServerError(400, `{"Code": "Surprise.Invalid"}`, "")),
	} {
		for _, kind := range []error{cloud.ErrInvalid, cloud.ErrUnsupported, cloud.ErrDenied, cloud.ErrQuota, cloud.ErrThrottled, cloud.ErrStale} {
			if err == nil || errors.Is(err, kind) {
				t.Errorf("%v is %v", err, kind)
			}
		}
	}
	if classify("ecs:X", nil) != nil {
		t.Error("no error became one")
	}
}

func TestListedRulesAreReadForWhatTheyAdmit(t *testing.T) {
	v4 := func(protocol, ports string) ecs.Permission {
		return ecs.Permission{IpProtocol: protocol, PortRange: ports, SourceCidrIp: "10.8.0.7/16", Policy: "Accept"}
	}
	with := func(p ecs.Permission, change func(*ecs.Permission)) ecs.Permission { change(&p); return p }
	for _, c := range []struct {
		in         ecs.Permission
		want, peer string
	}{
		{v4("TCP", "30080/30089"), "TCP 30080-30089 10.8.0.0/16", ""},
		{v4("udp", "53/53"), "UDP 53 10.8.0.0/16", ""},
		{v4("6", "53/53"), "TCP 53 10.8.0.0/16", ""},
		{v4("132", "30080/30080"), "SCTP 0-65535 10.8.0.0/16", ""},
		{v4("ALL", "-1/-1"), "ALL 0-65535 10.8.0.0/16", ""},
		{v4("ICMP", "-1/-1"), "ICMP 0-65535 10.8.0.0/16", ""},
		{v4("GRE", "-1/-1"), "GRE 0-65535 10.8.0.0/16", ""},
		{v4("TCP", "-1/-1"), "TCP 0-65535 10.8.0.0/16", ""},
		{v4("TCP", ""), "TCP 0-65535 10.8.0.0/16", ""}, // a list of ports, which the SDK hides
		{ecs.Permission{IpProtocol: "TCP", PortRange: "1/65535", SourceCidrIp: "192.0.2.7"}, "TCP 1-65535 192.0.2.7/32", ""},
		{ecs.Permission{IpProtocol: "TCP", PortRange: "30080/30080", Ipv6SourceCidrIp: "2001:db8::7/48"}, "TCP 30080 2001:db8::/48", ""},
		{ecs.Permission{IpProtocol: "TCP", PortRange: "30080/30080", Ipv6SourceCidrIp: "2001:db8::7"}, "TCP 30080 2001:db8::7/128", ""},
		{ecs.Permission{IpProtocol: "TCP", PortRange: "30080/30080", SourceGroupId: "sg-1"}, "TCP 30080 group", "sg-1"},
		{ecs.Permission{IpProtocol: "TCP", PortRange: "30080/30080", SourcePrefixListId: "pl-1"}, "TCP 30080 group", "pl-1"},
		{with(v4("TCP", "30080/30080"), func(p *ecs.Permission) { p.DestCidrIp = "192.0.2.0/24" }), "TCP 30080 group", "10.8.0.7/16 to 192.0.2.0/24"},
		{with(v4("TCP", "30080/30080"), func(p *ecs.Permission) { p.SourcePortRange = "53/53" }), "TCP 30080 group", "10.8.0.7/16 from source ports 53/53"},
		{with(v4("TCP", "30080/30080"), func(p *ecs.Permission) { p.DestCidrIp, p.SourcePortRange = "0.0.0.0/0", "-1/-1" }), "TCP 30080 10.8.0.0/16", ""},
	} {
		got, err := ruleOf(c.in)
		if err != nil || cloudtest.Spell(got.Rule) != c.want || got.Peer != c.peer || got.Owner != "" || got.Drop || got.Priority != 1 {
			t.Errorf("%+v, %v; want %s %s", got, err, c.want, c.peer)
		}
	}
}

func TestDropsAndPrioritiesAreRead(t *testing.T) {
	r := cloudtest.Parse("TCP 30080 10.8.0.0/16")
	drop := ecs.Permission{IpProtocol: "TCP", PortRange: "30080/30080", SourceCidrIp: "10.8.0.0/16", Policy: "Drop", Priority: "7", Description: signature(owner, r, "")}
	got, err := ruleOf(drop)
	if err != nil || !got.Drop || got.Priority != 7 || got.Owner != "" {
		t.Errorf("%+v, %v", got, err)
	}
	drop.Policy = "accept"
	if got, err = ruleOf(drop); err != nil || got.Drop || got.Owner != owner {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestGrantsAreSpelledAsECSTakesThem(t *testing.T) {
	grants := []cloud.Grant{
		cloudtest.Grant("TCP 30080-30089 10.8.0.7/16"), cloudtest.Grant("UDP 53 2001:db8::7/48"), cloudtest.PeerGrant("TCP 30080 group", "sg-1"),
	}
	got, err := permissionsOf(owner, "50", grants)
	if err != nil || len(got) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	for i, want := range []ecs.AuthorizeSecurityGroupPermissions{
		{IpProtocol: "tcp", PortRange: "30080/30089", SourceCidrIp: "10.8.0.0/16"},
		{IpProtocol: "udp", PortRange: "53/53", Ipv6SourceCidrIp: "2001:db8::/48"},
		{IpProtocol: "tcp", PortRange: "30080/30080", SourceGroupId: "sg-1"},
	} {
		want.Policy, want.Priority, want.NicType = "accept", "50", "intranet"
		want.Description = signature(owner, grants[i].Rule, grants[i].Peer)
		if got[i] != want {
			t.Errorf("%+v\n want %+v", got[i], want)
		}
	}
}

func TestSCTPIsNoProtocolOfSecurityGroups(t *testing.T) {
	_, err := permissionsOf(owner, "1", []cloud.Grant{cloudtest.Grant("SCTP 30080 10.8.0.0/16")})
	if !errors.Is(err, cloud.ErrUnsupported) {
		t.Errorf("error %v", err)
	}
}

func TestMoreThanABatchIsNotSent(t *testing.T) {
	_, err := permissionsOf(owner, "1", make([]cloud.Grant, batch+1))
	if !errors.Is(err, cloud.ErrInvalid) {
		t.Errorf("error %v", err)
	}
}

func TestDescriptionsAreSpelledAsECSTakesThem(t *testing.T) {
	s := signature(owner, cloudtest.Parse("TCP 30080 10.8.0.0/16"), "")
	for in, want := range map[string]string{
		"portreeve team=payments pool=web": s + " portreeve team=payments pool=web",
		"größe \"x\"\n支付 \U0001f980":       s + " größe _x__支付 _",
		"http://example.com":               s + " http://example.com", // not at the beginning
		"":                                 s,
	} {
		if got := describe(s, in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	if got := describe(s, strings.Repeat("ö", 600)); utf8.RuneCountInString(got) != descriptionLimit || !strings.HasSuffix(got, "...") {
		t.Errorf("%d characters: %q", utf8.RuneCountInString(got), got)
	}
}

func TestAMalformedSourceIsAnErrorAndNotAnotherKindOfSource(t *testing.T) {
	for _, p := range []ecs.Permission{
		{IpProtocol: "tcp", SourceCidrIp: "10.8.0.0-10.8.0.9"},
		{IpProtocol: "tcp", SourceCidrIp: "10.8.0.0/16", Priority: "high"},
	} {
		if _, err := ruleOf(p); err == nil {
			t.Errorf("%+v: no error", p)
		}
	}
}
