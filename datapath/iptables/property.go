package iptables

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/internal/rule"
)

// property is something that gates have in common beyond who passes. Each has a set
// per family of the ports that have it (half of all addresses, protocol, number),
// whose name says what it is, and a few rules; so there is no rule per port, but for
// the one that counts its connections.
type property struct {
	kind kind
	a, b uint32
}

type kind string

const (
	counted  kind = "CONN"  // has Limits.Connections: its number stands in chainCount
	rated    kind = "R"     // Limits.PerSecond and Limits.Burst
	local    kind = "LOCAL" // is Local
	denials  kind = "LD"    // Log.Denied, at most so many lines a second
	accepted kind = "LA"    // Log.Accepted, the same
)

// set names the property's set: PORTREEVE-R4-32-64 for 50 a second, 100 at once. The
// numbers are hexadecimal, else the largest would not fit into a name.
func (p property) set(family string) setID {
	switch p.kind {
	case counted, local:
		return setID("PORTREEVE-" + string(p.kind) + family)
	case rated:
		return setID(fmt.Sprintf("PORTREEVE-R%s-%x-%x", family, p.a, p.b))
	}
	return setID(fmt.Sprintf("PORTREEVE-%s%s-%x", p.kind, family, p.a))
}

// sets names both of the property's sets.
func (p property) sets() [2]setID { return [2]setID{p.set("4"), p.set("6")} }

// parseProperty reads the name of a property's set.
func parseProperty(id setID) (p property, family uint8, ok bool) {
	for digit, family := range map[string]uint8{"4": unix.AF_INET, "6": unix.AF_INET6} {
		candidates := []property{{kind: counted}, {kind: local}}
		var a, b uint32
		if n, _ := fmt.Sscanf(string(id), "PORTREEVE-R"+digit+"-%x-%x", &a, &b); n == 2 {
			candidates = append(candidates, property{rated, a, b})
		}
		for _, k := range []kind{denials, accepted} {
			if n, _ := fmt.Sscanf(string(id), "PORTREEVE-"+string(k)+digit+"-%x", &a); n == 1 {
				candidates = append(candidates, property{k, a, 0})
			}
		}
		for _, p := range candidates {
			if p.set(digit) == id { // exactly as we would write it
				return p, family, true
			}
		}
	}
	return property{}, 0, false
}

// properties of a gate.
func properties(g rule.Gate) []property {
	var out []property
	if g.Limits.Connections > 0 {
		out = append(out, property{kind: counted})
	}
	if g.Limits.PerSecond > 0 {
		out = append(out, property{rated, g.Limits.PerSecond, g.Limits.Burst})
	}
	if g.Local {
		out = append(out, property{kind: local})
	}
	if g.Log.Denied {
		out = append(out, property{denials, g.Log.PerSecond, 0})
	}
	if g.Log.Accepted {
		out = append(out, property{accepted, g.Log.PerSecond, 0})
	}
	return out
}

// put is the inverse of properties, but for the number of connections.
func (p property) put(t *rule.Terms) {
	switch p.kind {
	case rated:
		t.Limits.PerSecond, t.Limits.Burst = p.a, p.b
	case local:
		t.Local = true
	case denials:
		t.Log.Denied, t.Log.PerSecond = true, p.a
	case accepted:
		t.Log.Accepted, t.Log.PerSecond = true, p.a
	}
}

func compareProperties(p, q property) int {
	return cmp.Or(cmp.Compare(p.kind, q.kind), cmp.Compare(p.a, q.a), cmp.Compare(p.b, q.b))
}

// shape is what the rules depend on: the properties that some port has. Those of
// sets alone (who passes, ends, is denied, where) never change a rule.
type shape []property

func shapeOf[V any](properties map[property]V) shape {
	return slices.SortedFunc(maps.Keys(properties), compareProperties)
}

func (s shape) of(k kind) shape {
	return slices.DeleteFunc(slices.Clone(s), func(p property) bool { return p.kind != k })
}
