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
	// Hook is "xdp", "tc", "tcx" or "openvswitch".
	Hook string
	// Program is its name, or its number where the kernel does not tell the name.
	Program string
}

func (w Way) String() string {
	if w.Hook == openVSwitch {
		return fmt.Sprintf("Open vSwitch carries the packets of %s", w.Interface)
	}
	return fmt.Sprintf("program %s on the %s hook of %s", w.Program, w.Hook, w.Interface)
}

// The hooks. managementPort is the link by which OVN-Kubernetes reaches its node: with
// it, an address on another link of Open vSwitch is a shared gateway.
const (
	hookXDP        = "xdp"
	hookTC         = "tc"
	hookTCX        = "tcx"
	openVSwitch    = "openvswitch"
	managementPort = "ovn-k8s-mp0"
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
	ways = append(ways, sharedGateways(links, holders(addresses))...)
	ways = slices.DeleteFunc(ways, func(w Way) bool { return slices.Contains(known, w.Program) })
	slices.SortFunc(ways, func(a, b Way) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.Hook, b.Hook), cmp.Compare(a.Program, b.Program))
	})
	return ways, unseen
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

// sharedGateways are links of Open vSwitch that hold an address of the node, where
// OVN-Kubernetes runs: its flows carry node ports.
func sharedGateways(links []netlink.Link, holders map[int]bool) []Way {
	if !slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Name == managementPort }) {
		return nil
	}
	var ways []Way
	for _, l := range links {
		if name := l.Attrs().Name; l.Type() == openVSwitch && name != managementPort && holders[l.Attrs().Index] {
			ways = append(ways, Way{name, openVSwitch, ""})
		}
	}
	return ways
}
