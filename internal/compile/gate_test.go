package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

func timeOf(t *testing.T, data []byte) time.Time {
	t.Helper()
	now, err := time.Parse(time.RFC3339, strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// gatesOf spells what ports ask of connections besides their source:
// "tcp/30080 at most 100, 50 a second, 75 at once; logs denied, 10 a second; ends 2026-12-24T18:00:00Z".
func gatesOf(set rule.Set) []string {
	out := []string{}
	for port, gate := range set.Ports.All {
		var limits, parts []string
		if n := gate.Limits.Connections; n > 0 {
			limits = append(limits, fmt.Sprintf("at most %d", n))
		}
		if gate.Limits.PerSecond > 0 {
			limits = append(limits, fmt.Sprintf("%d a second, %d at once", gate.Limits.PerSecond, gate.Limits.Burst))
		}
		if len(limits) > 0 {
			parts = append(parts, strings.Join(limits, ", "))
		}
		switch {
		case gate.Log.Denied && gate.Log.Accepted:
			parts = append(parts, fmt.Sprintf("logs all, %d a second", gate.Log.PerSecond))
		case gate.Log.Denied:
			parts = append(parts, fmt.Sprintf("logs denied, %d a second", gate.Log.PerSecond))
		case gate.Log.Accepted:
			parts = append(parts, fmt.Sprintf("logs accepted, %d a second", gate.Log.PerSecond))
		}
		if gate.Expires != 0 {
			parts = append(parts, "ends "+time.Unix(gate.Expires, 0).UTC().Format(time.RFC3339))
		}
		if len(parts) > 0 {
			out = append(out, strings.ToLower(string(port.Protocol))+fmt.Sprintf("/%d ", port.Number)+strings.Join(parts, "; "))
		}
	}
	return out
}

// describeGate spells what an allocation asks of connections besides their source.
func describeGate(a *v1alpha1.NodePortAllocation) (line string) {
	if a.Spec.Mode == v1alpha1.ModeAudit {
		line += ", in audit"
	}
	if n := a.Spec.Limits.ConnectionsPerSource; n > 0 {
		line += fmt.Sprintf(", at most %d", n)
	}
	if l := a.Spec.Limits; l.NewConnectionsPerSecond > 0 {
		line += fmt.Sprintf(", %d a second, %d at once", l.NewConnectionsPerSecond, l.Burst)
	}
	switch l := a.Spec.Log; {
	case l.Denied && l.Accepted:
		line += fmt.Sprintf(", logs all, %d a second", l.PerSecond)
	case l.Denied:
		line += fmt.Sprintf(", logs denied, %d a second", l.PerSecond)
	case l.Accepted:
		line += fmt.Sprintf(", logs accepted, %d a second", l.PerSecond)
	}
	return line
}

// anyGate draws what an allocation asks of connections besides their source.
func anyGate(t *rapid.T, spec *v1alpha1.NodePortAllocationSpec) {
	spec.Mode = rapid.SampledFrom([]v1alpha1.PolicyMode{"", "", v1alpha1.ModeEnforce, v1alpha1.ModeAudit, v1alpha1.ModeAudit, "Later"}).Draw(t, "mode")
	spec.Limits = v1alpha1.Limits{
		ConnectionsPerSource:    rapid.Int32Range(-1, 2).Draw(t, "connections"),
		NewConnectionsPerSecond: rapid.Int32Range(-1, 2).Draw(t, "rate"),
		Burst:                   rapid.Int32Range(-1, 2).Draw(t, "burst"),
	}
	spec.Log = v1alpha1.Log{
		Denied: rapid.Bool().Draw(t, "denied"), Accepted: rapid.Bool().Draw(t, "accepted"), PerSecond: rapid.Int32Range(-1, 2).Draw(t, "lines"),
	}
	if after := rapid.IntRange(-1, 2).Draw(t, "ends"); after < 2 {
		spec.ExpiresAt = &metav1.Time{Time: clock.Add(time.Duration(after) * time.Second)}
	}
}

// mayAudit says whether the port passes those sources only because a pool that allows it
// lets its one Open allocation audit them.
func mayAudit(in NodeInput, port rule.Port, audited []netip.Prefix) bool {
	if len(audited) == 0 {
		return true
	}
	pools := Copies[v1alpha1.NodePortPool](in.Pools)
	for _, a := range Copies[v1alpha1.NodePortAllocation](in.Allocations) {
		if claimedNumber(&a) != port.Number {
			continue
		}
		i := slices.IndexFunc(pools, func(p v1alpha1.NodePortPool) bool { return p.Name == a.Spec.Pool })
		if i < 0 || a.Spec.State != v1alpha1.AllocationOpen || a.Spec.Mode != v1alpha1.ModeAudit || Ended(&a, in.Now) {
			return false
		}
		g := pools[i].Spec.Guardrails
		var within []netip.Prefix
		for _, c := range g.AllowedSources {
			if p, ok := parseCIDR(c); ok {
				within = append(within, p)
			}
		}
		if g.World != v1alpha1.Allow && slices.ContainsFunc(audited, func(p netip.Prefix) bool { return p.Bits() == 0 }) {
			return false
		}
		return g.Audit == v1alpha1.Allow && (rule.CoversAll(rule.Canonical(within), audited) || len(g.AllowedSources) == 0 && g.World == v1alpha1.Allow)
	}
	return false
}
