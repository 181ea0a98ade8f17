package churn

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
	"strings"
	"syscall"
	"time"

	"github.com/portreeve/portreeve/lab"
)

const (
	walkers = 6
	// How long one waits for an answer that is due, and for one that is not.
	patience   = 8 * time.Second
	impatience = 200 * time.Millisecond
	heartbeat  = 100 * time.Millisecond
	trickle    = 10 * time.Millisecond // of datagrams, which time the repairs
)

func families() []bool {
	if town.IPv6() {
		return []bool{false, true}
	}
	return []bool{false}
}

// address is one of a group's.
func address(group int, six bool, n int) netip.Addr {
	a := network(group, six).Addr()
	for range n {
		a = a.Next()
	}
	return a
}

func to(node *lab.Node, six bool, number uint16) netip.AddrPort {
	a := node.Addrs[0]
	if six {
		a = node.Addrs[len(node.Addrs)-1]
	}
	return netip.AddrPortFrom(a, number)
}

// ask is a question.
type ask struct {
	what     string
	node     *lab.Node
	protocol string
	number   uint16
	group    int
	six      bool
	n        int // of the group's addresses
	timeout  time.Duration
	patient  bool
}

// ask asks once, by a new connection or datagram, and has it judged.
func (l *life) ask(ctx context.Context, q ask) lab.Answer {
	f := flow{
		what: q.what + " " + q.protocol, from: time.Now(), group: q.group, source: address(q.group, q.six, q.n),
		node: q.node.Name, number: q.number, patient: q.patient,
	}
	f.since = f.from
	a := street.Ask(ctx, lab.Flow{Network: q.protocol, To: to(q.node, q.six, q.number), From: netip.AddrPortFrom(f.source, 0), Timeout: q.timeout})
	f.to, f.outcome = time.Now(), a.Outcome
	f.passed = a.Outcome == lab.Answered || a.Outcome == lab.Refused || a.Outcome == lab.Reset
	if ctx.Err() == nil {
		l.judge.flow(f)
	}
	return a
}

// due says whether an answer is due now.
func (l *life) due(group int, number uint16) bool {
	now := time.Now()
	_, must := l.judge.histories[number].allowed(group, number, now, now)
	return must
}

// walk asks for all numbers from everywhere, until ctx ends.
func (l *life) walk(ctx context.Context, r *rand.Rand) {
	nodes := town.Nodes()
	for pause(ctx, time.Duration(10+r.IntN(20))*time.Millisecond) {
		p := l.people[r.IntN(len(l.people))]
		q := ask{what: "new", protocol: "tcp", node: nodes[r.IntN(len(nodes))], group: r.IntN(groups), six: r.IntN(2) == 0 && town.IPv6(), n: 1 + r.IntN(3)}
		number, pair, s := uint16(0), p.tcp, p.history.newest()
		if number = s.tcp; r.IntN(2) == 0 {
			q.protocol, number, pair = "udp", s.udp, p.udp
		}
		if q.number = number; number == 0 || r.IntN(3) == 0 {
			q.number = pair[r.IntN(2)]
		}
		q.timeout = impatience
		if q.patient = l.due(q.group, q.number); q.patient {
			q.timeout = patience
		}
		l.ask(ctx, q)
	}
}

// hold keeps a connection of the group to the policy's present number for as long as
// it lives, and then begins the next, until ctx ends.
func (l *life) hold(ctx context.Context, p *person, node *lab.Node, group int, six bool) {
	for pause(ctx, impatience) {
		number := p.history.newest().tcp
		if number == 0 {
			continue
		}
		l.holdOne(ctx, flow{what: "old tcp", group: group, source: address(group, six, 5), node: node.Name, number: number}, to(node, six, number))
	}
}

