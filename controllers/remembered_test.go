package controllers

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// lostRegister is what is left of a shop whose allocations somebody has deleted.
func lostRegister(t *testing.T) (client.WithWatch, *Exposure, *Allocator) {
	t.Helper()
	claim, rest := shop()
	pool, service := rest[0].(*v1alpha1.NodePortPool), rest[2].(*corev1.Service)
	pool.Status.Armed = []string{string(pool.Spec.Ranges[0])}
	companion := compile.Companion("shop", "web", []v1alpha1.NodePortAllocation{*claim}, service, nil)
	s := store(t, append(rest, companion)...).Build()
	snapshot, verdicts := Snapshot{Reader: s, Live: s}, NewVerdicts()
	return s, &Exposure{Client: s, Snapshot: snapshot, Verdicts: verdicts, Refusals: NewVerdicts(), Now: time.Now, refusals: map[uint16]spell{}},
		&Allocator{Client: s, Snapshot: snapshot, Verdicts: verdicts, Now: time.Now, written: map[string]v1alpha1.NodePortAllocation{}}
}

var shopKey, webKey = types.NamespacedName{Namespace: "shop", Name: "web"}, types.NamespacedName{Name: "web"}

// Where the register is lost, companions know who had what. Whoever is woken first, and
// whatever the policy's status says by then: it has its number again.
func TestACompanionRemembersItsNumberUntilTheAllocatorHasSeenIt(t *testing.T) {
	for name, verdict := range map[string]*compile.Refusal{
		"there is a number": nil, "there is none": {Reason: v1alpha1.ReasonExhausted, Message: "none is left"},
	} {
		t.Run(name, func(t *testing.T) {
			s, exposure, allocator := lostRegister(t)
			allocator.Verdicts.Say(shopKey, verdict)
			result, err := exposure.Reconcile(t.Context(), reconcile.Request{NamespacedName: shopKey})
			if err != nil {
				t.Fatal(err)
			}
			after, err := get[corev1.Service](t.Context(), s, types.NamespacedName{Namespace: "shop", Name: "web-nodeport"})
			if err != nil {
				t.Fatal(err)
			}
			want := verdict == nil
			if kept := after != nil; kept != want || result.RequeueAfter > 0 != want {
				t.Errorf("it is kept: %t; looks again in %s", kept, result.RequeueAfter)
			}
			if !want {
				return
			}
			if _, err := allocator.Reconcile(t.Context(), reconcile.Request{NamespacedName: webKey}); err != nil {
				t.Fatal(err)
			}
			own, err := exposure.Snapshot.Allocations(t.Context(), shopKey)
			if err != nil || len(own) != 1 || own[0].Name != "30001" {
				t.Fatalf("the policy has %v, error %v; the allocator says %v", own, err, allocator.Verdicts.Of(shopKey))
			}
			if result, err = exposure.Reconcile(t.Context(), reconcile.Request{NamespacedName: shopKey}); err != nil || result.RequeueAfter > 0 {
				t.Errorf("looks again in %s, error %v", result.RequeueAfter, err)
			}
		})
	}
}

// An allocation that is deleted before the allocator has seen it in its cache is not taken
// for one that the cache does not show yet.
func TestAnAllocationThatIsDeletedSoonIsMadeAgain(t *testing.T) {
	s, _, allocator := lostRegister(t)
	now := time.Now()
	allocator.Now = func() time.Time { return now }
	look := func() reconcile.Result {
		result, err := allocator.Reconcile(t.Context(), reconcile.Request{NamespacedName: webKey})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	look()
	a, err := get[v1alpha1.NodePortAllocation](t.Context(), s, types.NamespacedName{Name: "30001"})
	if err != nil || a == nil {
		t.Fatalf("%v, error %v", a, err)
	}
	written := allocator.written["30001"]
	written.CreationTimestamp.Time = now // the API server's clock; the fake has none
	allocator.written["30001"] = written
	if err := s.Delete(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if result := look(); result.RequeueAfter != cacheLag {
		t.Fatalf("looks again in %s: is the cache behind, or the allocation gone?", result.RequeueAfter)
	}
	now = now.Add(cacheLag + time.Millisecond)
	look()
	if a, err = get[v1alpha1.NodePortAllocation](t.Context(), s, types.NamespacedName{Name: "30001"}); err != nil || a == nil {
		t.Errorf("%v, error %v", a, err)
	}
}
