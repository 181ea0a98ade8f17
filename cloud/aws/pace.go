package aws

import (
	"context"
	"errors"
	"fmt"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"

	"github.com/portreeve/portreeve/cloud"
)

// documented are EC2's buckets for the calls we make, each per account, region and API:
// https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
var documented = map[string]cloud.Rate{
	"AuthorizeSecurityGroupIngress": {Burst: 50, PerSecond: 5},
	"RevokeSecurityGroupIngress":    {Burst: 50, PerSecond: 5},
	"DescribeSecurityGroupRules":    {Burst: 100, PerSecond: 20},
	"DescribeSecurityGroups":        {Burst: 100, PerSecond: 20}, // 50 and 10 without filter and pages
	"GetManagedPrefixListEntries":   {Burst: 100, PerSecond: 20},
}

// pacer lets each attempt of a call wait for its turn, and hears from the answers when
// EC2 was asked too much all the same.
type pacer struct {
	paces       *cloud.Paces
	region      string
	credentials sdk.CredentialsProvider
}

// install puts the pacer inside the retries, for EC2 counts every attempt, behind the
// credentials, which say whose bucket it is, and ahead of the signature, which has a
// date.
func (p *pacer) install(stack *middleware.Stack) error {
	return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("Pace", p.attempt), "GetIdentity", middleware.After)
}

func (p *pacer) attempt(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
	credentials, err := p.credentials.Retrieve(ctx) // known by now, and kept
	if err != nil {
		return middleware.FinalizeOutput{}, middleware.Metadata{}, err
	}
	api := cloud.API{Account: accountOf(credentials), Region: p.region, Name: awsmiddleware.GetOperationName(ctx)}
	rate, ok := documented[api.Name]
	if !ok {
		return middleware.FinalizeOutput{}, middleware.Metadata{}, fmt.Errorf("%s is called without a documented rate: a bug", api.Name)
	}
	pace := p.paces.Of(api, rate)
	if err := pace.Wait(ctx); err != nil {
		return middleware.FinalizeOutput{}, middleware.Metadata{}, err
	}
	out, metadata, err := next.HandleFinalize(ctx, in)
	if errors.Is(classify(err), cloud.ErrThrottled) {
		pace.Throttled()
	}
	return out, metadata, err
}

// accountOf names the account whose buckets the credentials draw from. Sessions of
// roles and containers know its number. A lasting key stands for its account; what is
// left, instances, shares one name: too slow for two accounts, never too fast for one.
func accountOf(c sdk.Credentials) string {
	if c.AccountID == "" && c.SessionToken == "" {
		return c.AccessKeyID
	}
	return c.AccountID
}
