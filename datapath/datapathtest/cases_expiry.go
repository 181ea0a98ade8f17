package datapathtest

import (
	"fmt"
	"strings"
	"time"

	"github.com/portreeve/portreeve/internal/rule"
)

// early is how long before its second an access may end: a kernel may count whole
// seconds only. It never ends late.
const early = 1100 * time.Millisecond

func expires(w *World) {
	// How long this machine, beside other tests, takes for all that comes before the end, a
	// first time tells, in which nothing ends.
	start := time.Now()
	w.untilTheEnd(start.Add(time.Hour))
	w.Cleanup()
	end := time.Now().Add(2*time.Since(start) + 5*time.Second).Truncate(time.Second)
	want, cut, kept := w.untilTheEnd(end)
	if left := time.Until(end) - early; left < 0 {
		w.t.Skipf("this machine is too busy to tell: %s late", -left)
	}
	time.Sleep(time.Until(end))
	for _, ping := range cut {
		ping(dropped)
	}
	for _, ping := range kept {
		ping(answered)
	}
	w.Expect(
		"alice tcp/30050 dropped", "alice udp/30050 dropped", "alice sctp/30050 dropped", "alice tcp/30051 dropped", "mallory tcp/30051 dropped",
		// never as one that nobody claims
		"alice tcp/30055 dropped", "mallory tcp/30055 dropped", "mallory udp/30055 answered",
		"mallory tcp/30060 answered", "alice tcp/30052 answered",
	)
	w.expectHave(want)
	w.Restart()
	w.expectHave(want)
	before := w.state()
	w.Sync(want)
	w.same("a Sync after the end", before, w.state())
}

// untilTheEnd puts gates in force that end then, and others that do not, and opens
// connections by both: those that are cut at the end, and those that are kept.
func (w *World) untilTheEnd(end time.Time) (want rule.Set, cut, kept []func(verdict)) {
	w.t.Helper()
	term := fmt.Sprintf(" expires=%d", end.Unix())
	want = Set(Pool,
		"tcp/30050 alice"+term, "udp/30050 alice"+term, "sctp/30050 alice"+term, "tcp/30051 alice audited=mallory"+term, "tcp/30052 alice",
		"tcp/30055 alice"+term, "udp/30055 alice", // on an audited number
	).WithAudited(Numbers("30055 30060"))
	w.Sync(want)
	w.expectHave(want)
	hold := func(list *[]func(verdict), from Host, family int, target string) {
		conn := w.connect(from, nodeIP, family, target)
		*list = append(*list, func(v verdict) { w.t.Helper(); w.expectPing(conn, v) })
	}
	for _, family := range families() {
		for _, target := range []string{"tcp/30050", "udp/30050", "tcp/30055"} {
			hold(&cut, alice, family, target)
		}
		hold(&cut, mallory, family, "tcp/30051")
		hold(&kept, alice, family, "tcp/30052")
		hold(&kept, alice, family, "udp/30055")
	}
	w.Expect("alice tcp/30050 answered", "alice udp/30050 answered", "alice sctp/30050 answered", "mallory tcp/30050 dropped")
	for _, ping := range cut {
		ping(answered)
	}
	return want, cut, kept
}

func expiresProlonged(w *World) {
	at := func(end time.Time) []string {
		term := fmt.Sprintf(" expires=%d", end.Unix())
		return []string{"tcp/30050 alice" + term, "udp/30050 alice" + term, "sctp/30050 alice" + term}
	}
	past, future, later := Set(Pool, at(time.Now().Add(-time.Hour))...), Set(Pool, at(time.Now().Add(time.Hour))...), Set(Pool, at(time.Now().Add(9*time.Hour))...)
	never := Set(Pool, "tcp/30050 alice", "udp/30050 alice", "sctp/30050 alice")
	closed := []string{"alice tcp/30050 dropped", "alice udp/30050 dropped", "alice sctp/30050 dropped", "mallory tcp/30050 dropped"}
	open := strings.Split(strings.ReplaceAll(strings.Join(closed[:3], "\n"), "dropped", "answered"), "\n")
	open = append(open, closed[3])

	w.Sync(past)
	w.expectHave(past)
	w.Expect(closed...)
	w.Restart()
	w.Sync(past)
	w.Expect(closed...)
	w.Sync(future)
	w.expectHave(future)
	w.Expect(open...)
	stop := w.Watch("udp/30050", "alice", "mallory")
	w.Sync(later)
	w.expectHave(later)
	w.Sync(future)
	w.Sync(never)
	w.expectHave(never)
	w.Sync(later)
	stop()
	conn := w.connect(alice, nodeIP, 4, "tcp/30050")
	w.Sync(past)
	w.expectHave(past)
	w.expectPing(conn, dropped)
	w.Expect(closed...)
	w.Sync(Set(Pool))
	w.expectHave(Set(Pool))
}

func expiresFar(w *World) {
	term := fmt.Sprintf(" expires=%d", time.Now().AddDate(3, 0, 0).Unix())
	want := Set(Pool, "tcp/30050 alice"+term, "udp/30050 alice"+term)
	w.Sync(want)
	w.expectHave(want)
	before := w.state()
	w.Sync(want)
	w.Restart()
	w.Sync(want)
	w.same("a second Sync", before, w.state())
	w.Expect("alice tcp/30050 answered", "alice udp/30050 answered", "mallory tcp/30050 dropped")
}
