package nflog

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/internal/nfattr"
	"github.com/portreeve/portreeve/internal/rule"
)

var reasons = map[datapath.Reason]bool{
	datapath.NotAdmitted: true, datapath.Limited: true, datapath.Denied: true,
	datapath.Unclaimed: true, datapath.Audited: true, datapath.Accepted: true,
}

// message is what the kernel says of one packet.
type message struct {
	packet   datapath.Packet // but for the name of its interface
	link     int             // index of the interface; 0 for none
	number   uint32          // of the packet, from 0
	numbered bool
	ok       bool // the packet is one of ours, and parses
}

func read(data []byte) (m message) {
	if len(data) < nl.SizeofNfgenmsg {
		return m
	}
	var payload []byte
	for typ, value := range nfattr.All(data[nl.SizeofNfgenmsg:]) {
		switch typ {
		case packetInterface:
			m.link = int(nfattr.Uint32(value))
		case packetPayload:
			payload = value
		case packetPrefix:
			if reason, ours := strings.CutPrefix(unix.ByteSliceToString(value), datapath.LogPrefix); ours {
				m.packet.Reason = datapath.Reason(reason)
			}
		case packetSequence:
			m.number, m.numbered = nfattr.Uint32(value), true
		}
	}
	m.ok = reasons[m.packet.Reason] && parse(payload, &m.packet)
	return m
}

// counted notes the number of a packet, and how many are missing before it.
func (l *Listener) counted(number uint32) {
	if l.begun {
		l.lost.Add(uint64(number - l.next)) // modulo 2^32, as the numbers are
	} else {
		l.begun = true
		l.lost.Add(uint64(number))
	}
	l.next = number + 1
}

const (
	ipv4Header = 20
	ipv6Header = 40
)

// parse reads the addresses and ports of an IP packet that may be cut short. A
// fragment other than the first has no ports; conntrack puts fragments together
// before any datapath sees them.
func parse(b []byte, p *datapath.Packet) bool {
	if len(b) == 0 {
		return false
	}
	var next uint8
	var transport []byte
	switch b[0] >> 4 {
	case 4:
		length := int(b[0]&0xf) * 4
		if length < ipv4Header || len(b) < length || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return false
		}
		p.Source, p.Destination = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		next, transport = b[9], b[length:]
	case 6:
		if len(b) < ipv6Header {
			return false
		}
		p.Source, p.Destination = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		var ok bool
		if next, transport, ok = skipExtensions(b[6], b[ipv6Header:]); !ok {
			return false
		}
	default:
		return false
	}
	switch next {
	case unix.IPPROTO_TCP:
		p.Protocol = rule.TCP
	case unix.IPPROTO_UDP:
		p.Protocol = rule.UDP
	case unix.IPPROTO_SCTP:
		p.Protocol = rule.SCTP
	default:
		return false
	}
	if len(transport) < 4 {
		return false
	}
	p.SourcePort, p.Port = binary.BigEndian.Uint16(transport), binary.BigEndian.Uint16(transport[2:])
	return true
}

// skipExtensions goes over the headers of IPv6 that may stand before the
// transport's.
func skipExtensions(next uint8, b []byte) (uint8, []byte, bool) {
	for {
		length := 0
		switch next {
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
			if len(b) < 2 {
				return 0, nil, false
			}
			length = 8 * (int(b[1]) + 1)
		case unix.IPPROTO_FRAGMENT:
			if len(b) < 8 || binary.BigEndian.Uint16(b[2:])&^7 != 0 {
				return 0, nil, false
			}
			length = 8
		default:
			return next, b, true
		}
		if len(b) < length {
			return 0, nil, false
		}
		next, b = b[0], b[length:]
	}
}
