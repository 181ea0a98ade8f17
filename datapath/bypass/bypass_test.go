package bypass

import (
	"net"
	"runtime"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inNamespace runs a test in a network namespace of its own, with a veth that holds
// an address and a bridge that does not.
func inNamespace(t *testing.T, test func(outside, other netlink.Link)) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("make a network namespace (run as root): %v", err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "outside"
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}))
	attrs = netlink.NewLinkAttrs()
	attrs.Name = "other"
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	outside, err := netlink.LinkByName("outside")
	must(t, err)
	other, err := netlink.LinkByName("other")
	must(t, err)
	must(t, netlink.AddrAdd(outside, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 0, 0, 1), Mask: net.CIDRMask(24, 32)}}))
	for _, l := range []netlink.Link{outside, other} {
		must(t, netlink.LinkSetUp(l))
	}
	test(outside, other)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pass is a program that lets everything go on.
func pass(t *testing.T, typ ebpf.ProgramType, name string, verdict int32) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: typ, License: "MIT", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()}})
	must(t, err)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func expect(t *testing.T, known []string, want ...string) {
	t.Helper()
	ways, err := Find(known)
	must(t, err)
	var got []string
	for _, w := range ways {
		got = append(got, w.Interface+" "+w.Hook+" "+w.Program)
	}
	if !slices.Equal(got, want) {
		t.Errorf("found %q, want %q", got, want)
	}
}

// Programs are found on every hook ahead of ours, on links by which packets to the
// node come and on no others, and are gone when they go.
func TestProgramsAreFound(t *testing.T) {
	inNamespace(t, func(outside, other netlink.Link) {
		expect(t, nil)

		xdp, err := link.AttachXDP(link.XDPOptions{Program: pass(t, ebpf.XDP, "carry_xdp", 2), Interface: outside.Attrs().Index})
		must(t, err)
		tcx, err := link.AttachTCX(link.TCXOptions{Program: pass(t, ebpf.SchedCLS, "carry_tcx", -1), Attach: ebpf.AttachTCXIngress, Interface: outside.Attrs().Index})
		must(t, err)
		for _, l := range []netlink.Link{outside, other} {
			must(t, netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}))
			must(t, netlink.FilterAdd(&netlink.BpfFilter{
				FilterAttrs: netlink.FilterAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
				Fd:          pass(t, ebpf.SchedCLS, "carry_tc", -1).FD(), Name: "carry_tc", DirectAction: true,
			}))
		}
		expect(t, nil,
			"outside tc carry_tc", "outside tcx carry_tcx", "outside xdp carry_xdp")
		expect(t, []string{"carry_tc", "carry_xdp"}, "outside tcx carry_tcx")

		// a slave of a link that holds an address
		must(t, netlink.AddrAdd(other, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 1, 0, 1), Mask: net.CIDRMask(24, 32)}}))
		expect(t, []string{"carry_tcx", "carry_xdp"}, "other tc carry_tc", "outside tc carry_tc")

		// a filter that is no program of eBPF, and sends packets elsewhere
		u32 := &netlink.U32{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: outside.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 2, Protocol: unix.ETH_P_IP},
			Actions:     []netlink.Action{netlink.NewMirredAction(other.Attrs().Index)},
		}
		must(t, netlink.FilterAdd(u32))
		expect(t, []string{"carry_tc", "carry_tcx", "carry_xdp"}, "outside filter u32")
		expect(t, []string{"carry_tc", "carry_tcx", "carry_xdp", "u32"})
		must(t, netlink.FilterDel(u32))

		must(t, xdp.Close())
		must(t, tcx.Close())
		expect(t, []string{"carry_tc"})
	})
}

