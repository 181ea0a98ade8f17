package controllers

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// A world that stays as it is has no news: whoever looks again tells nothing, also when
// something is wrong in it.
func TestEventsTellTransitionsOnly(t *testing.T) {
	began := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	now := began
	clock := func() time.Time { return now }
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))}}
	node.Status.NodeInfo.BootID = "b"
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	report := &v1alpha1.NodeDatapath{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}
	report.Status.Repairs = &v1alpha1.Repairs{Count: 1, Last: metav1.NewTime(now), Damage: "flushed"}
	claim, rest := shop()
	pool := rest[0].(*v1alpha1.NodePortPool)
	pool.Spec.Ranges, pool.Status.Armed = []v1alpha1.PortRange{"30001"}, []string{"30001"} // so it is exhausted
	stranger := serviceOn("shop", "stranger", 31000)                                       // undeclared
	closed := claim.DeepCopy()
	closed.Name, closed.Spec.State, closed.Spec.ClosedAt = "30001", v1alpha1.AllocationClosed, ptr.To(metav1.NewMicroTime(now.Add(-time.Hour)))
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}

	for name, c := range map[string]struct {
		objects []client.Object
		look    func(client.Client, events.EventRecorder) func() error
		told    int // in the first look, and after the grace of a node
	}{
		"nodes that nobody filters, and repairs": {[]client.Object{node, report}, func(c client.Client, e events.EventRecorder) func() error {
			r := &NodeDatapath{Client: c, Events: e, Now: clock}
			return func() error {
				for _, name := range []string{"n1", "n2"} {
					if _, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Name: name}}); err != nil {
						return err
					}
				}
				return nil
			}
		}, 2},
		"a pool that is exhausted, beside a Service that nobody declares": {[]client.Object{pool, stranger, claim, namespace}, func(c client.Client, e events.EventRecorder) func() error {
			r := &Pool{Client: c, Snapshot: Snapshot{Reader: c, Live: c}, Live: c, Events: e, Now: clock, written: map[string]time.Time{}, recorded: map[string]time.Time{}}
			return func() error {
				_, err := r.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Name: "web"}})
				return err
			}
		}, 2},
		"a number that a node holds": {[]client.Object{node, pool, closed}, func(c client.Client, e events.EventRecorder) func() error {
			r := &Allocation{Client: c, Snapshot: Snapshot{Reader: c, Live: c}, Clouds: NewClouds(), Events: e, Now: clock}
			return func() error {
				_, err := r.release(t.Context(), closed, compile.Proof{Listed: "9"})
				return err
			}
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			now = began // the repair is one of just now
			recorder := events.NewFakeRecorder(16)
			cl := store(t, c.objects...).WithStatusSubresource(&v1alpha1.NodePortPool{}).Build()
			look := c.look(cl, recorder)
			for range 2 { // a node is told of after a while only
				if err := look(); err != nil {
					t.Fatal(err)
				}
				now = now.Add(grace)
			}
			if n := len(recorder.Events); n != c.told {
				t.Errorf("%d events, want %d", n, c.told)
			}
			for range 3 {
				if err := look(); err != nil {
					t.Fatal(err)
				}
				now = now.Add(lookAgain)
			}
			for len(recorder.Events) > c.told {
				t.Fatalf("a world that does not change has news: %d events", len(recorder.Events))
			}
		})
	}
}
