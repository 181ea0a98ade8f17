package controllers

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// lately is how long after a repair it is still worth an event, by whatever manager
// leads then.
const lately = time.Minute

// grace is how long a Ready node may be without an agent's report before that is an
// event: a node that joins is Ready before its agent has started.
const grace = 30 * time.Second

// NodeDatapath tells of nodes that nobody filters, and of foreign changes to the rules
// of nodes. Agents have no right to write events: whoever has stolen the token of one
// could drown all others.
type NodeDatapath struct {
	client.Client
	Events events.EventRecorder
	Now    func() time.Time

	repaired map[string]time.Time // by node: the last repair that was told
	ungated  map[string]time.Time // by node: since when, zero once it was told
}

// Reconcile looks at one node.
func (r *NodeDatapath) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	if r.repaired == nil {
		r.repaired, r.ungated = map[string]time.Time{}, map[string]time.Time{}
	}
	name := types.NamespacedName{Name: request.Name}
	report, err := get[v1alpha1.NodeDatapath](ctx, r, name)
	if err != nil {
		return reconcile.Result{}, err
	}
	node, err := get[corev1.Node](ctx, r, name)
	if err != nil {
		return reconcile.Result{}, err
	}
	if report == nil {
		delete(r.repaired, request.Name)
	} else {
		r.tellRepair(report)
	}
	return r.tellUngated(request.Name, node, report), nil
}

// tellRepair writes an event for a repair that is new.
func (r *NodeDatapath) tellRepair(report *v1alpha1.NodeDatapath) {
	repairs := report.Status.Repairs
	if repairs == nil || !repairs.Last.After(r.repaired[report.Name]) {
		return
	}
	r.repaired[report.Name] = repairs.Last.Time
	if r.Now().Sub(repairs.Last.Time) < lately {
		r.Events.Eventf(report, nil, corev1.EventTypeWarning, "Repaired", "Repair",
			"somebody changed the rules of node %s (%s); they are in force again, after %d such changes since its agent started", report.Name, repairs.Damage, repairs.Count)
	}
}

// tellUngated counts the nodes that nobody filters, and writes an event for each that
// has been one for a while.
func (r *NodeDatapath) tellUngated(name string, node *corev1.Node, report *v1alpha1.NodeDatapath) reconcile.Result {
	defer func() { ungatedNodes.Set(float64(len(r.ungated))) }()
	if node == nil || !compile.Ungated(compile.NodeReport{Node: node, Datapath: report}) {
		delete(r.ungated, name)
		return reconcile.Result{}
	}
	since, known := r.ungated[name]
	if !known {
		since = r.Now()
		r.ungated[name] = since
	}
	if since.IsZero() {
		return reconcile.Result{}
	}
	if left := since.Add(grace).Sub(r.Now()); left > 0 {
		return reconcile.Result{RequeueAfter: left}
	}
	r.ungated[name] = time.Time{}
	r.Events.Eventf(node, nil, corev1.EventTypeWarning, compile.NodeUngated, "Observe",
		"node %s is Ready and no agent of this boot has reported: its node ports are not filtered; look whether the DaemonSet portreeve-agent runs there", name)
	return reconcile.Result{}
}

// SetupWithManager looks at each node whose report, boot or readiness changes.
func (r *NodeDatapath) SetupWithManager(mgr ctrl.Manager) error {
	return builder(mgr, "nodedatapath", 1).
		Watches(&v1alpha1.NodeDatapath{}, &handler.EnqueueRequestForObject{}).
		Watches(&corev1.Node{}, &handler.EnqueueRequestForObject{}, nodeMatters).
		Complete(r)
}
