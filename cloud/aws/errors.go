package aws

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/portreeve/portreeve/cloud"
)

// kinds says what EC2's error codes mean to us. A code that is not here is a
// fault of the service or a bug: retried with backoff.
var kinds = map[string]error{
	"InvalidGroup.NotFound":         cloud.ErrInvalid,
	"InvalidGroupId.Malformed":      cloud.ErrInvalid,
	"InvalidParameterValue":         cloud.ErrInvalid,
	"InvalidParameterCombination":   cloud.ErrInvalid,
	"InvalidParameter":              cloud.ErrInvalid,
	"InvalidPermission.Malformed":   cloud.ErrInvalid,
	"InvalidAction":                 cloud.ErrInvalid,
	"InvalidPrefixListId.NotFound":  cloud.ErrInvalid,
	"InvalidPrefixListID.NotFound":  cloud.ErrInvalid, // spelled both ways in the wild
	"InvalidPrefixListId.Malformed": cloud.ErrInvalid,
	"InvalidPrefixListID.Malformed": cloud.ErrInvalid,
	"MissingParameter":              cloud.ErrInvalid,
	"UnknownParameter":              cloud.ErrInvalid,
	"ValidationError":               cloud.ErrInvalid, // STS: an ARN that is none
	"TagPolicyViolation":            cloud.ErrInvalid,

	"AccessDenied":                cloud.ErrDenied,
	"AccessDeniedException":       cloud.ErrDenied,
	"InvalidIdentityToken":        cloud.ErrDenied,
	"IDPRejectedClaim":            cloud.ErrDenied,
	"RegionDisabledException":     cloud.ErrDenied,
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

// refusals are the codes that mean: these credentials are good, and may not do this.
// The other codes of kind ErrDenied are about the credentials themselves.
var refusals = map[string]bool{
	"AccessDenied":          true,
	"AccessDeniedException": true,
	"UnauthorizedOperation": true,
}

// permissions are the IAM actions that a call needs, where they are not just the one
// with the call's name.
var permissions = map[string]string{
	"ec2:AuthorizeSecurityGroupIngress": "ec2:AuthorizeSecurityGroupIngress and ec2:CreateTags",
	"sts:AssumeRole":                    "sts:AssumeRole, and the trust of the role with its external id",
	"sts:AssumeRoleWithWebIdentity":     "the trust of the role in this service account",
}

// classify wraps an error of the SDK in its kind; a refused call names the permission
// that it needs. It keeps the SDK's error in the chain and says nothing about codes it
// does not know.
func classify(err error) error {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return err
	}
	kind, ok := kinds[api.ErrorCode()]
	if !ok {
		return err
	}
	if call := innermost(err); refusals[api.ErrorCode()] && call != nil {
		action := strings.ToLower(call.Service()) + ":" + call.Operation()
		return fmt.Errorf("%w: missing permission %s: %w", kind, cmp.Or(permissions[action], action), err)
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// innermost is the call that was answered with the error: while EC2 is called, STS may
// be called for credentials.
func innermost(err error) *smithy.OperationError {
	var found, call *smithy.OperationError
	for errors.As(err, &call) {
		found, err = call, call.Err
	}
	return found
}
