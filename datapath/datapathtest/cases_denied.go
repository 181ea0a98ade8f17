package datapathtest

import (
	"math/rand/v2"
	"net/netip"
)

func denied(w *World) {
	lines := []string{"tcp/30050 world", "udp/30050 world", "sctp/30050 world", "tcp/30051 alice", "tcp/30052 mallory", "tcp/30053 alice audited=mallory"}
	w.Sync(Set(Pool, lines...).WithAudited(Numbers("30060-30069")).WithDenied(Prefixes("mallory")))
	w.Expect(
		"alice tcp/30050 answered", "alice udp/30050 answered", "alice sctp/30050 answered", "remote tcp/30050 answered",
		"mallory tcp/30050 dropped", "mallory udp/30050 dropped", "mallory sctp/30050 dropped",
		"alice tcp/30051 answered", "mallory tcp/30052 dropped", "mallory tcp/30053 dropped",
		// denied also where everybody passes
		"alice tcp/30060 answered", "mallory tcp/30060 dropped", "mallory udp/30060 dropped", "mallory sctp/30060 dropped",
		// and nowhere else
		"mallory tcp/29999 answered", "mallory sctp/29999 answered", "mallory udp/28000 refused",
	)
	w.Sync(Set(Pool, lines...).WithDenied([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("2001:db8:9::/48")}))
	for _, family := range families() {
		w.expectVerdict(alice, family, "tcp/30050", map[int]verdict{4: dropped, 6: answered}[family])
		w.expectVerdict(mallory, family, "tcp/30050", dropped)
	}
	w.Sync(Set(Pool, lines...))
	w.Expect("mallory tcp/30050 answered", "mallory tcp/30052 answered", "mallory tcp/30060 dropped")
}

func deniedCut(w *World) {
	both := Set(Pool, "tcp/30050 alice mallory", "udp/30050 alice mallory")
	for _, family := range families() {
		for _, target := range []string{"tcp/30050", "udp/30050"} {
			w.Sync(both)
			kept, cut := w.connect(alice, nodeIP, family, target), w.connect(mallory, nodeIP, family, target)
			w.Sync(both.WithDenied(Prefixes("10.9.0.0/16", "2001:db8:9::/48")))
			w.expectPing(cut, dropped) // without any sweep
			w.expectPing(kept, answered)
		}
	}
}

func deniedNoGap(w *World) {
	random := rand.New(rand.NewPCG(5, 6))
	w.Sync(Set(Pool, "udp/30050 world").WithDenied(Prefixes("mallory")))
	stop := w.Watch("udp/30050", "alice", "mallory")
	// Mallory is denied by every set, by herself or within a wider prefix.
	herself := [][]netip.Prefix{
		Prefixes("mallory"), Prefixes("10.9.0.0/16", "2001:db8:9::/48"), Prefixes("mallory", "172.16.0.0/12"),
		Prefixes("10.9.0.0/24", "10.10.0.0/15", "2001:db8:9::/64"),
	}
	for range 60 {
		sources := []string{"world", "alice mallory", "10.8.0.0/15 2001:db8:8::/47"}[random.IntN(3)]
		w.Sync(Set(Pool, "udp/30050 "+sources).WithDenied(herself[random.IntN(len(herself))]))
	}
	stop()
}

func auditedSource(w *World) {
	w.Sync(Set(Pool,
		"tcp/30050 alice audited=mallory", "udp/30050 alice audited=mallory", "sctp/30050 alice audited=mallory",
		"tcp/30051 audited=mallory", "tcp/30052 alice",
	))
	w.Expect(
		"alice tcp/30050 answered", "alice udp/30050 answered", "alice sctp/30050 answered",
		"mallory tcp/30050 answered", "mallory udp/30050 answered", "mallory sctp/30050 answered",
		"remote tcp/30050 dropped", "remote udp/30050 dropped", "remote sctp/30050 dropped",
		"mallory tcp/30051 answered", "alice tcp/30051 dropped", "mallory tcp/30052 dropped",
	)
	stop := w.Watch("udp/30050", "alice")
	for _, family := range families() {
		kept, cut := w.connect(alice, nodeIP, family, "tcp/30050"), w.connect(mallory, nodeIP, family, "tcp/30050")
		w.Sync(Set(Pool, "tcp/30050 mallory audited=alice", "udp/30050 audited=10.8.0.0/16 audited=2001:db8:8::/48"))
		w.expectPing(kept, answered)
		w.expectPing(cut, answered)
		w.Sync(Set(Pool, "tcp/30050 audited=alice", "udp/30050 alice"))
		w.expectPing(kept, answered)
		w.expectPing(cut, dropped)
		w.Sync(Set(Pool, "tcp/30050 alice audited=mallory", "udp/30050 alice audited=mallory"))
	}
	stop()
}
