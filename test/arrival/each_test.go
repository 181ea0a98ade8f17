package arrival

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// The n-th addresses of a client's network: those who ask who answers, those who ask once
// more to see how they are spread, and those who are led back to their pods. An affinity
// remembers its clients, so nobody is of two of them.
const (
	knocker     = 1
	knockers    = 40 // a node says no by ICMP only so often to one address
	visitor     = 41
	visitors    = 59
	firstAsker  = 101
	askers      = 40
	tries       = 120 // of visitors, for each address of a node
	dropTimeout = 400 * time.Millisecond
)

// each looks at all exposures at once.
func (w *world) each(t *testing.T, firewall v1alpha1.Firewall) {
	began := time.Now()
	w.choose(t, firewall)
	var looks sync.WaitGroup
	var seen atomic.Int64
	for _, e := range w.exposures {
		looks.Go(func() {
			l := &look{world: w, T: t, exposure: e}
			l.all()
			seen.Add(l.asked.Load())
		})
	}
	looks.Wait()
	t.Logf("%d exposures of %d combinations, %s: %d questions, %s", len(w.exposures), len(product(parameters)), firewall, seen.Load(), time.Since(began).Round(time.Second))
}

// look is at one exposure.
type look struct {
	*world
	*testing.T
	exposure
	asked atomic.Int64
	next  atomic.Int64 // knocker
}

func (l *look) fault(format string, args ...any) {
	l.Helper()
	l.Errorf("%s, port %d: %s", l.name(), l.number, fmt.Sprintf(format, args...))
}

func (l *look) all() {
	l.Helper()
	if err := l.await(l.name()+" says what it should", l.says); err != nil {
		l.fault("%v", err)
		return
	}
	for i, node := range l.town.Nodes() {
		for _, a := range node.Addrs {
			if err := l.await(fmt.Sprintf("%s: %s does what it should", l.name(), netip.AddrPortFrom(a, l.number)), func() error { return l.does(i, a) }); err != nil {
				l.fault("%v", err)
				return
			}
		}
	}
	var watching sync.WaitGroup // an affinity takes its time
	for i, node := range l.town.Nodes() {
		for _, a := range node.Addrs {
			switch {
			case l.roleOf(i) != answers || !l.has(a):
			case l.affine:
				watching.Go(func() { l.ledBack(i, a) })
			default:
				watching.Go(func() { l.spread(i, a) })
			}
		}
	}
	l.closedToOthers()
	watching.Wait()
}

// says wants status to promise what is to be seen.
func (l *look) says() error {
	p, err := l.inForce(place, l.name())
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, a := range p.Status.Addresses {
		have[a] = true
	}
	if want := l.addresses(l.exposure); !maps.Equal(want, have) {
		return fmt.Errorf("addresses %v, want %v", p.Status.Addresses, slices.Sorted(maps.Keys(want)))
	}
	if p.Status.ClientIPPreserved != l.promise() {
		return fmt.Errorf("clientIPPreserved %q (%s), want %q", p.Status.ClientIPPreserved, p.Status.ClientIPReason, l.promise())
	}
	return nil
}

// does wants the address to do what is its node's role, or, where the Service lacks its
// family, not to answer.
func (l *look) does(node int, a netip.Addr) error {
	r := l.roleOf(node)
	n := knocker + int(l.next.Add(1))%knockers
	answer := l.ask(l.office, a, source(a, office4, office6, n), r != answers && l.refusal(r) == lab.TimedOut)
	switch {
	case !l.has(a):
		if answer.Outcome == lab.Answered {
			return fmt.Errorf("%s, and the Service lacks that family", answer)
		}
	case r == answers && answer.Outcome == lab.Answered:
		return l.keeps(node, source(a, office4, office6, n).Addr(), answer)
	case r == answers, answer.Outcome != l.refusal(r):
		return fmt.Errorf("%s", answer)
	}
	return nil
}

// keeps wants the promise about the client's address to be kept, and a pod to answer that
// may.
func (l *look) keeps(node int, client netip.Addr, a lab.Answer) error {
	if own := a.Peer.Addr() == client; own != (l.promise() == v1alpha1.ClientIPPreserved) {
		return fmt.Errorf("the pod %s saw %s as %s, and status says that it is preserved: %s", a.Pod, client, a.Peer.Addr(), l.promise())
	}
	if !slices.Contains(l.backends(node), a.Pod) {
		return fmt.Errorf("pod %s answered, want one of %v", a.Pod, l.backends(node))
	}
	return nil
}

