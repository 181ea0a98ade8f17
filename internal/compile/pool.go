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
	// Owned are the numbers that are this pool's: its ranges less fail-safe ports
	// and less what older pools own.
	Owned rule.PortRanges
	// Armed are the owned numbers on which nodes drop what is not allocated.
	Armed rule.PortRanges
	// Overlaps names each older pool that owns part of the ranges, and which part.
	Overlaps []string
	// Invalid says what could not be read in the ranges; such a pool owns nothing.
	Invalid string
}

// Owned resolves overlaps: the older pool owns (then the one whose name sorts
// first). The result is in that order.
func Owned(pools []v1alpha1.NodePortPool) []Pool {
	sorted := make([]*v1alpha1.NodePortPool, len(pools))
	for i := range pools {
		sorted[i] = &pools[i]
	}
	slices.SortFunc(sorted, func(a, b *v1alpha1.NodePortPool) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	out := make([]Pool, 0, len(sorted))
	for _, p := range sorted {
		out = append(out, resolve(p, out))
	}
	return out
}

func resolve(p *v1alpha1.NodePortPool, older []Pool) Pool {
	ranges, err := parseRanges(p.Spec.Ranges)
	if err != nil {
		return Pool{NodePortPool: p, Invalid: err.Error(), Armed: unreadable(p)}
	}
	resolved := Pool{NodePortPool: p, Owned: ranges.Subtract(rule.FailSafe)}
	for _, o := range older {
		if both := resolved.Owned.Intersect(o.Owned); len(both) > 0 {
			resolved.Overlaps = append(resolved.Overlaps, fmt.Sprintf("%s owns %s", o.Name, strings.Join(both.Strings(), ", ")))
			resolved.Owned = resolved.Owned.Subtract(both)
		}
	}
	armed, err := rule.ParsePortRanges(p.Status.Armed)
	if err == nil { // an unreadable status arms nothing; the pool controller writes it anew
		resolved.Armed = resolved.Owned.Intersect(armed)
	}
	return resolved
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
