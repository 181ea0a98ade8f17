package datapathtest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/portreeve/portreeve/internal/rule"
)

// gates has one of every kind, and several values of each.
func gates() rule.Set {
	soon, past := time.Now().Add(time.Hour).Unix(), time.Now().Add(-time.Hour).Unix()
	return Set(Pool,
		"tcp/30050 alice audited=mallory connections=100 persecond=50 burst=100 log=denied,accepted lines=10",
		"udp/30050 alice connections=100", "sctp/30050 alice persecond=50 burst=100",
		"tcp/30051 10.0.0.0/8 ::/0 audited=alice persecond=7", fmt.Sprintf("udp/30051 alice log=denied expires=%d", soon),
		"sctp/30051 alice audited=world connections=4294967295 persecond=4294967295 burst=4294967295 log=accepted lines=4294967295",
		"tcp/30052 log=denied lines=3", fmt.Sprintf("tcp/30053 audited=world expires=%d", past),
		fmt.Sprintf("tcp/30054 alice expires=%d log=denied", past), "tcp/30055 alice",
		"tcp/30057 alice local=yes", fmt.Sprintf("udp/30057 audited=alice local=yes log=denied expires=%d", soon), "sctp/30057 world local=yes connections=3",
		"tcp/30056 refused=alice", "udp/30056 refused=alice log=denied lines=3", fmt.Sprintf("sctp/30056 refused=world expires=%d", soon),
	)
}

func readsBackGates(w *World) {
	all := gates()
	for _, want := range []rule.Set{
		all,
		all.WithDenied(Prefixes("mallory", "172.16.0.0/12", "2001:db8:9::/48")).WithAddresses(Prefixes("node", "10.0.0.0/24")),
		Set(Pool, "tcp/30050 alice persecond=50 burst=101").WithDenied(Prefixes("world")),
		Set(Pool, "tcp/30050 alice").WithAudited(Numbers("30050-30060")).WithAddresses(Prefixes("0.0.0.0/0")),
		all.WithAudited(Numbers(Pool)),
		Set(Pool, "tcp/30050 alice log=denied lines=11", "tcp/30057 alice"),
		Set(Pool, "tcp/30050 alice local=yes"),
		{},
		Set("30000", "tcp/30000 log=denied").WithDenied(Prefixes("alice")),
	} {
		w.Sync(want)
		w.expectHave(want)
		before, generation := w.state(), w.generation()
		w.Sync(want)
		if now := w.generation(); now != generation {
			w.t.Errorf("a second sync committed %d nftables transactions", now-generation)
		}
		w.Restart()
		w.expectHave(want)
		w.Sync(want)
		w.same("a second sync", before, w.state())
	}
}

// gatesNoGap: alice passes every set, be it because it audits her, and mallory none.
func gatesNoGap(w *World) {
	random := rand.New(rand.NewPCG(7, 8))
	w.Sync(Set(Pool, "udp/30050 alice"))
	stop := w.Watch("udp/30050", "alice", "mallory")
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	far := time.Now().Add(time.Hour).Unix()
	for range 60 {
		line := pick("alice", "10.8.0.0/16 2001:db8:8::/48", "alice audited=10.8.0.0/16", "audited=alice", "10.8.0.0/16 audited=2001:db8:8::/48") + " " +
			pick("", "", "connections=1000", "persecond=100000 burst=100000", "connections=900 persecond=90000") + " " +
			pick("", "", "log=denied", "log=denied,accepted lines=5") + " " + pick("", "", fmt.Sprintf("expires=%d", far)) + " " + pick("", "local=yes")
		want := Set(pick(Pool, "30050"), "udp/30050 "+line, fmt.Sprintf("tcp/%d mallory persecond=%d", 30000+random.IntN(50), 1+random.IntN(3)))
		if random.IntN(3) == 0 {
			want = want.WithDenied(Prefixes("172.16.0.0/12"))
		}
		w.Sync(want)
	}
	stop()
}

func handedOver(w *World) {
	first := Set(Pool, "tcp/30050 alice", "udp/30050 alice log=denied")
	next := Set(Pool, "tcp/30050 mallory persecond=1000", "udp/30050 mallory")
	for _, way := range [][]rule.Set{{next}, {Set(Pool), next}} { // at once, and with a rest
		for _, family := range families() {
			for _, target := range []string{"tcp/30050", "udp/30050"} {
				w.Sync(first)
				var old []net.Conn
				for range 3 {
					old = append(old, w.connect(alice, nodeIP, family, target))
				}
				w.expectVerdict(mallory, family, target, dropped)
				have := first
				for _, want := range way {
					w.Sync(want)
					w.sweepPorts(rule.Narrowed(have, want), want)
					have = want
				}
				w.expectVerdict(mallory, family, target, answered)
				w.expectVerdict(alice, family, target, dropped)
				for _, conn := range old {
					w.expectPing(conn, dropped)
				}
			}
		}
	}
}

func sweepEnded(w *World) {
	open := Set(Pool, "tcp/30050 alice mallory", "tcp/30051 alice", "tcp/30052 alice mallory")
	w.Sync(open)
	for _, family := range families() {
		for _, target := range []string{"tcp/30050", "tcp/30052"} {
			w.connect(alice, nodeIP, family, target)
			w.connect(mallory, nodeIP, family, target)
		}
		w.connect(alice, nodeIP, family, "tcp/30051")
	}
	elsewhere := open.WithDenied(Prefixes("mallory")).WithAddresses(Prefixes("second"))
	if n := w.sweep(Pool, elsewhere); n != 0 {
		w.t.Errorf("swept %d connections to addresses that are not judged", n)
	}
	want := Set(Pool, "tcp/30050 alice mallory", fmt.Sprintf("tcp/30051 alice expires=%d", time.Now().Unix()-1), "tcp/30052 alice audited=mallory").WithDenied(Prefixes("mallory"))
	w.Sync(want)
	if n, expect := w.sweep(Pool, want), 3*len(families()); n != expect {
		w.t.Errorf("swept %d connections, want %d: mallory's, and one that expired", n, expect)
	}
}

// Handover holds a node to a change from one datapath to another, and back: nobody
// passes who may not, nobody is dropped who may pass, and nothing is left of the one
// that was cleaned up. Each agent closes what it finds: first the next datapath comes
// into force, then the old one goes.
func Handover(t *testing.T, one, other Open) {
	w := NewWorld(t, one)
	want := Set(Pool, "udp/30050 alice persecond=1000 log=denied", "tcp/30050 alice", "sctp/30050 alice").WithAudited(Numbers("30060"))
	w.Sync(want)
	stop := w.Watch("udp/30050", "alice", "mallory")
	for _, open := range []Open{other, one} {
		old := *w // whose datapath stays open, to clean up
		w.open, w.Datapath = open, nil
		w.Restart()
		w.Sync(want)
		old.Cleanup()
		old.close()
		w.expectHave(want)
		w.Expect("alice tcp/30050 answered", "mallory tcp/30050 dropped", "mallory sctp/30050 dropped", "mallory tcp/30060 answered")
	}
	stop()
}
