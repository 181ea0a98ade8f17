package nftables

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/internal/rule"
)

// state is what the table holds, or is to hold.
type state struct {
	rule.Set
	virtual []netip.Prefix // addresses of kube-ipvs0, canonical
	mute    bool           // nothing is logged, since the kernel can't
	deaf    bool           // nor can it tell who listens, so nobody is told that nobody does
}

// variant of a state of which these are the needs.
func (s state) variant(n needs) variant {
	return variant{addresses: len(s.Addresses) > 0, virtual: len(s.virtual) > 0, denied: len(s.Denied) > 0, local: n.local[true] > 0 && !s.deaf}
}

// families in which a class has sources.
func (s state) families(id rule.ClassID) []family {
	return slices.DeleteFunc(slices.Clone(families), func(f family) bool { return len(f.of(s.Classes[id])) == 0 })
}

// fixedChains are those of no gate, the hooks' last: they come into force when all they
// lead to is there.
func (s state) fixedChains(v variant) []chain {
	out := []chain{
		{chainAudited, auditedRules(s.mute)},
		{chainDenied, deniedRules(s.mute)},
		{chainEnded, []line{on("", drop())}},
		{chainRefused, refusedRules()},
		{chainUnserved, unservedRules(v)},
		{chainJudge, judgeRules(v)},
	}
	if v.local {
		out = append(out, chain{chainInput, inputRules()})
	}
	return append(out, chain{chainHook, hookRules()})
}

// spans are the contents of the sets of ranges that change.
func (s state) spans() map[string][]span {
	out := map[string][]span{setJudged: numberSpans(s.Judged), setAudited: numberSpans(s.Audited)}
	for _, f := range families {
		out[setVirtual+f.suffix] = prefixSpans(f.of(s.virtual))
		out[setDenied+f.suffix] = prefixSpans(f.of(s.Denied))
		out[setAddresses+f.suffix] = prefixSpans(f.of(s.Addresses))
	}
	return out
}

// change is what is to be done in the steps of one Sync.
type change struct {
	addPorts, deletePorts map[rule.Port]rule.Gate
	// The optional rules, before and behind each step that may change them.
	before, tight, turned, last variant
	// spans of each set of ranges, before and behind each step.
	spans, first, middle, after, want map[string][]span

	addGates, deleteGates     []rule.Gate
	addClasses, deleteClasses []rule.ClassID
	addSets, deleteSets       []set // dynamic ones

	table string // in which all this is to be done
}

// planChange returns what makes want of have, which the table holds and n is of, and
// makes n that of want.
func planChange(table string, have, want state, n needs) change {
	c := change{table: table, before: have.variant(n)}
	c.addPorts, c.deletePorts = changed(have.Ports, want.Ports)
	before := newNeeds()
	for _, g := range c.deletePorts {
		n.count(g, -1, before)
	}
	for _, g := range c.addPorts {
		n.count(g, 1, before)
	}
	dynamics := map[string]set{}
	for _, ports := range []map[rule.Port]rule.Gate{c.addPorts, c.deletePorts} {
		for _, g := range ports {
			for _, d := range dynamicsOf(g) {
				dynamics[d.name] = d.set()
			}
		}
	}
	c.last = want.variant(n)
	c.tight, c.turned = c.before, c.last
	c.tight.denied = c.before.denied || c.last.denied
	c.turned.denied = c.tight.denied
	c.addGates, c.deleteGates = turned(before.gates, n.gates)
	c.addClasses, c.deleteClasses = turned(before.classes, n.classes)
	_, _ = turned(before.local, n.local) // the counts only
	adding, deleting := turned(before.dynamics, n.dynamics)
	for _, name := range adding {
		c.addSets = append(c.addSets, dynamics[name])
	}
	for _, name := range deleting {
		c.deleteSets = append(c.deleteSets, dynamics[name])
	}
	if !have.sameRanges(want) {
		c.planRanges(have, want)
	}
	return c
}

// sameRanges says whether no set of ranges changes, which are many where a pool has
// scattered numbers or many sources are denied.
func (s state) sameRanges(t state) bool {
	return slices.Equal(s.Judged, t.Judged) && slices.Equal(s.Audited, t.Audited) &&
		slices.Equal(s.Denied, t.Denied) && slices.Equal(s.Addresses, t.Addresses) && slices.Equal(s.virtual, t.virtual)
}

// planRanges fills in how the sets of ranges change.
func (c *change) planRanges(have, want state) {
	middle := between(have, want)
	c.spans, c.first, c.middle, c.after, c.want = have.spans(), have.spans(), middle.spans(), want.spans(), want.spans()
	denied := middle.spans()
	for _, f := range families {
		name := setDenied + f.suffix
		c.first[name], c.after[name] = denied[name], denied[name]
		for set, unused := range map[string]bool{setVirtual: len(want.virtual) == 0, setAddresses: len(want.Addresses) == 0} {
			if name := set + f.suffix; unused { // it goes when its rule has gone
				c.middle[name], c.after[name] = c.spans[name], c.spans[name]
			}
		}
	}
}

