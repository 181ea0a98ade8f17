package compile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// gatewaySet is one with the name that gateways gives its allocation.
func gatewaySet(version string, nodes ...v1alpha1.ObjectName) *v1alpha1.GatewaySet {
	return &v1alpha1.GatewaySet{ObjectMeta: metav1.ObjectMeta{Name: "gw", ResourceVersion: version}, Spec: v1alpha1.GatewaySetSpec{Nodes: nodes}}
}

// gateways lets one node answer, those of the set; every node has read GatewaySets up to
// 60.
func (s *Seen) gateways(sets ...*v1alpha1.GatewaySet) {
	s.Allocations[0].Spec.Gateways = &v1alpha1.ClaimedGateways{Active: 1, Set: "gw"}
	s.Proof.ListedGateways, s.Proof.Gateways = "61", GatewaySets{}
	for _, set := range sets {
		s.Proof.Gateways[v1alpha1.ObjectName(set.Name)] = set
	}
	for _, n := range s.Nodes {
		n.Datapath.Status.Marks.GatewaySets = "60"
	}
}

func role(value string) func(*NodeReport) {
	return func(n *NodeReport) { n.Labels = map[string]string{"role": value} }
}

func cordoned(n *NodeReport) { n.Spec.Unschedulable = true }

func excluded(n *NodeReport) { n.Labels[corev1.LabelNodeExcludeBalancers] = "" }

func tainted(n *NodeReport) {
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService})
}

func leaving(n *NodeReport) { n.DeletionTimestamp = &metav1.Time{Time: clock} }

func claiming(active int32, allowed, selected *metav1.LabelSelector) *v1alpha1.NodePortAllocation {
	a := &v1alpha1.NodePortAllocation{Spec: v1alpha1.NodePortAllocationSpec{State: v1alpha1.AllocationOpen, NodeSelector: allowed}}
	a.Spec.Gateways = inSet(v1alpha1.ClaimedGateways{NodeSelector: selected, Active: active}, allowed)
	return a
}

func selector(role string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"role": role}}
}

func nodeNames(list string) (out []v1alpha1.ObjectName) {
	for _, name := range strings.Fields(list) {
		out = append(out, v1alpha1.ObjectName(name))
	}
	return out
}

func TestGatewaysAreChosen(t *testing.T) {
	three := []NodeReport{node("c"), node("b"), node("a")}
	for _, c := range []struct {
		name   string
		active int32
		have   string
		nodes  []NodeReport
		lost   string
		want   string
	}{
		{"the first by name", 1, "", three, "", "a"},
		{"as many as are wished", 2, "", three, "", "a b"},
		{"as many as there are", 9, "", three, "", "a b c"},
		{"who is active stays", 1, "b", three, "", "b"},
		{"who comes back takes nobody's place", 2, "b c", three, "", "b c"},
		{"one more is wished", 2, "c", three, "", "a c"},
		{"one less is wished", 1, "b c", three, "", "b"},
		{"the next one takes over", 1, "a", []NodeReport{node("a", notReady), node("b"), node("c")}, "", "b"},
		{"only the place of the lost one is filled", 2, "b c", []NodeReport{node("a"), node("b", notReady), node("c")}, "", "a c"},
		{"the node is gone", 1, "a", []NodeReport{node("b")}, "", "b"},
		{"the node is being deleted", 1, "a", []NodeReport{node("a", leaving), node("b")}, "", "b"},
		{"the node is out of service", 1, "a", []NodeReport{node("a", tainted), node("b")}, "", "b"},
		{"the node is excluded", 1, "a", []NodeReport{node("a", excluded), node("b")}, "", "b"},
		{"nobody filters the node", 1, "a", []NodeReport{node("a", ungated), node("b")}, "", "b"},
		{"the node rebooted and has no agent yet", 1, "a", []NodeReport{node("a", rebooted), node("b")}, "", "b"},
		{"the node can't be one", 1, "", []NodeReport{node("a", windows), node("b")}, "", "b"},
		{"its agent is lost", 1, "a", three, "a", "b"},
		{"its agent is lost and there is no other", 1, "a", []NodeReport{node("a"), node("b", notReady)}, "a", "a"},
		{"all agents are lost", 1, "b", three, "a b c", "b"},
		{"whose agent is lost is not chosen", 1, "", []NodeReport{node("a")}, "a", ""},
		{"cordoned nodes come last", 1, "", []NodeReport{node("a", cordoned), node("b")}, "", "b"},
		{"a cordon moves nobody", 1, "a", []NodeReport{node("a", cordoned), node("b")}, "", "a"},
		{"a cordoned node is better than a lost one", 1, "a", []NodeReport{node("a"), node("b", cordoned)}, "a", "b"},
		{"nobody is left", 1, "a", []NodeReport{node("a", notReady)}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			lost := map[string]bool{}
			for _, name := range strings.Fields(c.lost) {
				lost[name] = true
			}
			choice := GatewayChoiceOf(claiming(c.active, nil, nil))
			if got := choice.Choose(nodeNames(c.have), c.nodes, lost); !slices.Equal(got, nodeNames(c.want)) {
				t.Errorf("%v, want %s", got, c.want)
			}
		})
	}
}

