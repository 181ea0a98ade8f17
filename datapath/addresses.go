package datapath

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// VirtualLink is the dummy link on which kube-proxy's IPVS mode puts the
// addresses of Services. The kernel calls them local, but they are not the
// node's: a ClusterIP Service on port 30080 must not be judged as node port 30080.
const VirtualLink = "kube-ipvs0"

// interruptions bounds how often a listing that changes interrupt is begun anew.
const interruptions = 5

// Addresses are what the kernel of a node takes as its own.
type Addresses struct {
	// Node are the node's own: on any link, loopback ranges left out. One that
	// VirtualLink holds as well (an externalIP equal to the node's) is the
	// node's, else anyone who may write a Service could ungate the node.
	Node map[netip.Addr]bool
	// Virtual are held by VirtualLink and by no other link.
	Virtual map[netip.Addr]bool
}

// ReadAddresses reads the addresses of the network namespace of the handle.
func ReadAddresses(h *netlink.Handle) (Addresses, error) {
	virtual, err := virtualLink(h)
	if err != nil {
		return Addresses{}, err
	}
	return readAddresses(h, virtual)
}

// ReadVirtual reads the Virtual ones of the Addresses. Where there is no VirtualLink,
// which is nearly everywhere, that is one question, however many addresses there are.
func ReadVirtual(h *netlink.Handle) (map[netip.Addr]bool, error) {
	virtual, err := virtualLink(h)
	if err != nil || virtual == nil {
		return nil, err
	}
	all, err := readAddresses(h, virtual)
	return all.Virtual, err
}

// virtualLink returns VirtualLink, nil if there is none.
func virtualLink(h *netlink.Handle) (netlink.Link, error) {
	link, err := h.LinkByName(VirtualLink)
	if notFound := (netlink.LinkNotFoundError{}); errors.As(err, &notFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for link %s: %w", VirtualLink, err)
	}
	return link, nil
}

func readAddresses(h *netlink.Handle, virtual netlink.Link) (Addresses, error) {
	list, err := h.AddrList(nil, unix.AF_UNSPEC)
	for range interruptions { // pods come and go meanwhile
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
		list, err = h.AddrList(nil, unix.AF_UNSPEC)
	}
	if err != nil {
		return Addresses{}, fmt.Errorf("list addresses: %w", err)
	}
	out := Addresses{Node: map[netip.Addr]bool{}, Virtual: map[netip.Addr]bool{}}
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP)
		if addr = addr.Unmap(); !ok || addr.IsLoopback() {
			continue
		}
		if virtual != nil && a.LinkIndex == virtual.Attrs().Index {
			out.Virtual[addr] = true
		} else {
			out.Node[addr] = true
		}
	}
	for addr := range out.Node {
		delete(out.Virtual, addr)
	}
	return out, nil
}
