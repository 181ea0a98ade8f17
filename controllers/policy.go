package controllers

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// progressEvery bounds how often a status is written for progress alone, such as
// one more node: transitions are written at once.
const progressEvery = 2 * time.Second

// settleGrace is how long a new wish may take to come true before its progress is
// written: most are Ready by then, in one write.
const settleGrace = 500 * time.Millisecond

// joinGrace is how long a node that has not reported may be behind before every
// policy is told: a node that joins must not rewrite them all.
const joinGrace = 10 * time.Second

// Policy writes the status of policies, and nothing else.
type Policy struct {
	client.Client
	Snapshot Snapshot
	// Verdicts are the allocator's, Refusals exposure's.
	Verdicts, Refusals *Verdicts
	Clouds             *Clouds
	Fronts             *Fronts
	Now                func() time.Time

	mu    sync.Mutex
	notes map[types.NamespacedName]note
	busy  map[types.NamespacedName]bool // being looked at
	timer timer
}

// note is what is remembered of a policy between two looks at it.
type note struct {
	// written is when its status was last written by this process.
	written time.Time
	// version of the policy that this write made.
	version string
	// since is when it began to differ in the way that kind says.
	since time.Time
	kind  urgent
}

// Reconcile serves one policy.
func (r *Policy) Reconcile(ctx context.Context, key reconcile.Request) (reconcile.Result, error) {
	defer r.look(key.NamespacedName)()
	// Read before the allocations, so that a mark can't be above what it is judged by.
	proof, err := r.Snapshot.Proof(ctx)
	if err != nil {
		return reconcile.Result{}, err
	}
	view, err := r.Snapshot.View(ctx, key.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	if view.Policy == nil {
		r.forget(key.NamespacedName)
		r.timer.forget(key.NamespacedName)
		r.Verdicts.Say(key.NamespacedName, nil) // one of the same name is another policy
		r.Refusals.Say(key.NamespacedName, nil)
		return reconcile.Result{}, nil
	}
	r.timer.begin(key.NamespacedName, view.Policy, r.Now())
	if before := r.noted(key.NamespacedName); before.version != "" && !compile.AtLeast(view.Policy.ResourceVersion, before.version) &&
		r.Now().Sub(before.written) < forgetWritten { // later than that the past has come back: etcd was restored
		return reconcile.Result{RequeueAfter: retrySoon}, nil // the cache does not show our last write yet
	}
	if lags(view, r.Now()) {
		return reconcile.Result{}, nil // the allocation's own change wakes us
	}
	seen, err := r.see(ctx, view, proof)
	if err != nil {
		return reconcile.Result{}, err
	}
	now := r.Now()
	status := compile.Status(seen, metav1.NewTime(now))
	r.timer.saw(key.NamespacedName, status.Conditions, now)
	wait, write := r.when(key.NamespacedName, view.Policy.Status, status, seen, now)
	if write {
		view.Policy.Status = status
		if err := r.Status().Update(ctx, view.Policy, client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
			return conflict(err)
		}
		r.note(key.NamespacedName, note{written: now, version: view.Policy.ResourceVersion})
		wait = 0
	}
	if ends := untilEnd(view.Policy.Spec.ExpiresAt, now); ends > 0 && (wait == 0 || ends < wait) {
		wait = ends
	}
	return reconcile.Result{RequeueAfter: wait}, nil
}

// lags says whether an allocation does not yet say what the policy wants: proofs
// about it would be proofs of something else.
func lags(view View, now time.Time) bool {
	return slices.ContainsFunc(view.Allocations, func(a v1alpha1.NodePortAllocation) bool {
		want := compile.Allocation(&a, view.Policy, view.Wish, view.Refusal, view.Allocations, view.Cluster, metav1.NewMicroTime(now))
		return !equality.Semantic.DeepEqual(want, a.Spec)
	})
}

// when says whether to write now, or how long to wait (0: for the next event).
func (r *Policy) when(key types.NamespacedName, before, after v1alpha1.NodePortPolicyStatus, seen compile.Seen, now time.Time) (time.Duration, bool) {
	note := r.noted(key)
	kind := urgency(before, after, seen)
	if kind != note.kind || note.since.IsZero() {
		note.kind, note.since = kind, now
	}
	r.note(key, note)
	rest := time.Duration(0)
	switch kind {
	case nothing:
		return 0, false
	case progress:
		rest = note.written.Add(progressEvery).Sub(now)
	case doubt:
		rest = note.since.Add(joinGrace).Sub(now)
	case settling:
		rest = note.since.Add(settleGrace).Sub(now)
	case transition:
	}
	return rest, rest <= 0
}

func (r *Policy) see(ctx context.Context, view View, proof compile.Proof) (compile.Seen, error) {
	seen := compile.Seen{
		Policy: view.Policy, Wish: view.Wish, Refusal: view.Refusal, Service: view.Service,
		Allocations: view.Allocations, Proof: proof, Places: view.Places, Clouds: map[string]compile.CloudSeen{},
		Unserved: r.Verdicts.Of(policyKey(view.Policy)), Unexposed: r.Refusals.Of(policyKey(view.Policy)),
		Front: r.Fronts.Of(policyKey(view.Policy)),
	}
	seen.Proof.Places = view.Places
	var err error
	if seen.Plan, err = r.plan(ctx, view); err != nil {
		return seen, err
	}
	installation, err := r.Snapshot.Installation(ctx)
	if err != nil {
		return seen, err
	}
	seen.Lockdown = installation != nil && installation.Spec.Lockdown
	companion := types.NamespacedName{Namespace: view.Policy.Namespace, Name: view.Policy.Name + v1alpha1.CompanionSuffix}
	if seen.Companion, err = get[corev1.Service](ctx, r, companion); err != nil {
		return seen, err
	}
	if seen.Ingress, seen.NetworkPolicy, err = r.Snapshot.ingress(ctx, policyKey(view.Policy), view.Allocations); err != nil {
		return seen, err
	}
	if seen.Nodes, err = r.Snapshot.Nodes(ctx); err != nil {
		return seen, err
	}
	if seen.Endpoints, err = r.Snapshot.Endpoints(ctx, view.Allocations); err != nil {
		return seen, err
	}
	if seen.Hijackers, err = r.Snapshot.hijackers(ctx, view.Allocations, seen.Nodes); err != nil {
		return seen, err
	}
	var firewalls v1alpha1.CloudFirewallList
	if err := r.List(ctx, &firewalls, readOnly); err != nil {
		return seen, err
	}
	for _, f := range firewalls.Items {
		seen.Clouds[f.Name] = r.Clouds.Of(f.Name).CloudSeen
	}
	return seen, nil
}

type urgent int

const (
	nothing    urgent = iota // equal, or too early to say anything
	progress                 // worth telling, but not now
	doubt                    // a node has not reported: it may just have joined
	settling                 // a new wish that may come true any moment
	transition               // a gate changed, or a new generation was seen
)

// urgency compares a status with the last written one. How many addresses there are is
// no reason to write: where the list is full, a node that joins rewrites no policy, and
// one that goes only those that list it.
func urgency(before, after v1alpha1.NodePortPolicyStatus, seen compile.Seen) urgent {
	if compile.TooEarly(seen) {
		return nothing
	}
	lost, gained := compile.AddressLost(before, after), compile.AddressGained(before, after)
	none := len(before.Addresses) == 0 && gained
	before.Addresses, before.TotalAddresses = after.Addresses, after.TotalAddresses
	before, hadAnswers, was := unansweredApart(before)
	after, answers, is := unansweredApart(after)
	if equality.Semantic.DeepEqual(before, after) {
		switch {
		case lost && !seen.Gated(), none:
			return progress
		case lost, gained: // a node that came back may go again; a fail-over is one write, not at once one for each policy
			return doubt
		case was != is, !slices.Equal(hadAnswers, answers): // endpoints come and go
			return doubt
		}
		return nothing
	}
	if before.ObservedGeneration != after.ObservedGeneration || !slices.Equal(before.Allocations, after.Allocations) {
		if meta.IsStatusConditionTrue(after.Conditions, v1alpha1.Ready) || meta.IsStatusConditionTrue(after.Conditions, v1alpha1.Stalled) {
			return transition
		}
		return settling
	}
	return urgencyOfGates(before, after, seen)
}

// unansweredApart takes out of a status what it says of where somebody answers.
func unansweredApart(status v1alpha1.NodePortPolicyStatus) (rest v1alpha1.NodePortPolicyStatus, answers []v1alpha1.AnsweredAddress, unanswered string) {
	rest, answers = status, status.Answered
	rest.Answered, rest.Conditions = nil, slices.Clone(status.Conditions)
	if c := meta.FindStatusCondition(status.Conditions, v1alpha1.Unanswered); c != nil {
		unanswered = c.Message
		meta.RemoveStatusCondition(&rest.Conditions, v1alpha1.Unanswered)
	}
	return rest, answers, unanswered
}

// urgencyOfGates is that of a status of the same wish with the same numbers.
func urgencyOfGates(before, after v1alpha1.NodePortPolicyStatus, seen compile.Seen) urgent {
	changed := func(kind string) bool {
		return meta.IsStatusConditionTrue(before.Conditions, kind) != meta.IsStatusConditionTrue(after.Conditions, kind)
	}
	switch {
	case changed(v1alpha1.Accepted), changed(v1alpha1.Allocated), changed(v1alpha1.Stalled), changed(v1alpha1.Shadowed), changed(v1alpha1.Conflict):
		return transition
	case !changed(v1alpha1.Ready):
		return progress
	case changed(v1alpha1.Exposed), changed(v1alpha1.CloudEnforced):
		return transition
	case proved(before) && !seen.Lockdown && onlySilent(after.Nodes):
		return doubt
	case proved(before) && hostReason(after) == v1alpha1.ReasonNoGateways: // the next one is about to take over
		return settling
	}
	return transition
}

// proved says whether every node had proved that it does what the policy wants: that it
// enforces, or audits.
func proved(status v1alpha1.NodePortPolicyStatus) bool {
	c := meta.FindStatusCondition(status.Conditions, v1alpha1.HostEnforced)
	return c != nil && (c.Status == metav1.ConditionTrue || c.Reason == v1alpha1.ReasonAudit)
}

func hostReason(status v1alpha1.NodePortPolicyStatus) string {
	if c := meta.FindStatusCondition(status.Conditions, v1alpha1.HostEnforced); c != nil {
		return c.Reason
	}
	return ""
}

// onlySilent says whether all failing nodes have merely not reported yet.
func onlySilent(nodes *v1alpha1.NodesStatus) bool {
	return nodes != nil && len(nodes.Failing) > 0 && !slices.ContainsFunc(nodes.Failing, func(f v1alpha1.NodeFailure) bool {
		return f.Reason != compile.NodeUngated && f.Reason != compile.NodeRebooted && f.Reason != compile.NodePending && f.Reason != compile.NodeUnconfirmed
	})
}

func (r *Policy) noted(key types.NamespacedName) note {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.notes[key]
}

func (r *Policy) note(key types.NamespacedName, n note) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes[key] = n
}

