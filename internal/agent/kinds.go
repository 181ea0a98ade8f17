package agent

import (
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/carrier"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

// kind is one of the kinds of objects that an agent reads.
type kind int

const (
	kindPools kind = iota
	kindAllocations
	kindInstallation // after the allocations: the guard asks whether one of them admits the cluster
	kindAddressSets  // after both: the guard asks which of them are in use
	kindGatewaySets  // likewise
	kindNode         // the agent's own, of which the labels matter, and one annotation
	kinds            // how many there are
)

// traits is what tells the kinds apart.
var traits = [kinds]struct {
	resource string
	example  runtime.Object // of what its reflector delivers
	// mayGo says that the object is let go as soon as it is gone, since no rule of
	// what is in use is lost with it that should stay; nil: never.
	mayGo func(o metav1.Object, use inputs) bool
	// stays says that the object is enforced although it is gone, for as long as that
	// holds, because its end would let somebody in; nil: never.
	stays func(o metav1.Object, use inputs) bool
	// vanished is the message when the only object is gone, "" where there may be many.
	vanished string
	// labelled: its labels matter.
	labelled bool
	// labelsOnly: nothing but labels and annotation matters, so other changes wake nobody.
	labelsOnly bool
	// annotation is the only one that matters, "" where none does.
	annotation string
}{
	kindPools:       {resource: "nodeportpools", example: &v1alpha1.NodePortPool{}},
	kindAllocations: {resource: "nodeportallocations", example: &v1alpha1.NodePortAllocation{}, mayGo: admitsNobody},
	kindInstallation: {
		resource: "portreeves", example: &v1alpha1.Portreeve{}, mayGo: spent,
		vanished: "the Portreeve object is gone, but what it ordered stays: lockdown, denyAddressSets, clusterCIDRs; to end that, create the object again with spec.lockdown: false and without the others",
	},
	kindAddressSets: {resource: "addresssets", example: &v1alpha1.AddressSet{}, labelled: true, mayGo: unused, stays: denied},
	kindGatewaySets: {resource: "gatewaysets", example: &v1alpha1.GatewaySet{}, mayGo: unnamed},
	kindNode: {
		resource: "nodes", example: &metav1.PartialObjectMetadata{}, labelled: true, labelsOnly: true, annotation: carrier.GatewayAnnotation,
		vanished: "this node's Node object is gone, and its last labels still hold; let the kubelet register it again",
	},
}

// String returns the kind as the API spells it.
func (k kind) String() string { return traits[k].resource }

// admitsNobody: that is how ports are freed.
func admitsNobody(o metav1.Object, _ inputs) bool {
	a := o.(*v1alpha1.NodePortAllocation)
	return a.Spec.State == v1alpha1.AllocationClosed || a.Spec.State == v1alpha1.AllocationForeign && !a.Spec.Grandfathered
}

func unused(set metav1.Object, use inputs) bool {
	return !anyOf(use[kindAllocations], func(a *v1alpha1.NodePortAllocation) bool { return uses(a, set.(*v1alpha1.AddressSet)) })
}

// uses says whether an allocation admits by the AddressSet.
func uses(a *v1alpha1.NodePortAllocation, set *v1alpha1.AddressSet) bool {
	list, isList := compile.ListID(set)
	return a.Spec.State == v1alpha1.AllocationOpen && slices.ContainsFunc(a.Spec.Ports, func(p v1alpha1.ClaimedPort) bool {
		return slices.Contains(p.AddressSets, v1alpha1.ObjectName(set.Name)) || len(p.Entities) > 0 && compile.IsNodeSet(set) ||
			isList && slices.Contains(p.PrefixLists, list)
	})
}

// unnamed: no allocation looks there for its gateways.
func unnamed(set metav1.Object, use inputs) bool {
	return !anyOf(use[kindAllocations], func(a *v1alpha1.NodePortAllocation) bool {
		return a.Spec.Gateways != nil && string(a.Spec.Gateways.Set) == set.GetName()
	})
}

// usesSets says whether an allocation admits by any AddressSet.
func usesSets(a *v1alpha1.NodePortAllocation) bool {
	return a.Spec.State == v1alpha1.AllocationOpen && slices.ContainsFunc(a.Spec.Ports, func(p v1alpha1.ClaimedPort) bool {
		return len(p.AddressSets)+len(p.PrefixLists)+len(p.Entities) > 0
	})
}

// denied: who deletes a set whose name is still denied has hardly meant to let its
// networks in.
func denied(set metav1.Object, use inputs) bool {
	p := only[v1alpha1.Portreeve](use[kindInstallation])
	return p != nil && slices.Contains(p.Spec.DenyAddressSets, v1alpha1.ObjectName(set.GetName()))
}

// spent: neither is anything closed by the installation, nor does anybody come in as
// part of the cluster that it names.
func spent(o metav1.Object, use inputs) bool {
	spec := o.(*v1alpha1.Portreeve).Spec
	inUse := len(spec.ClusterCIDRs) > 0 && anyOf(use[kindAllocations], func(a *v1alpha1.NodePortAllocation) bool {
		return a.Spec.State == v1alpha1.AllocationOpen && slices.ContainsFunc(a.Spec.Ports, func(p v1alpha1.ClaimedPort) bool {
			return slices.Contains(p.Entities, v1alpha1.EntityCluster)
		})
	})
	return !spec.Lockdown && len(spec.DenyAddressSets) == 0 && !inUse
}

// Sources list and watch the kinds of objects that an agent reads; Client has them.
type Sources [kinds]cache.ListerWatcherWithContext

// inputs are what a node's rules are compiled from.
type inputs [kinds]compile.Objects

// node returns what a node must judge by at that time.
func (in inputs) node(name string, now time.Time, exempt []rule.Port, refuses bool) compile.NodeInput {
	out := compile.NodeInput{
		Pools: in[kindPools], Allocations: in[kindAllocations], AddressSets: in[kindAddressSets], GatewaySets: in[kindGatewaySets], Node: name,
		Installation: only[v1alpha1.Portreeve](in[kindInstallation]),
		Unlabelled:   true, Now: now, Exempt: exempt, Refuses: refuses,
	}
	if node := only[metav1.PartialObjectMetadata](in[kindNode]); node != nil {
		out.Labels, out.Unlabelled = node.Labels, false
	}
	return out
}

// firewall returns with what the installation wants nodes to filter: Auto where it
// does not say, or says what this agent does not know.
func (in inputs) firewall() v1alpha1.Firewall {
	p := only[v1alpha1.Portreeve](in[kindInstallation])
	if p == nil || !slices.Contains([]v1alpha1.Firewall{v1alpha1.FirewallNFTables, v1alpha1.FirewallIPTables}, p.Spec.Firewall) {
		return v1alpha1.FirewallAuto
	}
	return p.Spec.Firewall
}

// lockdown returns the installation's spec if it orders a lockdown, else nil.
func (in inputs) lockdown() *v1alpha1.PortreeveSpec {
	if p := only[v1alpha1.Portreeve](in[kindInstallation]); p != nil && p.Spec.Lockdown {
		return &p.Spec
	}
	return nil
}

// standing returns the installation's spec if that outlives its object, else nil.
func (in inputs) standing() *v1alpha1.PortreeveSpec {
	if p := only[v1alpha1.Portreeve](in[kindInstallation]); p != nil && !spent(p, in) {
		return &p.Spec
	}
	return nil
}

// lasting returns the installation's spec if that may outlive its object, else nil. Not
// to look at all allocations each time, it does not ask whether anybody comes in as part
// of the cluster; who finds the object gone does.
func (in inputs) lasting() *v1alpha1.PortreeveSpec {
	p := only[v1alpha1.Portreeve](in[kindInstallation])
	if p == nil || !p.Spec.Lockdown && len(p.Spec.DenyAddressSets)+len(p.Spec.ClusterCIDRs) == 0 {
		return nil
	}
	return &p.Spec
}

// denied returns the content of the AddressSets that are denied, nil for none.
func (in inputs) denied() deniedSets {
	var sets deniedSets
	for _, o := range in[kindAddressSets].All {
		if denied(o, in) {
			if sets == nil {
				sets = deniedSets{}
			}
			sets[o.GetName()] = o.(*v1alpha1.AddressSet).Spec.CIDRs
		}
	}
	return sets
}

// labels returns the hash of the labels of the node, "" if they are not known.
func (in inputs) labels() string {
	if node := only[metav1.PartialObjectMetadata](in[kindNode]); node != nil {
		return compile.LabelsHash(node.Labels)
	}
	return ""
}

// only returns the one object of a kind that has at most one, else nil.
func only[T any](objects compile.Objects) *T {
	for _, o := range objects.All {
		return any(o).(*T)
	}
	return nil
}

// anyOf says whether that holds for any of the objects, which are all *T.
func anyOf[T any](objects compile.Objects, holds func(*T) bool) bool {
	for _, o := range objects.All {
		if holds(any(o).(*T)) {
			return true
		}
	}
	return false
}
