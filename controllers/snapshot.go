package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

func policyOf(a *v1alpha1.NodePortAllocation) types.NamespacedName {
	return types.NamespacedName{Namespace: a.Spec.Claim.Namespace, Name: a.Spec.Claim.Policy}
}

// Snapshot reads the cache. Its methods return copies that may be kept.
type Snapshot struct {
	client.Reader
	// Live reads past the cache.
	Live client.Reader
	// Cache, Listed, ListedSets and ListedGateways tell how far allocations, AddressSets
	// and GatewaySets have been read.
	Cache                              cache.Cache
	Listed, ListedSets, ListedGateways *Listed
	// Resolved remembers pools and AddressSets; nil: nothing is remembered.
	Resolved *Resolved
	// NodePorts knows the API server's node-port range; nil where nobody does.
	NodePorts *NodePortRange
	// Rights says what the manager may do; nil: all.
	Rights *Rights
	// Namespace is our own.
	Namespace string
	Now       func() time.Time
}

// read-only lists share their objects with the cache: who lists so must not change
// them.
var readOnly = client.UnsafeDisableDeepCopy

func (s Snapshot) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

// get returns nil when the object does not exist.
func get[T any, P interface {
	*T
	client.Object
}](ctx context.Context, r client.Reader, key types.NamespacedName) (P, error) {
	object := P(new(T))
	if err := r.Get(ctx, key, object); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return object, nil
}

// Installation returns the Portreeve object, nil where there is none.
func (s Snapshot) Installation(ctx context.Context) (*v1alpha1.Portreeve, error) {
	return get[v1alpha1.Portreeve](ctx, s, types.NamespacedName{Name: v1alpha1.InstallationName})
}

// agentPods returns the pods that run agents.
func (s Snapshot) agentPods(ctx context.Context) ([]corev1.Pod, error) {
	var pods corev1.PodList
	err := s.List(ctx, &pods, readOnly, client.InNamespace(s.Namespace), client.MatchingLabels(compile.AgentPods))
	return pods.Items, err
}

// Limits returns what holds for all pools.
func (s Snapshot) Limits(ctx context.Context) (compile.Limits, error) {
	installation, err := s.Installation(ctx)
	if err != nil {
		return compile.Limits{}, err
	}
	found := ""
	if s.NodePorts != nil && (installation == nil || installation.Spec.NodePortRange == "") {
		found = s.NodePorts.Find(ctx)
	}
	return compile.NewLimits(installation, found), nil
}

// Cluster returns what all policies are judged by. Nothing in it may be changed.
func (s Snapshot) Cluster(ctx context.Context) (compile.Cluster, error) {
	limits, err := s.Limits(ctx)
	if err != nil {
		return compile.Cluster{}, err
	}
	var pools v1alpha1.NodePortPoolList
	if err := s.List(ctx, &pools, readOnly); err != nil {
		return compile.Cluster{}, err
	}
	var sets v1alpha1.AddressSetList
	if err := s.List(ctx, &sets, readOnly); err != nil {
		return compile.Cluster{}, err
	}
	installation, err := s.Installation(ctx)
	if err != nil {
		return compile.Cluster{}, err
	}
	var firewalls v1alpha1.CloudFirewallList
	if err := s.List(ctx, &firewalls, readOnly); err != nil {
		return compile.Cluster{}, err
	}
	cluster := s.Resolved.of(limits, installation, pools.Items, sets.Items)
	var nodes []*corev1.Node
	if compile.Selective(firewalls.Items) {
		if nodes, err = s.nodes(ctx); err != nil {
			return compile.Cluster{}, err
		}
	}
	cluster.Places = cluster.Places.Behind(firewalls.Items, nodes...)
	cluster.Now = s.now()
	return cluster, nil
}

// Resolved remembers what pools and AddressSets were last resolved to: every policy
// and every allocation asks, and the answer seldom changes.
type Resolved struct {
	mu      sync.Mutex
	key     string
	cluster compile.Cluster
}

func (r *Resolved) of(limits compile.Limits, installation *v1alpha1.Portreeve, pools []v1alpha1.NodePortPool, sets []v1alpha1.AddressSet) compile.Cluster {
	resolve := func() compile.Cluster {
		return compile.Cluster{Pools: compile.Owned(pools, limits), Places: compile.NewPlaces(pools, sets).Within(installation)}
	}
	if r == nil {
		return resolve()
	}
	var versions []string
	if installation != nil {
		versions = append(versions, "installation "+string(installation.UID)+" "+installation.ResourceVersion)
	}
	for i := range pools {
		versions = append(versions, "pool "+pools[i].Name+" "+string(pools[i].UID)+" "+pools[i].ResourceVersion)
	}
	for i := range sets {
		versions = append(versions, "set "+sets[i].Name+" "+string(sets[i].UID)+" "+sets[i].ResourceVersion)
	}
	slices.Sort(versions)
	key := fmt.Sprint(limits.NodePorts.Strings(), limits.FailSafe.Strings(), versions)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.key != key {
		r.key, r.cluster = key, resolve()
	}
	return r.cluster
}

