package controllers

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// Exposure keeps the companion Service of each policy: it holds the policy's
// numbers in the API server and carries the open ones. A Service that is not
// ours is never touched.
type Exposure struct {
	client.Client
	Snapshot Snapshot
	// Refusals says why the API server would not take a companion.
	Refusals *Verdicts
}

// Reconcile serves the companion of one policy.
func (r *Exposure) Reconcile(ctx context.Context, policy reconcile.Request) (reconcile.Result, error) {
	own, err := r.Snapshot.Allocations(ctx, policy.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	have, err := get[corev1.Service](ctx, r, types.NamespacedName{Namespace: policy.Namespace, Name: policy.Name + v1alpha1.CompanionSuffix})
	if err != nil || (have != nil && (have.DeletionTimestamp != nil || !compile.IsCompanion(have, policy.Name))) {
		return reconcile.Result{}, err
	}
	service, err := r.referenced(ctx, policy.Namespace, own)
	if err != nil {
		return reconcile.Result{}, err
	}
	want := compile.Companion(policy.Namespace, policy.Name, own, service, have)
	switch {
	case want == nil && have == nil:
		return reconcile.Result{}, nil
	case want == nil:
		return conflict(r.Delete(ctx, have, client.Preconditions{UID: ptr.To(have.UID), ResourceVersion: ptr.To(have.ResourceVersion)}))
	case have == nil:
		return r.create(ctx, own, want)
	case equality.Semantic.DeepEqual(want, have):
		return reconcile.Result{}, nil
	}
	return r.refused(ctx, own, r.Update(ctx, want, client.FieldOwner(v1alpha1.FieldOwner)))
}

// create makes the companion. The API server looks at numbers before it looks at
// names, so where our cache lags behind our own create, the companion that is
// there is what refuses the number: nobody else's.
func (r *Exposure) create(ctx context.Context, own []v1alpha1.NodePortAllocation, want *corev1.Service) (reconcile.Result, error) {
	err := r.Create(ctx, want, client.FieldOwner(v1alpha1.FieldOwner))
	if apierrors.IsNotFound(err) { // the namespace: its ports close by themselves
		return reconcile.Result{RequeueAfter: lookAgain}, nil
	}
	if apierrors.IsInvalid(err) {
		there, getErr := get[corev1.Service](ctx, r.Snapshot.Live, client.ObjectKeyFromObject(want))
		if getErr != nil {
			return reconcile.Result{}, getErr
		}
		if there != nil {
			return reconcile.Result{RequeueAfter: retrySoon}, nil
		}
	}
	return r.refused(ctx, own, err)
}

// referenced returns the Service behind the policy, nil when it is gone.
func (r *Exposure) referenced(ctx context.Context, namespace string, own []v1alpha1.NodePortAllocation) (*corev1.Service, error) {
	for i := range own {
		if own[i].Spec.State != v1alpha1.AllocationOpen {
			continue
		}
		service, err := get[corev1.Service](ctx, r, types.NamespacedName{Namespace: namespace, Name: own[i].Spec.Claim.Service})
		if service != nil && (service.DeletionTimestamp != nil || len(service.Spec.Selector) == 0) {
			return nil, err
		}
		return service, err
	}
	return nil, nil
}

// refused records the numbers that the API server would not give to our
// companion as Foreign; the allocator then chooses others.
func (r *Exposure) refused(ctx context.Context, own []v1alpha1.NodePortAllocation, err error) (reconcile.Result, error) {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return reconcile.Result{}, nil // the allocations close by themselves
	}
	numbers := refusedNumbers(err, own)
	if len(numbers) == 0 {
		r.tell(own, err)
		return conflict(err)
	}
	for _, a := range numbers {
		holder, err := r.Snapshot.Holder(ctx, compile.NumberOf(a))
		if err != nil {
			return reconcile.Result{}, err
		}
		a.Spec = compile.Refused(a, holder)
		if err := r.Update(ctx, a, client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
			return conflict(fmt.Errorf("record port %s as Foreign: %w", a.Name, err))
		}
	}
	return reconcile.Result{}, nil
}

// tell says in the policy's status what no other number can cure: a quota, an
// admission policy, a right that is missing.
func (r *Exposure) tell(own []v1alpha1.NodePortAllocation, err error) {
	var why *compile.Refusal
	if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
		why = &compile.Refusal{Reason: v1alpha1.ReasonServiceRefused, Message: fmt.Sprintf(
			"the API server refuses Service %s: %v; remove what forbids it", own[0].Spec.Claim.Policy+v1alpha1.CompanionSuffix, err)}
	}
	r.Refusals.Say(policyOf(&own[0]), why)
}

// refusedNumbers reads from an Invalid answer which node ports it is about: the
// causes name the field, spec.ports[i].nodePort, and our companion's ports stand
// in the order that compile.Companion gave them.
func refusedNumbers(err error, own []v1alpha1.NodePortAllocation) []*v1alpha1.NodePortAllocation {
	status := apierrors.APIStatus(nil)
	if !apierrors.IsInvalid(err) || !asStatus(err, &status) || status.Status().Details == nil {
		return nil
	}
	ports := compile.Companion("", "", own, nil, nil).Spec.Ports
	var out []*v1alpha1.NodePortAllocation
	for _, cause := range status.Status().Details.Causes {
		index, isPort := strings.CutPrefix(cause.Field, "spec.ports[")
		index, isNodePort := strings.CutSuffix(index, "].nodePort")
		i, notNumber := strconv.Atoi(index)
		if !isPort || !isNodePort || notNumber != nil || i < 0 || i >= len(ports) {
			continue
		}
		for j := range own {
			if int32(compile.NumberOf(&own[j])) == ports[i].NodePort {
				out = append(out, &own[j])
			}
		}
	}
	return out
}

// SetupWithManager wakes a policy's exposure when its allocations, its companion
// or the referenced Service change.
func (r *Exposure) SetupWithManager(mgr ctrl.Manager) error {
	return builder(mgr, "exposure", 8).
		Watches(&v1alpha1.NodePortAllocation{}, each(func(_ context.Context, o client.Object) []reconcile.Request {
			if key := policyOf(o.(*v1alpha1.NodePortAllocation)); key.Name != "" {
				return []reconcile.Request{{NamespacedName: key}}
			}
			return nil
		})).
		Watches(&corev1.Service{}, each(r.Snapshot.policiesOf)).
		Complete(r)
}
