package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/guard"
)

// guardEvery is how often the guard is looked after: who removes an admission policy
// of ours gets it back by then.
const guardEvery = 10 * time.Minute

// Installation keeps the guard as the Portreeve object says, and its status. Without
// the object the defaults hold.
type Installation struct {
	client.Client
	Snapshot Snapshot
	// Live reads past the cache: admission policies are not worth a watch.
	Live client.Reader
	// AgentImage is what agents run where the object names no image; "" if nobody said.
	AgentImage string
	Now        func() time.Time
}

// Reconcile serves the one installation.
func (r *Installation) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	object, err := r.Snapshot.Installation(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	seen := compile.InstallationSeen{Guard: v1alpha1.GuardAudit}
	var undeclared *metav1.LabelSelector
	if object != nil {
		seen.Guard = cmp.Or(object.Spec.Guard, v1alpha1.GuardAudit)
		if object.Spec.DenyUndeclared != nil {
			undeclared = &object.Spec.DenyUndeclared.NamespaceSelector
		}
	}
	guardErr := r.guard(ctx, seen.Guard, undeclared)
	if apierrors.IsForbidden(guardErr) {
		seen.Unguarded = guardErr.Error()
		guardErr = nil // another try needs another right
	}
	if object == nil {
		return reconcile.Result{RequeueAfter: guardEvery}, guardErr
	}
	if gone, err := r.agents(ctx, object, &seen); gone || err != nil {
		return conflict(errors.Join(guardErr, err))
	}
	limits, err := r.Snapshot.Limits(ctx)
	if err != nil {
		return reconcile.Result{}, errors.Join(guardErr, err)
	}
	seen.NodePorts = limits.NodePorts
	var sets v1alpha1.AddressSetList
	if err := r.Snapshot.List(ctx, &sets, readOnly); err != nil {
		return reconcile.Result{}, errors.Join(guardErr, err)
	}
	for i := range sets.Items {
		seen.AddressSets = append(seen.AddressSets, sets.Items[i].Name)
	}
	status := compile.InstallationStatus(object, seen, metav1.NewTime(r.Now()))
	if !equality.Semantic.DeepEqual(status, object.Status) && guardErr == nil {
		object.Status = status
		if err := r.Status().Update(ctx, object, client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
			return conflict(err)
		}
	}
	return reconcile.Result{RequeueAfter: guardEvery}, guardErr
}

// guard makes the admission policies and their bindings as the mode says.
func (r *Installation) guard(ctx context.Context, mode v1alpha1.GuardMode, undeclared *metav1.LabelSelector) error {
	policies, err := guard.Policies(r.Snapshot.Namespace)
	if err != nil {
		return err
	}
	wanted := map[string]*admissionv1.ValidatingAdmissionPolicyBinding{}
	bindings := guard.Bindings(mode, undeclared)
	for i := range bindings {
		wanted[bindings[i].Name] = &bindings[i]
	}
	for i := range policies {
		// The binding goes before its policy comes, and comes after it.
		want, have := &policies[i], &admissionv1.ValidatingAdmissionPolicy{}
		if err := r.ensure(ctx, want, have, func() bool {
			same := equality.Semantic.DeepEqual(want.Spec, have.Spec)
			have.Spec = want.Spec
			return same
		}); err != nil {
			return err
		}
		if err := r.bind(ctx, want.Name, wanted[want.Name]); err != nil {
			return err
		}
	}
	return nil
}

// bind makes the binding of a policy, which has its name; nil: there is to be none.
func (r *Installation) bind(ctx context.Context, name string, want *admissionv1.ValidatingAdmissionPolicyBinding) error {
	have := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if want == nil {
		return client.IgnoreNotFound(r.Delete(ctx, have))
	}
	return r.ensure(ctx, want, have, func() bool {
		same := equality.Semantic.DeepEqual(want.Spec, have.Spec)
		have.Spec = want.Spec
		return same
	})
}

// ensure creates the object, or updates what differs; take puts the wish into have and
// says whether it was there already.
func (r *Installation) ensure(ctx context.Context, want, have client.Object, take func() bool) error {
	err := r.Live.Get(ctx, client.ObjectKeyFromObject(want), have)
	switch {
	case apierrors.IsNotFound(err):
		err = r.Create(ctx, want.DeepCopyObject().(client.Object), client.FieldOwner(v1alpha1.FieldOwner))
	case err == nil && !take():
		err = r.Update(ctx, have, client.FieldOwner(v1alpha1.FieldOwner))
	}
	if err != nil {
		return fmt.Errorf("guard %s: %w", want.GetName(), err)
	}
	return nil
}

// SetupWithManager looks once at the start, and whenever the object changes.
func (r *Installation) SetupWithManager(mgr ctrl.Manager) error {
	first := make(chan event.GenericEvent, 1)
	first <- event.GenericEvent{Object: &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName}}}
	return builder(mgr, "installation", 1).
		Watches(&v1alpha1.Portreeve{}, each(func(context.Context, client.Object) []reconcile.Request {
			return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: v1alpha1.InstallationName}}}
		}), ofSpec).
		Watches(&v1alpha1.AddressSet{}, each(func(ctx context.Context, o client.Object) []reconcile.Request {
			if !r.Snapshot.denies(ctx, o) {
				return nil
			}
			return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: v1alpha1.InstallationName}}}
		}), comeOrGone).
		Watches(&appsv1.DaemonSet{}, each(func(context.Context, client.Object) []reconcile.Request {
			return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: v1alpha1.InstallationName}}}
		})).
		WatchesRawSource(source.Channel(first, &handler.EnqueueRequestForObject{})).
		Complete(r)
}