// What is chosen lies within what is selected and what the pool allows, is as many as
// wished where there are so many, and stays as it is while nothing happens.
func TestGatewaysAreWithinBoundsAndStay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var nodes []NodeReport
		for i := range rapid.IntRange(0, 6).Draw(t, "nodes") {
			n := node(fmt.Sprint("n", i), role(rapid.SampledFrom([]string{"edge", "core"}).Draw(t, "role")))
			n.Labels["zone"] = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "zone")
			for _, trouble := range []func(*NodeReport){notReady, cordoned, excluded, ungated} {
				if rapid.IntRange(0, 4).Draw(t, "trouble") == 0 {
					trouble(&n)
				}
			}
			nodes = append(nodes, n)
		}
		a := claiming(rapid.Int32Range(1, 3).Draw(t, "active"), selector("edge"), &metav1.LabelSelector{MatchLabels: map[string]string{"zone": "a"}})
		choice := GatewayChoiceOf(a)
		have := rapid.SliceOfNDistinct(rapid.SampledFrom(nodeNames("n0 n1 n2 n3 gone")), 0, 3, rapid.ID).Draw(t, "have")
		lost := map[string]bool{"n1": rapid.Bool().Draw(t, "lost")}
		chosen := choice.Choose(have, nodes, lost)
		if again := choice.Choose(chosen, rapid.Permutation(nodes).Draw(t, "order"), lost); !slices.Equal(again, chosen) {
			t.Fatalf("%v became %v", chosen, again)
		}
		sets := GatewaySets{a.Spec.Gateways.Set: {Spec: v1alpha1.GatewaySetSpec{Nodes: chosen}}}
		answering := 0
		for _, n := range nodes {
			if Answering(n, a, sets) {
				answering++
				if n.Labels["role"] != "edge" || n.Labels["zone"] != "a" || !Ready(n.Node) {
					t.Fatalf("%s answers", n.Name)
				}
			}
		}
		if answering != len(chosen) || len(chosen) > choice.active {
			t.Fatalf("%d answer of %v", answering, chosen)
		}
	})
}

// Allocations that choose in the same way share a set, however that is spelled.
func TestTheNameOfAGatewaySetIsWhatItIsChosenBy(t *testing.T) {
	in := func(key string, values ...string) metav1.LabelSelectorRequirement {
		return metav1.LabelSelectorRequirement{Key: key, Operator: metav1.LabelSelectorOpIn, Values: values}
	}
	of := func(r ...metav1.LabelSelectorRequirement) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchExpressions: r}
	}
	same := [][2]*v1alpha1.NodePortAllocation{
		{claiming(1, nil, nil), claiming(1, &metav1.LabelSelector{}, &metav1.LabelSelector{})},
		{claiming(1, nil, of(in("a", "x", "y"), in("b", "z", "w"))), claiming(1, nil, of(in("b", "w", "z"), in("a", "y", "x")))},
		{claiming(1, nil, of(in("a", "x", "y"), in("a", "y", "z"))), claiming(1, nil, of(in("a", "y", "z"), in("a", "x", "y")))},
	}
	for i, pair := range same {
		if pair[0].Spec.Gateways.Set != pair[1].Spec.Gateways.Set {
			t.Errorf("%d: two sets", i)
		}
	}
	seen := map[v1alpha1.ObjectName]bool{}
	others := []*v1alpha1.NodePortAllocation{
		claiming(1, nil, nil), claiming(2, nil, nil), claiming(1, selector("edge"), nil), claiming(1, nil, selector("edge")),
		claiming(1, selector("core"), selector("edge")), claiming(1, selector("edge"), selector("core")),
	}
	for _, a := range others {
		if seen[a.Spec.Gateways.Set] {
			t.Errorf("%s stands for two choices", a.Spec.Gateways.Set)
		}
		seen[a.Spec.Gateways.Set] = true
	}
	forged := claiming(1, nil, selector("edge"))
	forged.Spec.Gateways.Set = claiming(1, nil, nil).Spec.Gateways.Set
	shut := claiming(1, nil, nil)
	shut.Spec.State = v1alpha1.AllocationClosed
	for _, a := range []*v1alpha1.NodePortAllocation{forged, shut, {}} {
		if GatewayChoiceOf(a) != nil {
			t.Errorf("%+v chooses", a.Spec)
		}
	}
}