// Pools returns all pools with overlaps resolved, the owner first. Nothing in them
// may be changed.
func (s Snapshot) Pools(ctx context.Context) ([]compile.Pool, error) {
	cluster, err := s.Cluster(ctx)
	return cluster.Pools, err
}

// LivePools asks the API server.
func (s Snapshot) LivePools(ctx context.Context) ([]compile.Pool, error) {
	limits, err := s.Limits(ctx)
	if err != nil {
		return nil, err
	}
	var list v1alpha1.NodePortPoolList
	err = s.Live.List(ctx, &list)
	return compile.Owned(list.Items, limits), err
}

// Allocations of one policy, Open and Closed.
func (s Snapshot) Allocations(ctx context.Context, policy types.NamespacedName) ([]v1alpha1.NodePortAllocation, error) {
	var list v1alpha1.NodePortAllocationList
	err := s.List(ctx, &list, client.MatchingFields{byPolicy: policy.String()})
	slices.SortFunc(list.Items, func(a, b v1alpha1.NodePortAllocation) int {
		return cmp.Compare(compile.NumberOf(&a), compile.NumberOf(&b))
	})
	return list.Items, err
}

// nodes returns every Node. Nothing in them may be changed.
func (s Snapshot) nodes(ctx context.Context) ([]*corev1.Node, error) {
	var list corev1.NodeList
	if err := s.List(ctx, &list, readOnly); err != nil {
		return nil, err
	}
	out := make([]*corev1.Node, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
	}
	return out, nil
}

// Nodes returns every Node with its agent's report. Nothing in them may be changed:
// every policy asks for them when a node changes, and copies of all would be dear.
func (s Snapshot) Nodes(ctx context.Context) ([]compile.NodeReport, error) {
	var nodes corev1.NodeList
	if err := s.List(ctx, &nodes, readOnly); err != nil {
		return nil, err
	}
	var reports v1alpha1.NodeDatapathList
	if err := s.List(ctx, &reports, readOnly); err != nil {
		return nil, err
	}
	byName := map[string]*v1alpha1.NodeDatapath{}
	for i := range reports.Items {
		byName[reports.Items[i].Name] = &reports.Items[i]
	}
	out := make([]compile.NodeReport, len(nodes.Items))
	for i := range nodes.Items {
		out[i] = compile.NodeReport{Node: &nodes.Items[i], Datapath: byName[nodes.Items[i].Name]}
	}
	return out, nil
}

// Endpoints returns those of the Service that carries the policy's Local numbers; none
// where it has no such number.
func (s Snapshot) Endpoints(ctx context.Context, own []v1alpha1.NodePortAllocation) (compile.Endpoints, error) {
	for i := range own {
		if !own[i].Spec.LocalOnly {
			continue
		}
		var list discoveryv1.EndpointSliceList
		err := s.List(ctx, &list, readOnly, client.MatchingFields{byEndpoints: carrierKey(&own[i]).String()})
		return compile.EndpointsOf(list.Items), err
	}
	return nil, nil
}

// carrierKey names the Service that carries an allocation.
func carrierKey(a *v1alpha1.NodePortAllocation) types.NamespacedName {
	name := a.Spec.Claim.Policy + v1alpha1.CompanionSuffix
	if a.Spec.Carrier == v1alpha1.ServiceInPlace {
		name = a.Spec.Claim.Service
	}
	return types.NamespacedName{Namespace: a.Spec.Claim.Namespace, Name: name}
}

// localPolicies returns the policies that a change of a slice is about: those with a
// number that its Service carries with externalTrafficPolicy Local.
func (s Snapshot) localPolicies(ctx context.Context, slice client.Object) []reconcile.Request {
	var out []reconcile.Request
	for _, carrier := range endpointsOf(slice) {
		var list v1alpha1.NodePortAllocationList
		if err := s.List(ctx, &list, readOnly, client.MatchingFields{byLocal: carrier}); err != nil {
			return nil // only a cache that was stopped fails here
		}
		out = append(out, requests(list.Items, policyOf)...)
	}
	return out
}

