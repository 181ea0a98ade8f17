package alibaba

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

const (
	// groupsPage is the most that DescribeSecurityGroups gives, and tagLimit the most
	// tags that it compares.
	groupsPage = 100
	tagLimit   = 20
)

// Tagged implements cloud.Directory. The cloud compares keys and values as they are, but
// takes a tag without value for one with any.
func (p *Provider) Tagged(ctx context.Context, tags map[string]string) ([]string, error) {
	if len(tags) == 0 || len(tags) > tagLimit {
		return nil, fmt.Errorf("%w: %d tags to look for; 1 to %d it must be", cloud.ErrInvalid, len(tags), tagLimit)
	}
	wanted := make([]ecs.DescribeSecurityGroupsTag, 0, len(tags))
	for key, value := range tags {
		wanted = append(wanted, ecs.DescribeSecurityGroupsTag{Key: key, Value: value})
	}
	var out []string
	err := pages(func(token string) (string, error) {
		page, err := p.groups(ctx, func(r *ecs.DescribeSecurityGroupsRequest) {
			r.Tag, r.NextToken = &wanted, token
		})
		if err != nil {
			return "", err
		}
		for _, g := range page.SecurityGroups.SecurityGroup {
			if carries(g, tags) {
				out = append(out, g.SecurityGroupId)
			}
		}
		return page.NextToken, nil
	})
	slices.Sort(out)
	return slices.Compact(out), err
}

// Exists implements cloud.Directory.
func (p *Provider) Exists(ctx context.Context, group string) error {
	found, err := p.groups(ctx, func(r *ecs.DescribeSecurityGroupsRequest) { r.SecurityGroupId = group })
	if err == nil && len(found.SecurityGroups.SecurityGroup) == 0 {
		return fmt.Errorf("%w: there is no security group %q in region %s", cloud.ErrInvalid, group, p.client.region)
	}
	return err
}

// carries says whether no tag of the group has another value than asked for.
func carries(g ecs.SecurityGroup, tags map[string]string) bool {
	for _, have := range g.Tags.Tag {
		if want, asked := tags[have.TagKey]; asked && want != have.TagValue {
			return false
		}
	}
	return true
}

func (p *Provider) groups(ctx context.Context, ask func(*ecs.DescribeSecurityGroupsRequest)) (*ecs.DescribeSecurityGroupsResponse, error) {
	return call(ctx, p.client, func() *ecs.DescribeSecurityGroupsRequest {
		r := ecs.CreateDescribeSecurityGroupsRequest()
		r.MaxResults = requests.NewInteger(groupsPage)
		ask(r)
		return r
	}, (*ecs.Client).DescribeSecurityGroups)
}

// PrefixList implements cloud.Directory.
func (p *Provider) PrefixList(ctx context.Context, id string) ([]netip.Prefix, error) {
	list, err := call(ctx, p.client, func() *ecs.DescribePrefixListAttributesRequest {
		r := ecs.CreateDescribePrefixListAttributesRequest()
		r.PrefixListId = id
		return r
	}, (*ecs.Client).DescribePrefixListAttributes)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, entry := range list.Entries.Entry {
		prefix, err := parseSource(entry.Cidr)
		if err != nil {
			return nil, fmt.Errorf("prefix list %s: %w", id, err)
		}
		out = append(out, prefix)
	}
	return rule.Canonical(out), nil
}
