package host

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/internal/rule"
)

// Listener is something of the node itself that others reach on a port.
type Listener struct {
	Port rule.Port
	// What it is, for people: "a listener on 10.0.0.1".
	What string
}

// Listeners returns what listens on an address that is not loopback: TCP and SCTP
// sockets that listen, UDP sockets that are bound and not connected, and ports
// that a CNI plugin forwards to a pod (hostPort). In canonical order, one for each
// port.
func (h Host) Listeners() ([]Listener, error) {
	var found []Listener
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, kind := range []struct {
			name     rule.Protocol
			protocol uint8
			states   uint32
		}{
			{rule.TCP, unix.IPPROTO_TCP, 1 << netlink.TCP_LISTEN},
			{rule.UDP, unix.IPPROTO_UDP, 1 << netlink.TCP_CLOSE}, // unconnected
		} {
			sockets, err := diagnose(family, kind.protocol, kind.states)
			if err != nil {
				return nil, fmt.Errorf("list the node's %s sockets: %w", kind.name, err)
			}
			for _, s := range sockets {
				found = append(found, Listener{rule.Port{Protocol: kind.name, Number: s.Port()}, listening(s.Addr())})
			}
		}
	}
	// Of the thread: a process may have threads in more than one namespace.
	sctp, err := os.Open("/proc/thread-self/net/sctp/eps")
	if err == nil {
		defer func() { _ = sctp.Close() }()
		endpoints, err := parseSCTP(sctp)
		if err != nil {
			return nil, fmt.Errorf("list the node's SCTP sockets: %w", err)
		}
		found = append(found, endpoints...)
	} else if !errors.Is(err, fs.ErrNotExist) { // a kernel without SCTP has none
		return nil, err
	}
	return tidy(append(found, hostPorts()...)), nil
}

func listening(on netip.Addr) string { return "a listener of the node on " + on.String() }

// tidy returns one listener for each port, the first that was found, in order.
func tidy(found []Listener) []Listener {
	slices.SortStableFunc(found, func(a, b Listener) int { return rule.ComparePorts(a.Port, b.Port) })
	return slices.CompactFunc(found, func(a, b Listener) bool { return a.Port == b.Port })
}

// request is struct inet_diag_req_v2 for all sockets in some states. (That of the
// netlink package asks for all states: for each connection of a busy node.)
type request struct {
	family, protocol uint8
	states           uint32
}

const (
	sizeofRequest = 56
	sizeofSocket  = 72 // struct inet_diag_msg
)

func (r request) Len() int { return sizeofRequest }

func (r request) Serialize() []byte {
	b := make([]byte, sizeofRequest)
	b[0], b[1] = r.family, r.protocol
	binary.NativeEndian.PutUint32(b[4:], r.states)
	return b
}

// diagnose returns where the sockets are bound that are not bound to loopback.
func diagnose(family, protocol uint8, states uint32) ([]netip.AddrPort, error) {
	r := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	r.AddData(request{family, protocol, states})
	messages, err := r.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	for tries := 1; errors.Is(err, netlink.ErrDumpInterrupted) && tries < 5; tries++ { // a socket may be lacking
		messages, err = r.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	}
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	for _, m := range messages {
		bound, err := parseSocket(m)
		if err != nil {
			return nil, err
		}
		if !bound.Addr().IsLoopback() && bound.Port() != 0 {
			out = append(out, bound)
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out, nil
}

// parseSocket reads where the socket of a struct inet_diag_msg is bound.
func parseSocket(m []byte) (netip.AddrPort, error) {
	if len(m) < sizeofSocket {
		return netip.AddrPort{}, fmt.Errorf("the kernel describes a socket in %d bytes, fewer than %d", len(m), sizeofSocket)
	}
	address := m[8:24]
	if m[0] == unix.AF_INET {
		address = address[:4]
	}
	a, _ := netip.AddrFromSlice(address)
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(m[4:])), nil
}

// sctpListening is the state of a socket in /proc/net/sctp/eps that listens.
const sctpListening = "10"

// parseSCTP reads /proc/net/sctp/eps:
//
//	ENDPT     SOCK   STY SST HBKT LPORT   UID INODE LADDRS
//	ffff88... ffff.. 2   10  29   30050     0 41325 10.0.0.1 2001:db8::1
func parseSCTP(from io.Reader) ([]Listener, error) {
	var out []Listener
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 9 || f[3] != sctpListening {
			continue
		}
		number, err := strconv.ParseUint(f[5], 10, 16)
		if err != nil {
			return nil, fmt.Errorf("/proc/net/sctp/eps: %q is no port number", f[5])
		}
		for _, s := range f[8:] {
			if a, err := netip.ParseAddr(s); err == nil && !a.Unmap().IsLoopback() {
				out = append(out, Listener{rule.Port{Protocol: rule.SCTP, Number: uint16(number)}, listening(a)})
			}
		}
	}
	return out, lines.Err()
}
