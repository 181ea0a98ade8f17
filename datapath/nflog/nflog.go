package nflog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath"
)

// Of linux/netfilter/nfnetlink_log.h.
const (
	subsystem     = unix.NFNL_SUBSYS_ULOG
	messagePacket = 0
	messageConfig = 1

	configCommand   = 1 // attributes of a configuration
	configMode      = 2
	configThreshold = 5
	configFlags     = 6
	commandBind     = 1
	copyPacket      = 2
	flagSequence    = 1

	packetInterface = 4 // attributes of a packet
	packetPayload   = 9
	packetPrefix    = 10
	packetSequence  = 12
)

const (
	// copyRange takes in both headers, and 40 bytes of IP options or extensions.
	copyRange = 128
	// knownLinks bounds the names of interfaces that are remembered.
	knownLinks = 1000
	// room is for a burst while the reader has no turn, in bytes.
	room = 1 << 20
)

// Listener is a place in the log group; there is one in each network namespace.
type Listener struct {
	socket *nl.NetlinkSocket
	links  *netlink.Handle
	names  map[int]string // of interfaces, by index
	lost   atomic.Uint64
	next   uint32 // number of the next packet, once there was one
	begun  bool
}

// Listen takes the place and calls deliver for each packet, until the context ends,
// when it returns nil. It works in the network namespace of the calling thread.
func Listen(ctx context.Context, deliver func(datapath.Packet)) error {
	l, err := Open()
	if err != nil {
		return err
	}
	return l.Run(ctx, deliver)
}

// Open takes the place in the network namespace of the calling thread; from now on
// the kernel keeps packets for it. An error wraps unix.EBUSY when somebody else has
// it, and datapath.ErrUnsupported when the kernel has no such log.
func Open() (*Listener, error) {
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	l := &Listener{socket: socket, links: links, names: map[int]string{}}
	if err := l.bind(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Lost counts the packets that were logged and not delivered; it may be called
// at any time.
func (l *Listener) Lost() uint64 { return l.lost.Load() }

// Close gives the place up. Run does so itself when it returns.
func (l *Listener) Close() {
	l.socket.Close()
	l.links.Close()
}

// Run calls deliver for each packet, until the context ends, when it returns nil,
// or the socket fails.
func (l *Listener) Run(ctx context.Context, deliver func(datapath.Packet)) error {
	stop := context.AfterFunc(ctx, l.socket.Close) // wakes the reader
	defer l.Close()
	defer stop()
	for {
		messages, from, err := l.socket.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			continue // the numbers of the packets will show how many were lost
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue
		case err != nil:
			return fmt.Errorf("read log group %d: %w", datapath.LogGroup, err)
		case from.Pid != 0:
			continue // not from the kernel
		}
		for _, m := range messages {
			if m.Header.Type == subsystem<<8|messagePacket {
				l.deliver(read(m.Data), deliver)
			}
		}
	}
}

func (l *Listener) deliver(m message, deliver func(datapath.Packet)) {
	if m.numbered {
		l.counted(m.number)
	}
	if !m.ok {
		l.lost.Add(1)
		return
	}
	m.packet.Interface = l.name(m.link)
	deliver(m.packet)
}

// bind asks the kernel for the group's packets, one by one as they come.
func (l *Listener) bind() error {
	// The kernel acknowledges what is within these, or there is nobody to read.
	if err := l.socket.SetReceiveBufferSize(room, true); err != nil {
		return fmt.Errorf("make room for log packets: %w", err)
	}
	mode := append(binary.BigEndian.AppendUint32(nil, copyRange), copyPacket, 0)
	for _, attribute := range []*nl.RtAttr{
		nl.NewRtAttr(configCommand, []byte{commandBind}),
		nl.NewRtAttr(configMode, mode),
		nl.NewRtAttr(configThreshold, binary.BigEndian.AppendUint32(nil, 1)),
		nl.NewRtAttr(configFlags, binary.BigEndian.AppendUint16(nil, flagSequence)),
	} {
		req := nl.NewNetlinkRequest(subsystem<<8|messageConfig, unix.NLM_F_ACK)
		req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: l.socket}}
		req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0, ResId: nl.Swap16(datapath.LogGroup)})
		req.AddData(attribute)
		_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
		switch {
		case errors.Is(err, unix.EBUSY):
			return fmt.Errorf("log group %d is somebody else's (is a second agent running?): %w", datapath.LogGroup, err)
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
			return fmt.Errorf("the kernel has no log for netlink (module nfnetlink_log): %w: %w", err, datapath.ErrUnsupported)
		case err != nil:
			return fmt.Errorf("bind log group %d: %w", datapath.LogGroup, err)
		}
	}
	return nil
}

// name returns the name of an interface; "" for one that is gone already. Names are
// remembered: a link that is renamed keeps its old one here until it is made anew.
func (l *Listener) name(index int) string {
	if index == 0 {
		return ""
	}
	if name, known := l.names[index]; known {
		return name
	}
	link, err := l.links.LinkByIndex(index)
	if err != nil {
		return ""
	}
	if len(l.names) >= knownLinks { // pods come and go, and each has one
		clear(l.names)
	}
	l.names[index] = link.Attrs().Name
	return l.names[index]
}
