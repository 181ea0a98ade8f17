package iptables

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"

	"github.com/portreeve/portreeve/datapath"
)

// Mode is the kernel interface that iptables speaks.
type Mode string

// The two modes. A kernel runs the rules of both, one after the other.
const (
	NFT    Mode = "nft"
	Legacy Mode = "legacy"
)

var modes = []Mode{NFT, Legacy}

// Detection says which mode the rest of the node uses.
type Detection struct {
	// Mode is the one to use.
	Mode Mode
	// Hinted are the modes that hold chains of kubelet or kube-proxy. None: the
	// default of the installed iptables was taken. More than one: something on
	// the node is set up wrongly, and the operator should hear of it.
	Hinted []Mode
}

// hintPrefix begins the chains that kubelet (KUBE-IPTABLES-HINT,
// KUBE-KUBELET-CANARY) and kube-proxy (KUBE-PROXY-CANARY) keep in mangle.
const hintPrefix = "KUBE-"

// Detect looks for the chains that Kubernetes keeps on the node. The binary
// named iptables says nothing: in a container it is the image's, not the node's.
func Detect() (Detection, error) {
	var d Detection
	for _, mode := range modes {
		hinted, err := hinted(mode)
		if err != nil {
			return Detection{}, err
		}
		if hinted {
			d.Hinted = append(d.Hinted, mode)
		}
	}
	if len(d.Hinted) > 0 {
		d.Mode = d.Hinted[0] // nft first, as Kubernetes' own iptables-wrappers
		return d, nil
	}
	mode, err := defaultMode()
	d.Mode = mode
	return d, err
}

func hinted(mode Mode) (bool, error) {
	for _, f := range families() {
		if !inUse(mode, f, table) {
			continue
		}
		ipt, _, err := open(mode, f)
		if errors.Is(err, exec.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		chains, err := ipt.ListChains(table)
		if err != nil {
			return false, fmt.Errorf("list %s chains: %w", mode, err)
		}
		if slices.ContainsFunc(chains, func(c string) bool { return strings.HasPrefix(c, hintPrefix) }) {
			return true, nil
		}
	}
	return false, nil
}

// inUse says whether the mode may hold a table of that name. Merely listing a legacy
// table creates it, and leaves its hooks in the kernel for good; the file names
// those that exist.
func inUse(mode Mode, f iptables.Protocol, table string) bool {
	if mode == NFT {
		return true
	}
	file := "/proc/thread-self/net/ip_tables_names"
	if f == iptables.ProtocolIPv6 {
		file = "/proc/thread-self/net/ip6_tables_names"
	}
	names, err := os.ReadFile(file)
	return err == nil && slices.Contains(strings.Fields(string(names)), table)
}

// families are those the kernel speaks; with IPv6 switched off there is nothing
// to judge in it.
func families() []iptables.Protocol {
	out := []iptables.Protocol{iptables.ProtocolIPv4}
	if _, err := os.Stat("/proc/thread-self/net/if_inet6"); err == nil {
		out = append(out, iptables.ProtocolIPv6)
	}
	return out
}

// open finds the binary of a mode, and its path. Where the variants are not installed under
// their own names, plain iptables will do if it is of that mode.
func open(mode Mode, f iptables.Protocol) (*iptables.IPTables, string, error) {
	base := command(f)
	path := base + "-" + string(mode)
	if _, err := exec.LookPath(path); err != nil {
		if fallback, defaultErr := defaultMode(); defaultErr != nil || fallback != mode {
			return nil, "", fmt.Errorf("find %s (package iptables): %w: %w", path, datapath.ErrUnsupported, err)
		}
		path = base
	}
	ipt, err := iptables.New(iptables.Path(path), iptables.IPFamily(f), iptables.Timeout(lockWait))
	if err != nil {
		return nil, "", fmt.Errorf("open %s: %w", path, err)
	}
	return ipt, path, nil
}

func command(f iptables.Protocol) string {
	if f == iptables.ProtocolIPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// defaultMode asks the plain binary: "iptables v1.8.9 (nf_tables)". Before 1.8
// there was only legacy, and no word in parentheses.
func defaultMode() (Mode, error) {
	out, err := exec.Command("iptables", "--version").Output()
	if err != nil {
		return "", fmt.Errorf("run iptables --version (package iptables): %w: %w", datapath.ErrUnsupported, err)
	}
	if strings.Contains(string(out), "(nf_tables)") {
		return NFT, nil
	}
	return Legacy, nil
}
