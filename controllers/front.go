package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// takenAgain is how often a name that somebody else's object has is tried again: his
// objects are not watched.
const takenAgain = 10 * time.Second

// Front keeps what stands before the nodes of each policy: the ConfigMaps of its
// proxies, and its DNSEndpoint. An object that is not ours is never touched.
type Front struct {
	client.Client
	Snapshot Snapshot
	// Doors is the cache of our own ConfigMaps and DNSEndpoints, with which all of them
	// are read and written.
	Doors *Doors
	Seen  *Fronts
	Now   func() time.Time

	mu sync.Mutex
	// waiting are the policies for which a node may answer by its next report.
	waiting map[types.NamespacedName]bool
}

// Reconcile serves all fronts of one policy.
func (r *Front) Reconcile(ctx context.Context, key reconcile.Request) (reconcile.Result, error) {
	have, err := r.Doors.of(ctx, key.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	policy, err := get[v1alpha1.NodePortPolicy](ctx, r, key.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	if policy == nil || policy.DeletionTimestamp != nil || policy.Spec.Front == nil {
		r.wait(key.NamespacedName, false)
		r.Seen.Forget(key.NamespacedName)
		return conflict(r.remove(ctx, have.all()))
	}
	front, wait, err := r.see(ctx, key.NamespacedName)
	if err != nil || front == nil {
		return reconcile.Result{RequeueAfter: wait}, err
	}
	r.wait(key.NamespacedName, front.Waiting())
	seen, again, err := r.serve(ctx, front, have)
	if apierrors.IsConflict(err) || errors.Is(err, errLagging) {
		return reconcile.Result{RequeueAfter: retrySoon}, nil
	}
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return reconcile.Result{}, nil
	}
	if err != nil {
		return reconcile.Result{}, err
	}
	r.Seen.Say(key.NamespacedName, seen)
	return reconcile.Result{RequeueAfter: again}, nil
}

// see reads all that the fronts are decided from; nil when the policy's own change is
// still on its way, or the policy is going.
func (r *Front) see(ctx context.Context, key types.NamespacedName) (*compile.Front, time.Duration, error) {
	// Read before the allocations, so that a mark can't be above what it is judged by.
	proof, err := r.Snapshot.Proof(ctx)
	if err != nil {
		return nil, 0, err
	}
	view, err := r.Snapshot.View(ctx, key)
	if err != nil || view.Policy == nil || view.Policy.Spec.Front == nil {
		return nil, 0, err
	}
	if lags(view, r.Now()) {
		return nil, lookAgain, nil // the allocation's own change wakes us
	}
	proof.Places = view.Places
	front := &compile.Front{
		Policy: view.Policy, Allocations: view.Allocations, Pools: view.Pools,
		Sight: compile.Sight{Proof: proof, Service: view.Service},
	}
	installation, err := r.Snapshot.Installation(ctx)
	if err != nil {
		return nil, 0, err
	}
	if front.Rivals, err = r.rivals(ctx, view.Policy); err != nil {
		return nil, 0, err
	}
	front.Sight.Lockdown = installation != nil && installation.Spec.Lockdown
	companion, err := get[corev1.Service](ctx, r, types.NamespacedName{Namespace: key.Namespace, Name: key.Name + v1alpha1.CompanionSuffix})
	if err != nil {
		return nil, 0, err
	}
	if companion != nil && compile.IsCompanion(companion, key.Name) {
		front.Sight.Companion = companion
	}
	if front.Sight.Nodes, err = r.Snapshot.Nodes(ctx); err != nil {
		return nil, 0, err
	}
	front.Sight.Endpoints, err = r.Snapshot.Endpoints(ctx, view.Allocations)
	return front, 0, err
}

// serve writes what differs, removes what is not wanted any more, and says what was
// done and when to look again.
func (r *Front) serve(ctx context.Context, front *compile.Front, have doors) (compile.FrontSeen, time.Duration, error) {
	seen, again := compile.FrontSeen{Generation: front.Policy.Generation}, time.Duration(0)
	tell := func(why *compile.Refusal, note string, wait time.Duration) {
		seen.Why, seen.Note = cmp.Or(seen.Why, why), cmp.Or(seen.Note, note)
		if wait > 0 && (again == 0 || wait < again) {
			again = wait
		}
	}
	spec := front.Policy.Spec.Front
	leftover := have.all()
	for _, one := range []struct {
		want *v1alpha1.ProxyFront
		door func(*v1alpha1.ProxyFront, *corev1.ConfigMap) compile.Door
	}{{spec.Nginx, front.Nginx}, {spec.HAProxy, front.HAProxy}} {
		if one.want == nil {
			continue
		}
		if have.noConfigMaps != nil {
			tell(have.noConfigMaps, "", r.Doors.Rights.Next(ForFronts))
			continue
		}
		there := have.configMap(string(one.want.ConfigMap))
		leftover = slices.DeleteFunc(leftover, func(o client.Object) bool { return there != nil && o == client.Object(there) })
		door := one.door(one.want, there)
		var present client.Object
		if there != nil {
			present = there
		}
		why, wait, err := r.write(ctx, door, door.ConfigMap(there), present)
		if err != nil {
			return seen, 0, err
		}
		tell(cmp.Or(why, door.Why), door.Note, wait)
	}
	if spec.DNS != nil {
		leftover = slices.DeleteFunc(leftover, func(o client.Object) bool { return have.endpoint != nil && o == client.Object(have.endpoint) })
		why, wait, err := r.serveDNS(ctx, front, have)
		if err != nil {
			return seen, 0, err
		}
		tell(why, "", wait)
	}
	return seen, again, r.remove(ctx, leftover)
}

var noExternalDNS = &compile.Refusal{Reason: v1alpha1.ReasonExternalDNSNotFound, Waits: true, Message: "the cluster has no kind DNSEndpoint of externaldns.k8s.io/v1alpha1; install its definition with external-dns, or leave out front.dns"}

func (r *Front) serveDNS(ctx context.Context, front *compile.Front, have doors) (*compile.Refusal, time.Duration, error) {
	if have.trouble != nil {
		return have.trouble, cmp.Or(r.Doors.Rights.Next(ForRecords), lookAgain), nil
	}
	if !have.dns {
		return noExternalDNS, probeEvery, nil
	}
	door := front.DNS(front.Policy.Spec.Front.DNS, have.endpoint)
	var present client.Object
	if have.endpoint != nil {
		present = have.endpoint
	}
	why, wait, err := r.write(ctx, door, door.Endpoint(have.endpoint), present)
	return cmp.Or(why, door.Why), wait, err
}

// errLagging: our cache does not show yet what we wrote.
var errLagging = errors.New("the cache lags behind our own write")

// write makes one object what it is wanted to be, and says why it can't.
func (r *Front) write(ctx context.Context, door compile.Door, want, have client.Object) (*compile.Refusal, time.Duration, error) {
	var err error
	switch {
	case door.Unwritten, have != nil && equality.Semantic.DeepEqual(want, have):
		return nil, 0, nil
	case have != nil && have.GetDeletionTimestamp() != nil:
		return nil, retrySoon, nil // to make it anew
	case have != nil:
		err = r.Doors.Update(ctx, want, client.FieldOwner(v1alpha1.FieldOwner))
	default:
		err = r.Doors.Create(ctx, want, client.FieldOwner(v1alpha1.FieldOwner))
	}
	switch {
	case apierrors.IsAlreadyExists(err):
		there, err := r.Doors.live(ctx, want)
		if err != nil || there == nil || compile.IsFront(there, door.Labels[v1alpha1.LabelFront]) {
			return nil, 0, cmp.Or(err, errLagging)
		}
		return &compile.Refusal{Reason: v1alpha1.ReasonFrontNameTaken, Message: fmt.Sprintf(
			"%s %s exists and is not ours, so it is left as it is; rename or delete it, or name another in front", kindOf(want), want.GetName())}, takenAgain, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil, 0, err
	case meta.IsNoMatchError(err), apierrors.IsNotFound(err) && kindOf(want) == compile.DNSEndpoint.Kind:
		return noExternalDNS, lookAgain, nil // its definition has just gone
	case apierrors.IsForbidden(err), apierrors.IsInvalid(err):
		return r.refused(ctx, want, err)
	}
	return nil, 0, err
}

// refused tells a missing right from whatever else refuses.
func (r *Front) refused(ctx context.Context, want client.Object, why error) (*compile.Refusal, time.Duration, error) {
	right := rightFor(want)
	r.Doors.Rights.Doubt(right)
	if lacks, err := r.Doors.Rights.Lacks(ctx, right); err != nil || lacks != nil {
		return lacks, r.Doors.Rights.Next(right), err
	}
	return &compile.Refusal{Reason: v1alpha1.ReasonFrontRefused, Message: fmt.Sprintf(
		"the API server refuses %s %s: %v; remove what forbids it", kindOf(want), want.GetName(), why)}, lookAgain, nil
}

func rightFor(o client.Object) Right {
	if _, is := o.(*corev1.ConfigMap); is {
		return ForFronts
	}
	return ForRecords
}

func kindOf(o client.Object) string {
	if _, is := o.(*corev1.ConfigMap); is {
		return "ConfigMap"
	}
	return compile.DNSEndpoint.Kind
}

// remove deletes objects of ours that no policy wants.
func (r *Front) remove(ctx context.Context, objects []client.Object) error {
	for _, o := range objects {
		if o.GetDeletionTimestamp() != nil {
			continue
		}
		err := r.Doors.Delete(ctx, o, client.Preconditions{UID: ptr.To(o.GetUID()), ResourceVersion: ptr.To(o.GetResourceVersion())})
		if client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

func (r *Front) wait(key types.NamespacedName, waits bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if waits {
		r.waiting[key] = true
	} else {
		delete(r.waiting, key)
	}
}

// waits lists the policies for which a node may answer by its next report.
func (r *Front) waits() (out []reconcile.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range r.waiting {
		out = append(out, reconcile.Request{NamespacedName: key})
	}
	return out
}

// fronted lists the policies that have a front.
func (r *Front) fronted(ctx context.Context, _ client.Object) []reconcile.Request {
	var list v1alpha1.NodePortPolicyList
	if err := r.List(ctx, &list, readOnly); err != nil {
		return nil // only a cache that was stopped fails here
	}
	return requests(slices.DeleteFunc(list.Items, func(p v1alpha1.NodePortPolicy) bool { return p.Spec.Front == nil }), policyKey)
}

// ofReport lists the policies to which a change of a node's report can make a
// difference: to those that wait for one, when it has only come further.
func (r *Front) ofReport(ctx context.Context, before, after *v1alpha1.NodeDatapath) []reconcile.Request {
	if before != nil && after != nil && after.DeletionTimestamp == nil {
		was, is := before.Status.DeepCopy(), after.Status.DeepCopy()
		for _, s := range []*v1alpha1.NodeDatapathStatus{was, is} {
			s.Marks, s.NodeLabels = v1alpha1.Marks{}, ""
		}
		if equality.Semantic.DeepEqual(was, is) {
			return r.waits()
		}
	}
	return r.fronted(ctx, nil)
}

// SetupWithManager wakes the fronts of a policy for what it says and who answers. What
// comes from nodes is gathered for a while: it comes in crowds.
func (r *Front) SetupWithManager(mgr ctrl.Manager) error {
	r.waiting = map[types.NamespacedName]bool{}
	heard := newLate()
	err := builder(mgr, "front", 4).
		For(&v1alpha1.NodePortPolicy{}, ofSpec).
		Watches(&v1alpha1.NodePortPolicy{}, each(r.ofHostname), ofSpec).
		Watches(&v1alpha1.NodePortAllocation{}, each(r.ofAllocation)).
		Watches(&corev1.Service{}, each(r.Snapshot.policiesOf)).
		Watches(&discoveryv1.EndpointSlice{}, gatheredKeys(func(ctx context.Context, before, after client.Object) []reconcile.Request {
			return r.Snapshot.localPolicies(ctx, cmp.Or(after, before))
		}), endpointsMatter).
		Watches(&v1alpha1.NodePortPool{}, each(r.fronted), ofSpec).
		Watches(&v1alpha1.Portreeve{}, each(r.fronted), ofSpec).
		Watches(&corev1.Node{}, gatheredKeys(func(ctx context.Context, _, _ client.Object) []reconcile.Request { return r.fronted(ctx, nil) }), nodeMatters).
		Watches(&v1alpha1.GatewaySet{}, gatheredKeys(func(ctx context.Context, _, _ client.Object) []reconcile.Request { return r.fronted(ctx, nil) })).
		Watches(&v1alpha1.NodeDatapath{}, gatheredKeys(func(ctx context.Context, before, after client.Object) []reconcile.Request {
			was, _ := before.(*v1alpha1.NodeDatapath)
			is, _ := after.(*v1alpha1.NodeDatapath)
			return r.ofReport(ctx, was, is)
		})).
		WatchesRawSource(heard.source(r.Doors.whose)).
		Complete(r)
	if err != nil {
		return err
	}
	r.Doors.watch = func(o client.Object) error { return heard.follow(r.Doors.Cache, o) }
	return r.Doors.Rights.Begin(ForFronts, func() error { return r.Doors.watch(&corev1.ConfigMap{}) })
}

// doors are the objects of ours that are there for one policy.
type doors struct {
	configMaps []*corev1.ConfigMap
	endpoint   *endpoint
	// noConfigMaps is why ConfigMaps can't be read.
	noConfigMaps *compile.Refusal
	// dns: the cluster has the kind DNSEndpoint. trouble is why it can't be read.
	dns     bool
	trouble *compile.Refusal
}

func (d doors) configMap(name string) *corev1.ConfigMap {
	for _, c := range d.configMaps {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func (d doors) all() (out []client.Object) {
	for _, c := range d.configMaps {
		out = append(out, c)
	}
	if d.endpoint != nil {
		out = append(out, d.endpoint)
	}
	return out
}
