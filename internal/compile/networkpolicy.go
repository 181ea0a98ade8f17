package compile

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// Ingress is what a NetworkPolicy of ours is made of.
type Ingress struct {
	Namespace, Policy string
	// Allocations of the policy.
	Allocations []v1alpha1.NodePortAllocation
	// Service is the referenced one, nil when it is gone.
	Service *corev1.Service
	// Others are all NetworkPolicies of the namespace, ours among them or not.
	Others   []networkingv1.NetworkPolicy
	Places   Places
	Lockdown bool
	Now      time.Time
	// Forbidden says why NetworkPolicies can't be written; then nothing is known of them.
	Forbidden *Refusal
}

// NetworkPolicy returns the NetworkPolicy that admits to the Service's pods what the
// policy admits to its node ports, on top of have (nil when there is none yet); nil when
// nobody asks for one, or there is nothing to select pods by.
//
// Its owners are the allocations, so it lives as long as one of them. A port that admits
// nobody has no rule, for one without sources would admit everybody. Because it takes
// the pods away from all whom no NetworkPolicy names, it names those of the cluster
// itself, unless another NetworkPolicy has done that already: between pods, nothing is
// to change.
func NetworkPolicy(in Ingress, have *networkingv1.NetworkPolicy) *networkingv1.NetworkPolicy {
	selector := in.selector(have)
	if !asksForNetworkPolicy(in.Allocations) || len(selector) == 0 {
		return nil
	}
	sorted := slices.SortedFunc(slices.Values(pointers(in.Allocations)), func(a, b *v1alpha1.NodePortAllocation) int {
		return cmp.Compare(NumberOf(a), NumberOf(b))
	})
	want := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: in.Namespace, Name: in.Policy + v1alpha1.CompanionSuffix}}
	if have != nil {
		want = have.DeepCopy()
	}
	if want.Labels == nil {
		want.Labels = map[string]string{}
	}
	want.Labels[v1alpha1.LabelPolicy] = in.Policy
	want.OwnerReferences = owners(sorted)
	want.Spec = networkingv1.NetworkPolicySpec{
		PodSelector: metav1.LabelSelector{MatchLabels: selector}, PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
	}
	if len(isolating(in.Others, selector)) == 0 {
		want.Spec.Ingress = append(want.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: in.cluster()})
	}
	for _, a := range sorted {
		want.Spec.Ingress = append(want.Spec.Ingress, in.rules(a)...)
	}
	return want
}

// asksForNetworkPolicy: what is open decides; when all is closed, what it was.
func asksForNetworkPolicy(own []v1alpha1.NodePortAllocation) bool {
	open := slices.DeleteFunc(slices.Clone(own), func(a v1alpha1.NodePortAllocation) bool { return a.Spec.State != v1alpha1.AllocationOpen })
	if len(open) > 0 {
		own = open
	}
	return slices.ContainsFunc(own, func(a v1alpha1.NodePortAllocation) bool { return a.Spec.NetworkPolicy })
}

// selector is that of the Service, and where the Service is gone, what it was. An empty
// one would select every pod of the namespace.
func (in Ingress) selector(have *networkingv1.NetworkPolicy) map[string]string {
	switch {
	case in.Service != nil:
		return in.Service.Spec.Selector
	case have != nil:
		return have.Spec.PodSelector.MatchLabels
	}
	return nil
}

// cluster are pods and nodes, on whatever port.
func (in Ingress) cluster() []networkingv1.NetworkPolicyPeer {
	pods := networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{}}
	return append([]networkingv1.NetworkPolicyPeer{pods}, blocks(rule.Canonical(in.Places.nodes.prefixes))...)
}

// rules admit to the pods whom nodes admit to the number.
func (in Ingress) rules(a *v1alpha1.NodePortAllocation) (out []networkingv1.NetworkPolicyIngressRule) {
	if a.Spec.State != v1alpha1.AllocationOpen || in.Lockdown || Ended(a, in.Now) {
		return nil
	}
	passing := in.Places.Passing(a)
	for _, p := range a.Spec.Ports {
		target := in.target(p)
		var sources []netip.Prefix
		for _, atom := range passing {
			if string(atom.Protocol) == string(p.Protocol) {
				sources = append(sources, atom.Source)
			}
		}
		if target == nil || len(sources) == 0 {
			continue
		}
		pods := slices.Contains(p.Entities, v1alpha1.EntityCluster) && in.admitsCluster(sources)
		if in.masquerades(a) {
			sources = append(sources, in.Places.nodes.prefixes...)
		}
		from := blocks(rule.Canonical(sources))
		if pods {
			from = append(from, networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{}})
		}
		protocol := corev1.Protocol(p.Protocol)
		out = append(out, networkingv1.NetworkPolicyIngressRule{
			Ports: []networkingv1.NetworkPolicyPort{{Protocol: &protocol, Port: target}}, From: from,
		})
	}
	return out
}

// admitsCluster says whether all of the cluster's networks are among the sources. Where a
// guard-rail or a denied set keeps a part of them out, pods can't be named as such.
func (in Ingress) admitsCluster(sources []netip.Prefix) bool {
	return len(in.Places.cluster) > 0 && rule.CoversAll(rule.Canonical(sources), in.Places.cluster)
}

