package firewalls

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/datapathtest"
	"github.com/portreeve/portreeve/internal/carrier"
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

// localPort is of a Service with externalTrafficPolicy Local whose pod runs elsewhere.
const localPort = 30060

// town is a cluster with a node on which pods answer at two node ports.
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
	c, err := lab.Start(ctx, lab.Options{Nodes: 2, KubeProxy: mode, ControllerManager: true, Logf: t.Logf})
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
	far := map[string]string{"app": "far"}
	if _, err := c.AddPod(ctx, c.Node("n2"), "shop", "far-1", far); err != nil {
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
	local := lab.EchoService("shop", "local", localPort, far)
	local.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	if _, err := client.CoreV1().Services("shop").Create(ctx, local, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	town.await(t, "alice", 30050)
	town.await(t, "mallory", 32700)
	town.awaitOutcome(t, "alice", localPort, lab.TimedOut)
	return town
}

func (town *town) beside(t *testing.T, s subject) {
	var d datapath.Datapath
	if err := town.node.Do(func() error { d = s.open(t); return nil }); err != nil {
		t.Fatal(err)
	}
	defer d.(interface{ Close() }).Close()
	alice := ""
	for _, addr := range town.clients["alice"].Addrs {
		alice += " " + netip.PrefixFrom(addr, addr.BitLen()).String()
	}
	local, podless := fmt.Sprintf("tcp/%d%s", localPort, alice), fmt.Sprintf("alice %d dropped", localPort)
	if town.refuses(s) {
		local, podless = local+" local=yes", fmt.Sprintf("alice %d refused", localPort)
	}
	sc := newScene(t, town.node.Do, d, datapathtest.Set("30000-32000", "tcp/30050"+alice, local), func(packets ...string) { town.expect(t, packets...) })
	variant := "nft"
	if town.mode == lab.IPTablesLegacy {
		variant = "legacy"
	}
	judged := []string{"alice 30050 answered", "mallory 30050 dropped", "mallory 32700 answered", podless, fmt.Sprintf("mallory %d dropped", localPort)}
	sc.expect(judged...)
	restart := func() {
		if err := town.node.StartKubeProxy(t.Context()); err != nil {
			t.Fatal(err)
		}
		town.await(t, "alice", 30050)
		town.await(t, "mallory", 32700)
		town.awaitOutcome(t, "mallory", localPort, lab.TimedOut)
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
	sc.leave("mallory 30050 answered", fmt.Sprintf("alice %d dropped", localPort))
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
			switch words[2] {
			case "answered":
				want, flow.Timeout = lab.Answered, 5*time.Second
			case "refused":
				want, flow.Timeout = lab.Refused, time.Second // when a client would try again
			}
			if got := town.clients[words[0]].Ask(t.Context(), flow); got.Outcome != want {
				t.Errorf("%s at %s: %s", packet, addr, got)
			}
		}
	}
}

// refuses says whether an agent lets the datapath refuse here, and whether the two write
// to the same tables, as an agent's do: which runs first of two of one priority, nobody
// knows.
func (town *town) refuses(s subject) bool {
	rules := map[lab.ProxyMode]v1alpha1.KubeProxyRules{
		lab.NFTables: v1alpha1.KubeProxyNFTables, lab.IPTables: v1alpha1.KubeProxyIPTablesNFT, lab.IPTablesLegacy: v1alpha1.KubeProxyIPTablesLegacy,
	}[town.mode]
	firewall := v1alpha1.FirewallIPTables
	if s.name == "nftables" {
		firewall = v1alpha1.FirewallNFTables
	}
	c := carrier.Of(v1alpha1.NodeFacts{KubeProxy: []v1alpha1.KubeProxyRules{rules}})
	return c.Unserved(firewall) == "" && (s.name == "nftables" || s.name == string(rules))
}

// await waits until kube-proxy carries a port.
func (town *town) await(t *testing.T, client string, port uint16) {
	t.Helper()
	town.awaitOutcome(t, client, port, lab.Answered)
}

// awaitOutcome waits until that becomes of a client's connections.
func (town *town) awaitOutcome(t *testing.T, client string, port uint16, want lab.Outcome) {
	t.Helper()
	for _, addr := range town.node.Addrs {
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			got := town.clients[client].Ask(t.Context(), lab.Flow{To: netip.AddrPortFrom(addr, port), Timeout: time.Second})
			if got.Outcome == want {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s:%d by kube-proxy: %s, want %s", addr, port, got, want)
			}
		}
	}
}
