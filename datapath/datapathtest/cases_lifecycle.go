package datapathtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/internal/nfattr"
	"github.com/portreeve/portreeve/internal/rule"
)

func (w *World) expectHave(want rule.Set) {
	w.t.Helper()
	if w.silent() {
		want = want.Silenced()
	}
	have, err := w.Have()
	if err != nil {
		w.t.Errorf("Have: %v", err)
	} else if !have.Equal(want) {
		w.t.Errorf("Have reads %+v, want %+v", have, want)
	}
}

// remaining is a time that runs by itself.
var remaining = regexp.MustCompile(` timeout [1-9][0-9]*`)

// state is everything that the packet filters of the node hold, as text.
func (w *World) state() string {
	var b strings.Builder
	for _, mode := range []string{"nft", "legacy"} {
		for _, base := range []string{"iptables-", "ip6tables-"}[:len(families())] {
			for _, line := range strings.Split(w.Node.Command(w.t, "", base+mode+"-save"), "\n") {
				// Dates, and packet counts.
				if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") {
					fmt.Fprintln(&b, base+mode, line)
				}
			}
		}
	}
	b.WriteString(remaining.ReplaceAllString(w.Node.Command(w.t, "", "ipset", "save", "-sorted"), " timeout"))
	return b.String()
}

// foreign puts in what other software may keep beside us, in both modes.
func (w *World) foreign() {
	w.Node.Command(w.t, "create their-set hash:net\nadd their-set 192.0.2.0/24\ncreate PORT-IS-NOT-OURS bitmap:port range 0-99\n", "ipset", "restore")
	for _, mode := range []string{"nft", "legacy"} {
		for _, base := range []string{"iptables-", "ip6tables-"}[:len(families())] {
			w.Node.Command(w.t, "*mangle\n:THEIRS - [0:0]\n:PORT-IS-NOT-OURS - [0:0]\n"+
				"-A PREROUTING -j THEIRS\n-A PREROUTING -p tcp -m comment --comment \"not portreeve's\" -j PORT-IS-NOT-OURS\n"+
				"-A THEIRS -m mark --mark 0x1 -j RETURN\n-A INPUT -p tcp --dport 30050 -j MARK --set-xmark 0x2\nCOMMIT\n",
				base+mode+"-restore", "-w", "10", "-n")
		}
	}
}

func foreignUntouched(w *World) {
	w.foreign()
	before := w.state()
	w.Sync(Set(Pool, "tcp/30050 alice"))
	var others []string
	for _, line := range strings.SplitAfter(w.state(), "\n") {
		if !strings.Contains(line, "PORTREEVE") && !strings.Contains(line, "portreeve-") {
			others = append(others, line)
		}
	}
	w.same("what others own", before, strings.Join(others, ""))
	w.Expect("alice tcp/30050 answered", "mallory tcp/30050 dropped")
	w.Cleanup()
	for i := range 2 {
		w.same(fmt.Sprintf("clean-up %d", i+1), before, w.state())
		w.Cleanup()
	}
	w.Expect("mallory tcp/30050 answered", "mallory sctp/30050 answered")
	if _, err := w.Have(); !errors.Is(err, datapath.ErrDamaged) {
		w.t.Errorf("Have after Cleanup = %v, want ErrDamaged", err)
	}
}

// same compares two states line by line and shows the first difference.
func (w *World) same(what, before, after string) {
	w.t.Helper()
	if before == after {
		return
	}
	old, now := strings.Split(before, "\n"), strings.Split(after, "\n")
	for i := range min(len(old), len(now)) {
		if old[i] != now[i] {
			w.t.Errorf("%s: line %d changed from\n\t%s\nto\n\t%s", what, i+1, old[i], now[i])
			return
		}
	}
	w.t.Errorf("%s: there were %d lines and now there are %d", what, len(old), len(now))
}

func syncTwice(w *World) {
	want := Set(Pool, "tcp/30050 alice 10.0.0.0/8", "udp/30050 world", "sctp/30060 mallory", "tcp/30070").WithAudited(Numbers("30050 30100-30199"))
	w.Sync(want)
	before, generation := w.state(), w.generation()
	w.Sync(want)
	if now := w.generation(); now != generation {
		w.t.Errorf("a second sync committed %d nftables transactions", now-generation)
	}
	w.Restart()
	w.Sync(want)
	w.same("a second sync", before, w.state())
}

// generation counts the transactions that nf_tables has committed.
func (w *World) generation() (id uint32) {
	const getGeneration, attrID = 16, 1 // NFT_MSG_GETGEN, NFTA_GEN_ID
	w.Node.must(w.t, func() error {
		req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|getGeneration, 0)
		req.AddData(&nl.Nfgenmsg{Version: nl.NFNETLINK_V0})
		return req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
			for typ, value := range nfattr.All(message[nl.SizeofNfgenmsg:]) {
				if typ == attrID {
					id = nfattr.Uint32(value)
				}
			}
			return true
		})
	})
	return id
}

