package compile

import (
	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// Numbers are those of a node's pools.
type Numbers struct {
	Armed   rule.PortRanges // of all pools, less what they reserve for others
	Dropped rule.PortRanges // those of them that are closed where nobody claims them
}

// NumbersOf returns the numbers of the pools, as Node judges them. installation is
// nil where there is none.
func NumbersOf(pools []v1alpha1.NodePortPool, installation *v1alpha1.Portreeve) Numbers {
	var n nodeRules
	n.addPools(NodeInput{Pools: pools, Installation: installation})
	return Numbers{
		Armed:   rule.NewPortRanges(n.armed...).Subtract(n.safe),
		Dropped: rule.NewPortRanges(n.dropped...).Subtract(n.safe),
	}
}

// exempt passes what listened on the dropped numbers, where nobody claims them.
func (n *nodeRules) exempt(ports []rule.Port, dropped rule.PortRanges) {
	free := dropped.Subtract(rule.NewPortRanges(n.claimed...)).Subtract(n.safe)
	for _, port := range ports {
		if !n.lockdown && free.Contains(port.Number) {
			n.terms[port] = rule.Terms{Sources: rule.World}
		}
	}
}
