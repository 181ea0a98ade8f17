package crash

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/portreeve/portreeve/lab"
)

// The clients, and the networks they send from. stranger is named by nobody.
const (
	office   = "office"
	street   = "street"
	partner  = "partner"
	stranger = "stranger"
)

var (
	networks = map[string]netip.Prefix{
		office:   netip.MustParsePrefix("203.0.113.0/28"),
		street:   netip.MustParsePrefix("198.51.100.0/28"),
		partner:  netip.MustParsePrefix("192.0.2.0/28"),
		stranger: netip.MustParsePrefix("192.0.2.16/28"), // beside the partner's
	}
	clients = map[string]*lab.Client{}
)

func addClients() error {
	for name, network := range networks {
		c, err := town.AddClient(name, network)
		if err != nil {
			return err
		}
		clients[name] = c
	}
	return nil
}

// ask sends one question to a number on a node.
func ask(ctx context.Context, client string, node *lab.Node, number uint16, timeout time.Duration) lab.Answer {
	return clients[client].Ask(ctx, lab.Flow{
		To:      netip.AddrPortFrom(node.Addrs[0], number),
		From:    netip.AddrPortFrom(networks[client].Addr().Next(), 0),
		Timeout: timeout,
	})
}

// route says who may be answered by which team's pod, on whatever number.
type route struct{ client, pod string }

// A beat asks for a range of numbers from every client, on every node, all the
// time, and notes whoever is answered by a pod that he may not reach.
type beat struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex
	may      map[route]bool
	answered map[route]int
	breaches []string
}

const (
	// patience is how long a probe waits for what should not come, and so how short
	// a breach is noticed.
	patience = 40 * time.Millisecond
	// pace is the pause after an answer.
	pace = 200 * time.Millisecond
)

func startBeat(ctx context.Context, first, size uint16) *beat {
	ctx, cancel := context.WithCancel(ctx)
	b := &beat{cancel: cancel, answered: map[route]int{}}
	for client := range clients {
		for number := first; number < first+size; number++ {
			b.done.Go(func() { b.walk(ctx, client, number) })
		}
	}
	return b
}

func (b *beat) stop() {
	b.cancel()
	b.done.Wait()
}

// allow replaces what may be answered. A question asked before it is judged by
// the old rules too.
func (b *beat) allow(may map[route]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.may = may
}

func (b *beat) allowed() map[route]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.may
}

// found returns the breaches so far, and how often somebody was answered.
func (b *beat) found() (breaches []string, answers int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.answered {
		answers += n
	}
	return append(breaches, b.breaches...), answers
}

func (b *beat) walk(ctx context.Context, client string, number uint16) {
	nodes := town.Nodes()
	for i := 0; ctx.Err() == nil; i++ {
		node, earlier := nodes[i%len(nodes)], b.allowed()
		answer := ask(ctx, client, node, number, patience)
		if answer.Outcome == lab.TimedOut || ctx.Err() != nil {
			continue
		}
		if answer.Outcome == lab.Answered {
			b.judge(route{client, answer.Pod}, earlier, fmt.Sprintf("%s on %s:%d", client, node.Name, number))
		}
		select { // a refusal comes at once
		case <-ctx.Done():
		case <-time.After(pace):
		}
	}
}

func (b *beat) judge(r route, earlier map[route]bool, where string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answered[r]++
	if !earlier[r] && !b.may[r] {
		b.breaches = append(b.breaches, fmt.Sprintf("%s was answered by %s at %s", where, r.pod, time.Now().Format(time.StampMicro)))
	}
}
