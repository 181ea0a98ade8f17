package cloudtest

import (
	"reflect"
	"slices"
	"testing"

	"github.com/portreeve/portreeve/cloud"
)

var syncCases = []conformanceCase{
	{"sync opens in one call and a second sync writes nothing", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		want := []string{"TCP 30080 10.8.0.0/16", "TCP 30080 2001:db8::/48", "UDP 30090-30099 10.9.0.0/16"}
		r, err := b.sync(t.Context(), []string{group}, want...)
		wantKind(t, err, nil)
		if r.Calls != (cloud.Calls{List: 2, Authorize: 1}) {
			t.Errorf("first run: %+v", r.Calls)
		}
		r, err = b.sync(t.Context(), []string{group}, want...)
		wantKind(t, err, nil)
		if r.Calls != (cloud.Calls{List: 1}) {
			t.Errorf("second run: %+v", r.Calls)
		}
		for _, w := range want {
			if !r.Covers(Parse(w)) {
				t.Errorf("%s is not proved", w)
			}
		}
		wantRules(t, b.Rules(group), want...)
	}},
	{"sync writes and closes more than a batch in as few calls as hold it", func(t *testing.T, b Backend) {
		group, c := b.NewGroup(), b.Provider.Capabilities()
		n := min(c.Batch+20, c.RulesPerGroup.IPv4+c.RulesPerGroup.All)
		calls := (n + c.Batch - 1) / c.Batch
		r, err := cloud.Sync(t.Context(), b.Provider, cloud.Want{Owner: owner, Groups: []string{group}, Grants: many(n, "10.%d.0.0/17")})
		wantKind(t, err, nil)
		if r.Calls != (cloud.Calls{List: 2, Authorize: calls}) || len(b.Rules(group)) != n {
			t.Errorf("%d rules stand after %+v", len(b.Rules(group)), r.Calls)
		}
		r, err = b.sync(t.Context(), []string{group})
		wantKind(t, err, nil)
		if r.Calls != (cloud.Calls{List: 2, Revoke: calls}) {
			t.Errorf("closing: %+v", r.Calls)
		}
		wantRules(t, b.Rules(group))
	}},
	{"sync closes what is no longer wanted and leaves the rest in place", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		_, err := b.sync(t.Context(), []string{group}, "TCP 30080 10.8.0.0/16", "TCP 30090 10.8.0.0/16")
		wantKind(t, err, nil)
		r, err := b.sync(t.Context(), []string{group}, "TCP 30090 10.8.0.0/16")
		wantKind(t, err, nil)
		if r.Calls != (cloud.Calls{List: 2, Revoke: 1}) || r.Holds(Port("TCP", 30080)) || !r.Holds(Port("TCP", 30090)) {
			t.Errorf("report %+v", r)
		}
		wantRules(t, b.Rules(group), "TCP 30090 10.8.0.0/16")
	}},
	{"rules of others survive opening and closing as they were", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		b.Seed(group, Foreign("TCP 22 10.0.0.0/8"), Foreign("TCP 30000-32767 group"), Foreign("TCP 30080 10.7.0.0/16"),
			Signed("TCP 30080 10.9.0.0/16", other), Foreign("ALL 0-65535 198.51.100.0/24"))
		before := b.Rules(group)
		_, err := b.sync(t.Context(), []string{group}, "TCP 30080 10.8.0.0/16", "TCP 30090 10.8.0.0/16")
		wantKind(t, err, nil)
		_, err = b.sync(t.Context(), []string{group})
		wantKind(t, err, nil)
		if after := b.Rules(group); !reflect.DeepEqual(before, after) {
			t.Errorf("foreign rules\n before %+v\n after  %+v", before, after)
		}
	}},
	{"an equal rule of somebody else satisfies and is neither adopted nor removed", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		b.Seed(group, Foreign("TCP 30080 10.8.0.0/16"))
		before := b.Rules(group)
		for _, want := range [][]string{{"TCP 30080 10.8.0.0/16"}, {}} {
			r, err := b.sync(t.Context(), []string{group}, want...)
			wantKind(t, err, nil)
			if r.Calls.Mutating() != 0 || r.Covers(Parse("TCP 30080 10.8.0.0/16")) != (len(want) > 0) {
				t.Errorf("report %+v", r)
			}
		}
		if after := b.Rules(group); !reflect.DeepEqual(before, after) {
			t.Errorf("foreign rule\n before %+v\n after  %+v", before, after)
		}
	}},
	{"what does not fit the first group fills the second and the rest is named", func(t *testing.T, b Backend) {
		groups := []string{b.NewGroup(), b.NewGroup()}
		// Not what the cloud takes but what is wished: a batch shall hold it.
		const limit = 20
		limits := cloud.Count{IPv4: limit, IPv6: limit}
		if b.Provider.Capabilities().RulesPerGroup.All > 0 {
			limits = cloud.Count{All: limit}
		}
		r, err := cloud.Sync(t.Context(), b.Provider, cloud.Want{
			Owner: owner, Groups: groups, Limits: limits, Grants: many(2*limit+1, "10.%d.0.0/17"),
		})
		wantKind(t, err, cloud.ErrQuota)
		if len(b.Rules(groups[0])) != limit || len(b.Rules(groups[1])) != limit || len(r.Overflow) != 1 {
			t.Errorf("groups hold %d and %d, overflow %v", len(b.Rules(groups[0])), len(b.Rules(groups[1])), r.Overflow)
		}
		if used := r.Groups[1].Budget.Used; used.IPv4+used.All != limit {
			t.Errorf("budget used %+v", used)
		}
	}},
	{"a wider rule of somebody else is reported as shadowing", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		b.Seed(group, Foreign("TCP 30000-32767 0.0.0.0/0"), Foreign("TCP 22 0.0.0.0/0"))
		r, err := b.sync(t.Context(), []string{group}, "TCP 30080 10.8.0.0/16")
		wantKind(t, err, nil)
		wantRules(t, r.Groups[0].Shadowing, "TCP 30000-32767 0.0.0.0/0")
	}},
}

