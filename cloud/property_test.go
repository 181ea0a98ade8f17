package cloud_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// The generators draw from a small world, so that rules meet.
var (
	prefixes = rapid.Custom(func(t *rapid.T) netip.Prefix {
		if rapid.Bool().Draw(t, "v6") {
			addr := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, rapid.Byte().Draw(t, "b")})
			return netip.PrefixFrom(addr, rapid.IntRange(33, 40).Draw(t, "bits")).Masked()
		}
		addr := netip.AddrFrom4([4]byte{10, rapid.Byte().Draw(t, "b"), 0, 0})
		return netip.PrefixFrom(addr, rapid.IntRange(9, 16).Draw(t, "bits")).Masked()
	})
	rules = rapid.Custom(func(t *rapid.T) rule.Rule {
		first := rapid.Uint16Range(30000, 30007).Draw(t, "first")
		return rule.Rule{
			Protocol: rapid.SampledFrom([]rule.Protocol{rule.TCP, rule.UDP}).Draw(t, "protocol"),
			Ports:    rule.PortRange{First: first, Last: first + rapid.Uint16Range(0, 3).Draw(t, "more")},
			Source:   prefixes.Draw(t, "source"),
		}
	})
	grantLists = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) cloud.Grant {
		return cloud.Grant{Rule: rules.Draw(t, "rule"), Description: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "description")}
	}), 0, 12)
	listings = rapid.Custom(func(t *rapid.T) map[string][]cloud.Rule {
		have := map[string][]cloud.Rule{}
		for _, id := range []string{"sg-1", "sg-2"} {
			have[id] = []cloud.Rule{}
			for i, r := range rapid.SliceOfNDistinct(rules, 0, 8, func(r rule.Rule) rule.Rule { return r }).Draw(t, id) {
				owner := rapid.SampledFrom([]string{ours, ours, theirs, ""}).Draw(t, "owner")
				have[id] = append(have[id], cloud.Rule{ID: fmt.Sprintf("%s-%d", id, i), Rule: r, Owner: owner})
			}
		}
		return have
	})
)

func drawWant(t *rapid.T, have map[string][]cloud.Rule) cloud.Want {
	want := cloud.Want{Owner: ours, Groups: []string{"sg-1", "sg-2"}, Grants: grantLists.Draw(t, "grants")}
	for _, id := range want.Groups { // some of what is there is wanted
		for _, r := range have[id] {
			if rapid.Bool().Draw(t, "wanted") {
				want.Grants = append(want.Grants, cloud.Grant{Rule: r.Rule})
			}
		}
	}
	n := rapid.SampledFrom([]int{60, 60, 5, 3}).Draw(t, "limit")
	want.Limits = cloud.Count{IPv4: n, IPv6: n}
	return want
}

// apply carries the changes out on a listing, as a cloud would.
func apply(c cloud.Changes, have map[string][]cloud.Rule) map[string][]cloud.Rule {
	out, made := map[string][]cloud.Rule{}, len(have["sg-1"])+len(have["sg-2"])
	for _, listed := range have {
		for _, r := range listed {
			n := 0
			if _, err := fmt.Sscanf(r.ID, "sg-1-new-%d", &n); err == nil {
				made = max(made, n)
			} else if _, err := fmt.Sscanf(r.ID, "sg-2-new-%d", &n); err == nil {
				made = max(made, n)
			}
		}
	}
	for _, g := range c.Groups {
		out[g.ID] = slices.DeleteFunc(slices.Clone(have[g.ID]), func(r cloud.Rule) bool {
			return slices.ContainsFunc(g.Remove, func(gone cloud.Rule) bool { return gone.ID == r.ID })
		})
		for _, a := range g.Add {
			made++
			out[g.ID] = append(out[g.ID], cloud.Rule{ID: fmt.Sprintf("%s-new-%d", g.ID, made), Owner: ours, Rule: a.Rule})
		}
	}
	return out
}

// spots are a few packets around the rules of the small world.
func spots(t *rapid.T) []rule.Rule {
	var out []rule.Rule
	for range 60 {
		packet := rules.Draw(t, "packet")
		packet.Ports.Last = packet.Ports.First
		packet.Source = netip.PrefixFrom(packet.Source.Addr(), packet.Source.Addr().BitLen())
		out = append(out, packet)
	}
	return out
}

