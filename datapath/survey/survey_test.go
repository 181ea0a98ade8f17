package survey

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// inNamespace gives the test a network namespace of its own, whose loopback is up.
func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("make a network namespace (run as root): %v", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a program in the namespace, of which the thread is.
func run(t *testing.T, input string, argv ...string) {
	t.Helper()
	command := exec.Command(argv[0], argv[1:]...)
	command.Stdin = strings.NewReader(input)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
}

func look(t *testing.T) Facts {
	t.Helper()
	f, err := New().Look()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestAnEmptyNodeTellsNothing(t *testing.T) {
	inNamespace(t)
	if f := look(t); !reflect.DeepEqual(f, Facts{}) {
		t.Errorf("found %+v", f)
	}
}

func TestRulesOfKubeProxyAreFoundByTheKernelAndTheirModeByItsWord(t *testing.T) {
	inNamespace(t)
	run(t, `
add table ip kube-proxy
add table ip6 kube-proxy
add set ip kube-proxy nodeport-ips { type ipv4_addr; }
add set ip6 kube-proxy nodeport-ips { type ipv6_addr; }
add element ip kube-proxy nodeport-ips { 192.0.2.12, 192.0.2.11 }
add element ip6 kube-proxy nodeport-ips { 2001:db8::11 }
`, "nft", "-f", "-")
	want := Facts{KubeProxy: []string{"nftables"}, NodePortAddresses: []netip.Addr{
		netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("192.0.2.12"), netip.MustParseAddr("2001:db8::11"),
	}}
	if f := look(t); !reflect.DeepEqual(f, want) {
		t.Errorf("nftables: found %+v, want %+v", f, want)
	}
	run(t, "", "iptables-nft", "-t", "nat", "-N", "KUBE-NODEPORTS")
	run(t, "", "ip6tables-nft", "-t", "nat", "-N", "KUBE-NODEPORTS")
	run(t, "", "ip6tables-nft", "-t", "nat", "-N", "cali-PREROUTING")
	run(t, "", "iptables-legacy", "-w", "10", "-t", "nat", "-N", "KUBE-NODEPORTS")
	want.KubeProxy = []string{"iptables-legacy", "iptables-nft", "nftables"}
	want.Chains = []string{"KUBE-NODEPORTS", "cali-PREROUTING"}
	if f := look(t); !reflect.DeepEqual(f, want) {
		t.Errorf("with all others: found %+v, want %+v", f, want)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:10249")
	if err != nil {
		t.Fatal(err)
	}
	answer := "iptables"
	server := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/proxyMode" {
			_, _ = w.Write([]byte(answer))
		}
	})}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	// The client dials from a thread of its own: only the parsing of what is said can be
	// tried here, the rest is in test/e2e.
	s := New()
	s.client.Timeout = answers // on a busy machine
	s.client.Transport = &http.Transport{DisableKeepAlives: true, DialContext: dialHere(t)}
	if got := s.proxyMode(); got != "iptables" {
		t.Errorf("kube-proxy says %q", got)
	}
	if answer = "<html>hello"; s.proxyMode() != "" {
		t.Error("somebody else's answer was taken for a mode")
	}
}

func TestLegacyRulesThatNobodyHasAreNotMade(t *testing.T) {
	inNamespace(t)
	look(t)
	out, err := exec.Command("cat", "/proc/thread-self/net/ip_tables_names").Output()
	if err == nil && len(out) > 0 {
		t.Errorf("to look made the tables %q", out)
	}
}

func TestSubnetsOfKubeOVNAreReadFromItsSets(t *testing.T) {
	inNamespace(t)
	run(t, `
create ovn40subnets hash:net
create ovn40subnets-distributed-gw hash:net
create ovn60subnets hash:net family inet6
add ovn40subnets 10.16.0.0/16
add ovn40subnets 10.17.0.0/24
add ovn40subnets-distributed-gw 10.16.0.0/16
add ovn60subnets fd00:10:17::/64
`, "ipset", "restore")
	if f := look(t); f.Centralized != nil || f.Distributed != nil {
		t.Errorf("sets of that name alone tell nothing of Kube-OVN: %+v", f)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = linkKubeOVN
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	f := look(t)
	central := []netip.Prefix{netip.MustParsePrefix("10.17.0.0/24"), netip.MustParsePrefix("fd00:10:17::/64")}
	if !slices.Equal(f.Centralized, central) || !slices.Equal(f.Distributed, []netip.Prefix{netip.MustParsePrefix("10.16.0.0/16")}) {
		t.Errorf("centralized %v, distributed %v", f.Centralized, f.Distributed)
	}
}

func TestKnownLinksAreFewAndSorted(t *testing.T) {
	got := known([]string{"lo", "eth0", "cali1", "cali2", "ovs-system", "enid42", "cilium_host", "califor"})
	if want := []string{"cali*", "cilium_host", "eni*", "ovs-system"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// dialHere dials in the namespace of the test's thread, whatever thread asks.
func dialHere(t *testing.T) func(context.Context, string, string) (net.Conn, error) {
	t.Helper()
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = here.Close() })
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		runtime.LockOSThread() // and never unlocked
		if err := netns.Set(here); err != nil {
			return nil, err
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
}

func TestWhoMasqueradesWhoeverPassesIsFound(t *testing.T) {
	inNamespace(t)
	run(t, `
add table ip theirs
add chain ip theirs out { type nat hook postrouting priority 90; }
add chain ip theirs only { masquerade; }
add rule ip theirs out ip saddr 172.17.0.0/16 masquerade
add rule ip theirs out ip saddr 172.18.0.7 snat to 192.0.2.1
add rule ip theirs out ip saddr { 10.1.0.0/16, 10.2.0.0/16 } masquerade
add rule ip theirs out meta mark 7 jump only
add chain ip theirs in { type nat hook prerouting priority 90; }
add rule ip theirs in tcp dport 80 dnat to 192.0.2.9
`, "nft", "-f", "-")
	run(t, "", "iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-s", "172.17.0.0/16", "-j", "MASQUERADE")
	run(t, "", "iptables-legacy", "-w", "10", "-t", "nat", "-A", "POSTROUTING", "-s", "172.17.0.0/16", "-j", "MASQUERADE")
	if f := look(t); len(f.Masquerades) > 0 {
		t.Errorf("%v translate some networks only", f.Masquerades)
	}
	run(t, "", "nft", "add", "rule", "ip", "theirs", "out", "ip", "saddr", "!=", "10.0.0.0/8", "ip", "daddr", "10.0.0.0/8", "masquerade")
	run(t, "", "iptables-nft", "-t", "nat", "-A", "POSTROUTING", "-m", "mark", "--mark", "4", "-j", "MASQUERADE")
	run(t, "", "iptables-legacy", "-w", "10", "-t", "nat", "-A", "POSTROUTING", "!", "-s", "10.0.0.0/8", "-j", "MASQUERADE")
	if f, want := look(t), []string{"legacy POSTROUTING", "nat POSTROUTING", "theirs out"}; !slices.Equal(f.Masquerades, want) {
		t.Errorf("found %v, want %v", f.Masquerades, want)
	}
}
