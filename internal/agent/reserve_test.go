package agent

import (
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

func TestReserved(t *testing.T) {
	for _, c := range []struct {
		sentence                         string
		have, ours, want, next, oursNext []string
	}{
		{"nothing was there", nil, nil, []string{"30000-30099"}, []string{"30000-30099"}, []string{"30000-30099"}},
		{"others' stay, and stay theirs", []string{"8080", "30050"}, nil, []string{"30000-30099"}, []string{"8080", "30000-30099"}, []string{"30000-30049", "30051-30099"}},
		{"a pool goes, and theirs stays", []string{"8080", "30000-30099"}, []string{"30000-30049", "30051-30099"}, nil, []string{"8080", "30050"}, nil},
		{"a pool shrinks", []string{"30000-30099"}, []string{"30000-30099"}, []string{"30000-30009"}, []string{"30000-30009"}, []string{"30000-30009"}},
		{"others wrote the list anew", []string{"30010-30019"}, []string{"30000-30099"}, []string{"30000-30099"}, []string{"30000-30099"}, []string{"30000-30009", "30020-30099"}},
		{"and then the pool goes", []string{"30010-30019"}, []string{"30000-30099"}, nil, []string{"30010-30019"}, nil},
	} {
		next, ours := reserved(ranged(t, c.have...), ranged(t, c.ours...), ranged(t, c.want...))
		if !slices.Equal(next.Strings(), c.next) || !slices.Equal(ours.Strings(), c.oursNext) {
			t.Errorf("%s: %v, of which ours %v; want %v, %v", c.sentence, next.Strings(), ours.Strings(), c.next, c.oursNext)
		}
	}
}

func TestPoolsAreKeptOutOfTheEphemeralRange(t *testing.T) {
	inLab(t, func(l *lab) {
		l.host.reserved = ranged(t, "8080")
		l.start()
		l.wantReserved("8080", "30000-30099")
		l.restart()
		l.pools.put(pool("30050-30149"))
		l.pass(roundPause)
		l.wantReserved("8080", "30050-30149")
		writes := l.host.writes
		l.pass(3 * checkInterval)
		if l.host.writes != writes {
			t.Error("written again though nothing changed")
		}
		l.host.set(func() { l.host.reserved = ranged(t, "9090") }) // sysctl -p
		l.pass(checkInterval)
		l.wantReserved("9090", "30050-30149")
		l.reboot()
		l.host.set(func() { l.host.reserved = ranged(t, "9090", "30100-30109") }) // theirs now, by sysctl.d
		l.start()
		l.wantReserved("9090", "30050-30149")
		l.stop()
		if err := New(l.config(Sources{})).Forget(); err != nil {
			t.Fatal(err)
		}
		l.wantReserved("9090", "30100-30109")
	})
}

func TestANodeThatCannotReservePortsEnforcesAllTheSame(t *testing.T) {
	inLab(t, func(l *lab) {
		l.host.reserveErr = errFault
		l.start()
		l.wantReason(v1alpha1.ReasonOK)
		if got := testutil.ToFloat64(l.agent.metrics.unreserved); got != 100 {
			t.Errorf("%v unreserved ports counted, want 100", got)
		}
		l.host.set(func() { l.host.reserveErr = nil })
		l.pass(checkInterval)
		l.wantReserved("30000-30099")
		if got := testutil.ToFloat64(l.agent.metrics.unreserved); got != 0 {
			t.Errorf("%v unreserved ports counted, want none", got)
		}
	})
}
