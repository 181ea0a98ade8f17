package nftables

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath/internal/nfattr"
	"github.com/portreeve/portreeve/internal/rule"
)

// field is a part of a key, as nft numbers the types of values.
type field struct {
	typ, length uint32 // length in bytes
}

var (
	fieldFamily   = field{2, 1}
	fieldIPv4     = field{7, 4}
	fieldIPv6     = field{8, 16}
	fieldProtocol = field{12, 1}
	fieldNumber   = field{13, 2}
)

// byteOrder of a key that nft lists as ranges: big endian, as it numbers them.
const byteOrder = 2

// set is how one of our sets is made; its elements come apart.
type set struct {
	name  string
	flags uint32 // NFT_SET_*
	key   []field
}

// verdicts says whether the elements lead somewhere.
func (s set) verdicts() bool { return s.flags&unix.NFT_SET_MAP != 0 }

func (d dynamic) set() set {
	flags := uint32(unix.NFT_SET_EVAL)
	if d.timeout > 0 { // the kernel has no set whose elements do both
		flags |= unix.NFT_SET_TIMEOUT
	}
	return set{d.name, flags, d.key}
}

// fixedSets are those that are always there.
func fixedSets() []set {
	out := []set{
		{setProtocols, 0, []field{fieldProtocol}},
		{setJudged, unix.NFT_SET_INTERVAL, []field{fieldNumber}},
		{setAudited, unix.NFT_SET_INTERVAL, []field{fieldNumber}},
		{setPorts, unix.NFT_SET_MAP | unix.NFT_SET_TIMEOUT, []field{fieldProtocol, fieldNumber}},
		{setEnds, unix.NFT_SET_MAP, []field{fieldProtocol, fieldNumber}},
		{setLocal, 0, []field{fieldProtocol, fieldNumber}},
	}
	for _, f := range families {
		out = append(out,
			set{setVirtual + f.suffix, unix.NFT_SET_INTERVAL, []field{f.address}},
			set{setDenied + f.suffix, unix.NFT_SET_INTERVAL, []field{f.address}},
			set{setAddresses + f.suffix, unix.NFT_SET_INTERVAL, []field{f.address}})
	}
	return out
}

func (b *batch) addTable(flags uint32) {
	b.add(unix.NFT_MSG_NEWTABLE, netlink.Create, func(a *nfattr.Builder) {
		a.String(unix.NFTA_TABLE_NAME, b.table)
		a.Uint32(unix.NFTA_TABLE_FLAGS, flags)
	})
}

func (b *batch) deleteTable() {
	b.add(unix.NFT_MSG_DELTABLE, 0, func(a *nfattr.Builder) { a.String(unix.NFTA_TABLE_NAME, b.table) })
}

func (b *batch) addSet(s set) {
	b.add(unix.NFT_MSG_NEWSET, netlink.Create, func(a *nfattr.Builder) {
		a.String(unix.NFTA_SET_TABLE, b.table)
		a.String(unix.NFTA_SET_NAME, s.name)
		a.Uint32(unix.NFTA_SET_FLAGS, s.flags)
		var typ, length uint32
		for _, f := range s.key {
			typ = typ<<6 | f.typ
			if length += f.length; len(s.key) > 1 {
				length = (length + 3) &^ 3
			}
		}
		a.Uint32(unix.NFTA_SET_KEY_TYPE, typ)
		a.Uint32(unix.NFTA_SET_KEY_LEN, length)
		if s.verdicts() {
			a.Uint32(unix.NFTA_SET_DATA_TYPE, unix.NFT_DATA_VERDICT)
		}
		// By this id the elements and rules of the same batch could name the set; by
		// its name they can as well, but the kernel insists on one.
		a.Uint32(unix.NFTA_SET_ID, uint32(len(b.messages)+1))
		if s.flags&unix.NFT_SET_EVAL != 0 {
			a.Nest(unix.NFTA_SET_DESC, func() { a.Uint32(unix.NFTA_SET_DESC_SIZE, room) })
		}
		a.Bytes(unix.NFTA_SET_USERDATA, userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, byteOrder))
	})
}

