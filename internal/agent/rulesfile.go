package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/portreeve/portreeve/internal/rule"
)

// kept is what a node last enforced, as it stands on its disk. Which gates are Local does
// not: after a boot nobody knows yet who carries node ports.
type kept struct {
	Node  string `json:"node"`
	Seq   int64  `json:"seq"`   // counts what was enforced; see behind
	Saved int64  `json:"saved"` // Unix seconds

	Judged    []string                        `json:"judged"`
	Audited   []string                        `json:"audited,omitempty"`
	Ports     []keptPort                      `json:"ports"`
	Classes   map[rule.ClassID][]netip.Prefix `json:"classes"`
	Denied    []netip.Prefix                  `json:"denied,omitempty"`
	Addresses []netip.Prefix                  `json:"addresses,omitempty"`
}

type keptPort struct {
	Port    string       `json:"port"` // "tcp/30080"
	Class   rule.ClassID `json:"class,omitempty"`
	Refuse  bool         `json:"refuse,omitempty"`
	Audit   rule.ClassID `json:"audit,omitempty"`
	Limits  rule.Limits  `json:"limits,omitzero"`
	Log     rule.Log     `json:"log,omitzero"`
	Expires int64        `json:"expires,omitempty"`
}

// newRulesFile is where the last good rules are.
func newRulesFile(dir string) sealed { return sealed{filepath.Join(dir, "rules"), "rules", 1} }

func keep(node string, seq int64, now time.Time, s rule.Set) kept {
	k := kept{
		Node: node, Seq: seq, Saved: now.Unix(), Judged: s.Judged.Strings(), Audited: s.Audited.Strings(),
		Ports: make([]keptPort, 0, s.Ports.Len()), Classes: s.Classes, Denied: s.Denied, Addresses: s.Addresses,
	}
	for port, g := range s.Ports.All {
		k.Ports = append(k.Ports, keptPort{port.String(), g.Class, g.Refuse, g.Audit, g.Limits, g.Log, g.Expires})
	}
	return k
}

// set returns the rules, if they are such as this agent writes. node is "" where
// nobody knows the name.
func (k kept) set(node string) (rule.Set, error) {
	if node != "" && k.Node != node {
		return rule.Set{}, fmt.Errorf("it is of node %q, and this is node %q", k.Node, node)
	}
	s := rule.Set{Classes: k.Classes, Denied: k.Denied, Addresses: k.Addresses}
	var err error
	if s.Judged, err = canonicalRanges(k.Judged); err != nil {
		return rule.Set{}, err
	}
	if s.Audited, err = canonicalRanges(k.Audited); err != nil {
		return rule.Set{}, err
	}
	for id, prefixes := range k.Classes {
		if !isCanonical(prefixes) || len(prefixes) == 0 || rule.NameClass(prefixes) != id {
			return rule.Set{}, fmt.Errorf("class %q does not hold what its name says", id)
		}
	}
	switch {
	case !isCanonical(k.Denied) || !isCanonical(k.Addresses):
		return rule.Set{}, errors.New("its networks are not in order")
	case len(s.Judged.Intersect(rule.FailSafe)) > 0:
		return rule.Set{}, fmt.Errorf("it judges the fail-safe ports %v", s.Judged.Intersect(rule.FailSafe).Strings())
	case len(s.Audited.Subtract(s.Judged)) > 0:
		return rule.Set{}, errors.New("it audits ports that it does not judge")
	}
	s.Ports, err = k.gates(s)
	return s, err
}

// gates returns those of the ports, all of which are to fit into the set.
func (k kept) gates(s rule.Set) (rule.Gates, error) {
	gates := rule.Gates{}.Edit()
	for _, p := range k.Ports {
		port, err := p.read(s)
		gate := rule.Gate{Class: p.Class, Refuse: p.Refuse, Audit: p.Audit, Limits: p.Limits, Log: p.Log, Expires: p.Expires}
		switch {
		case err != nil:
			return rule.Gates{}, err
		case gate == rule.Gate{}:
			return rule.Gates{}, fmt.Errorf("%s has no gate", p.Port)
		case gates.Get(port) != rule.Gate{}:
			return rule.Gates{}, fmt.Errorf("%s comes twice", p.Port)
		}
		gates.Set(port, gate)
	}
	return gates.Table(), nil
}

// read returns the port if it and its gate fit into the set.
func (p keptPort) read(s rule.Set) (rule.Port, error) {
	protocol, number, _ := strings.Cut(p.Port, "/")
	n, err := strconv.ParseUint(number, 10, 16)
	port := rule.Port{Protocol: rule.Protocol(strings.ToUpper(protocol)), Number: uint16(n)}
	if err != nil || port.String() != p.Port || !slices.Contains(rule.Protocols, port.Protocol) || !s.Judged.Contains(port.Number) {
		return rule.Port{}, fmt.Errorf("%q is no port that it judges", p.Port)
	}
	for _, id := range []rule.ClassID{p.Class, p.Audit} {
		if id != "" && s.Classes[id] == nil {
			return rule.Port{}, fmt.Errorf("%s: there is no class %q", p.Port, id)
		}
	}
	return port, nil
}

func canonicalRanges(list []string) (rule.PortRanges, error) {
	ranges, err := rule.ParsePortRanges(list)
	if err == nil && !slices.Equal(ranges.Strings(), list) {
		err = errors.New("its port ranges are not in order")
	}
	return ranges, err
}

func isCanonical(prefixes []netip.Prefix) bool {
	valid := !slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return !p.IsValid() })
	return valid && slices.Equal(rule.Canonical(slices.Clone(prefixes)), prefixes)
}

// without returns the set in which nobody passes at those numbers, judged before or
// not, nor at a gate whose time is over.
func without(s rule.Set, numbers rule.PortRanges, now time.Time) rule.Set {
	ports := s.Ports.Edit()
	for p, g := range s.Ports.All {
		if numbers.Contains(p.Number) || g.Expires != 0 && g.Expires <= now.Unix() {
			ports.Set(p, rule.Gate{})
		}
	}
	s.Ports = ports.Table()
	s.Judged = s.Judged.Union(numbers).Subtract(rule.FailSafe)
	s.Audited = s.Audited.Subtract(numbers)
	return s
}

// loadRules reads the last good rules. An error is fs.ErrNotExist or wraps
// errRefused.
func loadRules(file sealed, node string) (kept, rule.Set, error) {
	var k kept
	if err := file.load(&k); err != nil {
		return kept{}, rule.Set{}, err
	}
	s, err := k.set(node)
	if err != nil {
		return kept{}, rule.Set{}, fmt.Errorf("%s is %w: %w", file.path, errRefused, err)
	}
	return k, s, nil
}
