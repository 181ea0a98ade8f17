package bench

import (
	"context"
	"fmt"
	"testing"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/datapathtest"
	"github.com/portreeve/portreeve/internal/rule"
)

// The addresses of every road. A benchmark knows no others.
const (
	nodeAddress  = "10.0.0.1"
	aliceAddress = "10.8.0.1" // in every source set
	podAddress   = "10.244.0.2"
	podPort      = 8080
	streamPort   = 8081 // behind the first exposure, on roads that carry it
)

// road is a client, a node and a pod, and what stands on the node. Packets go the
// whole way on the processor that sends them, within the call that sends them:
// veth hands them over in the same softirq.
type road struct {
	name              string
	client, node, pod *datapathtest.Namespace
	gates             []gate
	datapath          datapath.Datapath // nil on a peer's road
	remembers         float64           // by which much the heap grew with it, in bytes, beside the set that it was given
}

// newRoad makes the namespaces. Nobody carries or drops anything yet.
func newRoad(b *testing.B, name string, gates []gate) *road {
	b.Helper()
	r := &road{
		name: name, gates: gates,
		client: datapathtest.NewNamespace(b), node: datapathtest.NewNamespace(b), pod: datapathtest.NewNamespace(b),
	}
	datapathtest.Join(b, r.node, "outside", []string{nodeAddress + "/24"}, r.client, "eth0", []string{"10.0.0.2/24", aliceAddress + "/32"})
	datapathtest.Join(b, r.node, "inside", []string{"10.244.0.1/24"}, r.pod, "eth0", []string{podAddress + "/24"})
	r.node.Route(b, "10.8.0.0/16", "10.0.0.2")
	r.pod.Route(b, "0.0.0.0/0", "10.244.0.1")
	r.node.Sysctl(b, "net.ipv4.ip_forward", "1")
	// Nobody listens: each SYN is answered by a reset. The kernel may answer all of
	// them, and forgets them soon.
	r.node.Sysctl(b, "net.netfilter.nf_conntrack_tcp_timeout_close", "1")
	return r
}

// carried puts the least on the node that carries node ports: one rule.
func (r *road) carried(b *testing.B) *road {
	b.Helper()
	r.node.Command(b, fmt.Sprintf(`table ip bare {
	chain prerouting {
		type nat hook prerouting priority dstnat
		ip daddr %[1]s tcp dport %[2]d dnat to %[3]s:%[4]d
		ip daddr %[1]s meta l4proto { tcp, udp } th dport %[5]s dnat to %[3]s:%[6]d
	}
}
`, nodeAddress, streamExposure, podAddress, streamPort, judged, podPort), "nft", "-f", "-")
	return r
}

// gated opens a datapath on the node. It may be closed and opened again.
func (r *road) gated(b *testing.B, open func() (datapath.Datapath, error)) *road {
	b.Helper()
	r.on(b, func() (err error) {
		r.datapath, err = open()
		return err
	})
	b.Cleanup(r.close)
	return r
}

func (r *road) close() {
	if d, closes := r.datapath.(interface{ Close() }); closes {
		d.Close()
	}
	r.datapath = nil
}

// on runs f on the node.
func (r *road) on(b *testing.B, f func() error) {
	b.Helper()
	must(b, r.node.Do(f))
}

// sync runs the datapath's Sync on the node.
func (r *road) sync(b *testing.B, want rule.Set) {
	b.Helper()
	r.on(b, func() error { return r.datapath.Sync(context.Background(), want) })
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
