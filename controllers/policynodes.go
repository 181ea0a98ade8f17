package controllers

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// ofNodeNews wakes the policies that the news of a node may concern: all of them where it
// comes, goes or becomes another one, and those that have to do with it where it merely
// dies or returns.
func (r *Policy) ofNodeNews() handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	add := func(q queue, requests []reconcile.Request) {
		for _, request := range requests {
			q.Add(request)
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { add(q, r.all(ctx, e.Object)) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { add(q, r.all(ctx, e.Object)) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			add(q, r.concerned(ctx, e.ObjectOld.(*corev1.Node), e.ObjectNew.(*corev1.Node)))
		},
	}
}

// concerned returns the policies whose status may have to change with a node. It judges by
// what statuses say: where that is not the last word, it can't know.
func (r *Policy) concerned(ctx context.Context, before, after *corev1.Node) (out []reconcile.Request) {
	nodes, err := r.Snapshot.Nodes(ctx)
	if err != nil {
		return nil // only a cache that was stopped fails here
	}
	turn := compile.TurnOf(before, after, nodes)
	if turn == nil {
		return r.all(ctx, after)
	}
	var list v1alpha1.NodePortPolicyList
	if err := r.List(ctx, &list, readOnly); err != nil {
		return nil
	}
	for i := range list.Items {
		if p := &list.Items[i]; turn.Concerns(p) || r.unsaid(p) {
			out = append(out, reconcile.Request{NamespacedName: policyKey(p)})
		}
	}
	return out
}

// look says that a policy is being looked at, until the returned function is called.
func (r *Policy) look(key types.NamespacedName) (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.busy[key] = true
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.busy, key)
	}
}

// unsaid says whether a status may be on its way that says something else than the cache
// shows, by what was known before.
func (r *Policy) unsaid(p *v1alpha1.NodePortPolicy) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.notes[policyKey(p)].version
	return r.busy[policyKey(p)] || last != "" && !compile.AtLeast(p.ResourceVersion, last)
}
