package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// dumps bounds how often a dump that the kernel calls inconsistent is repeated.
const dumps = 3

// Sweep deletes the connections to this node, on the given port numbers, whose
// source want does not admit, and returns how many there were. Call it after the
// datapath enforces want: then no new one can come up behind it. A gate that has
// ended by the clock of this machine admits nobody. It works in the
// network namespace of the calling thread and may be called again after an
// error.
func Sweep(ctx context.Context, numbers rule.PortRanges, want rule.Set) (int, error) {
	if numbers = numbers.Intersect(want.Judged); len(numbers) == 0 {
		return 0, nil
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	addresses, err := datapath.ReadAddresses(h)
	if err != nil {
		return 0, err
	}
	socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, fmt.Errorf("open netlink: %w", err)
	}
	defer socket.Close()
	sockets := map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: socket}}

	now, swept := time.Now().Unix(), 0
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		victims, err := find(sockets, family, func(f flow) bool { return lost(f, addresses.Node, numbers, want, now) })
		if err != nil {
			return swept, err
		}
		for _, f := range victims {
			if err := ctx.Err(); err != nil {
				return swept, err
			}
			// One that has gone by itself meanwhile is as good.
			if err := f.remove(sockets, family); err != nil && !errors.Is(err, unix.ENOENT) {
				return swept, fmt.Errorf("delete conntrack entry %s -> %s %d: %w", f.source, f.destination, f.port, err)
			}
			swept++
		}
	}
	return swept, nil
}

// lost says whether the flow may no longer be. The node's own addresses as
// source mean lo, which is never judged.
func lost(f flow, node map[netip.Addr]bool, numbers rule.PortRanges, want rule.Set, now int64) bool {
	if f.protocol == "" || !numbers.Contains(f.port) || !node[f.destination] || node[f.source] {
		return false
	}
	if len(want.Addresses) > 0 && !rule.Covers(want.Addresses, netip.PrefixFrom(f.destination, f.destination.BitLen())) {
		return false
	}
	port := rule.Port{Protocol: f.protocol, Number: f.port}
	end := want.Ports[port].Expires
	return end != 0 && end <= now || !want.Admits(port, f.source)
}

// find dumps the table of one family and keeps what matches.
func find(sockets map[int]*nl.SocketHandle, family uint8, match func(flow) bool) ([]flow, error) {
	for attempt := 1; ; attempt++ {
		var found []flow
		req := request(sockets, family, nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
		err := req.ExecuteIter(unix.NETLINK_NETFILTER, 0, func(message []byte) bool {
			if f := parse(message); match(f) {
				found = append(found, f.owned())
			}
			return true
		})
		if errors.Is(err, netlink.ErrDumpInterrupted) && attempt < dumps {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list conntrack table: %w", err)
		}
		return found, nil
	}
}

func (f flow) remove(sockets map[int]*nl.SocketHandle, family uint8) error {
	req := request(sockets, family, nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
	for _, a := range f.key {
		req.AddData(nl.NewRtAttr(int(a.typ), a.value))
	}
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	return err
}

func request(sockets map[int]*nl.SocketHandle, family uint8, operation, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(netlink.ConntrackTable<<8|operation, flags)
	req.Sockets = sockets
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	return req
}
