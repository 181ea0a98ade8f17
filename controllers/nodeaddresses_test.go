package controllers

import (
	"context"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

func nodeAt(name, address string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}},
	}}
}

// The sets follow the Nodes with one write each, are set right when somebody edits or
// deletes them, and are not touched otherwise; nor is anybody else's.
func TestNodeAddressesAreKept(t *testing.T) {
	office := &v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: "office"}, Spec: v1alpha1.AddressSetSpec{CIDRs: []v1alpha1.CIDR{"203.0.113.0/24"}}}
	writes := 0
	c := store(t, office).WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			writes++
			return c.Create(ctx, o, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			writes++
			return c.Update(ctx, o, opts...)
		},
	}).Build()
	kept := &v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: "portreeve-nodes-0"}}
	for _, step := range []struct {
		name   string
		change func() error
		writes int
		want   string
	}{
		{"no nodes", func() error { return nil }, 0, ""},
		{"nodes", func() error {
			for n := range 120 {
				if err := c.Create(t.Context(), nodeAt(fmt.Sprint("n", n), fmt.Sprintf("10.0.0.%d", n+1))); err != nil {
					return err
				}
			}
			writes = 0
			return nil
		}, 2, "100 20"},
		{"nothing new", func() error { return nil }, 0, "100 20"},
		{"one joins", func() error { defer func() { writes = 0 }(); return c.Create(t.Context(), nodeAt("more", "10.0.1.1")) }, 1, "100 21"},
		{"one leaves", func() error { return c.Delete(t.Context(), nodeAt("n0", "")) }, 1, "99 21"},
		{"somebody lets teams use it", func() error {
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(kept), kept); err != nil {
				return err
			}
			kept.Spec.CIDRs = append(kept.Spec.CIDRs, "0.0.0.0/1")
			kept.Spec.AllowedFor = &v1alpha1.NamespaceChoice{}
			defer func() { writes = 0 }()
			return c.Update(t.Context(), kept)
		}, 1, "99 21"},
		{"somebody deletes it", func() error { return c.Delete(t.Context(), kept) }, 2, "20 100"},
		{"all nodes vanish", func() error { return c.DeleteAllOf(t.Context(), &corev1.Node{}) }, 0, "20 100"},
	} {
		if err := step.change(); err != nil {
			t.Fatal(step.name, err)
		}
		r := &NodeAddresses{Client: c, Snapshot: Snapshot{Reader: c}}
		for range 2 { // the second time there is nothing left to do
			if result, err := r.Reconcile(t.Context(), reconcile.Request{}); err != nil || result != (reconcile.Result{}) {
				t.Fatal(step.name, result, err)
			}
		}
		if writes != step.writes {
			t.Errorf("%s: %d writes, want %d", step.name, writes, step.writes)
		}
		writes = 0
		var sets v1alpha1.AddressSetList
		if err := c.List(t.Context(), &sets, client.MatchingLabels{v1alpha1.LabelEntity: "Nodes"}); err != nil {
			t.Fatal(err)
		}
		var sizes []string
		for _, s := range sets.Items {
			sizes = append(sizes, fmt.Sprint(len(s.Spec.CIDRs)))
			if s.Spec.AllowedFor != nil {
				t.Errorf("%s: %s may be used by name", step.name, s.Name)
			}
		}
		if got := fmt.Sprint(sizes); got != "["+step.want+"]" {
			t.Errorf("%s: sets of %s, want [%s]", step.name, got, step.want)
		}
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(office), office); err != nil || !slices.Equal(office.Spec.CIDRs, []v1alpha1.CIDR{"203.0.113.0/24"}) {
		t.Errorf("office is %v, %v", office.Spec, err)
	}
}

// A change of addresses concerns the policies that admit them, be it by a pool's
// defaults, and nobody else.
func TestWhoIsWokenByAddressesOfNodes(t *testing.T) {
	named := func(name string, sources ...v1alpha1.Source) *v1alpha1.NodePortPolicy {
		return &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: v1alpha1.NodePortPolicySpec{Sources: sources}}
	}
	pool := &v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: "web"}}
	c := store(t, pool,
		named("nodes", v1alpha1.Source{CIDR: "10.0.0.0/8"}, v1alpha1.Source{Entity: v1alpha1.EntityNodes}), named("cluster", v1alpha1.Source{Entity: v1alpha1.EntityCluster}),
		named("world", v1alpha1.Source{Entity: v1alpha1.EntityWorld}), named("set", v1alpha1.Source{AddressSet: "office"}), named("defaults"),
	).Build()
	s := Snapshot{Reader: c}
	ours := &v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: "portreeve-nodes-0", Labels: map[string]string{v1alpha1.LabelEntity: "Nodes"}}}
	lookalike := &v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: "portreeve-nodes-1"}}
	office := &v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: "office"}}
	want := func(set client.Object, policies ...string) {
		t.Helper()
		var woken []string
		for _, r := range s.policiesUsing(t.Context(), set) {
			woken = append(woken, r.Name)
		}
		slices.Sort(woken)
		if woken = slices.Compact(woken); !slices.Equal(woken, policies) {
			t.Errorf("%s wakes %q, want %q", set.GetName(), woken, policies)
		}
	}
	want(ours, "cluster", "nodes")
	want(lookalike)
	want(office, "set")
	pool.Spec.DefaultSources = []v1alpha1.DefaultSource{{Entity: v1alpha1.EntityNodes}}
	if err := c.Update(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	want(ours, "cluster", "defaults", "nodes")
	want(office, "set")
}
