package survey

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Facts are what was found, each list sorted and without duplicates.
type Facts struct {
	// KubeProxy says how its rules stand in the kernel: "nftables", "iptables-nft",
	// "iptables-legacy", "ipvs".
	KubeProxy []string
	// ProxyMode is what it says itself, "" where nobody answers.
	ProxyMode string
	// NodePortAddresses are those on which its nftables mode carries node ports; none:
	// all, or not known.
	NodePortAddresses []netip.Addr
	// Links and Chains of network plugins; "cali*" are all links that begin so, and the
	// chains are those of the nat tables of iptables.
	Links, Chains []string
	// Masquerades are the chains of postrouting whose own rules translate the source
	// addresses of whoever passes, each after its table.
	Masquerades []string
	// Centralized and Distributed are the subnets of Kube-OVN by their gateways.
	Centralized, Distributed []netip.Prefix
}

// Surveyor looks again and again. It is not safe for concurrent use.
type Surveyor struct {
	client http.Client
	slow   slow
}

// New returns a Surveyor.
func New() *Surveyor {
	return &Surveyor{client: http.Client{
		Timeout:       time.Second,
		Transport:     &http.Transport{DisableKeepAlives: true}, // no proxy either
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Look returns what is there; beside an error that of it which could be seen.
func (s *Surveyor) Look() (Facts, error) {
	links, err := linkNames()
	f := Facts{Links: known(links), ProxyMode: s.proxyMode()}
	var failed []error
	failed = append(failed, err)
	if slices.Contains(f.Links, linkIPVS) {
		f.KubeProxy = append(f.KubeProxy, "ipvs")
	}
	k, err := openKernel()
	if err != nil {
		return f, errors.Join(append(failed, err)...)
	}
	defer k.close()
	tables, err := lookAtTables(k)
	failed = append(failed, err)
	f.Chains, f.NodePortAddresses = tables.chains, tables.nodePortAddresses
	if tables.kubeProxy {
		f.KubeProxy = append(f.KubeProxy, "nftables")
	}
	if slices.Contains(tables.chains, chainNodePorts) {
		f.KubeProxy = append(f.KubeProxy, "iptables-nft")
	}
	failed = append(failed, s.slow.look())
	if slices.Contains(s.slow.legacy, chainNodePorts) {
		f.KubeProxy = append(f.KubeProxy, "iptables-legacy")
	}
	f.Chains, f.Masquerades = sorted(append(f.Chains, s.slow.legacy...)), s.slow.masquerades
	f.KubeProxy = sorted(f.KubeProxy)
	if slices.Contains(f.Links, linkKubeOVN) {
		f.Centralized, f.Distributed, err = subnets(k)
		failed = append(failed, err)
	}
	return f, errors.Join(failed...)
}

// Well-known links.
const (
	linkIPVS    = "kube-ipvs0"
	linkKubeOVN = "ovn0"
)

var (
	knownLinks = []string{
		"antrea-gw0", "br-int", "cilium_host", "cilium_net", "flannel.1", "kube-bridge", linkIPVS, "ovn-k8s-mp0", linkKubeOVN,
		"ovs-netdev", "ovs-system", "vxlan.calico",
	}
	knownPrefixes = []string{"cali", "eni", "ipvl_", "lxc"}
)

func linkNames() ([]string, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := make([]string, len(links))
	for i, l := range links {
		names[i] = l.Attrs().Name
	}
	return names, nil
}

// known returns those of the names that tell something.
func known(names []string) (out []string) {
	for _, name := range names {
		if slices.Contains(knownLinks, name) {
			out = append(out, name)
		}
		for _, prefix := range knownPrefixes {
			if strings.HasPrefix(name, prefix) {
				out = append(out, prefix+"*")
			}
		}
	}
	return sorted(out)
}

func sorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// proxyMode asks kube-proxy. Whoever else may listen there is believed no more than a
// word: what the kernel holds decides.
func (s *Surveyor) proxyMode() string {
	response, err := s.client.Get("http://127.0.0.1:10249/proxyMode")
	if err != nil {
		return ""
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, 16))
	mode := string(text)
	if err != nil || response.StatusCode != http.StatusOK || !slices.Contains([]string{"iptables", "ipvs", "nftables"}, mode) {
		return ""
	}
	return mode
}
