package controllers

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// facade is a policy whose port one node enforces, with fronts; and how often an object
// was written or deleted.
func facade(t *testing.T, objects ...client.Object) (*Front, *compile.Front, *int) {
	t.Helper()
	writes, now := 0, time.Unix(1_800_000_000, 0)
	count := interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			writes++
			return c.Create(ctx, o, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			writes++
			return c.Update(ctx, o, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			writes++
			return c.Delete(ctx, o, opts...)
		},
		Get: withoutDNS(nil),
	}
	c := interceptor.NewClient(store(t, objects...).Build(), count)
	r := &Front{Client: c, Doors: &Doors{Client: c, Live: c, Now: func() time.Time { return now }}, Seen: NewFronts(), waiting: map[types.NamespacedName]bool{}}
	claim, rest := shop()
	policy := rest[1].(*v1alpha1.NodePortPolicy)
	policy.Spec.Front = &v1alpha1.Front{
		Nginx:   &v1alpha1.ProxyFront{ConfigMap: "web-nginx", AddressType: v1alpha1.InternalIP},
		HAProxy: &v1alpha1.ProxyFront{ConfigMap: "web-haproxy", AddressType: v1alpha1.InternalIP},
	}
	claim.ResourceVersion = "90"
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{
		NodeInfo:   corev1.NodeSystemInfo{BootID: "b"},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}},
	}}
	report := &v1alpha1.NodeDatapath{Status: v1alpha1.NodeDatapathStatus{BootID: "b", Marks: v1alpha1.Marks{Allocations: "95", AddressSets: "95", Pools: "95", Installation: "95"}}}
	own := []v1alpha1.NodePortAllocation{*claim}
	service := serviceOn("shop", "shop", 0)
	return r, &compile.Front{Policy: policy, Allocations: own, Sight: compile.Sight{
		Nodes: []compile.NodeReport{{Node: node, Datapath: report}}, Proof: compile.Proof{Listed: "100", ListedSets: "100"},
		Service: service, Companion: compile.Companion("shop", "web", own, service, nil),
	}}, &writes
}

// withoutDNS answers as a cluster without external-dns; asked counts how often.
func withoutDNS(asked *int) func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
	return func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
		if _, is := o.(*unstructured.Unstructured); is {
			if asked != nil {
				*asked++
			}
			return &meta.NoKindMatchError{GroupKind: compile.DNSEndpoint.GroupKind(), SearchedVersions: []string{"v1alpha1"}}
		}
		return c.Get(ctx, key, o, opts...)
	}
}

// What is equal is not written, and what nobody wants any more goes.
func TestAFrontIsWrittenOnceAndRemoved(t *testing.T) {
	r, front, writes := facade(t)
	serve := func(want int) {
		t.Helper()
		have, err := r.Doors.of(t.Context(), types.NamespacedName{Namespace: "shop", Name: "web"})
		if err != nil {
			t.Fatal(err)
		}
		*writes = 0
		seen, _, err := r.serve(t.Context(), front, have)
		if err != nil || seen.Why != nil || *writes != want {
			t.Fatalf("%d writes, want %d: %+v %v", *writes, want, seen.Why, err)
		}
	}
	serve(2)
	serve(0)
	front.Sight.Nodes[0].Status.Addresses[0].Address = "10.0.0.2"
	serve(2)
	front.Policy.Spec.Front.HAProxy = nil
	serve(1)
	var left corev1.ConfigMapList
	if err := r.Doors.List(t.Context(), &left); err != nil || len(left.Items) != 1 || left.Items[0].Name != "web-nginx" {
		t.Errorf("left: %+v %v", left.Items, err)
	}
}

// An object of somebody else is left alone, also when it looks a little like ours.
func TestAFrontLeavesAlone(t *testing.T) {
	for name, theirs := range map[string]*corev1.ConfigMap{
		"a stranger's":      {ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-nginx"}},
		"a copy with label": {ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-nginx", Labels: map[string]string{v1alpha1.LabelFront: "web"}}},
		"of another policy": {ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-nginx", Labels: map[string]string{v1alpha1.LabelFront: "other"}, OwnerReferences: []metav1.OwnerReference{
			{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodePortPolicy", Name: "other"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			theirs.Data = map[string]string{"a": "b"}
			r, front, _ := facade(t, theirs)
			have, err := r.Doors.of(t.Context(), types.NamespacedName{Namespace: "shop", Name: "web"})
			if err != nil {
				t.Fatal(err)
			}
			seen, again, err := r.serve(t.Context(), front, have)
			if err != nil || seen.Why == nil || seen.Why.Reason != v1alpha1.ReasonFrontNameTaken || again != takenAgain {
				t.Errorf("%+v, again after %s, %v", seen.Why, again, err)
			}
			after := &corev1.ConfigMap{}
			if err := r.Get(t.Context(), client.ObjectKeyFromObject(theirs), after); err != nil || len(after.Data) != 1 || after.Data["a"] != "b" {
				t.Errorf("theirs is now %+v %v", after.Data, err)
			}
			if err := r.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "web-haproxy"}, after); err != nil {
				t.Errorf("the other front: %v", err)
			}
		})
	}
}

