package cloudtest

import (
	"testing"

	"github.com/portreeve/portreeve/cloud"
)

// lateCases are about clouds whose listings lag behind what they have accepted.
var lateCases = []conformanceCase{
	{"a grant that shows late is written once and converges", func(t *testing.T, b Backend) {
		for unseen := 1; unseen <= 4; unseen++ {
			group := b.NewGroup()
			b.Account.Inject(Fault{Action: b.API.Authorize, Unseen: unseen})
			settles(t, b, group, "TCP 30080 10.8.0.0/16", "TCP 30090 2001:db8::/48")
		}
	}},
	{"a revocation that shows late holds its number until it shows", func(t *testing.T, b Backend) {
		for unseen := 1; unseen <= 4; unseen++ {
			group := b.NewGroup()
			settles(t, b, group, "TCP 30080 10.8.0.0/16", "TCP 30090 10.8.0.0/16")
			b.Account.Inject(Fault{Action: b.API.Revoke, Unseen: unseen})
			r, err := b.sync(t.Context(), []string{group}, "TCP 30090 10.8.0.0/16")
			wantKind(t, err, cloud.ErrStale)
			if !r.Holds(Port("TCP", 30080)) {
				t.Errorf("unseen for %d listings, and the number is free", unseen)
			}
			settles(t, b, group, "TCP 30090 10.8.0.0/16")
		}
	}},
}

// settles runs Sync until nothing is left to do, which few runs reach, and says that the
// group holds exactly what was wanted.
func settles(t *testing.T, b Backend, group string, spelled ...string) {
	t.Helper()
	for range 4 {
		r, err := b.sync(t.Context(), []string{group}, spelled...)
		if err == nil && r.Calls.Mutating() == 0 {
			wantRules(t, b.Rules(group), spelled...)
			return
		}
		if err != nil {
			wantKind(t, err, cloud.ErrStale)
		}
	}
	t.Errorf("no rest after four runs; the group holds %v", b.Rules(group))
}
