package nftables

import "github.com/portreeve/portreeve/internal/rule"

// needs are the chains and sets that the gates of ports need, by how many ports.
type needs struct {
	gates    map[rule.Gate]int // without what stands with the port
	classes  map[rule.ClassID]int
	dynamics map[string]int
	local    map[bool]int // by whether the gate is Local
}

func newNeeds() needs {
	return needs{map[rule.Gate]int{}, map[rule.ClassID]int{}, map[string]int{}, map[bool]int{}}
}

// needsOf counts what a set needs.
func needsOf(s rule.Set) needs {
	n, before := newNeeds(), newNeeds()
	for _, g := range s.Ports.All {
		n.count(g, 1, before)
	}
	return n
}

// count notes that so many ports more have the gate, and in before how often was
// needed what that changes.
func (n needs) count(g rule.Gate, ports int, before needs) {
	count(n.local, before.local, g.Local, ports)
	g = behind(g)
	count(n.gates, before.gates, g, ports)
	for _, id := range []rule.ClassID{g.Class, g.Audit} {
		if id != "" {
			count(n.classes, before.classes, id, ports)
		}
	}
	for _, d := range dynamicsOf(g) {
		count(n.dynamics, before.dynamics, d.name, ports)
	}
}

func count[K comparable](now, before map[K]int, key K, ports int) {
	if _, noted := before[key]; !noted {
		before[key] = now[key]
	}
	now[key] += ports
}

// turned returns what is needed now and was not before, and what no longer is; it
// takes the latter out of now.
func turned[K comparable](before, now map[K]int) (added, gone []K) {
	for k, was := range before {
		switch {
		case now[k] > 0 && was == 0:
			added = append(added, k)
		case now[k] == 0:
			delete(now, k)
			if was > 0 {
				gone = append(gone, k)
			}
		}
	}
	return added, gone
}

// changed returns the gates that come and those that go when the ports become want.
// A port whose gate changes is among both.
func changed(have, want rule.Gates) (add, drop map[rule.Port]rule.Gate) {
	add, drop = map[rule.Port]rule.Gate{}, map[rule.Port]rule.Gate{}
	for c := range have.Changes(want) {
		if c.To != (rule.Gate{}) {
			add[c.Key] = c.To
		}
		if c.From != (rule.Gate{}) {
			drop[c.Key] = c.From
		}
	}
	return add, drop
}
