package datapathtest

import (
	"net"
	"time"

	"github.com/portreeve/portreeve/datapath"
)

// silent says whether the datapath can't refuse, and drops instead.
func (w *World) silent() bool {
	_, silent := w.Datapath.(datapath.Silent)
	return silent
}

// refusedHere is what becomes of whom a gate refuses.
func (w *World) refusedHere() verdict {
	if w.silent() {
		return dropped
	}
	return refused
}

// atOnce is less than a client waits before it sends its first packet again, so that an
// answer within it was one to the first packet.
const atOnce = 900 * time.Millisecond

// refusal: only those whom the gate names hear anything, also of a listener of the node
// itself. Of SCTP one at a time, since raw sockets hear each other's errors.
func refusal(w *World) {
	no := string(w.refusedHere())
	set := Set(Pool, "tcp/30050 refused=alice", "udp/30050 refused=alice", "sctp/30050 refused=alice", "tcp/30051 alice", "tcp/32500 refused=alice")
	w.Sync(set)
	w.Expect("alice tcp/30050 "+no, "mallory tcp/30050 dropped", "alice udp/30050 "+no, "mallory udp/30050 dropped",
		"alice tcp/30051 answered", "alice tcp/30052 dropped", "alice tcp/32500 "+no)
	w.Expect("alice sctp/30050 "+no, "mallory sctp/30050 dropped")
	if !w.silent() {
		for _, family := range families() {
			for _, target := range []string{"tcp/30050", "sctp/30050"} {
				w.refusedAtOnce(family, target)
			}
		}
	}
	w.Sync(set.WithDenied(Prefixes("alice")))
	w.Expect("alice tcp/30050 dropped", "alice udp/30050 dropped", "alice tcp/30051 dropped")
	w.Sync(Set(Pool, "tcp/30050 alice", "udp/30050 alice", "sctp/30050 alice"))
	w.Expect("alice tcp/30050 answered", "alice udp/30050 answered", "alice sctp/30050 answered", "mallory tcp/30050 dropped")
}

// refusedAtOnce wants the first packet of alice to be refused. The answer may come late on a
// busy machine, but not each time.
func (w *World) refusedAtOnce(family int, target string) {
	w.t.Helper()
	var took time.Duration
	for range 3 {
		start := time.Now()
		w.expectVerdict(alice, family, target, refused)
		if took = time.Since(start); took <= atOnce {
			return
		}
	}
	w.t.Errorf("IPv%d: three times %s was refused late, at last after %s", family, target, took)
}

func refusedMidConnection(w *World) {
	open, shut := Set(Pool, "tcp/30050 alice", "udp/30050 alice"), Set(Pool, "tcp/30050 refused=alice", "udp/30050 refused=alice")
	for _, family := range families() {
		for _, target := range []string{"tcp/30050", "udp/30050"} {
			for _, sweeps := range []bool{false, true} { // the gate alone, and behind the sweep
				w.Sync(open)
				conn := w.connect(alice, nodeIP, family, target)
				w.Sync(shut)
				if sweeps {
					w.sweep(Pool, shut)
				}
				w.expectCut(conn)
			}
		}
	}
}

func (w *World) expectCut(conn net.Conn) {
	w.t.Helper()
	w.expectPing(conn, w.refusedHere())
}
