package controllers

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

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
	// Verdicts are the allocator's. Refusals says why the API server would not take a companion.
	Verdicts, Refusals *Verdicts
	Now                func() time.Time

	mu sync.Mutex
	// refusals is since when the API server refuses a number although no Service
	// shows it.
	refusals map[uint16]spell
	// gaveUp is when a number was last given up so.
	gaveUp  time.Time
	written written
}

// spell is a time during which a number is refused again and again.
type spell struct{ since, last time.Time }

// patience is how long such a number is asked for again before it is given up: the API
// server frees numbers a little after the Service that had them, a hold for example,
// has shown that it gave them up.
const patience = 5 * time.Second

// Once a number was given up, the next ones get less time until the API server's repair
// has run: it loses numbers by the block, when a manager is killed in the middle of
// writing a hold, and a policy that chooses one of them after another is to end soon.
const (
	littlePatience = time.Second
	repairInterval = 10 * time.Minute // of the API server's node port allocator
)

// Reconcile serves what carries one policy: its companion, or its Service in place.
func (r *Exposure) Reconcile(ctx context.Context, policy reconcile.Request) (reconcile.Result, error) {
	own, err := r.Snapshot.Allocations(ctx, policy.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	held, err := r.held(ctx, own)
	if err != nil || held {
		return reconcile.Result{}, err // the hold's own change wakes us
	}
	result, err := r.companion(ctx, policy.NamespacedName, own)
	if err != nil || result.RequeueAfter > 0 {
		return result, err
	}
	return r.inPlace(ctx, policy.NamespacedName, own)
}

// held says whether one of our holds has yet to give up a number for the policy.
func (r *Exposure) held(ctx context.Context, own []v1alpha1.NodePortAllocation) (bool, error) {
	for i := range own {
		if own[i].Spec.State != v1alpha1.AllocationOpen {
			continue
		}
		if held, err := r.Snapshot.Held(ctx, compile.NumberOf(&own[i])); held || err != nil {
			return held, err
		}
	}
	return false, nil
}

// companion serves the Service that we make for a policy.
func (r *Exposure) companion(ctx context.Context, policy types.NamespacedName, own []v1alpha1.NodePortAllocation) (reconcile.Result, error) {
	have, err := get[corev1.Service](ctx, r, types.NamespacedName{Namespace: policy.Namespace, Name: policy.Name + v1alpha1.CompanionSuffix})
	if err != nil || (have != nil && (have.DeletionTimestamp != nil || !compile.IsCompanion(have, policy.Name))) {
		return reconcile.Result{}, err
	}
	service, err := r.referenced(ctx, policy.Namespace, own)
	if err != nil {
		return reconcile.Result{}, err
	}
	want := compile.Companion(policy.Namespace, policy.Name, own, service, have)
	if have != nil && !equality.Semantic.DeepEqual(want, have) {
		if waits, err := r.remembers(ctx, policy, have); waits || err != nil {
			return reconcile.Result{RequeueAfter: retrySoon}, err
		}
	}
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
	return r.update(ctx, own, want, have)
}

// update makes the Service what it is wanted to be.
func (r *Exposure) update(ctx context.Context, own []v1alpha1.NodePortAllocation, want, have *corev1.Service) (reconcile.Result, error) {
	if r.written.lags(have, r.Now()) {
		return reconcile.Result{RequeueAfter: retrySoon}, nil
	}
	asked := want.Spec.Ports
	whole, end := uncut(ctx)
	defer end()
	err := r.Update(whole, want, client.FieldOwner(v1alpha1.FieldOwner))
	if err == nil {
		r.written.note(want, r.Now())
	}
	return r.refused(ctx, own, asked, err)
}

// inPlace serves the Services that carry the policy's numbers themselves: the one it
// refers to, and one that it has left.
func (r *Exposure) inPlace(ctx context.Context, policy types.NamespacedName, own []v1alpha1.NodePortAllocation) (reconcile.Result, error) {
	served := map[string]bool{}
	for i := range own {
		name := own[i].Spec.Claim.Service
		if own[i].Spec.Carrier != v1alpha1.ServiceInPlace || served[name] {
			continue
		}
		served[name] = true
		have, err := get[corev1.Service](ctx, r, types.NamespacedName{Namespace: policy.Namespace, Name: name})
		if err != nil {
			return reconcile.Result{}, err
		}
		if have == nil || have.DeletionTimestamp != nil {
			continue
		}
		theirs := slices.DeleteFunc(slices.Clone(own), func(a v1alpha1.NodePortAllocation) bool { return a.Spec.Claim.Service != name })
		want := compile.InPlace(theirs, have)
		if equality.Semantic.DeepEqual(want, have) {
			r.tell(own, nil)
			continue
		}
		result, err := r.update(ctx, theirs, want, have)
		if err != nil || result.RequeueAfter > 0 {
			return result, err
		}
	}
	return r.giveBack(ctx, policy, served)
}

// giveBack has the Services that the policy does not carry any more say again what they
// did before. Their numbers may be nobody's by then, or somebody else's.
func (r *Exposure) giveBack(ctx context.Context, policy types.NamespacedName, served map[string]bool) (reconcile.Result, error) {
	var services corev1.ServiceList
	if err := r.List(ctx, &services, readOnly, client.InNamespace(policy.Namespace), client.MatchingFields{byBorrower: policy.Name}); err != nil {
		return reconcile.Result{}, err
	}
	for i := range services.Items {
		have := &services.Items[i]
		if served[have.Name] || have.DeletionTimestamp != nil {
			continue
		}
		if err := r.Update(ctx, compile.Returned(have), client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
			return conflict(err)
		}
	}
	return reconcile.Result{}, nil
}

// create makes the companion. The API server looks at numbers before it looks at
// names, so where our cache lags behind our own create, the companion that is
// there is what refuses the number: nobody else's.
func (r *Exposure) create(ctx context.Context, own []v1alpha1.NodePortAllocation, want *corev1.Service) (reconcile.Result, error) {
	whole, end := uncut(ctx)
	defer end()
	err := r.Create(whole, want, client.FieldOwner(v1alpha1.FieldOwner))
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
	return r.refused(ctx, own, want.Spec.Ports, err)
}

// referenced returns the Service behind the policy, nil when it is gone.
func (r *Exposure) referenced(ctx context.Context, namespace string, own []v1alpha1.NodePortAllocation) (*corev1.Service, error) {
	for i := range own {
		if own[i].Spec.State != v1alpha1.AllocationOpen || own[i].Spec.Carrier == v1alpha1.ServiceInPlace {
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

// refused records the numbers that the API server would not give to the Service as
// Foreign; the allocator then chooses others. ports are those that were asked for.
func (r *Exposure) refused(ctx context.Context, own []v1alpha1.NodePortAllocation, ports []corev1.ServicePort, err error) (reconcile.Result, error) {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return reconcile.Result{}, nil // the allocations close by themselves
	}
	var numbers []*v1alpha1.NodePortAllocation
	for _, n := range refusedNumbers(err, ports) {
		held, heldErr := r.heldLive(ctx, n)
		if heldErr != nil || held {
			return reconcile.Result{RequeueAfter: retrySoon}, heldErr
		}
		for i := range own {
			if compile.NumberOf(&own[i]) == n {
				numbers = append(numbers, &own[i])
			}
		}
	}
	if len(numbers) == 0 {
		r.tell(own, err)
		return conflict(err)
	}
	for _, a := range numbers {
		holder, err := r.Snapshot.Holder(ctx, compile.NumberOf(a))
		if err != nil {
			return reconcile.Result{}, err
		}
		had, err := r.had(ctx, a)
		if err != nil {
			return reconcile.Result{}, err
		}
		if holder == nil && r.maySoon(compile.NumberOf(a), had) {
			return reconcile.Result{RequeueAfter: 2 * retrySoon}, nil
		}
		a.Spec = compile.Refused(a, holder)
		if err := r.Update(ctx, a, client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
			return conflict(fmt.Errorf("record port %s as Foreign: %w", a.Name, err))
		}
	}
	return reconcile.Result{}, nil
}

// had says whether the policy has had the number: that of a companion that garbage
// collection took is free soon, and clients know it.
func (r *Exposure) had(ctx context.Context, a *v1alpha1.NodePortAllocation) (bool, error) {
	policy, err := get[v1alpha1.NodePortPolicy](ctx, r, policyOf(a))
	if err != nil || policy == nil {
		return false, err
	}
	return slices.ContainsFunc(policy.Status.Allocations, func(s v1alpha1.AllocatedPort) bool {
		return s.NodePort == int32(compile.NumberOf(a))
	}), nil
}

// maySoon says whether a refused number, that no Service shows, may be had if it is
// asked for again; had: the policy has had it.
func (r *Exposure) maySoon(number uint16, had bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.Now()
	for n, s := range r.refusals {
		if now.Sub(s.last) > patience {
			delete(r.refusals, n) // it was given, or nobody asks any more
		}
	}
	s, known := r.refusals[number]
	if !known || now.Sub(s.last) > time.Second {
		s.since = now // another time
	}
	s.last = now
	r.refusals[number] = s
	wait := patience
	if !had && now.Sub(r.gaveUp) < repairInterval {
		wait = littlePatience
	}
	if now.Sub(s.since) < wait {
		return true
	}
	delete(r.refusals, number)
	r.gaveUp = now
	return false
}

// tell says in the policy's status what no other number can cure: a quota, an
// admission policy, a right that is missing.
func (r *Exposure) tell(own []v1alpha1.NodePortAllocation, err error) {
	var why *compile.Refusal
	if apierrors.IsForbidden(err) || apierrors.IsInvalid(err) {
		name := own[0].Spec.Claim.Policy + v1alpha1.CompanionSuffix
		if own[0].Spec.Carrier == v1alpha1.ServiceInPlace {
			name = own[0].Spec.Claim.Service
		}
		why = &compile.Refusal{Reason: v1alpha1.ReasonServiceRefused, Message: fmt.Sprintf("the API server refuses Service %s: %v; remove what forbids it", name, err)}
	}
	r.Refusals.Say(policyOf(&own[0]), why)
}

// heldLive asks the API server whether a hold of ours still has the number.
func (r *Exposure) heldLive(ctx context.Context, number uint16) (bool, error) {
	live := r.Snapshot
	live.Reader = r.Snapshot.Live
	return live.Held(ctx, number)
}

// refusedNumbers reads from an Invalid answer which node ports it is about: the
// causes name the field, spec.ports[i].nodePort.
func refusedNumbers(err error, ports []corev1.ServicePort) []uint16 {
	status := apierrors.APIStatus(nil)
	if !apierrors.IsInvalid(err) || !asStatus(err, &status) || status.Status().Details == nil {
		return nil
	}
	var out []uint16
	for _, cause := range status.Status().Details.Causes {
		index, isPort := strings.CutPrefix(cause.Field, "spec.ports[")
		index, isNodePort := strings.CutSuffix(index, "].nodePort")
		i, notNumber := strconv.Atoi(index)
		if isPort && isNodePort && notNumber == nil && i >= 0 && i < len(ports) && ports[i].NodePort != 0 {
			out = append(out, uint16(ports[i].NodePort))
		}
	}
	return out
}

// SetupWithManager wakes a policy's exposure when its allocations, its companion
// or the referenced Service change.
func (r *Exposure) SetupWithManager(mgr ctrl.Manager) error {
	r.refusals = map[uint16]spell{}
	return builder(mgr, "exposure", 8).
		Watches(&v1alpha1.NodePortAllocation{}, each(func(_ context.Context, o client.Object) []reconcile.Request {
			if key := policyOf(o.(*v1alpha1.NodePortAllocation)); key.Name != "" {
				return []reconcile.Request{{NamespacedName: key}}
			}
			return nil
		})).
		Watches(&corev1.Service{}, each(func(ctx context.Context, o client.Object) []reconcile.Request {
			out := append(r.Snapshot.policiesOf(ctx, o), r.released(ctx, o.(*corev1.Service))...)
			if borrower := compile.Borrower(o.(*corev1.Service)); borrower != "" {
				out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: borrower}})
			}
			return out
		})).
		Complete(r)
}

// released returns the policies whose numbers a hold has, or had until now.
func (r *Exposure) released(ctx context.Context, hold *corev1.Service) []reconcile.Request {
	if !compile.IsHold(hold, r.Snapshot.Namespace) {
		return nil
	}
	var out []reconcile.Request
	for n := range compile.Held(hold) {
		a, err := get[v1alpha1.NodePortAllocation](ctx, r, types.NamespacedName{Name: numberName(n)})
		if err == nil && a != nil && a.Spec.Claim.Policy != "" {
			out = append(out, reconcile.Request{NamespacedName: policyOf(a)})
		}
	}
	return out
}
