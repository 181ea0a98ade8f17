package compile

import (
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// manyPorts is an input of n open ports with ten networks each, 300 distinct lists
// among them.
func manyPorts(n int) NodeInput {
	in := NodeInput{Now: time.Unix(1000, 0)}
	pool := v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: "web", ResourceVersion: "1"}}
	pool.Spec.Ranges = []v1alpha1.PortRange{v1alpha1.PortRange(fmt.Sprintf("10000-%d", 9999+n))}
	pool.Status.Armed = []string{string(pool.Spec.Ranges[0])}
	in.Pools = ObjectsOf(&pool)
	var allocations []metav1.Object
	for i := range n {
		a := v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(10000 + i), UID: "u", ResourceVersion: fmt.Sprint(i)}}
		a.Spec.Pool, a.Spec.State, a.Spec.Protocols = "web", v1alpha1.AllocationOpen, []v1alpha1.Protocol{"TCP"}
		port := v1alpha1.ClaimedPort{Protocol: "TCP", Name: "https"}
		for j := range 10 {
			port.Sources = append(port.Sources, v1alpha1.CIDR(fmt.Sprintf("10.%d.%d.0/24", i%300%256, j*3+i%300/256)))
		}
		a.Spec.Ports = []v1alpha1.ClaimedPort{port}
		allocations = append(allocations, &a)
	}
	in.Allocations = ObjectsOf(allocations...)
	return in
}

// centralizedPorts are many ports that are shared among GatewaySets gw-0, gw-1 and so on,
// of which node a is no gateway.
func centralizedPorts(n, sets int) NodeInput {
	in := manyPorts(n)
	in.Node = "a"
	e := in.Allocations.Edit()
	for name, o := range in.Allocations.All {
		a := o.(*v1alpha1.NodePortAllocation)
		a.Spec.Gateways = &v1alpha1.ClaimedGateways{Active: 1, Set: v1alpha1.ObjectName(fmt.Sprintf("gw-%d", int(NumberOf(a))%sets))}
		e.Set(name, a)
	}
	in.Allocations = e.Table()
	for i := range sets {
		in.GatewaySets = in.GatewaySets.With(Name(fmt.Sprintf("gw-%d", i)), gatewaySet("1", "b"))
	}
	return in
}

// The only set, or one of a hundred, fails over to the node and back.
func BenchmarkNodeFailOver(b *testing.B) {
	for _, sets := range []int{1, 100} {
		n := 10000
		in, c := centralizedPorts(n, sets), NodeCompiler{}
		there := in
		there.GatewaySets = in.GatewaySets.With("gw-0", gatewaySet("2", "a"))
		b.Run(fmt.Sprintf("%d ports in %d sets", n, sets), func(b *testing.B) {
			c.Compile(in)
			for b.Loop() {
				c.Compile(there)
				c.Compile(in)
			}
		})
	}
}

func BenchmarkNode(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		in := manyPorts(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				Node(in)
			}
		})
	}
}

// One port of all comes and goes.
func BenchmarkNodeChange(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		in, c := manyPorts(n), NodeCompiler{}
		less := in
		less.Allocations = in.Allocations.With("10007", nil)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c.Compile(in)
			for b.Loop() {
				c.Compile(less)
				c.Compile(in)
			}
		})
	}
}
