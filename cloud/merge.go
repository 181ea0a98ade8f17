package cloud

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/portreeve/portreeve/internal/rule"
)

// Merge returns few rules that admit exactly the packets the grants admit, those of
// each pool by themselves: prefixes that unite exactly are united, and each rule
// reaches over as many adjacent ports as admit its source. It never widens. A merged
// rule carries the descriptions of all grants that it serves. The result is in
// canonical order and does not depend on the order of the grants.
//
//	30000 from 10.0.0.0/25 ┐
//	30000 from 10.0.0.128/25 ├─► 30000-30001 from 10.0.0.0/24
//	30001 from 10.0.0.0/24 ┘
func Merge(grants []Grant) []Grant {
	lots := map[lot][]Grant{}
	for _, g := range canonicalGrants(grants) {
		lots[lotOf(g)] = append(lots[lotOf(g)], g)
	}
	var out []Grant
	for key, grants := range lots {
		s := share{lot: key}
		served := newIndex(blocksOf(grants))
		for _, b := range cover(regionOf(served.blocks), nil) {
			g := s.grant(b)
			g.Description = described(g, grants, served)
			out = append(out, g)
		}
	}
	slices.SortFunc(out, compareGrants)
	return out
}

// Covered says whether the rules together admit every packet of the atom. It
// proves that what a policy asked for is in force, however it was merged.
func Covered(rules []rule.Rule, atom rule.Rule) bool {
	atom = masked(atom)
	var near []block
	for _, r := range rules {
		if b := (block{r.Ports, r.Source}); r.Protocol == atom.Protocol && r.Source.IsValid() && b.meets(block{atom.Ports, atom.Source}) {
			near = append(near, b)
		}
	}
	return atom.Source.IsValid() && len(near) > 0 && regionOf(near).holds(block{atom.Ports, atom.Source})
}

// described returns the distinct descriptions of the grants of its lot that meet the
// rule.
func described(g Grant, grants []Grant, blocks *index) string {
	said := map[string]bool{}
	blocks.meeting(block{g.Ports, g.Source}, func(i int) {
		if text := grants[i].Description; text != "" {
			said[text] = true
		}
	})
	return strings.Join(slices.Sorted(maps.Keys(said)), "; ")
}

func blocksOf(grants []Grant) []block {
	out := make([]block, len(grants))
	for i, g := range grants {
		out[i] = block{g.Ports, g.Source}
	}
	return out
}

// canonicalGrants returns the grants masked, sorted and without repetition.
func canonicalGrants(grants []Grant) []Grant {
	out := slices.Clone(grants)
	for i := range out {
		out[i].Rule = masked(out[i].Rule)
	}
	slices.SortFunc(out, compareGrants)
	return slices.Compact(out)
}

func compareGrants(a, b Grant) int {
	return cmp.Or(rule.CompareRules(a.Rule, b.Rule), cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.Description, b.Description))
}

// distinct returns the ids without repetition, each at its first place.
func distinct(ids []string) []string {
	var out []string
	for _, id := range ids {
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}
