package cloud

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/portreeve/portreeve/internal/rule"
)

// Merge returns few rules that admit exactly the packets the grants admit:
// for each port the prefixes that unite exactly are united, then each prefix
// takes one rule per run of adjacent ports. It never widens. A merged rule
// carries the descriptions of all grants that it serves. The result is in
// canonical order and does not depend on the order of the grants.
//
//	30000 from 10.0.0.0/25 ┐
//	30000 from 10.0.0.128/25 ├─► 30000-30001 from 10.0.0.0/24
//	30001 from 10.0.0.0/24 ┘
func Merge(grants []Grant) []Grant {
	var out []Grant
	for protocol, spans := range spansByProtocol(rulesOf(grants)) {
		last := map[netip.Prefix]int{} // prefix -> its latest rule in out
		for _, s := range spans {
			for _, source := range s.sources {
				i, ok := last[source]
				if ok && uint32(out[i].Ports.Last)+1 == uint32(s.ports.First) {
					out[i].Ports.Last = s.ports.Last
					continue
				}
				last[source] = len(out)
				out = append(out, Grant{Rule: rule.Rule{Protocol: protocol, Ports: s.ports, Source: source}})
			}
		}
	}
	slices.SortFunc(out, compareGrants)
	describe(out, canonicalOrder(grants))
	return out
}

// Covered says whether the rules together admit every packet of the atom. It
// proves that what a policy asked for is in force, however it was merged.
func Covered(rules []rule.Rule, atom rule.Rule) bool {
	if !atom.Source.IsValid() {
		return false
	}
	near := slices.DeleteFunc(slices.Clone(rules), func(r rule.Rule) bool {
		_, meet := intersect(r, atom)
		return !meet
	})
	next := uint32(atom.Ports.First)
	for _, s := range spansOf(near) {
		if uint32(s.ports.Last) < next {
			continue
		}
		if uint32(s.ports.First) > next || !rule.Covers(s.sources, atom.Source.Masked()) {
			return false
		}
		if next = uint32(s.ports.Last) + 1; next > uint32(atom.Ports.Last) {
			return true
		}
	}
	return false
}

// describe gives each merged rule the distinct descriptions of the grants that
// meet it. Grants are sorted by protocol and first port; widest is the longest
// range among them, so those before First-widest cannot reach the rule.
func describe(merged, grants []Grant) {
	widest := uint16(0)
	for _, g := range grants {
		widest = max(widest, g.Ports.Last-g.Ports.First)
	}
	for i := range merged {
		m := &merged[i]
		from := m.Ports.First - min(widest, m.Ports.First)
		start, _ := slices.BinarySearchFunc(grants, from, func(g Grant, first uint16) int {
			return cmp.Or(cmp.Compare(g.Protocol, m.Protocol), cmp.Compare(g.Ports.First, first))
		})
		said := map[string]bool{}
		for _, g := range grants[start:] {
			if g.Protocol != m.Protocol || g.Ports.First > m.Ports.Last {
				break
			}
			if _, meet := intersect(g.Rule, m.Rule); meet && g.Description != "" {
				said[g.Description] = true
			}
		}
		m.Description = strings.Join(slices.Sorted(maps.Keys(said)), "; ")
	}
}

// span is a run of ports with the same sources, canonical.
type span struct {
	ports   rule.PortRange
	sources []netip.Prefix
}

func spansByProtocol(rules []rule.Rule) map[rule.Protocol][]span {
	byProtocol := map[rule.Protocol][]rule.Rule{}
	for _, r := range rules {
		byProtocol[r.Protocol] = append(byProtocol[r.Protocol], r)
	}
	out := make(map[rule.Protocol][]span, len(byProtocol))
	for protocol, rules := range byProtocol {
		out[protocol] = spansOf(rules)
	}
	return out
}

// spansOf cuts the ports wherever a rule begins or ends, and drops the pieces
// that no rule admits. All rules are of one protocol.
func spansOf(rules []rule.Rule) []span {
	cuts := make([]uint32, 0, 2*len(rules)) // 32 bits: one beyond port 65535 is a cut
	for _, r := range rules {
		cuts = append(cuts, uint32(r.Ports.First), uint32(r.Ports.Last)+1)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	sources := make([][]netip.Prefix, len(cuts))
	for _, r := range rules {
		i, _ := slices.BinarySearch(cuts, uint32(r.Ports.First))
		for ; cuts[i] <= uint32(r.Ports.Last); i++ {
			sources[i] = append(sources[i], r.Source)
		}
	}
	var out []span
	for i, s := range sources {
		if len(s) > 0 {
			ports := rule.PortRange{First: uint16(cuts[i]), Last: uint16(cuts[i+1] - 1)}
			out = append(out, span{ports, rule.Canonical(s)})
		}
	}
	return out
}

func rulesOf(grants []Grant) []rule.Rule {
	out := make([]rule.Rule, len(grants))
	for i, g := range grants {
		out[i] = g.Rule
	}
	return out
}

func canonicalOrder(grants []Grant) []Grant {
	return slices.SortedFunc(slices.Values(grants), compareGrants)
}

func compareGrants(a, b Grant) int {
	return cmp.Or(rule.CompareRules(a.Rule, b.Rule), cmp.Compare(a.Description, b.Description))
}
