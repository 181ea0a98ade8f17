package cloudtest

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// A group and a prefix list that nobody has made, spelled as if somebody had.
const (
	noGroup = "sg-0fedcba9876543210"
	noList  = "pl-0fedcba9876543210"
)

// peerCases are about rules whose source is a group or a prefix list.
var peerCases = []conformanceCase{
	{"a grant to a group is listed with the group as its peer and with its owner", func(t *testing.T, b Backend) {
		group, peer := b.NewGroup(), b.NewGroup()
		wantKind(t, b.authorize(t, group, PeerGrant("TCP 30080 group", peer), Grant("TCP 30080 10.8.0.0/16"), PeerGrant("UDP 30080-30089 group", peer)), nil)
		want := []string{"TCP 30080 10.8.0.0/16", "TCP 30080 group " + peer, "UDP 30080-30089 group " + peer}
		have := mustList(t, b, group)
		wantPeers(t, have, want...)
		wantPeers(t, b.Rules(group), want...)
		for _, r := range have {
			if r.Owner != owner {
				t.Errorf("rule %v has owner %q", r.Rule, r.Owner)
			}
		}
	}},
	{"a group may be its own peer", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		wantKind(t, b.authorize(t, group, PeerGrant("TCP 30080 group", group)), nil)
		wantPeers(t, mustList(t, b, group), "TCP 30080 group "+group)
	}},
	{"a grant to a group that does not exist is invalid and writes nothing", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		wantKind(t, b.authorize(t, group, PeerGrant("TCP 30080 group", noGroup)), cloud.ErrInvalid)
		wantRules(t, b.Rules(group))
	}},
	{"a rule for a peer that is there already makes authorize stale and another peer does not", func(t *testing.T, b Backend) {
		group, peer, another := b.NewGroup(), b.NewGroup(), b.NewGroup()
		b.Seed(group, Peering("TCP 30080 group", peer))
		if err := b.authorize(t, group, PeerGrant("TCP 30080 group", peer)); err != nil || !b.Provider.Capabilities().Lenient {
			wantKind(t, err, cloud.ErrStale)
		}
		wantKind(t, b.authorize(t, group, PeerGrant("TCP 30080 group", another)), nil)
		wantPeers(t, b.Rules(group), "TCP 30080 group "+peer, "TCP 30080 group "+another)
	}},
	{"a rule for a peer is revoked by its id and leaves its neighbours", func(t *testing.T, b Backend) {
		group, peer := b.NewGroup(), b.NewGroup()
		wantKind(t, b.authorize(t, group, PeerGrant("TCP 30080 group", peer), Grant("TCP 30080 10.8.0.0/16")), nil)
		for _, r := range mustList(t, b, group) {
			if r.Peer == peer {
				wantKind(t, b.Provider.Revoke(t.Context(), group, []string{r.ID}), nil)
			}
		}
		wantPeers(t, b.Rules(group), "TCP 30080 10.8.0.0/16")
	}},
	{"rules of others for groups and prefix lists are listed with their peers and as foreign", func(t *testing.T, b Backend) {
		group, peer := b.NewGroup(), b.NewGroup()
		list := b.NewPrefixList(3, "10.8.0.0/16")
		b.Seed(group, Peering("TCP 30080 group", peer), Peering("TCP 30080 group", list), Peering("ALL 0-65535 group", group))
		have := mustList(t, b, group)
		wantPeers(t, have, "ALL 0-65535 group "+group, "TCP 30080 group "+list, "TCP 30080 group "+peer)
		for _, r := range have {
			if r.Owner != "" || r.Source.IsValid() {
				t.Errorf("rule %+v is not foreign, or has a prefix", r)
			}
		}
	}},
	{"rules of others for groups and prefix lists survive a sync as they were", func(t *testing.T, b Backend) {
		group, peer := b.NewGroup(), b.NewGroup()
		b.Seed(group, Peering("TCP 30080 group", peer), Peering("TCP 30080 group", b.NewPrefixList(3, "10.8.0.0/16")))
		before := b.Rules(group)
		for _, want := range [][]string{{"TCP 30080 10.8.0.0/16"}, {}} {
			_, err := b.sync(t.Context(), []string{group}, want...)
			wantKind(t, err, nil)
		}
		if after := b.Rules(group); !slices.Equal(before, after) {
			t.Errorf("foreign rules\n before %+v\n after  %+v", before, after)
		}
	}},
}

