package controllers

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// lately is how long after a repair it is still worth an event, by whatever manager
// leads then.
const lately = time.Minute

// NodeDatapath tells of foreign changes to the rules of nodes. Agents have no right to
// write events: whoever has stolen the token of one could drown all others.
type NodeDatapath struct {
	client.Client
	Events events.EventRecorder
	Now    func() time.Time

	told map[string]time.Time // by node: of the last repair
}

// Reconcile writes an event for each repair that is new, and remembers it.
func (r *NodeDatapath) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	report, err := get[v1alpha1.NodeDatapath](ctx, r, request.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	if report == nil {
		delete(r.told, request.Name)
		return reconcile.Result{}, nil
	}
	repairs := report.Status.Repairs
	if repairs == nil || !repairs.Last.After(r.told[request.Name]) {
		return reconcile.Result{}, nil
	}
	if r.told == nil {
		r.told = map[string]time.Time{}
	}
	r.told[request.Name] = repairs.Last.Time
	if r.Now().Sub(repairs.Last.Time) < lately {
		r.Events.Eventf(report, nil, corev1.EventTypeWarning, "Repaired", "Repair",
			"somebody changed the rules of node %s (%s); they are in force again, after %d such changes since its agent started", report.Name, repairs.Damage, repairs.Count)
	}
	return reconcile.Result{}, nil
}

// SetupWithManager looks at each report.
func (r *NodeDatapath) SetupWithManager(mgr ctrl.Manager) error {
	return builder(mgr, "nodedatapath", 1).
		Watches(&v1alpha1.NodeDatapath{}, &handler.EnqueueRequestForObject{}).
		Complete(r)
}
