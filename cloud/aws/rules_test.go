package aws

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
)

func TestTheSignatureIsTheOneThatCloudtestKnows(t *testing.T) {
	if ownerTag != cloudtest.OwnerTag {
		t.Errorf("aws signs with %q, cloudtest with %q", ownerTag, cloudtest.OwnerTag)
	}
}

func TestErrorCodesHaveTheirKinds(t *testing.T) {
	for code, kind := range map[string]error{
		"RulesPerSecurityGroupLimitExceeded":  cloud.ErrQuota,
		"RequestLimitExceeded":                cloud.ErrThrottled,
		"Throttling":                          cloud.ErrThrottled,
		"UnauthorizedOperation":               cloud.ErrDenied,
		"AuthFailure":                         cloud.ErrDenied,
		"InvalidPermission.Duplicate":         cloud.ErrStale,
		"InvalidPermission.NotFound":          cloud.ErrStale,
		"InvalidSecurityGroupRuleId.NotFound": cloud.ErrStale,
		"InvalidGroup.NotFound":               cloud.ErrInvalid,
		"InvalidParameterValue":               cloud.ErrInvalid,
	} {
		api := &smithy.GenericAPIError{Code: code, Message: "said so"}
		err := classify(fmt.Errorf("operation error EC2: %w", api))
		if !errors.Is(err, kind) || !errors.Is(err, error(api)) {
			t.Errorf("%s became %v, want %v around it", code, err, kind)
		}
	}
}

func TestUnknownErrorsHaveNoKind(t *testing.T) {
	broken := errors.New("connection refused")
	for _, err := range []error{broken, &smithy.GenericAPIError{Code: "InternalError"}} {
		if classify(err) != err {
			t.Errorf("%v became %v", err, classify(err))
		}
	}
	if classify(nil) != nil {
		t.Error("no error became one")
	}
}

func TestListedRulesAreReadForWhatTheyAdmit(t *testing.T) {
	cidr := func(protocol string, from, to int32, v4, v6 string) types.SecurityGroupRule {
		r := types.SecurityGroupRule{IpProtocol: sdk.String(protocol), FromPort: sdk.Int32(from), ToPort: sdk.Int32(to)}
		if v4 != "" {
			r.CidrIpv4 = sdk.String(v4)
		}
		if v6 != "" {
			r.CidrIpv6 = sdk.String(v6)
		}
		return r
	}
	prefixList := cidr("tcp", 30080, 30080, "", "")
	prefixList.PrefixListId = sdk.String("pl-1")
	for _, c := range []struct {
		in   types.SecurityGroupRule
		want string
	}{
		{cidr("tcp", 30080, 30089, "10.8.0.0/16", ""), "TCP 30080-30089 10.8.0.0/16"},
		{cidr("17", 30080, 30080, "", "2001:db8::/48"), "UDP 30080 2001:db8::/48"},
		{cidr("132", -1, -1, "10.8.0.0/16", ""), "SCTP 0-65535 10.8.0.0/16"},
		{cidr("132", 30080, 30080, "10.8.0.0/16", ""), "SCTP 0-65535 10.8.0.0/16"},
		{cidr("-1", -1, -1, "0.0.0.0/0", ""), "ALL 0-65535 0.0.0.0/0"},
		{cidr("-1", 0, 0, "0.0.0.0/0", ""), "ALL 0-65535 0.0.0.0/0"},
		{cidr("icmp", 8, -1, "10.0.0.0/8", ""), "ICMP 0-65535 10.0.0.0/8"},
		{cidr("tcp", 0, 65535, "10.0.0.0/8", ""), "TCP 0-65535 10.0.0.0/8"},
		{prefixList, "TCP 30080 group"},
	} {
		got, err := ruleOf(c.in)
		if err != nil || cloudtest.Spell(got.Rule) != c.want {
			t.Errorf("%s, %v; want %s", cloudtest.Spell(got.Rule), err, c.want)
		}
	}
}

func TestGrantsOfOneRangeShareAPermission(t *testing.T) {
	got, err := permissionsOf([]cloud.Grant{
		cloudtest.Grant("TCP 30080 10.8.0.7/16"), cloudtest.Grant("TCP 30080 2001:db8::/48"),
		cloudtest.Grant("TCP 30081 10.8.0.0/16"), cloudtest.Grant("UDP 30080 10.8.0.0/16"), cloudtest.Grant("TCP 30080 10.9.0.0/16"),
	})
	if err != nil || len(got) != 3 || len(got[0].IpRanges) != 2 || len(got[0].Ipv6Ranges) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if cidr := *got[0].IpRanges[0].CidrIp; cidr != "10.8.0.0/16" {
		t.Errorf("source %s is not masked", cidr)
	}
}

func TestSCTPIsRefusedBecauseEC2WouldOpenAllItsPorts(t *testing.T) {
	_, err := permissionsOf([]cloud.Grant{cloudtest.Grant("SCTP 30080 10.8.0.0/16")})
	if !errors.Is(err, cloud.ErrUnsupported) {
		t.Errorf("error %v", err)
	}
}

func TestDescriptionsAreSpelledAsEC2TakesThem(t *testing.T) {
	for in, want := range map[string]string{
		"portreeve team=payments pool=web": "portreeve team=payments pool=web",
		"größe \"x\"\n":                    "gr__e _x__",
		strings.Repeat("x", 300):           strings.Repeat("x", 252) + "...",
		"":                                 "",
	} {
		if got := describe(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestAMalformedSourceIsAnErrorAndNotAnotherKindOfSource(t *testing.T) {
	_, err := ruleOf(types.SecurityGroupRule{IpProtocol: sdk.String("tcp"), CidrIpv4: sdk.String("10.8.0.0")})
	if err == nil {
		t.Error("no error")
	}
}