// between is what widens: it judges what both do, and passes by number or address what
// one of them does. Whom either denies is denied from before that until after the rest.
func between(have, want state) state {
	return state{
		Set: rule.Set{
			Judged:    have.Judged.Intersect(want.Judged),
			Audited:   have.Audited.Union(want.Audited),
			Denied:    rule.Canonical(slices.Concat(have.Denied, want.Denied)),
			Addresses: rule.Intersect(have.Addresses, want.Addresses),
		},
		virtual: rule.Canonical(slices.Concat(have.virtual, want.virtual)),
	}
}

// without returns what is in a and not in b.
func without(a, b []span) []span {
	if slices.Equal(a, b) {
		return nil
	}
	in := make(map[span]bool, len(b))
	for _, s := range b {
		in[s] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(s span) bool { return in[s] })
}

// batches spell the change, as transactions to be committed one after the other.
//
// The kernel chooses the rules that a packet meets once, and looks into each set
// anew: a packet that is on its way while a transaction is committed may find the
// elements of the new state by the rules of the old one. So that it is not lost
// between two states that both admit it, nor admitted by neither of them,
//
//	1  what is to be named is made, and nobody names it yet: to the rules of the
//	   old state a chain of the new one is empty; who will be denied is
//	2  what widens comes, and fewer numbers are judged
//	3  what narrows comes, more numbers are judged, rules change
//	4  who was denied is so no more, and what nobody names any more goes
func (c change) batches(have, want state, now time.Time) ([]batch, error) {
	made, err := c.make(want)
	if err != nil {
		return nil, err
	}
	narrowed, err := c.narrow(have, now)
	if err != nil {
		return nil, err
	}
	rest, err := c.rest()
	if err != nil {
		return nil, err
	}
	if !c.lingers(now) {
		rest.remove(leavings{c.deleteGates, c.deleteClasses, c.deleteSets, have, now})
	}
	all := []batch{made, c.widen(have, now), narrowed, rest}
	return slices.DeleteFunc(all, func(b batch) bool { return len(b.messages) == 0 }), nil
}

func (c change) make(want state) (batch, error) {
	b := batch{table: c.table}
	b.move(c.spans, c.first)
	if err := b.judge(c.before, c.tight); err != nil {
		return b, err
	}
	for _, s := range c.addSets {
		b.addSet(s)
	}
	for _, id := range c.addClasses {
		b.addClass(id, want)
	}
	for _, g := range c.addGates {
		chains := chainsOf(g, want.families, want.mute)
		for _, ch := range chains {
			b.addChain(ch.name)
		}
		for _, ch := range chains {
			if err := b.fill(ch); err != nil {
				return b, err
			}
		}
	}
	return b, nil
}

func (c change) widen(have state, now time.Time) batch {
	b := batch{table: c.table}
	fresh := func(p rule.Port, _ rule.Gate) bool { return have.Ports.Get(p) == rule.Gate{} }
	b.addPorts(c.addPorts, fresh, now)
	b.move(c.first, c.middle)
	return b
}

func (c change) narrow(have state, now time.Time) (batch, error) {
	b := batch{table: c.table}
	open := func(_ rule.Port, g rule.Gate) bool { return !ended(g, now) }
	b.deleteElements(setPorts, portElements(c.deletePorts, open, func(p rule.Port, _ rule.Gate) element { return element{key: portKey(p)} }))
	b.deleteElements(setEnds, portElements(c.deletePorts, ends, func(p rule.Port, _ rule.Gate) element { return element{key: portKey(p)} }))
	b.deleteElements(setLocal, portElements(c.deletePorts, isLocal, func(p rule.Port, _ rule.Gate) element { return element{key: portKey(p)} }))
	b.addPorts(c.addPorts, func(p rule.Port, _ rule.Gate) bool { return have.Ports.Get(p) != rule.Gate{} }, now)
	b.move(c.middle, c.after)
	return b, b.judge(c.tight, c.turned)
}

func (c change) rest() (batch, error) {
	b := batch{table: c.table}
	if err := b.judge(c.turned, c.last); err != nil {
		return b, err
	}
	b.move(c.after, c.want)
	return b, nil
}

// judge changes the optional rules.
func (b *batch) judge(from, to variant) error {
	if from == to {
		return nil
	}
	if from.local && !to.local {
		b.deleteChain(chainInput)
	}
	for _, c := range []chain{{chainUnserved, unservedRules(to)}, {chainJudge, judgeRules(to)}} {
		b.flushChain(c.name)
		if err := b.fill(c); err != nil {
			return err
		}
	}
	if from.local || !to.local {
		return nil
	}
	b.addChain(chainInput)
	return b.fill(chain{chainInput, inputRules()})
}

// lingering is how long the kernel may keep an element that has ended: it collects
// them once a second, and until then its chain can't go.
const lingering = 5 * time.Second

// lingers says that a port goes whose gate has just ended.
func (c change) lingers(now time.Time) bool {
	for _, g := range c.deletePorts {
		if g.Expires != 0 && g.Expires <= now.Unix()+1 && now.Sub(time.Unix(g.Expires, 0)) < lingering {
			return true
		}
	}
	return false
}

