package compile

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// A Foreign number becomes the claim of the policy that carries its holder in place,
// in one write, and only where the policy wants just that.
func TestAdopted(t *testing.T) {
	pool := aged("web", 1, "30000-30009")
	pool.Spec.AllocateTo.Namespaces = []v1alpha1.NamespaceName{"shop"}
	other := aged("api", 1, "30100-30109")
	other.Spec.Category = "api"
	pools := []v1alpha1.NodePortPool{pool, other}
	now := metav1.NewMicroTime(clock)
	wish := func(change func(*v1alpha1.NodePortPolicy)) *Wish {
		policy := healthy().Policy
		policy.Spec.Service, policy.Spec.Sources = v1alpha1.ServiceInPlace, []v1alpha1.Source{{CIDR: "10.8.0.0/16"}}
		change(policy)
		service := serving(corev1.ServiceTypeNodePort, "https/443/30004")
		service.Spec.Selector = map[string]string{"app": "shop"}
		w, refusal := NewWish(policy, service, Cluster{Pools: Owned(pools, Limits{}), Places: NewPlaces(pools, nil), Now: clock})
		if refusal != nil {
			t.Fatal(refusal)
		}
		return w
	}
	foreign := func(number string) *v1alpha1.NodePortAllocation {
		a := entry(number, v1alpha1.AllocationForeign, "shop", "web")
		a.Spec.Claim.Policy, a.Spec.Grandfathered = "", true
		return &a
	}
	as := func(*v1alpha1.NodePortPolicy) {}
	got := Adopted(foreign("30004"), wish(as), "web", now)
	if got == nil || got.State != v1alpha1.AllocationOpen || !got.Adopted || got.Grandfathered || got.Carrier != v1alpha1.ServiceInPlace || !got.Since.Equal(&now) || got.Claim.Policy != "shop" ||
		!slices.Equal(got.Ports[0].Sources, []v1alpha1.CIDR{"10.8.0.0/16"}) {
		t.Errorf("adopted %+v", got)
	}
	for name, c := range map[string]struct {
		number, pool string
		wish         *Wish
	}{
		"a refused policy":  {"30004", "web", nil},
		"another number":    {"30005", "web", wish(as)},
		"another pool":      {"30004", "api", wish(as)},
		"a plan":            {"30004", "web", wish(func(p *v1alpha1.NodePortPolicy) { p.Spec.Mode = v1alpha1.ModePlan })},
		"an expired policy": {"30004", "web", wish(func(p *v1alpha1.NodePortPolicy) { p.Spec.ExpiresAt = &metav1.Time{Time: clock} })},
		"a policy that pins another": {"30004", "web", wish(func(p *v1alpha1.NodePortPolicy) {
			p.Spec.Ports = []v1alpha1.PolicyPort{{Name: "https", NodePort: 30009}}
		})},
		"a companion's policy": {"30004", "web", wish(func(p *v1alpha1.NodePortPolicy) { p.Spec.Service = "" })},
	} {
		if got := Adopted(foreign(c.number), c.wish, c.pool, now); got != nil {
			t.Errorf("%s adopts: %+v", name, got)
		}
	}
}

// What is closed says still whose it was, who carries it and on which nodes it was
// open; and admits nobody, by no word.
func TestClosedAdmitsNobodyByAnyWord(t *testing.T) {
	a := carried("30004 Open https/443", ofTheService)
	a.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"role": "edge"}}
	a.Spec.Since = &metav1.MicroTime{Time: clock.Add(-time.Hour)}
	a.Spec.Ports[0].Sources, a.Spec.Ports[0].AddressSets, a.Spec.Ports[0].World = []v1alpha1.CIDR{"10.8.0.0/16"}, []v1alpha1.ObjectName{"office"}, true
	got := Allocation(&a, nil, nil, nil, nil, Cluster{}, metav1.NewMicroTime(clock))
	if got.State != v1alpha1.AllocationClosed || got.ClosedAt == nil || !got.Adopted || got.Carrier != v1alpha1.ServiceInPlace || got.NodeSelector == nil || got.Since == nil || got.Claim != a.Spec.Claim {
		t.Errorf("closed %+v", got)
	}
	if p := got.Ports[0]; p.Name != "https" || len(p.Sources)+len(p.AddressSets) > 0 || p.World {
		t.Errorf("port %+v", p)
	}
	if p := a.Spec.Ports[0]; !p.World || len(p.Sources) != 1 || len(p.AddressSets) != 1 {
		t.Error("the input was changed")
	}
	again := a
	again.Spec = got
	if later := Allocation(&again, nil, nil, nil, nil, Cluster{}, metav1.NewMicroTime(clock.Add(time.Hour))); !later.ClosedAt.Equal(got.ClosedAt) {
		t.Errorf("dated anew: %v", later.ClosedAt)
	}
}
