package datapathtest

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func someAddresses(w *World) {
	w.Node.address(w.t, "outside", "10.0.0.7/24", "2001:db8::7/64")
	want := Set(Pool, "tcp/30050 alice", "udp/30050 alice", "sctp/30050 alice")
	w.Sync(want)
	w.Expect(
		"alice tcp/30050 answered", "alice tcp/30050@second answered", "alice udp/30050@second answered", "alice sctp/30050@second answered",
		"mallory tcp/30050 dropped", "mallory tcp/30050@second dropped", "mallory udp/30050@second dropped", "mallory sctp/30070@second dropped",
	)
	one := want.WithAddresses(Prefixes("second"))
	w.Sync(one)
	w.expectHave(one)
	w.Expect(
		"alice tcp/30050@second answered", "mallory tcp/30050@second dropped", "mallory sctp/30050@second dropped", "mallory udp/30070@second dropped",
		"mallory tcp/30050 answered", "mallory udp/30050 answered", "mallory sctp/30050 answered", "mallory udp/30070 answered",
	)
	wide := want.WithAddresses(Prefixes("10.0.0.0/8", "2001:db8::/32"))
	w.Sync(wide)
	w.expectHave(wide)
	w.Expect("alice tcp/30050 answered", "mallory tcp/30050 dropped", "mallory tcp/30050@second dropped")
	four := want.WithAddresses(Prefixes("10.0.0.0/8")) // and so none of IPv6
	w.Sync(four)
	w.expectHave(four)
	for _, family := range families() {
		w.expectVerdict(mallory, family, "tcp/30050", map[int]verdict{4: dropped, 6: answered}[family])
	}
	for _, family := range families() {
		cut := w.connect(mallory, second, family, "tcp/29999")
		if w.Sync(one); family == 4 {
			cut = w.connect(mallory, nodeIP, family, "tcp/30050")
		}
		w.Sync(want)
		w.expectPing(cut, map[int]verdict{4: dropped, 6: answered}[family])
	}
	w.expectHave(want)
	w.Expect("mallory tcp/30050 dropped", "mallory tcp/30050@second dropped")
}

// otherDNAT: a host port on a number outside the pools goes to a pod's port within;
// an address that is not the node's goes to a pod by a number within.
func otherDNAT(w *World) {
	Serve(w.t, w.Pod, 30070)
	restore := []string{"iptables-restore", "ip6tables-restore"}
	for i, family := range families() {
		pod := podIP.in(family).String()
		if family == 6 {
			pod = "[" + pod + "]"
		}
		var b strings.Builder
		b.WriteString("*nat\n")
		for _, protocol := range []string{"tcp", "udp", "sctp"} {
			fmt.Fprintf(&b, "-A PREROUTING -d %s -p %s -m %s --dport 8443 -j DNAT --to-destination %s:30070\n", nodeIP.in(family), protocol, protocol, pod)
			fmt.Fprintf(&b, "-A PREROUTING -d %s -p %s -m %s --dport 30070 -j DNAT --to-destination %s:8080\n", outer.in(family), protocol, protocol, pod)
		}
		b.WriteString("COMMIT\n")
		w.Node.Command(w.t, b.String(), restore[i], "-w", "10", "-n")
	}
	w.Sync(Set(Pool, "tcp/30050 alice").WithDenied(Prefixes("mallory")))
	w.Expect(
		"mallory tcp/8443 answered", "mallory udp/8443 answered", "mallory sctp/8443 answered",
		"mallory tcp/30070@outer answered", "mallory udp/30070@outer answered", "mallory sctp/30070@outer answered",
		"alice tcp/30070 dropped", "mallory tcp/30050 dropped",
	)
	for _, family := range families() {
		conn, through := w.connect(mallory, nodeIP, family, "tcp/8443"), w.connect(mallory, outer, family, "tcp/30070")
		if n := w.sweep(Pool, Set(Pool)); n != 0 {
			w.t.Errorf("IPv%d: swept %d connections that are none of ours", family, n)
		}
		w.expectPing(conn, answered)
		w.expectPing(through, answered)
	}
}

// pathMTU puts somebody behind a router whose last link takes smaller packets than
// both ends believe. What the pod answers is too large for it, and the router's
// ICMP error, which comes to the node, has to reach the pod.
func pathMTU(w *World) {
	far := NewNamespace(w.t)
	Join(w.t, w.Client, "narrow", []string{"10.8.128.1/24", "2001:db8:8:128::1/64"}, far, "eth0", []string{"10.8.128.2/24", "2001:db8:8:128::2/64"})
	w.Client.Sysctl(w.t, "net.ipv4.ip_forward", "1")
	if hasIPv6 {
		w.Client.Sysctl(w.t, "net.ipv6.conf.all.forwarding", "1")
	}
	w.Client.must(w.t, func() error {
		link, err := netlink.LinkByName("narrow")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(link, 1300)
	})
	want := Set(Pool, "tcp/30050 10.8.128.0/24 2001:db8:8:128::/64").WithDenied(Prefixes("mallory"))
	w.Sync(want)
	large := strings.Repeat("x", 100_000)
	for _, family := range families() {
		target, via := nodeIP.in(family), map[int]string{4: "10.8.128.1", 6: "2001:db8:8:128::1"}[family]
		far.must(w.t, func() error {
			// It sends small packets, and says that it takes large ones.
			return netlink.RouteAdd(&netlink.Route{
				Dst: netlink.NewIPNet(target.AsSlice()), Gw: net.ParseIP(via), MTU: 1280, AdvMSS: 1400,
			})
		})
		var conn net.Conn
		far.must(w.t, func() (err error) {
			conn, err = net.DialTimeout("tcp", net.JoinHostPort(target.String(), "30050"), patience)
			return err
		})
		w.t.Cleanup(func() { abort(conn) })
		got, err := ping(conn, large, patience)
		if err != nil || got != answered {
			w.t.Errorf("IPv%d: %d bytes through a narrow path: %s, %v", family, len(large), got, err)
		}
	}
	// Without the router's word it could not have come through.
	for _, counter := range []string{"Icmp6OutPktTooBigs", "Icmp: OutDestUnreachs"}[2-len(families()):] {
		if n := w.Client.counter(w.t, counter); n == 0 {
			w.t.Errorf("the router sent no ICMP error: %s is 0", counter)
		}
	}
}

// counter reads one of the kernel's counters: a name of IPv6, or a table and a name.
func (n *Namespace) counter(t testing.TB, name string) int64 {
	t.Helper()
	table, column, isTable := strings.Cut(name, " ")
	if !isTable {
		for _, line := range strings.Split(n.Command(t, "", "cat", "/proc/net/snmp6"), "\n") {
			if words := strings.Fields(line); len(words) == 2 && words[0] == name {
				return number(words[1])
			}
		}
		return 0
	}
	var names []string
	for _, line := range strings.Split(n.Command(t, "", "cat", "/proc/net/snmp"), "\n") {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != table {
			continue
		}
		if names == nil {
			names = words
			continue
		}
		return number(words[slices.Index(names, column)])
	}
	return 0
}
