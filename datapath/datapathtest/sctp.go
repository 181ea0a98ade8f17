package datapathtest

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The kernels at hand have no SCTP sockets, so both ends of the handshake's
// first half are made by hand over raw sockets. Checksum and tags are right,
// else conntrack would call the packets invalid and nothing would be translated.

const (
	chunkInit    = 1
	chunkInitAck = 2
)

// sctpInit returns an INIT, or the INIT ACK that answers one.
func sctpInit(source, destination uint16, verification uint32, chunk byte) []byte {
	b := make([]byte, 32)
	binary.BigEndian.PutUint16(b[0:], source)
	binary.BigEndian.PutUint16(b[2:], destination)
	binary.BigEndian.PutUint32(b[4:], verification)
	b[12] = chunk
	binary.BigEndian.PutUint16(b[14:], 20)     // chunk length
	binary.BigEndian.PutUint32(b[16:], 0xcafe) // initiate tag
	binary.BigEndian.PutUint32(b[20:], 65535)  // window
	binary.BigEndian.PutUint16(b[24:], 1)      // streams out
	binary.BigEndian.PutUint16(b[26:], 1)      // streams in
	binary.BigEndian.PutUint32(b[28:], 1)      // first TSN
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func sctpNetwork(family int) string { return "ip" + strconv.Itoa(family) + ":132" }

func listenSCTP(n *Namespace, family int, local string) (conn net.PacketConn, err error) {
	err = n.Do(func() (err error) {
		conn, err = net.ListenPacket(sctpNetwork(family), local)
		return err
	})
	return conn, err
}

// serveSCTP answers every INIT to the port.
func serveSCTP(t testing.TB, n *Namespace, family int, port uint16) {
	t.Helper()
	wildcard := map[int]string{4: "0.0.0.0", 6: "::"}[family]
	conn, err := listenSCTP(n, family, wildcard)
	if err != nil {
		t.Fatalf("listen for SCTP: %v", err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			size, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			if size < 20 || binary.BigEndian.Uint16(b[2:]) != port || b[12] != chunkInit {
				continue
			}
			tag := binary.BigEndian.Uint32(b[16:])
			_, _ = conn.WriteTo(sctpInit(port, binary.BigEndian.Uint16(b), tag, chunkInitAck), from)
		}
	}()
}

// hearErrors has reading fail when an ICMP error comes back, whichever socket of that
// protocol and those addresses the packet was sent from.
func hearErrors(conn *net.IPConn, family int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	if family == 6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	refused := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(refused, err)
}

// probeSCTP sends one INIT and waits for its INIT ACK.
func probeSCTP(n *Namespace, from, to netip.AddrPort, patience time.Duration) (verdict, error) {
	family := 6
	if from.Addr().Is4() {
		family = 4
	}
	conn, err := listenSCTP(n, family, from.Addr().String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := hearErrors(conn.(*net.IPConn), family); err != nil {
		return "", err
	}
	if _, err := conn.WriteTo(sctpInit(from.Port(), to.Port(), 0, chunkInit), &net.IPAddr{IP: to.Addr().AsSlice()}); err != nil {
		return "", err
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	b := make([]byte, 1500)
	for {
		size, _, err := conn.ReadFrom(b)
		if netErr := net.Error(nil); errors.As(err, &netErr) && netErr.Timeout() {
			return dropped, nil
		}
		if err != nil {
			return verdictOf(err)
		}
		if size >= 13 && binary.BigEndian.Uint16(b[2:]) == from.Port() && b[12] == chunkInitAck {
			return answered, nil
		}
	}
}
