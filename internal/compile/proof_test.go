package compile

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// node that is Ready, has run since a day before clock, and has proved all that
// was written up to resource version 100.
func node(name string, changes ...func(*NodeReport)) NodeReport {
	n := NodeReport{
		Node: &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(clock.Add(-24 * time.Hour)), Labels: map[string]string{}},
			Status: corev1.NodeStatus{
				Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
				NodeInfo:   corev1.NodeSystemInfo{BootID: "boot-1", OperatingSystem: "linux"},
				Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeHostName, Address: name}},
			},
		},
		Datapath: &v1alpha1.NodeDatapath{Status: v1alpha1.NodeDatapathStatus{
			BootID: "boot-1", Marks: v1alpha1.Marks{Allocations: "100", Pools: "5"},
			Conditions: []metav1.Condition{{Type: v1alpha1.Enforced, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonOK}},
		}},
	}
	for _, change := range changes {
		change(&n)
	}
	return n
}

func mark(version string) func(*NodeReport) {
	return func(n *NodeReport) { n.Datapath.Status.Marks.Allocations = version }
}

func enforced(reason string) func(*NodeReport) {
	return func(n *NodeReport) {
		n.Datapath.Status.Conditions[0].Status, n.Datapath.Status.Conditions[0].Reason = metav1.ConditionFalse, reason
	}
}

func exception(port int32, reason string) func(*NodeReport) {
	return func(n *NodeReport) {
		n.Datapath.Status.Exceptions = append(n.Datapath.Status.Exceptions, v1alpha1.PortException{Port: port, Reason: reason})
	}
}

func exceptionsFrom(first int32) func(*NodeReport) {
	return func(n *NodeReport) {
		for i := range int32(maxExceptions) {
			exception(first+i, "protocol ICMP")(n)
		}
	}
}

func address(kind corev1.NodeAddressType, text string) func(*NodeReport) {
	return func(n *NodeReport) {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: kind, Address: text})
	}
}

func ungated(n *NodeReport) { n.Datapath = nil }
func silent(n *NodeReport)  { n.Datapath.Status = v1alpha1.NodeDatapathStatus{} }
func wiped(n *NodeReport) {
	enforced(v1alpha1.ReasonCleaned)(n)
	n.Datapath.Status = v1alpha1.NodeDatapathStatus{Conditions: n.Datapath.Status.Conditions}
}
func rebooted(n *NodeReport)      { n.Status.NodeInfo.BootID = "boot-2" }
func notReady(n *NodeReport)      { n.Status.Conditions[0].Status = corev1.ConditionFalse }
func unknown(n *NodeReport)       { n.Status.Conditions[0].Status = corev1.ConditionUnknown }
func virtual(n *NodeReport)       { n.Labels["type"] = "virtual-kubelet" }
func windows(n *NodeReport)       { n.Labels[corev1.LabelOSStable] = "windows" }
func outOfReach(n *NodeReport)    { n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnreachable}} }
func givenUp(n *NodeReport)       { n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService}} }
func windowsByInfo(n *NodeReport) { n.Status.NodeInfo.OperatingSystem = "windows" }

func born(at time.Time) func(*NodeReport) {
	return func(n *NodeReport) { n.CreationTimestamp = metav1.NewTime(at) }
}

func version(name, resourceVersion string) *v1alpha1.NodePortAllocation {
	return &v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: resourceVersion}}
}

