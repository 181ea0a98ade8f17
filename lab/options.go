package lab

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"regexp"
)

// ProxyMode says how kube-proxy programs the nodes of a lab.
type ProxyMode string

// The modes of kube-proxy. The zero ProxyMode runs no kube-proxy.
const (
	NoProxy        ProxyMode = ""
	NFTables       ProxyMode = "nftables"
	IPTables       ProxyMode = "iptables"        // through iptables-nft
	IPTablesLegacy ProxyMode = "iptables-legacy" // through iptables-legacy
)

// Options say what a lab consists of. The zero value is an API server on its
// own: no nodes, no controllers.
type Options struct {
	// Name prefixes the lab's namespaces. Empty means a random one, which is
	// right for everything but a lab that a person wants to find again.
	Name string
	// Nodes is how many nodes, n1 to n<Nodes>, Start adds.
	Nodes int
	// KubeProxy is run on every node.
	KubeProxy ProxyMode
	// ControllerManager runs kube-controller-manager: EndpointSlices, garbage
	// collection, namespaces, Deployments, DaemonSets.
	ControllerManager bool
	// Scheduler runs kube-scheduler, which Deployments and DaemonSets need.
	Scheduler bool
	// NodePortRange replaces the API server's 30000-32767.
	NodePortRange string
	// IPv4Only leaves out IPv6. So does a kernel without it: see
	// [Cluster.IPv6].
	IPv4Only bool
	// Images are the programs that pods can run, by image name, beside
	// [EchoImage].
	Images map[string]Image
	// LogDir receives one file per process and survives Close. Empty means a
	// folder that is removed with the lab.
	LogDir string
	// ControlPlane is the binary built from lab/controlplane. Empty means
	// $PORTREEVE_CONTROLPLANE, else what hack/controlplane.sh prints.
	ControlPlane string
	// Further command-line flags, after the lab's own.
	APIServerFlags, ControllerManagerFlags, KubeProxyFlags []string
	// Logf receives what the lab has to say of things that nobody waits for,
	// such as a program that exited. Nil means silence.
	Logf func(format string, args ...any)
}

// Names become parts of interface names, of which Linux allows 15 characters.
var validName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,14}$`)

func (o Options) withDefaults() (Options, error) {
	if o.Name == "" {
		var b [3]byte
		if _, err := rand.Read(b[:]); err != nil {
			return o, err
		}
		o.Name = "pr" + hex.EncodeToString(b[:])
	}
	if !validName.MatchString(o.Name) {
		return o, fmt.Errorf("lab name %q: want %s", o.Name, validName)
	}
	switch o.KubeProxy {
	case NoProxy, NFTables, IPTables, IPTablesLegacy:
	default:
		return o, fmt.Errorf("kube-proxy mode %q: want %q, %q, %q or none", o.KubeProxy, NFTables, IPTables, IPTablesLegacy)
	}
	if o.Nodes < 0 || o.Nodes > maxNodes {
		return o, fmt.Errorf("%d nodes: want 0 to %d", o.Nodes, maxNodes)
	}
	if o.Logf == nil {
		o.Logf = func(string, ...any) {}
	}
	return o, nil
}
