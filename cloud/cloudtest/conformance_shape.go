package cloudtest

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
)

// shapeCases hold a provider to how rules look: what it writes is what it reads, and
// what it would never write it still reads for what it does.
var shapeCases = []conformanceCase{
	{"a listing longer than a page is read whole and each rule once", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		var spelled []string
		for i := range 25 {
			spelled = append(spelled, fmt.Sprintf("TCP %d 10.8.0.0/16", 30000+2*i))
			b.Seed(group, Foreign(spelled[i]))
		}
		wantRules(t, mustList(t, b, group), spelled...)
	}},
	{"more than a batch goes in and out as several calls", func(t *testing.T, b Backend) {
		group, c := b.NewGroup(), b.Provider.Capabilities()
		n := min(c.Batch+20, c.RulesPerGroup.IPv4+c.RulesPerGroup.All)
		b.fill(t, group, many(n, "10.%d.0.0/16"))
		var ids []string
		for _, r := range mustList(t, b, group) {
			ids = append(ids, r.ID)
		}
		if len(ids) != n {
			t.Fatalf("listed %d rules, want %d", len(ids), n)
		}
		for batch := range slices.Chunk(ids, c.Batch) {
			wantKind(t, b.Provider.Revoke(t.Context(), group, batch), nil)
		}
		wantRules(t, b.Rules(group))
	}},
	{"hosts and the whole world are sources of either family", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		spelled := []string{"TCP 30080 0.0.0.0/0", "TCP 30080 ::/0", "TCP 30080 192.0.2.7/32", "TCP 30080 2001:db8::7/128"}
		wantKind(t, b.authorize(t, group, grants(spelled...)...), nil)
		wantRules(t, mustList(t, b, group), spelled...)
		wantRules(t, b.Rules(group), spelled...)
	}},
	{"what is written has the priority that the provider claims", func(t *testing.T, b Backend) {
		group := b.NewGroup()
		wantKind(t, b.authorize(t, group, Grant("TCP 30080 10.8.0.0/16")), nil)
		for _, r := range mustList(t, b, group) {
			if want := b.Provider.Capabilities().Priority; r.Priority != want || r.Drop {
				t.Errorf("priority %d, drop %v; want %d", r.Priority, r.Drop, want)
			}
		}
	}},
	{"a rule that drops is listed as such where there are any", func(t *testing.T, b Backend) {
		group, drop := b.NewGroup(), Foreign("TCP 30000-32767 0.0.0.0/0")
		if drop.Drop, drop.Priority = true, 7; b.Provider.Capabilities().Priority == 0 {
			drop.Drop, drop.Priority = false, 0 // a cloud without order has no such rule
		}
		b.Seed(group, drop)
		have := mustList(t, b, group)
		if len(have) != 1 || have[0].Drop != drop.Drop || have[0].Priority != drop.Priority || have[0].Rule != drop.Rule {
			t.Errorf("listed %+v, want %+v", have, drop)
		}
	}},
	{"a rule whose signature was mangled is foreign", func(t *testing.T, b Backend) {
		if b.Mangle == nil {
			t.Skip("nobody edits rules here")
		}
		group := b.NewGroup()
		wantKind(t, b.authorize(t, group, grants("TCP 30080 10.8.0.0/16", "TCP 30081 10.8.0.0/16")...), nil)
		for _, r := range mustList(t, b, group) {
			if r.Ports.First == 30080 {
				b.Mangle(group, r.ID)
			}
		}
		before := b.Rules(group)
		for _, r := range mustList(t, b, group) {
			if (r.Owner == owner) != (r.Ports.First == 30081) {
				t.Errorf("rule %+v", r)
			}
		}
		_, err := b.sync(t.Context(), []string{group})
		wantKind(t, err, nil)
		if after := b.Rules(group); !reflect.DeepEqual(before[:1], after) {
			t.Errorf("rules\n before %+v\n after  %+v", before, after)
		}
	}},
}
