package controllers

import (
	"context"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// store is a client with the indexes of the manager's cache, over the objects.
func store(t *testing.T, objects ...client.Object) *fake.ClientBuilder {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	b := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...)
	if err := addIndexes(t.Context(), indexing{b}); err != nil {
		t.Fatal(err)
	}
	return b
}

type indexing struct{ *fake.ClientBuilder }

func (i indexing) IndexField(_ context.Context, o client.Object, field string, values client.IndexerFunc) error {
	i.WithIndex(o, field, values)
	return nil
}

func serviceOn(namespace, name string, nodePort int32) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, ClusterIP: "192.0.2.1", Selector: map[string]string{"app": name},
			Ports: []corev1.ServicePort{{Port: 443, Protocol: "TCP", NodePort: nodePort}},
		},
	}
}

// shop is a policy that has its port, with all that it depends on.
func shop() (claim *v1alpha1.NodePortAllocation, rest []client.Object) {
	pool := &v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: v1alpha1.NodePortPoolSpec{
		Category: "web", Team: "shop", Ranges: []v1alpha1.PortRange{"30000-30009"}, AllocateTo: v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{"shop"}},
	}}
	policy := &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: v1alpha1.NodePortPolicySpec{
		Category: "web", ServiceRef: v1alpha1.ServiceReference{Name: "shop"}, Sources: []v1alpha1.Source{{CIDR: "203.0.113.0/24"}},
	}}
	claim = &v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: "30001"}, Spec: v1alpha1.NodePortAllocationSpec{
		State: v1alpha1.AllocationOpen, Protocols: []v1alpha1.Protocol{"TCP"}, Pool: "web", Team: "shop",
		Claim: v1alpha1.Claim{Namespace: "shop", Policy: "web", Service: "shop"},
		Ports: []v1alpha1.ClaimedPort{{Protocol: "TCP", Port: 443, Sources: []v1alpha1.CIDR{"203.0.113.0/24"}}},
	}}
	return claim, []client.Object{pool, policy, serviceOn("shop", "shop", 0)}
}

// What is closed cuts connections, what is opened lets packets in: neither may
// rest on something that a cache merely does not show yet.
func TestAnAllocationIsNotDecidedByWhatACacheLacks(t *testing.T) {
	foreign := func(a *v1alpha1.NodePortAllocation) {
		a.Spec = v1alpha1.NodePortAllocationSpec{
			State: v1alpha1.AllocationForeign, Protocols: []v1alpha1.Protocol{"TCP"}, Pool: "web", Team: "shop",
			Claim: v1alpha1.Claim{Namespace: "ledger", Service: "old"}, Grandfathered: true,
		}
	}
	with := func(more ...client.Object) func([]client.Object) []client.Object {
		return func(all []client.Object) []client.Object { return append(all, more...) }
	}
	withoutPolicy := func(all []client.Object) []client.Object {
		return slices.DeleteFunc(all, func(o client.Object) bool { _, is := o.(*v1alpha1.NodePortPolicy); return is })
	}
	as := func(all []client.Object) []client.Object { return all }
	going := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Finalizers: []string{"kubernetes"}, DeletionTimestamp: &metav1.Time{Time: time.Now()}}}
	for name, c := range map[string]struct {
		claim        func(*v1alpha1.NodePortAllocation)
		cached, live func([]client.Object) []client.Object
		want         v1alpha1.AllocationState
		passed       bool
	}{
		"nothing is amiss":                            {nil, as, as, v1alpha1.AllocationOpen, false},
		"the policy is gone":                          {nil, withoutPolicy, withoutPolicy, v1alpha1.AllocationClosed, false},
		"the policy is not in the cache":              {nil, withoutPolicy, as, v1alpha1.AllocationOpen, false},
		"the namespace goes":                          {nil, with(going), as, v1alpha1.AllocationClosed, false},
		"another Service has taken the number":        {nil, with(serviceOn("ledger", "thief", 30001)), as, v1alpha1.AllocationForeign, false},
		"the companion has lost its label":            {nil, with(serviceOn("shop", "web-nodeport", 30001)), as, v1alpha1.AllocationOpen, false},
		"who is passed has gone":                      {foreign, as, as, v1alpha1.AllocationClosed, false},
		"who is passed is not in the cache":           {foreign, as, with(serviceOn("ledger", "old", 30001)), v1alpha1.AllocationForeign, true},
		"who was passed has moved to another number":  {foreign, as, with(serviceOn("ledger", "old", 31001)), v1alpha1.AllocationClosed, false},
		"who is passed is there, and the cache knows": {foreign, with(serviceOn("ledger", "old", 30001)), as, v1alpha1.AllocationForeign, true},
	} {
		t.Run(name, func(t *testing.T) {
			claim, rest := shop()
			if c.claim != nil {
				c.claim(claim)
			}
			cached := store(t, append(c.cached(slices.Clone(rest)), claim)...).Build()
			live := store(t, c.live(slices.Clone(rest))...).Build()
			r := &Allocation{Client: cached, Snapshot: Snapshot{Reader: cached, Live: live}, Clouds: NewClouds(), Now: time.Now}
			want, _, err := r.want(t.Context(), claim)
			if err != nil {
				t.Fatal(err)
			}
			if want.State != c.want || want.Grandfathered != c.passed {
				t.Errorf("it becomes %s (passed: %t), want %s (%t)", want.State, want.Grandfathered, c.want, c.passed)
			}
		})
	}
}

