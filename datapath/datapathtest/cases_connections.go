package datapathtest

import (
	"context"
	"net"

	"github.com/portreeve/portreeve/datapath/conntrack"
	"github.com/portreeve/portreeve/internal/rule"
)

// connect opens a connection and hears it answered once.
func (w *World) connect(from, to Host, family int, target string) net.Conn {
	w.t.Helper()
	conn, err := dial(w.namespaceOf(from.in(family)), from.in(family), to.in(family), portOf(target), patience)
	if err != nil {
		w.t.Fatalf("IPv%d: %s to %s of %s: %v", family, from.name, target, to.name, err)
	}
	w.t.Cleanup(func() { abort(conn) })
	w.expectPing(conn, answered)
	return conn
}

func (w *World) expectPing(conn net.Conn, want verdict) {
	w.t.Helper()
	wait := patience
	if want == dropped {
		wait = silence
	}
	if got, err := ping(conn, "still there?", wait); err != nil || got != want {
		w.t.Errorf("%s %s -> %s: %s, %v; want %s", conn.LocalAddr().Network(), conn.LocalAddr(), conn.RemoteAddr(), got, err, want)
	}
}

func (w *World) sweep(judged string, want rule.Set) int {
	return w.sweepPorts(rule.EveryProtocol(Numbers(judged)), want)
}

func (w *World) sweepPorts(ports rule.ProtocolPorts, want rule.Set) int {
	w.t.Helper()
	swept := 0
	w.Node.must(w.t, func() (err error) {
		swept, err = conntrack.Sweep(context.Background(), ports, want)
		return err
	})
	return swept
}

// The drop alone cuts: every packet is judged, not only the first.
func cutMidConnection(w *World) {
	both := Set(Pool, "tcp/30050 alice mallory", "udp/30050 alice mallory")
	one := Set(Pool, "tcp/30050 alice", "udp/30050 alice")
	w.Sync(both)
	for _, family := range families() {
		for _, target := range []string{"tcp/30050", "udp/30050"} {
			kept, cut := w.connect(alice, nodeIP, family, target), w.connect(mallory, nodeIP, family, target)
			w.Sync(one)
			w.expectPing(cut, dropped) // without any sweep
			w.expectPing(kept, answered)
			w.Sync(both)
		}
	}
}

func sweepEnds(w *World) {
	both, one := Set(Pool, "tcp/30050 alice mallory"), Set(Pool, "tcp/30050 alice")
	w.Sync(both)
	var kept, cut []net.Conn
	for _, family := range families() {
		kept = append(kept, w.connect(alice, nodeIP, family, "tcp/30050"))
		cut = append(cut, w.connect(mallory, nodeIP, family, "tcp/30050"))
	}
	w.Sync(one)
	if n := w.sweep("30050", one); n != len(cut) {
		w.t.Errorf("swept %d connections, want %d", n, len(cut))
	}
	if n := w.sweep("30050", one); n != 0 {
		w.t.Errorf("swept %d connections again, want 0", n)
	}
	for _, conn := range kept {
		w.expectPing(conn, answered)
	}
	// Admitted again, the old connection is unknown to the node: the pod gets its
	// packets from another port, and resets them.
	w.Sync(both)
	for _, conn := range cut {
		w.expectPing(conn, refused)
	}
	w.Expect("mallory tcp/30050 answered")
}

func sweepCounts(w *World) {
	// Half an association would be forgotten after three seconds, and a Sync beside other
	// tests may take as long.
	w.Node.Sysctl(w.t, "net.netfilter.nf_conntrack_sctp_timeout_cookie_wait", "600")
	for _, family := range families() {
		for _, who := range []Host{alice, mallory} {
			w.connect(who, nodeIP, family, "tcp/30050")
			w.connect(who, nodeIP, family, "udp/30050")
		}
		w.connect(mallory, nodeIP, family, "tcp/30051") // not asked for
	}
	for _, family := range families() {
		for _, who := range []Host{alice, mallory} {
			if got, err := w.probe(who.in(family), nodeIP.in(family), portOf("sctp/30050"), answered); err != nil || got != answered {
				w.t.Fatalf("sctp: %s, %v", got, err)
			}
		}
	}
	want := Set(Pool, "tcp/30050 alice", "udp/30050 alice", "sctp/30050 alice")
	w.Sync(want)
	if n, expect := w.sweep("30050", want), 3*len(families()); n != expect {
		w.t.Errorf("swept %d connections of mallory, want %d", n, expect)
	}
	if n, expect := w.sweep(Pool, want), len(families()); n != expect {
		w.t.Errorf("swept %d connections to the other port, want %d", n, expect)
	}
}

func sweepSparesUnrelated(w *World) {
	closed := Set(Pool)
	w.Sync(closed)
	for _, family := range families() {
		// Masqueraded: the node's address and a judged number on one side, a
		// judged number on the other, and none of it is a connection to the node.
		conn := w.connect(podIP, remote, family, "tcp/30080")
		talk := w.connect(podIP, remote, family, "udp/30080")
		if n := w.sweep(Pool, closed); n != 0 {
			w.t.Errorf("IPv%d: swept %d connections of a pod to a remote host", family, n)
		}
		w.expectPing(conn, answered)
		w.expectPing(talk, answered)
	}
}

func sweepSparesUnjudged(w *World) {
	closed := Set(Pool)
	w.Sync(closed)
	for _, family := range families() {
		own := w.connect(nodeIP, nodeIP, family, "tcp/32500") // lo
		outside := w.connect(mallory, nodeIP, family, "tcp/29999")
		if n := w.sweep("1-65535", closed); n != 0 {
			w.t.Errorf("IPv%d: swept %d connections that are never judged", family, n)
		}
		w.expectPing(own, answered)
		w.expectPing(outside, answered)
	}
}
