package nftables

import (
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/internal/rule"
)

// What others can see of us, and all that Cleanup removes: one table of the
// family inet.
const tableName = "portreeve"

// nextName is of a table that does the same while a damaged or outdated one is
// replaced: a packet on its way through a table that goes would pass unjudged.
const nextName = tableName + "-next"

// The chains that are always there; the others are those of gates.
const (
	chainHook    = "prerouting"
	chainJudge   = "judge"
	chainAudited = "audited" // packets to numbers that are audited
	chainDenied  = "denied"  // packets of sources that pass nowhere
	chainEnded   = "ended"   // packets to ports whose gate has ended
	chainRefused = "refused" // packets of sources that are told so

	// The hook of packets that the node keeps, which is there while a gate is Local, and
	// behind it packets to such a port.
	chainInput    = "input"
	chainUnserved = "unserved"
)

// priority of the hook: after conntrack (-200), which tells replies from originals
// and puts fragments together, and before every DNAT of kube-proxy (nftables -110
// and -100, iptables -100).
const priority = -150

// hooks are where the chains stand that packets come to by themselves, all of them at
// priority. In input that is ahead of kube-proxy, which drops there, at 0 (filter), what
// comes to a Local port without a pod: in nftables mode by the chain filter-input and the
// map no-endpoint-nodeports (pkg/proxy/nftables/proxier.go of Kubernetes 1.36), in
// iptables mode by KUBE-EXTERNAL-SERVICES (pkg/proxy/iptables/proxier.go).
var hooks = map[string]uint32{chainHook: unix.NF_INET_PRE_ROUTING, chainInput: unix.NF_INET_LOCAL_IN}

// The sets that are always there; those of addresses once for each family. The
// others are those of classes and limits.
const (
	setProtocols = "protocols"
	setJudged    = "judged"
	setAudited   = "audited"
	setPorts     = "ports"     // protocol and number to the chain of a gate; it ends with it
	setEnds      = "ends"      // the same of a gate that ends, to what stands behind it
	setVirtual   = "virtual"   // addresses of kube-ipvs0
	setDenied    = "denied"    // sources
	setAddresses = "addresses" // of the node, those on which packets are judged
	setLocal     = "local"     // protocol and number of ports whose gate is Local
)

// family is what differs between IPv4 and IPv6.
type family struct {
	suffix              string // of the names of its sets
	nfproto             byte
	address             field
	source, destination uint32    // where they stand in the header, in bytes
	behind              [2]uint32 // the registers behind an address in the first one
}

var (
	ipv4     = family{suffix: ".ip", nfproto: 2, address: fieldIPv4, source: 12, destination: 16, behind: [2]uint32{unix.NFT_REG32_01, unix.NFT_REG32_02}}
	ipv6     = family{suffix: ".ip6", nfproto: 10, address: fieldIPv6, source: 8, destination: 24, behind: [2]uint32{unix.NFT_REG_2, unix.NFT_REG32_05}}
	families = []family{ipv4, ipv6}
)

// of returns those of the prefixes that are of the family.
func (f family) of(prefixes []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range prefixes {
		if uint32(p.Addr().BitLen()) == f.address.length*8 {
			out = append(out, p)
		}
	}
	return out
}

// classSet names the set of a class's sources in one family.
func classSet(id rule.ClassID, f family) string { return "class-" + string(id) + f.suffix }

// chainOf names the chain of a gate by all that it does, so that a person can read
// it and the next agent can tell what it ought to hold. The end of a gate stands
// with its port, and whether it is Local.
func chainOf(g rule.Gate) string {
	var b strings.Builder
	b.WriteString("gate")
	if g.Class != "" {
		fmt.Fprintf(&b, ".class-%s", g.Class)
	}
	if g.Refuse {
		b.WriteString(".refuse")
	}
	if g.Audit != "" {
		fmt.Fprintf(&b, ".audit-%s", g.Audit)
	}
	if l := g.Limits; l != (rule.Limits{}) {
		fmt.Fprintf(&b, ".limits-%d-%d-%d", l.Connections, l.PerSecond, l.Burst)
	}
	if l := g.Log; l != (rule.Log{}) {
		fmt.Fprintf(&b, ".log-%s-%d", logged(l), l.PerSecond)
	}
	return b.String()
}

func logged(l rule.Log) string {
	switch {
	case l.Denied && l.Accepted:
		return "both"
	case l.Denied:
		return "denied"
	}
	return "accepted"
}

// gateOf reads the name of a gate's chain, however it was meant.
func gateOf(chain string) (g rule.Gate, ok bool) {
	parts := strings.Split(chain, ".")
	if parts[0] != "gate" {
		return rule.Gate{}, false
	}
	for _, part := range parts[1:] {
		kind, value, _ := strings.Cut(part, "-")
		var err error
		switch kind {
		case "class":
			g.Class = rule.ClassID(value)
		case "refuse":
			g.Refuse = true
		case "audit":
			g.Audit = rule.ClassID(value)
		case "limits":
			_, err = fmt.Sscanf(value, "%d-%d-%d", &g.Limits.Connections, &g.Limits.PerSecond, &g.Limits.Burst)
		case "log":
			var which string
			which, value, _ = strings.Cut(value, "-")
			g.Log.Denied, g.Log.Accepted = which != "accepted", which != "denied"
			_, err = fmt.Sscanf(value, "%d", &g.Log.PerSecond)
		}
		if err != nil {
			return rule.Gate{}, false
		}
	}
	return g, chainOf(g) == chain
}

// nameLimit names the set that keeps a limit of these values.
func nameLimit(kind string, f family, values ...uint32) string {
	var b strings.Builder
	b.WriteString(kind)
	for _, v := range values {
		fmt.Fprintf(&b, "-%d", v)
	}
	return b.String() + f.suffix
}

// accepted is the policy of the hook (NF_ACCEPT of linux/netfilter.h).
const accepted = 1
