package nftables

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath/internal/nfattr"
	"github.com/portreeve/portreeve/internal/rule"
)

// kernelElement is an element as the kernel lists it.
type kernelElement struct {
	key     []byte
	end     bool
	chain   string
	left    time.Duration // until it ends, 0 for never
	comment string
}

func (s *socket) elements(name string) ([]kernelElement, error) {
	found, err := s.dump(unix.NFT_MSG_GETSETELEM, func(a *nfattr.Builder) {
		a.String(unix.NFTA_SET_ELEM_LIST_TABLE, tableName)
		a.String(unix.NFTA_SET_ELEM_LIST_SET, name)
	})
	if err != nil {
		return nil, fmt.Errorf("list set %s: %w", name, err)
	}
	n := 0
	for _, message := range found {
		for range nfattr.All(valueOf(message, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			n++
		}
	}
	out := make([]kernelElement, 0, n)
	for _, message := range found {
		for _, value := range nfattr.All(valueOf(message, unix.NFTA_SET_ELEM_LIST_ELEMENTS)) {
			out = append(out, parseElement(value))
		}
	}
	return out, nil
}

func parseElement(attributes []byte) kernelElement {
	var e kernelElement
	for typ, value := range nfattr.All(attributes) {
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			e.key = valueOf(value, unix.NFTA_DATA_VALUE)
		case unix.NFTA_SET_ELEM_FLAGS:
			e.end = nfattr.Uint32(value)&unix.NFT_SET_ELEM_INTERVAL_END != 0
		case unix.NFTA_SET_ELEM_DATA:
			verdict := valueOf(value, unix.NFTA_DATA_VERDICT)
			if int32(nfattr.Uint32(valueOf(verdict, unix.NFTA_VERDICT_CODE))) == unix.NFT_JUMP {
				e.chain = text(valueOf(verdict, unix.NFTA_VERDICT_CHAIN))
			}
		case unix.NFTA_SET_ELEM_EXPIRATION:
			// One that ends just now has none left, which would mean never.
			e.left = max(time.Duration(nfattr.Uint64(value))*time.Millisecond, time.Millisecond)
		case unix.NFTA_SET_ELEM_USERDATA:
			e.comment, _ = userdata.GetString(value, userdata.NFTNL_UDATA_SET_ELEM_COMMENT)
		}
	}
	return e
}

// spansOf puts the ends of ranges together. In the kernel a range begins with an
// element and ends with one that is marked, or not at all.
func spansOf(name string, elements []kernelElement) ([]span, error) {
	slices.SortFunc(elements, func(a, b kernelElement) int {
		return cmp.Or(slices.Compare(a.key, b.key), cmp.Compare(weight(a), weight(b)))
	})
	var out []span
	for _, e := range elements {
		n := len(out)
		switch {
		case e.end && n == 0 && allZero(e.key):
			// Some nft put an end before the first range; it means nothing.
		case e.end && (n == 0 || out[n-1].behind != ""):
			return nil, damaged("set %s has the end of a range without its beginning", name)
		case e.end:
			out[n-1].behind = string(e.key)
		case n > 0 && out[n-1].behind == "":
			return nil, damaged("set %s has the beginning of a range without its end", name)
		default:
			out = append(out, span{first: string(e.key)})
		}
	}
	return out, nil
}

// weight puts the end of a range before the beginning of the next.
func weight(e kernelElement) int {
	if e.end {
		return 0
	}
	return 1
}

func allZero(b []byte) bool { return strings.Trim(string(b), "\x00") == "" }

func numbersOf(spans []span) rule.PortRanges {
	var out []rule.PortRange
	for _, s := range spans {
		r := rule.PortRange{First: uint16At(s.first), Last: 65535}
		if s.behind != "" {
			r.Last = uint16At(s.behind) - 1
		}
		out = append(out, r)
	}
	return rule.NewPortRanges(out...)
}

func uint16At(key string) uint16 {
	if len(key) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16([]byte(key))
}

// prefixesOf returns the fewest prefixes that hold exactly the ranges.
func prefixesOf(spans []span) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range spans {
		from, _ := netip.AddrFromSlice([]byte(s.first))
		behind, _ := netip.AddrFromSlice([]byte(s.behind)) // not valid where the range is open
		for from.IsValid() && (!behind.IsValid() || from.Less(behind)) {
			p := widest(from, behind)
			out = append(out, p)
			from = lastOf(p).Next()
		}
	}
	return out
}

// widest returns the widest prefix that begins with from and ends before behind.
func widest(from, behind netip.Addr) netip.Prefix {
	best := netip.PrefixFrom(from, from.BitLen())
	for bits := from.BitLen() - 1; bits >= 0; bits-- {
		p := netip.PrefixFrom(from, bits)
		if p.Masked().Addr() != from || behind.IsValid() && !lastOf(p).Less(behind) {
			break
		}
		best = p
	}
	return best
}

// portOf reads the key of the set of ports.
func portOf(key []byte) (rule.Port, bool) {
	if len(key) < 6 {
		return rule.Port{}, false
	}
	for protocol, number := range protocolNumbers {
		if number == key[0] {
			return rule.Port{Protocol: protocol, Number: binary.BigEndian.Uint16(key[4:])}, true
		}
	}
	return rule.Port{}, false
}
