package compile

import (
	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// Numbers are those of a node's pools.
type Numbers struct {
	Armed   rule.PortRanges // of all pools, less what they reserve for others
	Dropped rule.PortRanges // those of them that are closed where nobody claims them
	// Lenient are those of them of pools that leave alone what stood there before.
	Lenient rule.PortRanges
}

// NumbersOf returns the numbers of the pools, as Node judges them. installation is
// nil where there is none.
func NumbersOf(pools []v1alpha1.NodePortPool, installation *v1alpha1.Portreeve) Numbers {
	var n nodeRules
	n.addPools(pools, installation)
	armed := rule.NewPortRanges(n.armed...).Subtract(n.safe)
	return Numbers{
		Armed:   armed,
		Dropped: rule.NewPortRanges(n.dropped...).Subtract(n.safe),
		Lenient: armed.Subtract(rule.NewPortRanges(n.strict...)),
	}
}
