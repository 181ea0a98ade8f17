package controllers

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlbuilder "sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// NetworkPolicy keeps the NetworkPolicy of each policy that asks for one. One that is
// not ours is never touched.
type NetworkPolicy struct {
	client.Client
	Snapshot Snapshot
}

// Reconcile serves the NetworkPolicy of one policy.
func (r *NetworkPolicy) Reconcile(ctx context.Context, policy reconcile.Request) (reconcile.Result, error) {
	own, err := r.Snapshot.Allocations(ctx, policy.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	in, have, err := r.Snapshot.ingress(ctx, policy.NamespacedName, own)
	if err != nil || have != nil && (have.DeletionTimestamp != nil || !compile.IsNetworkPolicyOf(have, policy.Name)) {
		return reconcile.Result{}, err
	}
	if in != nil && in.Forbidden != nil {
		return reconcile.Result{RequeueAfter: r.Snapshot.Rights.Next(ForNetworkPolicies)}, nil
	}
	var want *networkingv1.NetworkPolicy
	if in != nil {
		want = compile.NetworkPolicy(*in, have)
	}
	switch {
	case want == nil && have == nil:
		return reconcile.Result{}, nil
	case want == nil:
		return conflict(r.doubt(r.Delete(ctx, have, client.Preconditions{UID: ptr.To(have.UID), ResourceVersion: ptr.To(have.ResourceVersion)})))
	case have == nil:
		return r.create(ctx, want)
	case equality.Semantic.DeepEqual(want, have):
		return reconcile.Result{}, nil
	}
	return conflict(r.doubt(r.Update(ctx, want, client.FieldOwner(v1alpha1.FieldOwner))))
}

// create makes it, unless it is not in the cache yet.
func (r *NetworkPolicy) create(ctx context.Context, want *networkingv1.NetworkPolicy) (reconcile.Result, error) {
	err := r.Create(ctx, want, client.FieldOwner(v1alpha1.FieldOwner))
	if apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return reconcile.Result{}, nil // the namespace, and its ports close by themselves
	}
	if apierrors.IsAlreadyExists(err) { // it is not in the cache yet
		return reconcile.Result{RequeueAfter: retrySoon}, nil
	}
	return reconcile.Result{}, r.doubt(err)
}

// doubt has the right asked for anew where the API server refuses.
func (r *NetworkPolicy) doubt(err error) error {
	if apierrors.IsForbidden(err) {
		r.Snapshot.Rights.Doubt(ForNetworkPolicies)
	}
	return err
}

// ingress reads what the NetworkPolicy of a policy is made of, nil unless one of its
// allocations asks for it, and the one that has its name, nil when there is none.
func (s Snapshot) ingress(ctx context.Context, policy types.NamespacedName, own []v1alpha1.NodePortAllocation) (*compile.Ingress, *networkingv1.NetworkPolicy, error) {
	ctx, cancel := context.WithTimeout(ctx, probeEvery) // the first to ask waits for the cache
	defer cancel()
	in := compile.Ingress{Namespace: policy.Namespace, Policy: policy.Name, Allocations: own}
	var err error
	if in.Forbidden, err = s.Rights.Lacks(ctx, ForNetworkPolicies); err != nil {
		return nil, nil, err
	}
	if in.Forbidden != nil {
		if !in.AsksForNetworkPolicy() {
			return nil, nil, nil
		}
		return &in, nil, nil
	}
	have, err := get[networkingv1.NetworkPolicy](ctx, s, types.NamespacedName{Namespace: policy.Namespace, Name: policy.Name + v1alpha1.CompanionSuffix})
	if err != nil {
		s.Rights.Doubt(ForNetworkPolicies)
		return nil, nil, err
	}
	if !in.AsksForNetworkPolicy() {
		return nil, have, nil
	}
	open := slices.IndexFunc(own, func(a v1alpha1.NodePortAllocation) bool { return a.Spec.State == v1alpha1.AllocationOpen })
	service, err := get[corev1.Service](ctx, s, types.NamespacedName{Namespace: policy.Namespace, Name: own[max(open, 0)].Spec.Claim.Service})
	if err != nil {
		return nil, have, err
	}
	if service != nil && service.DeletionTimestamp == nil {
		in.Service = service
	}
	var others networkingv1.NetworkPolicyList
	if err := s.List(ctx, &others, readOnly, client.InNamespace(policy.Namespace)); err != nil {
		return nil, have, err
	}
	cluster, err := s.Cluster(ctx)
	if err != nil {
		return nil, have, err
	}
	installation, err := s.Installation(ctx)
	if err != nil {
		return nil, have, err
	}
	in.Others, in.Places, in.Now = others.Items, cluster.Places, cluster.Now
	in.Lockdown = installation != nil && installation.Spec.Lockdown
	return &in, have, nil
}

// policiesBehind returns the policies to which a NetworkPolicy matters: whose it is, or
// whose pods it may be about.
func (s Snapshot) policiesBehind(ctx context.Context, networkPolicy client.Object) []reconcile.Request {
	out := s.policiesWithNetworkPolicy(ctx, client.InNamespace(networkPolicy.GetNamespace()))
	if policy, is := strings.CutSuffix(networkPolicy.GetName(), v1alpha1.CompanionSuffix); is { // ours, or in our way
		out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: networkPolicy.GetNamespace(), Name: policy}})
	}
	return out
}

func (s Snapshot) policiesWithNetworkPolicy(ctx context.Context, where ...client.ListOption) []reconcile.Request {
	var list v1alpha1.NodePortPolicyList
	if err := s.List(ctx, &list, append(where, readOnly)...); err != nil {
		return nil // only a cache that was stopped fails here
	}
	return requests(slices.DeleteFunc(slices.Clone(list.Items), func(p v1alpha1.NodePortPolicy) bool { return !p.Spec.NetworkPolicy }), policyKey)
}

// SetupWithManager wakes a policy's NetworkPolicy for its allocations, its Service, other
// NetworkPolicies of the namespace, and whatever says who is meant by a source.
func (r *NetworkPolicy) SetupWithManager(mgr ctrl.Manager) error {
	all := func(ctx context.Context, _ client.Object) []reconcile.Request {
		return r.Snapshot.policiesWithNetworkPolicy(ctx)
	}
	b := builder(mgr, "networkpolicy", 4).
		Watches(&v1alpha1.NodePortAllocation{}, each(func(_ context.Context, o client.Object) []reconcile.Request {
			if key := policyOf(o.(*v1alpha1.NodePortAllocation)); key.Name != "" {
				return []reconcile.Request{{NamespacedName: key}}
			}
			return nil
		})).
		Watches(&corev1.Service{}, each(r.Snapshot.policiesOf)).
		Watches(&v1alpha1.AddressSet{}, each(all)).
		Watches(&v1alpha1.NodePortPool{}, each(all), ofSpec).
		Watches(&v1alpha1.Portreeve{}, each(all), ofSpec)
	return r.Snapshot.withNetworkPolicies(mgr, b, r)
}

// withNetworkPolicies completes a controller that hears of them as soon as it may.
func (s Snapshot) withNetworkPolicies(mgr ctrl.Manager, b *ctrlbuilder.Builder, r reconcile.Reconciler) error {
	heard := newLate()
	if err := b.WatchesRawSource(heard.source(s.policiesBehind)).Complete(r); err != nil {
		return err
	}
	return s.Rights.Begin(ForNetworkPolicies, func() error { return heard.follow(mgr.GetCache(), &networkingv1.NetworkPolicy{}) })
}
