package iptables

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// What others can see of us. Everything that Cleanup removes bears the prefix
// PORTREEVE; nothing else is ever changed.
const (
	// The mangle table's PREROUTING hook runs at -150: after conntrack (-200),
	// which tells replies from originals and puts fragments together, and before
	// every DNAT of kube-proxy (nftables -110 and -100, iptables -100).
	table = "mangle"
	hook  = "PREROUTING"

	// Two names for the chain, so that a damaged or outdated one is replaced by
	// a complete one without a moment in which there is none.
	chainA = "PORTREEVE-A"
	chainB = "PORTREEVE-B"

	// The n-th rule of the chain bears this comment and n, which shows its
	// place to a person and to our own check.
	commentPrefix = "portreeve-"

	// auditPrefix begins the kernel's line about a packet that nobody admits on a
	// number that is audited.
	auditPrefix = "portreeve audit: "

	// maxEntries bounds each hash set: ten thousand ports with a hundred
	// sources each. Memory is taken as entries come, not by the bound.
	maxEntries = 1 << 20
)

// setID is one of our ipsets.
type setID int

const (
	judged  setID = iota // numbers on which TCP and UDP are judged, one bit each
	audited              // those of them on which nothing is dropped
	sctp4                // judged less audited for SCTP, which bitmap:port never
	sctp6                // matches: half of all addresses, number; twice
	admit4               // source, (protocol, number) pairs that may pass
	admit6               //
	exempt4              // addresses of kube-ipvs0
	exempt6              //
	setCount
)

type setSpec struct {
	name, kind string
	family     uint8
}

var specs = [setCount]setSpec{
	judged:  {"PORTREEVE-JUDGED", "bitmap:port", unix.AF_UNSPEC},
	audited: {"PORTREEVE-AUDIT", "bitmap:port", unix.AF_UNSPEC},
	sctp4:   {"PORTREEVE-SCTP4", "hash:net,port", unix.AF_INET},
	sctp6:   {"PORTREEVE-SCTP6", "hash:net,port", unix.AF_INET6},
	admit4:  {"PORTREEVE-ADMIT4", "hash:net,port", unix.AF_INET},
	admit6:  {"PORTREEVE-ADMIT6", "hash:net,port", unix.AF_INET6},
	exempt4: {"PORTREEVE-EXEMPT4", "hash:ip", unix.AF_INET},
	exempt6: {"PORTREEVE-EXEMPT6", "hash:ip", unix.AF_INET6},
}

// halves stand for all addresses of a family, since ipset refuses a /0.
var halves = [...]netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("128.0.0.0/1"),
	netip.MustParsePrefix("::/1"), netip.MustParsePrefix("8000::/1"),
}
