package datapathtest

import (
	"fmt"
	"strings"
	"time"
)

// Numbers that no DNAT carries, as if their Service had no pod on the node.
const (
	podless  = 32100 // of a Local port
	ordinary = 32101
)

// proxyDrops does what kube-proxy does to new connections that come to the node itself on
// a node port without a local endpoint, by jumps in first place; in the mode in which our
// own rules are, if they are by iptables.
func (w *World) proxyDrops() {
	w.t.Helper()
	for _, base := range []string{"iptables-", "ip6tables-"}[:len(families())] {
		mode := "nft"
		if strings.Contains(w.Node.Command(w.t, "", base+"legacy-save"), "PORTREEVE") {
			mode = "legacy"
		}
		var b strings.Builder
		b.WriteString("*filter\n:KUBE-EXTERNAL-SERVICES - [0:0]\n")
		for _, protocol := range []string{"tcp", "udp", "sctp"} {
			for _, number := range []int{podless, ordinary} {
				fmt.Fprintf(&b, "-A KUBE-EXTERNAL-SERVICES -p %s -m %s --dport %d -j DROP\n", protocol, protocol, number)
			}
		}
		b.WriteString("-I INPUT 1 -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES\nCOMMIT\n")
		w.Node.Command(w.t, b.String(), base+mode+"-restore", "-w", "10", "-n")
	}
}

// carryTo brings one more number to the pod, as kube-proxy does when an endpoint comes;
// with verb -D no more.
func (w *World) carryTo(verb string, number int) {
	w.t.Helper()
	for i, pod := range []string{"10.244.0.2:8080", "[fd00:10:244::2]:8080"}[:len(families())] {
		for _, protocol := range []string{"tcp", "udp"} {
			w.Node.Command(w.t, "", []string{"iptables", "ip6tables"}[i], "-w", "10", "-t", "nat", verb, "PREROUTING", "-p", protocol,
				"-m", "addrtype", "--dst-type", "LOCAL", "-m", protocol, "--dport", fmt.Sprint(number), "-j", "DNAT", "--to-destination", pod)
		}
	}
}

// unserved: who is admitted to a Local port and finds nobody there is told so at once. All
// others, and all other ports, are as they were.
func unserved(w *World) {
	set := Set(Pool, "tcp/32100 alice local=yes", "udp/32100 alice local=yes", "sctp/32100 alice local=yes",
		"tcp/32101 alice", "tcp/30050 alice local=yes", "udp/30050 alice local=yes", "sctp/30050 alice local=yes",
		"tcp/32500 alice local=yes", "udp/32500 alice local=yes")
	w.Sync(set)
	w.proxyDrops()
	w.Sync(set) // by now kube-proxy's jump stands ahead
	w.expectHave(set)
	w.Expect("alice tcp/32100 refused", "mallory tcp/32100 dropped", "alice udp/32100 refused", "mallory udp/32100 dropped",
		"alice tcp/32101 dropped", "alice tcp/30050 answered", "alice udp/30050 answered", "mallory tcp/30050 dropped",
		"alice tcp/32500 answered", "alice udp/32500 answered", "mallory tcp/32500 dropped", "node tcp/32100 dropped")
	w.Expect("alice sctp/32100 refused", "mallory sctp/32100 dropped")
	w.Expect("alice sctp/30050 answered")
	for _, family := range families() {
		for _, target := range []string{"tcp/32100", "udp/32100", "sctp/32100"} {
			w.refusedAtOnce(family, target)
		}
	}
	w.carryTo("-A", podless)
	w.Expect("alice tcp/32100 answered", "alice udp/32100 answered", "mallory tcp/32100 dropped")
	w.carryTo("-D", podless)
	w.Expect("alice tcp/32100 refused")
	w.Sync(set.WithDenied(Prefixes("alice")))
	w.Expect("alice tcp/32100 dropped", "alice udp/32100 dropped")
	w.Sync(set.WithAddresses(Prefixes("second"))) // on others nobody is judged
	w.Expect("alice tcp/32100 dropped", "mallory tcp/32100 dropped", "mallory tcp/30050 answered")
	w.Sync(Set(Pool, "tcp/32100 alice", "tcp/32101 alice local=yes", "tcp/30050 alice"))
	w.Expect("alice tcp/32100 dropped", "alice udp/32100 dropped", "alice tcp/32101 refused", "mallory tcp/32101 dropped", "alice tcp/30050 answered")
	w.Sync(Set(Pool, "tcp/32101 alice"))
	w.Expect("alice tcp/32101 dropped")
}

// unservedGates: whom an audit lets pass is a client like any other; a port that has ended, or
// refuses all, is none of a pod's business.
func unservedGates(w *World) {
	past := time.Now().Add(-time.Hour).Unix()
	w.Sync(Set(Pool, "tcp/32100 alice audited=mallory local=yes", "udp/32100 local=yes", fmt.Sprintf("tcp/32101 alice local=yes expires=%d", past)))
	w.proxyDrops()
	w.Sync(Set(Pool, "tcp/32100 alice audited=mallory local=yes connections=10", "udp/32100 local=yes", fmt.Sprintf("tcp/32101 alice local=yes expires=%d", past)))
	w.Expect("alice tcp/32100 refused", "mallory tcp/32100 refused", "remote tcp/32100 dropped", "alice udp/32100 dropped", "alice tcp/32101 dropped")
	w.Cleanup()
	w.Expect("alice tcp/32100 dropped", "mallory tcp/32101 dropped")
}
