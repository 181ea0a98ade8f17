package compile

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

func span(first, last uint16) rule.PortRanges {
	return rule.NewPortRanges(rule.PortRange{First: first, Last: last})
}

func reserve(ports ...v1alpha1.PortRange) (out []v1alpha1.ReservedPorts) {
	for _, p := range ports {
		out = append(out, v1alpha1.ReservedPorts{Ports: p, Reason: "as the test says"})
	}
	return out
}

func TestOwnedWithinLimits(t *testing.T) {
	elder, young := aged("elder", 2, "30000-30009"), aged("young", 1, "30005-30019", "80", "40000")
	elder.Spec.Reserved = reserve("30003", "30008-30009", "x")
	young.Spec.Reserved = reserve("30009-30010", "30019", "40000")
	elder.Status.Armed, young.Status.Armed = []string{"30000-30009"}, []string{"30005-30019", "40000"}
	pools := []v1alpha1.NodePortPool{young, elder}
	for _, c := range []struct {
		name   string
		limits Limits
		want   []string
	}{
		{"none", Limits{}, []string{
			"elder owns [30000-30002 30004-30007] reserved [30003 30008-30009] outside [] armed [30000-30002 30004-30007] over []",
			"young owns [80 30011-30018] reserved [30010 30019 40000] outside [] armed [30011-30018] over [elder owns 30005-30009]",
		}},
		{"the API server's range", Limits{NodePorts: span(30002, 30014)}, []string{
			"elder owns [30002 30004-30007] reserved [30003 30008-30009] outside [30000-30001] armed [30002 30004-30007] over []",
			"young owns [30011-30014] reserved [30010] outside [80 30015-30019 40000] armed [30011-30014] over [elder owns 30005-30009]",
		}},
		{"fail-safe ports of the installation", Limits{FailSafe: span(30001, 30005).Union(span(80, 80))}, []string{
			"elder owns [30000 30006-30007] reserved [30008-30009] outside [] armed [30000 30006-30007] over []",
			"young owns [30011-30018] reserved [30010 30019 40000] outside [] armed [30011-30018] over [elder owns 30006-30009]",
		}},
		{"all of them elsewhere", Limits{NodePorts: span(20000, 20099)}, []string{
			"elder owns [] reserved [] outside [30000-30009] armed [] over []",
			"young owns [] reserved [] outside [80 30005-30019 40000] armed [] over []",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, p := range Owned(pools, c.limits) {
				got = append(got, fmt.Sprintf("%s owns %v reserved %v outside %v armed %v over %v", p.Name, p.Owned.Strings(), p.Reserved.Strings(), p.Outside.Strings(), p.Armed.Strings(), p.Overlaps))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("owned\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(c.want, "\n\t"))
			}
		})
	}
}

// Whatever the ranges, reservations and limits: what a pool may hand out, what it
// leaves alone and what it can't have are apart, no number is two pools', and nobody
// hands out what is not to be had.
func TestNumbersAreKeptApart(t *testing.T) {
	anyRange := func(t *rapid.T) v1alpha1.PortRange {
		first := rapid.IntRange(30000, 30020).Draw(t, "first")
		return v1alpha1.PortRange(fmt.Sprintf("%d-%d", first, rapid.IntRange(first, 30020).Draw(t, "last")))
	}
	rapid.Check(t, func(t *rapid.T) {
		var pools []v1alpha1.NodePortPool
		for i := range rapid.IntRange(1, 4).Draw(t, "pools") {
			p := aged(string(rune('a'+i)), rapid.IntRange(0, 2).Draw(t, "age"), rapid.SliceOfN(rapid.Custom(anyRange), 1, 2).Draw(t, "ranges")...)
			p.Spec.Reserved = reserve(rapid.SliceOfN(rapid.Custom(anyRange), 0, 2).Draw(t, "reserved")...)
			p.Status.Armed = []string{"30003-30017"}
			pools = append(pools, p)
		}
		limits := Limits{FailSafe: span(30007, 30008)}
		if rapid.Bool().Draw(t, "known") {
			limits.NodePorts = span(30002, 30018)
		}
		claimed := map[uint16]string{}
		for _, p := range Owned(pools, limits) {
			if len(p.Owned.Intersect(p.Reserved))+len(p.Owned.Intersect(p.Outside))+len(p.Reserved.Intersect(p.Outside)) > 0 {
				t.Fatalf("%s: owned %v, reserved %v, outside %v", p.Name, p.Owned, p.Reserved, p.Outside)
			}
			if len(p.Armed.Subtract(p.Owned)) > 0 || len(p.Owned.Intersect(span(30003, 30017)).Subtract(p.Armed)) > 0 {
				t.Fatalf("%s: owned %v, armed %v", p.Name, p.Owned, p.Armed)
			}
			for n := range p.Owned.Union(p.Reserved).Numbers {
				if other := claimed[n]; other != "" {
					t.Fatalf("%d is of %s and %s", n, other, p.Name)
				}
				if claimed[n] = p.Name; limits.FailSafe.Contains(n) || len(limits.NodePorts) > 0 && !limits.NodePorts.Contains(n) {
					t.Fatalf("%s has %d", p.Name, n)
				}
			}
		}
	})
}
