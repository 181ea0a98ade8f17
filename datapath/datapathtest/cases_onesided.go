package datapathtest

import (
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// The numbers on which the node itself listens in these cases.
const (
	silentPort  = 32510
	talkingPort = 32511
)

// oneWay: a connection that nobody answers (syslog, statsd) is one connection, however
// many packets it has.
func oneWay(w *World) {
	var heard atomic.Int64
	var listener net.PacketConn
	w.Node.must(w.t, func() (err error) {
		listener, err = net.ListenPacket("udp", fmt.Sprintf(":%d", silentPort))
		return err
	})
	w.t.Cleanup(func() { _ = listener.Close() })
	go func() {
		b := make([]byte, 64)
		for {
			if _, _, err := listener.ReadFrom(b); err != nil {
				return
			}
			heard.Add(1)
		}
	}()
	target := fmt.Sprintf("udp/%d", silentPort)
	w.Sync(Set(Pool, target+" alice persecond=5 burst=5"))
	// A busy machine may lose some of so many at once; a limit that took each for a
	// connection would let half of them through at most while we wait.
	const packets, most = 100, 90
	for _, family := range families() {
		heard.Store(0)
		conn, err := dial(w.Client, alice.in(family), nodeIP.in(family), portOf(target), patience)
		if err != nil {
			w.t.Fatal(err)
		}
		for range packets {
			if _, err := conn.Write([]byte("line")); err != nil {
				w.t.Fatal(err)
			}
		}
		w.eventually(fmt.Sprintf("IPv%d: %d of %d packets of one connection arrive", family, most, packets), func() bool { return heard.Load() >= most })
		_ = conn.Close()
	}
}

// serverTalks: a server of the node that goes on talking to a client which lost access
// does not bring the client back, whatever was swept.
func serverTalks(w *World) {
	var heard atomic.Int64
	var listener net.Listener
	w.Node.must(w.t, func() (err error) {
		listener, err = net.Listen("tcp", fmt.Sprintf(":%d", talkingPort))
		return err
	})
	w.t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			w.t.Cleanup(func() { abort(conn) })
			go repeat(conn)
			go func() {
				b := make([]byte, 64)
				for {
					if _, err := conn.Read(b); err != nil {
						return
					}
					heard.Add(1)
				}
			}()
		}
	}()
	target := fmt.Sprintf("tcp/%d", talkingPort)
	open, closed := Set(Pool, target+" alice"), Set(Pool)
	for _, family := range families() {
		w.Sync(open)
		conn, err := dial(w.Client, alice.in(family), nodeIP.in(family), portOf(target), patience)
		if err != nil {
			w.t.Fatal(err)
		}
		defer abort(conn)
		go repeat(conn)
		before := heard.Load()
		w.eventually("the client is heard", func() bool { return heard.Load() > before+3 })
		w.Sync(closed)
		w.sweep(fmt.Sprint(talkingPort), closed)
		time.Sleep(silence) // what was on its way has arrived
		before = heard.Load()
		time.Sleep(5 * silence) // retransmissions of both sides
		if now := heard.Load(); now != before {
			w.t.Errorf("IPv%d: %d times the node heard a client that lost access", family, now-before)
		}
	}
}

// repeat talks until the connection ends.
func repeat(conn net.Conn) {
	for {
		if _, err := conn.Write([]byte("still here")); err != nil {
			return
		}
		time.Sleep(silence / 8)
	}
}

// eventually waits for something to become so.
func (w *World) eventually(what string, so func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Errorf("not within %s: %s", patience, what)
			return
		}
	}
}