func (l *life) holdOne(ctx context.Context, f flow, to netip.AddrPort) {
	f.since, f.from = time.Now(), time.Now()
	if f.patient = l.due(f.group, f.number); !f.patient && f.group != never {
		return // those that walk try
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: f.source.AsSlice()}, Timeout: impatience}
	if f.patient {
		dialer.Timeout = patience
	}
	conn, err := l.dial(ctx, dialer, "tcp", to)
	f.to, f.outcome = time.Now(), outcome(err)
	f.passed = f.outcome != lab.TimedOut && f.outcome != lab.Failed
	if ctx.Err() != nil {
		return
	}
	l.judge.flow(f)
	if err != nil {
		return
	}
	defer conn.Close()
	replies := bufio.NewReader(conn)
	for i := 0; f.outcome == lab.Answered && pause(ctx, heartbeat); i++ {
		f.from = time.Now()
		err := l.exchange(ctx, conn, replies, &f, fmt.Sprintf("%d\n", i))
		f.to, f.outcome = time.Now(), outcome(err)
		// A reset may be the node's own word about a connection that was cut.
		f.passed = f.outcome == lab.Answered
		if ctx.Err() != nil {
			return
		}
		l.judge.flow(f)
		f.since = f.from
	}
}

// exchange waits for an answer as long as one may be due.
func (l *life) exchange(ctx context.Context, conn net.Conn, replies *bufio.Reader, f *flow, line string) error {
	if _, err := io.WriteString(conn, line); err != nil {
		return err
	}
	said := ""
	for {
		if err := conn.SetReadDeadline(time.Now().Add(impatience)); err != nil {
			return err
		}
		more, err := replies.ReadString('\n')
		said += more
		f.patient = time.Since(f.from) > patience
		switch {
		case err == nil && strings.HasSuffix(said, " "+line):
			return nil
		case err == nil:
			return fmt.Errorf("not an echo: %q", said)
		case !errors.Is(err, os.ErrDeadlineExceeded):
			f.patient = true // it is over
			return err
		case ctx.Err() != nil, f.patient, !l.due(f.group, f.number):
			return err
		}
	}
}

func outcome(err error) lab.Outcome {
	switch {
	case err == nil:
		return lab.Answered
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return lab.TimedOut
	case errors.Is(err, syscall.ECONNREFUSED):
		return lab.Refused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF):
		return lab.Reset
	}
	return lab.Failed
}

func (l *life) dial(ctx context.Context, dialer net.Dialer, network string, to netip.AddrPort) (conn net.Conn, err error) {
	err = street.Do(func() error {
		conn, err = dialer.DialContext(ctx, network, to.String())
		return err
	})
	return conn, err
}

// drip sends a datagram every few milliseconds from one that is never named to the
// port that nobody edits: the last one that is answered after a damage times its
// repair.
func (l *life) drip(ctx context.Context, node *lab.Node, six bool) {
	f := flow{what: "drip", group: never, source: address(never, six, 7), node: node.Name, number: l.anchor.udp, outcome: lab.TimedOut}
	conn, err := l.dial(ctx, net.Dialer{LocalAddr: &net.UDPAddr{IP: f.source.AsSlice()}}, "udp", to(node, six, f.number))
	if err != nil {
		l.judge.breach(time.Now(), node.Name, "%v", err)
		return
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	go func() {
		for pause(ctx, trickle) {
			fmt.Fprintf(conn, "%d\n", time.Now().UnixNano())
			l.judge.count("drip")
		}
	}()
	buffer := make([]byte, 512)
	for ctx.Err() == nil {
		n, err := conn.Read(buffer)
		f.to = time.Now()
		f.from, f.outcome = f.to, outcome(err)
		var pod, peer string
		var sent int64
		if _, scanErr := fmt.Sscan(string(buffer[:n]), &pod, &peer, &sent); err == nil && scanErr == nil {
			f.from = time.Unix(0, sent)
		}
		f.since, f.passed = f.from, true
		if ctx.Err() == nil {
			l.judge.flow(f)
		}
	}
}
