package controllers

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"

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
	byService  = "spec.serviceRef.name" // policies
	byPolicy   = "spec.claim.policy"    // allocations, as namespace/name
	byClaimed  = "spec.claim.service"   // allocations of policies, as namespace/name
	byNodePort = "spec.ports.nodePort"  // Services, every number they hold
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
	// Cache and Listed tell how far allocations have been read.
	Cache  cache.Cache
	Listed *Listed
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

// Pools returns all pools with overlaps resolved, the owner first.
func (s Snapshot) Pools(ctx context.Context) ([]compile.Pool, error) {
	var list v1alpha1.NodePortPoolList
	err := s.List(ctx, &list)
	return compile.Owned(list.Items), err
}

// Allocations of one policy, Open and Closed.
func (s Snapshot) Allocations(ctx context.Context, policy types.NamespacedName) ([]v1alpha1.NodePortAllocation, error) {
	var list v1alpha1.NodePortAllocationList
	err := s.List(ctx, &list, client.MatchingFields{byPolicy: policy.String()})
	return list.Items, err
}

// View is a policy with all that its meaning depends on.
type View struct {
	// Policy is nil when it is gone, or going with its namespace.
	Policy *v1alpha1.NodePortPolicy
	// Service is the referenced one, nil when absent.
	Service *corev1.Service
	Pools   []compile.Pool
	// Of Wish and Refusal exactly one is set when there is a policy.
	Wish        *compile.Wish
	Refusal     *compile.Refusal
	Allocations []v1alpha1.NodePortAllocation
}

// View reads a policy and resolves it.
func (s Snapshot) View(ctx context.Context, key types.NamespacedName) (View, error) {
	policy, err := get[v1alpha1.NodePortPolicy](ctx, s, key)
	if err != nil {
		return View{}, err
	}
	pools, err := s.Pools(ctx)
	if err != nil {
		return View{}, err
	}
	own, err := s.Allocations(ctx, key)
	if err != nil {
		return View{}, err
	}
	v := View{Pools: pools, Allocations: own}
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
	v.Wish, v.Refusal = compile.NewWish(v.Policy, v.Service, v.Pools)
	return nil
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

// Proof judges marks by how far allocations have been read. Read it before the
// allocations it is to judge.
//
// An informer that hears nothing stands still while an agent that has just
// started has listed something newer; then the API server itself is asked how
// far it is, so that such marks neither count unseen nor wait for a bookmark.
func (s Snapshot) Proof(ctx context.Context) (compile.Proof, error) {
	informer, err := s.Cache.GetInformer(ctx, &v1alpha1.NodePortAllocation{})
	if err != nil {
		return compile.Proof{}, err
	}
	if shared, ok := informer.(toolscache.SharedIndexInformer); ok {
		s.Listed.raise(shared.LastSyncResourceVersion())
	}
	var reports v1alpha1.NodeDatapathList
	if err := s.List(ctx, &reports); err != nil {
		return compile.Proof{}, err
	}
	for i := range reports.Items {
		if !s.Listed.reaches(reports.Items[i].Status.Marks.Allocations) {
			var one v1alpha1.NodePortAllocationList
			if err := s.Live.List(ctx, &one, client.Limit(1)); err != nil {
				return compile.Proof{}, err
			}
			s.Listed.raise(one.ResourceVersion)
			break
		}
	}
	return compile.Proof{Listed: s.Listed.upTo()}, nil
}

// Listed is the highest resource version of allocations that this process has read.
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
		if !ours(&list.Items[i]) {
			return &list.Items[i], nil
		}
	}
	return nil, nil
}

// StillHolds asks the API server whether the Service that a Foreign allocation
// names holds its number, and returns it, nil when it does not.
func (s Snapshot) StillHolds(ctx context.Context, a *v1alpha1.NodePortAllocation) (*corev1.Service, error) {
	service, err := get[corev1.Service](ctx, s.Live, types.NamespacedName{Namespace: a.Spec.Claim.Namespace, Name: a.Spec.Claim.Service})
	if err != nil || service == nil || ours(service) || len(compile.Held(service)[compile.NumberOf(a)]) == 0 {
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

// ours says whether a Service is a companion that we made.
func ours(s *corev1.Service) bool {
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