// target is the port of the pods, by number or name; nil when the Service has it no more.
func (in Ingress) target(p v1alpha1.ClaimedPort) *intstr.IntOrString {
	if in.Service == nil {
		return nil
	}
	for _, s := range in.Service.Spec.Ports {
		if s.Port == p.Port && string(protocolOf(s)) == string(p.Protocol) {
			if s.TargetPort == (intstr.IntOrString{}) {
				return new(intstr.FromInt32(s.Port))
			}
			return &s.TargetPort
		}
	}
	return nil
}

// masquerades says whether pods see the address of a node in place of the client's.
func (in Ingress) masquerades(a *v1alpha1.NodePortAllocation) bool {
	policy := corev1.ServiceExternalTrafficPolicy(a.Spec.ExternalTrafficPolicy)
	if policy == "" && a.Spec.Carrier == v1alpha1.ServiceInPlace && in.Service != nil {
		policy = in.Service.Spec.ExternalTrafficPolicy
	}
	return policy != corev1.ServiceExternalTrafficPolicyLocal
}

func blocks(prefixes []netip.Prefix) (out []networkingv1.NetworkPolicyPeer) {
	for _, p := range prefixes {
		out = append(out, networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: p.String()}})
	}
	return out
}

// isolating names the NetworkPolicies, not ours, that say already who reaches pods with
// those labels, be it some of them: then a rule for the whole cluster would widen them.
func isolating(all []networkingv1.NetworkPolicy, selector map[string]string) (names []string) {
	for i := range all {
		n := &all[i]
		ingress := len(n.Spec.PolicyTypes) == 0 || slices.Contains(n.Spec.PolicyTypes, networkingv1.PolicyTypeIngress)
		if ingress && !isOurs(n) && meets(&n.Spec.PodSelector, selector) {
			names = append(names, n.Name)
		}
	}
	slices.Sort(names)
	return names
}

// meets says whether one pod may have both.
func meets(s *metav1.LabelSelector, labels map[string]string) bool {
	for key, value := range s.MatchLabels {
		if had, has := labels[key]; has && had != value {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		had, has := labels[e.Key]
		switch {
		case !has:
		case e.Operator == metav1.LabelSelectorOpIn && !slices.Contains(e.Values, had),
			e.Operator == metav1.LabelSelectorOpNotIn && slices.Contains(e.Values, had),
			e.Operator == metav1.LabelSelectorOpDoesNotExist:
			return false
		}
	}
	return true
}

func isOurs(n *networkingv1.NetworkPolicy) bool {
	return n.Labels[v1alpha1.LabelPolicy] != "" && slices.ContainsFunc(n.OwnerReferences, func(o metav1.OwnerReference) bool {
		return o.APIVersion == v1alpha1.GroupVersion.String() && o.Kind == "NodePortAllocation"
	})
}

// IsNetworkPolicyOf says whether a NetworkPolicy is that of the named policy.
func IsNetworkPolicyOf(n *networkingv1.NetworkPolicy, policy string) bool {
	return isOurs(n) && n.Name == policy+v1alpha1.CompanionSuffix && n.Labels[v1alpha1.LabelPolicy] == policy
}

// AsksForNetworkPolicy says whether one of the allocations does, be it in vain.
func (in Ingress) AsksForNetworkPolicy() bool { return asksForNetworkPolicy(in.Allocations) }

// restricted is the gate of the policy's NetworkPolicy: whether what is to be there is.
// said is what it then means, for people.
func (s Seen) restricted() (g *gate, said string) {
	name := s.Policy.Name + v1alpha1.CompanionSuffix
	wait := func(reason, message string) (*gate, string) {
		return new(waiting(v1alpha1.Exposed, reason, message)), ""
	}
	switch {
	case s.Ingress == nil || !s.Ingress.AsksForNetworkPolicy():
		return nil, ""
	case s.Ingress.Forbidden != nil:
		return new(stalled(v1alpha1.Exposed, s.Ingress.Forbidden.Reason, s.Ingress.Forbidden.Message)), ""
	case s.NetworkPolicy != nil && !IsNetworkPolicyOf(s.NetworkPolicy, s.Policy.Name):
		return new(stalled(v1alpha1.Exposed, v1alpha1.ReasonNetworkPolicyNameTaken, fmt.Sprintf(
			"NetworkPolicy %s exists and is not ours; rename or delete it, or rename the policy", name))), ""
	case s.Service != nil && len(s.Service.Spec.Selector) == 0:
		return wait(v1alpha1.ReasonServiceWithoutSelector, fmt.Sprintf(
			"there is no NetworkPolicy %s, because Service %s has no selector, and so nothing to know its pods by; give it one, or take networkPolicy out", name, s.Service.Name))
	}
	want := NetworkPolicy(*s.Ingress, s.NetworkPolicy)
	if want == nil || s.NetworkPolicy == nil || !equality.Semantic.DeepEqual(want, s.NetworkPolicy) {
		return wait(v1alpha1.ReasonProgressing, fmt.Sprintf("waits for NetworkPolicy %s to say what the policy says", name))
	}
	said = fmt.Sprintf("NetworkPolicy %s admits the sources to the pods", name)
	if slices.ContainsFunc(s.open(), s.Ingress.masquerades) {
		said += ", and all nodes, because with externalTrafficPolicy Cluster the pods see the address of a node; with Local they would see the client's"
	}
	if others := isolating(s.Ingress.Others, want.Spec.PodSelector.MatchLabels); len(others) > 0 {
		return nil, said + fmt.Sprintf("; who of the cluster reaches them, NetworkPolicy %s says", strings.Join(others[:min(len(others), 3)], ", "))
	}
	return nil, said + "; pods and nodes of the cluster reach them on every port, as they would without it"
}
