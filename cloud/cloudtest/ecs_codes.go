package cloudtest

import "github.com/portreeve/portreeve/cloud"

// ecsCodes are the error codes that can be answered, with the status of the vendor's
// tables. A nil kind is a fault of the service: retried with backoff.
var ecsCodes = map[string]struct {
	status int
	kind   error
}{
	// Client error codes, common to all actions.
	"InvalidAccessKeyId.NotFound": {404, cloud.ErrDenied},
	"IncompleteSignature":         {400, cloud.ErrDenied},
	"SignatureDoesNotMatch":       {400, cloud.ErrDenied},
	"InvalidTimeStamp.Expired":    {400, cloud.ErrDenied},
	"InvalidTimeStamp.Format":     {400, cloud.ErrDenied},
	"SignatureNonceUsed":          {400, nil},
	"InvalidSecurityToken.Expired": {
		400, cloud.ErrDenied,
	},
	"Forbidden.RAM":               {403, cloud.ErrDenied},
	"Throttling.User":             {400, cloud.ErrThrottled},
	"MissingParameter":            {400, cloud.ErrInvalid},
	"InvalidParameter":            {400, cloud.ErrInvalid},
	"UnsupportedParameter":        {400, cloud.ErrInvalid},
	"UnsupportedHTTPMethod":       {403, cloud.ErrInvalid},
	"InvalidAction":               {403, cloud.ErrInvalid},
	"InvalidRegionId.NotFound":    {404, cloud.ErrInvalid},
	"IdempotentParameterMismatch": {400, cloud.ErrInvalid},
	"InternalError":               {500, nil},
	"ServiceUnavailable":          {503, nil},
	// AuthorizeSecurityGroup, RevokeSecurityGroup, DescribeSecurityGroupAttribute.
	"AuthorizationLimitExceed":                         {403, cloud.ErrQuota},
	"AuthorizedGroupRule.LimitExceed":                  {400, cloud.ErrInvalid},
	"InvalidOperation.ResourceManagedByCloudProduct":   {403, cloud.ErrInvalid},
	"InvalidGroupAuthParameter.OperationDenied":        {400, cloud.ErrInvalid},
	"InvalidSecurityGroupId.NotFound":                  {404, cloud.ErrInvalid},
	"InvalidSecurityGroupId.Malformed":                 {400, cloud.ErrInvalid},
	"InvalidSourceGroupId.NotFound":                    {404, cloud.ErrInvalid},
	"InvalidPrefixListId.NotFound":                     {404, cloud.ErrInvalid},
	"InvalidParamter.Conflict":                         {403, cloud.ErrInvalid},
	"InvalidParam.Permissions":                         {400, cloud.ErrInvalid},
	"InvalidParam.DuplicatePermissions":                {400, cloud.ErrInvalid},
	"InvalidParam.SecurityGroupRuleId":                 {400, cloud.ErrStale},
	"InvalidParam.SecurityGroupRuleIdRepeated":         {400, cloud.ErrInvalid},
	"InvalidOperation.RuleDuplicate":                   {400, cloud.ErrStale},
	"InvalidIpProtocol.ValueNotSupported":              {400, cloud.ErrInvalid},
	"InvalidNicType.Mismatch":                          {403, cloud.ErrInvalid},
	"InvalidPolicy.Malformed":                          {400, cloud.ErrInvalid},
	"InvalidPriority.ValueNotSupported":                {400, cloud.ErrInvalid},
	"InvalidPortRange.Malformed":                       {400, cloud.ErrInvalid},
	"InvalidParam.PortRange":                           {400, cloud.ErrInvalid},
	"OperationDenied":                                  {400, cloud.ErrInvalid},
	"InvalidSecurityGroupDiscription.Malformed":        {400, cloud.ErrInvalid},
	"MissingParameter.Source":                          {400, cloud.ErrInvalid},
	"InvalidParam.SourceIp":                            {400, cloud.ErrInvalid},
	"InvalidParam.SourceCidrIp":                        {400, cloud.ErrInvalid},
	"InvalidParam.Ipv6SourceCidrIp":                    {400, cloud.ErrInvalid},
	"InvalidParam.Ipv4ProtocolConflictWithIpv6Address": {400, cloud.ErrInvalid},
	"InvalidParam.Ipv6ProtocolConflictWithIpv4Address": {400, cloud.ErrInvalid},
}

// refuseECS returns the vendor's error with that code.
func refuseECS(code, message string) *Error {
	c, ok := ecsCodes[code]
	if !ok {
		panic("cloudtest: no such error code: " + code)
	}
	return &Error{Status: c.status, Code: code, Message: message, kind: c.kind}
}
