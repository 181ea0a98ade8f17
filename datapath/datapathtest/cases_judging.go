package datapathtest

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/portreeve/portreeve/internal/rule"
)

func admission(w *World) {
	w.Sync(Set(Pool,
		"tcp/30050 10.8.0.0/16 2001:db8:8::/48",
		"udp/30050 10.8.0.0/16 2001:db8:8::/48",
		"sctp/30050 10.8.0.0/16 2001:db8:8::/48",
		"tcp/30060", "udp/30060", "sctp/30060"))
	w.Expect(
		"alice tcp/30050 answered", "alice udp/30050 answered", "alice sctp/30050 answered",
		"mallory tcp/30050 dropped", "mallory udp/30050 dropped", "mallory sctp/30050 dropped",
		// closed: it has an allocation, and no source
		"alice tcp/30060 dropped", "alice udp/30060 dropped", "alice sctp/30060 dropped",
		// unclaimed, inside and at both ends
		"alice tcp/30070 dropped", "alice udp/30070 dropped", "alice sctp/30070 dropped",
		"alice tcp/30000 dropped", "alice sctp/30000 dropped", "alice udp/31999 dropped",
		// outside the pool: none of our business
		"mallory tcp/29999 answered", "mallory udp/29999 answered", "mallory sctp/29999 answered",
		// a refusal comes as ICMP, and is let through
		"mallory udp/28000 refused", "mallory tcp/28000 refused",
		// a pod is a source like any other
		"pod tcp/30050 dropped", "pod udp/30050 dropped",
	)
}

func protocolsApart(w *World) {
	w.Sync(Set(Pool, "tcp/30050 alice", "udp/30050 mallory", "sctp/30051 alice", "tcp/30051 mallory"))
	w.Expect(
		"alice tcp/30050 answered", "alice udp/30050 dropped", "alice sctp/30050 dropped",
		"mallory tcp/30050 dropped", "mallory udp/30050 answered", "mallory sctp/30050 dropped",
		"alice sctp/30051 answered", "alice tcp/30051 dropped",
		"mallory sctp/30051 dropped", "mallory tcp/30051 answered",
	)
}

func worldAdmitted(w *World) {
	w.Sync(Set(Pool, "tcp/30050 world", "sctp/30051 0.0.0.0/0", "udp/30051 ::/0"))
	w.Expect(
		"alice tcp/30050 answered", "mallory tcp/30050 answered", "remote tcp/30050 answered", "pod tcp/30050 answered",
		"alice udp/30050 dropped", "alice sctp/30050 dropped",
	)
	for _, family := range families() {
		for word, want := range map[string]verdict{
			"sctp/30051": map[int]verdict{4: answered, 6: dropped}[family],
			"udp/30051":  map[int]verdict{4: dropped, 6: answered}[family],
		} {
			got, err := w.probe(mallory.in(family), nodeIP.in(family), portOf(word), want)
			if err != nil || got != want {
				w.t.Errorf("IPv%d: mallory %s: %s, %v; want %s", family, word, got, err, want)
			}
		}
	}
}

func fragments(w *World) {
	w.Sync(Set(Pool, "udp/30050 alice"))
	large := strings.Repeat("x", 4000) // three frames
	for _, family := range families() {
		for from, want := range map[Host]verdict{alice: answered, mallory: dropped} {
			wait := patience
			if want == dropped {
				wait = silence
			}
			conn, err := dial(w.Client, from.in(family), nodeIP.in(family), portOf("udp/30050"), wait)
			if err != nil {
				w.t.Fatal(err)
			}
			defer abort(conn)
			if got, err := ping(conn, large, wait); err != nil || got != want {
				w.t.Errorf("IPv%d: 4000 bytes from %s: %s, %v; want %s", family, from.name, got, err, want)
			}
		}
	}
}

func hostListener(w *World) {
	w.Sync(Set(Pool, fmt.Sprintf("tcp/%d alice", HostPort), fmt.Sprintf("sctp/%d alice", HostPort)))
	w.Expect(
		fmt.Sprintf("alice tcp/%d answered", HostPort), fmt.Sprintf("mallory tcp/%d dropped", HostPort),
		fmt.Sprintf("alice sctp/%d answered", HostPort), fmt.Sprintf("mallory sctp/%d dropped", HostPort),
		fmt.Sprintf("alice udp/%d dropped", HostPort),
	)
}

func linkLocal(w *World) {
	if !hasIPv6 {
		w.t.Skip("this kernel has no IPv6")
	}
	w.Node.address(w.t, "outside", "fe80::a/64")
	w.Client.address(w.t, "eth0", "fe80::b/64")
	w.Sync(Set(Pool, fmt.Sprintf("tcp/%d alice", HostPort)))
	try := func(wait time.Duration) (got verdict, err error) {
		err = w.Client.Do(func() error {
			dialer := net.Dialer{Timeout: wait, LocalAddr: &net.TCPAddr{IP: net.ParseIP("fe80::b"), Zone: "eth0"}}
			conn, err := dialer.Dial("tcp", fmt.Sprintf("[fe80::a%%eth0]:%d", HostPort))
			if err != nil {
				got, err = verdictOf(err)
				return err
			}
			got = answered
			return conn.Close()
		})
		return got, err
	}
	if got, err := try(silence); err != nil || got != dropped {
		w.t.Errorf("from fe80::b to fe80::a: %s, %v; want it dropped", got, err)
	}
	w.Sync(Set(Pool, fmt.Sprintf("tcp/%d fe80::/64", HostPort)))
	if got, err := try(patience); err != nil || got != answered {
		w.t.Errorf("from fe80::b to fe80::a, now admitted: %s, %v; want it answered", got, err)
	}
}

