package e2e

import (
	"encoding/binary"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/lab"
)

// hijackName is that of the programs that hijack a port.
const hijackName = "hijack"

// Where a TCP packet over IPv4, without options, has its fields.
const (
	offsetProtocol    = 14 + 9
	offsetIPChecksum  = 14 + 10
	offsetSource      = 14 + 12
	offsetDestination = 14 + 16
	offsetSourcePort  = 14 + 20
	offsetPort        = 14 + 20 + 2
	offsetChecksum    = 14 + 20 + 16
)

// hijack has tc programs on the node's link carry TCP packets for one end to another, and
// the answers back, as an eBPF load balancer does. It returns what ends that.
func (s *scene) hijack(node *lab.Node, from, to netip.AddrPort) (release func()) {
	s.Helper()
	in, err := ebpf.NewProgram(translate(offsetDestination, offsetPort, from, to))
	if err != nil {
		s.Fatal(err)
	}
	out, err := ebpf.NewProgram(translate(offsetSource, offsetSourcePort, to, from))
	if err != nil {
		s.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	attach := func(l netlink.Link, parent uint32, program *ebpf.Program) error {
		return netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: l.Attrs().Index, Parent: parent, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
			Fd:          program.FD(), Name: hijackName, DirectAction: true,
		})
	}
	qdisc := func(l netlink.Link) netlink.Qdisc {
		return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	}
	onUplink := func(do func(netlink.Link) error) error {
		return node.Do(func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return do(l)
		})
	}
	released := false
	release = func() {
		if released {
			return
		}
		released = true
		if err := onUplink(func(l netlink.Link) error { return netlink.QdiscDel(qdisc(l)) }); err != nil {
			s.Errorf("take the programs off: %v", err)
		}
	}
	err = onUplink(func(l netlink.Link) error {
		if err := netlink.QdiscAdd(qdisc(l)); err != nil {
			return err
		}
		s.Cleanup(release)
		if err := attach(l, netlink.HANDLE_MIN_INGRESS, in); err != nil {
			return err
		}
		return attach(l, netlink.HANDLE_MIN_EGRESS, out)
	})
	if err != nil {
		s.Fatal(err)
	}
	return release
}

// translate is a program that writes one address and port over another.
func translate(address, port int32, from, to netip.AddrPort) *ebpf.ProgramSpec {
	word := func(a netip.Addr) int32 { b := a.As4(); return int32(binary.NativeEndian.Uint32(b[:])) }
	half := func(p uint16) int32 { return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, p))) }
	host := from.Addr().As4()
	const pseudoHeader = 0x10 // BPF_F_PSEUDO_HDR
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadAbs(12, asm.Half), asm.JNE.Imm(asm.R0, unix.ETH_P_IP, "pass"),
		asm.LoadAbs(offsetProtocol, asm.Byte), asm.JNE.Imm(asm.R0, unix.IPPROTO_TCP, "pass"),
		asm.LoadAbs(address, asm.Word), asm.JNE.Imm(asm.R0, int32(binary.BigEndian.Uint32(host[:])), "pass"),
		asm.LoadAbs(port, asm.Half), asm.JNE.Imm(asm.R0, int32(from.Port()), "pass"),
	}
	call := func(fn asm.BuiltinFunc, r2, r3, r4, r5 int32) {
		code = append(code, asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, r2), asm.Mov.Imm(asm.R3, r3), asm.Mov.Imm(asm.R4, r4), asm.Mov.Imm(asm.R5, r5), fn.Call())
	}
	call(asm.FnL3CsumReplace, offsetIPChecksum, word(from.Addr()), word(to.Addr()), 4)
	call(asm.FnL4CsumReplace, offsetChecksum, word(from.Addr()), word(to.Addr()), 4|pseudoHeader)
	call(asm.FnL4CsumReplace, offsetChecksum, half(from.Port()), half(to.Port()), 2)
	store := func(offset, value int32, size asm.Size, length int32) {
		code = append(code,
			asm.StoreImm(asm.RFP, -8, int64(value), size),
			asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Imm(asm.R2, offset), asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -8),
			asm.Mov.Imm(asm.R4, length), asm.Mov.Imm(asm.R5, 0), asm.FnSkbStoreBytes.Call(),
		)
	}
	store(address, word(to.Addr()), asm.Word, 4)
	store(port, half(to.Port()), asm.Half, 2)
	code = append(code, asm.Mov.Imm(asm.R0, 0).WithSymbol("pass"), asm.Return()) // TC_ACT_OK
	return &ebpf.ProgramSpec{Name: hijackName, Type: ebpf.SchedCLS, License: "GPL", Instructions: code}
}
