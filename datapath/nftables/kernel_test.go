package nftables

import (
	"context"
	"runtime"
	"testing"

	"github.com/vishvananda/netns"
	"pgregory.net/rapid"
)

// Any way from set to set ends in the same kernel state as beginning with the last
// one, and a Sync that changes nothing writes nothing.
func TestIncrementalEqualsFromScratch(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("make a network namespace (run as root): %v", err)
	}
	defer ns.Close()
	d, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
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
