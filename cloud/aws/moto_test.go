package aws_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go/middleware"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/aws"
	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/internal/rule"
)

// motoDiffers are the cases of the conformance suite in which moto does not do
// what EC2 does. Checked against moto 5.2; remove an entry to see the failure.
var motoDiffers = map[string]string{
	"a prefix list that does not exist is invalid and not empty":                              "moto answers with no entries; EC2 says InvalidPrefixListId.NotFound (API reference, error codes)",
	"a rule for a peer that is there already makes authorize stale and another peer does not": "moto compares the descriptions of rules for groups; to EC2 a description is no part of a rule (API reference, InvalidPermission.Duplicate)",
	"a backslash in a tag's value is itself":                                                  "moto takes a backslash before * and ? only; EC2 also before another one (EC2 user guide, filtering resources)",
	"a full group is a quota error and families counted apart fill apart":                     "moto counts IPv4, IPv6 and group sources together against 60; EC2 counts the families apart (Amazon VPC quotas)",
}

// Other differences, which no case depends on:
//
//   - A batch is not atomic: of a call whose second permission is a duplicate
//     the first stays applied. Sync lists again after each refusal, so it does
//     not care.
//   - The answer to Authorize lists only the last permission's rules. The
//     provider does not read it.
//   - DescribeSecurityGroupRules ignores MaxResults and gives everything in one
//     page. The front of cloudtest pages.
//   - The weight of a prefix list (its MaxEntries) is not counted.
//   - DescribeSecurityGroups and GetManagedPrefixListEntries don't page either.
//   - Signatures are not verified. The front of cloudtest verifies them.

// TestMotoConformance runs the suite against an independent implementation of
// EC2's API.
func TestMotoConformance(t *testing.T) {
	offline(t, "test", "test")
	endpoint := startMoto(t)
	client, groups := rawClient(t, endpoint), 0
	cloudtest.Conformance(t, func(t *testing.T) cloudtest.Backend {
		m := &moto{t: t, client: client, groups: &groups}
		return cloudtest.Backend{
			Provider: open(t, endpoint), NewGroup: m.newGroup, Seed: m.seed, Rules: m.rules,
			Tag: m.tag, NewPrefixList: m.newPrefixList, Differs: motoDiffers,
		}
	})
}

// startMoto serves moto on a free port of the loopback until the test ends.
func startMoto(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("moto_server")
	if err != nil {
		t.Skip("SKIPPED, second opinion missing: moto_server is not on PATH (pip install 'moto[server]')")
	}
	ctx, stop := context.WithCancel(context.Background())
	// A port that we had looked for would be anybody's by the time moto is up.
	server := exec.CommandContext(ctx, path, "-H", "127.0.0.1", "-p", "0")
	says, err := server.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = server.Wait() // killed: its status says only that
	})
	listens := make(chan string, 1)
	go func() {
		for lines := bufio.NewScanner(says); lines.Scan(); {
			if said := motoListens.FindStringSubmatch(lines.Text()); said != nil {
				listens <- said[1]
				break
			}
		}
		_, _ = io.Copy(io.Discard, says) // or moto would wait for a reader
	}()
	select {
	case endpoint := <-listens:
		return endpoint
	case <-time.After(time.Minute):
		t.Fatal("moto_server does not listen")
		return ""
	}
}

// motoListens is what moto says when it has bound its port.
var motoListens = regexp.MustCompile(`Running on (http://127\.0\.0\.1:[0-9]+)`)

func rawClient(t *testing.T, endpoint string) *ec2.Client {
	t.Helper()
	cfg, err := config.LoadDefaultConfig(t.Context(), config.WithRegion("eu-central-1"), config.WithAPIOptions([]func(*middleware.Stack) error{aws.ReadBody}))
	if err != nil {
		t.Fatal(err)
	}
	return ec2.NewFromConfig(cfg, func(o *ec2.Options) { o.BaseEndpoint = sdk.String(endpoint) })
}

// moto makes and reads groups with the SDK, not with the provider under test. Only the
// bodies are sent in the provider's way: moto answers quickly.
type moto struct {
	t      *testing.T
	client *ec2.Client
	groups *int // names every group of the account differently
}

func (m *moto) must(err error) {
	if err != nil {
		m.t.Helper()
		m.t.Fatal(err)
	}
}

func (m *moto) newGroup() string {
	*m.groups++
	name := fmt.Sprintf("conformance-%d", *m.groups)
	out, err := m.client.CreateSecurityGroup(m.t.Context(), &ec2.CreateSecurityGroupInput{
		GroupName: sdk.String(name), Description: sdk.String(name),
	})
	m.must(err)
	return *out.GroupId
}

