package aws

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// Tagged implements cloud.Directory. No tags at all are ErrInvalid: every group of the
// account would carry them.
func (p *Provider) Tagged(ctx context.Context, tags map[string]string) ([]string, error) {
	if len(tags) == 0 {
		return nil, fmt.Errorf("%w: no tags by which to find security groups", cloud.ErrInvalid)
	}
	var filters []types.Filter
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		filters = append(filters, filter("tag:"+key, literal(tags[key])))
	}
	groups, err := p.groups(ctx, filters)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, g := range groups {
		// What the filter took for a pattern all the same must not widen the wish.
		if carries(g.Tags, tags) {
			out = append(out, sdk.ToString(g.GroupId))
		}
	}
	slices.Sort(out)
	return out, nil
}

// Exists implements cloud.Directory, for groups of the account; those of peered VPCs in
// other accounts are not listed to us, so one that is written with its account counts as
// there, and EC2 is the judge when a rule is to refer to it.
func (p *Provider) Exists(ctx context.Context, group string) error {
	account, id, foreign := strings.Cut(group, "/")
	if !foreign {
		id = group
	}
	groups, err := p.groups(ctx, []types.Filter{filter("group-id", literal(id))})
	switch {
	case err != nil:
		return err
	case foreign && slices.ContainsFunc(groups, func(g types.SecurityGroup) bool { return sdk.ToString(g.OwnerId) == account }):
		return fmt.Errorf("%w: security group %s is of the firewall's own account; write %s", cloud.ErrInvalid, group, id)
	case !foreign && len(groups) == 0:
		return fmt.Errorf("%w: security group %s does not exist in %s, or belongs to another account; write that before it, as in 123456789012/%s", cloud.ErrInvalid, group, p.region, group)
	}
	return nil
}

// PrefixList implements cloud.Directory. An edit of the list between two pages may mix
// what it holds before and after; the next resolution is whole.
func (p *Provider) PrefixList(ctx context.Context, id string) ([]netip.Prefix, error) {
	pages := ec2.NewGetManagedPrefixListEntriesPaginator(p.client, &ec2.GetManagedPrefixListEntriesInput{
		PrefixListId: sdk.String(id), MaxResults: sdk.Int32(entriesPage),
	})
	var out []netip.Prefix
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("prefix list %s: %w", id, classify(err))
		}
		for _, entry := range page.Entries {
			prefix, err := netip.ParsePrefix(sdk.ToString(entry.Cidr))
			if err != nil {
				return nil, fmt.Errorf("prefix list %s: %w", id, err)
			}
			out = append(out, prefix)
		}
	}
	return rule.Canonical(out), nil
}

// groups lists the groups that pass all filters. It always filters and pages: calls
// that do neither share a smaller bucket.
func (p *Provider) groups(ctx context.Context, filters []types.Filter) ([]types.SecurityGroup, error) {
	pages := ec2.NewDescribeSecurityGroupsPaginator(p.client, &ec2.DescribeSecurityGroupsInput{
		Filters: filters, MaxResults: sdk.Int32(pageSize),
	})
	var out []types.SecurityGroup
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, classify(err)
		}
		out = append(out, page.SecurityGroups...)
	}
	return out, nil
}

func filter(name, value string) types.Filter {
	return types.Filter{Name: sdk.String(name), Values: []string{value}}
}

// wildcards have a meaning in the value of a filter, which a backslash takes away.
var wildcards = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`)

// literal spells a filter's value that stands for nothing but itself.
func literal(value string) string { return wildcards.Replace(value) }

func carries(have []types.Tag, want map[string]string) bool {
	found := 0
	for _, tag := range have {
		if value, ok := want[sdk.ToString(tag.Key)]; ok && value == sdk.ToString(tag.Value) {
			found++
		}
	}
	return found == len(want)
}
