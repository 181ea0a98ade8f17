package nftables

import (
	"encoding/binary"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath"
)

// line is one rule: what it matches, in order, and its verdict at the end.
type line struct {
	comment string // for who lists the table
	exprs   []expr.Any
}

func on(comment string, parts ...[]expr.Any) line {
	return line{comment, slices.Concat(parts...)}
}

// The registers. The second is the one behind the first four bytes of the first,
// for keys of two and three fields.
const (
	first  = unix.NFT_REG_1
	second = unix.NFT_REG32_00 + 1
)

// variant says which optional rules the chain judge has: those whose sets are
// empty cost no packet a lookup. local says whether there is the hook in input, which
// all packets for the node meet.
type variant struct{ addresses, virtual, denied, local bool }

// hookRules lead to judge what may be our business. Each part that a packet lacks
// (a header cut short) makes the rule not match: it is not judged.
func hookRules() []line {
	return []line{on("pool ports only", notOnLoopback(), protocolIn(setProtocols), numberIn(setJudged), gotoChain(chainJudge))}
}

// judgeRules end in a drop, so that what no rule before it accepts is dropped.
func judgeRules(v variant) []line {
	out := []line{
		on("replies, masqueraded ones too", ct(expr.CtKeyDIRECTION), equal([]byte{1}), accept()),
		// Such a packet opens nothing unless it is a SYN. By UDP or SCTP it could.
		on("no connection, and opens none", stateIn(expr.CtStateBitINVALID|expr.CtStateBitUNTRACKED),
			protocolIs(unix.IPPROTO_TCP), transport(13, 1), masked([]byte{0x17}), unequal([]byte{0x02}), accept()),
		on("forwarded", toUnowned(), accept()),
	}
	out = append(out, elsewhere(v)...)
	for _, f := range families {
		if v.denied {
			out = append(out, on("", is(f), source(f), lookup(setDenied+f.suffix), gotoChain(chainDenied)))
		}
	}
	return append(out,
		on("", protocolAndNumber(first, second), gateIn(setPorts)),
		on("", protocolAndNumber(first, second), gateIn(setEnds)),
		on("", number(), lookup(setAudited), gotoChain(chainAudited)),
		on("closed", drop()),
	)
}

// elsewhere passes what goes to addresses of the node on which nothing is judged.
func elsewhere(v variant) (out []line) {
	for _, f := range families {
		if v.addresses {
			out = append(out, on("addresses that are not judged", is(f), destination(f), notIn(setAddresses+f.suffix), accept()))
		}
		if v.virtual {
			out = append(out, on("addresses of kube-ipvs0", is(f), destination(f), lookup(setVirtual+f.suffix), accept()))
		}
	}
	return out
}

// inputRules lead to unserved what comes to a Local port, whoever sent it: who may not
// did not come so far. What is meant for a pod is on its way to that.
func inputRules() []line {
	return []line{on("local ports only", notOnLoopback(), protocolAndNumber(first, second), lookup(setLocal), gotoChain(chainUnserved))}
}

// unservedRules refuse what begins a connection that nobody takes up: no carrier has
// rewritten it, and nobody listens. The kernel would answer the same, if nobody dropped
// it before.
func unservedRules(v variant) []line {
	out := []line{
		on("begins nothing", ct(expr.CtKeySTATE), masked(native(expr.CtStateBitNEW)), equal(native(0)), accept()),
		on("rewritten by who carries it", ct(expr.CtKeySTATUS), masked(native(rewritten)), unequal(native(0)), accept()),
		on("not for the node alone", toUnowned(), accept()),
	}
	return append(append(out, elsewhere(v)...),
		on("somebody listens", listening(), accept()),
		on("", gotoChain(chainRefused)),
	)
}

// auditedRules pass everybody, and log some of them.
func auditedRules(mute bool) []line {
	return append(atMostRules(mute, datapath.Unclaimed), on("", accept()))
}

func deniedRules(mute bool) []line {
	return append(atMostRules(mute, datapath.Denied), on("", drop()))
}

// refusedRules answer as a host does on whose port nobody listens. The kernel takes the
// answer's way from the packet, and bounds how many ICMP errors it sends.
func refusedRules() []line {
	return []line{
		on("", protocolIs(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}),
		on("", []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}),
	}
}

