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
		"InvalidPrefixListId.NotFound":        cloud.ErrInvalid,
		"InvalidPrefixListID.NotFound":        cloud.ErrInvalid,
		"InvalidIdentityToken":                cloud.ErrDenied,
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

func TestGroupsHavePermissionsOfTheirOwn(t *testing.T) {
	got, err := permissionsOf([]cloud.Grant{
		cloudtest.PeerGrant("TCP 30080 group", "sg-1"), cloudtest.Grant("TCP 30080 10.8.0.0/16"), cloudtest.PeerGrant("TCP 30080 group", "sg-2"),
	})
	if err != nil || len(got) != 2 || len(got[0].UserIdGroupPairs) != 2 || len(got[0].IpRanges) != 0 || len(got[1].IpRanges) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
}

func TestAGrantHasExactlyOneSource(t *testing.T) {
	both := cloudtest.Grant("TCP 30080 10.8.0.0/16")
	both.Peer = "sg-1"
	for name, g := range map[string]cloud.Grant{"both": both, "none": cloudtest.Grant("TCP 30080 group")} {
		if _, err := permissionsOf([]cloud.Grant{g}); !errors.Is(err, cloud.ErrInvalid) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestAPeerIsReadByItsIDAndTheAccountIfThatIsNotOurs(t *testing.T) {
	for name, c := range map[string]struct {
		in   types.SecurityGroupRule
		want string
	}{
		"our VPC": {types.SecurityGroupRule{ReferencedGroupInfo: &types.ReferencedSecurityGroup{GroupId: sdk.String("sg-1")}}, "sg-1"},
		"a peered VPC of another account": {types.SecurityGroupRule{GroupOwnerId: sdk.String("123456789012"), ReferencedGroupInfo: &types.ReferencedSecurityGroup{
			GroupId: sdk.String("sg-2"), UserId: sdk.String("999988887777"), VpcId: sdk.String("vpc-2"),
			VpcPeeringConnectionId: sdk.String("pcx-1"), PeeringStatus: sdk.String("active"),
		}}, "999988887777/sg-2"},
		"a peered VPC that is gone": {types.SecurityGroupRule{ReferencedGroupInfo: &types.ReferencedSecurityGroup{
			GroupId: sdk.String("sg-3"), PeeringStatus: sdk.String("deleted"),
		}}, "sg-3"},
		"a prefix list": {types.SecurityGroupRule{PrefixListId: sdk.String("pl-1")}, "pl-1"},
	} {
		c.in.IpProtocol, c.in.FromPort, c.in.ToPort = sdk.String("tcp"), sdk.Int32(30080), sdk.Int32(30080)
		got, err := ruleOf(c.in)
		if err != nil || got.Peer != c.want || got.Source.IsValid() {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestTheCallThatWasRefusedNamesThePermission(t *testing.T) {
	call := func(service, operation string, err error) error {
		return &smithy.OperationError{ServiceID: service, OperationName: operation, Err: err}
	}
	denied := &smithy.GenericAPIError{Code: "AccessDenied", Message: "not authorized to perform: ec2:Lie"}
	for want, err := range map[string]error{
		"missing permission ec2:DescribeSecurityGroups:": call("EC2", "DescribeSecurityGroups", denied),
		"missing permission sts:AssumeRole, and":         call("EC2", "DescribeSecurityGroups", fmt.Errorf("get identity: %w", call("STS", "AssumeRole", denied))),
	} {
		if got := classify(err); !errors.Is(got, cloud.ErrDenied) || !strings.Contains(got.Error(), want) {
			t.Errorf("%v, want %q", got, want)
		}
	}
	if got := classify(denied); !errors.Is(got, cloud.ErrDenied) || strings.Contains(got.Error(), "permission") {
		t.Errorf("of no known call: %v", got)
	}
}

func TestAccountsAreToldByTheirCredentials(t *testing.T) {
	for name, c := range map[string]struct {
		in   sdk.Credentials
		want string
	}{
		"a role's session":    {sdk.Credentials{AccessKeyID: "ASIA1", SessionToken: "t", AccountID: "111122223333"}, "111122223333"},
		"a lasting key":       {sdk.Credentials{AccessKeyID: "AKIA1"}, "AKIA1"},
		"an instance's":       {sdk.Credentials{AccessKeyID: "ASIA2", SessionToken: "t"}, ""},
		"its renewed session": {sdk.Credentials{AccessKeyID: "ASIA3", SessionToken: "u"}, ""},
		"a key with a number": {sdk.Credentials{AccessKeyID: "AKIA1", AccountID: "111122223333"}, "111122223333"},
	} {
		if got := accountOf(c.in); got != c.want {
			t.Errorf("%s draws from the buckets of %q, want %q", name, got, c.want)
		}
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