func (m *moto) seed(group string, rules ...cloud.Rule) {
	for _, r := range rules {
		in := &ec2.AuthorizeSecurityGroupIngressInput{GroupId: sdk.String(group)}
		p := types.IpPermission{IpProtocol: sdk.String(strings.ToLower(string(r.Protocol)))}
		if r.Protocol == cloud.AnyProtocol {
			p.IpProtocol = sdk.String("-1")
		} else {
			p.FromPort, p.ToPort = sdk.Int32(int32(r.Ports.First)), sdk.Int32(int32(r.Ports.Last))
		}
		switch {
		case strings.HasPrefix(r.Peer, "pl-"):
			p.PrefixListIds = []types.PrefixListId{{PrefixListId: sdk.String(r.Peer), Description: sdk.String(r.Description)}}
		case r.Peer != "":
			p.UserIdGroupPairs = []types.UserIdGroupPair{{GroupId: sdk.String(r.Peer), Description: sdk.String(r.Description)}}
		case !r.Source.IsValid():
			p.UserIdGroupPairs = []types.UserIdGroupPair{{GroupId: sdk.String(m.newGroup())}}
		case r.Source.Addr().Is4():
			p.IpRanges = []types.IpRange{{CidrIp: sdk.String(r.Source.String()), Description: sdk.String(r.Description)}}
		default:
			p.Ipv6Ranges = []types.Ipv6Range{{CidrIpv6: sdk.String(r.Source.String()), Description: sdk.String(r.Description)}}
		}
		in.IpPermissions = []types.IpPermission{p}
		if r.Owner != "" {
			in.TagSpecifications = []types.TagSpecification{{
				ResourceType: types.ResourceTypeSecurityGroupRule,
				Tags:         []types.Tag{{Key: sdk.String(cloudtest.OwnerTag), Value: sdk.String(r.Owner)}},
			}}
		}
		_, err := m.client.AuthorizeSecurityGroupIngress(m.t.Context(), in)
		m.must(err)
	}
}

func (m *moto) tag(group string, tags map[string]string) {
	in := &ec2.CreateTagsInput{Resources: []string{group}}
	for key, value := range tags {
		in.Tags = append(in.Tags, types.Tag{Key: sdk.String(key), Value: sdk.String(value)})
	}
	_, err := m.client.CreateTags(m.t.Context(), in)
	m.must(err)
}

func (m *moto) newPrefixList(room int, entries ...string) string {
	in := &ec2.CreateManagedPrefixListInput{
		PrefixListName: sdk.String("conformance"), AddressFamily: sdk.String("IPv4"), MaxEntries: sdk.Int32(int32(room)),
	}
	for _, entry := range entries {
		if strings.Contains(entry, ":") {
			in.AddressFamily = sdk.String("IPv6")
		}
		in.Entries = append(in.Entries, types.AddPrefixListEntry{Cidr: sdk.String(entry)})
	}
	out, err := m.client.CreateManagedPrefixList(m.t.Context(), in)
	m.must(err)
	return *out.PrefixList.PrefixListId
}

func (m *moto) rules(group string) []cloud.Rule {
	out, err := m.client.DescribeSecurityGroupRules(m.t.Context(), &ec2.DescribeSecurityGroupRulesInput{
		Filters: []types.Filter{{Name: sdk.String("group-id"), Values: []string{group}}},
	})
	m.must(err)
	var rules []cloud.Rule
	for _, r := range out.SecurityGroupRules {
		if sdk.ToBool(r.IsEgress) {
			continue
		}
		read := cloud.Rule{ID: sdk.ToString(r.SecurityGroupRuleId), Description: sdk.ToString(r.Description)}
		read.Protocol = rule.Protocol(strings.ToUpper(*r.IpProtocol))
		read.Ports = rule.PortRange{First: 0, Last: 65535}
		if *r.IpProtocol == "-1" {
			read.Protocol = cloud.AnyProtocol
		} else {
			read.Ports = rule.PortRange{First: uint16(*r.FromPort), Last: uint16(*r.ToPort)}
		}
		if cidr := sdk.ToString(r.CidrIpv4) + sdk.ToString(r.CidrIpv6); cidr != "" {
			read.Source = netip.MustParsePrefix(cidr).Masked()
		}
		if read.Peer = sdk.ToString(r.PrefixListId); r.ReferencedGroupInfo != nil {
			read.Peer = sdk.ToString(r.ReferencedGroupInfo.GroupId)
		}
		for _, t := range r.Tags {
			if *t.Key == cloudtest.OwnerTag {
				read.Owner = *t.Value
			}
		}
		rules = append(rules, read)
	}
	slices.SortFunc(rules, func(a, b cloud.Rule) int { return rule.CompareRules(a.Rule, b.Rule) })
	return rules
}
