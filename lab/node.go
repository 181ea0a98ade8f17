package lab

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
)

// Node is a node of the lab: a namespace that forwards, with kube-proxy and a
// fake kubelet.
type Node struct {
	*Namespace
	// Name is that of the Node object.
	Name string
	// Addrs are its addresses in the VPC, as in the Node's status: IPv4 first.
	Addrs []netip.Addr
	// PodCIDRs are the networks of its pods, IPv4 first.
	PodCIDRs []netip.Prefix

	cluster *Cluster
	member  *member

	failed atomic.Bool // its kubelet is silent

	mu        sync.Mutex
	kubeProxy *Process
	pods      map[string]*sandbox // by namespace/name
	hosts     map[int]bool        // host numbers within PodCIDRs that are in use
}

// AddNode adds a node to the running lab. It returns when the node is Ready and
// its kube-proxy, if any, has synced once.
func (c *Cluster) AddNode(ctx context.Context, name string) (*Node, error) {
	n, err := c.plugInNode(name)
	if err != nil {
		return nil, err
	}
	return n, n.boot(ctx)
}

// Nodes are the nodes of the lab in the order in which they were added.
func (c *Cluster) Nodes() []*Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.nodes)
}

// Node returns the named node, or nil.
func (c *Cluster) Node(name string) *Node {
	for _, n := range c.Nodes() {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// plugInNode makes the node's namespace and network.
func (c *Cluster) plugInNode(name string) (*Node, error) {
	host, err := c.reserve(name, firstNodeHost, firstClientHost-1)
	if err != nil {
		return nil, err
	}
	n := &Node{
		Name: name, Addrs: c.vpcAddrs(host), PodCIDRs: c.podCIDRs(host - firstNodeHost + 1),
		cluster: c, pods: map[string]*sandbox{}, hosts: map[int]bool{},
	}
	if n.Namespace, err = c.newNamespace(name); err != nil {
		return nil, err
	}
	err = n.setSysctls(sysctl{"net/ipv4/ip_forward", "1"}, sysctl{"net/ipv6/conf/all/forwarding", "1"})
	if err != nil {
		return nil, err
	}
	if n.member, err = c.vpc.join(n.Namespace, name, n.Addrs); err != nil {
		return nil, err
	}
	for _, cidr := range n.PodCIDRs {
		if err := c.vpc.announce(cidr, n.member); err != nil {
			return nil, err
		}
	}
	if err := n.routeServices(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = append(c.nodes, n)
	return n, nil
}

// routeServices gives the node's own connections to cluster IPs some route: the
// kernel looks for one before kube-proxy's rules rewrite the destination.
func (n *Node) routeServices() error {
	for i, cidr := range n.cluster.families(serviceIPv4, serviceIPv6) {
		err := addRoute(n.Namespace, netlink.Route{
			LinkIndex: n.member.link.Attrs().Index, Dst: ipNet(cidr), Src: n.Addrs[i].AsSlice(),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// boot registers the node and starts what runs on it.
func (n *Node) boot(ctx context.Context) error {
	if err := n.startKubelet(ctx); err != nil {
		return err
	}
	if n.cluster.options.KubeProxy != NoProxy {
		if err := n.StartKubeProxy(ctx); err != nil {
			return err
		}
	}
	return n.awaitUntainted(ctx)
}

// StartKubeProxy starts kube-proxy and returns when it has synced once. AddNode
// has done so already; it is for use after [Node.StopKubeProxy].
func (n *Node) StartKubeProxy(ctx context.Context) error {
	c := n.cluster
	kubeconfig, err := c.userKubeconfig("system:kube-proxy")
	if err != nil {
		return err
	}
	mode, env, err := c.proxyMode()
	if err != nil {
		return err
	}
	argv := []string{c.controlPlane, "kube-proxy",
		"--kubeconfig", kubeconfig,
		"--hostname-override", n.Name,
		"--proxy-mode", mode,
		"--cluster-cidr", join(c.families(podsIPv4, podsIPv6)),
		// The conntrack limits are sysctls, and some of them the whole machine's.
		"--conntrack-max-per-core", "0",
		"--conntrack-tcp-timeout-established", "0s",
		"--conntrack-tcp-timeout-close-wait", "0s",
	}
	p, err := c.Run(ctx, Command{
		Name: "kube-proxy-" + n.Name, In: n.Namespace,
		Argv: append(argv, c.options.KubeProxyFlags...), Env: env,
	})
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.kubeProxy = p
	n.mu.Unlock()
	return c.await(ctx, p, "kube-proxy on "+n.Name+" has synced", func(ctx context.Context) error {
		return n.getOK(ctx, "http://127.0.0.1:10256/healthz")
	})
}

// proxyMode is kube-proxy's flag, and for iptables the environment in which the
// plain commands are the wanted ones of the two that a machine has.
func (c *Cluster) proxyMode() (mode string, env []string, err error) {
	variant := "nft"
	switch c.options.KubeProxy {
	case IPTablesLegacy:
		variant = "legacy"
	case IPTables:
	default:
		return string(c.options.KubeProxy), nil, nil
	}
	dir := filepath.Join(c.dir, "iptables-"+variant)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	for _, tool := range []string{"iptables", "ip6tables"} {
		for _, verb := range []string{"", "-save", "-restore"} {
			target, err := exec.LookPath(tool + "-" + variant + verb)
			if err != nil {
				return "", nil, err
			}
			err = os.Symlink(target, filepath.Join(dir, tool+verb))
			if err != nil && !errors.Is(err, fs.ErrExist) {
				return "", nil, err
			}
		}
	}
	return string(IPTables), []string{"PATH=" + dir + ":" + searchPath()}, nil
}

// StopKubeProxy kills the node's kube-proxy; its rules stay.
func (n *Node) StopKubeProxy() {
	n.mu.Lock()
	p := n.kubeProxy
	n.mu.Unlock()
	if p != nil {
		p.Kill()
	}
}

// CutLink takes the node off the VPC, without the node noticing more than that
// its cable has been pulled.
func (c *Cluster) CutLink(n *Node) error { return c.vpc.setPort(n.member, false) }

// RestoreLink undoes CutLink.
func (c *Cluster) RestoreLink(n *Node) error { return c.vpc.setPort(n.member, true) }

// getOK makes one HTTP request from within the namespace and wants a 2xx or 3xx.
func (ns *Namespace) getOK(ctx context.Context, url string) error {
	client := &http.Client{
		Transport:     &http.Transport{DialContext: ns.DialContext, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	if err := response.Body.Close(); err != nil {
		return err
	}
	if response.StatusCode >= 400 {
		return errors.New(response.Status)
	}
	return nil
}
