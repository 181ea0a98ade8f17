package compile

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// wall is a cloud firewall as policies see it.
type wall struct {
	// enforces: it is not only observed.
	enforces bool
	// nodes are those to which its groups are attached; nil: all.
	nodes labels.Selector
}

// Selective says whether a cloud firewall stands before some nodes only, so that what
// policies need depends on the labels of Nodes.
func Selective(firewalls []v1alpha1.CloudFirewall) bool {
	return slices.ContainsFunc(firewalls, func(f v1alpha1.CloudFirewall) bool { return f.Spec.NodeSelector != nil })
}

// Behind returns the places as they are behind the cloud firewalls, with the labels of the
// cluster's nodes; these may be left out unless the firewalls are Selective.
func (p Places) Behind(firewalls []v1alpha1.CloudFirewall, nodes ...*corev1.Node) Places {
	p.walls = make(map[v1alpha1.ObjectName]wall, len(firewalls))
	for i := range firewalls {
		w := wall{enforces: firewalls[i].Spec.Mode != v1alpha1.CloudObserve}
		if s := firewalls[i].Spec.NodeSelector; s != nil {
			w.nodes = selects(s)
		}
		p.walls[v1alpha1.ObjectName(firewalls[i].Name)] = w
	}
	p.ground = nil
	for _, n := range nodes {
		if Enforceable(n) {
			p.ground = append(p.ground, labels.Set(n.Labels))
		}
	}
	return p
}

// gates are the cloud firewalls of the policy in a pool, whose list it may narrow.
func gates(policy *v1alpha1.NodePortPolicy, pool []v1alpha1.ObjectName) []v1alpha1.ObjectName {
	names := slices.Clone(pool)
	if policy.Spec.CloudFirewalls != nil {
		names = slices.DeleteFunc(names, func(f v1alpha1.ObjectName) bool { return !slices.Contains(policy.Spec.CloudFirewalls, f) })
	}
	slices.Sort(names)
	return names
}

// facing are those of the policy's gates in a pool that stand before a node that may
// answer: an active gateway, or one that may become it. Not only those of the active
// ones, or each fail-over would wait for a cloud. One that nobody knows is among them, so
// that it is asked for.
func (p Places) facing(policy *v1alpha1.NodePortPolicy, r rails) []v1alpha1.ObjectName {
	return slices.DeleteFunc(gates(policy, r.firewalls), func(f v1alpha1.ObjectName) bool {
		w, known := p.walls[f]
		return known && w.nodes != nil && !slices.ContainsFunc(p.answerable(policy, r), func(n labels.Set) bool { return w.nodes.Matches(n) })
	})
}

// judged says whether each node that may ever answer has one of the firewalls before it,
// and that one enforces: only then is a source that clouds alone can judge judged
// everywhere. That must not depend on which nodes there are, or one that joins would
// admit too many until somebody has noticed; so the policy's and the pool's selectors
// have to ask for what the firewall's asks.
func (p Places) judged(policy *v1alpha1.NodePortPolicy, r rails, firewalls []v1alpha1.ObjectName) bool {
	asked := append(conditions(r.nodes), conditions(pickedNodes(policy))...)
	return slices.ContainsFunc(firewalls, func(f v1alpha1.ObjectName) bool {
		w := p.walls[f]
		return w.enforces && (w.nodes == nil || containsAll(asked, conditions(w.nodes)))
	})
}

// conditions are those of a selector, spelt alike wherever they are the same. One that
// picks nothing has one that nobody else has.
func conditions(s labels.Selector) (out []string) {
	requirements, selectable := s.Requirements()
	if !selectable {
		return []string{"nothing"}
	}
	for _, r := range requirements {
		out = append(out, r.String())
	}
	return out
}

// pickedNodes are the nodes that the policy picks for its gateways.
func pickedNodes(policy *v1alpha1.NodePortPolicy) labels.Selector {
	if g := policy.Spec.Gateways; g != nil {
		return orAll(g.NodeSelector)
	}
	return labels.Everything()
}

// StandsBefore says whether the firewall's groups are attached to some nodes only, and to
// one with these labels.
func StandsBefore(f *v1alpha1.CloudFirewall, node labels.Set) bool {
	return f.Spec.NodeSelector != nil && selects(f.Spec.NodeSelector).Matches(node)
}

// answerable are the labels of the nodes that the pool allows and the policy does not
// leave out.
func (p Places) answerable(policy *v1alpha1.NodePortPolicy, r rails) (out []labels.Set) {
	gateways := pickedNodes(policy)
	for _, n := range p.ground {
		if r.nodes.Matches(n) && gateways.Matches(n) {
			out = append(out, n)
		}
	}
	return out
}
