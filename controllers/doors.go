package controllers

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// probeEvery is how often it is looked whether the cluster has got the kind DNSEndpoint.
const probeEvery = 5 * time.Second

// endpoint is a DNSEndpoint, a kind that we know by name only.
type endpoint = unstructured.Unstructured

// Doors reads and writes what stands before the nodes. Its cache has our own objects
// only, by their label: ConfigMaps of others are many, and none of our business. The
// kind DNSEndpoint need not exist, and may come at any time.
type Doors struct {
	client.Client
	Cache cache.Cache
	// Live reads past the cache.
	Live client.Reader
	// Rights says which of the kinds the manager may write.
	Rights *Rights
	Now    func() time.Time

	// watch begins to wake policies for one more kind.
	watch func(client.Object) error

	mu sync.Mutex
	// probed is when the kind was last looked for in vain, watched says that it was found.
	probed  time.Time
	watched bool
}

// NewDoors adds the cache to the manager.
func NewDoors(mgr ctrl.Manager, rights *Rights, now func() time.Time) (*Doors, error) {
	ours, err := labels.NewRequirement(v1alpha1.LabelFront, selection.Exists, nil)
	if err != nil {
		return nil, err
	}
	own, err := cluster.New(mgr.GetConfig(), func(o *cluster.Options) {
		o.Scheme, o.HTTPClient = mgr.GetScheme(), mgr.GetHTTPClient()
		o.MapperProvider = func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return mgr.GetRESTMapper(), nil }
		o.Cache.DefaultLabelSelector = labels.NewSelector().Add(*ours)
		o.Cache.DefaultTransform = cache.TransformStripManagedFields()
		o.Client.Cache = &client.CacheOptions{Unstructured: true}
	})
	if err != nil {
		return nil, err
	}
	return &Doors{Client: own.GetClient(), Cache: own.GetCache(), Live: mgr.GetAPIReader(), Rights: rights, Now: now}, mgr.Add(own)
}

// of returns what is there of ours for a policy, as far as it may be read.
func (d *Doors) of(ctx context.Context, policy types.NamespacedName) (doors, error) {
	ctx, cancel := context.WithTimeout(ctx, probeEvery) // the first to ask waits for the cache
	defer cancel()
	found, err := d.ofProxies(ctx, policy)
	if err != nil {
		return doors{}, err
	}
	return d.ofDNS(ctx, policy, found)
}

func (d *Doors) ofProxies(ctx context.Context, policy types.NamespacedName) (found doors, err error) {
	if found.noConfigMaps, err = d.Rights.Lacks(ctx, ForFronts); err != nil || found.noConfigMaps != nil {
		return found, err
	}
	var maps corev1.ConfigMapList
	if err := d.List(ctx, &maps, client.InNamespace(policy.Namespace), client.MatchingLabels{v1alpha1.LabelFront: policy.Name}); err != nil {
		d.Rights.Doubt(ForFronts)
		return doors{}, err
	}
	for i := range maps.Items {
		if compile.IsFront(&maps.Items[i], policy.Name) {
			found.configMaps = append(found.configMaps, &maps.Items[i])
		}
	}
	return found, nil
}

func (d *Doors) ofDNS(ctx context.Context, policy types.NamespacedName, found doors) (_ doors, err error) {
	if found.trouble, err = d.Rights.Lacks(ctx, ForRecords); err != nil || found.trouble != nil || !d.mayProbe() {
		return found, err
	}
	one := &endpoint{}
	one.SetGroupVersionKind(compile.DNSEndpoint)
	err = d.Get(ctx, types.NamespacedName{Namespace: policy.Namespace, Name: compile.FrontName(policy.Name)}, one)
	if meta.IsNoMatchError(err) {
		d.absent()
		return found, nil
	}
	if client.IgnoreNotFound(err) != nil { // it concerns only those who want records
		d.absent()
		found.trouble = &compile.Refusal{Reason: v1alpha1.ReasonFrontRefused, Message: fmt.Sprintf("DNSEndpoints can't be read: %v; see that the manager may", err), Waits: true}
		d.Rights.Doubt(ForRecords)
		return found, nil //nolint:nilerr // the refusal tells it
	}
	if err == nil && compile.IsFront(one, policy.Name) {
		found.endpoint = one
	}
	found.dns = true
	return found, d.present()
}

// mayProbe says whether to ask for the kind: one that was not there a moment ago is not
// asked for again by every policy.
func (d *Doors) mayProbe() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.Now().Sub(d.probed) >= probeEvery
}

func (d *Doors) absent() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.probed = d.Now()
}

// present watches the kind from now on.
func (d *Doors) present() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watched || d.watch == nil {
		return nil
	}
	kind := &endpoint{}
	kind.SetGroupVersionKind(compile.DNSEndpoint)
	if err := d.watch(kind); err != nil {
		return err
	}
	d.watched = true
	return nil
}

// live returns the object of the same kind and name that the API server has, nil when
// it has none.
func (d *Doors) live(ctx context.Context, like client.Object) (metav1.Object, error) {
	there := &metav1.PartialObjectMetadata{}
	there.SetGroupVersionKind(compile.DNSEndpoint)
	if _, is := like.(*corev1.ConfigMap); is {
		there.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	}
	if err := d.Live.Get(ctx, client.ObjectKeyFromObject(like), there); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return there, nil
}

// whose is the policy of an object that has come, gone or was touched.
func (d *Doors) whose(_ context.Context, o client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetLabels()[v1alpha1.LabelFront]}}}
}

// gatheredKeys asks for keys a while after an event, once for all events meanwhile.
func gatheredKeys(keys func(ctx context.Context, before, after client.Object) []reconcile.Request) handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	later := func(ctx context.Context, before, after client.Object, q queue) {
		for _, key := range keys(ctx, before, after) {
			q.AddAfter(key, gather)
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { later(ctx, nil, e.Object, q) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) { later(ctx, e.ObjectOld, e.ObjectNew, q) },
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { later(ctx, e.Object, nil, q) },
	}
}
