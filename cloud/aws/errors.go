package aws

import (
	"errors"
	"fmt"

	"github.com/aws/smithy-go"

	"github.com/portreeve/portreeve/cloud"
)

// kinds says what EC2's error codes mean to us. A code that is not here is a
// fault of the service or a bug: retried with backoff.
var kinds = map[string]error{
	"InvalidGroup.NotFound":       cloud.ErrInvalid,
	"InvalidGroupId.Malformed":    cloud.ErrInvalid,
	"InvalidParameterValue":       cloud.ErrInvalid,
	"InvalidParameterCombination": cloud.ErrInvalid,
	"InvalidParameter":            cloud.ErrInvalid,
	"InvalidPermission.Malformed": cloud.ErrInvalid,
	"InvalidAction":               cloud.ErrInvalid,
	"MissingParameter":            cloud.ErrInvalid,
	"UnknownParameter":            cloud.ErrInvalid,
	"TagPolicyViolation":          cloud.ErrInvalid,

	"AccessDenied":                cloud.ErrDenied,
	"AuthFailure":                 cloud.ErrDenied,
	"Blocked":                     cloud.ErrDenied,
	"ExpiredToken":                cloud.ErrDenied,
	"ExpiredTokenException":       cloud.ErrDenied,
	"InvalidClientTokenId":        cloud.ErrDenied,
	"MissingAuthenticationToken":  cloud.ErrDenied,
	"OptInRequired":               cloud.ErrDenied,
	"RequestExpired":              cloud.ErrDenied,
	"SignatureDoesNotMatch":       cloud.ErrDenied,
	"UnauthorizedOperation":       cloud.ErrDenied,
	"UnrecognizedClientException": cloud.ErrDenied,

	"RulesPerSecurityGroupLimitExceeded": cloud.ErrQuota,

	"RequestLimitExceeded":      cloud.ErrThrottled,
	"RequestThrottled":          cloud.ErrThrottled,
	"RequestThrottledException": cloud.ErrThrottled,
	"Throttling":                cloud.ErrThrottled,
	"ThrottlingException":       cloud.ErrThrottled,
	"ThrottledException":        cloud.ErrThrottled,
	"TooManyRequestsException":  cloud.ErrThrottled,

	"InvalidPermission.Duplicate":         cloud.ErrStale,
	"InvalidPermission.NotFound":          cloud.ErrStale,
	"InvalidSecurityGroupRuleId.NotFound": cloud.ErrStale,
}

// classify wraps an error of the SDK in its kind. It keeps the SDK's error in
// the chain and says nothing about codes it does not know.
func classify(err error) error {
	var api smithy.APIError
	if errors.As(err, &api) {
		if kind, ok := kinds[api.ErrorCode()]; ok {
			return fmt.Errorf("%w: %w", kind, err)
		}
	}
	return err
}
