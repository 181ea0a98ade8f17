package compile

import (
	"maps"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// Whatever changes, a compiler that remembers says what one says that has just begun.
func TestNodeCompilerForgetsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, in := NodeCompiler{}, anyInput(t)
		for range 3 {
			in.Pools, in.Allocations = with(in.Pools, anyPool(t)), with(in.Allocations, plainAllocation(t))
		}
		for range rapid.IntRange(5, 15).Draw(t, "rounds") {
			got, said := c.Compile(in)
			from := NodeCompiler{}
			want, saidFrom := from.Compile(in)
			if !got.Equal(want) || !maps.EqualFunc(got.Classes, want.Classes, slices.Equal) {
				t.Fatalf("changed to\n%v, from scratch\n%v", got, want)
			}
			if !slices.Equal(said, saidFrom) {
				t.Fatalf("says %v, and from scratch %v", said, saidFrom)
			}
			if !c.NextEnd().Equal(from.NextEnd()) || !c.NextEnd().IsZero() && !c.NextEnd().After(in.Now) {
				t.Fatalf("ends next at %s, from scratch at %s, and now is %s", c.NextEnd(), from.NextEnd(), in.Now)
			}
			for range rapid.IntRange(0, 3).Draw(t, "edits") {
				edit(t, &in)
			}
		}
	})
}

// edit changes something, as a rule an allocation.
func edit(t *rapid.T, in *NodeInput) {
	remove := func(from Objects) Objects {
		for name := range from.All {
			if rapid.Bool().Draw(t, "this one") {
				return from.With(name, nil)
			}
		}
		return from
	}
	switch rapid.IntRange(0, 20).Draw(t, "what") {
	case 0:
		in.Pools = with(in.Pools, anyPool(t))
	case 1:
		in.Pools = remove(in.Pools)
	case 2:
		in.AddressSets = with(in.AddressSets, anySets(t)...)
	case 3:
		in.AddressSets = remove(in.AddressSets)
	case 4, 5:
		in.Now = clock.Add(time.Duration(rapid.IntRange(-2, 3).Draw(t, "now")) * time.Second)
	case 6:
		in.Labels = map[string]string{"role": rapid.SampledFrom([]string{"edge", "core"}).Draw(t, "role")}
		in.Unlabelled = rapid.Bool().Draw(t, "unlabelled")
	case 7:
		in.Installation = anyInput(t).Installation
	case 8:
		in.Exempt = rapid.SliceOfN(rapid.SampledFrom([]rule.Port{
			{Protocol: rule.TCP, Number: 30000}, {Protocol: rule.UDP, Number: 30005}, {Protocol: rule.TCP, Number: 30007}, {Protocol: rule.TCP, Number: 22},
		}), 0, 3).Draw(t, "exempt")
	case 9:
		in.Pools = counted(in.Pools)
	case 17:
		in.Node = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "node")
	case 18, 19:
		in.GatewaySets = with(in.GatewaySets, v1alpha1.GatewaySet{
			ObjectMeta: metav1.ObjectMeta{Name: rapid.SampledFrom([]string{"gw", "gw2"}).Draw(t, "set")},
			Spec:       v1alpha1.GatewaySetSpec{Nodes: rapid.SliceOfNDistinct(rapid.SampledFrom([]v1alpha1.ObjectName{"a", "b"}), 0, 2, rapid.ID).Draw(t, "gateways")},
		})
	case 20:
		in.GatewaySets = remove(in.GatewaySets)
	case 10, 11:
		in.Allocations = remove(in.Allocations)
	case 12, 13, 14, 15:
		in.Allocations = with(in.Allocations, plainAllocation(t))
	default:
		in.Allocations = with(in.Allocations, anyAllocation(t))
	}
}

// plainAllocation admits somebody, as a rule: of what could be anything, little does.
func plainAllocation(t *rapid.T) v1alpha1.NodePortAllocation {
	a := v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: rapid.SampledFrom([]string{"30000", "30005", "30007", "40000"}).Draw(t, "name")}}
	a.Spec.State, a.Spec.Pool = v1alpha1.AllocationOpen, rapid.SampledFrom([]string{"0", "1", "2"}).Draw(t, "pool")
	port := v1alpha1.ClaimedPort{Protocol: "TCP", Sources: []v1alpha1.CIDR{rapid.SampledFrom([]v1alpha1.CIDR{"10.8.0.0/16", "2001:db8::/48"}).Draw(t, "source")}}
	if rapid.Bool().Draw(t, "by set") {
		port.AddressSets = []v1alpha1.ObjectName{"office"}
	}
	if after := rapid.IntRange(1, 6).Draw(t, "ends"); after < 3 {
		a.Spec.ExpiresAt = &metav1.Time{Time: clock.Add(time.Duration(after) * time.Second)}
	}
	if rapid.Bool().Draw(t, "gateways") {
		a.Spec.Gateways = &v1alpha1.ClaimedGateways{Active: 1, Set: rapid.SampledFrom([]v1alpha1.ObjectName{"gw", "gw2"}).Draw(t, "of")}
	}
	a.Spec.Ports = []v1alpha1.ClaimedPort{port}
	return a
}

// counted are the same pools with another status.
func counted(pools Objects) Objects {
	for name, o := range pools.All {
		p := o.(*v1alpha1.NodePortPool).DeepCopy()
		p.Status.Allocated++
		pools = pools.With(name, p)
	}
	return pools
}

