package conntrack

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath/internal/nfattr"
	"github.com/portreeve/portreeve/internal/rule"
)

// Asking for few numbers one by one finds the same as listing everything, of every
// family and protocol; and each is deleted once.
func TestAskingByNumberFindsWhatListingFinds(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("make a network namespace (run as root): %v", err)
	}
	defer ns.Close()
	s, err := openSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	const wanted, other, entries = 30050, 30051, 700
	for i := range entries {
		for _, number := range []uint16{wanted, other} {
			for _, protocol := range []uint8{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
				create(t, s, unix.AF_INET, protocol, netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), netip.MustParseAddr("10.0.0.1"), number)
			}
		}
	}
	create(t, s, unix.AF_INET6, unix.IPPROTO_UDP, netip.MustParseAddr("2001:db8::9"), netip.MustParseAddr("2001:db8::1"), wanted)
	both := []uint8{unix.AF_INET, unix.AF_INET6}
	onWanted := func(f flow) bool { return f.port == wanted && f.protocol != "" }
	asked, err := find(both, rule.EveryProtocol(rule.NewPortRanges(rule.PortRange{First: wanted, Last: wanted})), onWanted)
	if err != nil {
		t.Fatal(err)
	}
	listed, err := find(both, rule.EveryProtocol(rule.NewPortRanges(rule.PortRange{First: 1, Last: 65535})), onWanted)
	if err != nil {
		t.Fatal(err)
	}
	if len(asked) != 2*entries+1 || !slices.Equal(spellings(asked), spellings(listed)) {
		t.Fatalf("asking finds %d, listing %d, there are %d", len(asked), len(listed), 2*entries+1)
	}
	for _, want := range []int{2*entries + 1, 0} { // those that have gone are as good
		deleted := 0
		for batch := range slices.Chunk(asked, deletions) {
			n, err := s.delete(batch)
			if err != nil {
				t.Fatal(err)
			}
			deleted += n
		}
		if deleted != want {
			t.Errorf("deleted %d, want %d", deleted, want)
		}
	}
	left, err := find(both, rule.EveryProtocol(rule.NewPortRanges(rule.PortRange{First: 1, Last: 65535})), func(flow) bool { return true })
	if err != nil || len(left) != 2*entries {
		t.Errorf("%d are left, %v, want %d", len(left), err, 2*entries)
	}
}

func spellings(flows []flow) []string {
	var out []string
	for _, f := range flows {
		out = append(out, string(f.protocol)+f.source.String()+f.destination.String())
	}
	slices.Sort(out)
	return out
}

// create makes an entry as if a packet had come.
func create(t *testing.T, s *socket, family, protocol uint8, source, destination netip.Addr, number uint16) {
	t.Helper()
	from, to := uint16(nl.CTA_IP_V4_SRC), uint16(nl.CTA_IP_V4_DST)
	if source.Is6() {
		from, to = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	tuple := func(a *nfattr.Builder, typ uint16, source, destination netip.Addr, sourcePort, port uint16) {
		a.Nest(typ, func() {
			a.Nest(nl.CTA_TUPLE_IP, func() {
				a.Bytes(from, source.AsSlice())
				a.Bytes(to, destination.AsSlice())
			})
			a.Nest(nl.CTA_TUPLE_PROTO, func() {
				a.Bytes(ctaProtoNum, []byte{protocol})
				a.Bytes(ctaProtoDstPort-1, binary.BigEndian.AppendUint16(nil, sourcePort))
				a.Bytes(ctaProtoDstPort, binary.BigEndian.AppendUint16(nil, port))
			})
		})
	}
	var request nfattr.Builder
	asked := s.append(&request, nl.IPCTNL_MSG_CT_NEW, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, family, func(a *nfattr.Builder) {
		tuple(a, nl.CTA_TUPLE_ORIG, source, destination, 1234, number)
		tuple(a, nl.CTA_TUPLE_REPLY, destination, source, number, 1234)
		a.Uint32(nl.CTA_TIMEOUT, 600)
		if protocol == unix.IPPROTO_TCP {
			a.Nest(nl.CTA_PROTOINFO, func() {
				a.Nest(nl.CTA_PROTOINFO_TCP, func() { a.Bytes(nl.CTA_PROTOINFO_TCP_STATE, []byte{nl.TCP_CONNTRACK_ESTABLISHED}) })
			})
		}
	})
	if err := s.send(request); err != nil {
		t.Fatal(err)
	}
	err := s.answers(func(h unix.NlMsghdr, body []byte) (bool, error) { return h.Seq == asked, problem(body) })
	if err != nil {
		t.Fatalf("make an entry: %v", err)
	}
}
