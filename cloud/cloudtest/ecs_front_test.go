package cloudtest

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/portreeve/portreeve/cloud"
)

// askECS sends parameters to the front, past the signature, and returns the error code.
func askECS(t *testing.T, e *ECS, form string) string {
	t.Helper()
	values, err := url.ParseQuery(form)
	if err != nil {
		t.Fatal(err)
	}
	f := newForm(values)
	f.api = ecsForm
	f.text("RegionId")
	_, err = ecsHandlers[f.required("Action")](e, f)
	var refused *Error
	if errors.As(err, &refused) {
		return refused.Code
	}
	return ""
}

func TestECSParametersAreReadAsStrictlyAsTheVendorReadsThem(t *testing.T) {
	const group = "Action=AuthorizeSecurityGroup&SecurityGroupId=sg-1"
	const rule = group + "&Permissions.1.IpProtocol=tcp&Permissions.1.PortRange=30080/30080"
	const source = "&Permissions.1.SourceCidrIp=10.8.0.0/16"
	const list = "Action=DescribeSecurityGroupAttribute&SecurityGroupId=sg-1"
	icmp := strings.NewReplacer("tcp", "icmp", "30080/30080", "-1/-1")
	for form, code := range map[string]string{
		rule + source: "",
		rule + "&Permissions.1.SourceCidrIp=192.0.2.7":                           "", // one address
		rule + "&Permissions.1.Ipv6SourceCidrIp=2001:db8::/48":                   "",
		rule + "&Permissions.1.SourceGroupId=sg-2":                               "",
		rule + "&Permissions.1.SourcePrefixListId=pl-1":                          "",
		rule + source + "&Permissions.1.SourceGroupId=sg-9":                      "", // the prefix counts
		rule + source + "&Permissions.1.Policy=DROP&Permissions.1.Priority=100":  "",
		icmp.Replace(rule) + source:                                              "",
		rule:                                                                     "MissingParameter.Source",
		group:                                                                    "InvalidParam.Permissions",
		rule + source + "&Permision.1.X=1":                                       "UnsupportedParameter",
		rule + source + "&Permissions.1.Ipv6SourceCidrIp=2001:db8::/48":          "InvalidParam.SourceIp",
		rule + "&Permissions.1.SourceCidrIp=2001:db8::/48":                       "InvalidParam.SourceCidrIp",
		rule + "&Permissions.1.SourceCidrIp=10.8.0":                              "InvalidParam.SourceCidrIp",
		rule + "&Permissions.1.Ipv6SourceCidrIp=10.8.0.0/16":                     "InvalidParam.Ipv6SourceCidrIp",
		icmp.Replace(rule) + "&Permissions.1.Ipv6SourceCidrIp=2001:db8::/48":     "InvalidParam.Ipv4ProtocolConflictWithIpv6Address",
		rule + "&Permissions.1.SourceGroupId=sg-9":                               "InvalidSourceGroupId.NotFound",
		rule + "&Permissions.1.SourceGroupId=sg-1":                               "InvalidParamter.Conflict",
		rule + "&Permissions.1.SourcePrefixListId=pl-9":                          "InvalidPrefixListId.NotFound",
		rule + source + "&Permissions.1.Policy=maybe":                            "InvalidPolicy.Malformed",
		rule + source + "&Permissions.1.Priority=0":                              "InvalidPriority.ValueNotSupported",
		rule + source + "&Permissions.1.Priority=101":                            "InvalidPriority.ValueNotSupported",
		rule + source + "&Permissions.1.NicType=internet":                        "InvalidNicType.Mismatch",
		rule + source + "&Permissions.1.Description=http://x":                    "InvalidSecurityGroupDiscription.Malformed",
		rule + source + "&Permissions.1.Description=" + strings.Repeat("x", 513): "InvalidSecurityGroupDiscription.Malformed",
		strings.Replace(rule, "tcp", "sctp", 1) + source:                         "InvalidIpProtocol.ValueNotSupported",
		strings.Replace(rule, "30080/30080", "30081/30080", 1) + source:          "InvalidParam.PortRange",
		strings.Replace(rule, "30080/30080", "0/10", 1) + source:                 "InvalidParam.PortRange",
		strings.Replace(rule, "30080/30080", "-1/-1", 1) + source:                "InvalidParam.PortRange",
		strings.Replace(rule, "tcp", "all", 1) + source:                          "OperationDenied",
		strings.Replace(rule, "sg-1", "sg-9", 1) + source:                        "InvalidSecurityGroupId.NotFound",
		strings.Replace(rule, "sg-1", "sg-managed", 1) + source:                  "InvalidOperation.ResourceManagedByCloudProduct",
		rule + source + strings.ReplaceAll(strings.TrimPrefix(rule+source, group), "Permissions.1", "Permissions.2"): "InvalidParam.DuplicatePermissions",
		"Action=RevokeSecurityGroup&SecurityGroupId=sg-1":                                                            "",
		"Action=RevokeSecurityGroup&SecurityGroupId=sg-1&SecurityGroupRuleId.1=x":                                    "InvalidParam.SecurityGroupRuleId",
		"Action=RevokeSecurityGroup&SecurityGroupId=sg-managed&SecurityGroupRuleId.1=x":                              "InvalidOperation.ResourceManagedByCloudProduct",
		strings.Replace(rule, "Authorize", "Revoke", 1) + source:                                                     "", // what is not there is no error
		strings.Replace(rule, "Authorize", "Revoke", 1) + source + "&SecurityGroupRuleId.1=x":                        "InvalidParam.Permissions",
		list:                                    "",
		list + "&MaxResults=9":                  "InvalidParameter",
		list + "&MaxResults=1001":               "InvalidParameter",
		list + "&NextToken=zzzzz":               "InvalidParameter",
		"Action=DescribeSecurityGroupAttribute": "MissingParameter",
		"Action=DescribeSecurityGroupAttribute&SecurityGroupId=sg-managed": "", // may be read
		"Action=DescribeSecurityGroups&MaxResults=101":                     "InvalidParameter",
		"Action=DescribeSecurityGroups&SecurityGroupId=sg-9":               "", // and finds none
		"Action=DescribeSecurityGroups&SecurityGroupIds=sg-1":              "InvalidParameter",
		`Action=DescribeSecurityGroups&SecurityGroupIds=["sg-1"]`:          "",
		"Action=DescribePrefixListAttributes&PrefixListId=pl-1":            "",
		"Action=DescribePrefixListAttributes&PrefixListId=pl-9":            "InvalidPrefixListId.NotFound",
	} {
		e := NewECS(ECSOptions{})
		for _, id := range []string{"sg-1", "sg-2", "sg-managed"} {
			e.AddGroup(id)
		}
		e.Manage("sg-managed")
		e.AddPrefixList("pl-1", 5)
		if got := askECS(t, e, form); got != code {
			t.Errorf("%s\n answered %q, want %q", form, got, code)
		}
	}
}

