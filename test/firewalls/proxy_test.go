package firewalls

import (
	"context"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/datapathtest"
	"github.com/portreeve/portreeve/lab"
)

// kube-proxy, the real one, restarts, and is flushed and writes everything anew.
func TestBesideKubeProxy(t *testing.T) {
	t.Parallel()
	for _, mode := range []lab.ProxyMode{lab.NFTables, lab.IPTables, lab.IPTablesLegacy} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			town := newTown(t, mode)
			for _, s := range subjects {
				t.Run(s.name, func(t *testing.T) { town.beside(t, s) })
			}
		})
	}
}

// town is a cluster of one node, on which pods answer at two node ports.
type town struct {
	cluster *lab.Cluster
	node    *lab.Node
	clients map[string]*lab.Client
	mode    lab.ProxyMode
}

func newTown(t *testing.T, mode lab.ProxyMode) *town {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c, err := lab.Start(ctx, lab.Options{Nodes: 1, KubeProxy: mode, ControllerManager: true, Logf: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	town := &town{cluster: c, node: c.Node("n1"), clients: map[string]*lab.Client{}, mode: mode}
	for _, name := range []string{"alice", "mallory"} {
		if town.clients[name], err = c.AddClient(name); err != nil {
			t.Fatal(err)
		}
	}
	selector := map[string]string{"app": "shop"}
	if _, err := c.AddPod(ctx, town.node, "shop", "shop-1", selector); err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	for name, port := range map[string]int32{"pool": 30050, "outside": 32700} {
		service := lab.EchoService("shop", name, port, selector)
		if _, err := client.CoreV1().Services("shop").Create(ctx, service, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	town.await(t, "alice", 30050)
	town.await(t, "mallory", 32700)
	return town
}

func (town *town) beside(t *testing.T, s subject) {
	var d datapath.Datapath
	if err := town.node.Do(func() error { d = s.open(t); return nil }); err != nil {
		t.Fatal(err)
	}
	defer d.(interface{ Close() }).Close()
	gate := "tcp/30050"
	for _, addr := range town.clients["alice"].Addrs {
		gate += " " + netip.PrefixFrom(addr, addr.BitLen()).String()
	}
	sc := newScene(t, town.node.Do, d, datapathtest.Set("30000-32000", gate), func(packets ...string) { town.expect(t, packets...) })
	variant := "nft"
	if town.mode == lab.IPTablesLegacy {
		variant = "legacy"
	}
	judged := []string{"alice 30050 answered", "mallory 30050 dropped", "mallory 32700 answered"}
	restart := func() {
		if err := town.node.StartKubeProxy(t.Context()); err != nil {
			t.Fatal(err)
		}
		town.await(t, "alice", 30050)
		town.await(t, "mallory", 32700)
		// It goes on writing the same, for seconds and in another order, which must not
		// be taken for our doing.
		town.node.StopKubeProxy()
		town.settle(sc)
	}
	town.node.StopKubeProxy()
	sc.after(act{says: "kube-proxy restarts", packets: judged, do: restart})
	sc.after(act{says: "all is flushed, kube-proxy starts", packets: judged,
		flushes: s.variant == "nft" || s.variant == variant, do: func() {
			sc.output("nft", "flush", "ruleset")
			for _, table := range []string{"filter", "nat", "mangle"} {
				sc.output("iptables-"+variant, "-w", "10", "-t", table, "-F")
			}
			restart()
		}})
	sc.leave("mallory 30050 answered")
	sc.do(func() error { return d.Cleanup(t.Context()) })
}

// settle waits for what kube-proxy had begun to write.
func (town *town) settle(s *scene) {
	for last := ""; ; time.Sleep(100 * time.Millisecond) {
		now := s.theirs()
		if now == last {
			return
		}
		last = now
	}
}

// expect sends packets, as in "alice 30050 answered", in each family.
func (town *town) expect(t *testing.T, packets ...string) {
	t.Helper()
	for _, packet := range packets {
		words := strings.Fields(packet)
		port, err := strconv.ParseUint(words[1], 10, 16)
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range town.node.Addrs {
			flow := lab.Flow{To: netip.AddrPortFrom(addr, uint16(port)), Timeout: 400 * time.Millisecond}
			want := lab.TimedOut
			if words[2] == "answered" {
				want, flow.Timeout = lab.Answered, 5*time.Second
			}
			if got := town.clients[words[0]].Ask(t.Context(), flow); got.Outcome != want {
				t.Errorf("%s at %s: %s", packet, addr, got)
			}
		}
	}
}

// await waits until kube-proxy carries a port.
func (town *town) await(t *testing.T, client string, port uint16) {
	t.Helper()
	for _, addr := range town.node.Addrs {
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			got := town.clients[client].Ask(t.Context(), lab.Flow{To: netip.AddrPortFrom(addr, port)})
			if got.Outcome == lab.Answered {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("kube-proxy does not carry %s:%d: %s", addr, port, got)
			}
		}
	}
}
