package nftables

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/internal/nfattr"
	"github.com/portreeve/portreeve/internal/rule"
)

func damaged(format string, args ...any) error {
	return fmt.Errorf("table %s: %s: %w", tableName, fmt.Sprintf(format, args...), datapath.ErrDamaged)
}

// tableFlags returns the flags of a table; an error that wraps unix.ENOENT says
// that there is none.
func (s *socket) tableFlags(name string) (flags uint32, err error) {
	found, err := s.get(unix.NFT_MSG_GETTABLE, func(a *nfattr.Builder) { a.String(unix.NFTA_TABLE_NAME, name) })
	if err != nil {
		return 0, fmt.Errorf("look for table %s: %w", name, err)
	}
	for typ, value := range nfattr.All(found) {
		if typ == unix.NFTA_TABLE_FLAGS {
			flags = nfattr.Uint32(value)
		}
	}
	return flags, nil
}

// read reads the whole table. What is not as we make it is an error that wraps
// datapath.ErrDamaged.
//
// left are chains and sets that nobody names, and that may be there still.
func (s *socket) read(now time.Time, left []leavings) (state, needs, error) {
	switch flags, err := s.tableFlags(tableName); {
	case errors.Is(err, unix.ENOENT):
		return state{}, needs{}, damaged("it is not there")
	case err != nil:
		return state{}, needs{}, err
	case flags&^owned != 0:
		return state{}, needs{}, damaged("it has flags %#x: is it dormant?", flags)
	}
	if err := s.checkHook(chainHook); err != nil {
		return state{}, needs{}, err
	}
	found, err := s.contents(now)
	if err != nil {
		return state{}, needs{}, err
	}
	chains, err := s.rules("")
	if err != nil {
		return state{}, needs{}, err
	}
	found.deaf = s.deaf
	n := needsOf(found.Set)
	if found.variant(n).local {
		if err := s.checkHook(chainInput); err != nil {
			return state{}, needs{}, err
		}
	}
	if err = found.check(n, left, chains); err == nil {
		return found, n, nil
	}
	if found.mute = true; found.check(n, left, chains) == nil { // the table of a kernel that could not log
		return found, n, nil
	}
	return state{}, needs{}, err
}

// checkHook makes sure that packets come to us, and where.
func (s *socket) checkHook(chain string) error {
	found, err := s.get(unix.NFT_MSG_GETCHAIN, func(a *nfattr.Builder) {
		a.String(unix.NFTA_CHAIN_TABLE, tableName)
		a.String(unix.NFTA_CHAIN_NAME, chain)
	})
	if errors.Is(err, unix.ENOENT) {
		return damaged("chain %s is not there", chain)
	}
	if err != nil {
		return fmt.Errorf("read chain %s: %w", chain, err)
	}
	var number, at uint32
	policy := ^uint32(0)
	for typ, value := range nfattr.All(found) {
		switch typ {
		case unix.NFTA_CHAIN_POLICY:
			policy = nfattr.Uint32(value)
		case unix.NFTA_CHAIN_HOOK:
			for typ, value := range nfattr.All(value) {
				switch typ {
				case unix.NFTA_HOOK_HOOKNUM:
					number = nfattr.Uint32(value)
				case unix.NFTA_HOOK_PRIORITY:
					at = nfattr.Uint32(value)
				}
			}
		}
	}
	if number != hooks[chain] || int32(at) != priority || policy != accepted {
		return damaged("chain %s is not a hook in %[1]s at %d", chain, priority)
	}
	return nil
}

// kernelRule is a rule as the kernel spells it.
type kernelRule struct {
	comment     string
	expressions [][]byte
}

