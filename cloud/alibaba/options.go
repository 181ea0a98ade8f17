package alibaba

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/portreeve/portreeve/cloud"
)

// Options say which account and region are meant, and who we are there.
type Options struct {
	// Region, e.g. eu-central-1.
	Region string
	// Endpoint replaces the regional address of ECS: a host, or an URL without a path.
	// HTTPS is spoken unless it begins with http://, which is for tests.
	Endpoint string
	// Priority of the rules that are written, 1 the best to 100; 0 is 1. At equal
	// priority a rule that drops wins.
	Priority int
	// Keys, where they are set, are our credentials. Else they are looked for in the
	// order of the vendor's SDKs: environment, RRSA (OIDC), the RAM role of the instance.
	Keys Keys
	// AssumeRole, where its ARN is set, is who we become with those credentials.
	AssumeRole AssumeRole
	// Paces are shared by all providers of the process, so that two of one account
	// keep one rate. Nil: paces of this provider's own.
	Paces *cloud.Paces

	// sts replaces the host of STS, in tests.
	sts string
}

// Keys are credentials as a Secret holds them. SecurityToken belongs to temporary ones.
// Printed or logged they show the id only.
type Keys struct{ AccessKeyID, AccessKeySecret, SecurityToken string }

// Format implements fmt.Formatter, for every verb.
func (k Keys) Format(s fmt.State, _ rune) {
	// A printer that fails has nobody to tell.
	_, _ = s.Write([]byte("access key " + k.AccessKeyID))
}

// MarshalText implements encoding.TextMarshaler: of JSON and of structured logs.
func (k Keys) MarshalText() ([]byte, error) { return fmt.Append(nil, k), nil }

// AssumeRole is a RAM role, of this account or another one. ExternalID is what its trust
// policy asks of third parties; empty: nothing.
type AssumeRole struct{ ARN, ExternalID string }

var regions = regexp.MustCompile(`^[a-z0-9-]+$`)

func (o Options) validate() error {
	switch {
	case !regions.MatchString(o.Region):
		return fmt.Errorf("%w: region %q", cloud.ErrInvalid, o.Region)
	case o.Priority < 0 || o.Priority > 100:
		return fmt.Errorf("%w: priority %d is not between 1 and 100", cloud.ErrInvalid, o.Priority)
	case (o.Keys.AccessKeyID == "") != (o.Keys.AccessKeySecret == ""):
		return fmt.Errorf("%w: an access key id and its secret belong together, one of them is missing", cloud.ErrInvalid)
	case o.Keys.SecurityToken != "" && o.Keys.AccessKeyID == "":
		return fmt.Errorf("%w: a security token without its access key", cloud.ErrInvalid)
	case o.AssumeRole.ExternalID != "" && o.AssumeRole.ARN == "":
		return fmt.Errorf("%w: an external id without a role to assume", cloud.ErrInvalid)
	}
	return nil
}

// address is the scheme and host of ECS.
func (o Options) address() (scheme, host string, err error) {
	if o.Endpoint == "" {
		return "https", "ecs." + o.Region + ".aliyuncs.com", nil
	}
	endpoint := o.Endpoint
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return "", "", fmt.Errorf("%w: endpoint %q is neither a host nor an URL without a path", cloud.ErrInvalid, o.Endpoint)
	}
	return u.Scheme, u.Host, nil
}