// A Closed number may have to be held in a namespace that is gone: there is
// nothing to hold it by, and no sense in asking twenty times a second.
func TestANumberIsNotHeldInANamespaceThatIsGone(t *testing.T) {
	claim, rest := shop()
	gone := interceptor.Funcs{Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "shop")
	}}
	c := store(t, append(rest, claim)...).WithInterceptorFuncs(gone).Build()
	r := &Exposure{Client: c, Snapshot: Snapshot{Reader: c, Live: c}, Verdicts: NewVerdicts(), Refusals: NewVerdicts(), Now: time.Now, refusals: map[uint16]spell{}}
	result, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "web"}})
	if err != nil || result.RequeueAfter < lookAgain {
		t.Errorf("looks again in %s, error %v", result.RequeueAfter, err)
	}
}

// What nodes are to pass must be with them before they are told to drop the rest.
func TestAPoolArmsOnlyAfterNodesCouldHearWhomToPass(t *testing.T) {
	pool := &v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: v1alpha1.NodePortPoolSpec{
		Category: "web", Team: "shop", Ranges: []v1alpha1.PortRange{"30000-30009"},
	}}
	for name, others := range map[string][]client.Object{"nobody stands there": nil, "somebody stands there": {serviceOn("ledger", "old", 30001)}} {
		t.Run(name, func(t *testing.T) {
			c := store(t, append(others, pool.DeepCopy())...).WithStatusSubresource(pool).Build()
			now := time.Now()
			r := &Pool{
				Client: c, Live: c, Snapshot: Snapshot{Reader: c, Live: c}, Events: events.NewFakeRecorder(8), Now: func() time.Time { return now },
				written: map[string]time.Time{}, recorded: map[string]time.Time{},
			}
			armed := func() bool {
				if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: types.NamespacedName{Name: "web"}}); err != nil {
					t.Fatal(err)
				}
				var after v1alpha1.NodePortPool
				if err := c.Get(t.Context(), client.ObjectKeyFromObject(pool), &after); err != nil {
					t.Fatal(err)
				}
				return len(after.Status.Armed) > 0
			}
			if got, want := armed(), others == nil; got != want {
				t.Errorf("armed at once: %t, want %t", got, want)
			}
			if others != nil && armed() {
				t.Error("armed when it was woken by what it had recorded")
			}
			if now = now.Add(tellNodes); !armed() {
				t.Error("never armed")
			}
		})
	}
}
