package model

import (
	"math/bits"
	"net/netip"
	"slices"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// The clients, each with a /28 of its own. partner and neighbour lie side by side,
// and are a /27 together; outsider is named by nobody.
const (
	office    = "office"
	street    = "street"
	partner   = "partner"
	neighbour = "neighbour"
	outsider  = "outsider"
)

var (
	networks = map[string]netip.Prefix{
		office:    netip.MustParsePrefix("203.0.113.0/28"),
		street:    netip.MustParsePrefix("198.51.100.0/28"),
		partner:   netip.MustParsePrefix("192.0.2.0/28"),
		neighbour: netip.MustParsePrefix("192.0.2.16/28"),
		outsider:  netip.MustParsePrefix("198.18.0.0/28"),
	}
	names   = []string{office, street, partner, neighbour, outsider}
	clients = map[string]*lab.Client{}
)

// crowd is a set of clients, one bit for each: all that sources can say here, since
// nobody names less than a client's network.
type crowd uint8

const everybody crowd = 1<<5 - 1

func crowdOf(name string) crowd { return 1 << slices.Index(names, name) }

func (c crowd) has(name string) bool { return c&crowdOf(name) != 0 }

// within is who has an address in the network.
func within(cidr v1alpha1.CIDR) crowd {
	var c crowd
	prefix := netip.MustParsePrefix(string(cidr))
	for _, name := range names {
		if prefix.Contains(networks[name].Addr()) {
			c |= crowdOf(name)
		}
	}
	return c
}

func both() crowd { return crowdOf(partner) | crowdOf(neighbour) }

// joined is how many networks the crowd is when those side by side are joined.
func (c crowd) joined() int {
	n := bits.OnesCount8(uint8(c))
	if c&both() == both() {
		n--
	}
	return n
}

func (c crowd) addresses() int { return 16 * bits.OnesCount8(uint8(c)) }

// sourcesOf are the policy's sources in a pool: its own, or, where it has none, the
// pool's defaults.
func sourcesOf(p *v1alpha1.NodePortPolicy, pool *v1alpha1.NodePortPool) (sources []v1alpha1.Source, defaults bool) {
	if p.Spec.Sources != nil || pool == nil {
		return p.Spec.Sources, false
	}
	for _, d := range pool.Spec.DefaultSources {
		sources = append(sources, v1alpha1.Source{CIDR: d.CIDR, AddressSet: d.AddressSet, Entity: d.Entity})
	}
	return sources, true
}

// admitted is who may reach a port of the policy on a number of the pool, and
// whether each source contributes all that it says.
func (w *world) admitted(p *v1alpha1.NodePortPolicy, pool *v1alpha1.NodePortPool, port string) (who crowd, clean bool) {
	sources, defaults := sourcesOf(p, pool)
	rails := pool.Spec.Guardrails
	clean = true
	var own []crowd
	var sets []string
	for _, s := range sources {
		switch {
		case len(s.Ports) > 0 && !slices.Contains(s.Ports, port):
		case s.Entity != "" && rails.World == v1alpha1.Allow:
			who = everybody
		case s.Entity != "":
			clean = false
		case s.CIDR != "":
			left := within(s.CIDR)
			for _, hole := range s.Except {
				left &^= within(hole)
			}
			own = append(own, left)
		case !defaults && !w.mayName(p.Namespace, string(s.AddressSet), rails), w.sets[string(s.AddressSet)] == nil:
			clean = false
		case !slices.Contains(sets, string(s.AddressSet)):
			sets = append(sets, string(s.AddressSet))
		}
	}
	if who == everybody {
		return who, clean
	}
	slices.Sort(sets)
	networks, ok := judge(rails, 0, own)
	clean = clean && ok
	var parts []crowd
	for _, set := range sets {
		var part crowd
		for _, cidr := range w.sets[set].Spec.CIDRs {
			inside, ok := inside(rails, within(cidr))
			part |= inside
			clean = clean && ok
		}
		parts = append(parts, part)
	}
	all, ok := judge(rails, networks, parts)
	return all, clean && ok
}

// mayName says whether policies of a namespace may refer to a set.
func (w *world) mayName(namespace, set string, rails v1alpha1.Guardrails) bool {
	s := w.sets[set]
	if s == nil || s.Spec.AllowedFor == nil || len(rails.AddressSets) > 0 && !slices.Contains(rails.AddressSets, v1alpha1.ObjectName(set)) {
		return false
	}
	return selects(&s.Spec.AllowedFor.NamespaceSelector, namespace)
}

// inside leaves out a network that is not within the allowed sources.
func inside(rails v1alpha1.Guardrails, c crowd) (crowd, bool) {
	var allowed crowd
	for _, cidr := range rails.AllowedSources {
		allowed |= within(cidr)
	}
	if len(rails.AllowedSources) > 0 && c&^allowed != 0 {
		return 0, false
	}
	return c, true
}

// judge adds parts to those who stand already, as far as the rails allow: nobody
// outside the allowed sources, no network wider than the widest, none in whose
// turn there are too many.
func judge(rails v1alpha1.Guardrails, stand crowd, parts []crowd) (who crowd, clean bool) {
	clean = true
	who = stand
	all := stand
	kept := make([]crowd, len(parts))
	for i, c := range parts {
		part, ok := inside(rails, c)
		kept[i], clean, all = part, clean && ok, all|part
	}
	tooWide := rails.WidestIPv4 != nil && *rails.WidestIPv4 > 27 && all&both() == both()
	clean = clean && !tooWide
	for _, part := range kept {
		if tooWide {
			part &^= both()
		}
		more := who | part
		if rails.MaxCIDRs != nil && more.joined() > int(*rails.MaxCIDRs) || rails.MaxAddresses != nil && more.addresses() > int(*rails.MaxAddresses) {
			clean = false
			continue
		}
		who = more
	}
	return who, clean
}
