package compile

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// NodeReport is a Node object with what its agent last reported, nil if nothing.
type NodeReport struct {
	*corev1.Node
	Datapath *v1alpha1.NodeDatapath
}

// Reasons why a node does not count as enforcing, shown in status.
const (
	NodeUngated     = "Ungated"     // no agent has ever reported
	NodeRebooted    = "Rebooted"    // the report is of an earlier boot
	NodePending     = "Pending"     // has not yet enforced what was last written
	NodeUnconfirmed = "Unconfirmed" // reports more than we have read ourselves
)

// Enforceable says whether a node can enforce at all: Linux, with a kernel of
// its own.
func Enforceable(n *corev1.Node) bool {
	if n.Labels["type"] == "virtual-kubelet" {
		return false
	}
	os := cmp.Or(n.Labels[corev1.LabelOSStable], n.Status.NodeInfo.OperatingSystem)
	return os == "" || os == "linux"
}

// Ready says whether the node's Ready condition is True.
func Ready(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// maxExceptions is what the schema of NodeDatapath allows.
const maxExceptions = 64

// Proof judges nodes' marks. Marks are resource versions of allocations, up to
// which a node's kernel was seen to agree with what its agent read.
type Proof struct {
	// Listed is the resource version of allocations up to which we have read
	// ourselves. A mark above it is unknown, not proof.
	Listed string
	// ListedSets is the same for AddressSets.
	ListedSets string
	// ListedGateways is the same for GatewaySets, and Gateways are those we have read.
	ListedGateways string
	Gateways       GatewaySets
	// Places are the AddressSets and pools as we have read them.
	Places Places
	// Installation is the resource version of the Portreeve object, "" without one.
	Installation string
}

// Ungated says that nobody filters the node's ports: it is Ready and one on which an
// agent works, and none has reported since it booted.
func Ungated(n NodeReport) bool {
	return Enforceable(n.Node) && Ready(n.Node) &&
		(n.Datapath == nil || n.Datapath.Status.BootID == "" || n.Datapath.Status.BootID != n.Status.NodeInfo.BootID)
}

// cleaned says that the rules of the node were removed on purpose. It is Ungated as well,
// but nobody need wait whether an agent is about to report.
func cleaned(n NodeReport) bool {
	if n.Datapath == nil || n.Datapath.Status.BootID != "" {
		return false
	}
	c := enforcedCondition(n.Datapath)
	return c != nil && c.Reason == v1alpha1.ReasonCleaned
}

// Missing returns why the node is not proved to enforce the allocation as it
// stands; "" when it is proved.
func (p Proof) Missing(n NodeReport, a *v1alpha1.NodePortAllocation) string {
	d := n.Datapath
	switch {
	case cleaned(n):
		return v1alpha1.ReasonCleaned
	case d == nil || d.Status.BootID == "":
		return NodeUngated
	case n.Status.NodeInfo.BootID != d.Status.BootID:
		return NodeRebooted
	}
	number := int32(NumberOf(a))
	exceptions := d.Status.Exceptions
	for _, e := range exceptions {
		if e.Port == number {
			return e.Reason
		}
	}
	if len(exceptions) >= maxExceptions && exceptions[len(exceptions)-1].Port < number {
		return NodePending // the list is full, lowest first: what comes after was cut off
	}
	mark := d.Status.Marks.Allocations
	if !AtLeast(mark, a.ResourceVersion) {
		if c := enforcedCondition(d); c != nil && c.Status == metav1.ConditionFalse {
			return c.Reason
		}
		return NodePending
	}
	if !AtLeast(p.Listed, mark) {
		return NodeUnconfirmed
	}
	if a.Spec.State != v1alpha1.AllocationOpen {
		return ""
	}
	return p.missingOpen(n, a)
}

// missingOpen looks at what an Open allocation depends on besides itself: AddressSets,
// denied ones and those with addresses of Nodes among them, its GatewaySet, the labels of
// the node, the installation.
func (p Proof) missingOpen(n NodeReport, a *v1alpha1.NodePortAllocation) string {
	marks := n.Datapath.Status.Marks
	switch c := enforcedCondition(n.Datapath); {
	case c != nil && c.Status == metav1.ConditionFalse && c.Reason == v1alpha1.ReasonVanished:
		return c.Reason // the rules are of another time: a lockdown that is gone, for example
	case judgesLabels(a) && n.Datapath.Status.NodeLabels != LabelsHash(n.Labels),
		p.Installation != "" && !AtLeast(marks.Installation, p.Installation),
		p.auditUnheard(a, marks):
		return NodePending
	}
	if missing := p.missingGateways(marks, a); missing != "" {
		return missing
	}
	return p.missingSets(marks, a)
}

// missingGateways looks at the GatewaySet of an Open allocation. That nobody answers
// because it is not there yet is proof of nothing.
func (p Proof) missingGateways(marks v1alpha1.Marks, a *v1alpha1.NodePortAllocation) string {
	if a.Spec.Gateways == nil || a.Spec.Gateways.Set == "" {
		return ""
	}
	set := p.Gateways[a.Spec.Gateways.Set]
	switch {
	case set == nil || !AtLeast(marks.GatewaySets, set.ResourceVersion):
		return NodePending
	case !AtLeast(p.ListedGateways, marks.GatewaySets):
		return NodeUnconfirmed
	}
	return ""
}

// missingSets looks at the AddressSets that decide about an Open allocation.
func (p Proof) missingSets(marks v1alpha1.Marks, a *v1alpha1.NodePortAllocation) string {
	sets, pool, judged := p.Places.deniedVersion(), p.Places.rails[a.Spec.Pool].version, false
	for _, port := range a.Spec.Ports {
		for _, set := range port.AddressSets {
			sets = newest(sets, p.Places.version(set))
		}
		for _, id := range port.PrefixLists {
			list, _ := p.Places.list(p.Places.rails[a.Spec.Pool], id)
			sets = newest(sets, list.version)
		}
		if len(port.Entities) > 0 {
			sets = newest(sets, p.Places.nodes.version)
		}
		judged = judged || namesPlaces(port)
	}
	switch {
	case sets != "" && !AtLeast(marks.AddressSets, sets), judged && pool != "" && !AtLeast(marks.Pools, pool):
		return NodePending
	case (judged || len(p.Places.denied) > 0) && marks.AddressSets != "" && !AtLeast(p.ListedSets, marks.AddressSets):
		return NodeUnconfirmed
	}
	return ""
}

// LabelsHash names a set of labels by its content: by which an agent judged, and
// which the manager sees.
func LabelsHash(labels map[string]string) string {
	h := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		fmt.Fprintf(h, "%s=%s\n", key, labels[key])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func enforcedCondition(d *v1alpha1.NodeDatapath) *metav1.Condition {
	for i := range d.Status.Conditions {
		if d.Status.Conditions[i].Type == v1alpha1.Enforced {
			return &d.Status.Conditions[i]
		}
	}
	return nil
}

// AtLeast compares resource versions of one type (KEP-5504). What can't be
// compared proves nothing.
func AtLeast(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order >= 0
}

// clockSkew is how far the manager's clock, which dates a closing, may be behind
// the API server's, which dates a Node. A node that is asked without need proves
// it by its first report.
const clockSkew = time.Minute

// Holders names the nodes that have not yet proved that they closed the
// allocation. Every enforceable Node older than the closing must, Ready or not;
// one that is deleted or tainted out-of-service is gone.
func (p Proof) Holders(nodes []NodeReport, a *v1alpha1.NodePortAllocation) []string {
	var holders []string
	for _, n := range nodes {
		if !Enforceable(n.Node) || outOfService(n.Node) || n.CreationTimestamp.Time.After(a.Spec.ClosedAt.Add(clockSkew)) {
			continue
		}
		if reason := p.Missing(n, a); reason != "" {
			holders = append(holders, n.Name+" ("+reason+")")
		}
	}
	slices.SortFunc(holders, strings.Compare)
	return holders
}

func outOfService(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// Nodes sums up which Ready nodes are proved to enforce all the allocations, and
// counts those that must.
func (p Proof) Nodes(nodes []NodeReport, own []v1alpha1.NodePortAllocation) (status v1alpha1.NodesStatus, eligible int) {
	enforcing := 0
	for _, n := range nodes {
		if !Enforceable(n.Node) || !Ready(n.Node) {
			continue
		}
		eligible++
		reason := ""
		for i := range own {
			if reason = p.Missing(n, &own[i]); reason != "" {
				break
			}
		}
		if reason == "" {
			enforcing++
			continue
		}
		status.Failing = append(status.Failing, v1alpha1.NodeFailure{Node: n.Name, Reason: reason})
	}
	slices.SortFunc(status.Failing, func(a, b v1alpha1.NodeFailure) int { return strings.Compare(a.Node, b.Node) })
	switch {
	case eligible == 0 || enforcing == 0:
		status.Enforced = v1alpha1.EnforcedNone
	case enforcing < eligible:
		status.Enforced = v1alpha1.EnforcedPartial
	default:
		status.Enforced = v1alpha1.EnforcedAll
	}
	return status, eligible
}