func anybodyAdmits(have map[string][]cloud.Rule, packet rule.Rule, which func(cloud.Rule) bool) bool {
	for _, listed := range have {
		if slices.ContainsFunc(listed, func(r cloud.Rule) bool { return which(r) && r.Covers(packet) }) {
			return true
		}
	}
	return false
}

func isOurs(r cloud.Rule) bool { return r.Owner == ours }
func isAny(cloud.Rule) bool    { return true }

func TestApplyingAPlanGivesExactlyWhatWasWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have := listings.Draw(t, "have")
		want := drawWant(t, have)
		changes := cloud.Plan(want, have, cloud.Capabilities{})
		after := apply(changes, have)
		for id, listed := range after {
			once := map[rule.Rule]bool{}
			var foreignBefore, foreignAfter []cloud.Rule
			for _, r := range listed {
				if !isOurs(r) {
					foreignAfter = append(foreignAfter, r)
				} else if once[r.Rule] {
					t.Fatalf("%v is there twice", r.Rule)
				}
				once[r.Rule] = once[r.Rule] || isOurs(r)
			}
			for _, r := range have[id] {
				if !isOurs(r) {
					foreignBefore = append(foreignBefore, r)
				}
			}
			if !reflect.DeepEqual(foreignBefore, foreignAfter) {
				t.Fatalf("%s: foreign rules changed from %v to %v", id, foreignBefore, foreignAfter)
			}
		}
		for _, packet := range spots(t) {
			switch wanted := admits(want.Grants, packet); {
			case !wanted && anybodyAdmits(after, packet, isOurs):
				t.Fatalf("%v is admitted, and nobody wants it", packet)
			case wanted && !anybodyAdmits(after, packet, isAny) && !admits(slices.Concat(changes.Overflow, changes.OverQuota), packet):
				t.Fatalf("%v is neither in force nor named as overflow", packet)
			}
		}
		settles(t, want, after, changes)
	})
}

// settles makes sure that there is nothing to do once a plan was carried out. Where
// not all fits, what goes may make room for more, a few times.
func settles(t *rapid.T, want cloud.Want, have map[string][]cloud.Rule, changes cloud.Changes) {
	rounds := 1
	if len(changes.Overflow)+len(changes.OverQuota)+len(changes.Coarse) > 0 {
		rounds = 8
	}
	for range rounds {
		if changes = cloud.Plan(want, have, cloud.Capabilities{}); changes.Empty() {
			return
		}
		have = apply(changes, have)
	}
	t.Fatalf("after %d plans, there still is %+v", rounds, changes)
}

// What is widened is widened for its own pool, within its own ports, and said.
func TestCoarseRulesAdmitWhatIsWantedAndSayWhatElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have := listings.Draw(t, "have")
		want := drawWant(t, have)
		for i := range want.Grants {
			want.Grants[i].Pool = "odd"
			if want.Grants[i].Ports.Last = want.Grants[i].Ports.First; want.Grants[i].Ports.First%2 == 0 {
				want.Grants[i].Pool = "even"
			}
		}
		want.Coarsen = true
		want.Pools = map[string]cloud.Pool{"even": {Rules: rapid.IntRange(0, 3).Draw(t, "quota")}, "odd": {}}
		changes := cloud.Plan(want, have, cloud.Capabilities{})
		after := apply(changes, have)
		for _, packet := range spots(t) {
			wanted, in := admits(want.Grants, packet), anybodyAdmits(after, packet, isOurs)
			switch {
			case in && !wanted && !admits(changes.Coarse, packet):
				t.Fatalf("%v is admitted, and nobody said so", packet)
			case in && !wanted && !slices.ContainsFunc(want.Grants, func(g cloud.Grant) bool { return g.Ports == packet.Ports }):
				t.Fatalf("%v is admitted to a port that nobody wants", packet)
			case wanted && !anybodyAdmits(after, packet, isAny) && !admits(slices.Concat(changes.Overflow, changes.OverQuota), packet):
				t.Fatalf("%v is neither in force nor named as overflow", packet)
			}
		}
		settles(t, want, after, changes)
	})
}

func TestAPlanDoesNotDependOnTheOrderOfItsInputs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have := listings.Draw(t, "have")
		want := drawWant(t, have)
		first := cloud.Plan(want, have, cloud.Capabilities{})
		seed := rapid.Uint64().Draw(t, "seed")
		shuffled := map[string][]cloud.Rule{}
		for id, listed := range have {
			shuffled[id] = shuffle(seed, listed)
		}
		want.Grants = shuffle(seed, want.Grants)
		if second := cloud.Plan(want, shuffled, cloud.Capabilities{}); !reflect.DeepEqual(first, second) {
			t.Fatalf("plan\n%+v\nafter a shuffle\n%+v", first, second)
		}
	})
}

