package compile

import (
	"math/bits"

	"github.com/portreeve/portreeve/internal/rule"
)

// numberSet is a set of port numbers that is cheap to change one by one.
type numberSet [1 << 16 / 64]uint64

func (s *numberSet) add(n uint16)      { s[n/64] |= 1 << (n % 64) }
func (s *numberSet) remove(n uint16)   { s[n/64] &^= 1 << (n % 64) }
func (s *numberSet) has(n uint16) bool { return s[n/64]&(1<<(n%64)) != 0 }

// ranges spells the set, in time of its words and its ranges.
func (s *numberSet) ranges() (out rule.PortRanges) {
	for n := 0; n < 1<<16; {
		word := s[n/64] >> (n % 64)
		if word == 0 {
			n = (n/64 + 1) * 64
			continue
		}
		n += bits.TrailingZeros64(word)
		first := n
		for n < 1<<16 {
			ones := bits.TrailingZeros64(^(s[n/64] >> (n % 64)))
			if n += ones; ones == 0 || n%64 != 0 {
				break
			}
		}
		out = append(out, rule.PortRange{First: uint16(first), Last: uint16(n - 1)})
	}
	return out
}

func setOfRanges(ranges rule.PortRanges) (s numberSet) {
	for n := range ranges.Numbers {
		s.add(n)
	}
	return s
}
