package aws

import (
	"context"
	"fmt"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/middleware"

	"github.com/portreeve/portreeve/cloud"
)

// renewal is how long before its end a session of a role is renewed: more than a call
// with all its attempts takes.
const renewal = time.Minute

// Options say which account and region are meant, and who we are there.
type Options struct {
	// Region, e.g. eu-central-1.
	Region string
	// Endpoint replaces the regional URL of EC2, for private endpoints and tests. That
	// of STS is the SDK's to know: the region's, or the environment's
	// AWS_ENDPOINT_URL_STS.
	Endpoint string
	// Keys, where they are set, are our credentials. Else the SDK looks for some by
	// itself: environment, web identity (IRSA), container (EKS Pod Identity), instance.
	Keys Keys
	// AssumeRole, where its ARN is set, is who we become with those credentials.
	AssumeRole AssumeRole
	// Paces are shared by all providers of the process, so that two of one account
	// keep one rate. Nil: paces of this provider's own.
	Paces *cloud.Paces
}

// Keys are credentials as a Secret holds them. SessionToken belongs to temporary ones.
type Keys struct{ AccessKeyID, SecretAccessKey, SessionToken string }

// AssumeRole is an IAM role, of this account or another one. ExternalID is what its
// trust policy asks of third parties; empty: nothing.
type AssumeRole struct{ ARN, ExternalID string }

func (o Options) validate() error {
	switch {
	case o.Region == "":
		return fmt.Errorf("%w: no region", cloud.ErrInvalid)
	case (o.Keys.AccessKeyID == "") != (o.Keys.SecretAccessKey == ""):
		return fmt.Errorf("%w: an access key id and a secret access key belong together, one of them is missing", cloud.ErrInvalid)
	case o.Keys.SessionToken != "" && o.Keys.AccessKeyID == "":
		return fmt.Errorf("%w: a session token without its access key id", cloud.ErrInvalid)
	case o.AssumeRole.ExternalID != "" && o.AssumeRole.ARN == "":
		return fmt.Errorf("%w: an external id without a role to assume", cloud.ErrInvalid)
	}
	return nil
}

// config is the SDK's configuration for the options. It resolves who we are when the
// first call is made, and not here.
func (o Options) config(ctx context.Context) (sdk.Config, error) {
	if err := o.validate(); err != nil {
		return sdk.Config{}, err
	}
	options := []func(*config.LoadOptions) error{
		config.WithRegion(o.Region),
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(callTimeout)),
		config.WithAPIOptions([]func(*middleware.Stack) error{readBody}),
		config.WithRetryer(func() sdk.Retryer {
			return retry.NewStandard(func(so *retry.StandardOptions) {
				so.MaxAttempts, so.MaxBackoff = attempts, maxBackoff
			})
		}),
	}
	if k := o.Keys; k.AccessKeyID != "" {
		options = append(options, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(k.AccessKeyID, k.SecretAccessKey, k.SessionToken)))
	}
	cfg, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return sdk.Config{}, fmt.Errorf("aws configuration for region %s: %w", o.Region, err)
	}
	if role := o.AssumeRole; role.ARN != "" {
		assume := stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), role.ARN, func(ao *stscreds.AssumeRoleOptions) {
			ao.RoleSessionName = userAgent
			if role.ExternalID != "" {
				ao.ExternalID = sdk.String(role.ExternalID)
			}
		})
		cfg.Credentials = sdk.NewCredentialsCache(assume, func(co *sdk.CredentialsCacheOptions) { co.ExpiryWindow = renewal })
	}
	return cfg, nil
}
