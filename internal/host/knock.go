package host

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// knockTimeout is how long a connection may take: it is to a process of the cluster.
const knockTimeout = time.Second

// scarce are errors of the node itself: they say nothing of whom is knocked at.
var scarce = []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EAGAIN}

// Knock connects by TCP and closes at once, without a word. It says whether somebody
// accepted; an error says that the node could not even ask.
func Knock(ctx context.Context, to netip.AddrPort) (answered bool, err error) {
	d := net.Dialer{Timeout: knockTimeout, KeepAlive: -1}
	c, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		for _, s := range scarce {
			if errors.Is(err, s) {
				return false, err
			}
		}
		return false, nil
	}
	// A connection to a number of the node's own ephemeral range, on which nobody listens,
	// can meet itself.
	itself := c.LocalAddr().String() == c.RemoteAddr().String()
	return !itself, c.Close()
}

// Local returns those of the addresses that are on an interface.
func Local(addresses []netip.Addr) (out []netip.Addr, err error) {
	here, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	on := map[netip.Addr]bool{}
	for _, a := range here {
		if network, err := netip.ParsePrefix(a.String()); err == nil {
			on[network.Addr().Unmap()] = true
		}
	}
	for _, a := range addresses {
		if on[a] {
			out = append(out, a)
		}
	}
	return out, nil
}
