package lab_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/portreeve/portreeve/lab"
)

const startTimeout = 2 * time.Minute

var (
	office   = netip.MustParsePrefix("203.0.113.0/24")
	officeV6 = netip.MustParsePrefix("2001:db8:cb00::/48")
	selector = map[string]string{"app": "shop"}
)

// start starts a lab that ends with the test.
func start(t *testing.T, options lab.Options) *lab.Cluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	options.Logf = t.Logf
	begin := time.Now()
	c, err := lab.Start(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("lab %s started in %s", c.Name(), time.Since(begin).Round(10*time.Millisecond))
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// soon is how long what takes seconds may take on a busy machine: clients that lost the API
// server try again ever more seldom, up to twice in a minute.
const soon = 90 * time.Second

// eventually asks until the answer is as wanted: kube-proxy needs a second.
func eventually(t *testing.T, from *lab.Namespace, flow lab.Flow, want lab.Outcome) lab.Answer {
	t.Helper()
	deadline := time.Now().Add(soon)
	for {
		answer := from.Ask(t.Context(), flow)
		if answer.Outcome == want {
			return answer
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s %s from %s: %s; want %s", flow.Network, flow.To, from.NetNS(), answer, want)
		}
	}
}

func TestNodePortIsAnsweredOnEveryNode(t *testing.T) {
	for _, mode := range []lab.ProxyMode{lab.IPTables, lab.IPTablesLegacy, lab.NFTables} {
		t.Run(string(mode), func(t *testing.T) {
			c := start(t, lab.Options{Nodes: 2, KubeProxy: mode, ControllerManager: true})
			if !c.IPv6() {
				t.Log("SKIPPED: the IPv6 half, for this kernel has no IPv6")
			}
			client, err := c.AddClient("office", office, officeV6)
			if err != nil {
				t.Fatal(err)
			}
			pod, err := c.AddPod(t.Context(), c.Node("n2"), "shop", "shop-1", selector)
			if err != nil {
				t.Fatal(err)
			}
			expose(t, c, 30080)
			for _, n := range c.Nodes() {
				for i, addr := range n.Addrs {
					to := netip.AddrPortFrom(addr, 30080)
					from := []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:cb00::9")}[i]
					for _, network := range []string{"tcp", "udp"} {
						flow := lab.Flow{Network: network, To: to, From: netip.AddrPortFrom(from, 0), Timeout: 300 * time.Millisecond}
						answer := eventually(t, client.Namespace, flow, lab.Answered)
						if answer.Pod != pod.Name {
							t.Errorf("%s %s: %s; want pod %s", network, to, answer, pod.Name)
						}
						t.Logf("%s %s from %s: %s", network, to, from, answer)
					}
					closed := lab.Flow{To: netip.AddrPortFrom(addr, 30081)}
					eventually(t, client.Namespace, closed, lab.Refused)
				}
			}
			seeVariant(t, c.Node("n1"), mode)
			keepSource(t, c, client, c.Node("n2"))
			cutLink(t, c, client)
		})
	}
}

// seeVariant sees kube-proxy's rules where the mode says, and only there.
func seeVariant(t *testing.T, n *lab.Node, mode lab.ProxyMode) {
	t.Helper()
	for tool, owner := range map[string]lab.ProxyMode{
		"iptables-nft-save": lab.IPTables, "iptables-legacy-save": lab.IPTablesLegacy,
	} {
		rules, err := n.Output(t.Context(), tool, "-t", "nat")
		if err != nil {
			t.Fatal(err)
		}
		if has := strings.Contains(rules, "KUBE-NODEPORTS"); has != (mode == owner) {
			t.Errorf("%s shows kube-proxy's chains: %t; want %t", tool, has, mode == owner)
		}
	}
}

func expose(t *testing.T, c *lab.Cluster, nodePort int32) {
	t.Helper()
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	service := lab.EchoService("shop", "shop", nodePort, selector)
	if _, err := client.CoreV1().Services("shop").Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// keepSource sees that a pod learns the client's own address where the Service
// asks for it: the lab must not translate addresses by itself.
func keepSource(t *testing.T, c *lab.Cluster, client *lab.Client, n *lab.Node) {
	t.Helper()
	patch := `{"spec":{"externalTrafficPolicy":"Local"}}`
	if out, err := c.Kubectl(t.Context(), "-n", "shop", "patch", "service", "shop", "-p", patch); err != nil {
		t.Fatal(out, err)
	}
	from := netip.MustParseAddr("203.0.113.77")
	flow := lab.Flow{To: netip.AddrPortFrom(n.Addrs[0], 30080), From: netip.AddrPortFrom(from, 0)}
	for deadline := time.Now().Add(soon); ; time.Sleep(50 * time.Millisecond) {
		answer := client.Ask(t.Context(), flow)
		if answer.Peer.Addr() == from {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("externalTrafficPolicy Local: %s; want a pod that saw %s", answer, from)
		}
	}
	patch = strings.Replace(patch, "Local", "Cluster", 1)
	if out, err := c.Kubectl(t.Context(), "-n", "shop", "patch", "service", "shop", "-p", patch); err != nil {
		t.Fatal(out, err)
	}
	flow.To = netip.AddrPortFrom(c.Node("n1").Addrs[0], 30080) // without a pod of its own
	eventually(t, client.Namespace, flow, lab.Answered)
}

// cutLink sees a held connection end when its node is cut off, and a new one
// answered when the node is back.
func cutLink(t *testing.T, c *lab.Cluster, client *lab.Client) {
	t.Helper()
	n := c.Node("n1")
	flow := lab.Flow{To: netip.AddrPortFrom(n.Addrs[0], 30080), Timeout: 2 * time.Second}
	held, err := client.Hold(t.Context(), flow)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	cut := time.Now()
	if err := c.CutLink(n); err != nil {
		t.Fatal(err)
	}
	select {
	case <-held.Cut():
		t.Logf("cut: last answer %s after the cable was pulled; %s", held.LastAnswer().Sub(cut), held.End().Outcome)
	case <-time.After(20 * time.Second):
		t.Fatal("a connection over a cut link goes on")
	}
	if err := c.RestoreLink(n); err != nil {
		t.Fatal(err)
	}
	eventually(t, client.Namespace, flow, lab.Answered)
}
