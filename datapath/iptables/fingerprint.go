package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"unsafe"

	"github.com/coreos/go-iptables/iptables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/internal/nfattr"
)

var _ datapath.Fingerprinter = (*Datapath)(nil)

// Of linux/netfilter/nf_tables.h.
const (
	getRule       = 7
	getGeneration = 16

	generationID = 1 // attribute of a generation
	ruleTable    = 1 // attributes of a rule
	ruleChain    = 2
	ruleHandle   = 3
)

// Fingerprint implements datapath.Fingerprinter. It is of how many entries each set
// has, and of the rules: in nft mode, of the number that each rule in the hook and in
// our chains was given, once anybody has changed anything in nf_tables; in legacy
// mode, of how many rules the table has.
func (d *Datapath) Fingerprint() (uint64, error) {
	headers, err := d.sets.headers()
	if err != nil {
		return 0, err
	}
	h := fnv.New64a()
	write := func(n uint64) { _ = binary.Write(h, binary.NativeEndian, n) }
	for _, id := range slices.Sorted(maps.Keys(headers)) {
		_, _, isProperty := parseProperty(id)
		if (isProperty || slices.Contains(fixedSets, id)) && !untallied(id) {
			_, _ = h.Write([]byte(id))
			write(uint64(headers[id].entries))
		}
	}
	if d.detection.Mode == NFT {
		rules, err := d.sets.handles(d.hasDoor())
		if err != nil {
			return 0, err
		}
		write(rules)
		return h.Sum64(), nil
	}
	for _, s := range d.skeletons {
		for _, table := range s.tables() {
			rules, err := d.sets.countLegacy(s.ipt.Proto(), table)
			if err != nil {
				return 0, err
			}
			write(rules)
		}
	}
	return h.Sum64(), nil
}

// handles is a fingerprint of the rules in nft mode. While nobody commits anything it
// is what it was; kube-proxy may commit often, to other tables.
func (k *ipsets) handles(door bool) (uint64, error) {
	generation, err := k.generation()
	if err != nil {
		return 0, err
	}
	if generation == k.generationSeen && generation != 0 {
		return k.handlesSeen, nil
	}
	h := fnv.New64a()
	for _, f := range families() {
		family := uint8(unix.NFPROTO_IPV4)
		if f == iptables.ProtocolIPv6 {
			family = unix.NFPROTO_IPV6
		}
		chains := map[string][]string{table: {hook, chainMain, chainPass, chainCount, chainOver, chainShut, chainDeny}}
		if door {
			chains[doorTable] = []string{doorHook, chainLocal}
		}
		for _, table := range slices.Sorted(maps.Keys(chains)) {
			for _, chain := range chains[table] {
				_, _ = h.Write([]byte(chain))
				if err := k.rules(family, table, chain, func(handle []byte) { _, _ = h.Write(handle) }); err != nil {
					return 0, err
				}
			}
		}
	}
	k.generationSeen, k.handlesSeen = generation, h.Sum64()
	return k.handlesSeen, nil
}

func (k *ipsets) nft(command, flags int, family uint8) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|command, flags)
	req.Sockets = k.sockets
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	return req
}

func (k *ipsets) generation() (id uint32, err error) {
	err = k.nft(getGeneration, unix.NLM_F_ACK, unix.AF_UNSPEC).ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		for typ, value := range nfattr.All(message[nl.SizeofNfgenmsg:]) {
			if typ == generationID {
				id = nfattr.Uint32(value)
			}
		}
		return true
	})
	if err != nil {
		return 0, fmt.Errorf("read the generation of nf_tables: %w", err)
	}
	return id, nil
}

// rules calls f with the handle of each rule of a chain, in order; one
// that was replaced has another. Somebody who commits meanwhile is seen next time.
func (k *ipsets) rules(family uint8, table, chain string, f func(handle []byte)) error {
	req := k.nft(getRule, unix.NLM_F_DUMP, family)
	req.AddData(nl.NewRtAttr(ruleTable, nl.ZeroTerminated(table)))
	req.AddData(nl.NewRtAttr(ruleChain, nl.ZeroTerminated(chain)))
	err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
		for typ, value := range nfattr.All(message[nl.SizeofNfgenmsg:]) {
			if typ == ruleHandle {
				f(value)
			}
		}
		return true
	})
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("list the rules of %s: %w", chain, err)
	}
	return nil
}

// getInfo is the option by which iptables itself asks what a table has, in either
// family (IPT_SO_GET_INFO, IP6T_SO_GET_INFO). It needs no raw socket.
const getInfo = 64

// tableInfo is struct ipt_getinfo of linux/netfilter_ipv4/ip_tables.h.
type tableInfo struct {
	name             [32]byte
	hooks            uint32
	entry, underflow [5]uint32
	entries, size    uint32
}

// countLegacy is a fingerprint of a legacy table: where its chains begin, and how many
// rules of what size it has.
func (k *ipsets) countLegacy(f iptables.Protocol, table string) (uint64, error) {
	domain, level := unix.AF_INET, unix.IPPROTO_IP
	if f == iptables.ProtocolIPv6 {
		domain, level = unix.AF_INET6, unix.IPPROTO_IPV6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	var info tableInfo
	copy(info.name[:], table)
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), getInfo,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0) //nolint:gosec // no other way to ask
	if errno != 0 {
		return 0, fmt.Errorf("ask for table %s: %w", table, errno)
	}
	h := fnv.New64a()
	_ = binary.Write(h, binary.NativeEndian, [2]uint32{info.entries, info.size})
	_ = binary.Write(h, binary.NativeEndian, info.entry)
	return h.Sum64(), nil
}
