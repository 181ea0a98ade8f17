package datapathtest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

func audited(w *World) {
	w.Sync(Set(Pool,
		"tcp/30050 alice", "udp/30050 alice", "sctp/30050 alice",
		"tcp/30051 alice", "udp/30051 alice", "sctp/30051 alice",
		fmt.Sprintf("tcp/%d alice", HostPort),
	).WithAudited(Numbers(fmt.Sprintf("30050 30060-30069 31999 %d", HostPort))))
	w.Expect(
		// it has sources, and passes others too, by whatever protocol
		"alice tcp/30050 answered", "alice udp/30050 answered", "alice sctp/30050 answered",
		"mallory tcp/30050 answered", "mallory udp/30050 answered", "mallory sctp/30050 answered",
		"pod tcp/30050 answered",
		// nobody claims it
		"mallory tcp/30060 answered", "mallory udp/30069 answered", "mallory sctp/30065 answered", "mallory udp/31999 answered",
		// a listener of the node
		fmt.Sprintf("mallory tcp/%d answered", HostPort), fmt.Sprintf("mallory udp/%d answered", HostPort),
		// beside them
		"alice tcp/30051 answered", "alice udp/30051 answered", "alice sctp/30051 answered",
		"mallory tcp/30051 dropped", "mallory udp/30051 dropped", "mallory sctp/30051 dropped",
		"mallory tcp/30049 dropped", "mallory udp/30059 dropped", "mallory sctp/30070 dropped", "alice tcp/30070 dropped",
	)
}

func auditEnds(w *World) {
	enforced := Set(Pool, "tcp/30050 alice", "udp/30050 alice", "tcp/30052 alice", "udp/30052 alice")
	passing := enforced.WithAudited(Numbers("30050-30052"))
	for _, family := range families() {
		for _, target := range []string{"tcp/30050", "udp/30050"} {
			w.Sync(passing)
			kept, cut := w.connect(alice, nodeIP, family, target), w.connect(mallory, nodeIP, family, target)
			w.Sync(enforced)
			w.expectPing(cut, dropped) // without any sweep
			w.expectPing(kept, answered)
			w.Sync(passing)
			w.expectPing(cut, answered)
			w.expectPing(kept, answered)
		}
	}
	for _, family := range families() {
		for _, target := range []string{"tcp/30052", "udp/30052"} {
			w.connect(alice, nodeIP, family, target)
			w.connect(mallory, nodeIP, family, target)
		}
	}
	if n := w.sweep("30052", passing); n != 0 {
		w.t.Errorf("swept %d connections of an audited number", n)
	}
	w.Sync(enforced)
	if n, expect := w.sweep("30052", enforced), 2*len(families()); n != expect {
		w.t.Errorf("swept %d connections when auditing ended, want %d", n, expect)
	}
}

func auditLogs(w *World) {
	w.Sync(Set(Pool, "tcp/30050 alice", "udp/30050 alice", "tcp/30051 alice").WithAudited(Numbers("30050")))
	lines := w.Listen()
	for _, target := range []string{"tcp/30050", "udp/30050"} {
		lines.expect(func() {
			for _, family := range families() {
				w.connect(alice, nodeIP, family, target)
			}
		})
		lines.expect(func() {
			for _, family := range families() {
				conn := w.connect(mallory, nodeIP, family, target)
				w.expectPing(conn, answered)
				w.expectPing(conn, answered)
			}
		}, "unclaimed mallory "+target)
	}
	lines.expect(func() { w.Expect("mallory tcp/30051 dropped", "mallory tcp/29999 answered") })
	lines.bounded(datapath.AuditRate, datapath.AuditBurst, func() { w.flood(mallory, "udp/30050") })
}

// knock sends one packet and waits for nothing.
func knock(w *World, from, to netip.Addr, port rule.Port) {
	w.t.Helper()
	conn, err := dial(w.namespaceOf(from), from, to, port, patience)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "knock"); err != nil {
		w.t.Fatal(err)
	}
}

// auditNoGap: alice is admitted by every set, be it by name, or because the number
// is audited or not judged.
func auditNoGap(w *World) {
	random := rand.New(rand.NewPCG(3, 4))
	alike := []rule.Set{
		Set(Pool, "udp/30050 alice"),
		Set(Pool, "udp/30050 10.8.0.0/16 2001:db8:8::/48").WithAudited(Numbers(Pool)),
		Set(Pool, "udp/30050 mallory").WithAudited(Numbers("30050")),
		Set("30050").WithAudited(Numbers("30050")),
		Set("31000-31999").WithAudited(Numbers("31000-31999")),
		Set("31000-31999", "udp/31000 alice"),
	}
	w.Sync(alike[0])
	stop := w.Watch("udp/30050", "alice")
	for range 60 {
		w.Sync(alike[random.IntN(len(alike))])
	}
	stop()
	w.Sync(alike[0])
	w.Expect("alice udp/30050 answered", "mallory udp/30050 dropped")
}