// Who forges a set, or writes one for other labels, brings no node to answer that the
// pool or the policy does not pick.
func TestAGatewaySetMovesNoPortToOtherNodes(t *testing.T) {
	a := claiming(1, selector("edge"), &metav1.LabelSelector{MatchLabels: map[string]string{"zone": "a"}})
	sets := GatewaySets{a.Spec.Gateways.Set: {Spec: v1alpha1.GatewaySetSpec{Nodes: nodeNames("n")}}}
	for labels, want := range map[[2]string]bool{{"edge", "a"}: true, {"core", "a"}: false, {"edge", "b"}: false} {
		n := node("n")
		n.Labels = map[string]string{"role": labels[0], "zone": labels[1]}
		if got := Answering(n, a, sets); got != want {
			t.Errorf("%v answers: %v", labels, got)
		}
	}
}

func TestAnAgentThatIsTooLateIsLost(t *testing.T) {
	at := func(seconds int) time.Time { return clock.Add(time.Duration(seconds) * time.Second) }
	read := func(allocations, sets string, changes ...func(*NodeReport)) NodeReport {
		return node("a", append(changes, marks(func(m *v1alpha1.Marks) { m.Allocations, m.GatewaySets = allocations, sets }))...)
	}
	type look struct {
		at                int
		node              NodeReport
		allocations, sets string
		lost              bool
	}
	for name, looks := range map[string][]look{
		"it does what it is told":             {{0, read("9", "9"), "9", "9", false}, {60, read("9", "9"), "9", "9", false}},
		"it never does":                       {{0, read("8", "9"), "9", "9", false}, {9, read("8", "9"), "9", "9", false}, {10, read("8", "9"), "9", "9", true}},
		"it does not hear of a fail-over":     {{0, read("9", "8"), "9", "9", false}, {10, read("9", "8"), "9", "9", true}},
		"it is behind all the time, and goes": {{0, read("8", "9"), "9", "9", false}, {8, read("9", "9"), "10", "9", false}, {16, read("10", "9"), "11", "9", false}},
		"it is behind, and stands":            {{0, read("8", "9"), "9", "9", false}, {8, read("8", "9"), "10", "9", false}, {16, read("8", "9"), "11", "9", true}},
		"it comes back":                       {{0, read("8", "9"), "9", "9", false}, {10, read("8", "9"), "9", "9", true}, {11, read("9", "9"), "9", "9", false}},
		"it fails":                            {{0, read("9", "9", enforced(v1alpha1.ReasonFailed)), "9", "9", false}, {10, read("9", "9", enforced(v1alpha1.ReasonFailed)), "9", "9", true}},
		"packets go around it":                {{0, read("9", "9", enforced(v1alpha1.ReasonEnforcementUnsupported)), "9", "9", false}, {10, read("9", "9", enforced(v1alpha1.ReasonEnforcementUnsupported)), "9", "9", true}},
		"something vanished, for all nodes":   {{0, read("9", "9", enforced(v1alpha1.ReasonVanished)), "9", "9", false}, {10, read("9", "9", enforced(v1alpha1.ReasonVanished)), "9", "9", false}},
		"nothing was ever written":            {{0, read("", ""), "", "", false}, {10, read("", ""), "", "", false}},
	} {
		t.Run(name, func(t *testing.T) {
			var lag Lag
			for _, l := range looks {
				lag = lag.Next(l.node, l.allocations, l.sets, false, at(l.at))
				if lost, in := lag.Lost(at(l.at)); lost != l.lost || lost && in != 0 || in > lostAfter {
					t.Errorf("after %d s: lost %v, in %s", l.at, lost, in)
				}
			}
		})
	}
}

