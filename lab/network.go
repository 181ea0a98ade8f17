package lab

import (
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The lab's address plan. It may overlap with the host's: no namespace of a lab
// knows a way out.
var (
	vpcIPv4     = netip.MustParsePrefix("10.99.0.0/24")
	vpcIPv6     = netip.MustParsePrefix("fd00:99::/64")
	podsIPv4    = netip.MustParsePrefix("10.244.0.0/16")
	podsIPv6    = netip.MustParsePrefix("fd00:244::/32")
	serviceIPv4 = netip.MustParsePrefix("10.96.0.0/16")
	serviceIPv6 = netip.MustParsePrefix("fd00:96::/112")
)

// Host numbers in the VPC.
const (
	controlPlaneHost = 1
	firstNodeHost    = 11 // n1
	firstClientHost  = 101
	lastClientHost   = 254
	maxNodes         = firstClientHost - firstNodeHost
)

// podGatewayIPv6 is every node's address towards its pods. IPv4 needs none: a
// pod asks for its node's VPC address by ARP, which answers for any local
// address. Neighbour discovery answers only for those of the interface.
var podGatewayIPv6 = netip.MustParseAddr("fe80::1")

// vpcAddrs are the addresses of a host number in the VPC, IPv4 first.
func (c *Cluster) vpcAddrs(host int) []netip.Addr {
	v4 := vpcIPv4.Addr().As4()
	v4[3] = byte(host)
	addrs := []netip.Addr{netip.AddrFrom4(v4)}
	if c.ipv6 {
		v6 := vpcIPv6.Addr().As16()
		v6[15] = byte(host)
		addrs = append(addrs, netip.AddrFrom16(v6))
	}
	return addrs
}

// reserve takes a name and the first free host number from first to last for a
// new member of the VPC.
func (c *Cluster) reserve(name string, first, last int) (host int, err error) {
	if !validName.MatchString(name) {
		return 0, fmt.Errorf("name %q: want %s", name, validName)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.names[name] {
		return 0, fmt.Errorf("name %q is taken in lab %s", name, c.name)
	}
	for host = first; c.hosts[host]; host++ {
	}
	if host > last {
		return 0, fmt.Errorf("%s: the address plan has no room for more than %d of its kind", name, last-first+1)
	}
	c.names[name], c.hosts[host] = true, true
	return host, nil
}

// podCIDRs are the pod networks of the node with this number (1, 2, ...).
func (c *Cluster) podCIDRs(node int) []netip.Prefix {
	v4 := podsIPv4.Addr().As4()
	v4[2] = byte(node)
	cidrs := []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4(v4), 24)}
	if c.ipv6 {
		v6 := podsIPv6.Addr().As16()
		v6[5] = byte(node)
		cidrs = append(cidrs, netip.PrefixFrom(netip.AddrFrom16(v6), 64))
	}
	return cidrs
}

// families drops the IPv6 half of an IPv4, IPv6 pair where the lab has none.
func (c *Cluster) families(v4, v6 netip.Prefix) []netip.Prefix {
	if c.ipv6 {
		return []netip.Prefix{v4, v6}
	}
	return []netip.Prefix{v4}
}

// A network is the VPC: a bridge in a namespace of its own, so that the control
// plane is a member like any other and every link can be cut from outside.
type network struct {
	ns     *Namespace
	bridge netlink.Link

	mu      sync.Mutex
	members []*member
	routes  []memberRoute
}

// A member is a namespace plugged into the bridge by its eth0.
type member struct {
	ns    *Namespace
	addrs []netip.Addr
	link  netlink.Link // eth0, in ns
	port  netlink.Link // the other end, in the bridge's namespace
}

// A memberRoute leads to what lies behind a member: a node's pods, a client's
// further addresses.
type memberRoute struct {
	dst netip.Prefix
	via *member
}

