package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Flow is traffic to a port behind which an [EchoImage] should answer.
type Flow struct {
	// Network is "tcp" (the default) or "udp".
	Network string
	To      netip.AddrPort
	// From chooses the local address, the local port, or both; what is unset
	// the kernel chooses.
	From netip.AddrPort
	// Timeout is how long an answer may take; the default is one second.
	Timeout time.Duration
}

func (f Flow) withDefaults() Flow {
	if f.Network == "" {
		f.Network = "tcp"
	}
	if f.Timeout == 0 {
		f.Timeout = time.Second
	}
	return f
}

// Outcome is what became of a [Flow].
type Outcome int

// The outcomes, from the client's point of view.
const (
	Answered    Outcome = iota + 1 // a pod answered
	TimedOut                       // nothing came back: dropped
	Refused                        // a reset or ICMP port unreachable: nobody listens, or rejected
	Reset                          // an established connection was reset
	Unreachable                    // no route, or an ICMP error that says so
	Failed                         // anything else: see Answer.Err
)

func (o Outcome) String() string {
	return [...]string{"none", "answered", "timed out", "refused", "reset", "unreachable", "failed"}[o]
}

// Answer says what became of a [Flow].
type Answer struct {
	Outcome Outcome
	// Pod is who answered, and Peer the client's address as that pod saw it.
	Pod  string
	Peer netip.AddrPort
	// Took is from before connecting to the answer.
	Took time.Duration
	// Err is set unless Answered.
	Err error
}

func (a Answer) String() string {
	if a.Outcome == Answered {
		return fmt.Sprintf("answered by %s, which saw %s, in %s", a.Pod, a.Peer, a.Took.Round(10*time.Microsecond))
	}
	return fmt.Sprintf("%s: %v", a.Outcome, a.Err)
}

// Ask opens a connection (or sends a datagram) from within the namespace, waits
// for one answer, and closes it.
func (ns *Namespace) Ask(ctx context.Context, flow Flow) Answer {
	start := time.Now()
	conversation, answer := ns.open(ctx, flow)
	if conversation != nil {
		conversation.conn.Close()
	}
	answer.Took = time.Since(start)
	return answer
}

// open connects and has one exchange; the conversation is nil unless Answered.
func (ns *Namespace) open(ctx context.Context, flow Flow) (*conversation, Answer) {
	flow = flow.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, flow.Timeout)
	defer cancel()
	conn, err := ns.dial(ctx, net.Dialer{LocalAddr: flow.localAddr()}, flow.Network, flow.To.String())
	if err != nil {
		return nil, failure(err)
	}
	c := &conversation{flow: flow, conn: conn, replies: bufio.NewReader(conn)}
	deadline, _ := ctx.Deadline()
	answer := c.exchange(deadline)
	if answer.Outcome != Answered {
		conn.Close()
		return nil, answer
	}
	return c, answer
}

func (f Flow) localAddr() net.Addr {
	if !f.From.IsValid() && f.From.Port() == 0 {
		return nil
	}
	if f.Network == "udp" {
		return &net.UDPAddr{IP: f.From.Addr().AsSlice(), Port: int(f.From.Port())}
	}
	return &net.TCPAddr{IP: f.From.Addr().AsSlice(), Port: int(f.From.Port())}
}

// A conversation is one connection, or one UDP socket pair, with an echo.
type conversation struct {
	flow    Flow
	conn    net.Conn
	replies *bufio.Reader
	asked   int
}

// exchange sends one line and waits for its echo. A datagram is sent again a few
// times before deadline: a full queue somewhere must not look like a closed port.
func (c *conversation) exchange(deadline time.Time) Answer {
	c.asked++
	question := fmt.Sprintf("%d\n", c.asked)
	attempts := 1
	if c.flow.Network == "udp" {
		attempts = 4
	}
	step := time.Until(deadline) / time.Duration(attempts)
	for i := range attempts {
		until := deadline
		if i < attempts-1 {
			until = time.Now().Add(step)
		}
		if err := c.conn.SetDeadline(until); err != nil {
			return failure(err)
		}
		if _, err := io.WriteString(c.conn, question); err != nil {
			return failure(err)
		}
		answer := c.awaitEcho(question)
		if answer.Outcome != TimedOut || i == attempts-1 {
			return answer
		}
	}
	panic("unreachable: the last attempt returns")
}

