package host

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/internal/rule"
)

func TestParseSCTP(t *testing.T) {
	text := ` ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS
 ffff88017e0a0200 ffff880299f7fa00 2   10  29   30050     0   20000 10.0.0.1 2001:db8::1
 ffff88017e0a0300 ffff880299f7fa00 2   10  29   30051     0   20000 127.0.0.1 ::1
 ffff88017e0a0400 ffff880299f7fa00 2   1   29   30052     0   20000 10.0.0.1
`
	found, err := parseSCTP(strings.NewReader(text))
	want := []Listener{{rule.Port{Protocol: rule.SCTP, Number: 30050}, "a listener of the node on 10.0.0.1"}}
	if err != nil || !slices.Equal(tidy(found), want) {
		t.Errorf("%v, %v, want %v", found, err, want)
	}
	if _, err := parseSCTP(strings.NewReader("a b 2 10 29 70000 0 1 10.0.0.1\n")); err == nil {
		t.Error("a port number of 70000 was read")
	}
}

func TestParseSocket(t *testing.T) {
	m := make([]byte, sizeofSocket)
	m[0] = unix.AF_INET
	binary.BigEndian.PutUint16(m[4:], 30050)
	copy(m[8:], []byte{10, 0, 0, 1})
	if bound, err := parseSocket(m); err != nil || bound != netip.MustParseAddrPort("10.0.0.1:30050") {
		t.Errorf("%v, %v", bound, err)
	}
	m[0] = unix.AF_INET6
	mapped := netip.MustParseAddr("::ffff:127.0.0.1").As16()
	copy(m[8:], mapped[:])
	if bound, err := parseSocket(m); err != nil || !bound.Addr().IsLoopback() {
		t.Errorf("%v, %v: a mapped loopback address is one", bound, err)
	}
	if _, err := parseSocket(m[:70]); err == nil {
		t.Error("half a socket was read")
	}
}

func TestParseHostPorts(t *testing.T) {
	text := `-N CNI-HOSTPORT-DNAT
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"net\" id: \"ab\"" -m multiport --dports 30050,30051 -j CNI-DN-0123
-A CNI-HOSTPORT-DNAT -p udp -m comment --comment x -m udp --dport 30052 -j CNI-DN-0124
-A OTHER -p tcp -m tcp --dport 30053 -j DNAT
-A CNI-HOSTPORT-DNAT -j RETURN
`
	var ports []string
	for _, l := range parseHostPorts(strings.NewReader(text)) {
		ports = append(ports, l.Port.String())
	}
	if want := []string{"tcp/30050", "tcp/30051", "udp/30052"}; !slices.Equal(ports, want) {
		t.Errorf("%v, want %v", ports, want)
	}
}

func TestParseReserved(t *testing.T) {
	for text, want := range map[string][]string{
		"\n": {}, "0\n": {}, "0-5,30000-30099,30180\n": {"1-5", "30000-30099", "30180"},
	} {
		if got, err := parseReserved(text); err != nil || !slices.Equal(got.Strings(), want) {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	if _, err := parseReserved("30000-x"); err == nil {
		t.Error("read nonsense")
	}
}

func TestPagesSpellEveryRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ranges []rule.PortRange
		for range rapid.IntRange(0, 3000).Draw(t, "ranges") {
			n := rapid.Uint16Min(1).Draw(t, "number")
			ranges = append(ranges, rule.PortRange{First: n, Last: n})
		}
		want := rule.NewPortRanges(ranges...)
		var got rule.PortRanges
		for _, page := range pages(want) {
			if len(page) > pageOfReserved {
				t.Fatalf("a page of %d bytes", len(page))
			}
			part, err := parseReserved(page)
			if err != nil {
				t.Fatal(err)
			}
			got = got.Union(part)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
	})
}

func TestParseUptime(t *testing.T) {
	if up, err := parseUptime("81.5 300.25\n"); err != nil || up != 81500*time.Millisecond {
		t.Errorf("%s, %v", up, err)
	}
	if _, err := parseUptime("nan"); err == nil {
		t.Error("read nonsense")
	}
}
