package cloud

import (
	"context"

	"github.com/portreeve/portreeve/internal/rule"
)

// Rule is one inbound rule as a security group lists it.
type Rule struct {
	// ID is the provider's name for the rule.
	ID string
	// Rule is what it admits. Source is the zero Prefix when the source is not a
	// prefix (another group, a prefix list): such a rule is always foreign.
	rule.Rule
	// Owner is the signature found on the rule: the cluster id of the Portreeve
	// that created it. Empty: not ours, never touched.
	Owner string
	// Description is what a person reads beside the rule.
	Description string
}

// Provider is one account and region of a cloud. Every method may be called
// concurrently. Errors wrap one of this package's kinds.
type Provider interface {
	// List returns every inbound rule of the group, ours and foreign, in no
	// particular order.
	List(ctx context.Context, group string) ([]Rule, error)
	// Authorize adds the rules, signed with their Owner. It may have added some
	// of them when it fails. A rule that is there already makes it fail with
	// ErrStale.
	Authorize(ctx context.Context, group string, rules []Rule) error
	// Revoke removes rules by ID. A rule that is not there makes it fail with
	// ErrStale; it may have removed some of them when it fails.
	Revoke(ctx context.Context, group string, ids []string) error
}