func readsBack(w *World) {
	if have, err := w.Have(); !errors.Is(err, datapath.ErrDamaged) {
		w.t.Errorf("Have before the first Sync = %v, %v, want ErrDamaged", have, err)
	}
	for _, want := range []rule.Set{
		Set(Pool, "tcp/30050 alice 10.0.0.0/8", "udp/30050 world", "sctp/30060 mallory 0.0.0.0/1", "tcp/30070"),
		Set("1-65535", "tcp/1 world", "udp/65535 10.0.0.1/32 ::/0"),
		Set(Pool, "tcp/30050 alice").WithAudited(Numbers("30050 31000-31999")),
		Set("30000", "tcp/30000"),
		{},
		Set(Pool+" 40000", "sctp/40000 world"),
		Set("1-65535", "sctp/40000 alice").WithAudited(Numbers("1-65535")),
	} {
		w.Sync(want)
		w.expectHave(want)
		w.Restart()
		w.expectHave(want)
	}
}

func restart(w *World) {
	want := Set(Pool, "udp/30050 alice")
	w.Sync(want)
	stop := w.Watch("udp/30050", "alice", "mallory")
	for range 3 {
		w.Restart()
		w.expectHave(want)
		w.Sync(want)
	}
	stop()
}

// firstSync: what want admits is never dropped while a node is first closed.
func firstSync(w *World) {
	stop := w.Watch("udp/30050", "alice")
	want := Set(Pool, "udp/30050 alice", "tcp/30051 alice")
	for range 10 {
		w.Cleanup()
		w.Sync(want)
	}
	stop()
	w.Expect("mallory udp/30050 dropped")
}

func noGap(w *World) {
	random := rand.New(rand.NewPCG(1, 2))
	w.Sync(Set(Pool, "udp/30050 alice"))
	stop := w.Watch("udp/30050", "alice", "mallory")
	// Alice stands in every set, by herself or within a wider prefix, and mallory
	// in none; the lists are small, so that wide and narrow often change places.
	herself := []string{"alice", "10.8.0.0/16 2001:db8:8::/48", "10.8.0.0/31 2001:db8:8::/64", "10.8.0.0/30 10.8.0.0/17 2001:db8:8::/47"}
	for i := range 60 {
		judged := []string{Pool, "30050", "30000-30100 32000"}[random.IntN(3)]
		sources := herself[random.IntN(len(herself))]
		if strings.HasSuffix(sources, "/47") { // would hold mallory's IPv6
			sources = strings.Replace(sources, "/47", "/49", 1)
		}
		if i%3 == 0 {
			sources += " 172.16.0.0/12"
		}
		w.Sync(Set(judged, "udp/30050 "+sources, fmt.Sprintf("tcp/%d mallory", 30000+random.IntN(50))))
	}
	stop()
}

func inertBefore(w *World) {
	before := w.state()
	w.Restart()
	w.Expect("mallory tcp/30050 answered", "mallory udp/30050 answered", "mallory sctp/30050 answered")
	w.same("opening the datapath", before, w.state())
}

func damaged(w *World, commands [][]string) {
	want := Set(Pool,
		"tcp/30050 alice connections=100 persecond=1000 burst=1000 log=denied,accepted", "udp/30050 alice", "sctp/30050 alice",
		fmt.Sprintf("tcp/30051 alice expires=%d", time.Now().Add(time.Hour).Unix()), "tcp/30052 alice audited=mallory", "tcp/32100 alice local=yes",
	).WithAudited(Numbers("30060")).WithDenied(Prefixes("remote")).WithAddresses(Prefixes("10.0.0.0/8", "2001:db8::/32"))
	w.foreign()
	w.Sync(want)
	for _, argv := range commands {
		w.Node.Command(w.t, "", argv...)
	}
	if have, err := w.Have(); err == nil && have.Equal(want) {
		w.t.Errorf("Have does not see the damage")
	} else if err != nil && !errors.Is(err, datapath.ErrDamaged) {
		w.t.Errorf("Have = %v, want ErrDamaged", err)
	}
	for range 2 {
		w.Sync(want)
		w.expectHave(want)
		w.Expect("alice tcp/30050 answered", "alice sctp/30050 answered", "mallory tcp/30050 dropped", "mallory sctp/30050 dropped",
			"alice tcp/30051 answered", "mallory tcp/30051 dropped", "mallory tcp/30052 answered",
			"mallory tcp/30060 answered", "remote tcp/30060 dropped", "mallory tcp/29999 answered", "alice tcp/32100 refused", "mallory tcp/32100 dropped")
		// And again, unseen by any Have.
		for _, argv := range commands {
			w.Node.Command(w.t, "", argv...)
		}
	}
	w.Sync(want)
	w.expectHave(want)
}
