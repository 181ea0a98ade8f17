package controllers

import (
	"cmp"
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/yaml"

	"github.com/portreeve/portreeve/api/v1alpha1"
	agentmanifest "github.com/portreeve/portreeve/config/agent"
	"github.com/portreeve/portreeve/internal/compile"
)

// agents makes the DaemonSet of the agents as the object says, and notes how far it is.
// gone says that nothing more is to be said in the object: it is being deleted, and
// nothing of ours keeps it.
func (r *Installation) agents(ctx context.Context, object *v1alpha1.Portreeve, seen *compile.InstallationSeen) (gone bool, err error) {
	if err := r.finalizer(ctx, object, compile.CleansAtTheEnd(object)); err != nil {
		return false, err
	}
	if object.DeletionTimestamp != nil && !compile.Cleaning(object) {
		return true, nil
	}
	if object.Spec.Agent == nil {
		return false, r.disown(ctx, object)
	}
	image := cmp.Or(object.Spec.Agent.Image, r.AgentImage)
	if image == "" {
		return false, nil
	}
	have, err := r.apply(ctx, object, image)
	if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) {
		seen.AgentsRefused = err.Error()
		return false, nil // another try needs another object, or another right
	}
	if err != nil {
		return false, err
	}
	seen.Agents, seen.AgentsRolled = compile.AgentStatusOf(have), compile.Rolled(have)
	if !compile.Cleaning(object) || !seen.AgentsRolled {
		return false, nil
	}
	if err := r.Delete(ctx, have, client.Preconditions{UID: &have.UID, ResourceVersion: &have.ResourceVersion}); client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("delete DaemonSet %s, whose nodes are clean: %w", have.Name, err)
	}
	return true, r.finalizer(ctx, object, false)
}

// apply makes the DaemonSet as wished and returns it.
func (r *Installation) apply(ctx context.Context, object *v1alpha1.Portreeve, image string) (*appsv1.DaemonSet, error) {
	base := &appsv1.DaemonSet{}
	if err := yaml.UnmarshalStrict(agentmanifest.DaemonSet, base); err != nil {
		return nil, fmt.Errorf("read the manifest of DaemonSet %s: %w", v1alpha1.AgentName, err)
	}
	have, err := get[appsv1.DaemonSet](ctx, r, types.NamespacedName{Namespace: r.Snapshot.Namespace, Name: v1alpha1.AgentName})
	if err != nil {
		return nil, err
	}
	want := compile.Agents(base, object, image, r.Snapshot.Namespace, have)
	switch {
	case have == nil:
		return want, r.Create(ctx, want, client.FieldOwner(v1alpha1.FieldOwner))
	case want == have:
		return have, nil
	}
	return want, r.Update(ctx, want, client.FieldOwner(v1alpha1.FieldOwner))
}

// disown leaves agents that are not ours to run any more to whoever runs them: garbage
// collection would remove them after the object.
func (r *Installation) disown(ctx context.Context, object *v1alpha1.Portreeve) error {
	have, err := get[appsv1.DaemonSet](ctx, r, types.NamespacedName{Namespace: r.Snapshot.Namespace, Name: v1alpha1.AgentName})
	if err != nil || have == nil {
		return err
	}
	want := compile.Disowned(object, have)
	if len(want.OwnerReferences) == len(have.OwnerReferences) {
		return nil
	}
	return r.Update(ctx, want, client.FieldOwner(v1alpha1.FieldOwner))
}

// finalizer puts ours on the object, or takes it away.
func (r *Installation) finalizer(ctx context.Context, object *v1alpha1.Portreeve, wanted bool) error {
	changed := false
	switch {
	case wanted && object.DeletionTimestamp == nil:
		changed = controllerutil.AddFinalizer(object, v1alpha1.FinalizerClean)
	case !wanted:
		changed = controllerutil.RemoveFinalizer(object, v1alpha1.FinalizerClean)
	}
	if !changed {
		return nil
	}
	return r.Update(ctx, object, client.FieldOwner(v1alpha1.FieldOwner))
}
