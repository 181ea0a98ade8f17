package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// knocker sends hand-made packets from a client to the node, and hears what comes to
// a namespace. It stands below the client's own TCP, whose work is no part of ours.
type knocker struct {
	socket int
	to     unix.RawSockaddrLinklayer
}

// newKnocker opens one on the client; with a false address the node's network card
// would take the packets for somebody else's.
func (r *road) newKnocker(b *testing.B, falsely bool) *knocker {
	b.Helper()
	var mac net.HardwareAddr
	r.on(b, func() error {
		link, err := net.InterfaceByName("outside")
		if err == nil {
			mac = link.HardwareAddr
		}
		return err
	})
	k := &knocker{to: unix.RawSockaddrLinklayer{Family: unix.AF_PACKET, Protocol: swap(unix.ETH_P_IP), Halen: 6}}
	copy(k.to.Addr[:], mac)
	if falsely {
		k.to.Addr[5]++
	}
	must(b, r.client.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		k.to.Ifindex = int32(link.Index)
		k.socket, err = listen()
		return err
	}))
	b.Cleanup(func() { _ = unix.Close(k.socket) })
	return k
}

// listen opens a socket that hears every IPv4 packet that comes to eth0 of the
// namespace of this thread.
func listen() (int, error) {
	link, err := net.InterfaceByName("eth0")
	if err != nil {
		return 0, err
	}
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, int(swap(unix.ETH_P_IP)))
	if err != nil {
		return 0, err
	}
	return s, unix.Bind(s, &unix.SockaddrLinklayer{Protocol: swap(unix.ETH_P_IP), Ifindex: link.Index})
}

func swap(v uint16) uint16 { return v<<8 | v>>8 }

// send sends one packet. When it returns the packet has gone all its way, and
// answers have come.
func (k *knocker) send(packet []byte) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(k.socket), uintptr(unsafe.Pointer(&packet[0])), uintptr(len(packet)), 0,
		uintptr(unsafe.Pointer(&k.to)), unsafe.Sizeof(k.to))
	if errno != 0 {
		return errno
	}
	return nil
}

// hear returns the next packet that has come, if any.
func hear(socket int, buffer []byte) ([]byte, bool) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(socket), uintptr(unsafe.Pointer(&buffer[0])), uintptr(len(buffer)), 0, 0, 0)
	return buffer[:n*uintptr(one(errno == 0))], errno == 0
}

func one(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// volley sends many packets in few calls.
func (k *knocker) volley(packets [][]byte) error {
	type message struct {
		header unix.Msghdr
		length uint32
		_      [4]byte
	}
	const most = 256
	vectors, messages := make([]unix.Iovec, most), make([]message, most)
	for len(packets) > 0 {
		n := min(most, len(packets))
		for i, p := range packets[:n] {
			vectors[i].Base = &p[0]
			vectors[i].SetLen(len(p))
			messages[i].header = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&k.to)), Namelen: uint32(unsafe.Sizeof(k.to)), Iov: &vectors[i]}
			messages[i].header.SetIovlen(1)
		}
		sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(k.socket), uintptr(unsafe.Pointer(&messages[0])), uintptr(n), 0, 0, 0)
		if errno != 0 && errno != unix.EAGAIN && errno != unix.ENOBUFS {
			return errno
		}
		packets = packets[sent:]
	}
	return nil
}

const (
	ipHeader, tcpHeader = 20, 20
	flagSYN, flagRST    = 2, 4
)

// syn is a packet that asks for a connection to the node.
func syn(source netip.AddrPort, number uint16) []byte {
	p := make([]byte, ipHeader+tcpHeader)
	p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	copy(p[12:], source.Addr().AsSlice())
	copy(p[16:], netip.MustParseAddr(nodeAddress).AsSlice())
	binary.BigEndian.PutUint16(p[10:], checksum(p[:ipHeader], 0))
	t := p[ipHeader:]
	binary.BigEndian.PutUint16(t, source.Port())
	binary.BigEndian.PutUint16(t[2:], number)
	t[12], t[13] = tcpHeader/4<<4, flagSYN
	binary.BigEndian.PutUint16(t[14:], 0xffff)
	pseudo := uint32(unix.IPPROTO_TCP + len(t))
	for i := 12; i < ipHeader; i += 2 {
		pseudo += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	binary.BigEndian.PutUint16(t[16:], checksum(t, pseudo))
	return p
}

func checksum(b []byte, sum uint32) uint16 {
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// knock sends a SYN and returns how long it took until its answer was there.
func (k *knocker) knock(source netip.AddrPort, number uint16) (time.Duration, error) {
	packet, buffer := syn(source, number), make([]byte, 128)
	for { // what came too late for its own
		if _, heard := hear(k.socket, buffer); !heard {
			break
		}
	}
	began := time.Now()
	if err := k.send(packet); err != nil {
		return 0, err
	}
	for {
		answer, heard := hear(k.socket, buffer)
		took := time.Since(began)
		switch {
		case heard && answers(answer, source.Port(), number):
			return took, nil
		case took > time.Second:
			return 0, fmt.Errorf("tcp/%d never answered %s: %w", number, source, errSilence)
		}
	}
}

var errSilence = errors.New("silence")

func answers(p []byte, to, from uint16) bool {
	return len(p) >= ipHeader+tcpHeader && p[9] == unix.IPPROTO_TCP && p[ipHeader+13]&(flagSYN|flagRST) != 0 &&
		binary.BigEndian.Uint16(p[ipHeader:]) == from && binary.BigEndian.Uint16(p[ipHeader+2:]) == to
}
