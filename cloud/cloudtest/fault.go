package cloudtest

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/portreeve/portreeve/cloud"
)

// The actions of the EC2 API that are simulated.
const (
	actionAuthorize      = "AuthorizeSecurityGroupIngress"
	actionRevoke         = "RevokeSecurityGroupIngress"
	actionDescribeRules  = "DescribeSecurityGroupRules"
	actionDescribeGroups = "DescribeSecurityGroups"
	actionListEntries    = "GetManagedPrefixListEntries"
	actionAssume         = "AssumeRole"
	actionAssumeByToken  = "AssumeRoleWithWebIdentity"
)

// ec2API names them as API does.
var ec2API = API{
	actionDescribeRules, actionAuthorize, actionRevoke,
	"RequestLimitExceeded", "UnauthorizedOperation", "RulesPerSecurityGroupLimitExceeded", "InternalError",
}

// Fault is something that goes wrong with the next call of an action.
type Fault struct {
	// Action is the vendor's name of the action that it hits; empty: any.
	Action string
	// Times is how many calls it hits; 0 means 1.
	Times int
	// Code is the vendor's error code that is answered, e.g.
	// "UnauthorizedOperation" or "InternalError". Alone it means: nothing done.
	Code string
	// Halfway: the first half of the batch is applied, then Code is answered.
	Halfway bool
	// LoseAnswer: all is applied, then the connection breaks.
	LoseAnswer bool
	// Stale: a listing shows the group as it was before the last write.
	Stale bool
	// Unseen: all is applied, but so many of the next listings of the group don't
	// show it yet.
	Unseen int
	// Partial: a page of a listing holds half of what was asked for, and a token (ECS).
	Partial bool
}

// Account is a simulated account that can be made to fail.
type Account interface {
	// Inject lets the fault hit the next calls, after those injected earlier.
	Inject(Fault)
	// Heal takes back every fault that has not hit yet.
	Heal()
}

// Inject implements Account.
func (e *EC2) Inject(f Fault) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults.add(f)
}

// Heal implements Account.
func (e *EC2) Heal() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults = nil
}

// errAnswerLost is what a client sees whose connection breaks: no kind.
var errAnswerLost = errors.New("connection reset before the answer")

// Error is the vendor's refusal. It wraps the kind of package cloud that the
// code means.
type Error struct {
	Status        int
	Code, Message string
	kind          error
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }
func (e *Error) Unwrap() error { return e.kind }

// refuse returns the vendor's error with that code.
func refuse(code, message string) *Error {
	c, ok := codes[code]
	if !ok {
		panic("cloudtest: no such error code: " + code)
	}
	return &Error{Status: c.status, Code: code, Message: message, kind: c.kind}
}

// codes are the error codes that can be answered. A nil kind is a fault of the
// service: retried with backoff.
var codes = map[string]struct {
	status int
	kind   error
}{
	"AuthFailure":                         {401, cloud.ErrDenied},
	"SignatureDoesNotMatch":               {403, cloud.ErrDenied},
	"RequestExpired":                      {400, cloud.ErrDenied},
	"MissingAuthenticationToken":          {403, cloud.ErrDenied},
	"UnauthorizedOperation":               {403, cloud.ErrDenied},
	"RequestLimitExceeded":                {503, cloud.ErrThrottled},
	"RulesPerSecurityGroupLimitExceeded":  {400, cloud.ErrQuota},
	"InvalidPermission.Duplicate":         {400, cloud.ErrStale},
	"InvalidSecurityGroupRuleId.NotFound": {400, cloud.ErrStale},
	"InvalidGroup.NotFound":               {400, cloud.ErrInvalid},
	"InvalidGroupId.Malformed":            {400, cloud.ErrInvalid},
	"InvalidPrefixListId.NotFound":        {400, cloud.ErrInvalid},
	"InvalidPrefixListId.Malformed":       {400, cloud.ErrInvalid},
	"ValidationError":                     {400, cloud.ErrInvalid},
	"AccessDenied":                        {403, cloud.ErrDenied},
	"ExpiredToken":                        {403, cloud.ErrDenied},
	"InvalidClientTokenId":                {403, cloud.ErrDenied},
	"InvalidIdentityToken":                {400, cloud.ErrDenied},
	"InvalidParameterValue":               {400, cloud.ErrInvalid},
	"InvalidParameterCombination":         {400, cloud.ErrInvalid},
	"MissingParameter":                    {400, cloud.ErrInvalid},
	"UnknownParameter":                    {400, cloud.ErrInvalid},
	"InvalidAction":                       {400, cloud.ErrInvalid},
	"InternalError":                       {500, nil},
	"Unavailable":                         {503, nil},
}

// effect is what a fault does to the one call it hits.
type effect struct {
	Fault
	// refuse makes the vendor's error.
	refuse func(code, message string) *Error
}

// faults are those that have not hit yet, in order.
type faults []Fault

func (f *faults) add(fault Fault) { *f = append(*f, fault) }

// due uses up the fault that hits a call of the action, if any.
func (f *faults) due(action string) Fault {
	i := slices.IndexFunc(*f, func(f Fault) bool { return f.Action == "" || f.Action == action })
	if i < 0 {
		return Fault{}
	}
	hit := (*f)[i]
	if (*f)[i].Times--; (*f)[i].Times <= 0 {
		*f = slices.Delete(*f, i, i+1)
	}
	return hit
}

// before is the answer to a call that is refused before it does anything.
func (f effect) before() error {
	if f.Code != "" && !f.Halfway {
		return f.refuse(f.Code, "injected fault")
	}
	return nil
}

// enter takes a token for the action and the fault that is due, if any. An
// error means that the call is refused before it does anything. The caller
// holds the lock.
func (e *EC2) enter(action string) (effect, error) {
	if !e.bucket(action).take(e.options.Clock()) {
		return effect{}, refuse("RequestLimitExceeded", "Request limit exceeded.")
	}
	due := effect{e.faults.due(action), refuse}
	return due, due.before()
}

// share is how much of a batch of n is applied.
func (f effect) share(n int) int {
	if f.Halfway {
		return n / 2
	}
	return n
}

// after is the answer to a call that was applied.
func (f effect) after() error {
	switch {
	case f.Halfway:
		return f.refuse(f.Code, "injected fault, halfway")
	case f.LoseAnswer:
		return fmt.Errorf("injected fault: %w", errAnswerLost)
	}
	return nil
}

// bucket is a token bucket; EC2 keeps one per action, account and region.
type bucket struct {
	size, perSecond float64
	tokens          float64
	last            time.Time
}

// bucket returns the bucket of the action with the vendor's published rates.
// Authorize and Revoke have a bucket each:
// https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
func (e *EC2) bucket(action string) *bucket {
	b, ok := e.buckets[action]
	if !ok {
		b = &bucket{size: 100, perSecond: 20}
		if action == actionAuthorize || action == actionRevoke {
			b.size, b.perSecond = 50, 5
		}
		b.tokens, b.last = b.size, e.options.Clock()
		e.buckets[action] = b
	}
	return b
}

func (b *bucket) take(now time.Time) bool {
	b.tokens = min(b.size, b.tokens+now.Sub(b.last).Seconds()*b.perSecond)
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