// An agent that has nothing to do is lost by time alone; what it may be behind counts
// beside that.
func TestAnAgentThatIsDownIsLostInTime(t *testing.T) {
	at := func(seconds int) time.Time { return clock.Add(time.Duration(seconds) * time.Second) }
	told, behind := node("a"), node("a", mark("89"))
	type look struct {
		at   int
		node NodeReport
		down bool
		in   int // seconds, 0: never, -1: it is lost
	}
	for name, looks := range map[string][]look{
		"it works":                      {{0, told, false, 0}, {60, told, false, 0}},
		"it does not":                   {{0, told, true, 30}, {10, told, true, 20}, {29, told, true, 1}, {30, told, true, -1}, {90, told, true, -1}},
		"it is replaced":                {{0, told, true, 30}, {29, told, false, 0}, {31, told, true, 30}},
		"it comes back":                 {{0, told, true, 30}, {40, told, true, -1}, {41, told, false, 0}},
		"it is down, and told more":     {{0, told, true, 30}, {5, behind, true, 10}, {15, behind, true, -1}},
		"it is behind, and goes down":   {{0, behind, false, 10}, {5, behind, true, 5}, {10, behind, true, -1}},
		"it was behind, and stays down": {{0, behind, true, 10}, {5, told, true, 25}, {30, told, true, -1}},
	} {
		t.Run(name, func(t *testing.T) {
			var lag Lag
			for _, l := range looks {
				lag = lag.Next(l.node, "90", "", l.down, at(l.at))
				lost, in := lag.Lost(at(l.at))
				if lost != (l.in < 0) || in != time.Duration(max(l.in, 0))*time.Second {
					t.Errorf("after %d s: lost %v, in %s", l.at, lost, in)
				}
			}
		})
	}
}

func TestWhichAgentsAreDown(t *testing.T) {
	pod := func(node string, ready corev1.ConditionStatus) corev1.Pod {
		return corev1.Pod{Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}}
	}
	works, fails := corev1.ConditionTrue, corev1.ConditionFalse
	for name, c := range map[string]struct {
		pods []corev1.Pod
		want string
	}{
		"all work":                       {[]corev1.Pod{pod("a", works), pod("b", works)}, "map[]"},
		"one does not":                   {[]corev1.Pod{pod("a", works), pod("b", fails)}, "map[b:true]"},
		"nobody says so":                 {[]corev1.Pod{pod("a", works), pod("b", corev1.ConditionUnknown)}, "map[b:true]"},
		"one is gone":                    {[]corev1.Pod{pod("a", works)}, "map[b:true]"},
		"one is replaced":                {[]corev1.Pod{pod("a", works), pod("b", fails), pod("b", works)}, "map[]"},
		"none is a pod, or all are gone": {nil, "map[]"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := fmt.Sprint(AgentsDown(c.pods, []NodeReport{node("a"), node("b"), node("c", ungated), node("d", windows)})); got != c.want {
				t.Errorf("down: %s, want %s", got, c.want)
			}
		})
	}
}

func TestStatusSaysWhoCannotRefuse(t *testing.T) {
	for _, c := range []struct {
		node, datapath string
		says           bool
	}{{"b", "iptables (nft)", true}, {"b", "nftables", false}, {"a", "iptables (legacy)", false}} {
		seen := healthy()
		seen.gateways(gatewaySet("60", "a"))
		for _, n := range seen.Nodes {
			if n.Name == c.node {
				n.Datapath.Status.Datapath = c.datapath
			}
		}
		status := Status(seen, metav1.NewTime(clock))
		message := meta.FindStatusCondition(status.Conditions, v1alpha1.HostEnforced).Message
		if strings.Contains(message, "drop instead of refusing") != c.says {
			t.Errorf("%s with %s: %s", c.node, c.datapath, message)
		}
	}
}

// Addresses are those of gateways, and a status that lists another is to be corrected.
func TestStatusListsTheAddressesOfGateways(t *testing.T) {
	seen := healthy()
	seen.Nodes[1].Status.Addresses[0].Address = "192.0.2.2"
	seen.gateways(gatewaySet("60", "a"))
	before := Status(seen, metav1.NewTime(clock))
	if want := []string{"192.0.2.1:30007"}; !slices.Equal(before.Addresses, want) || before.TotalAddresses != 1 {
		t.Errorf("addresses %q of %d", before.Addresses, before.TotalAddresses)
	}
	seen.gateways(gatewaySet("60", "b"))
	after := Status(seen, metav1.NewTime(clock))
	if !AddressLost(before, after) || slices.Contains(after.Addresses, "192.0.2.1:30007") || after.TotalAddresses != 2 {
		t.Errorf("after the fail-over: addresses %q of %d", after.Addresses, after.TotalAddresses)
	}
}
