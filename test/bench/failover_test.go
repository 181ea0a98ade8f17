package bench

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

const failOvers = 200

// BenchmarkFailOver compiles what a node must enforce when a GatewaySet moves to it, and
// away, one of a hundred or the only one, beside all of it from nothing. Processor time is
// counted: the machine may be busy with others.
func BenchmarkFailOver(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, n := range exposureCounts(b) {
		fmt.Printf("%d ports with gateways; %s\n", n, machine())
		note("one of 100 GatewaySets moves, its ports compiled, p50", milli(failOver(b, n, 100)), "ms")
		note("the only one moves, p50", milli(failOver(b, n, 1)), "ms")
		in := centralized(n, 100)
		note("all compiled from nothing, p50", milli(middle(b, 20, func(int) { compile.Node(in) })), "ms")
	}
}

// failOver is the median of what a move costs.
func failOver(b *testing.B, n, sets int) time.Duration {
	b.Helper()
	in := centralized(n, sets)
	moved := in
	moved.GatewaySets = in.GatewaySets.With("gw-0", gatewaySet(0, "n1"))
	c := compile.NodeCompiler{}
	c.Compile(in)
	return middle(b, failOvers, func(i int) { c.Compile([]compile.NodeInput{moved, in}[i%2]) })
}

func middle(b *testing.B, times int, run func(i int)) time.Duration {
	b.Helper()
	took := make([]time.Duration, times)
	for i := range took {
		began := worked(b)
		run(i)
		took[i] = worked(b) - began
	}
	slices.Sort(took)
	return at(took, 50)
}

// centralized is a node that is no gateway of any port.
func centralized(n, sets int) compile.NodeInput {
	in := compile.NodeInput{Node: "n1"}
	pool := &v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: team(0)}}
	pool.Spec.Ranges, pool.Status.Armed = []v1alpha1.PortRange{judged}, []string{judged}
	in.Pools = compile.ObjectsOf(pool)
	var allocations []metav1.Object
	for i, g := range someGates(n, distinctSets) {
		a := allocationOf(g, v1alpha1.AllocationOpen)
		a.Spec.Gateways = &v1alpha1.ClaimedGateways{Active: 1, Set: v1alpha1.ObjectName(fmt.Sprintf("gw-%d", i%sets))}
		allocations = append(allocations, a)
	}
	in.Allocations = compile.ObjectsOf(allocations...)
	for i := range sets {
		in.GatewaySets = in.GatewaySets.With(compile.Name(fmt.Sprintf("gw-%d", i)), gatewaySet(i, "n2"))
	}
	return in
}

func gatewaySet(i int, node v1alpha1.ObjectName) *v1alpha1.GatewaySet {
	return &v1alpha1.GatewaySet{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("gw-%d", i)}, Spec: v1alpha1.GatewaySetSpec{Nodes: []v1alpha1.ObjectName{node}}}
}
