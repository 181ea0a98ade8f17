package survey

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// chainNodePorts is where kube-proxy has node ports in its iptables mode.
const chainNodePorts = "KUBE-NODEPORTS"

// knownChains of the nat table tell who is there.
var knownChains = []string{
	"ANTREA-POSTROUTING", "ANTREA-PREROUTING", "AWS-SNAT-CHAIN-0", "CILIUM_POST_nat", "FLANNEL-POSTRTG", chainNodePorts,
	"OVN-KUBE-NODEPORT", "OVN-POSTROUTING", "cali-POSTROUTING", "cali-PREROUTING",
}

// tables are what nf_tables holds.
type tables struct {
	kubeProxy         bool
	nodePortAddresses []netip.Addr
	chains            []string
}

// lookAtTables asks for the tables of kube-proxy, and for the known chains in those of
// iptables-nft.
func lookAtTables(k kernel) (tables, error) {
	var found tables
	for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		_, err := k.ask(family, unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETTABLE, 0, text(unix.NFTA_TABLE_NAME, "kube-proxy"))
		if err == nil {
			found.kubeProxy = true
			addresses, err := nodePortAddresses(k, family)
			if err != nil {
				return found, err
			}
			found.nodePortAddresses = append(found.nodePortAddresses, addresses...)
		} else if !absent(err) {
			return found, fmt.Errorf("look for table kube-proxy: %w", err)
		}
		for _, name := range knownChains {
			_, err := k.ask(family, unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETCHAIN, 0, text(unix.NFTA_CHAIN_TABLE, "nat"), text(unix.NFTA_CHAIN_NAME, name))
			if err == nil {
				found.chains = append(found.chains, name)
			} else if !absent(err) {
				return found, fmt.Errorf("look for chain %s: %w", name, err)
			}
		}
	}
	found.chains = sorted(found.chains)
	slices.SortFunc(found.nodePortAddresses, netip.Addr.Compare)
	return found, nil
}

// nodePortAddresses reads the set that kube-proxy keeps unless it carries node ports on
// all addresses.
func nodePortAddresses(k kernel, family byte) (out []netip.Addr, err error) {
	answers, err := k.ask(family, unix.NFNL_SUBSYS_NFTABLES, unix.NFT_MSG_GETSETELEM, netlink.Dump,
		text(unix.NFTA_SET_ELEM_LIST_TABLE, "kube-proxy"), text(unix.NFTA_SET_ELEM_LIST_SET, "nodeport-ips"))
	if err != nil {
		if absent(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("read set nodeport-ips: %w", err)
	}
	for _, answer := range answers {
		each(answer, []uint16{unix.NFTA_SET_ELEM_LIST_ELEMENTS, unix.NFTA_LIST_ELEM, unix.NFTA_SET_ELEM_KEY, unix.NFTA_DATA_VALUE}, func(value []byte) {
			if a, ok := netip.AddrFromSlice(value); ok {
				out = append(out, a)
			}
		})
	}
	return out, nil
}

// patience is how long what is slow to read is left alone, as a multiple of what it took
// the last time.
const patience = 1000

// slow remembers what can't be asked for by its name: all rules of legacy iptables, and
// who masquerades.
type slow struct {
	legacy, masquerades []string // chains

	at   time.Time
	took time.Duration
}

// look reads it anew unless that would cost too much.
func (l *slow) look() error {
	if !l.at.IsZero() && time.Since(l.at) < patience*l.took {
		return nil
	}
	l.at = time.Now()
	var legacy, byLegacy []string
	masquerades, err := masquerades()
	if err == nil {
		legacy, byLegacy, err = legacyChains()
	}
	switch {
	case err != nil && l.took > 0:
		return nil // what was seen last still tells more than nothing: chains come and go while they are read
	case err != nil:
		return err
	}
	l.legacy, l.masquerades, l.took = legacy, sorted(append(masquerades, byLegacy...)), time.Since(l.at)
	return nil
}

// legacyChains returns the known chains of legacy iptables, and those that masquerade.
func legacyChains() (known, masquerades []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), answers)
	defer cancel()
	for _, family := range []struct{ tables, save string }{
		{"/proc/thread-self/net/ip_tables_names", "iptables-legacy-save"}, {"/proc/thread-self/net/ip6_tables_names", "ip6tables-legacy-save"},
	} {
		// Merely listing a legacy table creates it; the file names those that exist.
		names, err := os.ReadFile(family.tables)
		if err != nil || !slices.Contains(strings.Fields(string(names)), "nat") {
			continue
		}
		out, err := exec.CommandContext(ctx, family.save, "-t", "nat").Output() //nolint:gosec // one of two fixed names
		if errors.Is(err, exec.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("run %s: %w", family.save, err)
		}
		known, masquerades = append(known, parseChains(out)...), append(masquerades, parseMasquerades(out)...)
	}
	return sorted(known), masquerades, nil
}

// parseChains finds the known ones among the chains that iptables-save declares, as in
// ":KUBE-NODEPORTS - [0:0]".
func parseChains(saved []byte) (out []string) {
	lines := bufio.NewScanner(bytes.NewReader(saved))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, is := strings.CutPrefix(lines.Text(), ":")
		if name, _, _ = strings.Cut(name, " "); is && slices.Contains(knownChains, name) {
			out = append(out, name)
		}
	}
	return out
}
