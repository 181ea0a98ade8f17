package conntrack

import (
	"net/netip"
	"testing"

	"github.com/portreeve/portreeve/internal/rule"
)

// The packets that these verdicts are about are sent in datapathtest.
func TestLost(t *testing.T) {
	pool := rule.NewPortRanges(rule.PortRange{First: 30000, Last: 32767})
	const now = 1_000_000
	office := []netip.Prefix{netip.MustParsePrefix("10.8.0.0/16")}
	want := rule.Build(pool, map[rule.Port]rule.Terms{
		{Protocol: rule.TCP, Number: 30050}: {Sources: office},
		{Protocol: rule.TCP, Number: 30051}: {Sources: office, Expires: now},
		{Protocol: rule.TCP, Number: 30052}: {Sources: office, Expires: now + 1},
		{Protocol: rule.TCP, Number: 30053}: {Audited: office},
		{Protocol: rule.TCP, Number: 30060}: {Sources: office},
	}).WithAudited(rule.NewPortRanges(rule.PortRange{First: 30060, Last: 30061})).
		WithDenied([]netip.Prefix{netip.MustParsePrefix("10.8.6.0/24")}).
		WithAddresses([]netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("2001:db8::/64")})
	node := map[netip.Addr]bool{netip.MustParseAddr("10.0.0.1"): true, netip.MustParseAddr("10.0.0.7"): true, netip.MustParseAddr("2001:db8::1"): true}
	for _, c := range []struct {
		sentence            string
		protocol            rule.Protocol
		source, destination string
		port                uint16
		lost                bool
	}{
		{"an admitted source", rule.TCP, "10.8.0.1", "10.0.0.1", 30050, false},
		{"a source that is not admitted", rule.TCP, "10.9.0.1", "10.0.0.1", 30050, true},
		{"an admitted source by another protocol", rule.UDP, "10.8.0.1", "10.0.0.1", 30050, true},
		{"the other family", rule.TCP, "2001:db8::9", "2001:db8::1", 30050, true},
		{"SCTP", rule.SCTP, "10.9.0.1", "10.0.0.1", 30050, true},
		{"a protocol that is never judged", "", "10.9.0.1", "10.0.0.1", 30050, false},
		{"a pod's connection to a remote host", rule.TCP, "10.244.0.2", "10.0.0.2", 30050, false},
		{"the node's connection to a remote host", rule.TCP, "10.0.0.1", "10.0.0.2", 30050, false},
		{"the node to itself", rule.TCP, "10.0.0.1", "10.0.0.1", 30050, false},
		{"an audited number that does not admit the source", rule.TCP, "10.9.0.1", "10.0.0.1", 30060, false},
		{"an audited number that nobody claims", rule.UDP, "10.9.0.1", "10.0.0.1", 30061, false},
		{"a number beside it", rule.UDP, "10.9.0.1", "10.0.0.1", 30062, true},
		{"a number nobody judges", rule.TCP, "10.9.0.1", "10.0.0.1", 29999, false},
		{"a gate that has ended", rule.TCP, "10.8.0.1", "10.0.0.1", 30051, true},
		{"a gate in its last second", rule.TCP, "10.8.0.1", "10.0.0.1", 30052, false},
		{"an audited source", rule.TCP, "10.8.0.1", "10.0.0.1", 30053, false},
		{"a denied source", rule.TCP, "10.8.6.1", "10.0.0.1", 30050, true},
		{"a denied source on an audited number", rule.TCP, "10.8.6.1", "10.0.0.1", 30061, true},
		{"an address of the node that is not judged", rule.TCP, "10.9.0.1", "10.0.0.7", 30050, false},
		{"a judged number that was not asked for", rule.TCP, "10.9.0.1", "10.0.0.1", 31000, false},
	} {
		asked := rule.EveryProtocol(rule.NewPortRanges(rule.PortRange{First: 29000, Last: 30999}))
		f := flow{protocol: c.protocol, source: netip.MustParseAddr(c.source), destination: netip.MustParseAddr(c.destination), port: c.port}
		if got := lost(f, node, asked, want, now); got != c.lost {
			t.Errorf("%s: lost = %t", c.sentence, got)
		}
	}
}

// FuzzParse: whatever bytes come, parsing ends without a panic.
func FuzzParse(f *testing.F) {
	f.Add([]byte{2, 0, 0, 0, 8, 0, 1, 0x80, 4, 0, 1, 0x80})
	f.Fuzz(func(t *testing.T, message []byte) { parse(message).owned() })
}