func atMostRules(mute bool, reason datapath.Reason) []line {
	if mute {
		return nil
	}
	return []line{on("", beginning(), atMost(datapath.AuditRate, datapath.AuditBurst), logAs(reason))}
}

// Matches and verdicts.

func notOnLoopback() []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: first}, &expr.Cmp{Op: expr.CmpOpNeq, Register: first, Data: name}}
}

func protocolIn(set string) []expr.Any {
	return append([]expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: first}}, lookup(set)...)
}

func protocolIs(protocol byte) []expr.Any {
	return append([]expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: first}}, equal([]byte{protocol})...)
}

func is(f family) []expr.Any {
	return append([]expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: first}}, equal([]byte{f.nfproto})...)
}

func source(f family) []expr.Any      { return network(f, f.source) }
func destination(f family) []expr.Any { return network(f, f.destination) }

func network(f family, offset uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: first, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.address.length}}
}

func transport(offset, length uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: first, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}}
}

func number() []expr.Any { return transport(2, 2) }

func numberIn(set string) []expr.Any { return append(number(), lookup(set)...) }

func protocolAndNumber(protocol, number uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: protocol},
		&expr.Payload{DestRegister: number, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// familyProtocolNumber is the key by which lines are counted.
func familyProtocolNumber() []expr.Any {
	return append([]expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: first}}, protocolAndNumber(second, second+1)...)
}

// sourceProtocolNumber is the key by which limits are kept.
func sourceProtocolNumber(f family) []expr.Any {
	return append(source(f), protocolAndNumber(f.behind[0], f.behind[1])...)
}

func lookup(set string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: first, SetName: set}}
}

func notIn(set string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: first, SetName: set, Invert: true}}
}

// gateIn does what the set says of the key in the registers.
func gateIn(set string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: first, SetName: set, IsDestRegSet: true, DestRegister: unix.NFT_REG_VERDICT}}
}

func ct(key expr.CtKey) []expr.Any { return []expr.Any{&expr.Ct{Key: key, Register: first}} }

func equal(value []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Register: first, Data: value}}
}

func unequal(value []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpNeq, Register: first, Data: value}}
}

func masked(mask []byte) []expr.Any {
	return []expr.Any{&expr.Bitwise{SourceRegister: first, DestRegister: first, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))}}
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// stateIn matches a connection in one of the states.
func stateIn(bits uint32) []expr.Any {
	return slices.Concat(ct(expr.CtKeySTATE), masked(native(bits)), unequal(native(0)))
}

// confirmed is the bit of a connection of which a packet has gone all the way through
// (IPS_CONFIRMED). A connection whose other side never answers never counts as
// established, but goes on all the same.
const confirmed = 1 << 3

// rewritten is the bit of a connection whose destination is another than it was sent to
// (IPS_DST_NAT).
const rewritten = 1 << 5

// listening matches a packet for which the node has a socket. The key matters not: there
// is none to compare where there is no socket.
func listening() []expr.Any {
	return append([]expr.Any{&expr.Socket{Key: expr.SocketKeyTransparent, Register: first}}, unequal([]byte{0xff})...)
}

// beginning matches a packet that begins a connection.
func beginning() []expr.Any {
	return slices.Concat(ct(expr.CtKeySTATUS), masked(native(confirmed)), equal(native(0)))
}

// goingOn matches a packet of a connection that has begun.
func goingOn() []expr.Any {
	return slices.Concat(ct(expr.CtKeySTATUS), masked(native(confirmed)), unequal(native(0)))
}

// toUnowned matches a destination that the kernel does not take as its own.
func toUnowned() []expr.Any {
	return append([]expr.Any{&expr.Fib{Register: first, ResultADDRTYPE: true, FlagDADDR: true}}, unequal(native(unix.RTN_LOCAL))...)
}

func atMost(perSecond, burst uint32) []expr.Any {
	return []expr.Any{&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(perSecond), Unit: expr.LimitTimeSecond, Burst: burst}}
}

// snapLength is how much of a packet is logged: the headers, and room for options.
const snapLength = 128

func logAs(reason datapath.Reason) []expr.Any {
	return []expr.Any{&expr.Log{
		Key:   1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_SNAPLEN,
		Group: datapath.LogGroup, Snaplen: snapLength, Data: []byte(datapath.LogPrefix + reason),
	}}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() []expr.Any   { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
func gotoChain(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}
