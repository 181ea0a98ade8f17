package datapathtest

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/nflog"
)

// Lines are what the datapath on the node has logged since Listen.
type Lines struct {
	w    *World
	mu   sync.Mutex
	seen []datapath.Packet
	news chan struct{} // closed and renewed when there is another
}

// Listen hears what the datapath on the node logs, until the test ends.
func (w *World) Listen() *Lines {
	w.t.Helper()
	l := &Lines{w: w, news: make(chan struct{})}
	var listener *nflog.Listener
	w.Node.must(w.t, func() (err error) {
		listener, err = nflog.Open()
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- listener.Run(ctx, l.add) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("listen to the log: %v", err)
		}
	})
	return l
}

func (l *Lines) add(p datapath.Packet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, p)
	close(l.news)
	l.news = make(chan struct{})
}

// take returns what was heard, once there are so many lines and then a silence, and
// forgets it.
func (l *Lines) take(atLeast int) []datapath.Packet {
	deadline := time.After(patience)
	for {
		l.mu.Lock()
		n, news := len(l.seen), l.news
		l.mu.Unlock()
		quiet := time.After(silence)
		if n < atLeast {
			quiet = nil
		}
		select {
		case <-news:
			continue
		case <-quiet:
		case <-deadline:
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		seen := l.seen
		l.seen = nil
		return seen
	}
}

// again is when a kernel sends the first packet of a connection again that is not answered.
const again = time.Second

// expect wants f to have exactly these lines logged, in each family, in any order:
// "not-admitted mallory tcp/30050", or "... tcp/30050@second".
func (l *Lines) expect(f func(), lines ...string) {
	l.w.t.Helper()
	start := time.Now()
	f()
	late := time.Since(start) > again
	var want, got []string
	for _, family := range families() {
		for _, line := range lines {
			want = append(want, "IPv"+map[int]string{4: "4", 6: "6"}[family]+": "+line)
		}
	}
	type packet struct {
		line string
		from uint16
	}
	seen := map[packet]bool{}
	for _, p := range l.take(len(want)) {
		this := packet{text(p), p.SourcePort}
		if late && seen[this] {
			continue // the same packet, sent again while this process was not running
		}
		seen[this] = true
		got = append(got, text(p))
		if p.Interface != "outside" || p.SourcePort == 0 {
			l.w.t.Errorf("the line %+v lacks where it came from", p)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		l.w.t.Errorf("the log has\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// bounded wants f to have something logged, and no more than a rate and a burst
// allow in each family.
func (l *Lines) bounded(rate, burst int, f func()) {
	l.w.t.Helper()
	start := time.Now()
	f()
	most := len(families()) * (burst + int(float64(rate)*(time.Since(start).Seconds()+1)))
	if n := len(l.take(1)); n == 0 || n > most {
		l.w.t.Errorf("%d packets were logged, want some, and at most %d", n, most)
	}
}

func text(p datapath.Packet) string {
	family := "IPv4: "
	if p.Source.Is6() {
		family = "IPv6: "
	}
	line := family + string(p.Reason) + " " + nameOf(p.Source) + " " + strings.ToLower(string(p.Protocol)) + "/" + strconv.Itoa(int(p.Port))
	if at := nameOf(p.Destination); at != nodeIP.name {
		line += "@" + at
	}
	return line
}

func nameOf(addr netip.Addr) string {
	for _, h := range hosts {
		if addr == h.v4 || addr == h.v6 {
			return h.name
		}
	}
	return addr.String()
}
