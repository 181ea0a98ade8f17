package alibaba

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	sdkerrors "github.com/aliyun/alibaba-cloud-sdk-go/sdk/errors"

	"github.com/portreeve/portreeve/cloud"
)

// kinds says what the error codes of ECS and STS mean to us. A code that is not here has
// the kind of its family, if that has one; any other is a fault of the service or a bug:
// retried with backoff.
var kinds = map[string]error{
	"AuthorizationLimitExceed": cloud.ErrQuota,
	// Not a quota of rules: the group has room for others.
	"AuthorizedGroupRule.LimitExceed": cloud.ErrInvalid,

	// The older generation of AuthorizeSecurityGroup refuses what is there already.
	"InvalidOperation.RuleDuplicate":              cloud.ErrStale,
	"InvalidParam.SecurityGroupRuleId":            cloud.ErrStale,
	"InvalidSecurityGroupRule.RuleNotExist":       cloud.ErrStale,
	"InvalidSecurityGroupRuleId.NotFound":         cloud.ErrStale,
	"SecurityGroupRule.NotFound":                  cloud.ErrStale,
	"InvalidOperation.SecurityGroupNotAuthorized": cloud.ErrDenied,

	"EntityNotExist.Role":   cloud.ErrDenied,
	"IncompleteSignature":   cloud.ErrDenied,
	"NoPermission":          cloud.ErrDenied,
	"SignatureDoesNotMatch": cloud.ErrDenied,
	"MissingSecurityToken":  cloud.ErrDenied,

	"IdempotentParameterMismatch": cloud.ErrInvalid,
	"OperationDenied":             cloud.ErrInvalid,
	"UnsupportedHTTPMethod":       cloud.ErrInvalid,
	"UnsupportedParameter":        cloud.ErrInvalid,
}

// families are the kinds of codes by what stands before their first dot.
var families = map[string]error{
	"Throttling": cloud.ErrThrottled,

	"AuthenticationFail":              cloud.ErrDenied,
	"EntityNotExists":                 cloud.ErrDenied,
	"Forbidden":                       cloud.ErrDenied,
	"InvalidAccessKeyId":              cloud.ErrDenied,
	"InvalidSecurityToken":            cloud.ErrDenied,
	"InvalidTimeStamp":                cloud.ErrDenied,
	"InvalidAction":                   cloud.ErrInvalid,
	"InvalidApi":                      cloud.ErrInvalid,
	"InvalidDestCidrIp":               cloud.ErrInvalid,
	"InvalidGroupAuthParameter":       cloud.ErrInvalid,
	"InvalidGroupParameter":           cloud.ErrInvalid,
	"InvalidIpPortRange":              cloud.ErrInvalid,
	"InvalidIpProtocol":               cloud.ErrInvalid,
	"InvalidNetworkType":              cloud.ErrInvalid,
	"InvalidNicType":                  cloud.ErrInvalid,
	"InvalidOperation":                cloud.ErrInvalid,
	"InvalidParam":                    cloud.ErrInvalid,
	"InvalidParameter":                cloud.ErrInvalid,
	"InvalidParamter":                 cloud.ErrInvalid, // as the vendor spells it
	"InvalidPolicy":                   cloud.ErrInvalid,
	"InvalidPortRange":                cloud.ErrInvalid,
	"InvalidPrefixListId":             cloud.ErrInvalid,
	"InvalidPriority":                 cloud.ErrInvalid,
	"InvalidRegionId":                 cloud.ErrInvalid,
	"InvalidSecurityGroup":            cloud.ErrInvalid,
	"InvalidSecurityGroupDiscription": cloud.ErrInvalid, // as the vendor spells it
	"InvalidSecurityGroupId":          cloud.ErrInvalid,
	"InvalidSourceCidrIp":             cloud.ErrInvalid,
	"InvalidSourceGroup":              cloud.ErrInvalid,
	"InvalidSourceGroupId":            cloud.ErrInvalid,
	"LimitExceed":                     cloud.ErrInvalid,
	"MissingParameter":                cloud.ErrInvalid,
	"NotSupported":                    cloud.ErrInvalid,
}

// refusals are the codes that mean: these credentials are good, and may not do this.
var refusals = map[string]bool{"Forbidden": true, "Forbidden.RAM": true, "Forbidden.SubUser": true, "NoPermission": true}

// advice says what to do, where the vendor's message doesn't.
var advice = map[string]string{
	"InvalidOperation.ResourceManagedByCloudProduct": "the group belongs to a cloud product and only that can change it: name another group of the nodes instead",
	"InvalidGroupAuthParameter.OperationDenied":      "the group is an advanced one, which takes no groups as sources: name networks, or use a basic group",
	"AuthorizedGroupRule.LimitExceed":                "a group takes 20 rules whose source is a group: name networks instead",
	"SignatureDoesNotMatch":                          "the secret is not that of the access key",
	"IncompleteSignature":                            "the secret is not that of the access key",
	"InvalidTimeStamp.Expired":                       "the clock is wrong by more than 15 minutes",
}

// refusal is what the cloud has answered. It does not hold the SDK's error, whose text
// may repeat what was signed, a security token included.
type refusal struct {
	status                         int
	action, code, message, request string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%s: %s (status %d, request %s): %s", r.action, cmp.Or(r.code, "no error code"), r.status, cmp.Or(r.request, "unknown"), r.message)
}

// ErrorCode is the vendor's code.
func (r *refusal) ErrorCode() string { return r.code }

// broken is a call that got no answer, or none that can be read.
type broken struct {
	action string
	err    error
}

func (b *broken) Error() string { return b.action + ": " + b.err.Error() }
func (b *broken) Unwrap() error { return b.err }

// classify wraps an error of the SDK in its kind; a refused call names the permission
// that it needs. The action is spelled as RAM does, "ecs:AuthorizeSecurityGroup".
func classify(action string, err error) error {
	if err == nil {
		return nil
	}
	var server *sdkerrors.ServerError
	if !errors.As(err, &server) {
		var located *url.Error
		if errors.As(err, &located) {
			err = located.Err // without the URL, which is signed
		}
		return &broken{action, err}
	}
	r := &refusal{
		status: server.HttpStatus(), action: action, code: server.ErrorCode(),
		message: cmp.Or(advice[server.ErrorCode()], shorten(server.Message())), request: server.RequestId(),
	}
	kind, ok := kinds[r.code]
	if !ok {
		family, _, _ := strings.Cut(r.code, ".")
		kind, ok = families[family]
	}
	switch {
	case !ok:
		return r
	case refusals[r.code]:
		return fmt.Errorf("%w: missing permission %s: %w", kind, permissionOf(action, server), r)
	}
	return fmt.Errorf("%w: %w", kind, r)
}

// permissionOf is the RAM action that a refused call needs.
func permissionOf(action string, server *sdkerrors.ServerError) string {
	if named, ok := server.AccessDeniedDetail()["AuthAction"].(string); ok && named != "" {
		return named
	}
	return action
}

// shorten keeps a proxy's page out of a status.
func shorten(message string) string {
	const most = 300
	if len(message) > most {
		return message[:most] + "..."
	}
	return message
}

// passing says whether the next attempt may fare better: a rate, a fault of the service,
// a broken connection.
func passing(err error) bool {
	var r *refusal
	if errors.As(err, &r) {
		return errors.Is(err, cloud.ErrThrottled) || r.status >= http.StatusInternalServerError || r.code == "SignatureNonceUsed"
	}
	var b *broken
	return errors.As(err, &b)
}
