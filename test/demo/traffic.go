package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/portreeve/portreeve/lab"
)

// silence is how long a client listens for an answer before it says that there
// is none. Answers take a few milliseconds.
const silence = 500 * time.Millisecond

// A visit is a client that knocks on a port of every node from one address.
type visit struct {
	client *lab.Client
	from   netip.Addr
	port   uint16
}

func (v visit) String() string { return fmt.Sprintf("%s %s", v.client.Name, v.from) }

func (v visit) flow(n *lab.Node, timeout time.Duration) lab.Flow {
	to := n.Addrs[0]
	if v.from.Is6() {
		to = n.Addrs[len(n.Addrs)-1]
	}
	return lab.Flow{To: netip.AddrPortFrom(to, v.port), From: netip.AddrPortFrom(v.from, 0), Timeout: timeout}
}

// each calls fn for all nodes at once; the errors come back in one.
func each(nodes []*lab.Node, want string, fn func(int, *lab.Node) error) error {
	errs := make([]error, len(nodes))
	var group sync.WaitGroup
	for i, n := range nodes {
		group.Go(func() { errs[i] = fn(i, n) })
	}
	group.Wait()
	var seen []string
	for i, err := range errs {
		if err != nil {
			seen = append(seen, fmt.Sprintf("%s: %v", nodes[i].Name, err))
		}
	}
	if len(seen) > 0 {
		return miss{want, strings.Join(seen, "\n")}
	}
	return nil
}

// answered wants an answer from every node at the first attempt; took is that of
// the slowest.
func (t *town) answered(ctx context.Context, v visit) (took time.Duration, err error) {
	answers := make([]lab.Answer, len(t.Nodes()))
	err = each(t.Nodes(), "an answer from every node", func(i int, n *lab.Node) error {
		answers[i] = v.client.Ask(ctx, v.flow(n, within))
		return outcome(answers[i], lab.Answered)
	})
	for _, a := range answers {
		took = max(took, a.Took)
	}
	return took, err
}

// quiet wants every node to say nothing at all.
func (t *town) quiet(ctx context.Context, v visit) error {
	return each(t.Nodes(), "silence from every node", func(_ int, n *lab.Node) error {
		return outcome(v.client.Ask(ctx, v.flow(n, silence)), lab.TimedOut)
	})
}

// refused wants every node to refuse the connection.
func (t *town) refused(ctx context.Context, v visit) error {
	return each(t.Nodes(), "every node to refuse", func(_ int, n *lab.Node) error {
		return outcome(v.client.Ask(ctx, v.flow(n, within)), lab.Refused)
	})
}

// reached waits until every node has answered once, and returns when the last did.
func (t *town) reached(ctx context.Context, v visit) (at time.Time, err error) {
	first := make([]time.Time, len(t.Nodes()))
	err = each(t.Nodes(), "an answer from every node", func(i int, n *lab.Node) error {
		// A dropped SYN would be sent again after a second: better a fresh one.
		return until(ctx, func(ctx context.Context) error {
			defer func() { first[i] = time.Now() }()
			return outcome(v.client.Ask(ctx, v.flow(n, 50*time.Millisecond)), lab.Answered)
		})
	})
	for _, f := range first {
		if f.After(at) {
			at = f
		}
	}
	return at, err
}

func outcome(a lab.Answer, want lab.Outcome) error {
	if a.Outcome != want {
		return fmt.Errorf("%s", a)
	}
	return nil
}

// held are connections to every node, kept in use.
type held struct {
	visit
	nodes []*lab.Node
	conns []*lab.Held
}

// hold opens a connection to every node.
func (t *town) hold(ctx context.Context, v visit) (*held, error) {
	h := &held{visit: v, nodes: t.Nodes(), conns: make([]*lab.Held, len(t.Nodes()))}
	err := each(h.nodes, "a connection to every node", func(i int, n *lab.Node) (err error) {
		h.conns[i], err = v.client.Hold(ctx, v.flow(n, time.Second))
		return err
	})
	if err != nil {
		h.close()
	}
	return h, err
}

// alive wants every connection to have answered in the last second.
func (h *held) alive() error {
	return each(h.nodes, "every connection to live", func(i int, _ *lab.Node) error {
		if end := h.conns[i].End(); end.Outcome != 0 {
			return fmt.Errorf("%s", end)
		}
		if age := time.Since(h.conns[i].LastAnswer()); age > time.Second {
			return fmt.Errorf("the last answer came %s ago", age.Round(time.Millisecond))
		}
		return nil
	})
}

// cut wants every connection to be cut, and returns when the last answer of all
// came.
func (h *held) cut(ctx context.Context) (last time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err = each(h.nodes, "every connection to be cut", func(i int, _ *lab.Node) error {
		select {
		case <-h.conns[i].Cut():
			return nil
		case <-ctx.Done():
			return fmt.Errorf("it lives")
		}
	})
	for _, c := range h.conns {
		if c.LastAnswer().After(last) {
			last = c.LastAnswer()
		}
	}
	return last, err
}

func (h *held) close() {
	for _, c := range h.conns {
		if c != nil {
			c.Close()
		}
	}
}
