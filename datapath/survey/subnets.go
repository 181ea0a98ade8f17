package survey

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath/internal/nfattr"
)

// The part of linux/netfilter/ipset/ip_set.h that a listing needs.
const (
	ipsetList     = 7
	ipsetProtocol = 6

	attrProtocol = 1
	attrSetName  = 2
	attrData     = 7 // within the entries, each entry
	attrEntries  = 8
	attrIP       = 1
	attrCIDR     = 3
	attrIPv4     = 1
	attrIPv6     = 2
)

// subnets reads the ipsets in which Kube-OVN keeps its subnets, and those of them that
// have a distributed gateway.
func subnets(k kernel) (centralized, distributed []netip.Prefix, err error) {
	for _, family := range []string{"ovn40", "ovn60"} {
		all, err := networks(k, family+"subnets")
		if err != nil {
			return nil, nil, err
		}
		spread, err := networks(k, family+"subnets-distributed-gw")
		if err != nil {
			return nil, nil, err
		}
		for _, p := range all {
			if slices.Contains(spread, p) {
				distributed = append(distributed, p)
			} else {
				centralized = append(centralized, p)
			}
		}
	}
	return centralized, distributed, nil
}

// networks of an ipset, none where it does not exist.
func networks(k kernel, set string) ([]netip.Prefix, error) {
	answers, err := k.ask(unix.NFPROTO_IPV4, unix.NFNL_SUBSYS_IPSET, ipsetList, netlink.Dump,
		netlink.Attribute{Type: attrProtocol, Data: []byte{ipsetProtocol}}, text(attrSetName, set))
	if err != nil {
		if absent(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("list ipset %s: %w", set, err)
	}
	var out []netip.Prefix
	for _, answer := range answers {
		each(answer, []uint16{attrEntries, attrData}, func(entry []byte) {
			if p, ok := prefix(entry); ok {
				out = append(out, p)
			}
		})
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out, nil
}

// prefix of an entry; a host has no length of its own.
func prefix(entry []byte) (netip.Prefix, bool) {
	var address netip.Addr
	known, bits := false, -1
	for _, typ := range []uint16{attrIPv4, attrIPv6} {
		each(entry, []uint16{attrIP, typ}, func(value []byte) { address, known = netip.AddrFromSlice(value) })
	}
	each(entry, []uint16{attrCIDR}, func(value []byte) { bits = int(nfattr.Uint8(value)) })
	if bits < 0 {
		bits = address.BitLen()
	}
	return netip.PrefixFrom(address, bits), known
}
