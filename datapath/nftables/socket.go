package nftables

import (
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath/internal/nfattr"
)

const (
	// room for a cold load in one message; memory is taken as it is needed.
	sendBuffer    = 256 << 20
	receiveBuffer = 8 << 20
	// messageBuffer takes one piece of a listing, which the kernel makes the larger
	// the more room there is, or a message of ours that it refuses.
	messageBuffer = 128 << 10
	// answers bounds the wait for the kernel, which answers before it returns from
	// being asked.
	answers = 30 * time.Second
	// dumps bounds how often a listing that somebody's change interrupted is begun
	// anew.
	dumps = 50
)

// errInterrupted: the ruleset changed while it was listed.
var errInterrupted = errors.New("interrupted by other changes, again and again")

// socket speaks to nf_tables in the network namespace in which it was opened. It
// is the owner of our table as long as it is open.
type socket struct {
	conn *netlink.Conn
	deaf bool // the kernel can't tell who listens; see state
}

func openSocket() (*socket, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: messageBuffer})
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	err = errors.Join(conn.SetWriteBuffer(sendBuffer), conn.SetReadBuffer(receiveBuffer))
	if err == nil {
		err = conn.SetOption(netlink.ExtendedAcknowledge, true)
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("prepare netlink: %w", err)
	}
	return &socket{conn: conn}, nil
}

func (s *socket) close() { _ = s.conn.Close() }

// header is struct nfgenmsg: family, version, resource id.
func header(family byte, resource uint16) []byte {
	return []byte{family, unix.NFNETLINK_V0, byte(resource >> 8), byte(resource)}
}

const inet = unix.NFPROTO_INET

// batch is one transaction under construction, on objects of one table of the
// family inet.
type batch struct {
	table    string
	messages []netlink.Message
}

func (b *batch) add(operation int, flags netlink.HeaderFlags, fill func(a *nfattr.Builder)) {
	b.messages = append(b.messages, message(operation, flags, fill))
}

// message about objects of the family inet.
func message(operation int, flags netlink.HeaderFlags, fill func(a *nfattr.Builder)) netlink.Message {
	a := nfattr.Builder(header(inet, 0))
	fill(&a)
	return netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | operation),
			Flags: netlink.Request | flags,
		},
		Data: a,
	}
}

// batchGeneration is the attribute by which a transaction says on which generation of
// the ruleset it builds (NFNL_BATCH_GENID of linux/netfilter/nfnetlink.h).
const batchGeneration = 1

// commit makes the whole of the batch true, or nothing of it. Where a generation is
// expected and it is another, the error wraps unix.ERESTART; 0 expects none. After an
// error the socket may hold answers that nobody has read: drain it.
func (s *socket) commit(b batch, expected uint32) error {
	bounds := func(typ int) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request},
			Data:   header(unix.NFPROTO_UNSPEC, unix.NFNL_SUBSYS_NFTABLES),
		}
	}
	// One acknowledgement will do: errors come without being asked for, and first.
	b.messages[len(b.messages)-1].Header.Flags |= netlink.Acknowledge
	begin := bounds(unix.NFNL_MSG_BATCH_BEGIN)
	if expected != 0 {
		a := nfattr.Builder(begin.Data)
		a.Uint32(batchGeneration, expected)
		begin.Data = a
	}
	messages := append(append([]netlink.Message{begin}, b.messages...), bounds(unix.NFNL_MSG_BATCH_END))
	if _, err := s.conn.SendMessages(messages); err != nil {
		return fmt.Errorf("send %d changes: %w", len(b.messages), err)
	}
	if _, err := s.receive(); err != nil {
		return fmt.Errorf("commit %d changes: %w", len(b.messages), err)
	}
	return nil
}

func (s *socket) receive() ([]netlink.Message, error) {
	if err := s.conn.SetReadDeadline(time.Now().Add(answers)); err != nil {
		return nil, err
	}
	return s.conn.Receive()
}

// drain reads what a question that failed has left to be read. The kernel answers
// before it returns from being asked, or as a listing is read, so what is not there
// yet never comes.
func (s *socket) drain() error {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	buffer := make([]byte, 64<<10)
	var left error
	err = raw.Control(func(fd uintptr) {
		for left == nil || errors.Is(left, unix.EINTR) || errors.Is(left, unix.ENOBUFS) {
			_, _, left = unix.Recvfrom(int(fd), buffer, unix.MSG_DONTWAIT)
		}
	})
	if errors.Is(left, unix.EAGAIN) {
		left = nil
	}
	return errors.Join(err, left)
}

// get asks for one object and returns its attributes.
func (s *socket) get(operation int, fill func(a *nfattr.Builder)) ([]byte, error) {
	if _, err := s.conn.Send(message(operation, 0, fill)); err != nil {
		return nil, err
	}
	found, err := s.receive()
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, unix.ENOENT
	}
	return attributes(found[0]), nil
}

// dump lists objects and returns the attributes of each, as they were at one
// moment.
func (s *socket) dump(operation int, fill func(a *nfattr.Builder)) ([][]byte, error) {
	for range dumps {
		if _, err := s.conn.Send(message(operation, netlink.Dump, fill)); err != nil {
			return nil, err
		}
		found, err := s.receive()
		if err != nil {
			return nil, err
		}
		out, interrupted := make([][]byte, 0, len(found)), false
		for _, m := range found {
			interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
			if m.Header.Type != netlink.Done {
				out = append(out, attributes(m))
			}
		}
		if !interrupted {
			return out, nil
		}
	}
	return nil, errInterrupted
}

// attributes of a message, behind its struct nfgenmsg.
func attributes(m netlink.Message) []byte { return m.Data[min(len(header(0, 0)), len(m.Data)):] }

// generation counts the transactions that nf_tables has committed, of whomever.
func (s *socket) generation() (uint32, error) {
	found, err := s.get(unix.NFT_MSG_GETGEN, func(*nfattr.Builder) {})
	if err != nil {
		return 0, fmt.Errorf("ask for the generation: %w", err)
	}
	for typ, value := range nfattr.All(found) {
		if typ == unix.NFTA_GEN_ID {
			return nfattr.Uint32(value), nil
		}
	}
	return 0, errors.New("ask for the generation: no answer")
}
