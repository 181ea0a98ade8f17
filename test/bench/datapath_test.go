package bench

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// loaded is a road with so many gates by one mechanism.
type loaded struct {
	*road
	mechanism
	size int
}

// title of a figure about it.
func (l loaded) title(what string) string {
	return fmt.Sprintf("%s, %s, %d", what, l.mechanism.name, l.size)
}

// BenchmarkDatapaths measures, for each number of exposures, what a first packet, a
// denied one and a long connection cost through the gates, beside one DNAT rule
// without any and beside what people use today; and what loading and changing cost.
func BenchmarkDatapaths(b *testing.B) {
	fmt.Printf("exposures of %d networks each, %d distinct sets of them; %s\n", sourcesEach, distinctSets, conditions())
	all := loadAll(b)
	bare := newRoad(b, "bare DNAT", someGates(2, 1)).carried(b)
	floor := newRoad(b, "one drop", someGates(2, 1)).carried(b)
	floor.nft(b, "table inet floor { chain prerouting { type filter hook prerouting priority -150; tcp dport "+judged+" drop; }; }\n")

	firstPackets(b, bare, all)
	updates(b, all)
	floods(b, bare, floor, all)
	streams(b, bare, all)
	fmt.Printf("%s\n", conditions())
}

// BenchmarkOwnSets is the worst case for classes: every exposure has a set of sources
// of its own.
func BenchmarkOwnSets(b *testing.B) {
	sizes := exposureCounts(b)
	n := sizes[len(sizes)-1]
	fmt.Printf("%d exposures of %d networks each, all of them distinct sets; %s\n", n, sourcesEach, conditions())
	var all []loaded
	gates := someGates(n+fresh, n+fresh)
	for _, m := range mechanisms()[:2] {
		r, took := m.build(b, gates[:n])
		all = append(all, loaded{r, m, n})
		note(all[len(all)-1].title("cold load"), milli(took), "ms")
	}
	bare := newRoad(b, "bare DNAT", gates[:2]).carried(b)
	firstPackets(b, bare, all)
	for _, l := range all {
		added, removed := l.updates(b, l.road, gates[n:])
		note(l.title("one port and its set more, p50"), milli(at(added, 50)), "ms")
		note(l.title("the same, p99"), milli(at(added, 99)), "ms")
		note(l.title("one port and its set less, p50"), milli(at(removed, 50)), "ms")
		note(l.title("the same, p99"), milli(at(removed, 99)), "ms")
	}
}

// fresh gates come and go in the updates.
const fresh = 10

// loadAll loads every size by every mechanism, and judges how long that took.
func loadAll(b *testing.B) []loaded {
	b.Helper()
	var all []loaded
	sizes := exposureCounts(b)
	most := sizes[len(sizes)-1]
	coldGoals := map[string]float64{nft: 100, ipset: 1500}
	for _, size := range sizes {
		for _, m := range mechanisms() {
			if size == most && m.name == proxyNFTables && *withoutSlow {
				continue
			}
			r, took := m.build(b, someGates(size, distinctSets))
			l := loaded{r, m, size}
			all = append(all, l)
			if m.ours != nil {
				note(l.title("memory beside the set that is enforced"), r.remembers/(1<<20), "MiB")
			}
			if limit, judged := coldGoals[m.name]; judged && size == most {
				goal(b, l.title("cold load"), milli(took), "ms", limit)
			} else {
				note(l.title("cold load"), milli(took), "ms")
			}
		}
	}
	return all
}

func milli(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// conditions are what a figure depends on.
func conditions() string {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return machine()
	}
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		return machine()
	}
	release, _, _ := strings.Cut(unix.ByteSliceToString(kernel.Release[:]), "-")
	return fmt.Sprintf("%s, Linux %s, load %s", machine(), release, strings.Fields(string(load))[0])
}

