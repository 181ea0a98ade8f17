package controllers

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// View is a policy with all that its meaning depends on.
type View struct {
	compile.Cluster
	// Policy is nil when it is gone, or going with its namespace.
	Policy *v1alpha1.NodePortPolicy
	// Service is the referenced one, nil when absent.
	Service *corev1.Service
	// Of Wish and Refusal exactly one is set when there is a policy.
	Wish        *compile.Wish
	Refusal     *compile.Refusal
	Allocations []v1alpha1.NodePortAllocation
}

// View reads a policy and resolves it.
func (s Snapshot) View(ctx context.Context, key types.NamespacedName) (View, error) {
	cluster, err := s.Cluster(ctx)
	if err != nil {
		return View{}, err
	}
	policy, err := get[v1alpha1.NodePortPolicy](ctx, s, key)
	if err != nil {
		return View{}, err
	}
	return s.view(ctx, cluster, key, policy)
}

// view resolves a policy that was read; nil when it is gone.
func (s Snapshot) view(ctx context.Context, cluster compile.Cluster, key types.NamespacedName, policy *v1alpha1.NodePortPolicy) (View, error) {
	own, err := s.Allocations(ctx, key)
	if err != nil {
		return View{}, err
	}
	v := View{Cluster: cluster, Allocations: own}
	if policy == nil || policy.DeletionTimestamp != nil {
		return v, nil
	}
	// Namespace deletion removes the companion and the policy in any order; the
	// ports close as soon as it begins. One that is not there is new, and the cache
	// lags: a namespace goes only after all that is in it.
	namespace, err := get[corev1.Namespace](ctx, s, types.NamespacedName{Name: key.Namespace})
	if err == nil && namespace == nil && s.Live != nil { // its labels say what it may have
		namespace, err = get[corev1.Namespace](ctx, s.Live, types.NamespacedName{Name: key.Namespace})
	}
	if err != nil || namespace != nil && namespace.DeletionTimestamp != nil {
		return v, err
	}
	if namespace != nil {
		v.Namespace = namespace.Labels
	}
	v.Policy = policy
	return v, s.resolve(ctx, &v)
}

func (s Snapshot) resolve(ctx context.Context, v *View) error {
	service, err := get[corev1.Service](ctx, s, types.NamespacedName{Namespace: v.Policy.Namespace, Name: v.Policy.Spec.ServiceRef.Name})
	if err != nil {
		return err
	}
	if service != nil && service.DeletionTimestamp == nil {
		v.Service = service
	}
	if v.Policy.Spec.Service == v1alpha1.ServiceInPlace {
		if v.Elder, err = s.elder(ctx, v.Policy); err != nil {
			return err
		}
		v.InPlace = slices.ContainsFunc(v.Allocations, func(a v1alpha1.NodePortAllocation) bool { return a.Spec.Carrier == v1alpha1.ServiceInPlace })
	}
	v.Wish, v.Refusal = compile.NewWish(v.Policy, v.Service, v.Cluster)
	return nil
}

// elder names the older policy that carries the same Service in place, "" if none.
func (s Snapshot) elder(ctx context.Context, policy *v1alpha1.NodePortPolicy) (string, error) {
	var list v1alpha1.NodePortPolicyList
	err := s.List(ctx, &list, readOnly, client.InNamespace(policy.Namespace), client.MatchingFields{byService: policy.Spec.ServiceRef.Name})
	return compile.Elder(policy, s.alive(list.Items)), err
}

// alive leaves out policies that have ended.
func (s Snapshot) alive(policies []v1alpha1.NodePortPolicy) []v1alpha1.NodePortPolicy {
	now := s.now()
	return slices.DeleteFunc(policies, func(p v1alpha1.NodePortPolicy) bool {
		return p.Spec.ExpiresAt != nil && !p.Spec.ExpiresAt.After(now)
	})
}

// InPlace returns the policy that carries a Service in place, nil if none does.
func (s Snapshot) InPlace(ctx context.Context, service types.NamespacedName) (*v1alpha1.NodePortPolicy, error) {
	var list v1alpha1.NodePortPolicyList
	if err := s.List(ctx, &list, client.InNamespace(service.Namespace), client.MatchingFields{byService: service.Name}); err != nil {
		return nil, err
	}
	living := s.alive(list.Items)
	for i := range living {
		p := &living[i]
		if p.Spec.Service == v1alpha1.ServiceInPlace && p.Spec.Mode != v1alpha1.ModePlan && compile.Elder(p, living) == "" {
			return p, nil
		}
	}
	return nil, nil
}
