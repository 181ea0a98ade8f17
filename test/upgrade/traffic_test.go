package upgrade

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/portreeve/portreeve/lab"
)

const (
	// patience is how long an allowed flow may take: many retransmissions on a machine
	// that has no time. What is dropped for good fails all the same.
	patience = 5 * time.Second
	// denials end soon: what is dropped is asked again.
	denials = 150 * time.Millisecond
	// slow is more than a connection takes whose first packet was not dropped; told, no fault.
	slow = 900 * time.Millisecond
	// pace is how often a node is asked for a new connection; three nodes: one in 50 ms.
	pace = 150 * time.Millisecond
)

// traffic is what goes on all the time: on each node a connection that is held, new
// ones of an allowed client, and a denied client that tries and tries.
type traffic struct {
	client *lab.Client
	stop   context.CancelFunc
	done   sync.WaitGroup
	held   map[string]*lab.Held

	began                    time.Time
	allowed, denied, waiting atomic.Int64 // how many flows; those that took long

	mu     sync.Mutex
	step   string
	faults []string
	ports  []uint16
}

func begin(ctx context.Context, client *lab.Client, nodes []*lab.Node, port uint16) (*traffic, error) {
	ctx, stop := context.WithCancel(ctx)
	t := &traffic{client: client, stop: stop, held: map[string]*lab.Held{}, began: time.Now(), ports: []uint16{port}}
	for _, node := range nodes {
		held, err := client.Hold(ctx, lab.Flow{From: netip.AddrPortFrom(allowed, 0), To: netip.AddrPortFrom(node.Addrs[0], port), Timeout: patience})
		if err != nil {
			t.end()
			return nil, err
		}
		t.held[node.Name] = held
	}
	for _, node := range nodes {
		t.done.Go(func() { t.comeAndGo(ctx, node, port) })
		t.done.Go(func() { t.intrude(ctx, node) })
	}
	return t, nil
}

// now names what is being done, for faults.
func (t *traffic) now(step string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.step = step
}

// also has the denied client try another port, too.
func (t *traffic) also(port uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ports = append(t.ports, port)
}

func (t *traffic) fault(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.faults = append(t.faults, fmt.Sprintf("after %s, while %s: %s", time.Since(t.began).Round(time.Millisecond), t.step, fmt.Sprintf(format, args...)))
}

// comeAndGo has the allowed client make connections.
func (t *traffic) comeAndGo(ctx context.Context, node *lab.Node, port uint16) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a := t.client.Ask(ctx, lab.Flow{From: netip.AddrPortFrom(allowed, 0), To: netip.AddrPortFrom(node.Addrs[0], port), Timeout: patience})
		if ctx.Err() != nil {
			return
		}
		t.allowed.Add(1)
		if a.Took > slow {
			t.waiting.Add(1)
		}
		if a.Outcome != lab.Answered {
			t.fault("a new connection of the allowed client to %s: %s", node.Name, a)
		}
	}
}

// intrude has the denied client try.
func (t *traffic) intrude(ctx context.Context, node *lab.Node) {
	for i := 0; ctx.Err() == nil; i++ {
		t.mu.Lock()
		port := t.ports[i%len(t.ports)]
		t.mu.Unlock()
		a := t.client.Ask(ctx, lab.Flow{From: netip.AddrPortFrom(stranger, 0), To: netip.AddrPortFrom(node.Addrs[0], port), Timeout: denials})
		if ctx.Err() != nil {
			return
		}
		t.denied.Add(1)
		if a.Outcome != lab.TimedOut {
			t.fault("the denied client on %d of %s: %s", port, node.Name, a)
		}
	}
}

// end stops everything, and returns what went wrong.
func (t *traffic) end() []string {
	for node, held := range t.held {
		select {
		case <-held.Cut():
			t.fault("the connection held to %s since the beginning was cut at %s: %s", node, held.LastAnswer().Sub(t.began), held.End())
		default:
		}
		held.Close()
	}
	t.stop()
	t.done.Wait()
	return t.faults
}
