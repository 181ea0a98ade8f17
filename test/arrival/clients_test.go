package arrival

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/portreeve/portreeve/lab"
)

const (
	// patience is how long a client waits for an answer: much longer than a busy machine
	// takes.
	patience = 4 * time.Second
	// resend is after what time a client sends its datagram again.
	resend = 500 * time.Millisecond
	// heartbeat is how often a connection is used.
	heartbeat = 50 * time.Millisecond
	// impatience of those who expect no answer.
	impatience = 150 * time.Millisecond
)

// played is a policy whose addresses clients follow as a front would: they ask where its
// status says.
type played struct {
	name   string
	number uint16

	mu        sync.Mutex
	addresses []netip.AddrPort
}

// moved takes in what status lists, and says whether that is news.
func (p *played) moved(list []string) bool {
	var addresses []netip.AddrPort
	for _, text := range list {
		if a, err := netip.ParseAddrPort(text); err == nil && a.Port() == p.number {
			addresses = append(addresses, a)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	news := !slices.Equal(p.addresses, addresses)
	p.addresses = addresses
	return news
}

// any is one of the addresses, none when there is none.
func (p *played) any(r *rand.Rand) netip.AddrPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.addresses) == 0 {
		return netip.AddrPort{}
	}
	return p.addresses[r.IntN(len(p.addresses))]
}

func (c *change) attempt(p *played, network string, to netip.AddrPort) attempt {
	now := time.Now()
	return attempt{policy: p.name, network: network, to: to, node: c.nodeOf(to.Addr()), begun: now, since: now}
}

func (c *change) nodeOf(a netip.Addr) string {
	for _, n := range c.town.Nodes() {
		if slices.Contains(n.Addrs, a) {
			return n.Name
		}
	}
	return ""
}

// knock begins connections, one after the other, and ends each after one answer.
func (c *change) knock(ctx context.Context, p *played, network string, n int) {
	r := c.dice(n)
	for pause(ctx, time.Duration(30+r.IntN(40))*time.Millisecond) {
		to := p.any(r)
		if !to.IsValid() {
			continue
		}
		a := c.attempt(p, network, to)
		answer := c.office.Ask(ctx, lab.Flow{Network: network, To: to, From: source(to.Addr(), office4, office6, n), Timeout: patience})
		a.until, a.outcome, a.err = time.Now(), answer.Outcome, answer.Err
		if ctx.Err() == nil {
			c.judge.tried(a)
		}
	}
}

// stay keeps connections in use for some seconds each, or until they fail.
func (c *change) stay(ctx context.Context, p *played, network string, n int) {
	r := c.dice(n)
	for pause(ctx, heartbeat) {
		to := p.any(r)
		if !to.IsValid() {
			continue
		}
		a := c.attempt(p, network, to)
		conn, err := c.dial(ctx, network, source(to.Addr(), office4, office6, n), to)
		if err != nil {
			a.until, a.outcome, a.err = time.Now(), outcome(err), err
			if ctx.Err() == nil {
				c.judge.tried(a)
			}
			continue
		}
		c.converse(ctx, conn, a, time.Duration(2+r.IntN(5))*time.Second)
		conn.Close()
	}
}

// converse uses a connection until it fails, or for so long.
func (c *change) converse(ctx context.Context, conn net.Conn, a attempt, long time.Duration) {
	replies := bufio.NewReader(conn)
	for i := 0; time.Since(a.begun) < long; i++ {
		err := exchange(conn, replies, a.network, fmt.Sprintf("%d\n", i))
		a.until, a.outcome, a.err = time.Now(), outcome(err), err
		if ctx.Err() != nil {
			return
		}
		c.judge.tried(a)
		if err != nil {
			return
		}
		a.since, a.old = a.until, true
		if !pause(ctx, heartbeat) {
			return
		}
	}
}

// exchange sends a line, by UDP several times, and waits for its echo.
func exchange(conn net.Conn, replies *bufio.Reader, network, line string) error {
	end := time.Now().Add(patience)
	for {
		until := end
		if next := time.Now().Add(resend); network == "udp" && next.Before(end) {
			until = next
		}
		if _, err := io.WriteString(conn, line); err != nil {
			return err
		}
		err := echoed(conn, replies, until, line)
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || !time.Now().Before(end) {
			return err
		}
	}
}

// echoed waits for the echo of a line; late ones of earlier lines may come before.
func echoed(conn net.Conn, replies *bufio.Reader, until time.Time, line string) error {
	if err := conn.SetReadDeadline(until); err != nil {
		return err
	}
	for {
		said, err := replies.ReadString('\n')
		if err != nil {
			return err
		}
		var pod, peer, text string
		if _, err := fmt.Sscan(said, &pod, &peer, &text); err != nil {
			return fmt.Errorf("not an echo: %q", said)
		}
		if text+"\n" == line {
			return nil
		}
	}
}

func (c *change) dial(ctx context.Context, network string, from, to netip.AddrPort) (conn net.Conn, err error) {
	dialer := net.Dialer{Timeout: patience, LocalAddr: net.TCPAddrFromAddrPort(from)}
	if network == "udp" {
		dialer.LocalAddr = net.UDPAddrFromAddrPort(from)
	}
	err = c.office.Do(func() error {
		conn, err = dialer.DialContext(ctx, network, to.String())
		return err
	})
	return conn, err
}

func outcome(err error) lab.Outcome {
	var timeout net.Error
	switch {
	case err == nil:
		return lab.Answered
	case errors.Is(err, syscall.ECONNREFUSED):
		return lab.Refused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF):
		return lab.Reset
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return lab.Unreachable
	case errors.As(err, &timeout) && timeout.Timeout():
		return lab.TimedOut
	}
	return lab.Failed
}

// intrude asks everywhere for one who is never admitted.
func (c *change) intrude(ctx context.Context, n int) {
	r := c.dice(n)
	for pause(ctx, 20*time.Millisecond) {
		p := c.policies[r.IntN(len(c.policies))]
		node := c.town.Nodes()[r.IntN(len(c.town.Nodes()))]
		to := netip.AddrPortFrom(node.Addrs[r.IntN(len(node.Addrs))], p.number)
		network := []string{"tcp", "udp"}[r.IntN(2)]
		began := time.Now()
		a := c.street.Ask(ctx, lab.Flow{Network: network, To: to, From: source(to.Addr(), street4, street6, 1+n%8), Timeout: impatience})
		c.judge.count("denied")
		switch a.Outcome {
		case lab.Answered, lab.Refused, lab.Reset:
			c.judge.breach("%s who is not admitted, by %s to %s of %s: %s", clock(began), network, to, node.Name, a)
		}
	}
}

func (j *judge) breach(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.breaches = append(j.breaches, fmt.Sprintf(format, args...))
}