func TestWhatANodeHasProved(t *testing.T) {
	for _, c := range []struct {
		name    string
		node    NodeReport
		listed  string
		version string
		want    string
	}{
		{"a mark above the version", node("a"), "100", "99", ""},
		{"a mark at the version", node("a"), "100", "100", ""},
		{"a mark below the version", node("a"), "200", "101", NodePending},
		{"versions are numbers, not texts", node("a", mark("1000")), "1000", "999", ""},
		{"versions are numbers, whatever their length", node("a", mark("99999999999999999999998")), "99999999999999999999999", "99999999999999999999997", ""},
		{"no mark", node("a", mark("")), "100", "99", NodePending},
		{"a mark that can't be compared", node("a", mark("1e9")), "100", "99", NodePending},
		{"version 0 is no version", node("a", mark("0")), "100", "99", NodePending},
		{"an allocation that can't be compared", node("a"), "100", "x", NodePending},
		{"an allocation never written", node("a"), "100", "", NodePending},
		{"a mark above what we have listed", node("a"), "99", "98", NodeUnconfirmed},
		{"a mark above nothing listed", node("a"), "", "98", NodeUnconfirmed},
		{"no agent", node("a", ungated), "100", "99", NodeUngated},
		{"an agent that never reported", node("a", silent), "100", "99", NodeUngated},
		{"a node that was cleaned", node("a", wiped), "100", "99", v1alpha1.ReasonCleaned},
		{"a mark of an earlier boot", node("a", rebooted), "100", "99", NodeRebooted},
		{"an exception for the port", node("a", exception(30001, "no ipset"), exception(30007, "protocol ICMP")), "100", "99", "protocol ICMP"},
		{"an exception for another port", node("a", exception(30001, "no ipset")), "100", "99", ""},
		{"a full list of exceptions that ends below the port", node("a", exceptionsFrom(29000)), "100", "99", NodePending},
		{"a full list of exceptions that ends above the port", node("a", exceptionsFrom(30008)), "100", "99", ""},
		{"why the kernel lags behind", node("a", mark("50"), enforced(v1alpha1.ReasonFailed)), "100", "99", v1alpha1.ReasonFailed},
		{"the kernel lags behind, but not for this one", node("a", enforced(v1alpha1.ReasonFailed)), "100", "99", ""},
		{"a datapath that goes around us withdraws its marks", node("a", mark(""), enforced(v1alpha1.ReasonEnforcementUnsupported)), "100", "99", v1alpha1.ReasonEnforcementUnsupported},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := (Proof{Listed: c.listed}).Missing(c.node, version("30007", c.version)); got != c.want {
				t.Errorf("Missing = %q, want %q", got, c.want)
			}
		})
	}
}

// Reuse of a number waits for every Node that may still admit its last sources.
func TestWhoMustProveAClosing(t *testing.T) {
	closing := version("30007", "150")
	closing.Spec.State, closing.Spec.ClosedAt = v1alpha1.AllocationClosed, &metav1.MicroTime{Time: clock}
	for _, c := range []struct {
		name string
		node NodeReport
		want []string
	}{
		{"who has proved it", node("a", mark("150")), nil},
		{"who has not", node("a"), []string{"a (Pending)"}},
		{"who has not and is not Ready", node("a", notReady), []string{"a (Pending)"}},
		{"who can't be reached", node("a", unknown, outOfReach), []string{"a (Pending)"}},
		{"who has no agent", node("a", ungated), []string{"a (Ungated)"}},
		{"who has rebooted since", node("a", mark("150"), rebooted), []string{"a (Rebooted)"}},
		{"who reports more than we have read", node("a", mark("201")), []string{"a (Unconfirmed)"}},
		{"who can't enforce the port", node("a", mark("150"), exception(30007, "no ipset")), []string{"a (no ipset)"}},
		{"who is out of service is gone", node("a", givenUp), nil},
		{"who is virtual has no kernel", node("a", virtual, ungated), nil},
		{"who runs Windows can't enforce", node("a", windows, ungated), nil},
		{"who says so only in its NodeInfo", node("a", windowsByInfo, ungated), nil},
		{"who came long after the closing has never admitted anybody", node("a", born(clock.Add(2*time.Minute)), ungated), nil},
		{"who was cleaned", node("a", wiped), []string{"a (Cleaned)"}},
		{"who came after it by clocks that may differ may have", node("a", born(clock.Add(time.Second)), ungated), []string{"a (Ungated)"}},
		{"who came in the same instant may have", node("a", born(clock), ungated), []string{"a (Ungated)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := (Proof{Listed: "200"}).Holders([]NodeReport{c.node}, closing); !slices.Equal(got, c.want) {
				t.Errorf("Holders = %q, want %q", got, c.want)
			}
		})
	}
	several := []NodeReport{node("c"), node("a", ungated), node("b", mark("150"))}
	if got := (Proof{Listed: "200"}).Holders(several, closing); !slices.Equal(got, []string{"a (Ungated)", "c (Pending)"}) {
		t.Errorf("Holders = %q", got)
	}
	if got := (Proof{Listed: "200"}).Holders(nil, closing); got != nil {
		t.Errorf("a cluster without nodes holds by %q", got)
	}
}