func (c *conversation) awaitEcho(question string) Answer {
	for {
		line, err := c.replies.ReadString('\n')
		if err != nil {
			return failure(err)
		}
		pod, rest, _ := strings.Cut(line, " ")
		seen, text, ok := strings.Cut(rest, " ")
		peer, err := netip.ParseAddrPort(seen)
		if !ok || err != nil {
			return Answer{Outcome: Failed, Err: fmt.Errorf("not an echo: %q", line)}
		}
		if text == question { // else: a late answer to an earlier attempt
			peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
			return Answer{Outcome: Answered, Pod: pod, Peer: peer}
		}
	}
}

func failure(err error) Answer {
	outcome := Failed
	var errno syscall.Errno
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, unix.ETIMEDOUT):
		outcome = TimedOut
	case errors.Is(err, unix.ECONNREFUSED):
		outcome = Refused
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE), errors.Is(err, io.EOF):
		outcome = Reset
	case errors.As(err, &errno) && (errno == unix.EHOSTUNREACH || errno == unix.ENETUNREACH ||
		errno == unix.EACCES || errno == unix.EPERM):
		outcome = Unreachable
	}
	return Answer{Outcome: outcome, Err: err}
}

// heartbeat is how often a held connection is used: the finest grain at which a
// cut can be timed.
const heartbeat = 2 * time.Millisecond

// Held is a connection that is kept in use, to see whether and when it is cut.
type Held struct {
	// First is the answer to the first question.
	First Answer

	last   atomic.Int64 // time of the latest answer, Unix ns
	latest atomic.Pointer[Answer]
	cut    chan struct{}
	end    Answer // set before cut is closed
	stop   context.CancelFunc
}

// Hold opens a connection and keeps asking over it, every 2 ms, until it is cut
// or closed. A question without an answer for the flow's Timeout is a cut. It
// is an error if not even the first question is answered.
func (ns *Namespace) Hold(ctx context.Context, flow Flow) (*Held, error) {
	c, first := ns.open(ctx, flow)
	if first.Outcome != Answered {
		return nil, fmt.Errorf("holding a connection to %s: %s", flow.To, first)
	}
	h := &Held{First: first, cut: make(chan struct{})}
	h.last.Store(time.Now().UnixNano())
	h.latest.Store(&first)
	var held context.Context
	held, h.stop = context.WithCancel(context.Background())
	go h.run(held, c)
	return h, nil
}

func (h *Held) run(ctx context.Context, c *conversation) {
	defer c.conn.Close()
	defer close(h.cut)
	for {
		answer := c.exchange(time.Now().Add(c.flow.Timeout))
		if answer.Outcome != Answered {
			h.end = answer
			return
		}
		h.last.Store(time.Now().UnixNano())
		h.latest.Store(&answer)
		pause(ctx, heartbeat)
		if ctx.Err() != nil {
			h.end = Answer{Outcome: Failed, Err: errors.New("closed by the holder")}
			return
		}
	}
}

// LastAnswer is when the other end answered last. For a connection that was cut
// it is the last moment at which the cut had not yet come.
func (h *Held) LastAnswer() time.Time { return time.Unix(0, h.last.Load()) }

// Latest is the answer to the latest question that was answered: over UDP another pod may
// answer than did at first, and see another address.
func (h *Held) Latest() Answer { return *h.latest.Load() }

// Cut is closed when the connection is cut, which a silent drop makes known
// only after the flow's Timeout; [Held.LastAnswer] tells when it really came.
func (h *Held) Cut() <-chan struct{} { return h.cut }

// End is how the connection ended (TimedOut: silently dropped; Reset), or a
// zero Answer while it is alive.
func (h *Held) End() Answer {
	select {
	case <-h.cut:
		return h.end
	default:
		return Answer{}
	}
}

// Close ends the connection and returns when it is closed.
func (h *Held) Close() {
	h.stop()
	<-h.cut
}
