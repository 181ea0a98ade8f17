package conntrack

import (
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
	ctaProtoDstPort = 3
)

// flow is the original direction of one entry, and what it takes to delete
// exactly that entry.
type flow struct {
	protocol            rule.Protocol // "" for one that is never judged
	source, destination netip.Addr
	port                uint16 // destination
	key                 []attribute
}

// attribute is a copy of one that the kernel sent.
type attribute struct {
	typ   uint16
	value []byte
}

var protocols = map[uint8]rule.Protocol{
	unix.IPPROTO_TCP: rule.TCP, unix.IPPROTO_UDP: rule.UDP, unix.IPPROTO_SCTP: rule.SCTP,
}

// parse reads one entry of a dump. The netlink library's parser knows the ports
// of TCP and UDP only.
func parse(message []byte) flow {
	var f flow
	for typ, value := range nfattr.All(message[min(nl.SizeofNfgenmsg, len(message)):]) {
		switch typ {
		case nl.CTA_TUPLE_ORIG:
			f.parseTuple(value)
			f.key = append(f.key, attribute{typ | unix.NLA_F_NESTED, value})
		case nl.CTA_ID, nl.CTA_ZONE:
			// The id tells the entry from a later one of the same addresses.
			f.key = append(f.key, attribute{typ, value})
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

// owned returns the flow with copies of what aliases the dump's buffer.
func (f flow) owned() flow {
	f.key = slices.Clone(f.key)
	for i := range f.key {
		f.key[i].value = slices.Clone(f.key[i].value)
	}
	return f
}