// Holder returns the Service that is not ours and holds the number, or nil.
func (s Snapshot) Holder(ctx context.Context, number uint16) (*corev1.Service, error) {
	var list corev1.ServiceList
	if err := s.List(ctx, &list, client.MatchingFields{byNodePort: strconv.Itoa(int(number))}); err != nil {
		return nil, err
	}
	for i := range list.Items {
		if !s.ours(&list.Items[i]) {
			return &list.Items[i], nil
		}
	}
	return nil, nil
}

// anyHolder returns the Service that has the number and is no hold of ours.
func (s Snapshot) anyHolder(ctx context.Context, number uint16) (*corev1.Service, error) {
	var list corev1.ServiceList
	if err := s.List(ctx, &list, readOnly, client.MatchingFields{byNodePort: strconv.Itoa(int(number))}); err != nil {
		return nil, err
	}
	for i := range list.Items {
		if !compile.IsHold(&list.Items[i], s.Namespace) {
			return &list.Items[i], nil
		}
	}
	return nil, nil
}

// Held says whether one of our holds has the number.
func (s Snapshot) Held(ctx context.Context, number uint16) (bool, error) {
	hold, err := get[corev1.Service](ctx, s, types.NamespacedName{Namespace: s.Namespace, Name: compile.HoldOf(number)})
	return hold != nil && len(compile.Held(hold)[number]) > 0 && compile.IsHold(hold, s.Namespace), err
}

// StillHolds asks the API server whether the Service that a Foreign allocation
// names holds its number, and returns it, nil when it does not.
func (s Snapshot) StillHolds(ctx context.Context, a *v1alpha1.NodePortAllocation) (*corev1.Service, error) {
	service, err := get[corev1.Service](ctx, s.Live, types.NamespacedName{Namespace: a.Spec.Claim.Namespace, Name: a.Spec.Claim.Service})
	if err != nil || service == nil || s.ours(service) || len(compile.Held(service)[compile.NumberOf(a)]) == 0 {
		return nil, err
	}
	return service, nil
}

// Unseen says whether there is a policy that the cache does not show.
func (s Snapshot) Unseen(ctx context.Context, policy types.NamespacedName) (bool, error) {
	cached, err := get[v1alpha1.NodePortPolicy](ctx, s, policy)
	if err != nil || cached != nil {
		return false, err
	}
	there, err := get[v1alpha1.NodePortPolicy](ctx, s.Live, policy)
	return there != nil, err
}

// ours says whether a Service is a companion or a hold that we made.
func (s Snapshot) ours(service *corev1.Service) bool {
	return compile.IsHold(service, s.Namespace) || isCompanion(service)
}

func isCompanion(s *corev1.Service) bool {
	return s.Labels[v1alpha1.LabelPolicy] != "" && compile.IsCompanion(s, s.Labels[v1alpha1.LabelPolicy])
}

// requests turns names into queue keys.
func requests[T any](items []T, key func(*T) types.NamespacedName) []reconcile.Request {
	out := make([]reconcile.Request, len(items))
	for i := range items {
		out[i] = reconcile.Request{NamespacedName: key(&items[i])}
	}
	return out
}

func allocationKey(a *v1alpha1.NodePortAllocation) types.NamespacedName {
	return types.NamespacedName{Name: a.Name}
}

func policyKey(p *v1alpha1.NodePortPolicy) types.NamespacedName {
	return types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
}

// policiesOf returns the policies that refer to a Service, those that still expose
// it because what they refer to now can't be had, and the one whose companion has
// its name.
func (s Snapshot) policiesOf(ctx context.Context, service client.Object) []reconcile.Request {
	var list v1alpha1.NodePortPolicyList
	if err := s.List(ctx, &list, client.InNamespace(service.GetNamespace()), client.MatchingFields{byService: service.GetName()}); err != nil {
		return nil // only a cache that was stopped fails here
	}
	var exposing v1alpha1.NodePortAllocationList
	if err := s.List(ctx, &exposing, client.MatchingFields{byClaimed: client.ObjectKeyFromObject(service).String()}); err != nil {
		return nil
	}
	out := append(requests(list.Items, policyKey), requests(exposing.Items, policyOf)...)
	if policy, is := strings.CutSuffix(service.GetName(), v1alpha1.CompanionSuffix); is { // ours, or in our way
		out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: service.GetNamespace(), Name: policy}})
	}
	return out
}

// conflict turns a lost race into "look again"; the next event or this request
// brings the newer object.
func conflict(err error) (reconcile.Result, error) {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) {
		return reconcile.Result{RequeueAfter: retrySoon}, nil
	}
	return reconcile.Result{}, err
}

// asStatus finds the API server's answer in an error chain.
func asStatus(err error, status *apierrors.APIStatus) bool { return errors.As(err, status) }
