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
	// (ICMP). Source is the zero Prefix when Peer names the source.
	rule.Rule
	// Peer is the id of the security group ("sg-...") or of the prefix list ("pl-...")
	// that is the source, as the cloud spells it; empty where it is a prefix. Where a
	// rule asks for more than Rule can say (one source port, one destination), Peer is
	// all of it in words, so that the rule equals no grant.
	Peer string
	// Drop: it drops what it matches. Only clouds with priorities have such rules.
	Drop bool
	// Priority is 1 for the best, where the cloud gives its rules an order; 0 elsewhere.
	Priority int
	// Owner is the signature found on the rule: the cluster id of the Portreeve
	// that created it. Empty: not ours, never touched.
	Owner string
	// Description is what a person reads beside the rule.
	Description string
}

// Grant is a rule to be in force and what a person shall read beside it.
type Grant struct {
	rule.Rule
	// Peer is the id of the security group whose members are admitted; Source is the
	// zero Prefix then. Empty: Source says who is.
	Peer string
	// Pool is whose rule it is.
	Pool        string
	Description string
}

// Count is a number of rules: the families apart where the cloud counts them so,
// else All. What a cloud does not count is zero.
type Count struct{ IPv4, IPv6, All int }

// Capabilities are the fixed properties of a provider.
type Capabilities struct {
	// RulesPerGroup is how many inbound rules a group holds unless the account
	// has another quota.
	RulesPerGroup Count
	// RulesTogether is how many rules all groups of one network interface hold; 0: any.
	RulesTogether int
	// Batch is the most grants, or ids, that one call takes.
	Batch int
	// Priority of the rules that it writes, 1 the best; 0: the cloud knows none.
	Priority int
	// Lenient: the cloud may pass over, without a word, a grant that is there already
	// or an id that is not, where others fail with ErrStale.
	Lenient bool
	// Protocols are those the cloud can restrict to a range of ports.
	Protocols []rule.Protocol
}

// Directory looks up what a wish may name beside prefixes. Its methods may be called
// concurrently; errors wrap one of this package's kinds.
type Directory interface {
	// Tagged returns the ids, sorted, of the security groups that carry all the tags;
	// none is no error.
	Tagged(ctx context.Context, tags map[string]string) ([]string, error)
	// Exists returns ErrInvalid if there is no such security group to refer to.
	Exists(ctx context.Context, group string) error
	// PrefixList returns the entries of a prefix list, canonical. One that does not
	// exist is ErrInvalid, never empty.
	PrefixList(ctx context.Context, id string) ([]netip.Prefix, error)
}

// Provider is one account and region of a cloud. Every method may be called
// concurrently. Errors wrap one of this package's kinds. Each of Authorize and
// Revoke is one call to the cloud, with at most Capabilities.Batch grants or ids.
type Provider interface {
	Capabilities() Capabilities
	// List returns every inbound rule of the group, ours and foreign, in no
	// particular order. A group that does not exist is ErrInvalid, never empty.
	List(ctx context.Context, group string) ([]Rule, error)
	// Authorize adds the grants, signed with the owner. Descriptions may hold
	// anything: the provider spells them as the cloud allows. It may have added some
	// of them when it fails. A rule that is there already, whoever made it, stays as
	// it is and makes it fail with ErrStale; of a Lenient cloud it may be passed over,
	// so that only a listing tells what is in force and whose it is.
	Authorize(ctx context.Context, group, owner string, grants []Grant) error
	// Revoke removes rules by ID. A rule that is not there makes it fail with
	// ErrStale, unless the cloud is Lenient; it may have removed some of them when it
	// fails.
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
		return fmt.Errorf("authorize in %s %w: %w", group, errNotSent, err)
	}
	return l.Provider.Authorize(ctx, group, owner, grants)
}

func (l leased) Revoke(ctx context.Context, group string, ids []string) error {
	if err := l.check(ctx); err != nil {
		return fmt.Errorf("revoke in %s %w: %w", group, errNotSent, err)
	}
	return l.Provider.Revoke(ctx, group, ids)
}

// signed says whether the rule is one that owner wrote: its signature, on a
// shape that we write. The shape guards against tags that a person copied.
func (r Rule) signed(owner string) bool {
	return owner != "" && r.Owner == owner && r.Source.IsValid() == (r.Peer == "") && !r.Drop && slices.Contains(rule.Protocols, r.Protocol)
}

// costOf is what a rule with the source takes of a group's budget, in the terms in
// which limit counts. EC2 counts a rule whose source is a group in both families. A
// prefix list costs its MaxEntries, which a listing does not show: counted as one,
// the cloud's own refusal is the judge.
func costOf(source netip.Prefix, limit Count) Count {
	switch {
	case limit.All > 0:
		return Count{All: 1}
	case !source.IsValid():
		return Count{IPv4: 1, IPv6: 1}
	case source.Addr().Is4():
		return Count{IPv4: 1}
	}
	return Count{IPv6: 1}
}

func (c Count) plus(d Count) Count {
	return Count{c.IPv4 + d.IPv4, c.IPv6 + d.IPv6, c.All + d.All}
}

func (c Count) minus(d Count) Count {
	return Count{c.IPv4 - d.IPv4, c.IPv6 - d.IPv6, c.All - d.All}
}

// least returns the smaller of each.
func (c Count) least(d Count) Count {
	return Count{min(c.IPv4, d.IPv4), min(c.IPv6, d.IPv6), min(c.All, d.All)}
}

// holds says whether d fits into c. A family that d does not use cannot be in
// its way, even when foreign rules have overdrawn it.
func (c Count) holds(d Count) bool {
	return (d.IPv4 == 0 || d.IPv4 <= c.IPv4) && (d.IPv6 == 0 || d.IPv6 <= c.IPv6) && (d.All == 0 || d.All <= c.All)
}

// compareListed is the canonical order of listed rules.
func compareListed(a, b Rule) int {
	return cmp.Or(rule.CompareRules(a.Rule, b.Rule), cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.ID, b.ID))
}

// masked returns the rule with the host bits of its source cleared, as clouds
// store it; the zero source stays as it is.
func masked(r rule.Rule) rule.Rule {
	if r.Source.IsValid() {
		r.Source = r.Source.Masked()
	}
	return r
}
