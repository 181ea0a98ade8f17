package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// EchoImage is a program that is always there: on each of its container's ports
// it answers every line (TCP) or datagram (UDP) with "<pod> <peer> <what came>",
// so that a client learns who answered and which address was seen. It speaks just
// enough HTTP for curl. It runs inside the calling process, on sockets in the
// pod's namespace: nothing to start, nothing to be left over.
const EchoImage = "portreeve.dev/lab/echo"

// maxDatagram is what fits into one packet on any link of the lab.
const maxDatagram = 1400

// An echo is one running [EchoImage].
type echo struct {
	pod     string
	sockets []io.Closer
	done    chan struct{}
	serving sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // nil once stopped
}

// startEcho returns when every port is listened on.
func startEcho(ns *Namespace, pod string, ports []corev1.ContainerPort) (*echo, error) {
	e := &echo{pod: pod, done: make(chan struct{}), conns: map[net.Conn]bool{}}
	for _, port := range ports {
		if err := e.listen(ns, port); err != nil {
			e.Stop(0)
			return nil, err
		}
	}
	return e, nil
}

func (e *echo) listen(ns *Namespace, port corev1.ContainerPort) error {
	address := fmt.Sprintf(":%d", port.ContainerPort) // both families
	switch port.Protocol {
	case corev1.ProtocolTCP:
		l, err := ns.Listen("tcp", address)
		if err != nil {
			return err
		}
		e.sockets = append(e.sockets, l)
		e.serving.Go(func() { e.accept(l) })
	case corev1.ProtocolUDP:
		c, err := ns.ListenPacket("udp", address)
		if err != nil {
			return err
		}
		e.sockets = append(e.sockets, c)
		e.serving.Go(func() { e.answerPackets(c) })
	default:
		return fmt.Errorf("%s does not speak %s", EchoImage, port.Protocol)
	}
	return nil
}

func (e *echo) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return // closed
		}
		if !e.track(conn) {
			return
		}
		e.serving.Go(func() {
			e.answerLines(conn)
			e.untrack(conn)
		})
	}
}

func (e *echo) answerLines(conn net.Conn) {
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		if strings.HasSuffix(line, " HTTP/1.1\r\n") {
			e.answerHTTP(conn, lines, line)
			return
		}
		if _, err := fmt.Fprintf(conn, "%s %s %s", e.pod, conn.RemoteAddr(), line); err != nil {
			return
		}
	}
}

func (e *echo) answerHTTP(conn net.Conn, headers *bufio.Reader, request string) {
	for {
		header, err := headers.ReadString('\n')
		if err != nil {
			return
		}
		if header == "\r\n" {
			break
		}
	}
	body := fmt.Sprintf("%s %s %s\n", e.pod, conn.RemoteAddr(), strings.TrimSpace(request))
	fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
}

func (e *echo) answerPackets(c net.PacketConn) {
	buffer := make([]byte, maxDatagram)
	for {
		n, peer, err := c.ReadFrom(buffer)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue // an ICMP error for an earlier answer
		}
		_, _ = fmt.Fprintf(writerTo{c, peer}, "%s %s %s", e.pod, peer, buffer[:n]) // UDP: an answer may be lost
	}
}

type writerTo struct {
	net.PacketConn
	peer net.Addr
}

func (w writerTo) Write(b []byte) (int, error) { return w.WriteTo(b, w.peer) }

func (e *echo) track(conn net.Conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conns == nil {
		conn.Close()
		return false
	}
	e.conns[conn] = true
	return true
}

func (e *echo) untrack(conn net.Conn) {
	conn.Close()
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, conn)
}

func (e *echo) Done() <-chan struct{} { return e.done }

func (e *echo) Err() error { return nil }

// Stop closes all sockets; there is nothing that grace could be for.
func (e *echo) Stop(time.Duration) {
	e.mu.Lock()
	for conn := range e.conns {
		conn.Close()
	}
	e.conns = nil
	e.mu.Unlock()
	for _, s := range e.sockets {
		s.Close()
	}
	e.serving.Wait()
	close(e.done)
}
