package bench

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/iptables"
	"github.com/portreeve/portreeve/datapath/nftables"
	"github.com/portreeve/portreeve/internal/rule"
)

// mechanism is one way to judge or to carry node ports.
type mechanism struct {
	name string
	ours func() (datapath.Datapath, error) // nil for a peer
	// carries says that the rules are those that carry the packets too.
	carries bool
	// load, add and remove are a peer's: what it writes to have these gates, and one
	// more or less beside all the others.
	load        func(r *road, b *testing.B, gates []gate)
	add, remove func(r *road, b *testing.B, others []gate, g gate)
	changes     int // of a peer that are measured, since some take seconds
}

const (
	nft           = "Portreeve nftables"
	ipset         = "Portreeve iptables+ipset"
	naively       = "naive iptables-nft"
	proxyLegacy   = "kube-proxy iptables (legacy)"
	proxyNFT      = "kube-proxy iptables (nft)"
	proxyNFTables = "kube-proxy nftables"
)

func openNFTables() (datapath.Datapath, error) { return nftables.New() }
func openIPSet() (datapath.Datapath, error)    { return iptables.New(iptables.NFT) }

func mechanisms() []mechanism {
	return []mechanism{
		{name: nft, ours: openNFTables},
		{name: ipset, ours: openIPSet},
		{
			name: naively, changes: 3,
			load:   func(r *road, b *testing.B, gates []gate) { r.restore(b, "iptables-nft", naive(gates)) },
			add:    func(r *road, b *testing.B, _ []gate, g gate) { r.restore(b, "iptables-nft", naiveChange(g, "-I")) },
			remove: func(r *road, b *testing.B, _ []gate, g gate) { r.restore(b, "iptables-nft", naiveChange(g, "-D")) },
		},
		proxyIPTablesMode(proxyLegacy, "iptables-legacy"),
		proxyIPTablesMode(proxyNFT, "iptables-nft"),
		{
			name: proxyNFTables, carries: true, changes: 2,
			load: func(r *road, b *testing.B, gates []gate) { r.nft(b, nftablesProxy(gates)) },
			add: func(r *road, b *testing.B, _ []gate, g gate) {
				r.nft(b, nftablesProxyChains(g)+nftablesProxyElements(g, "add"))
			},
			remove: func(r *road, b *testing.B, _ []gate, g gate) { r.nft(b, nftablesProxyRemoval(g)) },
		},
	}
}

func proxyIPTablesMode(name, program string) mechanism {
	return mechanism{
		name: name, carries: true, changes: 2,
		load: func(r *road, b *testing.B, gates []gate) {
			// Of the whole at once; beside what is there already it takes the nft kind
			// a minute.
			rules := strings.TrimSuffix(iptablesProxy(gates, gates), "COMMIT\n") + iptablesProxyJumps
			r.node.Command(b, rules, program+"-restore", "--wait", "60")
		},
		add: func(r *road, b *testing.B, others []gate, g gate) {
			r.restore(b, program, iptablesProxy(append(slices.Clip(others), g), []gate{g}))
		},
		remove: func(r *road, b *testing.B, others []gate, g gate) {
			r.restore(b, program, iptablesProxyRemoval(others, g))
		},
	}
}

func (r *road) restore(b *testing.B, program, rules string) {
	b.Helper()
	r.node.Command(b, rules, program+"-restore", "--noflush", "--wait", "60")
}

func (r *road) nft(b *testing.B, rules string) {
	b.Helper()
	r.node.Command(b, rules, "nft", "-f", "-")
}

// build makes a road with the gates loaded by the mechanism, and returns how long the
// loading took.
func (m mechanism) build(b *testing.B, gates []gate) (*road, time.Duration) {
	b.Helper()
	r := newRoad(b, m.name, gates)
	if !m.carries {
		r.carried(b)
	}
	if m.ours == nil {
		began := time.Now()
		m.load(r, b, gates)
		return r, time.Since(began)
	}
	var took []time.Duration
	want := setOf(gates)
	for began := time.Now(); len(took) < loads && time.Since(began) < loadsLast; {
		if len(took) > 0 {
			r.unload(b)
		}
		before := heap()
		r.gated(b, m.ours)
		began := time.Now()
		r.sync(b, want)
		took = append(took, time.Since(began))
		r.remembers = heap() - before
	}
	runtime.KeepAlive(want)
	return r, median(took)
}

// heap is what is in use of it, in bytes.
func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// loads of our own are timed, unless they take long.
const (
	loads     = 5
	loadsLast = 5 * time.Second
)

// unload removes everything, and waits until the kernel, which does so afterwards,
// has given it back.
func (r *road) unload(b *testing.B) {
	b.Helper()
	r.on(b, func() error { return r.datapath.Cleanup(context.Background()) })
	r.close()
	time.Sleep(200 * time.Millisecond)
}

// updates times how one port comes to the others and goes again; sorted.
func (m mechanism) updates(b *testing.B, r *road, fresh []gate) (added, removed []time.Duration) {
	b.Helper()
	if m.ours != nil {
		added, removed = r.syncs(b, fresh)
	} else {
		for _, g := range fresh[:m.changes] {
			began := time.Now()
			m.add(r, b, r.gates, g)
			added = append(added, time.Since(began))
			began = time.Now()
			m.remove(r, b, r.gates, g)
			removed = append(removed, time.Since(began))
		}
	}
	slices.Sort(added)
	slices.Sort(removed)
	return added, removed
}

// rounds of updates of our own, each of all fresh gates, unless they take long.
const (
	rounds       = 20
	fewestRounds = 3
	roundsLast   = 4 * time.Second
)

func (r *road) syncs(b *testing.B, fresh []gate) (added, removed []time.Duration) {
	b.Helper()
	without := setOf(r.gates)
	with := make([]rule.Set, len(fresh))
	for i, g := range fresh {
		with[i] = setOf(append(slices.Clip(r.gates), g))
	}
	timed := func(want rule.Set) (time.Duration, error) {
		began := time.Now()
		err := r.datapath.Sync(context.Background(), want)
		return time.Since(began), err
	}
	r.on(b, func() error {
		began := time.Now()
		for round := range rounds {
			if round >= fewestRounds && time.Since(began) > roundsLast {
				break
			}
			for _, want := range with {
				add, err := timed(want)
				if err != nil {
					return err
				}
				remove, err := timed(without)
				if err != nil {
					return err
				}
				added, removed = append(added, add), append(removed, remove)
			}
		}
		return nil
	})
	return added, removed
}

func median(took []time.Duration) time.Duration {
	slices.Sort(took)
	return at(took, 50)
}
