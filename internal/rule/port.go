package rule

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Protocol is a transport protocol, spelled as Kubernetes spells it in a
// Service port ("TCP", "UDP", "SCTP").
type Protocol string

// The protocols a Service port can have.
const (
	TCP  Protocol = "TCP"
	UDP  Protocol = "UDP"
	SCTP Protocol = "SCTP"
)

// Protocols lists every protocol that is judged, in canonical order.
var Protocols = []Protocol{SCTP, TCP, UDP}

// Port is one protocol on one port number.
type Port struct {
	Protocol Protocol
	Number   uint16
}

func (p Port) String() string {
	return strings.ToLower(string(p.Protocol)) + "/" + strconv.Itoa(int(p.Number))
}

// ComparePorts orders by number, then protocol.
func ComparePorts(a, b Port) int {
	if a.Number != b.Number {
		return int(a.Number) - int(b.Number)
	}
	return cmp.Compare(a.Protocol, b.Protocol)
}

// Compare is ComparePorts.
func (p Port) Compare(q Port) int { return ComparePorts(p, q) }

// Page puts the ports of 64 numbers next to one another in a table.
func (p Port) Page() uint16 { return p.Number / 64 }

// PortRange is an inclusive range of port numbers.
type PortRange struct{ First, Last uint16 }

// ParsePortRange reads "30000-30099" or "30180". The error names the value and
// what would be right.
func ParsePortRange(s string) (PortRange, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	f, err := parsePort(first)
	if err != nil {
		return PortRange{}, fmt.Errorf("port range %q: %w", s, err)
	}
	l, err := parsePort(last)
	if err != nil {
		return PortRange{}, fmt.Errorf("port range %q: %w", s, err)
	}
	if f > l {
		return PortRange{}, fmt.Errorf("port range %q: ends before it begins; write %d-%d", s, l, f)
	}
	return PortRange{f, l}, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' || s[0] == '+' {
		return 0, fmt.Errorf("%q is not a port number from 1 to 65535", s)
	}
	return uint16(n), nil
}

func (r PortRange) String() string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Contains says whether the range holds the port number.
func (r PortRange) Contains(n uint16) bool { return r.First <= n && n <= r.Last }

// PortRanges is a set of port numbers: sorted, disjoint, adjacent ranges joined.
// The functions of this package keep it so; build one with NewPortRanges.
type PortRanges []PortRange

// NewPortRanges returns the union of the ranges in canonical form.
func NewPortRanges(ranges ...PortRange) PortRanges {
	sorted := slices.SortedFunc(slices.Values(ranges), func(a, b PortRange) int {
		return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
	})
	var out PortRanges
	for _, r := range sorted {
		if n := len(out); n > 0 && uint32(r.First) <= uint32(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// ParsePortRanges reads a list of ranges; see ParsePortRange.
func ParsePortRanges(list []string) (PortRanges, error) {
	ranges := make([]PortRange, 0, len(list))
	for _, s := range list {
		r, err := ParsePortRange(s)
		if err != nil {
			return nil, err
		}
		ranges = append(ranges, r)
	}
	return NewPortRanges(ranges...), nil
}

// Contains says whether the set holds the port number; O(log ranges).
func (s PortRanges) Contains(n uint16) bool {
	i, found := slices.BinarySearchFunc(s, n, func(r PortRange, n uint16) int {
		switch {
		case r.Last < n:
			return -1
		case r.First > n:
			return 1
		}
		return 0
	})
	return found && s[i].Contains(n)
}

// Len counts the port numbers in the set.
func (s PortRanges) Len() int {
	n := 0
	for _, r := range s {
		n += int(r.Last) - int(r.First) + 1
	}
	return n
}

// Numbers yields every port number in ascending order.
func (s PortRanges) Numbers(yield func(uint16) bool) {
	for _, r := range s {
		for n := uint32(r.First); n <= uint32(r.Last); n++ {
			if !yield(uint16(n)) {
				return
			}
		}
	}
}

// Union returns the numbers in s or t.
func (s PortRanges) Union(t PortRanges) PortRanges { return NewPortRanges(slices.Concat(s, t)...) }

// Intersect returns the numbers in both s and t; O(ranges), as a pool with many
// scattered numbers has thousands.
func (s PortRanges) Intersect(t PortRanges) PortRanges {
	var out PortRanges
	for i, j := 0, 0; i < len(s) && j < len(t); {
		if first, last := max(s[i].First, t[j].First), min(s[i].Last, t[j].Last); first <= last {
			out = append(out, PortRange{first, last})
		}
		if s[i].Last < t[j].Last {
			i++
		} else {
			j++
		}
	}
	return out
}

// Subtract returns the numbers in s that are not in t; O(ranges).
func (s PortRanges) Subtract(t PortRanges) PortRanges {
	var out PortRanges
	for _, a := range s {
		for len(t) > 0 && t[0].Last < a.First {
			t = t[1:]
		}
		first := uint32(a.First) // of what is left of a; past 65535 when nothing is
		for _, b := range t {
			if b.First > a.Last {
				break
			}
			if first < uint32(b.First) {
				out = append(out, PortRange{uint16(first), b.First - 1})
			}
			first = uint32(b.Last) + 1
		}
		if first <= uint32(a.Last) {
			out = append(out, PortRange{uint16(first), a.Last})
		}
	}
	return out
}

// Strings spells each range, in order, as ParsePortRange reads it.
func (s PortRanges) Strings() []string {
	out := make([]string, len(s))
	for i, r := range s {
		out[i] = r.String()
	}
	return out
}

// FailSafe are the ports no pool may hold and no rule may touch, whatever an
// object says: losing them would lock people out of the node or the cluster
// (SSH, DNS, BGP, HTTPS ingress of the API server, etcd, kubelet, kube-proxy).
var FailSafe = NewPortRanges(
	PortRange{22, 22}, PortRange{53, 53}, PortRange{179, 179}, PortRange{443, 443},
	PortRange{2379, 2380}, PortRange{6443, 6443}, PortRange{10248, 10259},
)

// ProtocolPorts are port numbers of each protocol; a protocol without any is left out.
type ProtocolPorts map[Protocol]PortRanges

// EveryProtocol returns the same numbers of each protocol.
func EveryProtocol(numbers PortRanges) ProtocolPorts {
	out := ProtocolPorts{}
	if len(numbers) > 0 {
		for _, p := range Protocols {
			out[p] = numbers
		}
	}
	return out
}

// Numbers returns the numbers that are there with some protocol.
func (p ProtocolPorts) Numbers() PortRanges {
	var all []PortRange
	for _, ranges := range p {
		all = append(all, ranges...)
	}
	return NewPortRanges(all...)
}

// Within returns those of the numbers that lie in all.
func (p ProtocolPorts) Within(all PortRanges) ProtocolPorts {
	out := ProtocolPorts{}
	for protocol, ranges := range p {
		if inside := ranges.Intersect(all); len(inside) > 0 {
			out[protocol] = inside
		}
	}
	return out
}

// Contains says whether the port is among them.
func (p ProtocolPorts) Contains(port Port) bool { return p[port.Protocol].Contains(port.Number) }