func (b *batch) deleteSet(name string) {
	b.add(unix.NFT_MSG_DELSET, 0, func(a *nfattr.Builder) {
		a.String(unix.NFTA_SET_TABLE, b.table)
		a.String(unix.NFTA_SET_NAME, name)
	})
}

// addChain makes an empty chain; that of a hook sees packets at once.
func (b *batch) addChain(name string) {
	b.add(unix.NFT_MSG_NEWCHAIN, netlink.Create, func(a *nfattr.Builder) {
		a.String(unix.NFTA_CHAIN_TABLE, b.table)
		a.String(unix.NFTA_CHAIN_NAME, name)
		hook, is := hooks[name]
		if !is {
			return
		}
		a.Nest(unix.NFTA_CHAIN_HOOK, func() {
			a.Uint32(unix.NFTA_HOOK_HOOKNUM, hook)
			hookPriority := int32(priority)
			a.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(hookPriority))
		})
		a.Uint32(unix.NFTA_CHAIN_POLICY, accepted)
		a.String(unix.NFTA_CHAIN_TYPE, "filter")
	})
}

func (b *batch) deleteChain(name string) {
	b.add(unix.NFT_MSG_DELCHAIN, 0, func(a *nfattr.Builder) {
		a.String(unix.NFTA_CHAIN_TABLE, b.table)
		a.String(unix.NFTA_CHAIN_NAME, name)
	})
}

// flushChain takes all rules out of a chain.
func (b *batch) flushChain(name string) {
	b.add(unix.NFT_MSG_DELRULE, 0, func(a *nfattr.Builder) {
		a.String(unix.NFTA_RULE_TABLE, b.table)
		a.String(unix.NFTA_RULE_CHAIN, name)
	})
}

// fill appends rules to a chain.
func (b *batch) fill(c chain) error {
	for _, l := range c.lines {
		expressions, err := encode(l)
		if err != nil {
			return err
		}
		b.add(unix.NFT_MSG_NEWRULE, netlink.Create|netlink.Append, func(a *nfattr.Builder) {
			a.String(unix.NFTA_RULE_TABLE, b.table)
			a.String(unix.NFTA_RULE_CHAIN, c.name)
			a.Nest(unix.NFTA_RULE_EXPRESSIONS, func() {
				for _, e := range expressions {
					a.Bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, e)
				}
			})
			if l.comment != "" {
				a.Bytes(unix.NFTA_RULE_USERDATA, userdata.AppendString(nil, userdata.TypeComment, l.comment))
			}
		})
	}
	return nil
}

// encode spells the expressions of a rule.
func encode(l line) ([][]byte, error) {
	out := make([][]byte, len(l.exprs))
	for i, e := range l.exprs {
		var err error
		if out[i], err = expr.Marshal(inet, e); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// element of a set.
type element struct {
	key     []byte
	end     bool          // of a range: the first value behind it
	chain   string        // where it leads, in a set of verdicts
	left    time.Duration // until it ends by itself; 0 for never
	comment string
}

// chunk bounds the elements of one message, in which 64 KiB have room.
const chunk = 250

func (b *batch) addElements(set string, elements []element) {
	b.elements(unix.NFT_MSG_NEWSETELEM, netlink.Create, set, elements)
}

func (b *batch) deleteElements(set string, elements []element) {
	b.elements(unix.NFT_MSG_DELSETELEM, 0, set, elements)
}

func (b *batch) elements(operation int, flags netlink.HeaderFlags, set string, elements []element) {
	for len(elements) > 0 {
		n := min(chunk, len(elements))
		b.add(operation, flags, func(a *nfattr.Builder) {
			a.String(unix.NFTA_SET_ELEM_LIST_TABLE, b.table)
			a.String(unix.NFTA_SET_ELEM_LIST_SET, set)
			a.Nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
				for _, e := range elements[:n] {
					a.Nest(unix.NFTA_LIST_ELEM, func() { e.encode(a, operation == unix.NFT_MSG_NEWSETELEM) })
				}
			})
		})
		elements = elements[n:]
	}
}

