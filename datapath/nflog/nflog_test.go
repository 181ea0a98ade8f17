package nflog

import (
	"net/netip"
	"testing"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// The messages of real kernels are read in datapathtest.

func ipv4(protocol byte, options int) []byte {
	b := make([]byte, 20+options, 64)
	b[0], b[9] = 0x40|byte(5+options/4), protocol
	copy(b[12:], []byte{10, 8, 0, 1, 10, 0, 0, 1})
	return append(b, 0x9c, 0x40, 0x75, 0x62, 0, 0, 0, 0) // ports 40000 and 30050
}

func ipv6(next byte, rest ...byte) []byte {
	b := make([]byte, 40, 96)
	b[0], b[6] = 0x60, next
	src, dst := netip.MustParseAddr("2001:db8:8::1").As16(), netip.MustParseAddr("2001:db8::1").As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	return append(append(b, rest...), 0x9c, 0x40, 0x75, 0x62)
}

func TestParse(t *testing.T) {
	fragment := ipv4(6, 0)
	fragment[7] = 1
	for sentence, c := range map[string]struct {
		packet   []byte
		protocol rule.Protocol // "" for one that is refused
	}{
		"TCP":                                {ipv4(6, 0), rule.TCP},
		"UDP behind IP options":              {ipv4(17, 8), rule.UDP},
		"SCTP":                               {ipv4(132, 0), rule.SCTP},
		"ICMP":                               {ipv4(1, 0), ""},
		"a later fragment":                   {fragment, ""},
		"a header cut short":                 {ipv4(6, 40)[:58], ""},
		"ports cut short":                    {ipv4(6, 0)[:22], ""},
		"IPv6":                               {ipv6(6), rule.TCP},
		"IPv6 behind a hop-by-hop header":    {ipv6(0, 17, 0, 0, 0, 0, 0, 0, 0), rule.UDP},
		"IPv6, the first fragment":           {ipv6(44, 132, 0, 0, 1, 0, 0, 0, 0), rule.SCTP},
		"IPv6, a later fragment":             {ipv6(44, 6, 0, 0, 8, 0, 0, 0, 0), ""},
		"IPv6, a header longer than all":     {ipv6(0, 17, 255, 0, 0, 0, 0, 0, 0), ""},
		"IPv6, ESP":                          {ipv6(50), ""},
		"nothing":                            {nil, ""},
		"a version that does not exist":      {[]byte{0x70, 0, 0, 0}, ""},
		"IPv4 with a length of less than 20": {append([]byte{0x41}, make([]byte, 60)...), ""},
	} {
		var p datapath.Packet
		ok := parse(c.packet, &p)
		if ok != (c.protocol != "") {
			t.Errorf("%s: parse = %t", sentence, ok)
		}
		if ok && (p.Protocol != c.protocol || p.SourcePort != 40000 || p.Port != 30050 ||
			nameless[p.Source] == "" || nameless[p.Destination] == "") {
			t.Errorf("%s: %+v", sentence, p)
		}
	}
}

var nameless = map[netip.Addr]string{
	netip.MustParseAddr("10.8.0.1"): "source", netip.MustParseAddr("10.0.0.1"): "destination",
	netip.MustParseAddr("2001:db8:8::1"): "source", netip.MustParseAddr("2001:db8::1"): "destination",
}

func TestPacketsThatNeverCameAreCounted(t *testing.T) {
	var l Listener
	for _, number := range []uint32{2, 3, 7} {
		l.counted(number)
	}
	if l.Lost() != 5 {
		t.Errorf("of the numbers 0 to 7 came 2, 3 and 7, and %d were lost", l.Lost())
	}
	l = Listener{begun: true, next: 1<<32 - 1}
	l.counted(1) // 2^32-1 and 0 did not come
	if l.Lost() != 2 {
		t.Errorf("lost %d as the numbers began anew, want 2", l.Lost())
	}
}

// FuzzRead: whatever bytes come, reading ends without a panic, and never finds a
// reason that is none.
func FuzzRead(f *testing.F) {
	f.Add([]byte{2, 0, 0x24, 0xf9, 21, 0, 10, 0, 'p', 'o', 'r', 't', 'r', 'e', 'e', 'v', 'e', ' ', 'd', 'e', 'n', 'i', 'e', 'd', 0})
	f.Add(append([]byte{2, 0, 0, 0, 32, 0, 9, 0}, ipv4(6, 0)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m := read(data); m.ok && (!reasons[m.packet.Reason] || m.packet.Protocol == "") {
			t.Errorf("read %+v", m)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(ipv4(6, 4))
	f.Add(ipv6(0, 17, 0, 0, 0, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p datapath.Packet
		if parse(b, &p) && (p.Protocol == "" || !p.Source.IsValid() || !p.Destination.IsValid()) {
			t.Errorf("parsed %+v", p)
		}
	})
}
