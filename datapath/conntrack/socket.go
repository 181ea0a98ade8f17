package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath/internal/nfattr"
)

// socket speaks to the connection tracking of the network namespace in which it was
// opened. The netlink library takes a call for each entry that is deleted and
// allocates for each that is listed: of 100,000 that is most of the time.
type socket struct {
	fd       int
	sequence uint32
	buffer   []byte
}

const (
	headerLen = unix.SizeofNlMsghdr
	errnoLen  = 4
	// room for what the kernel puts into one piece of a listing.
	receive = 64 << 10
	// seconds bounds the wait for the kernel, which answers before it returns from
	// being asked.
	seconds = 30
)

// errInterrupted: the table changed so that the listing may lack something.
var errInterrupted = errors.New("interrupted by other changes")

func openSocket() (*socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	s := &socket{fd: fd, buffer: make([]byte, receive)}
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: seconds}),
		// Of what failed the number is enough.
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
	)
	if err != nil {
		s.close()
		return nil, fmt.Errorf("prepare netlink: %w", err)
	}
	return s, nil
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// append appends a message about the table of one family, and returns its number.
func (s *socket) append(to *nfattr.Builder, operation, flags int, family uint8, fill func(*nfattr.Builder)) uint32 {
	s.sequence++
	start := len(*to)
	native := binary.NativeEndian
	*to = native.AppendUint32(*to, 0)
	*to = native.AppendUint16(*to, uint16(unix.NFNL_SUBSYS_CTNETLINK<<8|operation))
	*to = native.AppendUint16(*to, uint16(unix.NLM_F_REQUEST|flags))
	*to = native.AppendUint32(*to, s.sequence)
	*to = native.AppendUint32(*to, 0)
	*to = append(*to, family, unix.NFNETLINK_V0, 0, 0)
	fill(to)
	native.PutUint32((*to)[start:], uint32(len(*to)-start))
	return s.sequence
}

func (s *socket) send(messages nfattr.Builder) error {
	return unix.Sendto(s.fd, messages, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// answers calls f for each message that comes, until f says that it was the last.
// What f is given is valid until it returns.
func (s *socket) answers(f func(header unix.NlMsghdr, body []byte) (last bool, err error)) error {
	native := binary.NativeEndian
	for {
		n, _, err := unix.Recvfrom(s.fd, s.buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		for rest := s.buffer[:n]; len(rest) >= headerLen; {
			h := unix.NlMsghdr{Len: native.Uint32(rest), Type: native.Uint16(rest[4:]), Flags: native.Uint16(rest[6:]), Seq: native.Uint32(rest[8:])}
			length := int(h.Len)
			if length < headerLen || length > len(rest) {
				return errors.New("a message that is cut short")
			}
			last, err := f(h, rest[headerLen:length])
			if last || err != nil {
				return err
			}
			rest = rest[min((length+3)&^3, len(rest)):]
		}
	}
}

// dump calls f for each entry of the family that the kernel lists.
func (s *socket) dump(family uint8, fill func(*nfattr.Builder), f func(message []byte)) error {
	var request nfattr.Builder
	asked := s.append(&request, nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, family, fill)
	if err := s.send(request); err != nil {
		return err
	}
	interrupted := false
	err := s.answers(func(h unix.NlMsghdr, body []byte) (bool, error) {
		if h.Seq != asked {
			return false, nil // left from an earlier question
		}
		interrupted = interrupted || h.Flags&unix.NLM_F_DUMP_INTR != 0
		switch h.Type {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			return true, problem(body)
		}
		f(body)
		return false, nil
	})
	if err == nil && interrupted {
		err = errInterrupted
	}
	return err
}

// delete deletes entries, and returns how many there were; one that has gone by
// itself meanwhile is as good.
func (s *socket) delete(flows []flow) (deleted int, err error) {
	var request nfattr.Builder
	var last uint32
	for i, f := range flows {
		flags := 0
		if i == len(flows)-1 { // errors come without being asked for
			flags = unix.NLM_F_ACK
		}
		last = s.append(&request, nl.IPCTNL_MSG_CT_DELETE, flags, f.family, f.fill)
	}
	first := last - uint32(len(flows)) + 1
	if err := s.send(request); err != nil {
		return 0, err
	}
	deleted = len(flows)
	var failed error
	err = s.answers(func(h unix.NlMsghdr, body []byte) (bool, error) {
		if h.Type != unix.NLMSG_ERROR || h.Seq-first > last-first {
			return false, nil
		}
		if err := problem(body); err != nil {
			deleted--
			if f := flows[h.Seq-first]; failed == nil && !errors.Is(err, unix.ENOENT) {
				failed = fmt.Errorf("delete conntrack entry %s -> %s %d: %w", f.source, f.destination, f.port, err)
			}
		}
		return h.Seq == last, nil
	})
	return deleted, errors.Join(failed, err)
}

// problem reads the number that ends a listing or answers a message.
func problem(body []byte) error {
	if len(body) < errnoLen {
		return nil
	}
	if number := int32(binary.NativeEndian.Uint32(body)); number < 0 {
		return unix.Errno(-number)
	}
	return nil
}
