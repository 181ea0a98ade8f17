package iptables

import (
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// What others can see of us. Everything that Cleanup removes bears the name or
// prefix PORTREEVE; nothing else is ever changed.
const (
	// The mangle table's PREROUTING hook runs at -150: after conntrack (-200),
	// which tells replies from originals and puts fragments together, and before
	// every DNAT of kube-proxy (nftables -110 and -100, iptables -100).
	table = "mangle"
	hook  = "PREROUTING"

	// The chains; doc.go says what each is for. Chains of ours by any other name
	// are from another version, and go.
	chainMain  = "PORTREEVE"
	chainPass  = chainMain + "-PASS"
	chainCount = chainMain + "-COUNT"
	chainOver  = chainMain + "-OVER"
	chainShut  = chainMain + "-SHUT"
	chainDeny  = chainMain + "-DENY"

	// The n-th rule of a chain bears this comment and n, which shows its place to
	// a person and to our own check.
	commentPrefix = "portreeve-"

	// hashlimit's tables are named so; they show in /proc/net/ipt_hashlimit.
	tablePrefix = "portreeve-"

	setPrefix = chainMain + "-"

	// maxEntries bounds each hash set: ten thousand ports with a hundred
	// sources each. Memory is taken as entries come, not by the bound.
	maxEntries = 1 << 20

	// maxTimeout is the longest, in seconds, that ipset counts.
	maxTimeout = 2_147_483
)

// setID is one of our ipsets, by its name.
type setID string

// The sets that are always there. Those of a property of ports (property.go) come
// and go with its values.
const (
	judged  setID = "PORTREEVE-JUDGED" // numbers on which TCP and UDP are judged, one bit each
	audited setID = "PORTREEVE-AUDIT"  // those of them on which nobody is dropped for want of a gate

	// The same for SCTP, which bitmap:port never matches: half of all addresses,
	// number; two entries per number and family.
	sctp4      setID = "PORTREEVE-SCTP4"
	sctp6      setID = "PORTREEVE-SCTP6"
	sctpAudit4 setID = "PORTREEVE-SCTPAUDIT4"
	sctpAudit6 setID = "PORTREEVE-SCTPAUDIT6"

	admit4 setID = "PORTREEVE-ADMIT4" // source, (protocol, number) pairs of a gate's class
	admit6 setID = "PORTREEVE-ADMIT6"
	aside4 setID = "PORTREEVE-ASIDE4" // the same of a gate's audited class
	aside6 setID = "PORTREEVE-ASIDE6"

	denied4 setID = "PORTREEVE-DENIED4" // sources that pass nowhere
	denied6 setID = "PORTREEVE-DENIED6"
	places4 setID = "PORTREEVE-PLACES4" // addresses on which the node judges; both halves for all
	places6 setID = "PORTREEVE-PLACES6"

	// Gates that end: half of all addresses, (protocol, number). One stands in
	// ENDS, with the second in its comment, and in ALIVE until then.
	ends4  setID = "PORTREEVE-ENDS4"
	ends6  setID = "PORTREEVE-ENDS6"
	alive4 setID = "PORTREEVE-ALIVE4"
	alive6 setID = "PORTREEVE-ALIVE6"

	exempt4 setID = "PORTREEVE-EXEMPT4" // addresses of kube-ipvs0
	exempt6 setID = "PORTREEVE-EXEMPT6"
)

// fixedSets lists those that are always there, but the last two in an image.
var fixedSets = []setID{
	judged, audited, sctp4, sctp6, sctpAudit4, sctpAudit6, admit4, admit6, aside4, aside6,
	denied4, denied6, places4, places6, ends4, ends6, alive4, alive6, exempt4, exempt6,
}

// typ is the kernel's name of the set's type.
func (id setID) typ() string {
	switch id {
	case judged, audited:
		return "bitmap:port"
	case exempt4, exempt6:
		return "hash:ip"
	case denied4, denied6, places4, places6:
		return "hash:net"
	}
	return "hash:net,port"
}

func (id setID) family() uint8 {
	if id == judged || id == audited {
		return unix.AF_UNSPEC
	}
	if _, family, ok := parseProperty(id); ok {
		return family
	}
	if strings.HasSuffix(string(id), "4") {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// halves stand for all addresses of a family, since ipset refuses a /0.
var halves = [...]netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/1"), netip.MustParsePrefix("128.0.0.0/1"),
	netip.MustParsePrefix("::/1"), netip.MustParsePrefix("8000::/1"),
}

// in picks the set of an address's family.
func in(addr netip.Addr, v4, v6 setID) setID {
	if addr.Is4() {
		return v4
	}
	return v6
}

func admitSet(p netip.Prefix) setID { return in(p.Addr(), admit4, admit6) }
func asideSet(p netip.Prefix) setID { return in(p.Addr(), aside4, aside6) }