func TestOpenVSwitchThatHasThePacketsOfTheNode(t *testing.T) {
	typed := func(typ string, index, master int, name string) netlink.Link {
		return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index, MasterIndex: master, Name: name}, LinkType: typ}
	}
	ovs := func(index int, name string) netlink.Link { return typed(openVSwitch, index, 0, name) }
	eth := typed("device", 1, 0, "eth0")
	system, user := ovs(9, kernelDatapath), typed("tuntap", 9, 0, userDatapath)
	for _, c := range []struct {
		sentence string
		links    []netlink.Link
		readers  map[int]bool
		want     []Way
	}{
		{"the node's address is on a bridge of OVN-Kubernetes", []netlink.Link{eth, ovs(2, "br-ex"), ovs(3, managementPort)}, nil, []Way{{"br-ex", openVSwitch, "br-ex"}}},
		{"only its management port has one", []netlink.Link{eth, ovs(3, managementPort), ovs(4, "br-int")}, nil, nil},
		{"a bridge that leads to pods and tunnels, as Kube-OVN's or Antrea's", []netlink.Link{eth, system, ovs(2, "ovn0"), typed("veth", 4, 9, "pod"), typed("geneve", 5, 9, "genev_sys_6081"), typed(openVSwitch, 6, 9, "br-int")}, nil, nil},
		{"the uplink is a port of a bridge, the address on another", []netlink.Link{typed("device", 4, 9, "eth0"), system, ovs(2, "br-provider")}, nil, []Way{{"br-provider", openVSwitch, "br-provider"}}},
		{"a bond is", []netlink.Link{typed("bond", 4, 9, "bond0"), system, ovs(2, "br0")}, nil, []Way{{"br0", openVSwitch, "br0"}}},
		{"a tap holds the address and Open vSwitch runs in user space", []netlink.Link{user, typed("tuntap", 2, 0, "br0")}, nil, []Way{{"br0", openVSwitch, "br0"}}},
		{"Open vSwitch in user space reads the link that holds the address", []netlink.Link{user, eth}, map[int]bool{1: true}, []Way{{"eth0", openVSwitch, "eth0"}}},
		{"somebody else's tap", []netlink.Link{eth, typed("tuntap", 2, 0, "tap0")}, nil, nil},
		{"somebody else reads the link", []netlink.Link{eth}, map[int]bool{1: true}, nil},
	} {
		holds := map[int]bool{1: true, 2: true, 3: true}
		if got := switched(c.links, holds, c.readers); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.sentence, got, c.want)
		}
	}
}

func TestPacketSocketsThatReadEverything(t *testing.T) {
	readers, err := parseReaders("sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n" +
		"ffff9c1a8b6f5000 3      3    0003   4     1 0      0      31337\nffff9c1a8b6f5800 3      2    88cc   5     1 0      0      31338\n")
	if err != nil || len(readers) != 1 || !readers[4] {
		t.Errorf("%v, %v, want interface 4 only", readers, err)
	}
	if _, err := parseReaders("sk RefCnt\nf 3 3 0003 x 1 0 0 1"); err == nil {
		t.Error("an interface x was read")
	}
}

// Packets to an address on a VLAN of a bond come by the slaves of the bond.
func TestWhatFacesAnAddress(t *testing.T) {
	link := func(index, master, parent int, name string) netlink.Link {
		return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index, MasterIndex: master, ParentIndex: parent, Name: name}}
	}
	links := []netlink.Link{
		&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1, Name: "lo", Flags: net.FlagLoopback}},
		link(2, 4, 0, "eth0"), link(3, 4, 0, "eth1"), link(4, 0, 0, "bond0"), link(5, 0, 4, "bond0.7"), link(6, 0, 0, "eth2"),
		&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Index: 7, MasterIndex: 4, ParentIndex: 9, Name: "pod"}},
	}
	var got []string
	for _, l := range facing(links, map[int]bool{1: true, 5: true}) {
		got = append(got, l.Attrs().Name)
	}
	if want := []string{"eth0", "eth1", "bond0", "bond0.7"}; !slices.Equal(got, want) {
		t.Errorf("facing: %v, want %v", got, want)
	}
}