// What does not change costs nothing: neither the counts in a pool's status, nor the
// time, nor the ports beside the one that changes.
func TestNodeCompilerLooksAtWhatChanged(t *testing.T) {
	in, c := manyPorts(300), NodeCompiler{}
	before, _ := c.Compile(in)
	in.Pools, in.Now = counted(in.Pools), in.Now.Add(time.Hour)
	if same, _ := c.Compile(in); same.Ports != before.Ports {
		t.Error("the ports are other ones, though none changed")
	}
	rules := c.rules
	in.Allocations = in.Allocations.With("10007", nil)
	after, _ := c.Compile(in)
	changed := 0
	for range before.Ports.Changes(after.Ports) {
		changed++
	}
	if changed != 1 || c.rules != rules {
		t.Errorf("%d ports changed, and all were looked at: %v", changed, c.rules != rules)
	}
}

func TestNodeCompilerHearsOfAFailOver(t *testing.T) {
	in, c := manyPorts(3), NodeCompiler{}
	a := in.Allocations.Get("10001").(*v1alpha1.NodePortAllocation).DeepCopy()
	a.Spec.Gateways = &v1alpha1.ClaimedGateways{Active: 1, Set: "gw"}
	in.Node, in.Allocations = "a", in.Allocations.With("10001", a)
	port := rule.Port{Protocol: rule.TCP, Number: 10001}
	for _, active := range nodeNames("b a b") {
		in.GatewaySets = Objects{}
		in.GatewaySets = with(in.GatewaySets, *gatewaySet("1", active))
		set, _ := c.Compile(in)
		if answers := len(set.Sources(port)) > 0; answers != (active == "a") || answers == (len(set.Refused(port)) > 0) {
			t.Errorf("%s is the gateway: a answers: %v", active, answers)
		}
	}
}

// A fail-over costs the ports of the set that moved, on the nodes that it concerns.
func TestNodeCompilerLooksAtTheGatewaysThatMoved(t *testing.T) {
	in := centralizedPorts(150, 3) // none of them is fail-safe
	c := NodeCompiler{}
	before, _ := c.Compile(in)
	rules := c.rules
	for _, move := range []struct {
		set   string
		nodes string
		ports int
	}{{"gw-1", "b", 0}, {"gw-1", "a b", 50}, {"gw-1", "a", 0}, {"gw-1", "c", 50}, {"gw-2", "a", 50}} {
		in.GatewaySets = in.GatewaySets.With(Name(move.set), gatewaySet("2", nodeNames(move.nodes)...))
		after, _ := c.Compile(in)
		changed := 0
		for range before.Ports.Changes(after.Ports) {
			changed++
		}
		if changed != move.ports || c.rules != rules {
			t.Errorf("%s moves to %s: %d ports changed, want %d; all were looked at: %v", move.set, move.nodes, changed, move.ports, c.rules != rules)
		}
		before = after
	}
}

func TestNodeCompilerEndsInTime(t *testing.T) {
	in, c := manyPorts(3), NodeCompiler{}
	for i, name := range []Name{"10002", "10000", "10001"} {
		a := in.Allocations.Get(name).(*v1alpha1.NodePortAllocation).DeepCopy()
		a.Spec.ExpiresAt = &metav1.Time{Time: in.Now.Add(time.Duration(i+1) * time.Minute)}
		in.Allocations = in.Allocations.With(name, a)
	}
	start := in.Now
	for minute, open := range []int{3, 2, 1, 0, 0} {
		in.Now = start.Add(time.Duration(minute) * time.Minute)
		set, _ := c.Compile(in)
		if set.Ports.Len() != open {
			t.Errorf("minute %d: %d ports are open, want %d", minute, set.Ports.Len(), open)
		}
		if next := c.NextEnd(); open > 0 && !next.Equal(in.Now.Add(time.Minute)) || open == 0 && !next.IsZero() {
			t.Errorf("minute %d: the next end is at %s", minute, next)
		}
	}
}

func TestNumberSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		numbers := rapid.SampledFrom([]uint16{0, 1, 62, 63, 64, 65, 127, 128, 30000, 65534, 65535})
		var ranges []rule.PortRange
		for range rapid.IntRange(0, 4).Draw(t, "ranges") {
			a, b := numbers.Draw(t, "a"), numbers.Draw(t, "b")
			ranges = append(ranges, rule.PortRange{First: min(a, b), Last: max(a, b)})
		}
		want := rule.NewPortRanges(ranges...)
		s := setOfRanges(want)
		if got := s.ranges(); !slices.Equal(got, want) {
			t.Fatalf("%v reads %v", want, got)
		}
		n := numbers.Draw(t, "n")
		s.remove(n)
		if got := s.ranges(); s.has(n) || !slices.Equal(got, want.Subtract(rule.PortRanges{{First: n, Last: n}})) {
			t.Fatalf("%v less %d reads %v", want, n, got)
		}
	})
}

// A list that can't be read is not taken for another one of the same letters.
func TestSourceListsAreNotMixedUp(t *testing.T) {
	in := NodeInput{}
	for name, sources := range map[string][]v1alpha1.CIDR{
		"30000": {"10.8.0.0/16", "10.9.0.0/16"}, "30001": {"10.8.0.0/16 10.9.0.0/16"}, "30002": {"10.8.0.0/16 10.9.0.0/16 "},
	} {
		a := v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: name}}
		a.Spec.State, a.Spec.Ports = v1alpha1.AllocationOpen, []v1alpha1.ClaimedPort{{Protocol: "TCP", Sources: sources}}
		in.Allocations = with(in.Allocations, a)
	}
	if set, problems := Node(in); set.Ports.Len() != 1 || len(problems) != 2 {
		t.Errorf("%d ports are open, with problems %v", set.Ports.Len(), problems)
	}
}
