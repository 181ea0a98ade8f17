package rule

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var anyTerms = rapid.Custom(func(t *rapid.T) Terms {
	lists := [][]netip.Prefix{nil, World, {netip.MustParsePrefix("10.0.0.0/8")}, {netip.MustParsePrefix("10.0.0.0/9"), netip.MustParsePrefix("10.128.0.0/9")}, {netip.MustParsePrefix("2001:db8::/32")}}
	return Terms{
		Sources: rapid.SampledFrom(lists).Draw(t, "sources"), Audited: rapid.SampledFrom(lists).Draw(t, "audited"),
		Limits:  Limits{PerSecond: rapid.Uint32Range(0, 2).Draw(t, "limit")},
		Log:     Log{Denied: rapid.Bool().Draw(t, "log")},
		Expires: rapid.Int64Range(0, 1).Draw(t, "expires"),
	}
})

// A set that is built of another is the one that is built of all.
func TestBuilderForgetsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, all := Builder{}, map[Port]Terms{}
		for range rapid.IntRange(1, 6).Draw(t, "sets") {
			changed := rapid.MapOfN(rapid.Custom(func(t *rapid.T) Port {
				return Port{rapid.SampledFrom(Protocols).Draw(t, "protocol"), rapid.SampledFrom([]uint16{1, 2, 30000, 65535}).Draw(t, "number")}
			}), anyTerms, 0, 4).Draw(t, "changed")
			maps.Copy(all, changed)
			var judged PortRanges
			for port := range all {
				judged = judged.Union(PortRanges{{port.Number, port.Number}})
			}
			before := b.last
			got, want := b.Build(judged, changed), Build(judged, all)
			if !got.Equal(want) || !maps.EqualFunc(got.Classes, want.Classes, slices.Equal) {
				t.Fatalf("built of another: %v, of all: %v", got, want)
			}
			if got.Ports.Equal(before.Ports) != (got.Ports == before.Ports) {
				t.Fatal("ports that did not change are other ones")
			}
		}
	})
}