var faultCases = []conformanceCase{
	{"throttling and refused credentials surface as their kinds", func(t *testing.T, b Backend) {
		for code, kind := range map[string]error{b.API.Throttled: cloud.ErrThrottled, b.API.Denied: cloud.ErrDenied} {
			for _, action := range []string{b.API.List, b.API.Authorize} {
				group := b.NewGroup()
				b.Account.Inject(Fault{Action: action, Code: code, Times: sdkAttempts})
				if _, err := b.sync(t.Context(), []string{group}, "TCP 30080 10.8.0.0/16"); err == nil {
					t.Errorf("%s of %s: no error", code, action)
				} else {
					wantKind(t, err, kind)
				}
				b.Account.Heal()
			}
		}
	}},
	{"a lost answer is made good within two runs and nothing is doubled", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		for _, step := range []struct {
			action string
			want   []string
		}{{b.API.Authorize, []string{"TCP 30080 10.8.0.0/16", "TCP 30090 10.8.0.0/16"}}, {b.API.Revoke, nil}} {
			b.Account.Inject(Fault{Action: step.action, LoseAnswer: true})
			if _, err := b.sync(t.Context(), []string{group}, step.want...); err != nil {
				_, err = b.sync(t.Context(), []string{group}, step.want...)
				wantKind(t, err, nil)
			}
			wantRules(t, b.Rules(group), slices.Clone(step.want)...)
		}
	}},
	{"half a batch is completed by the next run", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		want := []string{"TCP 30080 10.8.0.0/16", "TCP 30090 10.8.0.0/16", "TCP 30100 10.8.0.0/16", "TCP 30110 10.8.0.0/16"}
		b.Account.Inject(Fault{Action: b.API.Authorize, Halfway: true, Code: b.API.Denied})
		r, err := b.sync(t.Context(), []string{group}, want...)
		wantKind(t, err, cloud.ErrDenied)
		if !r.Covers(Parse(want[0])) || r.Covers(Parse(want[3])) {
			t.Errorf("in force after half a batch: %v", r.InForce)
		}
		_, err = b.sync(t.Context(), []string{group}, want...)
		wantKind(t, err, nil)
		wantRules(t, b.Rules(group), want...)
	}},
	{"a duplicate in the batch is resolved by listing again", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		b.Seed(group, Foreign("TCP 22 10.0.0.0/8"))
		_, err := b.sync(t.Context(), []string{group}, "TCP 30070 10.8.0.0/16")
		wantKind(t, err, nil)
		b.Seed(group, Foreign("TCP 30080 10.8.0.0/16")) // after the write that the stale reading misses
		b.Account.Inject(Fault{Action: b.API.List, Stale: true})
		_, err = b.sync(t.Context(), []string{group}, "TCP 30070 10.8.0.0/16", "TCP 30080 10.8.0.0/16", "TCP 30090 10.8.0.0/16")
		wantKind(t, err, nil)
		wantRules(t, b.Rules(group), "TCP 22 10.0.0.0/8", "TCP 30070 10.8.0.0/16", "TCP 30080 10.8.0.0/16", "TCP 30090 10.8.0.0/16")
	}},
	{"a write that the listing does not show yet is not called in force", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		b.Account.Inject(Fault{Action: b.API.List, Stale: true, Times: 2})
		r, err := b.sync(t.Context(), []string{group}, "TCP 30080 10.8.0.0/16")
		wantKind(t, err, cloud.ErrStale)
		if len(r.InForce) != 0 {
			t.Errorf("in force: %v", r.InForce)
		}
		r, err = b.sync(t.Context(), []string{group}, "TCP 30080 10.8.0.0/16")
		wantKind(t, err, nil)
		if r.Calls.Mutating() != 0 {
			t.Errorf("calls %+v", r.Calls)
		}
	}},
	{"a source is cut off although another group is gone", func(t *testing.T, b Backend) {
		groups := []string{b.NewGroup(), b.NewGroup()}
		_, err := b.sync(t.Context(), groups, "TCP 30080 10.8.0.0/16", "TCP 30090 10.8.0.0/16")
		wantKind(t, err, nil)
		b.RemoveGroup(groups[1])
		r, err := b.sync(t.Context(), groups, "TCP 30090 10.8.0.0/16", "TCP 30100 10.8.0.0/16")
		wantKind(t, err, cloud.ErrInvalid)
		wantRules(t, b.Rules(groups[0]), "TCP 30090 10.8.0.0/16")
		if !r.Holds(Port("TCP", 30080)) || !slices.Equal(r.Unlisted, groups[1:]) {
			t.Errorf("report %+v", r)
		}
	}},
	{"a rule of two ports is narrowed although another group is gone", func(t *testing.T, b Backend) {
		groups := []string{b.NewGroup(), b.NewGroup()}
		_, err := b.sync(t.Context(), groups, "TCP 30080 10.8.0.0/16", "TCP 30081 10.8.0.0/16")
		wantKind(t, err, nil)
		wantRules(t, b.Rules(groups[0]), "TCP 30080-30081 10.8.0.0/16")
		b.RemoveGroup(groups[1])
		_, err = b.sync(t.Context(), groups, "TCP 30081 10.8.0.0/16")
		wantKind(t, err, cloud.ErrInvalid)
		wantRules(t, b.Rules(groups[0]), "TCP 30081 10.8.0.0/16")
	}},
}

// sdkAttempts is more often than any client in use tries a call.
const sdkAttempts = 10