// Opening waits for Ready nodes only: the others serve nobody.
func TestWhoMustProveAnOpening(t *testing.T) {
	own := []v1alpha1.NodePortAllocation{*version("30007", "90"), *version("30008", "100")}
	for _, c := range []struct {
		name     string
		nodes    []NodeReport
		eligible int
		enforced v1alpha1.Enforcement
		failing  []v1alpha1.NodeFailure
	}{
		{"no node at all", nil, 0, v1alpha1.EnforcedNone, nil},
		{"all", []NodeReport{node("a"), node("b")}, 2, v1alpha1.EnforcedAll, nil},
		{"one of two", []NodeReport{node("b", ungated), node("a")}, 2, v1alpha1.EnforcedPartial, []v1alpha1.NodeFailure{{Node: "b", Reason: NodeUngated}}},
		{"none", []NodeReport{node("b", mark("99")), node("a", rebooted)}, 2, v1alpha1.EnforcedNone, []v1alpha1.NodeFailure{{Node: "a", Reason: NodeRebooted}, {Node: "b", Reason: NodePending}}},
		{"one of two allocations is not enough", []NodeReport{node("a", mark("95"))}, 1, v1alpha1.EnforcedNone, []v1alpha1.NodeFailure{{Node: "a", Reason: NodePending}}},
		{"a node that is not Ready does not count", []NodeReport{node("a"), node("b", notReady, ungated), node("c", unknown, ungated)}, 1, v1alpha1.EnforcedAll, nil},
		{"a node without a kernel of its own does not count", []NodeReport{node("a"), node("b", virtual, ungated), node("c", windows, ungated)}, 1, v1alpha1.EnforcedAll, nil},
		{"a node out of service counts while it is Ready", []NodeReport{node("a", givenUp, ungated)}, 1, v1alpha1.EnforcedNone, []v1alpha1.NodeFailure{{Node: "a", Reason: NodeUngated}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, eligible := Proof{Listed: "100"}.Nodes(c.nodes, own)
			if eligible != c.eligible || status.Enforced != c.enforced || !slices.Equal(status.Failing, c.failing) {
				t.Errorf("Nodes = %+v of %d, want %s %v of %d", status, eligible, c.enforced, c.failing, c.eligible)
			}
		})
	}
}

func TestEnforceableAsksTheLabelBeforeTheReport(t *testing.T) {
	for _, c := range []struct {
		label, info string
		want        bool
	}{{"", "", true}, {"linux", "", true}, {"", "linux", true}, {"", "windows", false}, {"windows", "linux", false}, {"linux", "windows", true}} {
		n := node("a").Node
		n.Status.NodeInfo.OperatingSystem = c.info
		if c.label != "" {
			n.Labels[corev1.LabelOSStable] = c.label
		}
		if got := Enforceable(n); got != c.want {
			t.Errorf("label %q, report %q: Enforceable = %v", c.label, c.info, got)
		}
	}
}

func TestResourceVersionsAreComparedAsNumbers(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{{"10", "9", true}, {"9", "10", false}, {"10", "10", true}, {"", "1", false}, {"1", "", false}, {"", "", false}, {"0", "0", false}, {"-1", "-2", false}, {"010", "9", false}} {
		t.Run(fmt.Sprintf("%q at least %q", c.a, c.b), func(t *testing.T) {
			if got := AtLeast(c.a, c.b); got != c.want {
				t.Errorf("AtLeast = %v", got)
			}
		})
	}
}
