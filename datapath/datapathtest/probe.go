package datapathtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/internal/rule"
)

// verdict is what a sender sees.
type verdict string

const (
	answered verdict = "answered"
	dropped  verdict = "dropped"
	refused  verdict = "refused" // a reset or an ICMP error: somebody answered "no"
)

const (
	// silence is how long nothing must be heard for a packet to count as dropped;
	// an answer comes within a millisecond.
	silence = 400 * time.Millisecond
	// patience is how long an expected answer may take on a busy machine.
	patience = 10 * time.Second
)

// Serve echoes TCP and UDP and answers SCTP on a port of the namespace.
func Serve(t testing.TB, n *Namespace, port uint16) {
	t.Helper()
	var tcp net.Listener
	var udp net.PacketConn
	n.must(t, func() (err error) {
		address := fmt.Sprintf(":%d", port)
		if tcp, err = net.Listen("tcp", address); err != nil {
			return err
		}
		if udp, err = net.ListenPacket("udp", address); err != nil {
			return err
		}
		return roomy(udp.(*net.UDPConn))
	})
	t.Cleanup(func() { _, _ = tcp.Close(), udp.Close() })
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	go func() {
		b := make([]byte, 1<<16)
		for {
			size, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(b[:size], from)
		}
	}()
	for _, family := range families() {
		serveSCTP(t, n, family, port)
	}
}

// roomy gives a socket room for seconds of packets: one that nobody has come to
// read yet must not count as dropped by the datapath.
func roomy(conn syscall.Conn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	refused := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
	})
	return errors.Join(refused, err)
}

// Expect sends packets, all at the same time and in both families, and compares
// what becomes of them. A line reads "alice tcp/30050 answered": who, to which
// port of the node, what is heard; "alice tcp/30050@virtual answered" names
// another destination than the node.
func (w *World) Expect(lines ...string) {
	w.t.Helper()
	var all sync.WaitGroup
	for _, line := range lines {
		for _, family := range families() {
			all.Go(func() {
				words := strings.Fields(line)
				target, at, elsewhere := strings.Cut(words[1], "@")
				to := nodeIP
				if elsewhere {
					to = hostNamed(at)
				}
				want := verdict(words[2])
				got, err := w.probe(hostNamed(words[0]).in(family), to.in(family), portOf(target), want)
				if err != nil {
					w.t.Errorf("IPv%d: %s: %v", family, line, err)
				} else if got != want {
					w.t.Errorf("IPv%d: %s: it was %s", family, line, got)
				}
			})
		}
	}
	all.Wait()
}

func hostNamed(name string) Host {
	for _, h := range hosts {
		if h.name == name {
			return h
		}
	}
	panic("no host is called " + name)
}

// namespaceOf finds who holds an address.
func (w *World) namespaceOf(addr netip.Addr) *Namespace {
	switch addr {
	case podIP.v4, podIP.v6:
		return w.Pod
	case nodeIP.v4, nodeIP.v6:
		return w.Node
	}
	return w.Client
}

// sctpPort gives each hand-made INIT a source port of its own.
var sctpPort atomic.Uint32

func (w *World) probe(from, to netip.Addr, port rule.Port, want verdict) (verdict, error) {
	wait := patience
	if want == dropped {
		wait = silence
	}
	return w.probeFor(from, to, port, wait)
}

func (w *World) probeFor(from, to netip.Addr, port rule.Port, wait time.Duration) (verdict, error) {
	n := w.namespaceOf(from)
	if port.Protocol == rule.SCTP {
		source := uint16(20000 + sctpPort.Add(1)%5000)
		return probeSCTP(n, netip.AddrPortFrom(from, source), netip.AddrPortFrom(to, port.Number), wait)
	}
	conn, err := dial(n, from, to, port, wait)
	if err != nil {
		return verdictOf(err)
	}
	defer abort(conn)
	return ping(conn, "knock", wait)
}

func dial(n *Namespace, from, to netip.Addr, port rule.Port, wait time.Duration) (conn net.Conn, err error) {
	err = n.Do(func() (err error) {
		dialer := net.Dialer{Timeout: wait}
		if port.Protocol == rule.TCP {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		} else {
			dialer.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
		}
		conn, err = dialer.DialContext(context.Background(), strings.ToLower(string(port.Protocol)),
			netip.AddrPortFrom(to, port.Number).String())
		return err
	})
	return conn, err
}

// pings tell the datagrams apart.
var pings atomic.Uint64

// pingDatagram sends a text, and again when it or its echo must have been lost on the way:
// on a busy machine, or when two connections get the same port at a time by masquerading.
func pingDatagram(conn net.Conn, text string, wait time.Duration) (verdict, error) {
	text = fmt.Sprint(text, " ", pings.Add(1)) // so that an echo which comes late is for nobody else
	echo := make([]byte, len(text)+1)
	for end := time.Now().Add(wait); ; {
		last := time.Until(end) <= patience/4
		if err := conn.SetDeadline(time.Now().Add(min(time.Until(end), patience/4))); err != nil {
			return "", err
		}
		if _, err := io.WriteString(conn, text); err != nil {
			return verdictOf(err)
		}
		for {
			n, err := conn.Read(echo)
			if err == nil && string(echo[:n]) == text {
				return answered, nil
			}
			if err == nil {
				continue
			}
			if heard, err := verdictOf(err); err != nil || heard != dropped || last {
				return heard, err
			}
			break
		}
	}
}

// ping sends a text and waits for its echo.
func ping(conn net.Conn, text string, wait time.Duration) (verdict, error) {
	if _, is := conn.(*net.UDPConn); is {
		return pingDatagram(conn, text, wait)
	}
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, text); err != nil {
		return verdictOf(err)
	}
	echo := make([]byte, len(text))
	if _, err := io.ReadFull(conn, echo); err != nil {
		return verdictOf(err)
	}
	if string(echo) != text {
		return "", fmt.Errorf("sent %q, heard %q", text, echo)
	}
	return answered, nil
}

func verdictOf(err error) (verdict, error) {
	var netErr net.Error
	switch {
	case errors.As(err, &netErr) && netErr.Timeout():
		return dropped, nil
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, unix.EPIPE),
		errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES): // a firewall's "prohibited", in IPv4 and IPv6
		return refused, nil
	}
	return "", err
}

// abort closes a TCP connection by a reset, which frees its ports and its
// conntrack entry soon.
func abort(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
