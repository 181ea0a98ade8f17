package alibaba

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/auth/credentials"

	"github.com/portreeve/portreeve/cloud"
)

// stsTimeouts bound a call for credentials, which takes no context.
var stsTimeouts = &credentials.HttpOptions{ConnectTimeout: 3 * time.Second, ReadTimeout: 5 * time.Second}

// keyring gives out credentials. The SDK's providers keep theirs until shortly before
// they end, and are not safe for concurrent use.
type keyring struct {
	source credentials.CredentialsProvider
	// account is the number of the account that temporary credentials are of, if known.
	account string
	turn    chan struct{} // holds one token; who has it may ask the source
}

func newKeyring(o Options) (*keyring, error) {
	source, role, err := sourceOf(o)
	if err != nil {
		return nil, err
	}
	if o.AssumeRole.ARN != "" {
		role = o.AssumeRole.ARN
		source, err = credentials.NewRAMRoleARNCredentialsProviderBuilder().WithCredentialsProvider(source).
			WithRoleArn(role).WithExternalId(o.AssumeRole.ExternalID).WithRoleSessionName(userAgent).
			WithStsRegion(stsRegion(o)).WithStsEndpoint(o.sts).WithHttpOptions(stsTimeouts).Build()
		if err != nil {
			return nil, fmt.Errorf("%w: role %s: %w", cloud.ErrInvalid, role, err)
		}
	}
	k := &keyring{source: source, account: accountOf(role), turn: make(chan struct{}, 1)}
	k.turn <- struct{}{}
	return k, nil
}

// sourceOf chooses as the vendor's default chain does: what is configured first in its
// order. Unlike there, what is configured and fails is an error: to go on as somebody
// else, the node's role say, would be a surprise. Files of a person's profile are not
// looked for.
func sourceOf(o Options) (source credentials.CredentialsProvider, role string, err error) {
	static := func(k Keys) credentials.CredentialsProvider {
		return credentials.NewStaticSTSCredentialsProvider(k.AccessKeyID, k.AccessKeySecret, k.SecurityToken)
	}
	switch older := "ALIBABACLOUD_"; {
	case o.Keys.AccessKeyID != "":
		return static(o.Keys), "", nil
	case os.Getenv("ALIBABA_CLOUD_ACCESS_KEY_ID") != "":
		return credentials.NewEnvironmentVariableCredentialsProvider(), "", nil
	case os.Getenv(older+"ACCESS_KEY_ID") != "":
		return static(Keys{os.Getenv(older + "ACCESS_KEY_ID"), os.Getenv(older + "ACCESS_KEY_SECRET"), os.Getenv(older + "SECURITY_TOKEN")}), "", nil
	case os.Getenv("ALIBABA_CLOUD_OIDC_TOKEN_FILE") != "":
		source, err = credentials.NewOIDCCredentialsProviderBuilder().WithRoleSessionName(userAgent).
			WithStsRegion(stsRegion(o)).WithSTSEndpoint(o.sts).WithHttpOptions(stsTimeouts).Build()
		if err != nil {
			return nil, "", fmt.Errorf("%w: RRSA: %w", cloud.ErrDenied, err)
		}
		return source, os.Getenv("ALIBABA_CLOUD_ROLE_ARN"), nil
	}
	source, err = credentials.NewECSRAMRoleCredentialsProviderBuilder().Build()
	if err != nil {
		return nil, "", fmt.Errorf("%w: no credentials: no keys, no ALIBABA_CLOUD_ACCESS_KEY_ID, no ALIBABA_CLOUD_OIDC_TOKEN_FILE, and %w", cloud.ErrDenied, err)
	}
	return source, "", nil
}

// stsRegion is where sessions of roles are asked for: near, unless the environment says
// otherwise.
func stsRegion(o Options) string {
	if region := os.Getenv("ALIBABA_CLOUD_STS_REGION"); region != "" {
		return region
	}
	return o.Region
}

// accountOf reads the account's number out of acs:ram::NUMBER:role/NAME.
func accountOf(arn string) string {
	if parts := strings.Split(arn, ":"); len(parts) == 5 {
		return parts[3]
	}
	return ""
}

// get returns credentials that are good now. It waits for its turn only as long as the
// context lasts.
func (k *keyring) get(ctx context.Context) (*credentials.Credentials, error) {
	select {
	case <-k.turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { k.turn <- struct{}{} }()
	c, err := k.source.GetCredentials()
	if err != nil {
		return nil, fmt.Errorf("credentials: %w", classify("sts:"+stsAction(k.source), err))
	}
	return c, nil
}

// stsAction is the call that the source makes for credentials.
func stsAction(source credentials.CredentialsProvider) string {
	switch source.GetProviderName() {
	case "ram_role_arn":
		return "AssumeRole"
	case "oidc_role_arn":
		return "AssumeRoleWithOIDC"
	}
	return "credentials"
}

// payer names the account whose rates the credentials draw from. A lasting key stands
// for its account; what is left, instances, shares one name: too slow for two accounts,
// never too fast for one.
func (k *keyring) payer(c *credentials.Credentials) string {
	if c.SecurityToken == "" {
		return c.AccessKeyId
	}
	return k.account
}
