package compile

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

func marks(change func(*v1alpha1.Marks)) func(*NodeReport) {
	return func(n *NodeReport) { change(&n.Datapath.Status.Marks) }
}

func labelled(now string, judgedBy ...string) func(*NodeReport) {
	return func(n *NodeReport) {
		n.Labels["role"] = now
		for _, role := range judgedBy {
			n.Datapath.Status.NodeLabels = LabelsHash(map[string]string{"role": role})
		}
	}
}

// What an Open number depends on besides itself has its own marks; what admits nobody
// depends on nothing.
func TestWhatElseMustBeProvedOfAnOpenNumber(t *testing.T) {
	proof := Proof{
		Listed: "100", ListedSets: "60", Installation: "70",
		Places: NewPlaces(
			[]v1alpha1.NodePortPool{{ObjectMeta: metav1.ObjectMeta{Name: "web", ResourceVersion: "40"}}},
			[]v1alpha1.AddressSet{{ObjectMeta: metav1.ObjectMeta{Name: "office", ResourceVersion: "50"}}, {ObjectMeta: metav1.ObjectMeta{Name: "partner", ResourceVersion: "55"}}},
		),
	}
	all := marks(func(m *v1alpha1.Marks) { m.AddressSets, m.Pools, m.Installation = "55", "40", "70" })
	plain := v1alpha1.ClaimedPort{Protocol: "TCP", Port: 443, Sources: []v1alpha1.CIDR{"10.8.0.0/16"}}
	both := v1alpha1.ClaimedPort{Protocol: "UDP", Port: 443, AddressSets: []v1alpha1.ObjectName{"office", "partner"}}
	office := v1alpha1.ClaimedPort{Protocol: "UDP", Port: 443, AddressSets: []v1alpha1.ObjectName{"office"}}
	gone := v1alpha1.ClaimedPort{Protocol: "UDP", Port: 443, AddressSets: []v1alpha1.ObjectName{"gone"}}
	edge := &metav1.LabelSelector{MatchLabels: map[string]string{"role": "edge"}}
	open := func(selector *metav1.LabelSelector, ports ...v1alpha1.ClaimedPort) *v1alpha1.NodePortAllocation {
		a := version("30007", "99")
		a.Spec = v1alpha1.NodePortAllocationSpec{State: v1alpha1.AllocationOpen, Pool: "web", Ports: ports, NodeSelector: selector}
		return a
	}
	elsewhere := open(nil, office)
	elsewhere.Spec.Pool = "vanished"
	for _, c := range []struct {
		name string
		node NodeReport
		a    *v1alpha1.NodePortAllocation
		want string
	}{
		{"everything is proved", node("a", all, labelled("edge", "edge")), open(edge, plain, both), ""},
		{"no mark of the sets", node("a", all, marks(func(m *v1alpha1.Marks) { m.AddressSets = "" })), open(nil, plain, both), NodePending},
		{"a mark below one of the sets", node("a", all, marks(func(m *v1alpha1.Marks) { m.AddressSets = "54" })), open(nil, both), NodePending},
		{"a mark below a set that it does not name", node("a", all, marks(func(m *v1alpha1.Marks) { m.AddressSets = "54" })), open(nil, office), ""},
		{"a mark above the sets that we have listed", node("a", all, marks(func(m *v1alpha1.Marks) { m.AddressSets = "61" })), open(nil, office), NodeUnconfirmed},
		{"it names no set", node("a", all, marks(func(m *v1alpha1.Marks) { m.AddressSets, m.Pools = "", "" })), open(nil, plain), ""},
		{"it names a set that is not there", node("a", all, marks(func(m *v1alpha1.Marks) { m.AddressSets = "" })), open(nil, gone), ""},
		{"a mark below the pool, whose guard-rails judge the sets", node("a", all, marks(func(m *v1alpha1.Marks) { m.Pools = "39" })), open(nil, office), NodePending},
		{"no mark of the pools", node("a", all, marks(func(m *v1alpha1.Marks) { m.Pools = "" })), open(nil, office), NodePending},
		{"a mark below the pool, and no set", node("a", all, marks(func(m *v1alpha1.Marks) { m.Pools = "39" })), open(nil, plain), ""},
		{"the pool is gone", node("a", all, marks(func(m *v1alpha1.Marks) { m.Pools = "39" })), elsewhere, ""},
		{"judged by other labels", node("a", all, labelled("edge", "core")), open(edge, plain), NodePending},
		{"judged by no labels", node("a", all, labelled("edge")), open(edge, plain), NodePending},
		{"judged by other labels, which do not matter", node("a", all, labelled("edge", "core")), open(nil, plain), ""},
		{"the rules are of another time", node("a", all, enforced(v1alpha1.ReasonVanished)), open(nil, plain), v1alpha1.ReasonVanished},
		{"other trouble, which is past", node("a", all, enforced(v1alpha1.ReasonFailed)), open(nil, plain), ""},
		{"a mark below the installation", node("a", all, marks(func(m *v1alpha1.Marks) { m.Installation = "69" })), open(nil, plain), NodePending},
		{"no mark of the installation", node("a", all, marks(func(m *v1alpha1.Marks) { m.Installation = "" })), open(nil, plain), NodePending},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := proof.Missing(c.node, c.a); got != c.want {
				t.Errorf("Missing = %q, want %q", got, c.want)
			}
			for _, state := range []v1alpha1.AllocationState{v1alpha1.AllocationClosed, v1alpha1.AllocationForeign} {
				shut := c.a.DeepCopy()
				shut.Spec.State = state
				if got := proof.Missing(c.node, shut); got != "" {
					t.Errorf("%s, Missing = %q", state, got)
				}
			}
		})
	}
	uninstalled := proof
	uninstalled.Installation = ""
	if got := uninstalled.Missing(node("a", all, marks(func(m *v1alpha1.Marks) { m.Installation = "" })), open(nil, plain)); got != "" {
		t.Errorf("without an installation Missing = %q", got)
	}
}

// The name of a set of labels is the same for the agent and the manager, and another
// for each other set.
func TestLabelsHash(t *testing.T) {
	sets := []map[string]string{
		nil, {"a": "b"}, {"a": ""}, {"ab": ""}, {"": "ab"}, {"a": "b", "c": "d"}, {"a": "d", "c": "b"}, {"ac": "bd"}, {"a": "bc=d"},
	}
	seen := map[string]int{}
	for i, set := range sets {
		hash := LabelsHash(set)
		if other, taken := seen[hash]; taken {
			t.Errorf("%v and %v have one name", sets[other], set)
		}
		seen[hash] = i
		if len(hash) != 32 || strings.Trim(hash, "0123456789abcdef") != "" {
			t.Errorf("%v is named %q", set, hash)
		}
	}
	if LabelsHash(nil) != LabelsHash(map[string]string{}) {
		t.Error("no labels have two names")
	}
	for range 20 { // maps have no order
		if LabelsHash(map[string]string{"a": "b", "c": "d", "e": "f"}) != LabelsHash(map[string]string{"e": "f", "c": "d", "a": "b"}) {
			t.Fatal("the order shows")
		}
	}
}