// rules lists the rules of a chain, or of each with "", in their order.
func (s *socket) rules(chain string) (map[string][]kernelRule, error) {
	found, err := s.dump(unix.NFT_MSG_GETRULE, func(a *nfattr.Builder) {
		a.String(unix.NFTA_RULE_TABLE, tableName)
		if chain != "" {
			a.String(unix.NFTA_RULE_CHAIN, chain)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	out := map[string][]kernelRule{}
	for _, message := range found {
		var r kernelRule
		var name, in string
		for typ, value := range nfattr.All(message) {
			switch typ {
			case unix.NFTA_RULE_TABLE:
				in = text(value)
			case unix.NFTA_RULE_CHAIN:
				name = text(value)
			case unix.NFTA_RULE_USERDATA:
				r.comment, _ = userdata.GetString(value, userdata.TypeComment)
			case unix.NFTA_RULE_EXPRESSIONS:
				for _, e := range nfattr.All(value) {
					r.expressions = append(r.expressions, e)
				}
			}
		}
		if in == tableName {
			out[name] = append(out[name], r)
		}
	}
	return out, nil
}

func text(value []byte) string { return string(bytes.TrimRight(value, "\x00")) }

// check compares the rules that the kernel has with those that the state asks for.
func (s state) check(n needs, left []leavings, have map[string][]kernelRule) error {
	want := s.fixedChains(s.variant(n))
	for g := range n.gates {
		want = append(want, chainsOf(g, s.families, s.mute)...)
	}
	for _, l := range left {
		for _, g := range l.gates {
			if chains := chainsOf(g, s.families, s.mute); have[chains[0].name] != nil && n.gates[g] == 0 {
				want = append(want, chains...)
			}
		}
	}
	known := map[string]bool{}
	for _, c := range want {
		known[c.name] = true
		if err := c.check(have[c.name]); err != nil {
			return err
		}
	}
	for name := range have {
		if !known[name] {
			return damaged("chain %s is not ours", name)
		}
	}
	return nil
}

func (c chain) check(have []kernelRule) error {
	if len(have) != len(c.lines) {
		return damaged("chain %s has %d rules instead of %d", c.name, len(have), len(c.lines))
	}
	for i, l := range c.lines {
		sent, err := encode(l)
		if err != nil {
			return err
		}
		if l.comment != have[i].comment || !slices.EqualFunc(sent, have[i].expressions, sameExpression) {
			return damaged("rule %d of chain %s is not as we made it", i+1, c.name)
		}
	}
	return nil
}

// setIDs are the attributes by which an expression names a set of its own batch.
// The kernel does not keep them.
var setIDs = map[string]uint16{"lookup": unix.NFTA_LOOKUP_SET_ID, "dynset": unix.NFTA_DYNSET_SET_ID}

// sameExpression says whether the kernel's spelling says what was sent, and maybe
// more: counts, and what was left to its choice.
func sameExpression(sent, have []byte) bool {
	var name string
	for typ, value := range nfattr.All(sent) {
		if typ == unix.NFTA_EXPR_NAME {
			name = text(value)
		}
	}
	return sameAttributes(sent, have, setIDs[name])
}

func sameAttributes(sent, have []byte, skip uint16) bool {
	for typ, value := range nfattr.All(sent) {
		if typ == unix.NFTA_EXPR_DATA && skip != 0 {
			if !sameData(value, valueOf(have, typ), skip) {
				return false
			}
			continue
		}
		if !sameValue(value, valueOf(have, typ)) {
			return false
		}
	}
	return true
}

func sameData(sent, have []byte, skip uint16) bool {
	for typ, value := range nfattr.All(sent) {
		if typ != skip && !sameValue(value, valueOf(have, typ)) {
			return false
		}
	}
	return true
}

// sameValue compares values, or, where those are attributes themselves, which the
// kernel marks and orders its own way, what they hold.
func sameValue(sent, have []byte) bool {
	if have == nil {
		return allZero(sent) // the kernel leaves some out
	}
	if bytes.Equal(sent, have) {
		return true
	}
	return nfattr.Whole(sent) && nfattr.Whole(have) && sameAttributes(sent, have, 0)
}

func valueOf(list []byte, wanted uint16) []byte {
	for typ, value := range nfattr.All(list) {
		if typ == wanted {
			return value
		}
	}
	return nil
}

// contents reads all sets but those that packets fill.
func (s *socket) contents(now time.Time) (state, error) {
	found := state{Set: rule.Set{Classes: map[rule.ClassID][]netip.Prefix{}}}
	names, err := s.setNames()
	if err != nil {
		return state{}, err
	}
	classes, ports := map[rule.ClassID][]netip.Prefix{}, portTables{}
	for _, name := range names {
		if isDynamic(name) {
			continue
		}
		elements, err := s.elements(name)
		if err != nil {
			return state{}, err
		}
		switch name {
		case setProtocols:
			if err := checkProtocols(elements); err != nil {
				return state{}, err
			}
		case setPorts:
			ports.open = elements
		case setEnds:
			ports.ends = elements
		case setLocal:
			ports.local = elements
		default:
			if err := found.take(name, elements, classes); err != nil {
				return state{}, err
			}
		}
	}
	if err := found.takePorts(ports, now); err != nil {
		return state{}, err
	}
	if err := complete(names); err != nil {
		return state{}, err
	}
	for id, prefixes := range classes {
		canonical := rule.Canonical(prefixes)
		if rule.NameClass(canonical) != id {
			return state{}, damaged("class %s holds other sources than it did", id)
		}
		found.Classes[id] = canonical
	}
	found.virtual, found.Denied, found.Addresses = rule.Canonical(found.virtual), rule.Canonical(found.Denied), rule.Canonical(found.Addresses)
	return found, nil
}

// complete makes sure that no set is missing which no rule holds on to.
func complete(names []string) error {
	for _, s := range fixedSets() {
		if !slices.Contains(names, s.name) {
			return damaged("set %s is not there", s.name)
		}
	}
	return nil
}

// checkProtocols makes sure that the hook still lets all protocols come to judge.
func checkProtocols(elements []kernelElement) error {
	for _, want := range protocolElements() {
		if !slices.ContainsFunc(elements, func(e kernelElement) bool { return bytes.HasPrefix(e.key, want.key) }) {
			return damaged("set %s lacks protocol %d", setProtocols, want.key[0])
		}
	}
	if len(elements) != len(protocolElements()) {
		return damaged("set %s has %d protocols", setProtocols, len(elements))
	}
	return nil
}

func isDynamic(name string) bool {
	kind, _, _ := strings.Cut(name, "-")
	return slices.Contains(dynamicKinds, kind)
}

func (s *socket) setNames() ([]string, error) {
	found, err := s.dump(unix.NFT_MSG_GETSET, func(a *nfattr.Builder) { a.String(unix.NFTA_SET_TABLE, tableName) })
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	var names []string
	for _, message := range found {
		in, name := text(valueOf(message, unix.NFTA_SET_TABLE)), text(valueOf(message, unix.NFTA_SET_NAME))
		if in == tableName {
			names = append(names, name)
		}
	}
	return names, nil
}

// take adds the elements of one set to the state.
func (s *state) take(name string, elements []kernelElement, classes map[rule.ClassID][]netip.Prefix) error {
	spans, err := spansOf(name, elements)
	if err != nil {
		return err
	}
	switch base, suffix, _ := strings.Cut(name, "."); {
	case name == setJudged:
		s.Judged = numbersOf(spans)
	case name == setAudited:
		s.Audited = numbersOf(spans)
	case base == setVirtual:
		s.virtual = append(s.virtual, prefixesOf(spans)...)
	case base == setDenied:
		s.Denied = append(s.Denied, prefixesOf(spans)...)
	case base == setAddresses:
		s.Addresses = append(s.Addresses, prefixesOf(spans)...)
	case strings.HasPrefix(base, "class-") && suffix != "":
		id := rule.ClassID(strings.TrimPrefix(base, "class-"))
		classes[id] = append(classes[id], prefixesOf(spans)...)
	default:
		return damaged("set %s is not ours", name)
	}
	return nil
}
