package bench

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// floods measures what a denied SYN costs the processor that takes it in, by turns on
// every road. The same packets to a false hardware address, which are thrown away
// before netfilter sees them, tell what sending costs.
func floods(b *testing.B, bare, floor *road, all []loaded) {
	b.Helper()
	type flooded struct {
		title   string
		road    *road
		packets int
		denied  bool
	}
	roads := []flooded{
		{"bare DNAT, which answers", bare, 4000, false},
		{"one rule that drops all", floor, 20_000, true},
	}
	sizes := exposureCounts(b)
	for _, l := range all {
		if l.carries {
			continue // denies nothing
		}
		packets := 20_000
		if l.mechanism.name == naively {
			packets = max(100, min(packets, 2_000_000/l.size/10)) // a millisecond each
		}
		roads = append(roads, flooded{fmt.Sprintf("%s, %d", l.mechanism.name, l.size), l.road, packets, true})
	}
	rng := rand.New(rand.NewPCG(5, 6))
	costs := make([][]time.Duration, len(roads))
	var sending []time.Duration
	nobody := bare.newKnocker(b, true)
	knockers := make([]*knocker, len(roads))
	for i, f := range roads {
		knockers[i] = f.road.newKnocker(b, false)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for range turns {
		sending = append(sending, nobody.cost(b, denied(rng, 20_000, sizes[len(sizes)-1])))
		for i, f := range roads {
			packets := denied(rng, f.packets, len(f.road.gates))
			if !f.denied {
				packets = admitted(rng, f.packets, f.road.gates[1:])
			}
			costs[i] = append(costs[i], knockers[i].cost(b, packets))
		}
	}
	send := median(sending)
	note("sending a packet, which is not counted below", micro(send), "µs")
	for i, f := range roads {
		cost := max(median(costs[i])-send, time.Nanosecond)
		what := "a denied SYN costs, "
		if !f.denied {
			what = "a SYN costs, "
		}
		note(what+f.title, micro(cost), "µs")
		note("so many thousand a second and core", 1/cost.Seconds()/1000, "k")
	}
}

// cost is the processor time of one of the packets.
func (k *knocker) cost(b *testing.B, packets [][]byte) time.Duration {
	b.Helper()
	began := worked(b)
	must(b, k.volley(packets))
	return (worked(b) - began) / time.Duration(len(packets))
}

// denied are SYNs from sources that no gate admits to ports that have one.
func denied(rng *rand.Rand, n, gates int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		source := netip.AddrFrom4([4]byte{10, 9, byte(rng.IntN(256)), byte(1 + rng.IntN(254))})
		out[i] = syn(netip.AddrPortFrom(source, uint16(1024+rng.IntN(60_000))), uint16(firstNumber+rng.IntN(gates)))
	}
	return out
}

// admitted are SYNs of alice to the gates.
func admitted(rng *rand.Rand, n int, gates []gate) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		from := netip.AddrPortFrom(netip.MustParseAddr(aliceAddress), uint16(1024+rng.IntN(60_000)))
		out[i] = syn(from, gates[rng.IntN(len(gates))].number)
	}
	return out
}

// streams measures a long TCP connection through the gate, by turns.
func streams(b *testing.B, bare *road, all []loaded) {
	b.Helper()
	roads := []*road{bare}
	var of []loaded
	sizes := exposureCounts(b)
	for _, l := range all {
		if !l.carries && l.size == sizes[len(sizes)-1] {
			roads, of = append(roads, l.road), append(of, l)
		}
	}
	rates := map[*road][]float64{}
	for range turns {
		for _, r := range roads {
			rates[r] = append(rates[r], r.stream(b, 300*time.Millisecond))
		}
	}
	middle := func(r *road) float64 {
		slices.Sort(rates[r])
		return rates[r][turns/2]
	}
	note("an established stream, bare DNAT", middle(bare), "Gbit/s")
	for _, l := range of {
		note(l.title("an established stream"), middle(l.road), "Gbit/s")
		note(l.title("the same over bare DNAT"), middle(l.road)/middle(bare), "")
	}
}

// stream returns how many Gbit/s come through one connection.
func (r *road) stream(b *testing.B, long time.Duration) float64 {
	b.Helper()
	var listener net.Listener
	var conn net.Conn
	must(b, r.pod.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(podAddress, strconv.Itoa(streamPort)))
		return err
	}))
	defer listener.Close()
	var arrived atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := listener.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.CopyBuffer(writer(func(p []byte) (int, error) { arrived.Add(int64(len(p))); return len(p), nil }), reader{c}, make([]byte, 1<<18))
	}()
	must(b, r.client.Do(func() (err error) {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(aliceAddress)}, Timeout: 10 * time.Second}
		conn, err = dialer.Dial("tcp", net.JoinHostPort(nodeAddress, strconv.Itoa(streamExposure)))
		return err
	}))
	buffer := make([]byte, 1<<18)
	send := func(until time.Time) {
		for time.Now().Before(until) {
			if _, err := conn.Write(buffer); err != nil {
				b.Fatal(err)
			}
		}
	}
	send(time.Now().Add(long / 4)) // until the window is open
	before, began := arrived.Load(), time.Now()
	send(began.Add(long))
	bytes, took := arrived.Load()-before, time.Since(began)
	conn.Close()
	<-done
	return float64(bytes) * 8 / took.Seconds() / 1e9
}

// reader and writer hide that a connection could be spliced.
type reader struct{ io.Reader }

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
