package datapathtest

import (
	"fmt"
	"time"

	"github.com/portreeve/portreeve/datapath"
)

// flooding is how many packets make a flood, in each family.
const flooding = 500

// flood begins many connections and waits for nothing.
func (w *World) flood(from Host, target string) {
	w.t.Helper()
	for _, family := range families() {
		for range flooding {
			knock(w, from.in(family), nodeIP.in(family), portOf(target))
		}
	}
}

func logsDenied(w *World) {
	past := time.Now().Add(-time.Hour).Unix()
	want := Set(Pool,
		"tcp/30050 alice log=denied lines=100", "udp/30050 alice log=denied lines=100", "sctp/30050 alice log=denied lines=100",
		"tcp/30051 alice", "tcp/30060 log=denied", "tcp/30052 alice connections=1 log=denied lines=7",
		fmt.Sprintf("tcp/30053 alice log=denied expires=%d", past), fmt.Sprintf("tcp/30055 alice log=denied expires=%d", past),
	).WithAudited(Numbers("30055"))
	w.Sync(want)
	lines := w.Listen()
	lines.expect(func() {
		w.Expect("mallory tcp/30050 dropped", "mallory udp/30050 dropped", "mallory sctp/30050 dropped", "alice tcp/30060 dropped")
	}, "not-admitted mallory tcp/30050", "not-admitted mallory udp/30050", "not-admitted mallory sctp/30050", "not-admitted alice tcp/30060")
	lines.expect(func() {
		w.Expect("alice tcp/30050 answered", "alice udp/30050 answered", "alice sctp/30050 answered",
			"mallory tcp/30051 dropped", "mallory udp/30051 dropped", "mallory tcp/30070 dropped", "mallory tcp/29999 answered")
	})
	lines.expect(func() {
		for _, family := range families() {
			w.connect(alice, nodeIP, family, "tcp/30052")
			w.expectVerdict(alice, family, "tcp/30052", dropped)
		}
	}, "limited alice tcp/30052")
	lines.expect(func() { w.Expect("alice tcp/30053 dropped", "alice tcp/30055 dropped") },
		"not-admitted alice tcp/30053", "not-admitted alice tcp/30055")
	for _, family := range families() { // what goes on is not new
		conn := w.connect(alice, nodeIP, family, "tcp/30050")
		lines.expect(func() {
			w.Sync(Set(Pool, "tcp/30050 log=denied"))
			w.expectPing(conn, dropped)
			w.Sync(want)
		})
	}
	w.Sync(want.WithDenied(Prefixes("mallory")))
	lines.expect(func() {
		w.Expect("mallory tcp/30050 dropped", "mallory udp/30051 dropped", "mallory sctp/30070 dropped", "alice tcp/30051 answered")
	}, "denied mallory tcp/30050", "denied mallory udp/30051", "denied mallory sctp/30070")
}

func logsAccepted(w *World) {
	w.Sync(Set(Pool,
		"tcp/30050 alice log=accepted lines=100", "udp/30050 alice log=accepted lines=100", "sctp/30050 alice log=accepted lines=100",
		"tcp/30051 alice log=accepted,denied lines=50", "tcp/30052 alice audited=mallory log=accepted",
	))
	lines := w.Listen()
	for _, target := range []string{"tcp/30050", "udp/30050"} {
		lines.expect(func() {
			for _, family := range families() {
				conn := w.connect(alice, nodeIP, family, target)
				w.expectPing(conn, answered)
				w.expectPing(conn, answered)
			}
		}, "accepted alice "+target)
	}
	lines.expect(func() {
		w.Expect("alice sctp/30050 answered", "mallory tcp/30050 dropped", "mallory sctp/30050 dropped")
	},
		"accepted alice sctp/30050")
	lines.expect(func() {
		w.Expect("alice tcp/30051 answered", "mallory tcp/30051 dropped", "mallory tcp/29999 answered")
	},
		"accepted alice tcp/30051", "not-admitted mallory tcp/30051")
	lines.expect(func() { w.Expect("alice tcp/30052 answered", "mallory tcp/30052 answered") },
		"accepted alice tcp/30052", "audited mallory tcp/30052")
}

func logsAudited(w *World) {
	w.Sync(Set(Pool, "tcp/30050 alice audited=mallory", "udp/30050 alice audited=mallory", "tcp/30051 alice audited=mallory").WithAudited(Numbers("30051 30060")))
	lines := w.Listen()
	for _, target := range []string{"tcp/30050", "udp/30050"} {
		lines.expect(func() {
			for _, family := range families() {
				conn := w.connect(mallory, nodeIP, family, target)
				w.expectPing(conn, answered)
				w.connect(alice, nodeIP, family, target)
			}
		}, "audited mallory "+target)
	}
	lines.expect(func() {
		w.Expect("alice tcp/30051 answered", "mallory tcp/30051 answered", "remote tcp/30051 answered", "mallory udp/30060 answered", "remote tcp/30050 dropped")
	}, "audited mallory tcp/30051", "unclaimed remote tcp/30051", "unclaimed mallory udp/30060")
}

func logsBounded(w *World) {
	want := Set(Pool, "udp/30050 alice log=denied,accepted lines=5", "udp/30051 alice audited=mallory", "udp/30052 mallory")
	w.Sync(want)
	lines := w.Listen()
	lines.bounded(5, datapath.AuditBurst, func() { w.flood(mallory, "udp/30050") })
	lines.bounded(5, datapath.AuditBurst, func() { w.flood(alice, "udp/30050") })
	lines.bounded(datapath.AuditRate, datapath.AuditBurst, func() { w.flood(mallory, "udp/30051") })
	lines.expect(func() { w.flood(mallory, "udp/30052") })
	w.Sync(want.WithDenied(Prefixes("mallory")))
	lines.bounded(datapath.AuditRate, datapath.AuditBurst, func() { w.flood(mallory, "udp/30052") })
}
