package datapathtest

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// Pool is the range of numbers that most cases judge. The DNAT carries its
// first part; the node listens itself on HostPort, in the rest.
const (
	Pool     = "30000-32767"
	HostPort = 32500
)

// Host is somebody who sends packets, or is sent some; an address per family.
type Host struct {
	name   string
	v4, v6 netip.Addr
}

var (
	alice   = Host{"alice", netip.MustParseAddr("10.8.0.1"), netip.MustParseAddr("2001:db8:8::1")}
	mallory = Host{"mallory", netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("2001:db8:9::1")}
	remote  = Host{"remote", netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("2001:db8::2")}
	nodeIP  = Host{"node", netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")}
	podIP   = Host{"pod", netip.MustParseAddr("10.244.0.2"), netip.MustParseAddr("fd00:10:244::2")}
	virtual = Host{"virtual", netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::a")}
	second  = Host{"second", netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("2001:db8::7")}     // of the node; see twoAddresses
	outer   = Host{"outer", netip.MustParseAddr("10.96.0.20"), netip.MustParseAddr("fd00:10:96::14")} // nobody's; the node carries it on
	hosts   = []Host{alice, mallory, remote, nodeIP, podIP, virtual, second, outer}
)

// in returns the host's address in a family (4 or 6).
func (h Host) in(family int) netip.Addr {
	if family == 6 {
		return h.v6
	}
	return h.v4
}

// families under test.
func families() []int {
	if hasIPv6 {
		return []int{4, 6}
	}
	return []int{4}
}

// World is a client, a node and a pod, and the datapath on the node.
type World struct {
	t                 *testing.T
	open              Open
	Client, Node, Pod *Namespace
	Datapath          datapath.Datapath
}

// NewWorld builds the namespaces and opens the datapath, which has done nothing
// yet: every port answers everybody.
func NewWorld(t *testing.T, open Open) *World {
	t.Helper()
	w := &World{t: t, open: open, Client: NewNamespace(t), Node: NewNamespace(t), Pod: NewNamespace(t)}
	Join(t, w.Node, "outside", []string{"10.0.0.1/24", "2001:db8::1/64"},
		w.Client, "eth0", []string{"10.0.0.2/24", "2001:db8::2/64", "10.8.0.1/32", "10.9.0.1/32", "2001:db8:8::1/128", "2001:db8:9::1/128"})
	Join(t, w.Node, "inside", []string{"10.244.0.1/24", "fd00:10:244::1/64"},
		w.Pod, "eth0", []string{"10.244.0.2/24", "fd00:10:244::2/64"})
	w.Node.Route(t, "10.8.0.0/15", "10.0.0.2")
	w.Node.Route(t, "2001:db8:8::/47", "2001:db8::2")
	w.Client.Route(t, "10.96.0.0/16", "10.0.0.1")
	w.Client.Route(t, "fd00:10:96::/64", "2001:db8::1")
	w.Pod.Route(t, "0.0.0.0/0", "10.244.0.1")
	w.Pod.Route(t, "::/0", "fd00:10:244::1")
	w.Node.Sysctl(t, "net.ipv4.ip_forward", "1")
	if hasIPv6 {
		w.Node.Sysctl(t, "net.ipv6.conf.all.forwarding", "1")
	}
	w.Carry()
	Serve(t, w.Pod, 8080)
	Serve(t, w.Node, HostPort)
	Serve(t, w.Client, 7000)
	Serve(t, w.Client, 30080)
	w.Restart()
	t.Cleanup(w.close)
	return w
}

// Carry brings node ports to the pod, again if somebody flushed what did.
func (w *World) Carry() {
	w.t.Helper()
	w.Node.Command(w.t, carry("10.244.0.2"), "iptables-restore", "-w", "10", "-n")
	if hasIPv6 {
		w.Node.Command(w.t, carry("[fd00:10:244::2]"), "ip6tables-restore", "-w", "10", "-n")
	}
}

// carry does what kube-proxy does, in three lines per protocol.
func carry(pod string) string {
	var b strings.Builder
	b.WriteString("*nat\n")
	for _, protocol := range []string{"tcp", "udp", "sctp"} {
		fmt.Fprintf(&b, "-A PREROUTING -p %s -m addrtype --dst-type LOCAL -m %s --dport 29990:31999 -j DNAT --to-destination %s:8080\n", protocol, protocol, pod)
		fmt.Fprintf(&b, "-A POSTROUTING -o inside -p %s -m conntrack --ctstate DNAT -j MASQUERADE --to-ports 30000-32767\n", protocol)
		fmt.Fprintf(&b, "-A POSTROUTING -s %s -o outside -p %s -j MASQUERADE --to-ports 30000-32767\n", strings.Trim(pod, "[]"), protocol)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

func (w *World) close() {
	if d, ok := w.Datapath.(interface{ Close() }); ok {
		d.Close()
	}
}

// Restart opens the datapath anew, as an agent that starts does; the earlier one is
// gone by then.
func (w *World) Restart() {
	w.t.Helper()
	w.close()
	w.Node.must(w.t, func() error {
		w.Datapath = w.open(w.t)
		return nil
	})
}

// Sync runs the datapath's Sync on the node.
func (w *World) Sync(want rule.Set) {
	w.t.Helper()
	w.Node.must(w.t, func() error { return w.Datapath.Sync(context.Background(), want) })
}

// Have runs the datapath's Have on the node.
func (w *World) Have() (have rule.Set, err error) {
	err = w.Node.Do(func() (err error) {
		have, err = w.Datapath.Have(context.Background())
		return err
	})
	return have, err
}

// Cleanup runs the datapath's Cleanup on the node.
func (w *World) Cleanup() {
	w.t.Helper()
	w.Node.must(w.t, func() error { return w.Datapath.Cleanup(context.Background()) })
}

// Set writes a rule.Set down as a person would: the judged ranges, then a line
// "tcp/30050 10.8.0.0/16 2001:db8:8::/48" per port. "alice" and "mallory" stand
// for their addresses, "world" for everybody; no source closes the port. Words with
// "=" are the other terms of its gate: refused=alice, local=yes, audited=mallory, connections=2, persecond=1,
// burst=5, log=denied,accepted, lines=10, expires=1767225600.
func Set(judged string, lines ...string) rule.Set {
	terms := map[rule.Port]rule.Terms{}
	for _, line := range lines {
		words := strings.Fields(line)
		var t rule.Terms
		for _, w := range words[1:] {
			addTerm(&t, w)
		}
		terms[portOf(words[0])] = t
	}
	return rule.Build(Numbers(judged), terms)
}

func addTerm(t *rule.Terms, word string) {
	key, value, isTerm := strings.Cut(word, "=")
	if !isTerm {
		t.Sources = append(t.Sources, prefixesOf(word)...)
		return
	}
	switch key {
	case "refused":
		t.Refuse, t.Sources = true, append(t.Sources, prefixesOf(value)...)
	case "local":
		t.Local = true
	case "audited":
		t.Audited = append(t.Audited, prefixesOf(value)...)
	case "connections":
		t.Limits.Connections = uint32(number(value))
	case "persecond":
		t.Limits.PerSecond = uint32(number(value))
	case "burst":
		t.Limits.Burst = uint32(number(value))
	case "log":
		t.Log.Denied, t.Log.Accepted = strings.Contains(value, "denied"), strings.Contains(value, "accepted")
	case "lines":
		t.Log.PerSecond = uint32(number(value))
	case "expires":
		t.Expires = number(value)
	default:
		panic("no term is called " + key)
	}
}

func number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// Prefixes lists the addresses of hosts, and prefixes, as Set reads them.
func Prefixes(words ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, w := range words {
		out = append(out, prefixesOf(w)...)
	}
	return out
}

// Numbers reads ranges as a person would write them: "30000-30009 30050".
func Numbers(text string) rule.PortRanges {
	ranges, err := rule.ParsePortRanges(strings.Fields(text))
	if err != nil {
		panic(err)
	}
	return ranges
}

func prefixesOf(word string) []netip.Prefix {
	if word == "world" {
		return rule.World
	}
	for _, h := range hosts {
		if h.name == word {
			return []netip.Prefix{netip.PrefixFrom(h.v4, 32), netip.PrefixFrom(h.v6, 128)}
		}
	}
	return []netip.Prefix{netip.MustParsePrefix(word)}
}

func portOf(word string) rule.Port {
	protocol, number, _ := strings.Cut(word, "/")
	r, err := rule.ParsePortRange(number)
	if err != nil {
		panic(err)
	}
	return rule.Port{Protocol: rule.Protocol(strings.ToUpper(protocol)), Number: r.First}
}