func (r *Policy) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.notes, key)
}

// SetupWithManager wakes a policy for its own edits, its allocations, Services
// and pools, and for news from nodes and clouds.
func (r *Policy) SetupWithManager(mgr ctrl.Manager) error {
	r.notes, r.busy = map[types.NamespacedName]note{}, map[types.NamespacedName]bool{}
	b := builder(mgr, "policy", 8).
		For(&v1alpha1.NodePortPolicy{}, ofSpec).
		Watches(&v1alpha1.NodePortAllocation{}, each(func(_ context.Context, o client.Object) []reconcile.Request {
			if key := policyOf(o.(*v1alpha1.NodePortAllocation)); key.Name != "" {
				return []reconcile.Request{{NamespacedName: key}}
			}
			return nil
		})).
		Watches(&corev1.Service{}, each(func(ctx context.Context, o client.Object) []reconcile.Request {
			return append(r.Snapshot.policiesOf(ctx, o), r.Snapshot.captured(ctx, o.(*corev1.Service))...)
		})).
		Watches(&discoveryv1.EndpointSlice{}, each(r.Snapshot.localPolicies), endpointsMatter).
		Watches(&v1alpha1.AddressSet{}, each(func(ctx context.Context, o client.Object) []reconcile.Request {
			if r.Snapshot.denies(ctx, o) {
				return r.all(ctx, o)
			}
			return r.Snapshot.policiesUsing(ctx, o)
		})).
		Watches(&v1alpha1.GatewaySet{}, each(r.ofGateways)).
		Watches(&v1alpha1.Portreeve{}, each(r.all), ofSpec).
		Watches(&corev1.Namespace{}, each(r.inNamespace), ofLabels).
		Watches(&v1alpha1.NodePortPool{}, each(r.all), ofSpec).
		Watches(&v1alpha1.CloudFirewall{}, each(r.all), ofSpec).
		Watches(&v1alpha1.NodeDatapath{}, each(r.ofNodes)).
		Watches(&v1alpha1.NodeDatapath{}, each(r.all), factsMatter).
		Watches(&v1alpha1.NodeDatapath{}, each(r.ofAnswers), answersMatter).
		Watches(&corev1.Node{}, r.ofNodeNews(), nodeMatters).
		WatchesRawSource(source.Channel(r.Verdicts.heard, &handler.EnqueueRequestForObject{})).
		WatchesRawSource(source.Channel(r.Refusals.heard, &handler.EnqueueRequestForObject{})).
		WatchesRawSource(source.Channel(r.Fronts.heard, &handler.EnqueueRequestForObject{})).
		WatchesRawSource(source.Channel(r.Clouds.changed, handler.EnqueueRequestsFromMapFunc(r.all))).
		WatchesRawSource(source.Channel(r.Snapshot.Rights.changed, each(func(ctx context.Context, _ client.Object) []reconcile.Request {
			return r.Snapshot.policiesWithNetworkPolicy(ctx)
		})))
	return r.Snapshot.withNetworkPolicies(mgr, b, r)
}