// firstPackets measures SYN to reply, by turns on every road: a machine that is busy
// with something else is so for all of them.
func firstPackets(b *testing.B, bare *road, all []loaded) {
	b.Helper()
	took := map[*road][]time.Duration{}
	roads := []*road{bare}
	for _, l := range all {
		roads = append(roads, l.road)
	}
	knockers := map[*road]*knocker{}
	for _, r := range roads {
		knockers[r] = r.newKnocker(b, false)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for range turns {
		for _, r := range roads {
			took[r] = append(took[r], knockers[r].turn(b, rng, r.gates[1:])...)
		}
	}
	base := median(took[bare])
	note("first packet (SYN to reply), p50, bare DNAT", micro(base), "µs")
	smallest := map[string]time.Duration{}
	sizes := exposureCounts(b)
	for _, l := range all {
		p50 := median(took[l.road])
		ratio := float64(p50) / float64(base)
		note(l.title("first packet, p50"), micro(p50), "µs")
		ours := l.mechanism.name == nft
		if ours && l.size == sizes[len(sizes)-1] {
			goal(b, l.title("the same over bare DNAT"), ratio, "", 1.15)
			b.ReportMetric(ratio, "first-packet/bare")
		} else {
			note(l.title("the same over bare DNAT"), ratio, "")
		}
		if l.size == sizes[0] {
			smallest[l.mechanism.name] = p50
		} else if small := smallest[l.mechanism.name]; small > 0 && l.size == sizes[len(sizes)-1] {
			growth := float64(p50) / float64(small)
			what := fmt.Sprintf("the same over that of %d", sizes[0])
			if ours {
				goal(b, l.title(what), growth, "", 1.15)
			} else {
				note(l.title(what), growth, "")
			}
		}
	}
}

const (
	turns = 15
	// knocks of a turn, unless they take longer than a turn is to last. The first of
	// them find the caches full of another road's rules, and are not counted.
	knocks, warming = 2000, 500
	turnLasts       = 50 * time.Millisecond
	fewestKnocks    = 20
)

// turn knocks at gates by chance.
func (k *knocker) turn(b *testing.B, rng *rand.Rand, gates []gate) (took []time.Duration) {
	b.Helper()
	began := time.Now()
	for i := range knocks {
		from := netip.AddrPortFrom(netip.MustParseAddr(aliceAddress), uint16(1024+rng.IntN(60_000)))
		d, err := k.knock(from, gates[rng.IntN(len(gates))].number)
		must(b, err)
		took = append(took, d)
		if i >= fewestKnocks && time.Since(began) > turnLasts {
			break
		}
	}
	return took[min(warming, len(took)/4):]
}

// updates measures how one port comes to the others and goes again. Ours is read
// back; a peer's is what it writes, by the program that it writes with.
func updates(b *testing.B, all []loaded) {
	b.Helper()
	sizes := exposureCounts(b)
	most := sizes[len(sizes)-1]
	worst, fastest := time.Duration(0), time.Duration(0)
	for _, l := range all {
		gates := someGates(l.size+fresh, distinctSets)
		runtime.GC()
		added, removed := l.updates(b, l.road, gates[l.size:])
		for i, took := range [][]time.Duration{added, removed} {
			what := l.title("one port " + []string{"more", "less"}[i])
			if l.ours == nil {
				note(what+", median", milli(at(took, 50)), "ms")
				continue
			}
			note(what+", p50", milli(at(took, 50)), "ms")
			if l.mechanism.name == nft && l.size == most {
				goal(b, what+", p99", milli(at(took, 99)), "ms", 2)
				worst = max(worst, at(took, 50))
			} else {
				note(what+", p99", milli(at(took, 99)), "ms")
			}
		}
		if peer := l.mechanism.name; l.size == most && (peer == proxyLegacy || peer == proxyNFT) {
			if p50 := min(at(added, 50), at(removed, 50)); fastest == 0 || p50 < fastest {
				fastest = p50
			}
		}
	}
	if worst > 0 && fastest > 0 {
		atLeast(b, "kube-proxy's iptables mode at its best over ours at its worst, p50", float64(fastest)/float64(worst), 300)
	}
}
