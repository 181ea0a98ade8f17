package lab

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Client is a machine beside the cluster that sends traffic.
type Client struct {
	*Namespace
	Name string
	// Addrs are its addresses in the VPC, IPv4 first.
	Addrs []netip.Addr
}

// AddClient adds a client that owns, beside its VPC addresses, every address of
// the given prefixes: it can send from any of them ([Flow].From), and all
// members of the VPC route them to it. In an IPv4-only lab, IPv6 prefixes are
// left out.
func (c *Cluster) AddClient(name string, prefixes ...netip.Prefix) (*Client, error) {
	host, err := c.reserve(name, firstClientHost, lastClientHost)
	if err != nil {
		return nil, err
	}
	client := &Client{Name: name, Addrs: c.vpcAddrs(host)}
	if client.Namespace, err = c.newNamespace(name); err != nil {
		return nil, err
	}
	m, err := c.vpc.join(client.Namespace, name, client.Addrs)
	if err != nil {
		return nil, err
	}
	lo, err := client.links.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	for _, prefix := range prefixes {
		if prefix.Addr().Is6() && !c.ipv6 {
			continue
		}
		// A local route makes all of the prefix the client's own, whatever its size.
		local := netlink.Route{
			LinkIndex: lo.Attrs().Index, Dst: ipNet(prefix.Masked()),
			Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
		}
		if err := addRoute(client.Namespace, local); err != nil {
			return nil, err
		}
		if err := c.vpc.announce(prefix, m); err != nil {
			return nil, err
		}
	}
	return client, nil
}
