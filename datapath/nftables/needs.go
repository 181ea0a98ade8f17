package nftables

import (
	"math/bits"

	"github.com/portreeve/portreeve/internal/rule"
)

// needs are the ports of a state, and the chains and sets that their gates need, by
// how many ports.
type needs struct {
	ports    map[rule.Protocol]*register
	gates    map[rule.Gate]int // without their end
	classes  map[rule.ClassID]int
	dynamics map[string]int
}

func newNeeds() needs {
	return needs{map[rule.Protocol]*register{}, map[rule.Gate]int{}, map[rule.ClassID]int{}, map[string]int{}}
}

// needsOf counts what a set needs.
func needsOf(s rule.Set) needs {
	n, before := newNeeds(), newNeeds()
	for p, g := range s.Ports {
		n.set(p, g, before)
	}
	return n
}

// set makes g the gate of a port instead of the one it had, the zero Gate for none,
// and notes in before how often was needed what that changes.
func (n needs) set(p rule.Port, g rule.Gate, before needs) {
	r := n.ports[p.Protocol]
	if r == nil {
		r = &register{}
		n.ports[p.Protocol] = r
	}
	if had := r.set(p.Number, g); had != nil {
		n.count(*had, -1, before)
	}
	if g != (rule.Gate{}) {
		n.count(g, 1, before)
	}
	if r.open == 0 {
		delete(n.ports, p.Protocol)
	}
}

func (n needs) count(g rule.Gate, ports int, before needs) {
	g.Expires = 0
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
//
// Nobody says what has changed since the last Sync, so this looks at every port each
// time: ten thousand times into an array and not into a map.
func (n needs) changed(want map[rule.Port]rule.Gate) (add, drop map[rule.Port]rule.Gate) {
	add, drop = map[rule.Port]rule.Gate{}, map[rule.Port]rule.Gate{}
	seen := map[rule.Protocol]*numbers{}
	for _, protocol := range rule.Protocols {
		seen[protocol] = &numbers{}
	}
	var at struct { // the protocol of the port before: most have the same
		protocol rule.Protocol
		had      *register
		seen     *numbers
	}
	for p, g := range want {
		if p.Protocol != at.protocol {
			at.protocol, at.had, at.seen = p.Protocol, n.ports[p.Protocol], seen[p.Protocol]
		}
		at.seen.add(p.Number)
		switch had := at.had.gate(p.Number); {
		case had == nil:
			add[p] = g
		case *had != g:
			add[p], drop[p] = g, *had
		}
	}
	for protocol, had := range n.ports {
		for number := range had.numbers.minus(seen[protocol]) {
			drop[rule.Port{Protocol: protocol, Number: number}] = *had.gates[number]
		}
	}
	return add, drop
}

// register has the gates of one protocol by number.
type register struct {
	numbers numbers
	open    int // how many there are
	gates   [1 << 16]*rule.Gate
}

func (r *register) gate(number uint16) *rule.Gate {
	if r == nil {
		return nil
	}
	return r.gates[number]
}

// set returns the gate that the number had.
func (r *register) set(number uint16, g rule.Gate) *rule.Gate {
	had := r.gates[number]
	if had != nil {
		r.open--
	}
	if g == (rule.Gate{}) {
		r.numbers.remove(number)
		r.gates[number] = nil
		return had
	}
	r.open++
	r.numbers.add(number)
	r.gates[number] = &g
	return had
}

// numbers is a set of port numbers.
type numbers [1 << 16 / 64]uint64

func (s *numbers) add(n uint16)    { s[n/64] |= 1 << (n % 64) }
func (s *numbers) remove(n uint16) { s[n/64] &^= 1 << (n % 64) }

// minus yields the numbers that are in s and not in t, ascending.
func (s *numbers) minus(t *numbers) func(yield func(uint16) bool) {
	return func(yield func(uint16) bool) {
		for i := range s {
			for word := s[i] &^ t[i]; word != 0; word &= word - 1 {
				if !yield(uint16(i*64 + bits.TrailingZeros64(word))) {
					return
				}
			}
		}
	}
}
