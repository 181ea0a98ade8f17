package cloud

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// AnyProtocol is the protocol of a listed rule that admits every protocol. We
// never write one.
const AnyProtocol rule.Protocol = "ALL"

// Rule is one inbound rule as a security group lists it.
type Rule struct {
	// ID is the provider's name for the rule.
	ID string
	// Rule is what it admits. Protocol may be AnyProtocol or one we do not know
	// (ICMP). Source is the zero Prefix when the source is not a prefix (another
	// group, a prefix list). Such rules are always foreign.
	rule.Rule
	// Owner is the signature found on the rule: the cluster id of the Portreeve
	// that created it. Empty: not ours, never touched.
	Owner string
	// Description is what a person reads beside the rule.
	Description string
}

// Grant is a rule to be in force and what a person shall read beside it.
type Grant struct {
	rule.Rule
	Description string
}

// Count is a number of rules, the families counted apart, as clouds do.
type Count struct{ IPv4, IPv6 int }

// Capabilities are the fixed properties of a provider.
type Capabilities struct {
	// RulesPerGroup is how many inbound rules a group holds unless the account
	// has another quota.
	RulesPerGroup Count
	// Protocols are those the cloud can restrict to a range of ports.
	Protocols []rule.Protocol
}

// Provider is one account and region of a cloud. Every method may be called
// concurrently. Errors wrap one of this package's kinds. Each of Authorize and
// Revoke is one call to the cloud.
type Provider interface {
	Capabilities() Capabilities
	// List returns every inbound rule of the group, ours and foreign, in no
	// particular order. A group that does not exist is ErrInvalid, never empty.
	List(ctx context.Context, group string) ([]Rule, error)
	// Authorize adds the grants, signed with the owner. Descriptions may hold
	// anything: the provider spells them as the cloud allows. It may have added some
	// of them when it fails. A rule that is there already makes it fail with
	// ErrStale.
	Authorize(ctx context.Context, group, owner string, grants []Grant) error
	// Revoke removes rules by ID. A rule that is not there makes it fail with
	// ErrStale; it may have removed some of them when it fails.
	Revoke(ctx context.Context, group string, ids []string) error
}

// Leased returns p with a check before each changing call: when check fails,
// the call is not made and its error is returned. It keeps a manager that has
// lost its lease from undoing the work of the next one.
func Leased(p Provider, check func(context.Context) error) Provider {
	return leased{Provider: p, check: check}
}

type leased struct {
	Provider
	check func(context.Context) error
}

func (l leased) Authorize(ctx context.Context, group, owner string, grants []Grant) error {
	if err := l.check(ctx); err != nil {
		return fmt.Errorf("authorize in %s not sent: %w", group, err)
	}
	return l.Provider.Authorize(ctx, group, owner, grants)
}

func (l leased) Revoke(ctx context.Context, group string, ids []string) error {
	if err := l.check(ctx); err != nil {
		return fmt.Errorf("revoke in %s not sent: %w", group, err)
	}
	return l.Provider.Revoke(ctx, group, ids)
}

// signed says whether the rule is one that owner wrote: its signature, on a
// shape that we write. The shape guards against tags that a person copied.
func (r Rule) signed(owner string) bool {
	return owner != "" && r.Owner == owner && r.Source.IsValid() && slices.Contains(rule.Protocols, r.Protocol)
}

// cost is what the rule takes of its group's budget. EC2 counts a rule whose
// source is a group in both families. A prefix list costs its MaxEntries, which
// a listing does not show: counted as one, the cloud's own refusal is the judge.
func (r Rule) cost() Count {
	if !r.Source.IsValid() {
		return Count{IPv4: 1, IPv6: 1}
	}
	return familyOf(r.Source)
}

func familyOf(p netip.Prefix) Count {
	if p.Addr().Is4() {
		return Count{IPv4: 1}
	}
	return Count{IPv6: 1}
}

func (c Count) plus(d Count) Count  { return Count{c.IPv4 + d.IPv4, c.IPv6 + d.IPv6} }
func (c Count) minus(d Count) Count { return Count{c.IPv4 - d.IPv4, c.IPv6 - d.IPv6} }

// holds says whether d fits into c. A family that d does not use cannot be in
// its way, even when foreign rules have overdrawn it.
func (c Count) holds(d Count) bool {
	return (d.IPv4 == 0 || d.IPv4 <= c.IPv4) && (d.IPv6 == 0 || d.IPv6 <= c.IPv6)
}

// compareListed is the canonical order of listed rules.
func compareListed(a, b Rule) int {
	return cmp.Or(rule.CompareRules(a.Rule, b.Rule), cmp.Compare(a.ID, b.ID))
}

// masked returns the rule with the host bits of its source cleared, as clouds
// store it; the zero source stays as it is.
func masked(r rule.Rule) rule.Rule {
	if r.Source.IsValid() {
		r.Source = r.Source.Masked()
	}
	return r
}
