package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/datapath/internal/nfattr"
	"github.com/portreeve/portreeve/internal/rule"
)

const (
	// dumps bounds how often a listing that the kernel calls inconsistent is repeated.
	dumps = 3
	// few ports are asked for one by one.
	few = 6
	// deletions in one message: if all of them fail there must be room for the answers.
	deletions = 128
)

// Sweep deletes the connections to this node, on the given ports, whose
// source want does not admit, and returns how many there were. Call it after the
// datapath enforces want: then no new one can come up behind it. A gate that has
// ended by the clock of this machine admits nobody. It works in the
// network namespace of the calling thread and may be called again after an
// error.
func Sweep(ctx context.Context, ports rule.ProtocolPorts, want rule.Set) (int, error) {
	ports = ports.Within(want.Judged)
	now := time.Now().Unix()
	return sweep(ctx, ports, func(f flow, node map[netip.Addr]bool) bool { return lost(f, node, ports, want, now) })
}

// sweep deletes the connections on the ports that match.
func sweep(ctx context.Context, ports rule.ProtocolPorts, match func(f flow, node map[netip.Addr]bool) bool) (int, error) {
	if len(ports) == 0 {
		return 0, nil
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	addresses, err := datapath.ReadAddresses(h)
	if err != nil {
		return 0, err
	}
	victims, err := find(familiesOf(addresses.Node), ports, func(f flow) bool { return match(f, addresses.Node) })
	if err != nil {
		return 0, err
	}
	s, err := openSocket()
	if err != nil {
		return 0, err
	}
	defer s.close()
	swept := 0
	for batch := range slices.Chunk(victims, deletions) {
		if err := ctx.Err(); err != nil {
			return swept, err
		}
		n, err := s.delete(batch)
		swept += n
		if err != nil {
			return swept, err
		}
	}
	return swept, nil
}

// lost says whether the flow may no longer be. The node's own addresses as
// source mean lo, which is never judged.
//
// The connections of a process of the node stay: while the kernel remembers who began
// them, their packets are judged, and dropped. Forgotten, the next packet of the
// process would make a new connection of it, begun by the node, whose replies pass.
func lost(f flow, node map[netip.Addr]bool, ports rule.ProtocolPorts, want rule.Set, now int64) bool {
	if !carried(f, node, ports, want) {
		return false
	}
	port := rule.Port{Protocol: f.protocol, Number: f.port}
	end := want.Ports.Get(port).Expires
	return end != 0 && end <= now || !want.Admits(port, f.source)
}

// carried says whether the flow goes through one of the ports, on an address on which
// want judges, from somebody else to somebody else.
func carried(f flow, node map[netip.Addr]bool, ports rule.ProtocolPorts, want rule.Set) bool {
	return !f.untranslated() && onto(f, node, ports, want)
}

// onto says whether the flow is one of somebody else to one of the ports, on an address on
// which want judges.
func onto(f flow, node map[netip.Addr]bool, ports rule.ProtocolPorts, want rule.Set) bool {
	port := rule.Port{Protocol: f.protocol, Number: f.port}
	if f.protocol == "" || !ports.Contains(port) || !node[f.destination] || node[f.source] {
		return false
	}
	return len(want.Addresses) == 0 || rule.Covers(want.Addresses, netip.PrefixFrom(f.destination, f.destination.BitLen()))
}

// familiesOf returns the families in which somebody else can have a connection to
// the node.
func familiesOf(node map[netip.Addr]bool) []uint8 {
	families := []uint8{unix.AF_INET}
	for a := range node {
		if a.Is6() && !a.IsLoopback() {
			return append(families, unix.AF_INET6)
		}
	}
	return families
}

// find lists the entries that match, which are all on the ports. It asks for each
// family at the same time: for every listing the kernel goes through the whole table.
func find(families []uint8, ports rule.ProtocolPorts, match func(flow) bool) ([]flow, error) {
	found, errs := make([][]flow, len(families)), make([]error, len(families))
	var asking sync.WaitGroup
	for i, family := range families {
		s, err := openSocket() // here, as another thread may be in another namespace
		if err != nil {
			errs[i] = err
			break
		}
		asking.Go(func() {
			defer s.close()
			found[i], errs[i] = s.find(family, ports, match)
		})
	}
	asking.Wait()
	return slices.Concat(found...), errors.Join(errs...)
}

// find asks for few ports one by one: to tell of an entry takes the kernel ten
// times as long as to pass over it.
func (s *socket) find(family uint8, ports rule.ProtocolPorts, match func(flow) bool) ([]flow, error) {
	whole := func() ([]flow, error) {
		found, _, err := s.list(family, nil, match)
		return found, err
	}
	asked := questionsAbout(ports)
	if asked == nil {
		return whole()
	}
	var all []flow
	for _, q := range asked {
		found, others, err := s.list(family, &q, match)
		if err != nil {
			return nil, err
		}
		if others { // this kernel does not choose
			return whole()
		}
		all = append(all, found...)
	}
	return all, nil
}

// question is what a listing is to choose.
type question struct {
	protocol uint8
	number   uint16
}

// questionsAbout asks for each port by itself, nil where they are not few.
func questionsAbout(ports rule.ProtocolPorts) []question {
	var out []question
	for protocol, name := range protocols {
		if len(out)+ports[name].Len() > few {
			return nil
		}
		for n := range ports[name].Numbers {
			out = append(out, question{protocol, n})
		}
	}
	return out
}

// list returns the entries that match; others says that the kernel told of some by
// another protocol than was asked for.
func (s *socket) list(family uint8, asked *question, match func(flow) bool) (found []flow, others bool, err error) {
	fill := func(*nfattr.Builder) {}
	if asked != nil {
		fill = asked.fill
	}
	for attempt := 1; ; attempt++ {
		found, others = nil, false
		err := s.dump(family, fill, func(message []byte) {
			f := parse(message)
			others = others || asked != nil && f.protocol != protocols[asked.protocol]
			if match(f) {
				found = append(found, f.owned())
			}
		})
		if errors.Is(err, errInterrupted) && attempt < dumps {
			continue
		}
		if err != nil {
			return nil, false, fmt.Errorf("list conntrack table: %w", err)
		}
		return found, others, nil
	}
}
