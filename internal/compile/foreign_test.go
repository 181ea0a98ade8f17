package compile

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

func holding(name string, number int32) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ledger", Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: number}}},
	}
}

func poolThat(grandfathers *bool) *v1alpha1.NodePortPool {
	return &v1alpha1.NodePortPool{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       v1alpha1.NodePortPoolSpec{Category: "web", Team: "payments", Ranges: []v1alpha1.PortRange{"30000-30009"}, Grandfather: grandfathers},
	}
}

// Least surprise: what stood on a number before the pool is passed, unless the
// pool says otherwise; what came later never is.
func TestWhoIsGrandfathered(t *testing.T) {
	for _, c := range []struct {
		name         string
		grandfathers *bool
		stood        bool
		want         bool
	}{
		{"stood there, by default", nil, true, true},
		{"stood there", ptr.To(true), true, true},
		{"stood there, not wished", ptr.To(false), true, false},
		{"came later", ptr.To(true), false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := NewForeign(holding("old", 30007), 30007, poolThat(c.grandfathers), c.stood)
			if got.Grandfathered != c.want {
				t.Errorf("grandfathered = %v", got.Grandfathered)
			}
			companion := holding("old", 30007)
			companion.Labels = map[string]string{v1alpha1.LabelPolicy: "old"}
			if NewForeign(companion, 30007, poolThat(c.grandfathers), c.stood).Grandfathered {
				t.Error("a companion without its owners, which came out of a backup, is passed to everybody")
			}
			if got.State != v1alpha1.AllocationForeign || got.Claim != (v1alpha1.Claim{Namespace: "ledger", Service: "old"}) || got.Pool != "web" || got.Team != "payments" || !slices.Equal(got.Protocols, []v1alpha1.Protocol{"TCP"}) {
				t.Errorf("spec %+v", got)
			}
		})
	}
}

func TestForeignLife(t *testing.T) {
	pool := func(grandfathers *bool) *Pool {
		return &Owned([]v1alpha1.NodePortPool{*poolThat(grandfathers)}, Limits{})[0]
	}
	elsewhere := holding("old", 30007)
	elsewhere.Namespace = "shop"
	for _, c := range []struct {
		name          string
		service       string // that the allocation names
		grandfathered bool
		holder        *corev1.Service
		pool          *Pool
		rested        bool
		state         v1alpha1.AllocationState
		passed        bool
		claims        string
	}{
		{"its holder stays", "old", true, holding("old", 30007), pool(nil), false, v1alpha1.AllocationForeign, true, "old"},
		{"its holder stays, the pool goes", "old", true, holding("old", 30007), nil, false, v1alpha1.AllocationForeign, true, "old"},
		{"its holder goes", "old", true, nil, pool(nil), false, v1alpha1.AllocationClosed, false, "old"},
		{"another holder comes", "old", true, holding("new", 30007), pool(nil), false, v1alpha1.AllocationForeign, false, "new"},
		{"another of the same name comes", "old", true, elsewhere, pool(nil), false, v1alpha1.AllocationForeign, false, "old"},
		{"the pool stops grandfathering", "old", true, holding("old", 30007), pool(ptr.To(false)), false, v1alpha1.AllocationForeign, false, "old"},
		{"the pool starts again, too late", "old", false, holding("old", 30007), pool(ptr.To(true)), false, v1alpha1.AllocationForeign, false, "old"},
		{"an unknown holder rests", "", false, nil, pool(nil), false, v1alpha1.AllocationForeign, false, ""},
		{"an unknown holder has rested", "", false, nil, pool(nil), true, v1alpha1.AllocationClosed, false, ""},
		{"an unknown holder shows", "", false, holding("new", 30007), pool(nil), true, v1alpha1.AllocationForeign, false, "new"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := version("30007", "1")
			a.Spec = v1alpha1.NodePortAllocationSpec{State: v1alpha1.AllocationForeign, Protocols: []v1alpha1.Protocol{"UDP"}, Pool: "web", Team: "payments", Grandfathered: c.grandfathered}
			if c.service != "" {
				a.Spec.Claim = v1alpha1.Claim{Namespace: "ledger", Service: c.service}
			}
			before := a.DeepCopy()
			got := Foreign(a, c.holder, c.pool, c.rested, metav1.NewMicroTime(clock))
			if got.State != c.state || got.Grandfathered != c.passed || got.Claim.Service != c.claims || got.Claim.Policy != "" {
				t.Errorf("spec %+v", got)
			}
			if closed := got.State == v1alpha1.AllocationClosed; closed != (got.ClosedAt != nil) || closed && !got.ClosedAt.Time.Equal(clock) {
				t.Errorf("closedAt %v", got.ClosedAt)
			}
			if want := map[bool]v1alpha1.Protocol{true: "TCP", false: "UDP"}[c.holder != nil]; !slices.Equal(got.Protocols, []v1alpha1.Protocol{want}) {
				t.Errorf("protocols %v, want %s", got.Protocols, want)
			}
			if a.Spec.State != before.Spec.State || a.Spec.Claim != before.Spec.Claim || a.Spec.ClosedAt != nil {
				t.Error("the input was changed")
			}
		})
	}
}

