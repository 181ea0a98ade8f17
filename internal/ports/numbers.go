package ports

import "math/bits"

// Numbers is a set of port numbers with constant-time access.
type Numbers [1 << 16 / 64]uint64

// Add puts n into the set.
func (s *Numbers) Add(n uint16) { s[n/64] |= 1 << (n % 64) }

// Has says whether n is in the set.
func (s *Numbers) Has(n uint16) bool { return s[n/64]&(1<<(n%64)) != 0 }

func (s *Numbers) remove(n uint16) { s[n/64] &^= 1 << (n % 64) }

// nextOut returns the lowest number from n to last that is not in the set, last+1
// if all are. 32 bits, because last+1 may lie beyond the numbers.
func (s *Numbers) nextOut(n, last uint32) uint32 { return s.scan(n, last, ^uint64(0)) }

// nextIn returns the lowest number from n to last that is in the set, last+1 if
// none is.
func (s *Numbers) nextIn(n, last uint32) uint32 { return s.scan(n, last, 0) }

// scan finds the first bit that is set after each word is flipped by mask: word
// by word, because a pool may be full to its last number.
func (s *Numbers) scan(n, last uint32, mask uint64) uint32 {
	if n > last {
		return last + 1
	}
	word := (s[n/64] ^ mask) >> (n % 64) << (n % 64)
	at := n / 64
	for word == 0 && at < last/64 {
		at++
		word = s[at] ^ mask
	}
	if word == 0 {
		return last + 1
	}
	return min(at*64+uint32(bits.TrailingZeros64(word)), last+1)
}
