package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// Pool is a NodePortPool with its ranges resolved against the other pools.
type Pool struct {
	*v1alpha1.NodePortPool
	// Owned are the numbers that this pool may hand out: its ranges less reserved and
	// fail-safe ports, less what older pools own, and less what the API server has not.
	Owned rule.PortRanges
	// Reserved are numbers that are this pool's, never handed out and never judged.
	Reserved rule.PortRanges
	// Outside are numbers of the ranges that the API server can't give.
	Outside rule.PortRanges
	// Armed are the owned numbers on which nodes drop what is not allocated.
	Armed rule.PortRanges
	// Overlaps names each older pool that owns part of the ranges, and which part.
	Overlaps []string
	// Invalid says what could not be read in the ranges; such a pool owns nothing.
	Invalid string
}

// Limits hold for all pools.
type Limits struct {
	// NodePorts is the API server's node-port range; empty when it is not known.
	NodePorts rule.PortRanges
	// FailSafe are ports that no pool may hold, besides the built-in ones.
	FailSafe rule.PortRanges
}

// NewLimits reads what the installation says; object is nil where there is none.
// found is the range the API server was seen to have, "" when it is not known.
func NewLimits(object *v1alpha1.Portreeve, found string) Limits {
	var l Limits
	if object != nil {
		l.FailSafe = failSafe(object)
		if object.Spec.NodePortRange != "" {
			found = string(object.Spec.NodePortRange)
		}
	}
	if r, err := rule.ParsePortRange(found); err == nil {
		l.NodePorts = rule.NewPortRanges(r)
	}
	return l
}

// failSafe reads the installation's fail-safe ports one by one, so that a bad one
// does not expose its neighbours.
func failSafe(object *v1alpha1.Portreeve) rule.PortRanges {
	var ranges []rule.PortRange
	for _, s := range object.Spec.FailSafePorts {
		if r, err := rule.ParsePortRange(string(s)); err == nil {
			ranges = append(ranges, r)
		}
	}
	return rule.NewPortRanges(ranges...)
}

// Owned resolves overlaps: the older pool owns (then the one whose name sorts
// first). The result is in that order.
func Owned(pools []v1alpha1.NodePortPool, limits Limits) []Pool {
	sorted := make([]*v1alpha1.NodePortPool, len(pools))
	for i := range pools {
		sorted[i] = &pools[i]
	}
	slices.SortFunc(sorted, func(a, b *v1alpha1.NodePortPool) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	out := make([]Pool, 0, len(sorted))
	for _, p := range sorted {
		out = append(out, resolve(p, out, limits))
	}
	return out
}

func resolve(p *v1alpha1.NodePortPool, older []Pool, limits Limits) Pool {
	ranges, err := parseRanges(p.Spec.Ranges)
	if err != nil {
		return Pool{NodePortPool: p, Invalid: err.Error(), Armed: unreadable(p)}
	}
	resolved := Pool{NodePortPool: p, Owned: ranges.Subtract(rule.FailSafe).Subtract(limits.FailSafe)}
	if len(limits.NodePorts) > 0 {
		resolved.Outside = resolved.Owned.Subtract(limits.NodePorts)
		resolved.Owned = resolved.Owned.Subtract(resolved.Outside)
	}
	for _, o := range older {
		if both := resolved.Owned.Intersect(o.Owned.Union(o.Reserved)); len(both) > 0 {
			resolved.Overlaps = append(resolved.Overlaps, fmt.Sprintf("%s owns %s", o.Name, strings.Join(both.Strings(), ", ")))
			resolved.Owned = resolved.Owned.Subtract(both)
		}
	}
	resolved.Reserved = resolved.Owned.Intersect(reserved(p))
	resolved.Owned = resolved.Owned.Subtract(resolved.Reserved)
	armed, err := rule.ParsePortRanges(p.Status.Armed)
	if err == nil { // an unreadable status arms nothing; the pool controller writes it anew
		resolved.Armed = resolved.Owned.Intersect(armed)
	}
	return resolved
}

// reserved reads the entries one by one, as the API server has judged them.
func reserved(p *v1alpha1.NodePortPool) rule.PortRanges {
	var ranges []rule.PortRange
	for _, r := range p.Spec.Reserved {
		if parsed, err := rule.ParsePortRange(string(r.Ports)); err == nil {
			ranges = append(ranges, parsed)
		}
	}
	return rule.NewPortRanges(ranges...)
}

// unreadable is what stays armed of a pool whose ranges can't be read: nobody is
// let in by a slip of the pen.
func unreadable(p *v1alpha1.NodePortPool) rule.PortRanges {
	armed, err := rule.ParsePortRanges(p.Status.Armed)
	if err != nil {
		return nil
	}
	return armed
}

func parseRanges(ranges []v1alpha1.PortRange) (rule.PortRanges, error) {
	texts := make([]string, len(ranges))
	for i, r := range ranges {
		texts[i] = string(r)
	}
	return rule.ParsePortRanges(texts)
}

// PoolOf returns the pool that owns the number, or nil.
func PoolOf(pools []Pool, number uint16) *Pool {
	for i := range pools {
		if pools[i].Owned.Contains(number) {
			return &pools[i]
		}
	}
	return nil
}
