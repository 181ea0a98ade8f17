package survey

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// masquerades names the chains, hooked into postrouting, whose own rules translate source
// addresses of whoever passes. Chains that these jump to are not looked into: those of
// kube-proxy and the network plugins are known.
func masquerades() (found []string, err error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nf_tables: %w", err)
	}
	defer func() { _ = conn.CloseLasting() }()
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet} {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, fmt.Errorf("list chains: %w", err)
		}
		for _, chain := range chains {
			if chain.Type != nftables.ChainTypeNAT || chain.Hooknum == nil || *chain.Hooknum != *nftables.ChainHookPostrouting {
				continue
			}
			rules, err := conn.GetRules(chain.Table, chain)
			if err != nil {
				return nil, fmt.Errorf("list rules of chain %s: %w", chain.Name, err)
			}
			for _, rule := range rules {
				if translatesAnybody(rule.Exprs) {
					found = append(found, chain.Table.Name+" "+chain.Name)
				}
			}
		}
	}
	return found, nil
}

// translatesAnybody says whether a rule translates source addresses, and not only those
// of some network.
func translatesAnybody(rule []expr.Any) bool {
	translates, source := false, false // source: what a comparison compares is the source address
	for _, e := range rule {
		switch e := e.(type) {
		case *expr.Payload:
			source = loadsSource(e)
			continue
		case *expr.Bitwise:
			continue
		case *expr.Cmp:
			if source && e.Op == expr.CmpOpEq {
				return false
			}
		case *expr.Lookup:
			if source && !e.Invert {
				return false
			}
		default:
			translates = translates || translatesSource(e)
		}
		source = false
	}
	return translates
}

// loadsSource says whether it is the source address of IPv4 or IPv6 that is loaded.
func loadsSource(e *expr.Payload) bool {
	return e.OperationType == expr.PayloadLoad && e.Base == expr.PayloadBaseNetworkHeader && (e.Offset == 12 && e.Len <= 4 || e.Offset == 8 && e.Len > 4)
}

func translatesSource(e expr.Any) bool {
	switch e := e.(type) {
	case *expr.Masq:
		return true
	case *expr.NAT:
		return e.Type == expr.NATTypeSourceNAT
	case *expr.Target: // of iptables-nft
		return e.Name == "MASQUERADE" || e.Name == "SNAT"
	}
	return false
}

// parseMasquerades finds in what iptables-save prints the same of legacy iptables.
func parseMasquerades(saved []byte) (found []string) {
	for line := range strings.Lines(string(saved)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "-A" || fields[1] != "POSTROUTING" {
			continue
		}
		translates, some := false, false
		for i, f := range fields[:len(fields)-1] {
			translates = translates || f == "-j" && (fields[i+1] == "MASQUERADE" || fields[i+1] == "SNAT")
			some = some || f == "-s" && fields[i-1] != "!"
		}
		if translates && !some {
			found = append(found, "legacy POSTROUTING")
		}
	}
	return found
}