// A closed number that was Foreign is in nobody's hands: who takes it shows in the
// register at once, is not passed, and leaves nothing that clouds have yet to prove.
func TestFormerForeign(t *testing.T) {
	pool := &Owned([]v1alpha1.NodePortPool{*poolThat(nil)}, Limits{})[0]
	for _, c := range []struct {
		name   string
		holder *corev1.Service
		pool   *Pool
		claims string // "" if it stays closed
	}{
		{"nobody has it", nil, pool, ""},
		{"another has it", holding("new", 30007), pool, "new"},
		{"the same has it again", holding("old", 30007), pool, "old"},
		{"another has it, in no pool", holding("new", 30007), nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := version("30007", "1")
			a.Spec = v1alpha1.NodePortAllocationSpec{
				State: v1alpha1.AllocationClosed, ClosedAt: &metav1.MicroTime{Time: clock}, Protocols: []v1alpha1.Protocol{"UDP"}, Pool: "gone",
				Claim: v1alpha1.Claim{Namespace: "ledger", Service: "old"}, CloudFirewalls: []v1alpha1.ObjectName{"aws"},
			}
			got := Former(a, c.holder, c.pool)
			if c.claims == "" {
				if !equality.Semantic.DeepEqual(got, a.Spec) {
					t.Errorf("spec %+v", got)
				}
				return
			}
			if got.State != v1alpha1.AllocationForeign || got.ClosedAt != nil || got.Grandfathered || got.Pool != "web" ||
				got.Claim != (v1alpha1.Claim{Namespace: "ledger", Service: c.claims}) || !slices.Equal(got.Protocols, []v1alpha1.Protocol{"TCP"}) || !slices.Equal(got.CloudFirewalls, a.Spec.CloudFirewalls) {
				t.Errorf("spec %+v", got)
			}
		})
	}
}

func TestCoolDown(t *testing.T) {
	pool := func(rest *metav1.Duration) *v1alpha1.NodePortPool {
		p := poolThat(nil)
		p.Spec.CoolDown = rest
		return p
	}
	given, foreign := v1alpha1.Claim{Namespace: "shop", Policy: "shop", Service: "shop"}, v1alpha1.Claim{Namespace: "ledger", Service: "old"}
	for _, c := range []struct {
		name  string
		claim v1alpha1.Claim
		pool  *v1alpha1.NodePortPool
		want  time.Duration
	}{
		{"the pool's", given, pool(&metav1.Duration{Duration: time.Hour}), time.Hour},
		{"the pool's, though no policy had it", foreign, pool(&metav1.Duration{Duration: time.Hour}), time.Hour},
		{"the pool says nothing", given, pool(nil), 10 * time.Minute},
		{"the pool is gone", given, nil, 10 * time.Minute},
		{"the pool is gone, and no policy had it", foreign, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := version("30007", "1")
			a.Spec.Claim = c.claim
			if got := CoolDown(a, c.pool); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

func TestNumberOfReadsOnlyTheOneSpelling(t *testing.T) {
	for name, want := range map[string]uint16{"30007": 30007, "1": 1, "65535": 65535, "0": 0, "030007": 0, "65536": 0, "+1": 0, "": 0, "x": 0} {
		if got := NumberOf(version(name, "1")); got != want {
			t.Errorf("NumberOf(%q) = %d, want %d", name, got, want)
		}
	}
}
