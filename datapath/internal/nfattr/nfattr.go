// Package nfattr walks the attributes of a netfilter netlink message.
//
// The walkers of vishvananda/netlink start a goroutine per nesting level or
// allocate per attribute; over the 100,000 entries of a full ipset or conntrack
// table that is seconds of CPU. This one allocates nothing.
package nfattr

import (
	"encoding/binary"
	"iter"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	headerLen = 4
	typeMask  = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
)

// All yields each attribute's type, without its flags, and its value, which
// aliases b. It ends at the first attribute that does not fit into b.
func All(b []byte) iter.Seq2[uint16, []byte] {
	native := nl.NativeEndian()
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= headerLen {
			length := int(native.Uint16(b))
			if length < headerLen || length > len(b) {
				return
			}
			if !yield(native.Uint16(b[2:])&typeMask, b[headerLen:length]) {
				return
			}
			b = b[min((length+3)&^3, len(b)):]
		}
	}
}

// Uint16 reads a port in network byte order; 0 when the value is too short.
func Uint16(value []byte) uint16 {
	if len(value) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(value)
}

// Uint32 reads a number in network byte order; 0 when the value is too short.
func Uint32(value []byte) uint32 {
	if len(value) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(value)
}

// Uint8 reads one byte; 0 when there is none.
func Uint8(value []byte) uint8 {
	if len(value) < 1 {
		return 0
	}
	return value[0]
}

// Uint64 reads a number in network byte order; 0 when the value is too short.
func Uint64(value []byte) uint64 {
	if len(value) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(value)
}

// Whole says whether b is a list of attributes and nothing else.
func Whole(b []byte) bool {
	used := 0
	for _, value := range All(b) {
		used += (headerLen + len(value) + 3) &^ 3
	}
	return used > 0 && used >= len(b)
}
