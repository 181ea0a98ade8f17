package agent

import (
	"slices"

	"github.com/portreeve/portreeve/internal/rule"
)

// reserved returns what the kernel should keep out of its ephemeral range in place
// of have, and what of that is ours to take back, given that ours was before. If
// not all of ours is there, somebody has written the list anew, and all that is in
// it is theirs.
func reserved(have, ours, want rule.PortRanges) (next, oursNext rule.PortRanges) {
	others := have
	if len(ours.Subtract(have)) == 0 {
		others = have.Subtract(ours)
	}
	return others.Union(want), want.Subtract(others)
}

// reserve keeps the numbers out of the kernel's ephemeral range, and gives back
// those that were ours and are wanted no more. A node where that is not possible
// enforces all the same: it is only that answers to a connection of its own may come
// to a number of a pool, and are told from a client's by connection tracking alone.
func (a *Agent) reserve(want rule.PortRanges) {
	err := a.reserveNow(want)
	text := ""
	if err != nil {
		text = err.Error()
		a.metrics.unreserved.Set(float64(want.Len()))
	} else {
		a.metrics.unreserved.Set(0)
	}
	if text != "" && text != a.unreserved {
		a.log.Warn("the node may use numbers of pools as its own source ports: they can't be kept out of its ephemeral range; mount net.ipv4.ip_local_reserved_ports writable and name it by --reserved-ports-file", "error", err)
	}
	a.unreserved = text
}

func (a *Agent) reserveNow(want rule.PortRanges) error {
	have, err := a.config.Host.Reserved()
	if err != nil {
		return err
	}
	ours := ranges(a.node.Reserved)
	next, oursNext := reserved(have, ours, want)
	// On disk before they are in the kernel, and until they are not: else nobody
	// would know any more whose they are.
	memory := a.node.nodeMemory
	memory.Reserved = ours.Union(oursNext).Strings()
	if err := a.node.remember(memory); err != nil {
		return err
	}
	if !slices.Equal(next, have) {
		if err := a.config.Host.Reserve(next); err != nil {
			return err
		}
	}
	memory.Reserved = oursNext.Strings()
	return a.node.remember(memory)
}
