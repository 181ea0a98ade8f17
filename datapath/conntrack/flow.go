package conntrack

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath/internal/nfattr"
	"github.com/portreeve/portreeve/internal/rule"
)

// The attributes of linux/netfilter/nfnetlink_conntrack.h that the netlink
// library has no name for.
const (
	ctaProtoNum     = 1
	ctaProtoSrcPort = 2
	ctaProtoDstPort = 3

	ctaFilter          = 25
	ctaFilterOrigFlags = 1
)

// Which parts of the original direction a listing is to match
// (net/netfilter/nf_conntrack_netlink.c of the kernel: CTA_FILTER_F_*).
const (
	filterProtoNum = 1 << 3
	filterDstPort  = 1 << 5
)

// statusSeenReply of linux/netfilter/nf_conntrack_common.h: there were packets both ways.
const statusSeenReply = 1 << 1

// flow is the original direction of one entry, and what it takes to delete
// exactly that entry.
type flow struct {
	family              uint8
	protocol            rule.Protocol // "" for one that is never judged
	source, destination netip.Addr
	port                uint16 // destination
	// who answers, as the kernel expects it: another than the destination where a Service
	// or a hostPort translates it.
	answering     netip.Addr
	answeringPort uint16
	answers       bool // it has
	// whom it answers: another than the source where that is masqueraded.
	answered netip.Addr
	// As the kernel sent them. The id tells the entry from a later one of the same
	// addresses.
	tuple, id, zone []byte
}

var protocols = map[uint8]rule.Protocol{
	unix.IPPROTO_TCP: rule.TCP, unix.IPPROTO_UDP: rule.UDP, unix.IPPROTO_SCTP: rule.SCTP,
}

// parse reads one entry of a dump. The netlink library's parser knows the ports
// of TCP and UDP only.
func parse(message []byte) flow {
	var f flow
	if len(message) > 0 {
		f.family = message[0]
	}
	for typ, value := range nfattr.All(message[min(nl.SizeofNfgenmsg, len(message)):]) {
		switch typ {
		case nl.CTA_TUPLE_ORIG:
			f.parseTuple(value)
			f.tuple = value
		case nl.CTA_TUPLE_REPLY:
			f.parseReply(value)
		case nl.CTA_STATUS:
			f.answers = len(value) == 4 && binary.BigEndian.Uint32(value)&statusSeenReply != 0
		case nl.CTA_ID:
			f.id = value
		case nl.CTA_ZONE:
			f.zone = value
		}
	}
	return f
}

func (f *flow) parseTuple(tuple []byte) {
	for typ, value := range nfattr.All(tuple) {
		for inner, value := range nfattr.All(value) {
			switch {
			case typ == nl.CTA_TUPLE_IP && (inner == nl.CTA_IP_V4_SRC || inner == nl.CTA_IP_V6_SRC):
				f.source, _ = netip.AddrFromSlice(value)
			case typ == nl.CTA_TUPLE_IP && (inner == nl.CTA_IP_V4_DST || inner == nl.CTA_IP_V6_DST):
				f.destination, _ = netip.AddrFromSlice(value)
			case typ == nl.CTA_TUPLE_PROTO && inner == ctaProtoNum:
				f.protocol = protocols[nfattr.Uint8(value)]
			case typ == nl.CTA_TUPLE_PROTO && inner == ctaProtoDstPort:
				f.port = nfattr.Uint16(value)
			}
		}
	}
}

func (f *flow) parseReply(tuple []byte) {
	for typ, value := range nfattr.All(tuple) {
		for inner, value := range nfattr.All(value) {
			switch {
			case typ == nl.CTA_TUPLE_IP && (inner == nl.CTA_IP_V4_SRC || inner == nl.CTA_IP_V6_SRC):
				f.answering, _ = netip.AddrFromSlice(value)
			case typ == nl.CTA_TUPLE_IP && (inner == nl.CTA_IP_V4_DST || inner == nl.CTA_IP_V6_DST):
				f.answered, _ = netip.AddrFromSlice(value)
			case typ == nl.CTA_TUPLE_PROTO && inner == ctaProtoSrcPort:
				f.answeringPort = nfattr.Uint16(value)
			}
		}
	}
}

// untranslated says that the node itself answers, at the number that the client asked.
func (f flow) untranslated() bool { return f.answering == f.destination && f.answeringPort == f.port }

// fill names the entry.
func (f flow) fill(a *nfattr.Builder) {
	a.Bytes(nl.CTA_TUPLE_ORIG|unix.NLA_F_NESTED, f.tuple)
	for _, part := range []struct {
		typ   uint16
		value []byte
	}{{nl.CTA_ID, f.id}, {nl.CTA_ZONE, f.zone}} {
		if part.value != nil {
			a.Bytes(part.typ, part.value)
		}
	}
}

// owned returns the flow with copies of what aliases the dump's buffer.
func (f flow) owned() flow {
	f.tuple, f.id, f.zone = slices.Clone(f.tuple), slices.Clone(f.id), slices.Clone(f.zone)
	return f
}

// fill asks for the entries with that destination as the client wrote it, and no
// others. A kernel before 5.8 lists all; so does any kernel of SCTP's numbers.
func (q question) fill(a *nfattr.Builder) {
	a.Nest(nl.CTA_TUPLE_ORIG, func() {
		a.Nest(nl.CTA_TUPLE_PROTO, func() {
			a.Bytes(ctaProtoNum, []byte{q.protocol})
			a.Bytes(ctaProtoDstPort, binary.BigEndian.AppendUint16(nil, q.number))
		})
	})
	a.Nest(ctaFilter, func() {
		a.Bytes(ctaFilterOrigFlags, binary.NativeEndian.AppendUint32(nil, filterProtoNum|filterDstPort))
	})
}
