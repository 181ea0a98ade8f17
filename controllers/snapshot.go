package controllers

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// Fields by which the cache is indexed.
const (
	byCategory = "spec.category"        // policies
	byPool     = "spec.poolRef.name"    // policies
	byService  = "spec.serviceRef.name" // policies
	byPolicy   = "spec.claim.policy"    // allocations, as namespace/name
	byClaimed  = "spec.claim.service"   // allocations of policies, as namespace/name
	byNodePort = "spec.ports.nodePort"  // Services, every number they hold
	bySet      = "spec.sources.addressSet" // policies
)

func addIndexes(ctx context.Context, indexer client.FieldIndexer) error {
	for _, index := range []struct {
		object client.Object
		field  string
		values func(client.Object) []string
	}{
		{&v1alpha1.NodePortPolicy{}, byCategory, func(o client.Object) []string {
			return []string{o.(*v1alpha1.NodePortPolicy).Spec.Category}
		}},
		{&v1alpha1.NodePortPolicy{}, byPool, func(o client.Object) []string {
			if ref := o.(*v1alpha1.NodePortPolicy).Spec.PoolRef; ref != nil {
				return []string{string(ref.Name)}
			}
			return nil
		}},
		{&v1alpha1.NodePortPolicy{}, bySet, func(o client.Object) []string {
			var names []string
			for _, s := range o.(*v1alpha1.NodePortPolicy).Spec.Sources {
				if s.AddressSet != "" {
					names = append(names, string(s.AddressSet))
				}
			}
			return names
		}},
		{&v1alpha1.NodePortPolicy{}, byService, func(o client.Object) []string {
			return []string{o.(*v1alpha1.NodePortPolicy).Spec.ServiceRef.Name}
		}},
		{&v1alpha1.NodePortAllocation{}, byPolicy, func(o client.Object) []string {
			return []string{policyOf(o.(*v1alpha1.NodePortAllocation)).String()}
		}},
		{&v1alpha1.NodePortAllocation{}, byClaimed, func(o client.Object) []string {
			claim := o.(*v1alpha1.NodePortAllocation).Spec.Claim
			if claim.Policy == "" {
				return nil
			}
			return []string{types.NamespacedName{Namespace: claim.Namespace, Name: claim.Service}.String()}
		}},
		{&corev1.Service{}, byCaptured, capturedPorts},
		{&corev1.Service{}, byNodePort, func(o client.Object) []string {
			var numbers []string
			for n := range compile.Held(o.(*corev1.Service)) {
				numbers = append(numbers, strconv.Itoa(int(n)))
			}
			return numbers
		}},
	} {
		if err := indexer.IndexField(ctx, index.object, index.field, index.values); err != nil {
			return err
		}
	}
	return nil
}

func policyOf(a *v1alpha1.NodePortAllocation) types.NamespacedName {
	return types.NamespacedName{Namespace: a.Spec.Claim.Namespace, Name: a.Spec.Claim.Policy}
}

