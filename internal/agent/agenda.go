package agent

import (
	"container/heap"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

const (
	// askPace is the least time between two questions, whatever the number of ports.
	askPace = 200 * time.Millisecond
	// askSoon is how long a port that is new or has changed is left alone, and at most as
	// long again: whoever carries it hears of it when this node does, or later.
	askSoon = 3 * time.Second
	// askAgain is when a question is asked again to which there was no answer once: one
	// alone is no news, endpoints come and go.
	askAgain = 5 * time.Second
	// askSilent is how soon that is asked again which does not answer.
	askSilent = 30 * time.Second
	// silentMisses is how often in a row nothing must answer.
	silentMisses = 2
)

// What the schema of a report allows.
const (
	maxAskedAddresses = 8
	maxUnanswered     = 64
)

// agenda is which ports of the node are to be asked when, and what was seen. It has no
// clock and asks nobody itself.
type agenda struct {
	interval time.Duration  // between two questions to the same
	random   func() float64 // from 0 to 1, so that nodes do not ask at the same time

	addresses []netip.Addr      // nil: not known yet
	in        compile.NodeInput // by which the ports were chosen
	ports     map[uint16]*askedPort
	queue     questions
	silent    int // questions that were last seen so
	changes   int // of what report returns

	// goal is what the questions in waiting have to be asked for, reached the last one for
	// which all were; latest comes after goal.
	goal, reached, latest heard
	waiting               map[*question]bool
}

// heard is what a set of questions was made of.
type heard struct {
	known                               bool
	allocations, gatewaySets, nodeLabel string
	hosts                               []netip.Addr
}

func (h heard) equal(other heard) bool {
	return h.known == other.known && h.allocations == other.allocations && h.gatewaySets == other.gatewaySets &&
		h.nodeLabel == other.nodeLabel && slices.Equal(h.hosts, other.hosts)
}

// askedPort is a port on which the node is to answer.
type askedPort struct {
	version   string    // of its allocation
	ends      time.Time // zero: never
	questions []*question
}

// question is an address and a port.
type question struct {
	to     netip.AddrPort
	due    time.Time
	asked  bool // since the port is as it is
	silent bool // when it was last known
	misses int  // in a row
	at     int  // in the queue, -1: it is not asked any more
}

// know takes over what the node now enforces, and what proves how far that is.
func (g *agenda) know(in compile.NodeInput, h heard, now time.Time) {
	h.known, h.hosts = true, g.addresses
	whole := g.ports == nil || g.differs(in)
	if g.ports == nil {
		g.ports, g.waiting = map[uint16]*askedPort{}, map[*question]bool{}
	}
	if whole {
		g.in.Allocations = compile.Objects{}
		left := maps.Clone(g.ports)
		for _, o := range in.Allocations.All {
			delete(left, g.take(in, o.(*v1alpha1.NodePortAllocation), now))
		}
		for number := range left {
			g.drop(number)
		}
	} else {
		for change := range g.in.Allocations.Changes(in.Allocations) {
			if change.To == nil {
				g.drop(compile.NumberOf(change.From.(*v1alpha1.NodePortAllocation)))
			} else {
				g.take(in, change.To.(*v1alpha1.NodePortAllocation), now)
			}
		}
	}
	g.in, g.latest = in, h
	g.settle()
}

// differs says whether something changed by which all ports are chosen.
func (g *agenda) differs(in compile.NodeInput) bool {
	lockdown := func(in compile.NodeInput) bool { return in.Installation != nil && in.Installation.Spec.Lockdown }
	for range in.Moved(g.in) {
		return true
	}
	return lockdown(in) != lockdown(g.in) || in.Node != g.in.Node ||
		in.Unlabelled != g.in.Unlabelled || !maps.Equal(in.Labels, g.in.Labels) || !slices.Equal(g.latest.hosts, g.addresses)
}

// take asks on the allocation's port if the node is to answer there, and returns its number.
func (g *agenda) take(in compile.NodeInput, a *v1alpha1.NodePortAllocation, now time.Time) uint16 {
	number := compile.NumberOf(a)
	if number == 0 || !in.ToAnswer(a) {
		g.drop(number)
		return number
	}
	had := g.ports[number]
	if had != nil && had.version == a.ResourceVersion && slices.EqualFunc(had.questions, g.addresses, func(q *question, host netip.Addr) bool { return q.to.Addr() == host }) {
		return number
	}
	p := &askedPort{version: a.ResourceVersion}
	if a.Spec.ExpiresAt != nil {
		p.ends = a.Spec.ExpiresAt.Time
	}
	for _, host := range g.addresses {
		q := &question{to: netip.AddrPortFrom(host, number), due: now.Add(g.spread(askSoon, askSoon))}
		if had != nil { // what was seen is told until something else is
			if i := slices.IndexFunc(had.questions, func(q *question) bool { return q.to.Addr() == host }); i >= 0 {
				q.silent = had.questions[i].silent
			}
		}
		p.questions = append(p.questions, q)
	}
	g.drop(number)
	g.ports[number] = p
	for _, q := range p.questions {
		heap.Push(&g.queue, q)
		g.count(q.silent)
	}
	return number
}

func (g *agenda) count(silent bool) {
	if silent {
		g.silent++
	}
}

// drop asks no more on that port.
func (g *agenda) drop(number uint16) {
	p := g.ports[number]
	if p == nil {
		return
	}
	delete(g.ports, number)
	for _, q := range p.questions {
		heap.Remove(&g.queue, q.at)
		delete(g.waiting, q)
		if q.silent {
			g.silent--
			g.changes++
		}
	}
}

// settle moves on to what was heard last when all has been asked for what was heard before.
func (g *agenda) settle() {
	for len(g.waiting) == 0 && g.latest.known && g.addresses != nil {
		if g.goal.known && !g.reached.equal(g.goal) {
			g.reached = g.goal
			g.changes++
		}
		if g.goal.equal(g.latest) {
			return
		}
		g.goal = g.latest
		for _, q := range g.queue {
			if !q.asked {
				g.waiting[q] = true
			}
		}
	}
}

// next returns the question that is due, else in what time one is, 0 for never.
func (g *agenda) next(now time.Time) (*question, time.Duration) {
	for len(g.queue) > 0 {
		q := g.queue[0]
		if wait := q.due.Sub(now); wait > 0 {
			return nil, wait
		}
		if p := g.ports[q.to.Port()]; !p.ends.IsZero() && !p.ends.After(now) {
			g.drop(q.to.Port())
			g.settle()
			continue
		}
		return q, 0
	}
	return nil, 0
}

// saw takes over what became of a question.
func (g *agenda) saw(q *question, answered bool, now time.Time) {
	if q.at < 0 {
		return // the port has changed meanwhile
	}
	period := max(g.interval, time.Duration(len(g.queue))*askPace*5/4) // so that what is new need not wait for it
	switch {
	case answered:
		g.conclude(q, false)
		q.misses, q.due = 0, now.Add(g.spread(period*9/10, period/5))
	case q.misses+1 < silentMisses && !(q.silent && q.asked):
		q.misses++
		q.due = now.Add(g.spread(askAgain, askAgain/5))
	default:
		g.conclude(q, true)
		q.misses, q.due = 0, now.Add(g.spread(min(period, max(askSilent, 2*time.Second*time.Duration(g.silent))), askAgain))
	}
	heap.Fix(&g.queue, q.at)
	g.settle()
}

// postpone asks later what could not be asked now.
func (g *agenda) postpone(q *question, now time.Time) {
	if q.at >= 0 {
		q.due = now.Add(g.spread(askAgain, askAgain))
		heap.Fix(&g.queue, q.at)
	}
}

func (g *agenda) conclude(q *question, silent bool) {
	if q.silent != silent {
		if q.silent {
			g.silent--
		}
		g.count(silent)
		g.changes++
	}
	q.silent, q.asked = silent, true
	delete(g.waiting, q)
}

// spread returns a time between least and least+more.
func (g *agenda) spread(least, more time.Duration) time.Duration {
	return least + time.Duration(g.random()*float64(more))
}

// report says what is known; nil before all has been asked once.
func (g *agenda) report() *v1alpha1.NodeAnswers {
	if !g.reached.known {
		return nil
	}
	r := &v1alpha1.NodeAnswers{Allocations: g.reached.allocations, GatewaySets: g.reached.gatewaySets, NodeLabels: g.reached.nodeLabel}
	for _, host := range g.reached.hosts {
		r.Addresses = append(r.Addresses, host.String())
	}
	if g.silent == 0 {
		return r
	}
	for number, p := range g.ports {
		u := v1alpha1.UnansweredPort{Port: int32(number)}
		for _, q := range p.questions {
			if q.silent {
				u.Addresses = append(u.Addresses, q.to.Addr().String())
			}
		}
		switch len(u.Addresses) {
		case 0:
			continue
		case len(p.questions):
			u.Addresses = nil
		}
		r.Unanswered = append(r.Unanswered, u)
	}
	slices.SortFunc(r.Unanswered, func(a, b v1alpha1.UnansweredPort) int { return int(a.Port - b.Port) })
	r.UnansweredPorts = int32(len(r.Unanswered))
	r.Unanswered = r.Unanswered[:min(len(r.Unanswered), maxUnanswered)]
	return r
}

// questions are a heap, the one that is due first on top.
type questions []*question

func (q questions) Len() int           { return len(q) }
func (q questions) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q questions) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i, j
}

// Push implements heap.Interface.
func (q *questions) Push(x any) {
	n := x.(*question)
	n.at = len(*q)
	*q = append(*q, n)
}

// Pop implements heap.Interface.
func (q *questions) Pop() any {
	last := len(*q) - 1
	n := (*q)[last]
	n.at = -1
	(*q)[last], *q = nil, (*q)[:last]
	return n
}