func TestWhatIsWantedAndInForceIsNeverRemovedForLackOfRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have := listings.Draw(t, "have")
		want := drawWant(t, have)
		n := rapid.IntRange(1, 8).Draw(t, "limit")
		want.Limits = cloud.Count{IPv4: n, IPv6: n}
		after := apply(cloud.Plan(want, have, cloud.Capabilities{}), have)
		whole := func(r cloud.Rule) bool { return isOurs(r) && cloud.Covered(justRules(want.Grants), r.Rule) }
		for _, packet := range spots(t) {
			if anybodyAdmits(have, packet, whole) && !anybodyAdmits(after, packet, isAny) {
				t.Fatalf("%v was in force, is wanted, and is cut off", packet)
			}
		}
	})
}

func TestMergeAdmitsExactlyTheSamePackets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before := grantLists.Draw(t, "grants")
		merged := cloud.Merge(before)
		if len(merged) > 0 && !slices.IsSortedFunc(merged, func(a, b cloud.Grant) int { return rule.CompareRules(a.Rule, b.Rule) }) {
			t.Fatalf("not in canonical order: %v", merged)
		}
		for range 50 {
			packet := rules.Draw(t, "packet")
			packet.Ports.Last = packet.Ports.First
			packet.Source = netip.PrefixFrom(packet.Source.Addr(), packet.Source.Addr().BitLen())
			if was, is := admits(before, packet), admits(merged, packet); was != is {
				t.Fatalf("%v: admitted before %v, after %v\nbefore %v\nafter %v", packet, was, is, before, merged)
			}
		}
		for _, g := range before {
			if !cloud.Covered(justRules(merged), g.Rule) {
				t.Fatalf("%v is not covered by %v", g.Rule, merged)
			}
		}
		for _, g := range merged {
			if !cloud.Covered(justRules(before), g.Rule) {
				t.Fatalf("%v widens %v", g.Rule, before)
			}
		}
		if again := cloud.Merge(merged); !reflect.DeepEqual(justRules(again), justRules(merged)) {
			t.Fatalf("merging twice: %v, then %v", merged, again)
		}
		if shuffled := cloud.Merge(shuffle(rapid.Uint64().Draw(t, "seed"), before)); !reflect.DeepEqual(shuffled, merged) {
			t.Fatalf("shuffled: %v, before %v", shuffled, merged)
		}
	})
}

func TestCoveredAgreesWithAskingForEachPacket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		grants, atom := grantLists.Draw(t, "grants"), rules.Draw(t, "atom")
		every := true
		for port := atom.Ports.First; port <= atom.Ports.Last; port++ {
			for _, source := range pieces(atom.Source, 8) {
				packet := rule.Rule{Protocol: atom.Protocol, Ports: rule.PortRange{First: port, Last: port}, Source: source}
				every = every && admits(grants, packet)
			}
		}
		if got := cloud.Covered(justRules(grants), atom); got != every {
			t.Fatalf("Covered says %v, packet by packet %v", got, every)
		}
	})
}

// pieces splits a prefix into its parts of n more bits at most; the prefixes
// drawn here differ in no later bit.
func pieces(p netip.Prefix, n int) []netip.Prefix {
	longest := 16
	if p.Addr().Is6() {
		longest = 40
	}
	if n == 0 || p.Bits() >= longest {
		return []netip.Prefix{p}
	}
	low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	bytes := p.Addr().AsSlice()
	bytes[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	addr, _ := netip.AddrFromSlice(bytes)
	return append(pieces(low, n-1), pieces(netip.PrefixFrom(addr, p.Bits()+1), n-1)...)
}

func admits(grants []cloud.Grant, packet rule.Rule) bool {
	return slices.ContainsFunc(grants, func(g cloud.Grant) bool { return g.Covers(packet) })
}

func justRules(grants []cloud.Grant) []rule.Rule {
	out := make([]rule.Rule, len(grants))
	for i, g := range grants {
		out[i] = g.Rule
	}
	return out
}

func shuffle[T any](seed uint64, in []T) []T {
	out := slices.Clone(in)
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}
