package cloudtest

import (
	"fmt"
	"net/netip"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// The world of Chaos: two protocols, 24 ports in three pools, sixteenths of 10.0.0.0/8
// and of 2001:db8::/32, two peers. Who may come in is a bit for each of them: told
// without any of the code that is tried.
const (
	chaosFirst = 30000
	chaosPorts = 24
)

var (
	chaosProtocols = []rule.Protocol{rule.TCP, rule.UDP}
	chaosNet4      = netip.MustParsePrefix("10.0.0.0/8")
	chaosNet6      = netip.MustParsePrefix("2001:db8::/32")
	chaosRanges    = map[string]rule.PortRange{
		"a": {First: chaosFirst, Last: chaosFirst + 11}, "b": {First: chaosFirst + 12, Last: chaosFirst + 17}, "c": {First: chaosFirst + 18, Last: chaosFirst + 23},
	}
)

const (
	bits4 = 0xffff
	bits6 = bits4 << 16
)

// cells are who may come in, by protocol and port; beyond is who else may.
type cells struct {
	in     [2][chaosPorts]uint64
	beyond bool
}

func (c *cells) add(r rule.Rule, bits uint64) {
	for p, protocol := range chaosProtocols {
		if r.Protocol != protocol && r.Protocol != cloud.AnyProtocol {
			continue
		}
		for port := range chaosPorts {
			if r.Ports.Contains(uint16(chaosFirst + port)) {
				c.in[p][port] |= bits
			}
		}
	}
	c.beyond = c.beyond || r.Protocol == cloud.AnyProtocol || r.Ports.First < chaosFirst || r.Ports.Last >= chaosFirst+chaosPorts
}

// admit adds what the rule lets in.
func (c *cells) admit(r rule.Rule, peer string, peers []string) {
	if peer != "" {
		for i, known := range peers {
			if known == peer {
				c.add(r, 1<<(32+i))
				return
			}
		}
		c.beyond = true
		return
	}
	if !r.Source.IsValid() { // some other group
		c.beyond = true
		return
	}
	bits, beyond := sixteenths(r.Source)
	c.add(r, bits)
	c.beyond = c.beyond || beyond
}

// sixteenths are the bits of a prefix, and whether it reaches further.
func sixteenths(p netip.Prefix) (bits uint64, beyond bool) {
	net, shift := chaosNet4, 0
	if p.Addr().Is6() {
		net, shift = chaosNet6, 16
	}
	switch {
	case p.Bits() <= net.Bits() && p.Contains(net.Addr()):
		return bits4 << shift, p.Bits() < net.Bits()
	case !net.Contains(p.Addr()) || p.Bits() > net.Bits()+4:
		return 0, true
	}
	at := p.Addr().AsSlice()[net.Bits()/8] >> 4
	n := uint64(1)<<(net.Bits()+4-p.Bits()) - 1 // how many but one
	return (uint64(1)<<(n+1) - 1) << (uint64(at) &^ n) << shift, false
}

// prefixAt is the prefix of those of the world with so many more bits.
func prefixAt(net netip.Prefix, at, bits int) netip.Prefix {
	raw := net.Addr().AsSlice()
	raw[net.Bits()/8] = byte(at << 4)
	addr, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(addr, net.Bits()+bits).Masked()
}

func (c *cells) or(d cells) {
	for p := range c.in {
		for i := range c.in[p] {
			c.in[p][i] |= d.in[p][i]
		}
	}
	c.beyond = c.beyond || d.beyond
}

// and is what both let in.
func (c cells) and(d cells) (out cells) {
	for p := range c.in {
		for i := range c.in[p] {
			out.in[p][i] = c.in[p][i] & d.in[p][i]
		}
	}
	return out
}

// within says whether d lets in whomever c does; where not, at names one.
func (c cells) within(d cells) (at string, ok bool) {
	if c.beyond && !d.beyond {
		return "somebody from outside of the world", false
	}
	for p := range c.in {
		for i := range c.in[p] {
			if more := c.in[p][i] &^ d.in[p][i]; more != 0 {
				source := fmt.Sprintf("%010x", more)
				return Spell(rule.Rule{Protocol: chaosProtocols[p], Ports: rule.PortRange{First: uint16(chaosFirst + i), Last: uint16(chaosFirst + i)}}) + " " + source, false
			}
		}
	}
	return "", true
}

// without is c less whom d names.
func (c cells) without(d cells) cells {
	for p := range c.in {
		for i := range c.in[p] {
			c.in[p][i] &^= d.in[p][i]
		}
	}
	return c
}

// open is whom the rules of all groups let in together: at equal priority dropping wins.
func (w *chaosWorld) open(groups map[string][]cloud.Rule) (out cells) {
	var all []cloud.Rule
	for _, group := range w.Groups {
		all = append(all, groups[group]...)
	}
	for _, r := range all {
		var in cells
		if !r.Drop {
			in.admit(r.Rule, r.Peer, w.Peers)
		}
		for _, d := range all {
			if d.Drop && d.Priority <= r.Priority {
				var shut cells
				shut.admit(d.Rule, d.Peer, w.Peers)
				in = in.without(shut)
			}
		}
		out.or(in)
	}
	return out
}

func cellsOf(grants []cloud.Grant, peers []string) (out cells) {
	for _, g := range grants {
		out.admit(g.Rule, g.Peer, peers)
	}
	return out
}

// poolCells are all ports of the pools of the grants, to everybody of the families that
// they name: what coarse rules may come to.
func poolCells(grants []cloud.Grant) (out cells) {
	for _, g := range grants {
		bits := uint64(bits4)
		switch {
		case g.Peer != "":
			bits = 3 << 32
		case g.Source.Addr().Is6():
			bits = bits6
		}
		out.add(rule.Rule{Protocol: g.Protocol, Ports: chaosRanges[g.Pool]}, bits)
	}
	return out
}
