package nftables

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// inNamespace opens the datapath in a network namespace of its own.
func inNamespace(t *testing.T) *Datapath {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("make a network namespace (run as root): %v", err)
	}
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Close()
		_ = ns.Close()
	})
	return d
}

// What a change was to do and did not do is seen.
func TestReadBackSeesWhatIsNotThere(t *testing.T) {
	d := inNamespace(t)
	office, home := netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("198.51.100.0/24")
	port := rule.Port{Protocol: rule.TCP, Number: 30080}
	pool := rule.NewPortRanges(rule.PortRange{First: 30000, Last: 30099})
	have := rule.NewSet(pool, map[rule.Port][]netip.Prefix{port: {office}})
	if err := d.Sync(t.Context(), have); err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]rule.Set{
		"another class":   rule.NewSet(pool, map[rule.Port][]netip.Prefix{port: {home}}),
		"no gate":         rule.NewSet(pool, nil),
		"one that ends":   rule.Build(pool, map[rule.Port]rule.Terms{port: {Sources: []netip.Prefix{office}, Expires: 4000000000}}),
		"more judged":     rule.NewSet(rule.NewPortRanges(rule.PortRange{First: 30000, Last: 30999}), map[rule.Port][]netip.Prefix{port: {office}}),
		"somebody denied": have.WithDenied([]netip.Prefix{home}),
	} {
		c := planChange(tableName, state{Set: have}, state{Set: want}, needsOf(have))
		if err := d.readBack(c, state{Set: want}, time.Now()); !errors.Is(err, datapath.ErrDamaged) {
			t.Errorf("%s: read back without a change: %v", what, err)
		}
	}
	if err := d.checkPort(port, state{Set: rule.NewSet(pool, map[rule.Port][]netip.Prefix{port: {home}})}, time.Now()); !errors.Is(err, datapath.ErrDamaged) {
		t.Errorf("a port that leads elsewhere: %v", err)
	}
}

// Any way from set to set ends in the same kernel state as beginning with the last
// one, and a Sync that changes nothing writes nothing.
func TestIncrementalEqualsFromScratch(t *testing.T) {
	d := inNamespace(t)
	ctx := context.Background()
	rapid.Check(t, func(t *rapid.T) {
		for range rapid.IntRange(1, 4).Draw(t, "steps") {
			want := anySet.Draw(t, "want")
			if err := d.Sync(ctx, want); err != nil {
				t.Fatalf("Sync: %v", err)
			}
			changes := d.Changes()
			if err := d.Sync(ctx, want); err != nil || d.Changes() != changes {
				t.Fatalf("a second Sync: %v, %d changes", err, d.Changes()-changes)
			}
			have, err := d.Have(ctx)
			if err != nil || !have.Equal(want) {
				t.Fatalf("Have reads %+v, %v, want %+v", have, err, want)
			}
		}
	})
	if err := d.Cleanup(ctx); err != nil {
		t.Fatal(err)
	}
}
