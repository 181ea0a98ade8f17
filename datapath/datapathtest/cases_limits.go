package datapathtest

import (
	"sync"
	"sync/atomic"
	"time"
)

// tries is how many connections are begun at once where only some may be.
const tries = 40

// aWhile is how long to wait for answers on a busy machine where some never come.
const aWhile = 4 * time.Second

// begin begins so many connections at once, each from a port of its own, and counts
// those that were answered in that time; took is how long the datapath could let more
// through.
func (w *World) begin(n int, from Host, family int, target string, wait time.Duration) (answers int, took time.Duration) {
	w.t.Helper()
	start := time.Now()
	var all sync.WaitGroup
	var heard atomic.Int32
	for range n {
		all.Go(func() {
			got, err := w.probeFor(from.in(family), nodeIP.in(family), portOf(target), wait)
			if err != nil {
				w.t.Errorf("IPv%d: %s %s: %v", family, from.name, target, err)
			}
			if got == answered {
				heard.Add(1)
			}
		})
	}
	all.Wait()
	return int(heard.Load()), time.Since(start)
}

func limitsPerSecond(w *World) {
	const rate, burst = 1, 5
	w.Sync(Set(Pool,
		"tcp/30050 alice mallory persecond=1 burst=5", "tcp/30051 alice persecond=1 burst=5", "tcp/30052 alice",
		"udp/30050 alice mallory persecond=1 burst=5", "udp/30051 alice persecond=1 burst=5", "udp/30052 alice",
		"sctp/30053 alice persecond=1 burst=5", "tcp/30054 alice persecond=1000 burst=1000",
	))
	var all sync.WaitGroup
	for _, family := range families() {
		limited := func(from Host, target string) {
			n, took := w.begin(tries, from, family, target, aWhile)
			if most := burst + rate*int(took.Seconds()+1); n < burst || n > most {
				w.t.Errorf("IPv%d: %s began %d connections to %s in %s, want from %d to %d", family, from.name, n, target, took, burst, most)
			}
		}
		free := func(target string) {
			if n, _ := w.begin(tries, alice, family, target, patience); n != tries {
				w.t.Errorf("IPv%d: of %d connections to %s, which allows as many, %d were answered", family, tries, target, n)
			}
		}
		for _, protocol := range []string{"tcp", "udp"} {
			all.Go(func() {
				limited(alice, protocol+"/30050")
				limited(mallory, protocol+"/30050") // has limits of its own
				limited(alice, protocol+"/30051")   // another port, the same
				free(protocol + "/30052")
			})
		}
		all.Go(func() {
			limited(alice, "sctp/30053")
			free("tcp/30054")
		})
	}
	all.Wait()
	w.expectBusy()
}

// expectBusy wants a connection to go on while its port takes no other.
func (w *World) expectBusy() {
	w.t.Helper()
	time.Sleep(2 * time.Second) // there is room for one again
	for _, family := range families() {
		for _, target := range []string{"tcp/30050", "udp/30050"} {
			conn := w.connect(alice, nodeIP, family, target)
			w.begin(tries, alice, family, target, aWhile)
			for range tries {
				if got, err := ping(conn, "still there?", patience); err != nil || got != answered {
					w.t.Errorf("IPv%d: a connection to %s, whose source is above its limits, was %s, %v", family, target, got, err)
					break
				}
			}
		}
	}
}

func limitsConnections(w *World) {
	w.Sync(Set(Pool,
		"tcp/30050 alice mallory connections=2", "tcp/30051 alice connections=2", "tcp/30052 alice connections=3",
		"udp/30050 alice mallory connections=2", "udp/30053 alice",
	))
	for _, family := range families() {
		for _, target := range []string{"tcp/30050", "udp/30050"} {
			first, last := w.connect(alice, nodeIP, family, target), w.connect(alice, nodeIP, family, target)
			w.expectVerdict(alice, family, target, dropped)
			w.connect(mallory, nodeIP, family, target)
			w.connect(mallory, nodeIP, family, target)
			w.expectVerdict(mallory, family, target, dropped)
			w.expectPing(first, answered)
			w.expectPing(last, answered)
		}
		w.connect(alice, nodeIP, family, "tcp/30051") // counts for itself
		w.connect(alice, nodeIP, family, "tcp/30051")
		w.expectVerdict(alice, family, "tcp/30051", dropped)
		w.connect(alice, nodeIP, family, "udp/30053")

		gone := w.connect(alice, nodeIP, family, "tcp/30052")
		w.connect(alice, nodeIP, family, "tcp/30052")
		w.connect(alice, nodeIP, family, "tcp/30052")
		w.expectVerdict(alice, family, "tcp/30052", dropped)
		abort(gone)
		for began := time.Now(); ; { // and there is room for another
			got, err := w.probe(alice.in(family), nodeIP.in(family), portOf("tcp/30052"), dropped)
			if err == nil && got == answered {
				break
			}
			if time.Since(began) > patience {
				w.t.Errorf("IPv%d: after one connection of three ended, another was %s, %v", family, got, err)
				break
			}
		}
	}
}

func (w *World) expectVerdict(from Host, family int, target string, want verdict) {
	w.t.Helper()
	if got, err := w.probe(from.in(family), nodeIP.in(family), portOf(target), want); err != nil || got != want {
		w.t.Errorf("IPv%d: %s %s: %s, %v; want %s", family, from.name, target, got, err, want)
	}
}

func limitsBegin(w *World) {
	free := Set(Pool, "tcp/30050 alice", "udp/30050 alice")
	w.Sync(free)
	for _, family := range families() {
		for _, target := range []string{"tcp/30050", "udp/30050"} {
			w.Sync(free)
			first, last := w.connect(alice, nodeIP, family, target), w.connect(alice, nodeIP, family, target)
			for _, limits := range []string{"connections=1", "persecond=1", "connections=1 persecond=1 burst=1"} {
				w.Sync(Set(Pool, "tcp/30050 alice "+limits, "udp/30050 alice "+limits))
				w.expectPing(first, answered)
				w.expectPing(last, answered)
			}
			w.Sync(free)
			if n, _ := w.begin(tries, alice, family, target, patience); n != tries {
				w.t.Errorf("IPv%d: of %d connections to %s after its limits went %d were answered", family, tries, target, n)
			}
		}
	}
}
