package lab

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netnsRoot is where ip(8) keeps named network namespaces.
const netnsRoot = "/run/netns"

// Namespace is one network namespace of a lab: the control plane, a node, a
// pod or a client. It is safe for concurrent use until the lab is closed.
type Namespace struct {
	name  string
	file  *os.File
	links *netlink.Handle
	once  sync.Once
}

// newNamespace makes the namespace <lab>-<suffix> with loopback up, and with
// every setting that Linux would copy from the host's namespace pinned.
func (c *Cluster) newNamespace(suffix string) (*Namespace, error) {
	name := c.name + "-" + suffix
	leave, err := c.enter()
	if err != nil {
		return nil, fmt.Errorf("making namespace %s: %w", name, err)
	}
	defer leave()
	if err := c.journal.add(record{Namespace: name}); err != nil {
		return nil, err
	}
	// By ip(8), not by hand: it keeps /run/netns a shared mount point, without
	// which other tools' namespaces there could not be removed any more.
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("ip netns add %s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	file, err := os.Open(filepath.Join(netnsRoot, name))
	if err != nil {
		return nil, err
	}
	ns := &Namespace{name: name, file: file}
	if ns.links, err = netlink.NewHandleAt(netns.NsHandle(file.Fd()), unix.NETLINK_ROUTE); err != nil {
		return nil, fmt.Errorf("netlink in %s: %w", name, err)
	}
	if err := ns.setSysctls(quiet...); err != nil {
		return nil, err
	}
	lo, err := ns.links.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	return ns, ns.links.LinkSetUp(lo)
}

// remove deletes the namespace. Sockets and processes in it keep it alive,
// nameless, until they end.
func (ns *Namespace) remove() error {
	ns.release()
	return deleteNamespace(ns.name)
}

func (ns *Namespace) release() {
	ns.once.Do(func() {
		ns.links.Close()
		ns.file.Close()
	})
}

// NetNS is the name by which ip(8) knows the namespace.
func (ns *Namespace) NetNS() string { return ns.name }

// Do calls fn on a thread that is in the namespace, and returns its error.
// Sockets that fn makes stay in the namespace for good; goroutines that it
// starts are not in it. fn must not call testing.T's FailNow.
func (ns *Namespace) Do(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		result <- onThreadIn(ns, fn)
		runtime.UnlockOSThread()
	}()
	return <-result
}

// onThreadIn calls fn with the calling thread, which must be locked, in the
// namespace, and takes the thread back to where it was. It panics where that
// fails: a thread left in the wrong namespace must never serve anybody else.
func onThreadIn(ns *Namespace, fn func() error) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering %s: %w", ns.name, err)
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(fmt.Errorf("leaving %s: %w", ns.name, err))
		}
	}()
	return fn()
}

// DialContext connects from within the namespace. The address must be numeric:
// a namespace has no resolver. Its signature fits [net/http.Transport] and
// [k8s.io/client-go/rest.Config].
func (ns *Namespace) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return ns.dial(ctx, net.Dialer{}, network, address)
}

func (ns *Namespace) dial(ctx context.Context, dialer net.Dialer, network, address string) (conn net.Conn, err error) {
	err = ns.Do(func() (err error) {
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens within the namespace, for stream networks.
func (ns *Namespace) Listen(network, address string) (l net.Listener, err error) {
	err = ns.Do(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

// ListenPacket listens within the namespace, for packet networks.
func (ns *Namespace) ListenPacket(network, address string) (c net.PacketConn, err error) {
	err = ns.Do(func() (err error) {
		c, err = net.ListenPacket(network, address)
		return err
	})
	return c, err
}

// Output runs a command in the namespace to its end and returns what it
// printed on both streams; on failure the error holds that too.
func (ns *Namespace) Output(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := ns.Do(cmd.Start); err != nil {
		return "", fmt.Errorf("%s: %w", argv[0], err)
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%v in %s: %w: %s", argv, ns.name, err, bytes.TrimSpace(out.Bytes()))
	}
	return out.String(), nil
}

type sysctl struct{ key, value string }

// quiet pins what a new namespace would copy from the host (all of IPv4's
// per-interface settings) or what would delay or disturb a lab.
var quiet = []sysctl{
	{"net/ipv4/ip_forward", "0"},
	{"net/ipv4/conf/all/rp_filter", "0"},
	{"net/ipv4/conf/default/rp_filter", "0"},
	{"net/ipv4/conf/all/send_redirects", "0"}, // a node port on another node's pod goes out where it came in
	{"net/ipv4/conf/default/send_redirects", "0"},
	{"net/ipv4/conf/all/accept_redirects", "0"},
	{"net/ipv4/conf/all/arp_ignore", "0"}, // pods ask for their node's VPC address
	{"net/ipv4/conf/default/arp_ignore", "0"},
	{"net/ipv4/conf/all/route_localnet", "0"},
	{"net/ipv4/conf/default/route_localnet", "0"},
	{"net/ipv4/ip_nonlocal_bind", "1"}, // clients own prefixes, not addresses
	{"net/ipv6/ip_nonlocal_bind", "1"},
	{"net/ipv6/conf/all/disable_ipv6", "0"},
	{"net/ipv6/conf/default/disable_ipv6", "0"},
	{"net/ipv6/conf/all/accept_dad", "0"}, // addresses are ours alone: no second of waiting
	{"net/ipv6/conf/default/accept_dad", "0"},
	{"net/ipv6/conf/default/accept_ra", "0"},
	{"net/bridge/bridge-nf-call-iptables", "0"},
	{"net/bridge/bridge-nf-call-ip6tables", "0"},
}

// setSysctls sets what exists: a kernel without IPv6 or br_netfilter lacks some.
func (ns *Namespace) setSysctls(settings ...sysctl) error {
	return ns.Do(func() error {
		for _, s := range settings {
			// /proc/sys/net shows the namespace of the thread that opens it.
			err := os.WriteFile("/proc/sys/"+s.key, []byte(s.value), 0)
			if err != nil && !os.IsNotExist(err) {
				return fmt.Errorf("in %s: %w", ns.name, err)
			}
		}
		return nil
	})
}
