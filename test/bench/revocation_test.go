package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath/conntrack"
	"github.com/portreeve/portreeve/internal/rule"
)

const (
	tracked   = 100_000 // connections that the kernel knows
	onOnePort = 1000    // of them those of the port that is revoked
)

// BenchmarkRevocation closes one port of many, on which packets come all the time,
// and sweeps what the kernel remembers of it.
func BenchmarkRevocation(b *testing.B) {
	sizes := exposureCounts(b)
	n := sizes[len(sizes)-1]
	fmt.Printf("%d exposures, %d connections, %d of them to the port that is revoked; %s\n", n, tracked, onOnePort, conditions())
	gates := someGates(n, distinctSets)
	r := newRoad(b, nft, gates).carried(b).gated(b, openNFTables)
	// The pod does not answer, so that connections stay.
	r.pod.Command(b, "table inet silent { chain prerouting { type filter hook prerouting priority -500; drop; }; }\n", "nft", "-f", "-")
	open := setOf(gates)
	victim := gates[len(gates)/2]
	closed := open
	closed.Ports = open.Ports.With(rule.Port{Protocol: rule.TCP, Number: victim.number}, rule.Gate{})
	r.sync(b, open)
	k := r.newKnocker(b, false)
	rng := rand.New(rand.NewPCG(7, 8))
	must(b, k.volley(connections(rng, tracked-onOnePort, slices.DeleteFunc(slices.Clone(gates), func(g gate) bool { return g.number == victim.number }))))

	ours, theirs, processors := sweeps(b, r, k, rng, victim, open, closed)
	goal(b, "one port's connections are swept, p50", milli(at(ours, 50)), "ms", 50)
	note("the same in time of a processor, p50", milli(at(processors, 50)), "ms")
	note("the same by conntrack -D, p50", milli(at(theirs, 50)), "ms")
	note("the former over the latter", float64(at(ours, 50))/float64(at(theirs, 50)), "")

	bySync, after := effects(b, r, k, victim, open, closed)
	note("Sync called -> the last packet let through, p50", micro(at(bySync, 50)), "µs")
	goal(b, "Sync returned -> the last packet let through, worst", milli(at(after, 100)), "ms", 1)

	r.on(b, func() error {
		none := open
		none.Ports = rule.Gates{}
		if err := r.datapath.Sync(context.Background(), none); err != nil {
			return err
		}
		began, processor := time.Now(), spent(b)
		swept, err := conntrack.Sweep(context.Background(), rule.EveryProtocol(none.Judged), none)
		note(fmt.Sprintf("all %d connections are swept", swept), milli(time.Since(began)), "ms")
		note("the same in time of a processor", milli(spent(b)-processor), "ms")
		return err
	})
}

// connections are SYNs of many clients, each of its own.
func connections(rng *rand.Rand, n int, gates []gate) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		source := netip.AddrFrom4([4]byte{10, 8, byte(i >> 8), byte(i)})
		out[i] = syn(netip.AddrPortFrom(source, uint16(1024+i>>16*20_000+rng.IntN(20_000))), gates[rng.IntN(len(gates))].number)
	}
	return out
}

// sweeps times how the connections of one port are forgotten, by us and by the
// program that people use.
func sweeps(b *testing.B, r *road, k *knocker, rng *rand.Rand, victim gate, open, closed rule.Set) (ours, theirs, processors []time.Duration) {
	b.Helper()
	for range 7 {
		for _, sweep := range []func() error{
			func() error {
				began, processor := time.Now(), spent(b)
				swept, err := conntrack.Sweep(context.Background(), rule.ProtocolPorts{rule.TCP: rule.NewPortRanges(rule.PortRange{First: victim.number, Last: victim.number})}, closed)
				ours = append(ours, time.Since(began))
				processors = append(processors, spent(b)-processor)
				if err == nil && swept != onOnePort {
					err = fmt.Errorf("swept %d", swept)
				}
				return err
			},
			func() error {
				began := time.Now()
				r.node.Command(b, "", "conntrack", "-D", "-p", "tcp", "--orig-port-dst", strconv.Itoa(int(victim.number)))
				theirs = append(theirs, time.Since(began))
				return nil
			},
		} {
			r.sync(b, open)
			must(b, k.volley(connections(rng, onOnePort, []gate{victim})))
			r.sync(b, closed)
			r.on(b, sweep)
		}
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	slices.Sort(processors)
	return ours, theirs, processors
}

// effects times, while packets of one connection come as fast as they can, when the
// last one of them gets to the pod. A packet is let through or not before the call
// that sends it returns.
func effects(b *testing.B, r *road, k *knocker, victim gate, open, closed rule.Set) (bySync, after []time.Duration) {
	b.Helper()
	var heard int
	must(b, r.pod.Do(func() (err error) {
		heard, err = listen()
		return err
	}))
	defer unix.Close(heard)
	packet := syn(netip.MustParseAddrPort(aliceAddress+":4242"), victim.number)
	for range 50 {
		r.sync(b, open)
		var stop, begun atomic.Bool
		last := make(chan time.Time, 1)
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			var passed time.Time
			buffer := make([]byte, 128)
			for !stop.Load() {
				sent := time.Now()
				if k.send(packet) != nil {
					continue
				}
				for {
					if _, through := hear(heard, buffer); !through {
						break
					}
					passed = sent
					begun.Store(true)
				}
			}
			last <- passed
		}()
		for !begun.Load() {
			time.Sleep(time.Millisecond)
		}
		var called, returned time.Time
		r.on(b, func() error {
			called = time.Now()
			err := r.datapath.Sync(context.Background(), closed)
			returned = time.Now()
			return err
		})
		time.Sleep(2 * time.Millisecond)
		stop.Store(true)
		passed := <-last
		bySync, after = append(bySync, max(0, passed.Sub(called))), append(after, max(0, passed.Sub(returned)))
	}
	slices.Sort(bySync)
	slices.Sort(after)
	return bySync, after
}

// spent is how long the processors have worked for this program.
func spent(b *testing.B) time.Duration {
	var t unix.Timespec
	must(b, unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t))
	return time.Duration(t.Nano())
}
