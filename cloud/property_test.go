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
	for _, listed := range have { // some of what is there is wanted
		for _, r := range listed {
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
	out := map[string][]cloud.Rule{}
	for _, g := range c.Groups {
		out[g.ID] = slices.DeleteFunc(slices.Clone(have[g.ID]), func(r cloud.Rule) bool {
			return slices.ContainsFunc(g.Remove, func(gone cloud.Rule) bool { return gone.ID == r.ID })
		})
		for i, a := range g.Add {
			out[g.ID] = append(out[g.ID], cloud.Rule{ID: fmt.Sprintf("%s-new-%d", g.ID, i), Owner: ours, Rule: a.Rule})
		}
	}
	return out
}

func TestApplyingAPlanGivesExactlyWhatWasWanted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have := listings.Draw(t, "have")
		want := drawWant(t, have)
		changes := cloud.Plan(want, have)
		after := apply(changes, have)

		wanted, admitted, oursNow := map[rule.Rule]bool{}, map[rule.Rule]bool{}, map[rule.Rule]int{}
		for _, g := range want.Grants {
			wanted[g.Rule] = true
		}
		for id, listed := range after {
			var foreignBefore, foreignAfter []cloud.Rule
			for _, r := range listed {
				admitted[r.Rule] = true
				if r.Owner == ours {
					oursNow[r.Rule]++
				} else {
					foreignAfter = append(foreignAfter, r)
				}
			}
			for _, r := range have[id] {
				if r.Owner != ours {
					foreignBefore = append(foreignBefore, r)
				}
			}
			if !reflect.DeepEqual(foreignBefore, foreignAfter) {
				t.Fatalf("%s: foreign rules changed from %v to %v", id, foreignBefore, foreignAfter)
			}
		}
		for r, n := range oursNow {
			if !wanted[r] || n > 1 {
				t.Fatalf("%v is there %d times, wanted: %v", r, n, wanted[r])
			}
		}
		for _, o := range changes.Overflow {
			admitted[o.Rule] = true // accounted for
		}
		for r := range wanted {
			if !admitted[r] {
				t.Fatalf("%v is neither in force nor named as overflow", r)
			}
		}
		if again := cloud.Plan(want, after); !again.Empty() {
			t.Fatalf("the plan after the plan is not empty: %+v", again)
		}
	})
}

func TestAPlanDoesNotDependOnTheOrderOfItsInputs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have := listings.Draw(t, "have")
		want := drawWant(t, have)
		first := cloud.Plan(want, have)
		seed := rapid.Uint64().Draw(t, "seed")
		shuffled := map[string][]cloud.Rule{}
		for id, listed := range have {
			shuffled[id] = shuffle(seed, listed)
		}
		want.Grants = shuffle(seed, want.Grants)
		if second := cloud.Plan(want, shuffled); !reflect.DeepEqual(first, second) {
			t.Fatalf("plan\n%+v\nafter a shuffle\n%+v", first, second)
		}
	})
}

func TestWhatIsWantedAndInForceIsNeverRemovedForLackOfRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		have := listings.Draw(t, "have")
		want := drawWant(t, have)
		want.Limits = cloud.Count{}
		kept := map[rule.Rule]bool{}
		changes := cloud.Plan(want, have)
		for _, g := range changes.Groups {
			for _, r := range g.Keep {
				kept[r.Rule] = true
			}
		}
		for _, g := range changes.Groups {
			for _, r := range g.Remove {
				wanted := slices.ContainsFunc(want.Grants, func(w cloud.Grant) bool { return w.Rule == r.Rule })
				if wanted && !kept[r.Rule] {
					t.Fatalf("%v is wanted, in force, and goes", r)
				}
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
