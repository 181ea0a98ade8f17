package datapathtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace without a name.
type Namespace struct {
	handle netns.NsHandle
}

// NewNamespace makes a namespace with lo up. It needs root.
func NewNamespace(t testing.TB) *Namespace {
	t.Helper()
	var handle netns.NsHandle
	err := onThread(func() (err error) {
		handle, err = netns.New()
		return err
	})
	if err != nil {
		t.Fatalf("make a network namespace (run as root): %v", err)
	}
	t.Cleanup(func() { _ = handle.Close() })
	n := &Namespace{handle}
	if hasIPv6 {
		// Duplicate address detection would keep a fresh link silent for a second.
		n.Sysctl(t, "net.ipv6.conf.default.accept_dad", "0")
		n.Sysctl(t, "net.ipv6.conf.default.dad_transmits", "0")
	}
	n.must(t, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return n
}

// Do runs f on a thread inside the namespace. Sockets that f opens stay in the
// namespace, processes that it starts run in it.
func (n *Namespace) Do(f func() error) error {
	return onThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("enter namespace: %w", err)
		}
		return f()
	})
}

// onThread runs f on a thread that nothing else uses and that ends with it, so
// that its namespace never leaks into another goroutine.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here
		done <- f()
	}()
	return <-done
}

func (n *Namespace) must(t testing.TB, f func() error) {
	t.Helper()
	if err := n.Do(f); err != nil {
		t.Fatal(err)
	}
}

// Command runs a program in the namespace and returns what it printed.
func (n *Namespace) Command(t testing.TB, stdin string, argv ...string) string {
	t.Helper()
	var out, problems bytes.Buffer
	n.must(t, func() error {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &problems
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, problems.String())
		}
		return nil
	})
	return out.String()
}

// Sysctl sets a kernel parameter of the namespace.
func (n *Namespace) Sysctl(t testing.TB, key, value string) {
	t.Helper()
	n.must(t, func() error {
		return os.WriteFile("/proc/sys/"+strings.ReplaceAll(key, ".", "/"), []byte(value), 0o644)
	})
}

// Join lays a cable between two namespaces and gives each end its addresses.
func Join(t testing.TB, a *Namespace, aName string, aAddrs []string, b *Namespace, bName string, bAddrs []string) {
	t.Helper()
	a.must(t, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = aName
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: bName, PeerNamespace: netlink.NsFd(b.handle)})
	})
	a.address(t, aName, aAddrs...)
	b.address(t, bName, bAddrs...)
}

// address sets a link up and adds addresses to it, usable at once.
func (n *Namespace) address(t testing.TB, link string, addrs ...string) {
	t.Helper()
	n.must(t, func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		for _, s := range addrs {
			addr, err := netlink.ParseAddr(s)
			if err != nil {
				return err
			}
			if addr.IP.To4() == nil {
				if !hasIPv6 {
					continue
				}
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(l, addr); err != nil {
				return fmt.Errorf("add %s to %s: %w", s, link, err)
			}
		}
		return netlink.LinkSetUp(l)
	})
}

// Route leads a network by way of a neighbour.
func (n *Namespace) Route(t testing.TB, to, via string) {
	t.Helper()
	n.must(t, func() error {
		dst, err := netlink.ParseIPNet(to)
		if err != nil {
			return err
		}
		gw, err := netlink.ParseAddr(via + hostLength(via))
		if err != nil {
			return err
		}
		if gw.IP.To4() == nil && !hasIPv6 {
			return nil
		}
		return netlink.RouteAdd(&netlink.Route{Dst: dst, Gw: gw.IP})
	})
}

func hostLength(addr string) string {
	if strings.Contains(addr, ":") {
		return "/128"
	}
	return "/32"
}

// hasIPv6 is false when this kernel has no IPv6 or it is switched off.
var hasIPv6 = func() bool {
	_, err := os.Stat("/proc/net/if_inet6")
	return err == nil
}()
