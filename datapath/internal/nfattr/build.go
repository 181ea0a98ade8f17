package nfattr

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Builder is a list of attributes under construction. The zero value is empty.
type Builder []byte

// Bytes appends an attribute with a value as it is.
func (b *Builder) Bytes(typ uint16, value []byte) {
	native := binary.NativeEndian
	*b = native.AppendUint16(*b, uint16(headerLen+len(value)))
	*b = native.AppendUint16(*b, typ)
	*b = append(*b, value...)
	b.pad()
}

// String appends a text, with the NUL that the kernel expects.
func (b *Builder) String(typ uint16, value string) { b.Bytes(typ, append([]byte(value), 0)) }

// Uint32 appends a number in network byte order.
func (b *Builder) Uint32(typ uint16, value uint32) {
	b.Bytes(typ, binary.BigEndian.AppendUint32(nil, value))
}

// Uint64 appends a number in network byte order.
func (b *Builder) Uint64(typ uint16, value uint64) {
	b.Bytes(typ, binary.BigEndian.AppendUint64(nil, value))
}

// Nest appends an attribute that holds those which fill appends. It may hold up
// to 64 KiB.
func (b *Builder) Nest(typ uint16, fill func()) {
	start := len(*b)
	*b = append(*b, 0, 0, 0, 0)
	fill()
	native := binary.NativeEndian
	native.PutUint16((*b)[start:], uint16(len(*b)-start))
	native.PutUint16((*b)[start+2:], typ|unix.NLA_F_NESTED)
}

func (b *Builder) pad() {
	for len(*b)%4 != 0 {
		*b = append(*b, 0)
	}
}