// directoryCases hold a provider that is a cloud.Directory to that contract.
var directoryCases = []conformanceCase{
	{"groups are found by all of their tags and sorted, over all pages", func(t *testing.T, b Backend) {
		d := directory(t, b)
		mine := map[string]string{"portreeve": fmt.Sprintf("%p", t), "tier": "edge"} // an account may be shared by the cases
		var want []string
		for range 7 {
			want = append(want, b.NewGroup())
			b.Tag(want[len(want)-1], map[string]string{"portreeve": mine["portreeve"], "tier": "edge", "Name": "x"})
		}
		slices.Sort(want)
		b.Tag(b.NewGroup(), map[string]string{"portreeve": mine["portreeve"]})
		b.Tag(b.NewGroup(), map[string]string{"portreeve": mine["portreeve"], "tier": "Edge"})
		b.Tag(b.NewGroup(), map[string]string{"tier": "edge"})
		if have, err := d.Tagged(t.Context(), mine); err != nil || !slices.Equal(have, want) {
			t.Errorf("found %v, %v; want %v", have, err, want)
		}
		mine["absent"] = ""
		if have, err := d.Tagged(t.Context(), mine); err != nil || len(have) != 0 {
			t.Errorf("with a tag that nobody has: %v, %v", have, err)
		}
	}},
	{"no tags at all are invalid and do not mean every group", func(t *testing.T, b Backend) {
		d := directory(t, b)
		b.NewGroup()
		have, err := d.Tagged(t.Context(), nil)
		wantKind(t, err, cloud.ErrInvalid)
		if len(have) != 0 {
			t.Errorf("found %v", have)
		}
	}},
	{"a tag's value is no pattern", func(t *testing.T, b Backend) {
		key, star, plain := fmt.Sprintf("%p", t), b.NewGroup(), b.NewGroup()
		b.Tag(star, map[string]string{key: "web*?"})
		b.Tag(plain, map[string]string{key: "website"})
		wantTagged(t, b, key, map[string]string{"web*?": star, "website": plain, "web*": "", "websit?": ""})
	}},
	{"a backslash in a tag's value is itself", func(t *testing.T, b Backend) {
		key, slash, plain := fmt.Sprintf("%p", t), b.NewGroup(), b.NewGroup()
		b.Tag(slash, map[string]string{key: `web\site`})
		b.Tag(plain, map[string]string{key: "website"})
		wantTagged(t, b, key, map[string]string{`web\site`: slash, "website": plain, `web\\site`: ""})
	}},
	{"a group exists or is invalid", func(t *testing.T, b Backend) {
		d := directory(t, b)
		wantKind(t, d.Exists(t.Context(), b.NewGroup()), nil)
		wantKind(t, d.Exists(t.Context(), noGroup), cloud.ErrInvalid)
	}},
	{"a prefix list is read whole and canonical in either family", func(t *testing.T, b Backend) {
		d := directory(t, b)
		var v4 []string
		for i := range 13 {
			v4 = append(v4, fmt.Sprintf("10.%d.0.0/16", 2*i))
		}
		for _, c := range []struct{ entries, want []string }{
			{v4, v4},
			{[]string{"10.0.1.0/24", "10.0.0.0/24"}, []string{"10.0.0.0/23"}},
			{[]string{"2001:db8:1::/48", "2001:db8::/48", "2001:db8:7::/48"}, []string{"2001:db8::/47", "2001:db8:7::/48"}},
			{nil, nil},
		} {
			have, err := d.PrefixList(t.Context(), b.NewPrefixList(20, c.entries...))
			if err != nil || !slices.Equal(have, rule.Canonical(prefixes(c.want...))) {
				t.Errorf("%v were read as %v, %v", c.entries, have, err)
			}
		}
	}},
	{"a prefix list that does not exist is invalid and not empty", func(t *testing.T, b Backend) {
		_, err := directory(t, b).PrefixList(t.Context(), noList)
		wantKind(t, err, cloud.ErrInvalid)
	}},
}

// wantTagged looks for each value of the tag; "" means that no group has it.
func wantTagged(t *testing.T, b Backend, key string, want map[string]string) {
	t.Helper()
	d := directory(t, b)
	for value, group := range want {
		var groups []string
		if group != "" {
			groups = []string{group}
		}
		if have, err := d.Tagged(t.Context(), map[string]string{key: value}); err != nil || !slices.Equal(have, groups) {
			t.Errorf("%q found %v, %v; want %v", value, have, err, groups)
		}
	}
}

func directory(t *testing.T, b Backend) cloud.Directory {
	t.Helper()
	d, ok := b.Provider.(cloud.Directory)
	if !ok {
		t.Skip("this provider is no directory")
	}
	return d
}

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// wantPeers compares rules as wantRules does, with the peer behind the word "group".
func wantPeers(t *testing.T, have []cloud.Rule, spelled ...string) {
	t.Helper()
	var got []string
	for _, r := range have {
		s := Spell(r.Rule)
		if r.Peer != "" {
			s += " " + r.Peer
		}
		got = append(got, s)
	}
	slices.Sort(got)
	slices.Sort(spelled)
	if !slices.Equal(got, spelled) {
		t.Fatalf("rules\n have %q\n want %q", got, spelled)
	}
}
