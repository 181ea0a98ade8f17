package compile

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/carrier"
)

// Turn is what happens most to a node: it ceases to be Ready, or is Ready again, and
// nothing else about it changes. Of thousands of policies that concerns the few whose
// status lists it.
type Turn struct {
	node      NodeReport
	addresses []netip.Addr
	// ready says what it is now, turned whether that is news.
	ready, turned bool
	// fits says whether the node, being Ready again, is like all others: as far as they
	// are, and with nothing of its own to say of the client's address.
	fits bool
	// silent are the node ports on which some node says that nothing answers: how many
	// nodes do so is told.
	silent map[int32]bool
}

// TurnOf returns what turned between two versions of a node, nil where more than that
// changed: then it may concern every policy. all are the nodes as they are now.
func TurnOf(before, after *corev1.Node, all []NodeReport) *Turn {
	if before.Status.NodeInfo.BootID != after.Status.NodeInfo.BootID || outOfService(before) != outOfService(after) ||
		Enforceable(before) != Enforceable(after) || !equality.Semantic.DeepEqual(before.Labels, after.Labels) ||
		!equality.Semantic.DeepEqual(before.Status.Addresses, after.Status.Addresses) {
		return nil
	}
	t := &Turn{node: NodeReport{Node: after}, ready: Ready(after), turned: Ready(before) != Ready(after)}
	for _, a := range after.Status.Addresses {
		if address, err := netip.ParseAddr(a.Address); err == nil {
			t.addresses = append(t.addresses, address.Unmap())
		}
	}
	if i := slices.IndexFunc(all, func(n NodeReport) bool { return n.Name == after.Name }); i >= 0 {
		t.node.Datapath = all[i].Datapath
	}
	if !t.turned {
		return t
	}
	t.fits, t.silent = t.ready && t.node.like(all), map[int32]bool{}
	for _, n := range all {
		if n.Datapath == nil || n.Datapath.Status.Answers == nil {
			continue
		}
		for _, u := range n.Datapath.Status.Answers.Unanswered {
			t.silent[u.Port] = true
		}
	}
	return t
}

// Concerns says whether the policy's status, which was right before, may have to change.
func (t *Turn) Concerns(p *v1alpha1.NodePortPolicy) bool {
	switch {
	case !t.turned:
		return false
	case !settledOnNodes(p), t.listedBy(p), t.silentFor(p):
		return true
	case t.node.Datapath != nil && strings.HasPrefix(t.node.Datapath.Status.Datapath, "iptables"):
		return true // what is said of nodes that drop instead of refusing
	case t.ready:
		return !t.fits || len(p.Status.Addresses) < maxListed
	}
	return false
}

// silentFor says whether some node says that nothing answers on a number of the policy.
func (t *Turn) silentFor(p *v1alpha1.NodePortPolicy) bool {
	return slices.ContainsFunc(p.Status.Allocations, func(a v1alpha1.AllocatedPort) bool { return t.silent[a.NodePort] })
}

// settledOnNodes says whether a status says of the nodes only what holds for all that are
// Ready, and that some are.
func settledOnNodes(p *v1alpha1.NodePortPolicy) bool {
	c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.HostEnforced)
	return c != nil && c.Status == metav1.ConditionTrue && p.Status.ObservedGeneration == p.Generation &&
		(p.Status.Nodes == nil || len(p.Status.Addresses) > 0) && !strings.Contains(p.Status.ClientIPReason, nodesDiffer)
}

// listedBy says whether the policy's status lists an address of the node.
func (t *Turn) listedBy(p *v1alpha1.NodePortPolicy) bool {
	return slices.ContainsFunc(p.Status.Addresses, func(listed string) bool {
		place, err := netip.ParseAddrPort(listed)
		return err != nil || slices.Contains(t.addresses, place.Addr())
	})
}

// like says whether a node has proved as much as all others that are Ready, and no more,
// and whether who carries node ports there does as elsewhere. Where one of them proves
// what a policy wants, so does it.
func (n NodeReport) like(all []NodeReport) bool {
	if !n.vouches() || n.Datapath.Status.NodeLabels != LabelsHash(n.Labels) {
		return false
	}
	own, others := carrier.Of(*n.Datapath.Status.Facts), 0
	for _, o := range all {
		if o.Name == n.Name || !Enforceable(o.Node) || !Ready(o.Node) {
			continue
		}
		if !o.told() || o.Datapath.Status.Marks != n.Datapath.Status.Marks {
			return false
		}
		if c := carrier.Of(*o.Datapath.Status.Facts); c.Gate != own.Gate || c.Name != own.Name ||
			!sameClient(c, own, carrier.Cluster) || !sameClient(c, own, carrier.Local) {
			return false
		}
		others++
	}
	return others > 0
}

// told says whether the node's agent has said who carries node ports there.
func (n NodeReport) told() bool { return n.Datapath != nil && n.Datapath.Status.Facts != nil }

// vouches says whether the node's agent, of this boot, does all that it is told.
func (n NodeReport) vouches() bool {
	return n.told() && !Ungated(n) && len(n.Datapath.Status.Exceptions) == 0 &&
		meta.IsStatusConditionTrue(n.Datapath.Status.Conditions, v1alpha1.Enforced)
}

func sameClient(a, b carrier.Carrier, policy carrier.Policy) bool {
	isA, whyA := a.Client(policy)
	isB, whyB := b.Client(policy)
	return isA == isB && whyA == whyB
}