func newNetwork(ns *Namespace) (*network, error) {
	noSnooping := false // neighbour discovery is multicast and must always get through
	bridge := &netlink.Bridge{
		LinkAttrs:         netlink.LinkAttrs{Name: "vpc"},
		MulticastSnooping: &noSnooping,
	}
	if err := ns.links.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("making the bridge: %w", err)
	}
	if err := ns.links.LinkSetUp(bridge); err != nil {
		return nil, fmt.Errorf("making the bridge: %w", err)
	}
	return &network{ns: ns, bridge: bridge}, nil
}

// join plugs a namespace into the VPC and teaches it the way to all others.
func (n *network) join(ns *Namespace, name string, addrs []netip.Addr) (*member, error) {
	link, port, err := vethPair(ns, "eth0", n.ns, name)
	if err != nil {
		return nil, err
	}
	m := &member{ns: ns, addrs: addrs, link: link, port: port}
	if err := n.ns.links.LinkSetMaster(port, n.bridge); err != nil {
		return nil, fmt.Errorf("plugging in %s: %w", name, err)
	}
	for _, addr := range addrs {
		prefix := vpcIPv4
		if addr.Is6() {
			prefix = vpcIPv6
		}
		if err := addAddr(ns, link, netip.PrefixFrom(addr, prefix.Bits())); err != nil {
			return nil, err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.routes {
		if err := m.learn(r); err != nil {
			return nil, err
		}
	}
	n.members = append(n.members, m)
	return m, nil
}

// announce tells every member, present and future, that dst lies behind via.
func (n *network) announce(dst netip.Prefix, via *member) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := memberRoute{dst: dst.Masked(), via: via}
	n.routes = append(n.routes, r)
	for _, m := range n.members {
		if err := m.learn(r); err != nil {
			return err
		}
	}
	return nil
}

// setPort cuts or restores a member's link, at the bridge's end.
func (n *network) setPort(m *member, up bool) error {
	if up {
		return n.ns.links.LinkSetUp(m.port)
	}
	return n.ns.links.LinkSetDown(m.port)
}

func (m *member) learn(r memberRoute) error {
	if r.via == m {
		return nil
	}
	for i, gateway := range r.via.addrs {
		if gateway.Is4() == r.dst.Addr().Is4() {
			return addRoute(m.ns, netlink.Route{
				LinkIndex: m.link.Attrs().Index, Dst: ipNet(r.dst),
				Gw: gateway.AsSlice(), Src: m.addrs[i].AsSlice(),
			})
		}
	}
	return fmt.Errorf("no gateway of %s's family: %v", r.dst, r.via.addrs)
}

// vethPair joins two namespaces by a link that is up; the host's namespace
// never sees either end.
func vethPair(a *Namespace, aName string, b *Namespace, bName string) (aLink, bLink netlink.Link, err error) {
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: aName},
		PeerName:  bName, PeerNamespace: netlink.NsFd(b.file.Fd()),
	}
	if err := a.links.LinkAdd(pair); err != nil {
		return nil, nil, fmt.Errorf("linking %s to %s: %w", a.name, b.name, err)
	}
	if aLink, err = up(a, aName); err != nil {
		return nil, nil, err
	}
	bLink, err = up(b, bName)
	return aLink, bLink, err
}

func up(ns *Namespace, name string) (netlink.Link, error) {
	link, err := ns.links.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w", name, ns.name, err)
	}
	if err := ns.links.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("%s in %s: %w", name, ns.name, err)
	}
	return link, nil
}

func addAddr(ns *Namespace, link netlink.Link, prefix netip.Prefix) error {
	addr := &netlink.Addr{IPNet: ipNet(prefix)}
	if prefix.Addr().Is6() {
		addr.Flags = unix.IFA_F_NODAD // usable at once
	}
	if err := ns.links.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("address %s in %s: %w", prefix, ns.name, err)
	}
	return nil
}

func addRoute(ns *Namespace, route netlink.Route) error {
	if err := ns.links.RouteReplace(&route); err != nil {
		return fmt.Errorf("route to %s in %s: %w", route.Dst, ns.name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{
		IP:   p.Addr().AsSlice(),
		Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}
}