// signed signs a request as the vendor's page shows it, step by step.
func signed(method string, at time.Time, nonce string, more url.Values) url.Values {
	values := url.Values{
		"Action": {ecsDescribeGroups}, "Version": {ecsVersion}, "Format": {"JSON"}, "RegionId": {"eu-central-1"},
		"AccessKeyId": {"test"}, "SignatureMethod": {"HMAC-SHA1"}, "SignatureVersion": {"1.0"},
		"SignatureNonce": {nonce}, "Timestamp": {at.UTC().Format("2006-01-02T15:04:05Z")},
	}
	for key, value := range more {
		values[key] = value
	}
	mac := hmac.New(sha1.New, []byte("test&"))
	mac.Write([]byte(stringToSign(method, values)))
	values.Set("Signature", base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	return values
}

// The example of "Request syntax and signature method V2 for RPC APIs", as far as it is
// about what is signed.
func TestWhatIsSignedIsSpelledAsTheVendorShows(t *testing.T) {
	got := stringToSign(http.MethodGet, url.Values{"Key": {"a b*c~d/+"}, "Action": {"X"}, "Signature": {"not this"}})
	if want := "GET&%2F&Action%3DX%26Key%3Da%2520b%252Ac~d%252F%252B"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestECSSignaturesAreVerified(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	server := httptest.NewServer(NewECS(ECSOptions{Clock: func() time.Time { return now }}))
	t.Cleanup(server.Close)
	without := func(key string) url.Values {
		v := signed(http.MethodPost, now, "n-"+key, nil)
		v.Del(key)
		return v
	}
	changed := signed(http.MethodPost, now, "n-changed", nil)
	changed.Set("RegionId", "cn-hangzhou")
	for _, c := range []struct {
		name   string
		values url.Values
		status int
		code   string
	}{
		{"good", signed(http.MethodPost, now, "n1", nil), 200, ""},
		{"a nonce again", signed(http.MethodPost, now, "n1", nil), 400, "SignatureNonceUsed"},
		{"late by a quarter", signed(http.MethodPost, now.Add(-15*time.Minute), "n2", nil), 200, ""},
		{"too late", signed(http.MethodPost, now.Add(-15*time.Minute-time.Second), "n3", nil), 400, "InvalidTimeStamp.Expired"},
		{"too early", signed(http.MethodPost, now.Add(15*time.Minute+time.Second), "n4", nil), 400, "InvalidTimeStamp.Expired"},
		{"for another method", signed(http.MethodGet, now, "n5", nil), 400, "SignatureDoesNotMatch"},
		{"changed on the way", changed, 400, "SignatureDoesNotMatch"},
		{"unsigned", without("Signature"), 400, "IncompleteSignature"},
		{"without nonce", without("SignatureNonce"), 400, "IncompleteSignature"},
		{"by a stranger", signed(http.MethodPost, now, "n6", url.Values{"AccessKeyId": {"who"}}), 404, "InvalidAccessKeyId.NotFound"},
		{"an action nobody knows", signed(http.MethodPost, now, "n7", url.Values{"Action": {"Destroy"}}), 403, "InvalidAction"},
		{"another version", signed(http.MethodPost, now, "n8", url.Values{"Version": {"2013-01-10"}}), 400, "InvalidParameter"},
	} {
		answer, err := http.PostForm(server.URL, c.values)
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ RequestID, Code, Message, HostID string }
		err = json.NewDecoder(answer.Body).Decode(&got)
		answer.Body.Close()
		if err != nil || answer.StatusCode != c.status || got.Code != c.code || got.RequestID == "" || (c.code != "") != (got.HostID != "") {
			t.Errorf("%s: status %d, %+v, %v", c.name, answer.StatusCode, got, err)
		}
	}
}

func TestARateThatIsUsedUpComesBackWithTheNextMinute(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 30, 0, time.UTC)
	e := NewECS(ECSOptions{Clock: func() time.Time { return now }, CallsPerMinute: 3})
	e.AddGroup("sg-1")
	p := e.Provider()
	for i := range 3 {
		if _, err := p.List(t.Context(), "sg-1"); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	if _, err := p.List(t.Context(), "sg-1"); !errors.Is(err, cloud.ErrThrottled) {
		t.Fatalf("call 4: %v", err)
	}
	if err := p.Authorize(t.Context(), "sg-1", owner, grants("TCP 30080 10.8.0.0/16")); err != nil {
		t.Errorf("another action shares the rate: %v", err)
	}
	now = now.Add(29 * time.Second)
	if _, err := p.List(t.Context(), "sg-1"); !errors.Is(err, cloud.ErrThrottled) {
		t.Errorf("in the same minute: %v", err)
	}
	now = now.Add(time.Second)
	if _, err := p.List(t.Context(), "sg-1"); err != nil {
		t.Errorf("in the next minute: %v", err)
	}
}

func TestAClientTokenIsGoodForOneRequest(t *testing.T) {
	e := NewECS(ECSOptions{Older: true}) // which says when a rule is written twice
	e.AddGroup("sg-1")
	const rule = "Action=AuthorizeSecurityGroup&SecurityGroupId=sg-1&Permissions.1.IpProtocol=tcp&Permissions.1.PortRange=30080/30080&Permissions.1.SourceCidrIp="
	for _, step := range []struct{ form, code string }{
		{rule + "10.8.0.0/16&ClientToken=a", ""},
		{rule + "10.8.0.0/16&ClientToken=a", ""}, // was done
		{rule + "10.8.0.0/16&ClientToken=b", "InvalidOperation.RuleDuplicate"},
		{rule + "10.9.0.0/16&ClientToken=a", "IdempotentParameterMismatch"},
		{rule + "10.9.0.0/16&ClientToken=b", ""}, // b has not done anything yet
	} {
		if got := askECS(t, e, step.form); got != step.code {
			t.Errorf("%s answered %q, want %q", step.form, got, step.code)
		}
	}
}

func TestTheGroupsOfOneInterfaceShareALimit(t *testing.T) {
	e := NewECS(ECSOptions{RulesTogether: 3})
	e.AddGroup("sg-1")
	e.AddGroup("sg-2")
	p := e.Provider()
	if err := p.Authorize(t.Context(), "sg-1", owner, grants("TCP 30080 10.8.0.0/16", "TCP 30081 10.8.0.0/16")); err != nil {
		t.Fatal(err)
	}
	if err := p.Authorize(t.Context(), "sg-2", owner, grants("TCP 30080 10.8.0.0/16", "TCP 30081 10.8.0.0/16")); !errors.Is(err, cloud.ErrQuota) {
		t.Errorf("the fourth: %v", err)
	}
}
