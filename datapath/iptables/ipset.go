package iptables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/internal/nfattr"
	"github.com/portreeve/portreeve/internal/rule"
)

// protocolNumbers as in an IP header; on the wire of ipset too.
var protocolNumbers = map[rule.Protocol]uint8{
	rule.TCP: unix.IPPROTO_TCP, rule.UDP: unix.IPPROTO_UDP, rule.SCTP: unix.IPPROTO_SCTP,
}

// listHeader asks a listing for the set's header only (IPSET_FLAG_LIST_HEADER of
// linux/netfilter/ipset/ip_set.h; the netlink library does not know it).
const listHeader = 1 << 2

// hashFull is IPSET_ERR_HASH_FULL: the first error code private to a set type.
const hashFull = syscall.Errno(nl.IPSET_ERR_TYPE_SPECIFIC)

// header is what the kernel says of a set without its entries.
type header struct {
	typ     string
	family  uint8
	entries int
}

// ipsets speaks to the kernel's sets in the network namespace in which it was
// opened. It makes and destroys sets through the netlink library, and speaks of
// their entries itself: the library sends a protocol number to bitmap:port, which
// the kernel refuses, takes one message per entry, and reads a listing slowly.
type ipsets struct {
	h       *netlink.Handle
	sockets map[int]*nl.SocketHandle
	limit   uint32 // of entries in a hash set
	changes int    // entries and sets written

	// What handles last saw.
	generationSeen uint32
	handlesSeen    uint64
}

func openIPSets() (*ipsets, error) {
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_NETFILTER)
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	sockets := map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: socket}}
	return &ipsets{h: h, sockets: sockets, limit: maxEntries}, nil
}

func (k *ipsets) close() {
	k.h.Close()
	k.sockets[unix.NETLINK_NETFILTER].Close()
}

func (k *ipsets) create(id setID) error {
	options := netlink.IpsetCreateOptions{Family: id.family(), PortTo: 65535}
	if id.family() != unix.AF_UNSPEC { // a bitmap has room for every number
		options.MaxElements = k.limit
	}
	switch id {
	case ends4, ends6:
		options.Comments = true
	case alive4, alive6:
		options.Timeout = new(uint32) // each entry has its own
	}
	k.changes++
	return setError("create set", id, k.h.IpsetCreate(string(id), id.typ(), options))
}

func (k *ipsets) destroy(id setID) error {
	err := k.h.IpsetDestroy(string(id))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	k.changes++
	return setError("destroy", id, err)
}

// batch bounds the entries of one message; an attribute ends at 64 KiB, and one of
// IPv6 with a comment takes 76 bytes.
const batch = 800

// change makes the steps, in order, and returns the first failure; one that
// fails does not stop the others. Adding what is there and removing what is not
// there succeed, so a plan may be made again.
func (k *ipsets) change(ctx context.Context, steps []step) error {
	var failed error
	for len(steps) > 0 {
		if err := ctx.Err(); err != nil {
			return errors.Join(failed, err)
		}
		n := 1
		for n < min(len(steps), batch) && steps[n].verb == steps[0].verb && steps[n].set == steps[0].set {
			n++
		}
		// The kernel stops a message at its first failure and does not say where.
		if err := k.send(steps[:n]); err != nil {
			for _, s := range steps[:n] {
				if err := k.send([]step{s}); err != nil && failed == nil {
					failed = err
				}
			}
		}
		steps = steps[n:]
	}
	return failed
}

// send puts steps of one verb on one set into one message.
func (k *ipsets) send(steps []step) error {
	command, doing := nl.IPSET_CMD_ADD, "add to"
	if steps[0].verb == del {
		command, doing = nl.IPSET_CMD_DEL, "delete from"
	}
	req := k.requestFor(command, steps[0].set)
	all := nl.NewRtAttr(nl.IPSET_ATTR_ADT|unix.NLA_F_NESTED, nil)
	for _, s := range steps {
		data := s.data()
		if s.verb == add {
			s.extend(data)
		}
		all.AddChild(data)
	}
	// Without a line number the kernel refuses a list of entries.
	req.AddData(&nl.Uint32Attribute{Type: nl.IPSET_ATTR_LINENO | nl.NLA_F_NET_BYTEORDER, Value: 0})
	req.AddData(all)
	k.changes += len(steps)
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	return setError(doing, steps[0].set, err)
}

// contains asks the kernel whether the set matches the element: exactly it, or,
// when its prefix is a single address, any entry that covers the address.
func (k *ipsets) contains(e element) (bool, error) {
	req := k.requestFor(nl.IPSET_CMD_TEST, e.set)
	req.AddData(e.data())
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, syscall.Errno(nl.IPSET_ERR_EXIST)) {
		return false, nil
	}
	return err == nil, setError("test", e.set, err)
}

// data spells the element as the kernel reads it.
func (e element) data() *nl.RtAttr {
	data := nl.NewRtAttr(nl.IPSET_ATTR_DATA|unix.NLA_F_NESTED, nil)
	if e.prefix.IsValid() {
		typ := nl.IPSET_ATTR_IPADDR_IPV6
		if e.prefix.Addr().Is4() {
			typ = nl.IPSET_ATTR_IPADDR_IPV4
		}
		ip := nl.NewRtAttr(nl.IPSET_ATTR_IP|unix.NLA_F_NESTED, nil)
		ip.AddRtAttr(typ|unix.NLA_F_NET_BYTEORDER, e.prefix.Addr().AsSlice())
		data.AddChild(ip)
		data.AddRtAttr(nl.IPSET_ATTR_CIDR, nl.Uint8Attr(uint8(e.prefix.Bits())))
	}
	if e.port.Number != 0 {
		data.AddRtAttr(nl.IPSET_ATTR_PORT|unix.NLA_F_NET_BYTEORDER, nl.BEUint16Attr(e.port.Number))
	}
	if e.port.Protocol != "" {
		data.AddRtAttr(nl.IPSET_ATTR_PROTO, nl.Uint8Attr(protocolNumbers[e.port.Protocol]))
	}
	return data
}

