package cloudtest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// Backend is an empty account and a provider for it.
type Backend struct {
	Provider cloud.Provider
	// NewGroup makes an empty group and returns its id.
	NewGroup func() string
	// Seed adds rules without the provider's help: by somebody else, or by the
	// cluster that Owner names. No Source means: the Peer, or else another group.
	Seed func(group string, rules ...cloud.Rule)
	// Rules reads the inbound rules without the provider's help.
	Rules func(group string) []cloud.Rule
	// RemoveGroup deletes a group, as somebody else would.
	RemoveGroup func(group string)
	// Mangle breaks the signature of a rule, as a person might who edits it.
	Mangle func(group, id string)
	// Tag sets the tags of a group.
	Tag func(group string, tags map[string]string)
	// NewPrefixList makes a prefix list with room for so many entries, and returns
	// its id.
	NewPrefixList func(room int, entries ...string) string
	// Account takes faults; nil where the other side cannot be made to fail. API is
	// how they are named there.
	Account Account
	API     API
	// Differs explains, by the name of a case, where the other side is known to
	// differ from the vendor. Such a case is skipped with its explanation.
	Differs map[string]string
}

// API is what a vendor calls the actions behind a provider's methods, and some errors: the
// group is full, the service itself fails.
type API struct{ List, Authorize, Revoke, Throttled, Denied, Full, Broken string }

// The cluster under test, and another one in the same account.
const (
	owner = "5f0c8a52-9d0e-4c39-8f0f-0c0a5d3c7a11"
	other = "00000000-0000-4000-8000-000000000000"
)

type conformanceCase struct {
	name string
	run  func(t *testing.T, b Backend)
}

// Conformance holds a provider to the contract of cloud.Provider and to what
// cloud.Sync promises on top of it. open is called for each case.
func Conformance(t *testing.T, open func(t *testing.T) Backend) {
	for _, c := range slices.Concat(providerCases, shapeCases, peerCases, directoryCases, syncCases) {
		t.Run(c.name, func(t *testing.T) {
			b := open(t)
			if why, ok := b.Differs[c.name]; ok {
				t.Skip("known difference: " + why)
			}
			c.run(t, b)
		})
	}
	for _, c := range slices.Concat(faultCases, lateCases) {
		t.Run(c.name, func(t *testing.T) {
			b := open(t)
			if b.Account == nil {
				t.Skip("this account cannot be made to fail")
			}
			c.run(t, b)
		})
	}
}

var providerCases = []conformanceCase{
	{"a new group lists no inbound rule", func(t *testing.T, b Backend) {
		wantRules(t, mustList(t, b, b.NewGroup()))
	}},
	{"a group that does not exist is invalid and not empty", func(t *testing.T, b Backend) {
		_, err := b.Provider.List(t.Context(), "sg-0123456789abcdef0")
		wantKind(t, err, cloud.ErrInvalid)
		wantKind(t, b.authorize(t, "sg-0123456789abcdef0", Grant("TCP 30080 10.8.0.0/16")), cloud.ErrInvalid)
	}},
	{"what is authorized in one call is listed with its owner", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		spelled := []string{
			"TCP 30080 10.8.0.0/16", "TCP 30080 192.168.7.0/24", "TCP 30080 2001:db8::/48",
			"TCP 30100-30199 10.9.0.0/16", "UDP 30080 10.8.0.0/16",
		}
		wantKind(t, b.authorize(t, group, grants(spelled...)...), nil)
		have := mustList(t, b, group)
		wantRules(t, have, spelled...)
		wantRules(t, b.Rules(group), spelled...)
		for _, r := range have {
			if r.Owner != owner || r.ID == "" {
				t.Errorf("rule %v has owner %q and id %q", r.Rule, r.Owner, r.ID)
			}
		}
	}},
	{"rules of others are listed for what they admit and without our owner", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		b.Seed(group, Foreign("TCP 22 10.0.0.0/8"), Foreign("ALL 0-65535 203.0.113.0/24"), Foreign("TCP 30000-32767 group"),
			Signed("UDP 53 10.0.0.0/8", other))
		have := mustList(t, b, group)
		wantRules(t, have, "ALL 0-65535 203.0.113.0/24", "TCP 22 10.0.0.0/8", "TCP 30000-32767 group", "UDP 53 10.0.0.0/8")
		for _, r := range have {
			if r.Owner == owner || (r.Protocol == rule.UDP) != (r.Owner == other) {
				t.Errorf("rule %v has owner %q", r.Rule, r.Owner)
			}
		}
	}},
	{"a source with host bits is listed masked", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		wantKind(t, b.authorize(t, group, Grant("TCP 30080 10.0.2.7/24"), Grant("TCP 30080 2001:db8::7/48")), nil)
		wantRules(t, mustList(t, b, group), "TCP 30080 10.0.2.0/24", "TCP 30080 2001:db8::/48")
	}},
	{"a rule that is there already is not doubled and stays whose it is", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		b.Seed(group, Foreign("TCP 30080 10.8.0.0/16"))
		before := b.Rules(group)
		err := b.authorize(t, group, Grant("TCP 30080 10.8.0.0/16"))
		if err != nil || !b.Provider.Capabilities().Lenient {
			wantKind(t, err, cloud.ErrStale)
		}
		if after := b.Rules(group); !reflect.DeepEqual(before, after) {
			t.Errorf("rules\n before %+v\n after  %+v", before, after)
		}
	}},
	{"revoke removes the rules it names and no other", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		wantKind(t, b.authorize(t, group, grants("TCP 30080 10.8.0.0/16", "TCP 30081 10.8.0.0/16", "TCP 30082 10.8.0.0/16")...), nil)
		var ids []string
		for _, r := range mustList(t, b, group) {
			if r.Ports.First != 30081 {
				ids = append(ids, r.ID)
			}
		}
		wantKind(t, b.Provider.Revoke(t.Context(), group, ids), nil)
		wantRules(t, b.Rules(group), "TCP 30081 10.8.0.0/16")
		if err := b.Provider.Revoke(t.Context(), group, ids); err != nil || !b.Provider.Capabilities().Lenient {
			wantKind(t, err, cloud.ErrStale)
		}
		wantRules(t, b.Rules(group), "TCP 30081 10.8.0.0/16")
	}},
	{"a full group is a quota error and families counted apart fill apart", func(t *testing.T, b Backend) {
		group, limit := b.NewGroup(), b.Provider.Capabilities().RulesPerGroup
		v4, v6 := limit.IPv4+limit.All/2, limit.IPv6+limit.All-limit.All/2
		b.fill(t, group, many(v4, "10.%d.0.0/16"))
		b.fill(t, group, many(v6, "2001:db8:%x::/48"))
		wantKind(t, b.authorize(t, group, Grant("UDP 30080 10.8.0.0/16")), cloud.ErrQuota)
		wantKind(t, b.authorize(t, group, Grant("UDP 30080 2001:db8::/48")), cloud.ErrQuota)
		if have := mustList(t, b, group); len(have) != v4+v6 {
			t.Errorf("listed %d rules, want %d", len(have), v4+v6)
		}
	}},
	{"any description is accepted", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		g := Grant("TCP 30080 10.8.0.0/16")
		g.Description = "team=zahlungen/größe \"π\"\n" + strings.Repeat("x", 300)
		wantKind(t, b.authorize(t, group, g), nil)
		have := mustList(t, b, group)
		if len(have) != 1 || !strings.Contains(have[0].Description, "team=zahlungen/gr") {
			t.Errorf("listed %+v", have)
		}
	}},
	{"a rule of each protocol it claims to express is kept exactly as asked", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		for _, p := range b.Provider.Capabilities().Protocols {
			g := cloud.Grant{Rule: rule.Rule{Protocol: p, Ports: rule.PortRange{First: 30080, Last: 30080}, Source: netip.MustParsePrefix("10.8.0.0/16")}}
			wantKind(t, b.authorize(t, group, g), nil)
			have := b.Rules(group)
			if !slices.ContainsFunc(have, func(r cloud.Rule) bool { return r.Rule == g.Rule }) {
				t.Errorf("%s: asked for %v, have %v", p, g.Rule, have)
			}
		}
	}},
}

