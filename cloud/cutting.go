package cloud

import (
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// cuttingNobody returns the part of the changes that can be done although not
// every grant could be: removals of what admits nothing wanted, or only what
// other rules in force, or added, admit as well. A revoked source is so cut off
// even while another group or grant is in trouble.
func (c Changes) cuttingNobody(grants, added []Grant) Changes {
	standing := slices.Clone(added)
	for _, g := range c.Groups {
		standing = append(standing, g.admitting()...)
	}
	stands := bySource(standing)
	wanted := bySource(grants)
	out := Changes{}
	for _, g := range c.Groups {
		harmless := slices.DeleteFunc(slices.Clone(g.Remove), func(r Rule) bool {
			k := kind{r.Protocol, r.Peer, r.Source.Addr().Is6()}
			return slices.ContainsFunc(wanted[k].meeting(block{r.Ports, r.Source}), func(lost block) bool { return !stands[k].holds(lost) })
		})
		out.Groups = append(out.Groups, GroupChanges{ID: g.ID, Remove: harmless})
	}
	return out
}

// of returns the changes of one group.
func (c Changes) of(group string) GroupChanges {
	for _, g := range c.Groups {
		if g.ID == group {
			return g
		}
	}
	return GroupChanges{ID: group}
}

// admitting lists the rules that stay and serve what is wanted, ours and foreign.
func (g GroupChanges) admitting() []Grant {
	var out []Grant
	for _, r := range slices.Concat(g.Keep, g.Serving) {
		if !r.unseen() {
			out = append(out, Grant{Rule: r.Rule, Peer: r.Peer})
		}
	}
	return out
}

// kind is what the regions of different pools have in common.
type kind struct {
	protocol rule.Protocol
	peer     string
	ipv6     bool
}

func bySource(grants []Grant) map[kind]region {
	blocks := map[kind][]block{}
	for _, g := range grants {
		k := kind{g.Protocol, g.Peer, g.Source.Addr().Is6()}
		blocks[k] = append(blocks[k], block{g.Ports, g.Source.Masked()})
	}
	out := map[kind]region{}
	for k, b := range blocks {
		out[k] = regionOf(b)
	}
	return out
}

// meeting returns what both the region and the block admit.
func (r region) meeting(b block) []block {
	var out []block
	for _, s := range r {
		if !overlap(s.ports, b.ports) {
			continue
		}
		ports := rule.PortRange{First: max(s.ports.First, b.ports.First), Last: min(s.ports.Last, b.ports.Last)}
		for _, source := range s.sources {
			switch {
			case !source.IsValid() || rule.CoversPrefix(b.source, source):
				out = append(out, block{ports, source})
			case rule.CoversPrefix(source, b.source):
				out = append(out, block{ports, b.source})
			}
		}
	}
	return out
}
