package nftables

import (
	"strings"
	"time"

	"github.com/portreeve/portreeve/internal/rule"
	"github.com/portreeve/portreeve/internal/table"
)

// portTables are the elements of the sets that lead from a port to its gate, and of the
// one that says of which it is Local.
type portTables struct{ open, ends, local []kernelElement }

// takePorts reads which port leads to which gate, and until when.
func (s *state) takePorts(from portTables, now time.Time) error {
	ending := map[rule.Port]kernelElement{} // as a rule few
	ports := s.Ports.Edit()
	type reading struct {
		rule.Gate
		ok bool
	}
	chains := map[string]reading{} // many lead to one
	for _, e := range from.open {
		port, known := portOf(e.key)
		r, seen := chains[e.chain]
		if !seen {
			r.Gate, r.ok = gateOf(e.chain)
			r.ok = r.ok && r.Gate != (rule.Gate{})
			chains[e.chain] = r
		}
		if !r.ok || !known {
			return damaged("set %s has an element that leads to %q", setPorts, e.chain)
		}
		ports.Set(port, r.Gate)
		if e.left > 0 {
			ending[port] = e
		}
	}
	if err := takeEnds(ports, ending, from.ends, now); err != nil {
		return err
	}
	for _, e := range from.local {
		port, known := portOf(e.key)
		g := ports.Get(port)
		if !known || g == (rule.Gate{}) {
			return damaged("set %s has a port without a gate", setLocal)
		}
		g.Local = true
		ports.Set(port, g)
	}
	s.Ports = ports.Table()
	return nil
}

// takeEnds puts the ports that end, or have ended, to those that are open, of which
// ending are to end.
func takeEnds(ports *table.Editor[rule.Port, rule.Gate], ending map[rule.Port]kernelElement, ends []kernelElement, now time.Time) error {
	for _, e := range ends {
		port, g, err := endOf(e)
		if err != nil {
			return err
		}
		end, name := time.Unix(g.Expires, 0), chainOf(g)
		o, still := ending[port]
		switch {
		case !still && ports.Get(port) != rule.Gate{}:
			return damaged("%s is to end, and stays", port)
		case still && (o.chain != name || now.Add(o.left).Sub(end).Abs() > tolerance):
			return damaged("%s leads to %s for %s more, instead of %s until %s", port, o.chain, o.left, name, end)
		case !still && end.Sub(now) > tolerance:
			return damaged("%s is closed, before %s", port, end)
		}
		delete(ending, port)
		ports.Set(port, g)
	}
	for port, e := range ending {
		return damaged("%s ends in %s, and is to stay", port, e.left)
	}
	return nil
}

// endOf reads what stands behind the gate of a port that ends.
func endOf(e kernelElement) (rule.Port, rule.Gate, error) {
	port, known := portOf(e.key)
	until, name, _ := strings.Cut(e.comment, " ")
	end, err := time.Parse(time.RFC3339, until)
	g, ok := gateOf(name)
	if !known || !ok || err != nil || e.chain != endedChain(g) {
		return port, g, damaged("set %s has an element that leads to %q, %q", setEnds, e.chain, e.comment)
	}
	g.Expires = end.Unix()
	return port, g, nil
}

// tolerance between the end of a gate that is written beside it and the one that
// the kernel counts down to: it stops counting while the machine sleeps.
const tolerance = 5 * time.Second
