package controllers

import (
	"context"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// policiesUsing returns the policies that refer to an AddressSet, by its name, or by an
// entity or a prefix list that it is part of, or that get it by a pool's defaults.
func (s Snapshot) policiesUsing(ctx context.Context, set client.Object) []reconcile.Request {
	out := s.policiesNaming(ctx, bySet, set.GetName(), func(d v1alpha1.DefaultSource) bool { return string(d.AddressSet) == set.GetName() })
	if compile.IsNodeSet(set.(*v1alpha1.AddressSet)) {
		out = append(out, s.policiesFor(ctx, v1alpha1.EntityNodes)...)
		out = append(out, s.policiesFor(ctx, v1alpha1.EntityCluster)...)
	}
	if list, is := compile.ListID(set.(*v1alpha1.AddressSet)); is {
		out = append(out, s.policiesNaming(ctx, byList, string(list), func(v1alpha1.DefaultSource) bool { return false })...)
	}
	return out
}

// policiesFor returns the policies that admit an entity.
func (s Snapshot) policiesFor(ctx context.Context, entity v1alpha1.Entity) []reconcile.Request {
	return s.policiesNaming(ctx, byEntity, string(entity), func(d v1alpha1.DefaultSource) bool { return d.Entity == entity })
}

// policiesWithGroups returns the policies that name a security group.
func (s Snapshot) policiesWithGroups(ctx context.Context) []reconcile.Request {
	var list v1alpha1.NodePortPolicyList
	if err := s.List(ctx, &list, readOnly); err != nil {
		return nil // only a cache that was stopped fails here
	}
	named := slices.DeleteFunc(slices.Clone(list.Items), func(p v1alpha1.NodePortPolicy) bool {
		return !slices.ContainsFunc(p.Spec.Sources, func(s v1alpha1.Source) bool { return s.SecurityGroup != "" })
	})
	return requests(named, policyKey)
}

// policiesNaming returns the policies one of whose sources has the value in the indexed
// field, and, if that holds for a default source of a pool, those without sources.
func (s Snapshot) policiesNaming(ctx context.Context, field, value string, names func(v1alpha1.DefaultSource) bool) []reconcile.Request {
	var list v1alpha1.NodePortPolicyList
	if err := s.List(ctx, &list, readOnly, client.MatchingFields{field: value}); err != nil {
		return nil // only a cache that was stopped fails here
	}
	out := requests(list.Items, policyKey)
	var pools v1alpha1.NodePortPoolList
	if err := s.List(ctx, &pools, readOnly); err != nil {
		return out
	}
	if !slices.ContainsFunc(pools.Items, func(p v1alpha1.NodePortPool) bool { return slices.ContainsFunc(p.Spec.DefaultSources, names) }) {
		return out
	}
	var all v1alpha1.NodePortPolicyList
	if err := s.List(ctx, &all, readOnly); err != nil {
		return out
	}
	return append(out, requests(slices.DeleteFunc(all.Items, func(p v1alpha1.NodePortPolicy) bool { return p.Spec.Sources != nil }), policyKey)...)
}

// denies says whether the installation denies the AddressSet to all ports.
func (s Snapshot) denies(ctx context.Context, set client.Object) bool {
	installation, err := s.Installation(ctx)
	return err == nil && installation != nil && slices.Contains(installation.Spec.DenyAddressSets, v1alpha1.ObjectName(set.GetName()))
}
