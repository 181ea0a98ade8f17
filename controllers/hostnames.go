package controllers

import (
	"context"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// hostnameOf is the name that a policy wants to publish, if it wants any.
func hostnameOf(policy *v1alpha1.NodePortPolicy) []string {
	if f := policy.Spec.Front; f != nil && f.DNS != nil {
		return []string{f.DNS.Hostname}
	}
	return nil
}

// publishing are the policies that want to publish the same host name as one, and that
// one. Nothing in them may be changed.
func (r *Front) publishing(ctx context.Context, policy *v1alpha1.NodePortPolicy) ([]v1alpha1.NodePortPolicy, error) {
	var list v1alpha1.NodePortPolicyList
	for _, hostname := range hostnameOf(policy) {
		if err := r.List(ctx, &list, readOnly, client.MatchingFields{byHostname: hostname}); err != nil {
			return nil, err
		}
	}
	return list.Items, nil
}

// rivals are the others that want to publish the policy's host name, with what they have.
func (r *Front) rivals(ctx context.Context, policy *v1alpha1.NodePortPolicy) (out []compile.Rival, err error) {
	all, err := r.publishing(ctx, policy)
	if err != nil {
		return nil, err
	}
	for i := range all {
		rival := compile.Rival{Policy: &all[i]}
		if rival.Policy.UID == policy.UID || rival.Policy.DeletionTimestamp != nil {
			continue
		}
		if rival.Allocations, err = r.Snapshot.Allocations(ctx, client.ObjectKeyFromObject(rival.Policy)); err != nil {
			return nil, err
		}
		out = append(out, rival)
	}
	return out, nil
}

// ofHostname wakes those that may have a name now that another policy wants it no longer,
// or that have it no longer.
func (r *Front) ofHostname(ctx context.Context, o client.Object) []reconcile.Request {
	all, err := r.publishing(ctx, o.(*v1alpha1.NodePortPolicy))
	if err != nil {
		return nil // only a cache that was stopped fails here
	}
	return requests(all, policyKey)
}

// ofAllocation wakes the policy of an allocation, and those that want its host name, which
// is nobody's without an open port.
func (r *Front) ofAllocation(ctx context.Context, o client.Object) []reconcile.Request {
	key := policyOf(o.(*v1alpha1.NodePortAllocation))
	if key.Name == "" {
		return nil
	}
	policy, err := get[v1alpha1.NodePortPolicy](ctx, r, key)
	if err != nil || policy == nil {
		return []reconcile.Request{{NamespacedName: key}}
	}
	return append(r.ofHostname(ctx, policy), reconcile.Request{NamespacedName: key})
}
