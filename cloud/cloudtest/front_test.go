package cloudtest

import (
	"encoding/xml"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/portreeve/portreeve/cloud"
)

// ask sends a form to the front, past the signature, and returns the error code.
func ask(t *testing.T, e *EC2, form string) string {
	t.Helper()
	values, err := url.ParseQuery(form)
	if err != nil {
		t.Fatal(err)
	}
	f := newForm(values)
	handle := handlers[f.required("Action")]
	_, err = handle(e, f)
	var refused *Error
	if errors.As(err, &refused) {
		return refused.Code
	}
	return ""
}

func TestFormsAreReadAsStrictlyAsTheVendorReadsThem(t *testing.T) {
	const rule = "Action=AuthorizeSecurityGroupIngress&GroupId=sg-1&IpPermissions.1.IpProtocol=tcp&IpPermissions.1.FromPort=30080&IpPermissions.1.ToPort=30080"
	const source = "&IpPermissions.1.IpRanges.1.CidrIp=10.8.0.0/16"
	for form, code := range map[string]string{
		rule + source:                        "",
		rule:                                 "MissingParameter",
		rule + source + "&IpPermision.2.X=1": "UnknownParameter",
		rule + source + "&IpPermissions.1.IpRanges.2.CidrIp=10.8.9.9/16":         "InvalidParameterValue", // the same once masked
		rule + "&IpPermissions.1.IpRanges.1.CidrIp=2001:db8::/48":                "InvalidParameterValue",
		rule + "&IpPermissions.1.IpRanges.1.CidrIp=10.8.0.0":                     "InvalidParameterValue",
		rule + source + "&IpPermissions.1.IpRanges.1.Description=a%22b":          "InvalidParameterValue",
		strings.Replace(rule, "sg-1", "sg-2", 1) + source:                        "InvalidGroup.NotFound",
		strings.Replace(rule, "sg-1", "web", 1) + source:                         "InvalidGroupId.Malformed",
		strings.Replace(rule, "ToPort=30080", "ToPort=30079", 1) + source:        "InvalidParameterValue",
		strings.Replace(rule, "Protocol=tcp", "Protocol=sctp", 1) + source:       "InvalidParameterValue", // 132 it must be
		rule + "&IpPermissions.1.Groups.1.GroupId=sg-1":                          "",
		rule + "&IpPermissions.1.Groups.1.GroupId=sg-9":                          "InvalidGroup.NotFound",
		rule + "&IpPermissions.1.PrefixListIds.1.PrefixListId=pl-1":              "",
		rule + "&IpPermissions.1.PrefixListIds.1.PrefixListId=pl-2":              "InvalidPrefixListId.NotFound",
		"Action=GetManagedPrefixListEntries&PrefixListId=pl-1&MaxResults=100":    "",
		"Action=GetManagedPrefixListEntries&PrefixListId=pl-1&MaxResults=101":    "InvalidParameterValue",
		"Action=GetManagedPrefixListEntries&PrefixListId=lists":                  "InvalidPrefixListId.Malformed",
		"Action=DescribeSecurityGroups&Filter.1.Name=tag:a&Filter.1.Value.1=b":   "",
		rule + source + "&TagSpecification.1.ResourceType=instance":              "InvalidParameterValue",
		"Action=RevokeSecurityGroupIngress&GroupId=sg-1":                         "MissingParameter",
		"Action=RevokeSecurityGroupIngress&GroupId=sg-1&SecurityGroupRuleId.1=x": "InvalidSecurityGroupRuleId.NotFound",
		"Action=DescribeSecurityGroupRules&MaxResults=4":                         "InvalidParameterValue",
		"Action=DescribeSecurityGroupRules&MaxResults=5&NextToken=zzzzz":         "InvalidParameterValue",
		"Action=DescribeSecurityGroupRules&Filter.1.Name=colour":                 "InvalidParameterValue",
		"Action=DescribeSecurityGroups&GroupId.1=sg-1":                           "",
		"Action=DescribeSecurityGroups&GroupId.1=sg-9":                           "InvalidGroup.NotFound",
	} {
		e := NewEC2(Options{})
		e.AddGroup("sg-1")
		e.AddPrefixList("pl-1", 5)
		if got := ask(t, e, form); got != code {
			t.Errorf("%s\n answered %q, want %q", form, got, code)
		}
	}
}

func TestSCTPOpensAllItsPortsAsOnEC2(t *testing.T) {
	e := NewEC2(Options{})
	e.AddGroup("sg-1")
	if code := ask(t, e, "Action=AuthorizeSecurityGroupIngress&GroupId=sg-1&IpPermissions.1.IpProtocol=132&IpPermissions.1.FromPort=30080&IpPermissions.1.ToPort=30080&IpPermissions.1.IpRanges.1.CidrIp=10.8.0.0/16"); code != "" {
		t.Fatal(code)
	}
	if have := e.Rules("sg-1"); Spell(have[0].Rule) != "SCTP 0-65535 10.8.0.0/16" {
		t.Errorf("stored %v", have)
	}
}

func TestAnUnsignedRequestIsAnsweredInTheVendorsShape(t *testing.T) {
	server := httptest.NewServer(NewEC2(Options{}))
	t.Cleanup(server.Close)
	answer, err := http.PostForm(server.URL, url.Values{"Action": {actionDescribeRules}})
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var got errorXML
	if err := xml.NewDecoder(answer.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != http.StatusForbidden || got.Code != "MissingAuthenticationToken" {
		t.Errorf("status %d, %+v", answer.StatusCode, got)
	}
}

func TestBucketsRefillWithTheClock(t *testing.T) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	e := NewEC2(Options{Clock: func() time.Time { return now }})
	e.AddGroup("sg-1")
	p := e.Provider()
	for i := range 50 {
		if err := p.Revoke(t.Context(), "sg-1", nil); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	if err := p.Revoke(t.Context(), "sg-1", nil); !errors.Is(err, cloud.ErrThrottled) {
		t.Fatalf("call 51: %v", err)
	}
	if err := p.Authorize(t.Context(), "sg-1", owner, nil); err != nil {
		t.Errorf("another action shares the bucket: %v", err)
	}
	now = now.Add(200 * time.Millisecond)
	if err := p.Revoke(t.Context(), "sg-1", nil); err != nil {
		t.Errorf("a fifth of a second later: %v", err)
	}
}