func (b Backend) authorize(t *testing.T, group string, grants ...cloud.Grant) error {
	return b.Provider.Authorize(t.Context(), group, owner, grants)
}

// fill authorizes the grants in as many calls as it takes.
func (b Backend) fill(t *testing.T, group string, grants []cloud.Grant) {
	t.Helper()
	for batch := range slices.Chunk(grants, b.Provider.Capabilities().Batch) {
		wantKind(t, b.authorize(t, group, batch...), nil)
	}
}

func (b Backend) sync(ctx context.Context, groups []string, spelled ...string) (cloud.Report, error) {
	return cloud.Sync(ctx, b.Provider, cloud.Want{Owner: owner, Groups: groups, Grants: grants(spelled...)})
}

func mustList(t *testing.T, b Backend, group string) []cloud.Rule {
	t.Helper()
	have, err := b.Provider.List(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	return have
}

func wantKind(t *testing.T, err, kind error) {
	t.Helper()
	if (kind == nil && err != nil) || !errors.Is(err, kind) {
		t.Fatalf("error %v, want %v", err, kind)
	}
}

func wantRules(t *testing.T, have []cloud.Rule, spelled ...string) {
	t.Helper()
	var got []string
	for _, r := range have {
		got = append(got, Spell(r.Rule))
	}
	slices.Sort(got)
	slices.Sort(spelled)
	if !slices.Equal(got, spelled) {
		t.Fatalf("rules\n have %q\n want %q", got, spelled)
	}
}

// many returns n grants whose sources fill the format with 0..n-1.
func many(n int, format string) []cloud.Grant {
	out := make([]cloud.Grant, n)
	for i := range out {
		out[i] = Grant("TCP 30080 " + fmt.Sprintf(format, i))
	}
	return out
}

// Backend returns the account as seen through p, for Conformance.
func (e *EC2) Backend(p cloud.Provider) Backend {
	n := 0
	list := func(room int, entries ...string) string {
		n++
		id := fmt.Sprintf("pl-%017x", n)
		e.AddPrefixList(id, room, prefixes(entries...)...)
		return id
	}
	return Backend{
		Provider: p,
		NewGroup: func() string {
			n++
			id := fmt.Sprintf("sg-%017x", n)
			e.AddGroup(id)
			return id
		},
		Seed:          e.Seed,
		Rules:         e.Rules,
		RemoveGroup:   e.RemoveGroup,
		Mangle:        e.Mangle,
		Tag:           e.Tag,
		NewPrefixList: list,
		Account:       e,
		API:           ec2API,
	}
}