func loopback(w *World) {
	w.Sync(Set(Pool))
	for _, to := range []string{"127.0.0.1", "::1", "10.0.0.1", "2001:db8::1"} {
		addr := netip.MustParseAddr(to)
		if addr.Is6() && !hasIPv6 {
			continue
		}
		for _, protocol := range []rule.Protocol{rule.TCP, rule.UDP} {
			conn, err := dial(w.Node, addr, addr, rule.Port{Protocol: protocol, Number: HostPort}, patience)
			if err != nil {
				w.t.Errorf("from the node to its own %s: %v", addr, err)
				continue
			}
			if got, err := ping(conn, "to myself", patience); err != nil || got != answered {
				w.t.Errorf("from the node to its own %s %s: %s, %v", addr, protocol, got, err)
			}
			abort(conn)
		}
	}
}

func virtualAddresses(w *World) {
	w.Node.must(w.t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "kube-ipvs0" // a bridge, since not every kernel has dummies
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	})
	want := Set(Pool, "tcp/30050 alice")
	w.Sync(want)
	w.Node.address(w.t, "kube-ipvs0", "10.96.0.10/32", "fd00:10:96::a/128")
	w.Expect("mallory tcp/30050@virtual dropped") // not known yet: closed
	w.Sync(want)
	w.Expect(
		"mallory tcp/30050@virtual answered", "mallory udp/30070@virtual answered", "mallory sctp/30070@virtual answered",
		"mallory tcp/30050 dropped", "alice tcp/30050 answered",
	)
	// The node's own address on kube-ipvs0 (an externalIP) must not ungate it.
	w.Node.address(w.t, "kube-ipvs0", "10.0.0.1/32", "2001:db8::1/128")
	w.Sync(want)
	w.Expect("mallory tcp/30050 dropped", "mallory tcp/30050@virtual answered")
	w.Node.must(w.t, func() error {
		link, err := netlink.LinkByName("kube-ipvs0")
		if err != nil {
			return err
		}
		return netlink.AddrDel(link, &netlink.Addr{IPNet: netlink.NewIPNet(virtual.v4.AsSlice())})
	})
	w.Node.address(w.t, "outside", "10.96.0.10/32") // it is the node's now
	w.Sync(want)
	if got, err := w.probe(mallory.v4, virtual.v4, portOf("tcp/30050"), dropped); err != nil || got != dropped {
		w.t.Errorf("mallory to what was virtual and is the node's: %s, %v", got, err)
	}
}

func untracked(w *World) {
	w.Sync(Set(Pool, fmt.Sprintf("tcp/%d alice", HostPort), fmt.Sprintf("udp/%d alice", HostPort)))
	for _, restore := range []string{"iptables-restore", "ip6tables-restore"}[:len(families())] {
		port := strconv.Itoa(HostPort)
		w.Node.Command(w.t, "*raw\n"+
			"-A PREROUTING -p tcp --dport "+port+" -j CT --notrack\n-A OUTPUT -p tcp --sport "+port+" -j CT --notrack\n"+
			"-A PREROUTING -p udp --dport "+port+" -j CT --notrack\n-A OUTPUT -p udp --sport "+port+" -j CT --notrack\n"+
			"COMMIT\n", restore, "-w", "10", "-n")
	}
	w.Expect(
		fmt.Sprintf("alice tcp/%d answered", HostPort), fmt.Sprintf("mallory tcp/%d dropped", HostPort),
		fmt.Sprintf("alice udp/%d answered", HostPort), fmt.Sprintf("mallory udp/%d dropped", HostPort),
	)
}

func wholeRange(w *World) {
	w.Sync(Set("1-65535", "tcp/30050 alice", "sctp/65535 alice"))
	w.Expect("alice tcp/30050 answered", "mallory tcp/29999 dropped", "mallory sctp/29999 dropped", "alice udp/28000 dropped")
	w.Sync(Set("30050", "tcp/30050 alice"))
	w.Expect("alice tcp/30050 answered", "mallory tcp/30050 dropped", "mallory tcp/29999 answered", "mallory sctp/29999 answered", "mallory udp/28000 refused")
}

// masqueradeTrap opens connections from the pod to a host outside. The node
// gives each a source port that is a judged number, where all is closed.
func masqueradeTrap(w *World) {
	w.Sync(Set(Pool))
	const connections = 400
	for _, family := range families() {
		for _, protocol := range []rule.Protocol{rule.TCP, rule.UDP} {
			group, unharmed := errgroup.WithContext(w.t.Context())
			group.SetLimit(50)
			for range connections {
				group.Go(func() error {
					if unharmed.Err() != nil {
						return nil // one that was hurt says enough
					}
					conn, err := dial(w.Pod, podIP.in(family), remote.in(family), rule.Port{Protocol: protocol, Number: 7000}, patience)
					if err != nil {
						return err
					}
					defer abort(conn)
					got, err := ping(conn, "from the pod", patience)
					if err == nil && got != answered {
						err = fmt.Errorf("a masqueraded connection was %s", got)
					}
					return err
				})
			}
			if err := group.Wait(); err != nil {
				w.t.Errorf("IPv%d %s: %v", family, protocol, err)
			}
		}
	}
}
