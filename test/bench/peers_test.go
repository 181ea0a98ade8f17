package bench

import (
	"fmt"
	"strings"
)

// The peers: what people use today, as rules. kube-proxy's are of the shape that it
// writes for Services with one endpoint each (v1.36), cut down to IPv4.

// naive is a rule for each port and network, ahead of a drop, as
// `iptables -A ... -s NETWORK --dport PORT -j ACCEPT` makes them; at a place where
// they match, before DNAT.
func naive(gates []gate) string {
	var b strings.Builder
	b.WriteString("*mangle\n:GATES - [0:0]\n-A PREROUTING -i outside -p tcp -m tcp --dport " + strings.Replace(judged, "-", ":", 1) + " -j GATES\n")
	for _, g := range gates {
		b.WriteString(naiveRules(g, "-A"))
	}
	b.WriteString("-A GATES -j DROP\nCOMMIT\n")
	return b.String()
}

func naiveRules(g gate, verb string) string {
	var b strings.Builder
	for _, source := range g.sources {
		fmt.Fprintf(&b, "%s GATES -s %s -p tcp -m tcp --dport %d -j ACCEPT\n", verb, source, g.number)
	}
	return b.String()
}

// naiveChange adds ("-I") or deletes ("-D") the rules of one port, all in one call.
func naiveChange(g gate, verb string) string {
	return "*mangle\n" + naiveRules(g, verb) + "COMMIT\n"
}

// serviceIP is a cluster IP for each number.
func serviceIP(g gate) string { return fmt.Sprintf("10.96.%d.%d", g.number>>8, g.number&255) }

// iptablesProxy is kube-proxy's iptables mode. Of a change it writes the chains of
// the Service that changed, and both lists of all Services anew.
func iptablesProxy(all, changed []gate) string {
	var b strings.Builder
	b.WriteString("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n")
	for _, g := range changed {
		fmt.Fprintf(&b, ":KUBE-SVC-%[1]d - [0:0]\n:KUBE-EXT-%[1]d - [0:0]\n:KUBE-SEP-%[1]d - [0:0]\n", g.number)
	}
	b.WriteString("-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n" +
		"-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n-A KUBE-POSTROUTING -j MASQUERADE --random-fully\n" +
		"-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n")
	for _, g := range all {
		fmt.Fprintf(&b, "-A KUBE-SERVICES -d %s/32 -p tcp -m comment --comment \"shop/s%[2]d:http cluster IP\" -m tcp --dport 80 -j KUBE-SVC-%[2]d\n", serviceIP(g), g.number)
		fmt.Fprintf(&b, "-A KUBE-NODEPORTS -p tcp -m comment --comment \"shop/s%[1]d:http\" -m tcp --dport %[1]d -j KUBE-EXT-%[1]d\n", g.number)
	}
	b.WriteString("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n")
	for _, g := range changed {
		fmt.Fprintf(&b, "-A KUBE-SVC-%[1]d ! -s 10.244.0.0/16 -d %[2]s/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ\n-A KUBE-SVC-%[1]d -j KUBE-SEP-%[1]d\n", g.number, serviceIP(g))
		fmt.Fprintf(&b, "-A KUBE-EXT-%[1]d -j KUBE-MARK-MASQ\n-A KUBE-EXT-%[1]d -j KUBE-SVC-%[1]d\n", g.number)
		fmt.Fprintf(&b, "-A KUBE-SEP-%[1]d -s %[2]s/32 -j KUBE-MARK-MASQ\n-A KUBE-SEP-%[1]d -p tcp -m tcp -j DNAT --to-destination %[2]s:%[3]d\n", g.number, podAddress, podPort)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

// iptablesProxyRemoval is the same change back: the chains of a Service that is gone
// are emptied and deleted.
func iptablesProxyRemoval(all []gate, gone gate) string {
	text := strings.TrimSuffix(iptablesProxy(all, nil), "COMMIT\n")
	declared := fmt.Sprintf(":KUBE-SVC-%[1]d - [0:0]\n:KUBE-EXT-%[1]d - [0:0]\n:KUBE-SEP-%[1]d - [0:0]\n", gone.number)
	return strings.Replace(text, "*nat\n", "*nat\n"+declared, 1) +
		fmt.Sprintf("-X KUBE-EXT-%[1]d\n-X KUBE-SVC-%[1]d\n-X KUBE-SEP-%[1]d\nCOMMIT\n", gone.number)
}

// iptablesProxyJumps lead into its chains, which it looks after one by one.
const iptablesProxyJumps = "-A PREROUTING -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\nCOMMIT\n"

// nftablesProxy is kube-proxy's nftables mode: verdict maps that lead to chains of
// each Service.
func nftablesProxy(gates []gate) string {
	var b strings.Builder
	fmt.Fprintf(&b, `table ip kube-proxy {
	chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
	chain masquerading {
		meta mark and 0x4000 == 0 return
		meta mark set meta mark xor 0x4000
		masquerade fully-random
	}
	set nodeport-ips { type ipv4_addr; elements = { %s } }
	map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	map service-nodeports { type inet_proto . inet_service : verdict; }
	chain services {
		ip daddr . meta l4proto . th dport vmap @service-ips
		ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
	}
	chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
	chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
}
`, nodeAddress)
	for _, g := range gates {
		b.WriteString(nftablesProxyChains(g))
	}
	for _, g := range gates {
		b.WriteString(nftablesProxyElements(g, "add"))
	}
	return b.String()
}

func nftablesProxyChains(g gate) string {
	return fmt.Sprintf(`add chain ip kube-proxy endpoint-%[1]d
add chain ip kube-proxy service-%[1]d
add chain ip kube-proxy external-%[1]d
add rule ip kube-proxy endpoint-%[1]d ip saddr %[3]s jump mark-for-masquerade
add rule ip kube-proxy endpoint-%[1]d meta l4proto tcp dnat to %[3]s:%[4]d
add rule ip kube-proxy service-%[1]d ip daddr %[2]s tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade
add rule ip kube-proxy service-%[1]d numgen random mod 1 vmap { 0 : goto endpoint-%[1]d }
add rule ip kube-proxy external-%[1]d jump mark-for-masquerade
add rule ip kube-proxy external-%[1]d goto service-%[1]d
`, g.number, serviceIP(g), podAddress, podPort)
}

func nftablesProxyElements(g gate, verb string) string {
	return fmt.Sprintf(`%[3]s element ip kube-proxy service-ips { %[2]s . tcp . 80 : goto service-%[1]d }
%[3]s element ip kube-proxy service-nodeports { tcp . %[1]d : goto external-%[1]d }
`, g.number, serviceIP(g), verb)
}

// nftablesProxyRemoval takes one Service away.
func nftablesProxyRemoval(g gate) string {
	var b strings.Builder
	b.WriteString(nftablesProxyElements(g, "delete"))
	for _, kind := range []string{"external", "service", "endpoint"} {
		fmt.Fprintf(&b, "flush chain ip kube-proxy %[1]s-%[2]d\ndelete chain ip kube-proxy %[1]s-%[2]d\n", kind, g.number)
	}
	return b.String()
}