// encode spells the element; to delete one, its key is enough.
func (e element) encode(a *nfattr.Builder, whole bool) {
	a.Nest(unix.NFTA_SET_ELEM_KEY, func() { a.Bytes(unix.NFTA_DATA_VALUE, e.key) })
	if e.end {
		a.Uint32(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	if !whole {
		return
	}
	if e.chain != "" {
		a.Nest(unix.NFTA_SET_ELEM_DATA, func() {
			a.Nest(unix.NFTA_DATA_VERDICT, func() {
				jump := int32(unix.NFT_JUMP)
				a.Uint32(unix.NFTA_VERDICT_CODE, uint32(jump))
				a.String(unix.NFTA_VERDICT_CHAIN, e.chain)
			})
		})
	}
	if e.left > 0 {
		a.Uint64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(max(e.left.Milliseconds(), 1)))
	}
	if e.comment != "" {
		a.Bytes(unix.NFTA_SET_ELEM_USERDATA, userdata.AppendString(nil, userdata.NFTNL_UDATA_SET_ELEM_COMMENT, e.comment))
	}
}

// portKey is the key of the set of ports.
func portKey(p rule.Port) []byte {
	key := []byte{protocolNumbers[p.Protocol], 0, 0, 0, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(key[4:], p.Number)
	return key
}

// openElement leads to the gate of a port, as long as it lasts. It notes the names of
// chains.
func openElement(p rule.Port, g rule.Gate, now time.Time, names map[rule.Gate]string) element {
	e := element{key: portKey(p)}
	if g.Expires != 0 {
		e.left = time.Unix(g.Expires, 0).Sub(now)
	}
	g = behind(g)
	if e.chain = names[g]; e.chain == "" {
		e.chain = chainOf(g)
		names[g] = e.chain
	}
	return e
}

// endElement stands behind the gate of a port that ends, and says when that is and
// what it was.
func endElement(p rule.Port, g rule.Gate) element {
	until := time.Unix(g.Expires, 0).UTC().Format(time.RFC3339)
	g = behind(g)
	return element{key: portKey(p), chain: endedChain(g), comment: until + " " + chainOf(g)}
}

// behind is the gate of a port without what stands with the port.
func behind(g rule.Gate) rule.Gate {
	g.Expires, g.Local = 0, false
	return g
}

// ended says whether the gate lets nobody in any more.
func ended(g rule.Gate, now time.Time) bool { return g.Expires != 0 && g.Expires <= now.Unix() }

var protocolNumbers = map[rule.Protocol]byte{
	rule.TCP: unix.IPPROTO_TCP, rule.UDP: unix.IPPROTO_UDP, rule.SCTP: unix.IPPROTO_SCTP,
}

func protocolElements() []element {
	var out []element
	for _, p := range rule.Protocols {
		out = append(out, element{key: []byte{protocolNumbers[p]}})
	}
	return out
}

// span is a range in a set of ranges: its first value, and the first value behind
// it, which is "" where the range goes on to the last value there is.
type span struct{ first, behind string }

func (s span) elements() []element {
	out := []element{{key: []byte(s.first)}}
	if s.behind != "" {
		out = append(out, element{key: []byte(s.behind), end: true})
	}
	return out
}

func numberSpans(ranges rule.PortRanges) []span {
	out := make([]span, 0, len(ranges))
	for _, r := range ranges {
		s := span{first: string(binary.BigEndian.AppendUint16(nil, r.First))}
		if r.Last < 65535 {
			s.behind = string(binary.BigEndian.AppendUint16(nil, r.Last+1))
		}
		out = append(out, s)
	}
	return out
}

// prefixSpans joins canonical prefixes of one family that touch: the kernel wants
// no two ranges without a gap.
func prefixSpans(prefixes []netip.Prefix) []span {
	var out []span
	for _, p := range prefixes {
		s := span{first: string(p.Addr().AsSlice())}
		if next := lastOf(p).Next(); next.IsValid() {
			s.behind = string(next.AsSlice())
		}
		if n := len(out); n > 0 && out[n-1].behind == s.first {
			out[n-1].behind = s.behind
		} else {
			out = append(out, s)
		}
	}
	return out
}

// lastOf returns the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last
}
