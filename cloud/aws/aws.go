package aws

import (
	"context"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

const (
	// callTimeout bounds one attempt of a call.
	callTimeout = 10 * time.Second
	// attempts and maxBackoff keep the SDK's retries short: the workqueue retries
	// with jitter, and knows what else there is to do meanwhile.
	attempts   = 3
	maxBackoff = 500 * time.Millisecond
	// pageSize is the most that DescribeSecurityGroupRules and DescribeSecurityGroups
	// give, entriesPage the most of GetManagedPrefixListEntries.
	pageSize    = 1000
	entriesPage = 100
	// batch is how many rules one call carries: more than a group usually holds.
	batch = 200
	// rulesPerGroup is the quota of an account that has not asked for another.
	rulesPerGroup = 60
)

// Provider is one account and region of EC2, and the Directory of what stands there.
// Its methods may be called concurrently.
type Provider struct {
	client *ec2.Client
	region string
}

var _ interface {
	cloud.Provider
	cloud.Directory
} = (*Provider)(nil)

// New returns a provider for the account that the options' credentials belong to. It
// calls neither EC2 nor STS. Options that contradict themselves are ErrInvalid.
func New(ctx context.Context, o Options) (*Provider, error) {
	cfg, err := o.config(ctx)
	if err != nil {
		return nil, err
	}
	paces := o.Paces
	if paces == nil {
		paces = cloud.NewPaces(cloud.SystemClock{})
	}
	client := ec2.NewFromConfig(cfg, func(eo *ec2.Options) {
		if o.Endpoint != "" {
			eo.BaseEndpoint = sdk.String(o.Endpoint)
		}
		pacer := &pacer{paces: paces, region: o.Region, credentials: cfg.Credentials}
		eo.APIOptions = append(eo.APIOptions, middleware.AddUserAgentKey(userAgent), pacer.install)
	})
	return &Provider{client: client, region: o.Region}, nil
}

// Capabilities implements cloud.Provider.
func (p *Provider) Capabilities() cloud.Capabilities {
	return cloud.Capabilities{
		RulesPerGroup: cloud.Count{IPv4: rulesPerGroup, IPv6: rulesPerGroup},
		Batch:         batch,
		Protocols:     []rule.Protocol{rule.TCP, rule.UDP},
	}
}

// List implements cloud.Provider.
func (p *Provider) List(ctx context.Context, group string) ([]cloud.Rule, error) {
	pages := ec2.NewDescribeSecurityGroupRulesPaginator(p.client, &ec2.DescribeSecurityGroupRulesInput{
		Filters:    []types.Filter{{Name: sdk.String("group-id"), Values: []string{group}}},
		MaxResults: sdk.Int32(pageSize),
	})
	var out []cloud.Rule
	seen, listed := 0, map[string]bool{} // pages of a group that changes may overlap
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, classify(err)
		}
		seen += len(page.SecurityGroupRules)
		for _, r := range page.SecurityGroupRules {
			if sdk.ToBool(r.IsEgress) || listed[sdk.ToString(r.SecurityGroupRuleId)] {
				continue
			}
			found, err := ruleOf(r)
			if err != nil {
				return nil, err
			}
			listed[found.ID] = true
			out = append(out, found)
		}
	}
	if seen == 0 {
		// A filter finds nothing in a group that does not exist. Most groups have
		// an outbound rule, so this second call is rare.
		return nil, p.Exists(ctx, group)
	}
	return out, nil
}

// Authorize implements cloud.Provider.
func (p *Provider) Authorize(ctx context.Context, group, owner string, grants []cloud.Grant) error {
	permissions, err := permissionsOf(grants)
	if err != nil {
		return err
	}
	_, err = p.client.AuthorizeSecurityGroupIngress(ctx, &ec2.AuthorizeSecurityGroupIngressInput{
		GroupId:       sdk.String(group),
		IpPermissions: permissions,
		TagSpecifications: []types.TagSpecification{{
			ResourceType: types.ResourceTypeSecurityGroupRule,
			Tags:         []types.Tag{{Key: sdk.String(ownerTag), Value: sdk.String(owner)}},
		}},
	})
	return classify(err)
}

// Revoke implements cloud.Provider.
func (p *Provider) Revoke(ctx context.Context, group string, ids []string) error {
	_, err := p.client.RevokeSecurityGroupIngress(ctx, &ec2.RevokeSecurityGroupIngressInput{
		GroupId:              sdk.String(group),
		SecurityGroupRuleIds: ids,
	})
	return classify(err)
}
