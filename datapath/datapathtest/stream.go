package datapathtest

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// stream is a flow of numbered packets from one host, each of which comes back
// if it was let through.
type stream struct {
	who    Host
	family int
	conn   net.Conn
	sent   uint32 // numbers 1 to sent have been sent

	mu    sync.Mutex
	heard map[uint32]bool
	news  chan struct{} // closed and renewed when something is heard
}

// Watch sends a stream as each of the hosts until stop is called. Every packet of
// alice must be answered, none of mallory's may be. The target is a UDP port.
func (w *World) Watch(target string, who ...string) (stop func()) {
	w.t.Helper()
	var streams []*stream
	for _, family := range families() {
		for _, name := range who {
			who := hostNamed(name)
			conn, err := dial(w.Client, who.in(family), nodeIP.in(family), portOf(target), patience)
			if err != nil {
				w.t.Fatal(err)
			}
			w.t.Cleanup(func() { _ = conn.Close() })
			if err := roomy(conn.(syscall.Conn)); err != nil {
				w.t.Fatal(err)
			}
			if name == alice.name { // and wait until the neighbours know each other
				w.expectPing(conn, answered)
			}
			_ = conn.SetDeadline(time.Time{})
			s := &stream{who: who, family: family, conn: conn, heard: map[uint32]bool{}, news: make(chan struct{})}
			go s.listen()
			streams = append(streams, s)
		}
	}
	quit, done, begun := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(200 * time.Microsecond)
		defer tick.Stop()
		var once sync.Once
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			for _, s := range streams {
				s.send()
			}
			once.Do(func() { close(begun) })
		}
	}()
	<-begun // what comes next may take less than a tick
	return func() {
		w.t.Helper()
		close(quit)
		<-done
		for _, s := range streams {
			w.judge(s)
		}
	}
}

// bearable is how many datagrams of a stream may be lost on the way: a machine that runs
// other tests besides drops one in some ten thousand. A gap between two steps of a change
// takes several in a stream. Of those that are denied none may ever pass.
const bearable = 1

func (w *World) judge(s *stream) {
	w.t.Helper()
	if s.sent == 0 {
		w.t.Errorf("IPv%d: the stream of %s never ran", s.family, s.who.name)
	}
	if s.who == mallory {
		if n := len(s.missing()); n != int(s.sent) {
			w.t.Errorf("IPv%d: %d of mallory's %d packets were let through", s.family, int(s.sent)-n, s.sent)
		}
		return
	}
	deadline := time.After(patience)
	for {
		s.mu.Lock()
		news := s.news
		s.mu.Unlock()
		lost := s.missing()
		if len(lost) == 0 {
			return
		}
		select {
		case <-news:
		case <-deadline:
			if len(lost) == bearable {
				w.t.Logf("IPv%d: packet %d of alice's %d was lost", s.family, lost[0], s.sent)
				return
			}
			w.t.Errorf("IPv%d: %d of alice's %d packets were lost, number %d first, %d last", s.family, len(lost), s.sent, lost[0], lost[len(lost)-1])
			return
		}
	}
}

// send sends the next packet; one that the kernel refuses to send (an ICMP error
// is waiting) gets no number.
func (s *stream) send() {
	packet := make([]byte, 4)
	binary.BigEndian.PutUint32(packet, s.sent+1)
	if _, err := s.conn.Write(packet); err == nil {
		s.sent++
	}
}

func (s *stream) listen() {
	packet := make([]byte, 64)
	for {
		n, err := s.conn.Read(packet)
		if n == 4 {
			s.mu.Lock()
			s.heard[binary.BigEndian.Uint32(packet)] = true
			close(s.news)
			s.news = make(chan struct{})
			s.mu.Unlock()
		}
		if errors.Is(err, net.ErrClosed) { // any other error is an ICMP's, and passes
			return
		}
	}
}

func (s *stream) missing() []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []uint32
	for n := uint32(1); n <= s.sent; n++ {
		if !s.heard[n] {
			out = append(out, n)
		}
	}
	return out
}
