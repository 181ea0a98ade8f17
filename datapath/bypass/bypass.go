package bypass

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Way is one by which packets may come around our hook.
type Way struct {
	// Interface on which it begins.
	Interface string
	// Hook is "xdp", "tc", "tcx", "filter" or "openvswitch".
	Hook string
	// Program is its name, or its number where the kernel does not tell the name; of a tc
	// filter that is no eBPF program its kind, and of Open vSwitch the link itself.
	Program string
}

// The hooks.
const (
	hookXDP     = "xdp"
	hookTC      = "tc"
	hookTCX     = "tcx"
	hookFilter  = "filter"
	openVSwitch = "openvswitch"
)

// Find returns, in order, the ways around our hook in the network namespace of the
// calling thread, but for programs of a known name; beside an error those that it
// could see.
func Find(known []string) ([]Way, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addresses, err := h.AddrList(nil, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var ways []Way
	var unseen error
	for _, l := range facing(links, holders(addresses)) {
		found, err := on(h, l)
		ways = append(ways, found...)
		unseen = cmp.Or(unseen, err)
	}
	readers, err := packetReaders()
	if err != nil {
		unseen = cmp.Or(unseen, fmt.Errorf("list packet sockets: %w", err))
	}
	ways = append(ways, switched(links, holders(addresses), readers)...)
	ways = slices.DeleteFunc(ways, func(w Way) bool { return slices.Contains(known, w.Program) })
	slices.SortFunc(ways, func(a, b Way) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.Hook, b.Hook), cmp.Compare(a.Program, b.Program))
	})
	return slices.Compact(ways), unseen
}

// holders are the indices of links with an address by which others reach the node.
func holders(addresses []netlink.Addr) map[int]bool {
	out := map[int]bool{}
	for _, a := range addresses {
		if !a.IP.IsLoopback() && !a.IP.IsLinkLocalUnicast() { // the latter is on every link
			out[a.LinkIndex] = true
		}
	}
	return out
}

// facing returns the links by which packets come to those that hold addresses: these
// themselves, what they lie upon (the parent of a VLAN), and their slaves (those of a
// bond or a bridge), and so on.
func facing(links []netlink.Link, holders map[int]bool) []netlink.Link {
	wanted := map[int]bool{}
	for index := range holders {
		wanted[index] = true
	}
	for grown := true; grown; {
		grown = false
		for _, l := range links {
			a := l.Attrs()
			add := func(index int) {
				if !wanted[index] {
					wanted[index], grown = true, true
				}
			}
			if wanted[a.MasterIndex] && a.MasterIndex != 0 && l.Type() != "veth" {
				add(a.Index)
			}
			if wanted[a.Index] && a.ParentIndex != 0 && l.Type() != "veth" { // the other end of a veth is elsewhere
				add(a.ParentIndex)
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(links), func(l netlink.Link) bool {
		return !wanted[l.Attrs().Index] || l.Attrs().Flags&net.FlagLoopback != 0
	})
}

// on returns the programs that a packet which comes by the link meets.
func on(h *netlink.Handle, l netlink.Link) ([]Way, error) {
	a := l.Attrs()
	var ways []Way
	if a.Xdp != nil && a.Xdp.Attached {
		ways = append(ways, Way{a.Name, hookXDP, nameOf(ebpf.ProgramID(a.Xdp.ProgId))})
	}
	filters, err := h.FilterList(l, netlink.HANDLE_MIN_INGRESS)
	if err != nil && !gone(err) {
		return nil, fmt.Errorf("list filters of %s: %w", a.Name, err)
	}
	for _, f := range filters {
		if program, ok := f.(*netlink.BpfFilter); ok {
			ways = append(ways, Way{a.Name, hookTC, cmp.Or(program.Name, nameOf(ebpf.ProgramID(program.Id)))})
		} else if table, is := f.(*netlink.U32); !is || table.Sel != nil { // the table of a u32 filter does nothing itself
			ways = append(ways, Way{a.Name, hookFilter, f.Type()})
		}
	}
	attached, err := link.QueryPrograms(link.QueryOptions{Target: a.Index, Attach: ebpf.AttachTCXIngress})
	switch {
	case errors.Is(err, ebpf.ErrNotSupported), gone(err): // a kernel before 6.6 has no tcx
		return ways, nil
	case err != nil:
		return ways, fmt.Errorf("ask for the tcx programs of %s (bpf(2) takes the capability BPF, and a seccomp profile that allows it): %w", a.Name, err)
	}
	for _, program := range attached.Programs {
		ways = append(ways, Way{a.Name, hookTCX, nameOf(program.ID)})
	}
	return ways, nil
}

// gone says that the link has no such hook, or is no longer there.
func gone(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP)
}

func nameOf(id ebpf.ProgramID) string {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return fmt.Sprintf("#%d", id)
	}
	defer func() { _ = program.Close() }()
	info, err := program.Info()
	if err != nil || info.Name == "" {
		return fmt.Sprintf("#%d", id)
	}
	return info.Name
}
