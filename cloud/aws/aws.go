package aws

import (
	"context"
	"fmt"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
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
	// pageSize is the most that DescribeSecurityGroupRules gives.
	pageSize = 1000
	// batch is how many rules one call carries: more than a group usually holds.
	batch = 200
	// rulesPerGroup is the quota of an account that has not asked for another.
	rulesPerGroup = 60
)

// Options say which account and region are meant.
type Options struct {
	// Region, e.g. eu-central-1.
	Region string
	// Endpoint replaces the regional URL, for private endpoints and tests.
	Endpoint string
}

// Provider is one account and region of EC2. Its methods may be called
// concurrently.
type Provider struct{ client *ec2.Client }

// New returns a provider with the SDK's default chain of credentials
// (environment, IRSA, EKS Pod Identity, instance role). It does not call EC2.
func New(ctx context.Context, o Options) (*Provider, error) {
	cfg, err := config.LoadDefaultConfig(ctx,
		config.WithRegion(o.Region),
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(callTimeout)),
		config.WithRetryer(func() sdk.Retryer {
			return retry.NewStandard(func(so *retry.StandardOptions) {
				so.MaxAttempts, so.MaxBackoff = attempts, maxBackoff
			})
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("aws configuration for region %s: %w", o.Region, err)
	}
	client := ec2.NewFromConfig(cfg, func(eo *ec2.Options) {
		if o.Endpoint != "" {
			eo.BaseEndpoint = sdk.String(o.Endpoint)
		}
		eo.APIOptions = append(eo.APIOptions, middleware.AddUserAgentKey(userAgent))
	})
	return &Provider{client: client}, nil
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
	seen := 0
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, classify(err)
		}
		seen += len(page.SecurityGroupRules)
		for _, r := range page.SecurityGroupRules {
			if sdk.ToBool(r.IsEgress) {
				continue
			}
			listed, err := ruleOf(r)
			if err != nil {
				return nil, err
			}
			out = append(out, listed)
		}
	}
	if seen == 0 {
		// A filter finds nothing in a group that does not exist. Most groups have
		// an outbound rule, so this second call is rare.
		return nil, p.exists(ctx, group)
	}
	return out, nil
}

func (p *Provider) exists(ctx context.Context, group string) error {
	_, err := p.client.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupIds: []string{group}})
	return classify(err)
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