// Snapshot reads the cache. Its methods return copies that may be kept.
type Snapshot struct {
	client.Reader
	// Live reads past the cache.
	Live client.Reader
	// Cache, Listed and ListedSets tell how far allocations and AddressSets have been
	// read.
	Cache              cache.Cache
	Listed, ListedSets *Listed
	// NodePorts knows the API server's node-port range; nil where nobody does.
	NodePorts *NodePortRange
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

// Limits returns what holds for all pools.
func (s Snapshot) Limits(ctx context.Context) (compile.Limits, error) {
	installation, err := s.Installation(ctx)
	if err != nil {
		return compile.Limits{}, err
	}
	found := ""
	if s.NodePorts != nil && (installation == nil || installation.Spec.NodePortRange == "") {
		if found, err = s.NodePorts.Find(ctx); err != nil {
			return compile.Limits{}, err
		}
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
	return compile.Cluster{
		Pools: compile.Owned(pools.Items, limits), Places: compile.NewPlaces(pools.Items, sets.Items), Now: s.now(),
	}, nil
}

// Pools returns all pools with overlaps resolved, the owner first. Nothing in them
// may be changed.
func (s Snapshot) Pools(ctx context.Context) ([]compile.Pool, error) {
	limits, err := s.Limits(ctx)
	if err != nil {
		return nil, err
	}
	return poolsOf(ctx, s, limits, readOnly)
}

// LivePools asks the API server.
func (s Snapshot) LivePools(ctx context.Context) ([]compile.Pool, error) {
	limits, err := s.Limits(ctx)
	if err != nil {
		return nil, err
	}
	return poolsOf(ctx, s.Live, limits)
}

func poolsOf(ctx context.Context, reader client.Reader, limits compile.Limits, options ...client.ListOption) ([]compile.Pool, error) {
	var list v1alpha1.NodePortPoolList
	err := reader.List(ctx, &list, options...)
	return compile.Owned(list.Items, limits), err
}

// Allocations of one policy, Open and Closed.
func (s Snapshot) Allocations(ctx context.Context, policy types.NamespacedName) ([]v1alpha1.NodePortAllocation, error) {
	var list v1alpha1.NodePortAllocationList
	err := s.List(ctx, &list, client.MatchingFields{byPolicy: policy.String()})
	return list.Items, err
}

// View is a policy with all that its meaning depends on.
type View struct {
	compile.Cluster
	// Policy is nil when it is gone, or going with its namespace.
	Policy *v1alpha1.NodePortPolicy
	// Service is the referenced one, nil when absent.
	Service *corev1.Service
	// Of Wish and Refusal exactly one is set when there is a policy.
	Wish        *compile.Wish
	Refusal     *compile.Refusal
	Allocations []v1alpha1.NodePortAllocation
}

// View reads a policy and resolves it.
func (s Snapshot) View(ctx context.Context, key types.NamespacedName) (View, error) {
	cluster, err := s.Cluster(ctx)
	if err != nil {
		return View{}, err
	}
	policy, err := get[v1alpha1.NodePortPolicy](ctx, s, key)
	if err != nil {
		return View{}, err
	}
	return s.view(ctx, cluster, key, policy)
}

// view resolves a policy that was read; nil when it is gone.
func (s Snapshot) view(ctx context.Context, cluster compile.Cluster, key types.NamespacedName, policy *v1alpha1.NodePortPolicy) (View, error) {
	own, err := s.Allocations(ctx, key)
	if err != nil {
		return View{}, err
	}
	v := View{Cluster: cluster, Allocations: own}
	if policy == nil || policy.DeletionTimestamp != nil {
		return v, nil
	}
	// Namespace deletion removes the companion and the policy in any order; the
	// ports close as soon as it begins. One that is not there is new, and the cache
	// lags: a namespace goes only after all that is in it.
	namespace, err := get[corev1.Namespace](ctx, s, types.NamespacedName{Name: key.Namespace})
	if err != nil || namespace != nil && namespace.DeletionTimestamp != nil {
		return v, err
	}
	if namespace != nil {
		v.Namespace = namespace.Labels
	}
	v.Policy = policy
	return v, s.resolve(ctx, &v)
}

func (s Snapshot) resolve(ctx context.Context, v *View) error {
	service, err := get[corev1.Service](ctx, s, types.NamespacedName{Namespace: v.Policy.Namespace, Name: v.Policy.Spec.ServiceRef.Name})
	if err != nil {
		return err
	}
	if service != nil && service.DeletionTimestamp == nil {
		v.Service = service
	}
	if v.Policy.Spec.Service == v1alpha1.ServiceInPlace {
		if v.Elder, err = s.elder(ctx, v.Policy); err != nil {
			return err
		}
		v.InPlace = slices.ContainsFunc(v.Allocations, func(a v1alpha1.NodePortAllocation) bool { return a.Spec.Carrier == v1alpha1.ServiceInPlace })
	}
	v.Wish, v.Refusal = compile.NewWish(v.Policy, v.Service, v.Cluster)
	return nil
}

// elder names the older policy that carries the same Service in place, "" if none.
func (s Snapshot) elder(ctx context.Context, policy *v1alpha1.NodePortPolicy) (string, error) {
	var list v1alpha1.NodePortPolicyList
	err := s.List(ctx, &list, readOnly, client.InNamespace(policy.Namespace), client.MatchingFields{byService: policy.Spec.ServiceRef.Name})
	return compile.Elder(policy, list.Items), err
}

// InPlace returns the policy that carries a Service in place, nil if none does.
func (s Snapshot) InPlace(ctx context.Context, service types.NamespacedName) (*v1alpha1.NodePortPolicy, error) {
	var list v1alpha1.NodePortPolicyList
	if err := s.List(ctx, &list, client.InNamespace(service.Namespace), client.MatchingFields{byService: service.Name}); err != nil {
		return nil, err
	}
	for i := range list.Items {
		p := &list.Items[i]
		if p.Spec.Service == v1alpha1.ServiceInPlace && compile.Elder(p, list.Items) == "" {
			return p, nil
		}
	}
	return nil, nil
}

// Nodes returns every Node with its agent's report.
func (s Snapshot) Nodes(ctx context.Context) ([]compile.NodeReport, error) {
	var nodes corev1.NodeList
	if err := s.List(ctx, &nodes); err != nil {
		return nil, err
	}
	var reports v1alpha1.NodeDatapathList
	if err := s.List(ctx, &reports); err != nil {
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

// Proof judges marks by how far allocations and AddressSets have been read. Read it
// before the allocations it is to judge.
func (s Snapshot) Proof(ctx context.Context) (compile.Proof, error) {
	var reports v1alpha1.NodeDatapathList
	if err := s.List(ctx, &reports, readOnly); err != nil {
		return compile.Proof{}, err
	}
	listed, err := s.listed(ctx, s.Listed, &v1alpha1.NodePortAllocation{}, &v1alpha1.NodePortAllocationList{}, reports.Items,
		func(m v1alpha1.Marks) string { return m.Allocations })
	if err != nil {
		return compile.Proof{}, err
	}
	sets, err := s.listed(ctx, s.ListedSets, &v1alpha1.AddressSet{}, &v1alpha1.AddressSetList{}, reports.Items,
		func(m v1alpha1.Marks) string { return m.AddressSets })
	if err != nil {
		return compile.Proof{}, err
	}
	proof := compile.Proof{Listed: listed, ListedSets: sets}
	installation, err := s.Installation(ctx)
	if installation != nil {
		proof.Installation = installation.ResourceVersion
	}
	return proof, err
}

// listed returns the resource version up to which a kind has been read.
//
// An informer that hears nothing stands still while an agent that has just
// started has listed something newer; then the API server itself is asked how
// far it is, so that such marks neither count unseen nor wait for a bookmark.
func (s Snapshot) listed(ctx context.Context, known *Listed, kind client.Object, list client.ObjectList, reports []v1alpha1.NodeDatapath, mark func(v1alpha1.Marks) string) (string, error) {
	informer, err := s.Cache.GetInformer(ctx, kind)
	if err != nil {
		return "", err
	}
	if shared, ok := informer.(toolscache.SharedIndexInformer); ok {
		known.raise(shared.LastSyncResourceVersion())
	}
	for i := range reports {
		if !known.reaches(mark(reports[i].Status.Marks)) {
			if err := s.Live.List(ctx, list, client.Limit(1)); err != nil {
				return "", err
			}
			known.raise(list.GetResourceVersion())
			break
		}
	}
	return known.upTo(), nil
}

// Listed is the highest resource version of one kind that this process has read.
type Listed struct {
	mu sync.Mutex
	rv string
}

func (l *Listed) raise(rv string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rv != "" && (l.rv == "" || !compile.AtLeast(l.rv, rv)) {
		l.rv = rv
	}
}

func (l *Listed) reaches(rv string) bool { return rv == "" || compile.AtLeast(l.upTo(), rv) }

func (l *Listed) upTo() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rv
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

// policiesUsing returns the policies that refer to an AddressSet, or that get it by a
// pool's defaults.
func (s Snapshot) policiesUsing(ctx context.Context, set client.Object) []reconcile.Request {
	var list v1alpha1.NodePortPolicyList
	if err := s.List(ctx, &list, readOnly, client.MatchingFields{bySet: set.GetName()}); err != nil {
		return nil
	}
	out := requests(list.Items, policyKey)
	var pools v1alpha1.NodePortPoolList
	if err := s.List(ctx, &pools, readOnly); err != nil {
		return out
	}
	names := func(d v1alpha1.DefaultSource) bool { return string(d.AddressSet) == set.GetName() }
	if !slices.ContainsFunc(pools.Items, func(p v1alpha1.NodePortPool) bool { return slices.ContainsFunc(p.Spec.DefaultSources, names) }) {
		return out
	}
	var all v1alpha1.NodePortPolicyList
	if err := s.List(ctx, &all, readOnly); err != nil {
		return out
	}
	return append(out, requests(slices.DeleteFunc(all.Items, func(p v1alpha1.NodePortPolicy) bool { return p.Spec.Sources != nil }), policyKey)...)
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
