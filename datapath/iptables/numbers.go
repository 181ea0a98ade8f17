package iptables

import (
	"iter"
	"math/bits"

	"github.com/portreeve/portreeve/internal/rule"
)

// numbers is a set of port numbers: 8 KiB, comparable, and as cheap for ten
// thousand scattered numbers as for one range.
type numbers [1 << 16 / 64]uint64

func (s *numbers) has(n uint16) bool { return s[n/64]&(1<<(n%64)) != 0 }
func (s *numbers) add(n uint16)      { s[n/64] |= 1 << (n % 64) }

func (s *numbers) len() int {
	n := 0
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}

func (s *numbers) minus(t *numbers) numbers {
	out := *s
	for i := range out {
		out[i] &^= t[i]
	}
	return out
}

func (s *numbers) and(t *numbers) numbers {
	out := *s
	for i := range out {
		out[i] &= t[i]
	}
	return out
}

// all yields the numbers, ascending.
func (s *numbers) all() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for i := range s {
			for word := s[i]; word != 0; word &= word - 1 {
				if !yield(uint16(i*64 + bits.TrailingZeros64(word))) {
					return
				}
			}
		}
	}
}

func (s *numbers) ranges() rule.PortRanges {
	var out []rule.PortRange
	for n := range s.all() {
		out = append(out, rule.PortRange{First: n, Last: n})
	}
	return rule.NewPortRanges(out...)
}