func (l *look) ask(c *lab.Client, to netip.Addr, from netip.AddrPort, drop bool) lab.Answer {
	l.asked.Add(1)
	f := lab.Flow{Network: l.network(), To: netip.AddrPortFrom(to, l.number), From: from, Timeout: 5 * time.Second}
	if drop {
		f.Timeout = dropTimeout
	}
	return c.Ask(l.ctx, f)
}

// spread wants the visitors of an address to be spread evenly over its pods.
func (l *look) spread(node int, a netip.Addr) {
	l.Helper()
	met := map[string]int{}
	for i := range tries {
		from := source(a, office4, office6, visitor+i%visitors)
		answer := l.ask(l.office, a, from, false)
		if answer.Outcome != lab.Answered {
			l.fault("%s, question %d: %s", a, i, answer)
			return
		}
		if err := l.keeps(node, from.Addr(), answer); err != nil {
			l.fault("%s: %v", a, err)
			return
		}
		met[answer.Pod]++
	}
	l.even(node, a, tries, met)
}

func (l *look) even(node int, a netip.Addr, n int, met map[string]int) {
	l.Helper()
	pods := l.backends(node)
	fewest, most := span(n, 1/float64(len(pods)))
	for _, pod := range pods {
		if met[pod] < fewest || met[pod] > most {
			l.fault("%s: of %d, pod %s answered %d, want %d to %d; all: %v", a, n, pod, met[pod], fewest, most, met)
		}
	}
}

// closedToOthers wants silence towards who is not admitted, from every node.
func (l *look) closedToOthers() {
	l.Helper()
	for _, node := range l.town.Nodes() {
		for _, a := range node.Addrs {
			if answer := l.ask(l.street, a, source(a, street4, street6, 1), true); answer.Outcome != lab.TimedOut {
				l.fault("%s to who is not admitted: %s", a, answer)
			}
		}
	}
}

// led is a client that an affinity leads back.
type led struct {
	from netip.AddrPort
	pod  string
	// began and ended are those of its latest question.
	began, ended time.Time
}

// ledBack wants clients to keep their pods while they come back in time, and to be free
// afterwards.
func (l *look) ledBack(node int, a netip.Addr) {
	l.Helper()
	const (
		timeout  = remembered * time.Second
		rounds   = 4
		interval = 2 * time.Second // so that the last round is only in time if a visit prolongs it
		slack    = 1500 * time.Millisecond
	)
	clients, met := make([]led, askers), map[string]int{}
	for i := range clients {
		clients[i].from = source(a, office4, office6, firstAsker+i)
		if !l.visit(node, a, &clients[i]) {
			return
		}
		met[clients[i].pod]++
	}
	l.even(node, a, askers, met)
	kept := 0
	for range rounds - 1 {
		pause(l.ctx, interval)
		for i := range clients {
			c := clients[i]
			if !l.visit(node, a, &clients[i]) {
				return
			}
			if clients[i].ended.Sub(c.began) >= timeout {
				continue // too late, on a busy machine
			}
			if kept++; clients[i].pod != c.pod {
				l.fault("%s: client %s came to %s, and %s after it to %s", a, c.from.Addr(), c.pod, clients[i].ended.Sub(c.began), clients[i].pod)
			}
		}
	}
	if kept == 0 {
		l.fault("%s: nobody came back in time, so nothing was seen", a)
	}
	pods := len(l.backends(node))
	if pods == 1 {
		return // free or not
	}
	pause(l.ctx, timeout+slack)
	same := 0
	for i := range clients {
		pod := clients[i].pod
		if !l.visit(node, a, &clients[i]) {
			return
		}
		if clients[i].pod == pod {
			same++
		}
	}
	if _, most := span(askers, 1/float64(pods)); same > most {
		l.fault("%s: %s after their last visit %d of %d clients still came to the same of %d pods, want at most %d", a, timeout+slack, same, askers, pods, most)
	}
}

func (l *look) visit(node int, a netip.Addr, c *led) bool {
	l.Helper()
	c.began = time.Now()
	answer := l.ask(l.office, a, c.from, false)
	c.ended = time.Now()
	if answer.Outcome != lab.Answered {
		l.fault("%s from %s: %s", a, c.from.Addr(), answer)
		return false
	}
	if err := l.keeps(node, c.from.Addr(), answer); err != nil {
		l.fault("%s: %v", a, err)
		return false
	}
	c.pod = answer.Pod
	return true
}
