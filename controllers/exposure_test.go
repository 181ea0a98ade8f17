package controllers

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// The API server refuses a node port in use before it says that the name is
// taken. So a manager whose cache does not show its own companion yet hears that
// the number is somebody's: its own.
func TestACompanionIsNotRefusedItsNumberByItself(t *testing.T) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "shop"}, Ports: []corev1.ServicePort{{Port: 443}}},
	}
	claim := &v1alpha1.NodePortAllocation{
		ObjectMeta: metav1.ObjectMeta{Name: "30001"},
		Spec: v1alpha1.NodePortAllocationSpec{
			State: v1alpha1.AllocationOpen, Protocols: []v1alpha1.Protocol{"TCP"}, Pool: "web", Team: "shop",
			Claim: v1alpha1.Claim{Namespace: "shop", Policy: "web", Service: "shop"},
			Ports: []v1alpha1.ClaimedPort{{Protocol: "TCP", Port: 443}},
		},
	}
	companion := compile.Companion("shop", "web", []v1alpha1.NodePortAllocation{*claim}, service, nil)
	refuse := interceptor.Funcs{Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), companion.Name, field.ErrorList{
			field.Invalid(field.NewPath("spec", "ports").Index(0).Child("nodePort"), 30001, "provided port is already allocated"),
		})
	}}
	for name, c := range map[string]struct {
		live []client.Object
		want v1alpha1.AllocationState
	}{
		"the companion is there, and the cache lags": {[]client.Object{companion}, v1alpha1.AllocationOpen},
		"somebody else holds the number":             {nil, v1alpha1.AllocationForeign},
	} {
		t.Run(name, func(t *testing.T) {
			cached := fake.NewClientBuilder().WithScheme(scheme).WithObjects(claim.DeepCopy(), service.DeepCopy()).WithInterceptorFuncs(refuse).
				WithIndex(&v1alpha1.NodePortAllocation{}, byPolicy, func(o client.Object) []string {
					return []string{policyOf(o.(*v1alpha1.NodePortAllocation)).String()}
				}).
				WithIndex(&corev1.Service{}, byNodePort, func(client.Object) []string { return nil }).
				WithIndex(&corev1.Service{}, byBorrower, func(client.Object) []string { return nil }).Build()
			live := fake.NewClientBuilder().WithScheme(scheme).WithObjects(c.live...).Build()
			now := time.Now()
			r := &Exposure{
				Client: cached, Snapshot: Snapshot{Reader: cached, Live: live}, Verdicts: NewVerdicts(), Refusals: NewVerdicts(),
				Now: func() time.Time { return now }, refusals: map[uint16]spell{},
			}
			key := types.NamespacedName{Namespace: "shop", Name: "web"}
			look := func() reconcile.Result {
				result, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: key})
				if err != nil {
					t.Fatal(err)
				}
				return result
			}
			if first := look(); first.RequeueAfter == 0 {
				t.Error("the number is given up at the first refusal: the API server may be about to free it")
			}
			var result reconcile.Result
			for range 10 {
				now = now.Add(patience / 10)
				result = look()
			}
			var after v1alpha1.NodePortAllocation
			if err := cached.Get(t.Context(), client.ObjectKeyFromObject(claim), &after); err != nil {
				t.Fatal(err)
			}
			if after.Spec.State != c.want {
				t.Errorf("the number is %s, want %s", after.Spec.State, c.want)
			}
			const next = 30002
			if r.maySoon(next, false); c.want == v1alpha1.AllocationForeign {
				if now = now.Add(littlePatience); r.maySoon(next, false) {
					t.Error("the next number is waited for as long as the first")
				}
				const former = next + 1 // clients know it: a restore is worth waiting for
				r.maySoon(former, true)
				if now = now.Add(littlePatience); !r.maySoon(former, true) {
					t.Error("a number that the policy had is given up as soon as any")
				}
			}
			if again := result.RequeueAfter > 0; again != (c.want == v1alpha1.AllocationOpen) {
				t.Errorf("looks again: %t", again)
			}
		})
	}
}