// leavings are chains and sets that nobody names.
type leavings struct {
	gates   []rule.Gate
	classes []rule.ClassID
	sets    []set
	of      state     // which had them
	since   time.Time // when they were left
}

func (b *batch) remove(l leavings) {
	for _, g := range l.gates {
		chains := chainsOf(g, l.of.families, l.of.mute)
		b.deleteChain(chains[0].name) // it names the others, and of those a later one the earlier
		for _, ch := range slices.Backward(chains[1:]) {
			b.deleteChain(ch.name)
		}
	}
	for _, id := range l.classes {
		for _, f := range l.of.families(id) {
			b.deleteSet(classSet(id, f))
		}
	}
	for _, s := range l.sets {
		b.deleteSet(s.name)
	}
}

// reuse takes from the leavings what the change would make again.
func (c *change) reuse(l *leavings) {
	c.addGates, l.gates = apart(c.addGates, l.gates, func(g rule.Gate) any { return g })
	c.addClasses, l.classes = apart(c.addClasses, l.classes, func(id rule.ClassID) any { return id })
	c.addSets, l.sets = apart(c.addSets, l.sets, func(s set) any { return s.name })
}

// apart returns both lists without what is in both.
func apart[T any](a, b []T, key func(T) any) (onlyA, onlyB []T) {
	in := func(list []T, k any) bool {
		return slices.ContainsFunc(list, func(t T) bool { return key(t) == k })
	}
	onlyA = slices.DeleteFunc(slices.Clone(a), func(t T) bool { return in(b, key(t)) })
	onlyB = slices.DeleteFunc(slices.Clone(b), func(t T) bool { return in(a, key(t)) })
	return onlyA, onlyB
}

// move takes the sets of ranges from one content to another.
func (b *batch) move(from, to map[string][]span) {
	for _, name := range slices.Sorted(maps.Keys(to)) {
		b.deleteElements(name, spanElements(without(from[name], to[name])))
		b.addElements(name, spanElements(without(to[name], from[name])))
	}
}

// addPorts opens those of the ports that are chosen. What is to stand behind a gate
// that ends comes with it.
func (b *batch) addPorts(ports map[rule.Port]rule.Gate, chosen func(rule.Port, rule.Gate) bool, now time.Time) {
	b.addElements(setEnds, portElements(ports, func(p rule.Port, g rule.Gate) bool { return chosen(p, g) && ends(p, g) }, endElement))
	b.addElements(setLocal, portElements(ports, func(p rule.Port, g rule.Gate) bool { return chosen(p, g) && g.Local },
		func(p rule.Port, _ rule.Gate) element { return element{key: portKey(p)} }))
	names := map[rule.Gate]string{} // many lead to one
	b.addElements(setPorts, portElements(ports, func(p rule.Port, g rule.Gate) bool { return chosen(p, g) && !ended(g, now) },
		func(p rule.Port, g rule.Gate) element { return openElement(p, g, now, names) }))
}

func ends(_ rule.Port, g rule.Gate) bool { return g.Expires != 0 }

func isLocal(_ rule.Port, g rule.Gate) bool { return g.Local }

// load spells a transaction that makes a whole table, in the place of an earlier
// one if it is to replace that.
func load(table string, want state, flags uint32, replace bool, now time.Time) (batch, needs, error) {
	b := batch{table: table}
	if replace {
		b.deleteTable()
	}
	b.addTable(flags)
	for _, s := range fixedSets() {
		b.addSet(s)
	}
	b.addElements(setProtocols, protocolElements())
	n := newNeeds()
	c := planChange(table, state{mute: want.mute, deaf: want.deaf}, want, n)
	c.before, c.tight, c.turned = c.last, c.last, c.last // its rules are there already
	chains := want.fixedChains(c.last)
	for _, ch := range chains {
		b.addChain(ch.name)
	}
	for _, ch := range chains {
		if err := b.fill(ch); err != nil {
			return b, needs{}, err
		}
	}
	rest, err := c.batches(state{}, want, now)
	for _, r := range rest {
		b.messages = append(b.messages, r.messages...)
	}
	return b, n, err
}

func (b *batch) addClass(id rule.ClassID, s state) {
	for _, f := range s.families(id) {
		made := set{classSet(id, f), unix.NFT_SET_INTERVAL, []field{f.address}}
		b.addSet(made)
		b.addElements(made.name, spanElements(prefixSpans(f.of(s.Classes[id]))))
	}
}

// portElements spells the ports that are chosen.
func portElements(ports map[rule.Port]rule.Gate, chosen func(rule.Port, rule.Gate) bool, spell func(rule.Port, rule.Gate) element) []element {
	out := make([]element, 0, len(ports))
	for p, g := range ports {
		if chosen(p, g) {
			out = append(out, spell(p, g))
		}
	}
	return out
}

func spanElements(spans []span) []element {
	var out []element
	for _, s := range spans {
		out = append(out, s.elements()...)
	}
	return out
}
