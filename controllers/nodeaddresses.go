package controllers

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlbuilder "sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// gather is how long Nodes that join or leave are waited for, so that a hundred of them
// cost one write of a set, which every node hears of.
const gather = time.Second

// NodeAddresses keeps the addresses of all Nodes in AddressSets: what entity Nodes, and
// with the cluster's networks entity Cluster, stand for. What somebody writes into them
// by hand is undone.
type NodeAddresses struct {
	client.Client
	Snapshot Snapshot
}

// Reconcile serves all sets at once: an address is in one of them.
func (r *NodeAddresses) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	var nodes corev1.NodeList
	if err := r.List(ctx, &nodes, readOnly); err != nil {
		return reconcile.Result{}, err
	}
	if len(nodes.Items) == 0 {
		return reconcile.Result{}, nil // no cluster has none: absent data is never read as empty
	}
	var sets v1alpha1.AddressSetList
	if err := r.List(ctx, &sets); err != nil {
		return reconcile.Result{}, err
	}
	for _, want := range compile.NodeSets(nodes.Items, sets.Items) {
		i := slices.IndexFunc(sets.Items, func(s v1alpha1.AddressSet) bool { return s.Name == want.Name })
		if i < 0 {
			if err := r.Create(ctx, &want, client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
				return conflict(err)
			}
			continue
		}
		have := &sets.Items[i]
		if equality.Semantic.DeepEqual(have.Spec, want.Spec) {
			continue
		}
		have.Spec = want.Spec // the resource version makes a lost race a conflict
		if err := r.Update(ctx, have, client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
			return conflict(err)
		}
	}
	return reconcile.Result{}, nil
}

// SetupWithManager looks some time after a Node came, went or changed its addresses,
// and after somebody touched a set.
func (r *NodeAddresses) SetupWithManager(mgr ctrl.Manager) error {
	return builder(mgr, "nodeaddresses", 1).
		Watches(&corev1.Node{}, gathered(), ctrlbuilder.WithPredicates(predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
			return !equality.Semantic.DeepEqual(e.ObjectOld.(*corev1.Node).Status.Addresses, e.ObjectNew.(*corev1.Node).Status.Addresses)
		}})).
		Watches(&v1alpha1.AddressSet{}, gathered(), ctrlbuilder.WithPredicates(predicate.Funcs{
			CreateFunc:  func(event.CreateEvent) bool { return false },
			UpdateFunc:  func(e event.UpdateEvent) bool { return compile.IsNodeSet(e.ObjectOld.(*v1alpha1.AddressSet)) },
			DeleteFunc:  func(e event.DeleteEvent) bool { return compile.IsNodeSet(e.Object.(*v1alpha1.AddressSet)) },
			GenericFunc: func(event.GenericEvent) bool { return false },
		})).
		Complete(r)
}

// gathered asks for the one key a while after an event, once for all events meanwhile.
func gathered() handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	later := func(q queue) { q.AddAfter(reconcile.Request{NamespacedName: client.ObjectKey{Name: "nodes"}}, gather) }
	return handler.Funcs{
		CreateFunc: func(_ context.Context, _ event.CreateEvent, q queue) { later(q) },
		UpdateFunc: func(_ context.Context, _ event.UpdateEvent, q queue) { later(q) },
		DeleteFunc: func(_ context.Context, _ event.DeleteEvent, q queue) { later(q) },
	}
}
