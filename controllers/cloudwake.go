package controllers

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// SetupWithManager wakes a firewall for its own edits, for those of another, which
// may take or leave a group, for every allocation that names it, and for policies that
// name prefix lists.
func (r *CloudFirewall) SetupWithManager(mgr ctrl.Manager) error {
	return builder(mgr, "cloudfirewall", 8).
		For(&v1alpha1.CloudFirewall{}, ofSpec).
		Watches(&v1alpha1.CloudFirewall{}, each(r.others), ofSpec).
		Watches(&v1alpha1.NodePortAllocation{}, each(r.ofAllocation)).
		Watches(&v1alpha1.NodePortPolicy{}, each(r.ofPolicy), ofSpec).
		Watches(&v1alpha1.AddressSet{}, each(r.all)).
		Watches(&v1alpha1.Portreeve{}, each(r.all), ofSpec).
		Watches(&v1alpha1.NodePortPool{}, each(r.all), ofSpec).
		Complete(r)
}

// ofAllocation are the firewalls that the allocation names; all where it names a prefix
// list, which may be looked up through another one of the pool's.
func (r *CloudFirewall) ofAllocation(ctx context.Context, o client.Object) []reconcile.Request {
	spec := o.(*v1alpha1.NodePortAllocation).Spec
	if slices.ContainsFunc(spec.Ports, func(p v1alpha1.ClaimedPort) bool { return len(p.PrefixLists) > 0 }) {
		return r.all(ctx, o)
	}
	var out []reconcile.Request
	for _, name := range spec.CloudFirewalls {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKey{Name: string(name)}})
	}
	return out
}

// ofPolicy are all firewalls where the policy names a prefix list.
func (r *CloudFirewall) ofPolicy(ctx context.Context, o client.Object) []reconcile.Request {
	if len(listsOf(o.(*v1alpha1.NodePortPolicy))) == 0 {
		return nil
	}
	return r.all(ctx, o)
}

// all firewalls: what a set, the cluster or a guard-rail holds may be in each. With those
// that are gone and have left AddressSets behind.
func (r *CloudFirewall) all(ctx context.Context, _ client.Object) []reconcile.Request {
	var list v1alpha1.CloudFirewallList
	if err := r.List(ctx, &list, readOnly); err != nil {
		return nil
	}
	out := requests(list.Items, func(f *v1alpha1.CloudFirewall) types.NamespacedName { return types.NamespacedName{Name: f.Name} })
	var sets v1alpha1.AddressSetList
	if err := r.List(ctx, &sets, readOnly); err != nil {
		return out
	}
	for i := range sets.Items {
		name := sets.Items[i].Annotations[v1alpha1.AnnotationCloudFirewall]
		if _, is := compile.ListID(&sets.Items[i]); is && name != "" {
			out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Name: name}})
		}
	}
	return out
}

// others are all firewalls but the given one.
func (r *CloudFirewall) others(ctx context.Context, o client.Object) []reconcile.Request {
	var list v1alpha1.CloudFirewallList
	if err := r.List(ctx, &list); err != nil {
		return nil
	}
	all := slices.DeleteFunc(list.Items, func(f v1alpha1.CloudFirewall) bool { return f.Name == o.GetName() })
	return requests(all, func(f *v1alpha1.CloudFirewall) types.NamespacedName { return types.NamespacedName{Name: f.Name} })
}