// Without external-dns the policy says so, it is not asked for all the time, and is
// found when it has come.
func TestRecordsWaitForExternalDNS(t *testing.T) {
	r, front, _ := facade(t)
	asked, absent, now := 0, true, time.Unix(1_800_000_000, 0)
	base := store(t)
	r.Doors.Client = interceptor.NewClient(base.Build(), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if absent {
				return withoutDNS(&asked)(ctx, c, key, o, opts...)
			}
			return c.Get(ctx, key, o, opts...)
		},
	})
	r.Doors.Now = func() time.Time { return now }
	front.Policy.Spec.Front = &v1alpha1.Front{DNS: &v1alpha1.DNSFront{Hostname: "shop.example.org", AddressType: v1alpha1.InternalIP, TTLSeconds: 60}}
	pool := compile.Pool{NodePortPool: &v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: front.Allocations[0].Spec.Pool}}}
	pool.Spec.Guardrails.DNSDomains = []v1alpha1.DNSDomain{"example.org"}
	front.Pools = []compile.Pool{pool}
	serve := func() compile.FrontSeen {
		t.Helper()
		have, err := r.Doors.of(t.Context(), types.NamespacedName{Namespace: "shop", Name: "web"})
		if err != nil {
			t.Fatal(err)
		}
		seen, _, err := r.serve(t.Context(), front, have)
		if err != nil {
			t.Fatal(err)
		}
		return seen
	}
	for range 3 {
		if seen := serve(); seen.Why == nil || seen.Why.Reason != v1alpha1.ReasonExternalDNSNotFound {
			t.Fatalf("%+v", seen.Why)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times within a moment", asked)
	}
	absent, now = false, now.Add(probeEvery)
	if seen := serve(); seen.Why != nil {
		t.Fatalf("%+v", seen.Why)
	}
	made := &endpoint{}
	made.SetGroupVersionKind(compile.DNSEndpoint)
	if err := r.Doors.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "web-nodeport"}, made); err != nil {
		t.Error(err)
	}
}

// A report that has only come further wakes those who wait for one, any other all that
// have a front.
func TestWhomAReportWakes(t *testing.T) {
	_, rest := shop()
	rest[1].(*v1alpha1.NodePortPolicy).Spec.Front = &v1alpha1.Front{}
	r := &Front{Client: store(t, rest...).Build(), waiting: map[types.NamespacedName]bool{{Namespace: "a", Name: "waits"}: true}}
	before := &v1alpha1.NodeDatapath{Status: v1alpha1.NodeDatapathStatus{BootID: "b", Marks: v1alpha1.Marks{Allocations: "1"}}}
	further, rebooted := before.DeepCopy(), before.DeepCopy()
	further.Status.Marks.Allocations, rebooted.Status.BootID = "2", "c"
	for _, c := range []struct {
		name          string
		before, after *v1alpha1.NodeDatapath
		want          string
	}{{"further", before, further, "a/waits"}, {"rebooted", before, rebooted, "shop/web"}, {"new", nil, before, "shop/web"}, {"gone", before, nil, "shop/web"}} {
		if got := namesOf(r.ofReport(t.Context(), c.before, c.after)); len(got) != 1 || got[0] != c.want {
			t.Errorf("%s: woken %q, want %q", c.name, got, c.want)
		}
	}
}

// An address that is lost is told soon, one that came back after a while, and one that
// does not fit into the list never.
func TestAddressesAreTold(t *testing.T) {
	list := func(n int) (out []string) {
		for i := range n {
			out = append(out, string(rune('a'+i)))
		}
		return out
	}
	for _, c := range []struct {
		name          string
		before, after []string
		total         int32
		want          urgent
	}{
		{"equal", list(3), list(3), 3, nothing},
		{"lost", list(3), list(2), 2, progress},
		{"one for another", list(8), append(list(7), "z"), 20, progress},
		{"one more", list(2), list(3), 3, doubt},
		{"one more that does not fit", list(8), list(8), 9, nothing},
	} {
		before, after := v1alpha1.NodePortPolicyStatus{Addresses: c.before}, v1alpha1.NodePortPolicyStatus{Addresses: c.after, TotalAddresses: c.total}
		seen := compile.Seen{Policy: &v1alpha1.NodePortPolicy{}, Wish: &compile.Wish{}, Unserved: &compile.Refusal{}}
		if got := urgency(before, after, seen); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
