package conntrack

import (
	"net/netip"
	"testing"

	"github.com/portreeve/portreeve/internal/rule"
)

func TestLonely(t *testing.T) {
	ports := rule.EveryProtocol(rule.NewPortRanges(rule.PortRange{First: 30050, Last: 30059}))
	want := rule.NewSet(ports.Numbers(), nil)
	node := map[netip.Addr]bool{netip.MustParseAddr("10.0.0.1"): true}
	for _, c := range []struct {
		sentence string
		change   func(*flow)
		want     bool
	}{
		{"a flow that began before there was a Service", func(*flow) {}, true},
		{"one that a process of the node answers", func(f *flow) { f.answers = true }, false},
		{"one that a pod is to answer", func(f *flow) { f.answering = netip.MustParseAddr("10.244.0.2") }, false},
		{"TCP", func(f *flow) { f.protocol = rule.TCP }, false},
		{"of the node itself", func(f *flow) { f.source = netip.MustParseAddr("10.0.0.1") }, false},
		{"to somebody else", func(f *flow) {
			f.destination = netip.MustParseAddr("10.0.0.2")
			f.answering = f.destination
		}, false},
		{"another port", func(f *flow) { f.port, f.answeringPort = 30060, 30060 }, false},
	} {
		f := flow{
			protocol: rule.UDP, source: netip.MustParseAddr("203.0.113.7"), destination: netip.MustParseAddr("10.0.0.1"), port: 30050,
			answering: netip.MustParseAddr("10.0.0.1"), answeringPort: 30050,
		}
		c.change(&f)
		if got := lonely(f, node, ports, want); got != c.want {
			t.Errorf("%s: lonely = %t", c.sentence, got)
		}
	}
}

// The packets that these verdicts are about are sent in test/e2e.
func TestStale(t *testing.T) {
	const client, pod, node = "203.0.113.7", "10.244.0.2", "10.0.0.1"
	for _, c := range []struct {
		sentence            string
		stale               rule.Stale
		protocol            rule.Protocol
		source              string
		answering, answered string
		want                bool
	}{
		{"a masqueraded UDP flow", rule.Stale{Masqueraded: true}, rule.UDP, client, pod, node, true},
		{"a masqueraded TCP connection, whose pod sees a wrong address", rule.Stale{Masqueraded: true}, rule.TCP, client, pod, node, true},
		{"a masqueraded SCTP association", rule.Stale{Masqueraded: true}, rule.SCTP, client, pod, node, true},
		{"one whose pod sees the client already", rule.Stale{Masqueraded: true}, rule.TCP, client, pod, client, false},
		{"a direct UDP flow", rule.Stale{Direct: true}, rule.UDP, client, pod, client, true},
		{"a direct TCP connection, which has nothing wrong with it", rule.Stale{Direct: true}, rule.TCP, client, pod, client, false},
		{"a flow that is masqueraded already", rule.Stale{Direct: true}, rule.UDP, client, pod, node, false},
		{"an unbound UDP flow, direct", rule.Stale{Unbound: true}, rule.UDP, client, pod, client, true},
		{"an unbound UDP flow, masqueraded", rule.Stale{Unbound: true}, rule.UDP, client, pod, node, true},
		{"an unbound TCP connection, which can't move", rule.Stale{Unbound: true}, rule.TCP, client, pod, node, false},
		{"a pod that reaches itself, which is always masqueraded", rule.Stale{Masqueraded: true, Unbound: true}, rule.UDP, pod, pod, node, false},
		{"a number on which nothing is", rule.Stale{}, rule.UDP, client, pod, node, false},
	} {
		f := flow{protocol: c.protocol, source: netip.MustParseAddr(c.source), answering: netip.MustParseAddr(c.answering), answered: netip.MustParseAddr(c.answered)}
		if got := f.stale(c.stale); got != c.want {
			t.Errorf("%s: stale = %t", c.sentence, got)
		}
	}
}