func (r *Policy) all(ctx context.Context, _ client.Object) []reconcile.Request {
	var list v1alpha1.NodePortPolicyList
	if err := r.List(ctx, &list, readOnly); err != nil {
		return nil
	}
	return requests(list.Items, policyKey)
}

// ofGateways returns the policies whose gateways the set has.
func (r *Policy) ofGateways(ctx context.Context, set client.Object) []reconcile.Request {
	var own v1alpha1.NodePortAllocationList
	if err := r.List(ctx, &own, readOnly, client.MatchingFields{byGateways: set.GetName()}); err != nil {
		return nil
	}
	return requests(own.Items, policyOf)
}

// ofAnswers returns the policies to which it is news what a node's agent saw at open
// ports, or was.
func (r *Policy) ofAnswers(ctx context.Context, o client.Object) []reconcile.Request {
	var list v1alpha1.NodePortPolicyList
	if err := r.List(ctx, &list, readOnly); err != nil {
		return nil
	}
	return requests(slices.DeleteFunc(list.Items, func(p v1alpha1.NodePortPolicy) bool {
		return !compile.AnswersMatter(p.Status, o.(*v1alpha1.NodeDatapath).Status.Answers)
	}), policyKey)
}

func (r *Policy) inNamespace(ctx context.Context, namespace client.Object) []reconcile.Request {
	var list v1alpha1.NodePortPolicyList
	if err := r.List(ctx, &list, readOnly, client.InNamespace(namespace.GetName())); err != nil {
		return nil
	}
	return requests(list.Items, policyKey)
}

// ofNodes returns the policies to which a report of a node can make a
// difference: all of them when the node is in trouble or its report is gone, those
// that wait otherwise.
func (r *Policy) ofNodes(ctx context.Context, o client.Object) []reconcile.Request {
	report := o.(*v1alpha1.NodeDatapath)
	if there, err := get[v1alpha1.NodeDatapath](ctx, r, types.NamespacedName{Name: report.Name}); err == nil && there == nil {
		return r.all(ctx, o)
	}
	excepts := func(e v1alpha1.PortException) bool { return e.Port != 0 } // what is about no number is about no policy
	if report.DeletionTimestamp != nil || slices.ContainsFunc(report.Status.Exceptions, excepts) || !meta.IsStatusConditionTrue(report.Status.Conditions, v1alpha1.Enforced) {
		return r.all(ctx, o)
	}
	var list v1alpha1.NodePortPolicyList
	if err := r.List(ctx, &list, readOnly); err != nil {
		return nil
	}
	return requests(slices.DeleteFunc(list.Items, func(p v1alpha1.NodePortPolicy) bool {
		return proved(p.Status) && p.Status.ObservedGeneration == p.Generation
	}), policyKey)
}