// endsPrefix begins the comment of a gate that ends; its second follows.
const endsPrefix = "ends "

// extend adds what an entry has beyond its key.
func (e element) extend(data *nl.RtAttr) {
	switch e.set {
	case ends4, ends6:
		data.AddRtAttr(nl.IPSET_ATTR_COMMENT, nl.ZeroTerminated(endsPrefix+strconv.FormatInt(e.second, 10)))
	case alive4, alive6:
		// Told now, since the plan may be older. 0 would stand for ever.
		left := max(1, min(time.Until(time.Unix(e.second, 0))/time.Second, maxTimeout))
		data.AddChild(&nl.Uint32Attribute{Type: nl.IPSET_ATTR_TIMEOUT | nl.NLA_F_NET_BYTEORDER, Value: uint32(left)})
	}
}

// headers returns the headers of all sets of the namespace, others' too.
func (k *ipsets) headers() (map[setID]header, error) {
	out := map[setID]header{}
	req := k.request(nl.IPSET_CMD_LIST)
	req.AddData(&nl.Uint32Attribute{Type: nl.IPSET_ATTR_FLAGS | nl.NLA_F_NET_BYTEORDER, Value: listHeader})
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		var h header
		var id setID
		for typ, value := range nfattr.All(message[nl.SizeofNfgenmsg:]) {
			switch typ {
			case nl.IPSET_ATTR_SETNAME:
				id = setID(unix.ByteSliceToString(value))
			case nl.IPSET_ATTR_TYPENAME:
				h.typ = unix.ByteSliceToString(value)
			case nl.IPSET_ATTR_FAMILY:
				h.family = nfattr.Uint8(value)
			case nl.IPSET_ATTR_DATA:
				for typ, value := range nfattr.All(value) {
					if typ == nl.IPSET_ATTR_ELEMENTS {
						h.entries = int(nfattr.Uint32(value))
					}
				}
			}
		}
		out[id] = h
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("list the headers of all sets: %w", err)
	}
	return out, nil
}

// entries calls f for every entry of the set.
func (k *ipsets) entries(id setID, f func(element)) error {
	now := time.Now().Unix()
	err := k.requestFor(nl.IPSET_CMD_LIST, id).ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		for typ, value := range nfattr.All(message[nl.SizeofNfgenmsg:]) {
			if typ != nl.IPSET_ATTR_ADT {
				continue
			}
			for typ, value := range nfattr.All(value) {
				if typ == nl.IPSET_ATTR_DATA {
					f(parseEntry(id, value, now))
				}
			}
		}
		return true
	})
	return setError("list", id, err)
}

func parseEntry(id setID, data []byte, now int64) element {
	e := element{set: id}
	var addr netip.Addr
	bits := -1
	for typ, value := range nfattr.All(data) {
		switch typ {
		case nl.IPSET_ATTR_IP:
			for _, value := range nfattr.All(value) {
				addr, _ = netip.AddrFromSlice(value)
			}
		case nl.IPSET_ATTR_CIDR:
			bits = int(nfattr.Uint8(value))
		case nl.IPSET_ATTR_TIMEOUT:
			e.second = now + int64(nfattr.Uint32(value))
		case nl.IPSET_ATTR_COMMENT:
			if second, ours := strings.CutPrefix(unix.ByteSliceToString(value), endsPrefix); ours {
				e.second, _ = strconv.ParseInt(second, 10, 64) // 0 is no second that we write
			}
		case nl.IPSET_ATTR_PORT:
			e.port.Number = nfattr.Uint16(value)
		case nl.IPSET_ATTR_PROTO:
			for protocol, number := range protocolNumbers {
				if number == nfattr.Uint8(value) {
					e.port.Protocol = protocol
				}
			}
		}
	}
	if addr.IsValid() {
		if bits < 0 {
			bits = addr.BitLen()
		}
		e.prefix = netip.PrefixFrom(addr, bits)
	}
	return e
}

func (k *ipsets) request(command int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(command|unix.NFNL_SUBSYS_IPSET<<8, nl.GetIpsetFlags(command))
	req.Sockets = k.sockets
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_PROTOCOL, nl.Uint8Attr(nl.IPSET_PROTOCOL)))
	return req
}

func (k *ipsets) requestFor(command int, id setID) *nl.NetlinkRequest {
	req := k.request(command)
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_SETNAME, nl.ZeroTerminated(string(id))))
	return req
}

// setError names the set and gives the error its kind; nil stays nil.
func setError(doing string, id setID, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, hashFull):
		return fmt.Errorf("%s %s: it holds the %d entries it can (name fewer or wider sources): %w", doing, id, maxEntries, datapath.ErrFull)
	case errors.Is(err, nl.IPSetError(nl.IPSET_ERR_FIND_TYPE)):
		return fmt.Errorf("%s %s: the kernel has no %s sets (module ip_set_%s): %w",
			doing, id, id.typ(), moduleOf[id.typ()], datapath.ErrUnsupported)
	default:
		return fmt.Errorf("%s %s: %w", doing, id, err)
	}
}

// moduleOf names what to load when the kernel lacks a set type.
var moduleOf = map[string]string{
	"bitmap:port": "bitmap_port", "hash:net,port": "hash_netport", "hash:net": "hash_net", "hash:ip": "hash_ip",
}
