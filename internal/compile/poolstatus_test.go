package compile

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
	"github.com/portreeve/portreeve/test/health"
)

// poolStatus of a pool with ten times tens numbers from 30000 on, of which taken are
// allocated.
func poolStatus(t *testing.T, tens, taken int, change func(*v1alpha1.NodePortPool)) v1alpha1.NodePortPoolStatus {
	t.Helper()
	numbers := fmt.Sprintf("30000-%d", 30000+10*tens-1)
	pool := aged("web", 1, v1alpha1.PortRange(numbers))
	pool.Status.Armed = []string{numbers}
	if change != nil {
		change(&pool)
	}
	owned := Owned([]v1alpha1.NodePortPool{pool}, Limits{})[0]
	var register []v1alpha1.NodePortAllocation
	for n := range owned.Owned.Numbers {
		if len(register) == taken {
			break
		}
		register = append(register, entry(fmt.Sprint(n), []v1alpha1.AllocationState{v1alpha1.AllocationOpen, v1alpha1.AllocationClosed, v1alpha1.AllocationForeign}[len(register)%3], "shop", "web"))
	}
	return PoolStatus(PoolSeen{Pool: owned, Allocations: register}, metav1.NewTime(clock))
}

func TestExhaustedAtItsThresholds(t *testing.T) {
	for _, c := range []struct {
		tens, taken int
		reserved    []v1alpha1.ReservedPorts
		want        string
	}{
		{10, 0, nil, ""},
		{10, 89, nil, ""}, // 11 of 100 are free
		{10, 90, nil, v1alpha1.ReasonNearlyExhausted},
		{10, 99, nil, v1alpha1.ReasonNearlyExhausted},
		{10, 100, nil, v1alpha1.ReasonExhausted},
		{1, 8, nil, ""},
		{1, 9, nil, v1alpha1.ReasonNearlyExhausted},
		{1, 10, nil, v1alpha1.ReasonExhausted},
		{1, 4, reserve("30005-30009"), ""}, // one of five usable is free, and that is more than a tenth
		{1, 5, reserve("30005-30009"), v1alpha1.ReasonExhausted},
		{1, 0, reserve("30000-30009"), ""}, // none was ever to be had
	} {
		status := poolStatus(t, c.tens, c.taken, func(p *v1alpha1.NodePortPool) { p.Spec.Reserved = c.reserved })
		got := ""
		if condition := meta.FindStatusCondition(status.Conditions, v1alpha1.Exhausted); condition != nil {
			got = condition.Reason
			if condition.Status != metav1.ConditionTrue || !strings.Contains(condition.Message, "widen the pool") {
				t.Errorf("condition %+v", condition)
			}
		}
		if got != c.want {
			t.Errorf("%d of %d taken, %v reserved: %q, want %q", c.taken, 10*c.tens, c.reserved, got, c.want)
		}
		if usable := int32(10*c.tens) - status.Reserved; status.Free != usable-int32(c.taken) {
			t.Errorf("%d of %d taken: %d free", c.taken, usable, status.Free)
		}
		if ready := meta.FindStatusCondition(status.Conditions, v1alpha1.Ready); ready.Status != metav1.ConditionTrue {
			t.Errorf("an exhausted pool is not Ready: %+v", ready)
		}
		pool := aged("web", 1)
		pool.Status = status
		health.Check(t, &pool, health.InForce)
	}
}

func TestPoolConditionsOfLimits(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*v1alpha1.NodePortPool)
		limits Limits
		want   string // Ready, Reconciling or Stalled, and its reason
		others string // further conditions that are True
		names  string // in the message of Ready
	}{
		{"part is out of range", nil, Limits{NodePorts: span(30000, 30004)}, "Ready OK", "OutOfRange", "armed"},
		{"all is out of range", nil, Limits{NodePorts: span(20000, 20099)}, "Stalled OutOfRange", "OutOfRange", "30000-30009"},
		{"all is out of range, also what is reserved", func(p *v1alpha1.NodePortPool) { p.Spec.Reserved = reserve("30000") }, Limits{NodePorts: span(20000, 20099)}, "Stalled OutOfRange", "OutOfRange", "30000-30009"},
		{"part is fail-safe", nil, Limits{FailSafe: span(30000, 30004)}, "Ready OK", "", "armed"},
		{"all is fail-safe", nil, Limits{FailSafe: span(30000, 30099)}, "Stalled Invalid", "", "spec.failSafePorts"},
		{"all is reserved", func(p *v1alpha1.NodePortPool) { p.Spec.Reserved = reserve("30000-30009") }, Limits{}, "Ready OK", "", "reserved"},
		{"reserved numbers need no arming", func(p *v1alpha1.NodePortPool) {
			p.Spec.Reserved, p.Status.Armed = reserve("30005-30009"), []string{"30000-30004"}
		}, Limits{}, "Ready OK", "", "armed"},
		{"what is out of range needs no arming", func(p *v1alpha1.NodePortPool) { p.Status.Armed = []string{"30000-30004"} }, Limits{NodePorts: span(30000, 30004)}, "Ready OK", "OutOfRange", "armed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pool := aged("web", 1, "30000-30009")
			pool.Status.Armed = []string{"30000-30009"}
			if c.change != nil {
				c.change(&pool)
			}
			owned := Owned([]v1alpha1.NodePortPool{pool}, c.limits)[0]
			status := PoolStatus(PoolSeen{Pool: owned}, metav1.NewTime(clock))
			if got := theOneOf(t, status.Conditions, 2); got != c.want {
				t.Errorf("conditions %q, want %q", got, c.want)
			}
			health.Check(t, &v1alpha1.NodePortPool{ObjectMeta: pool.ObjectMeta, Status: status}, health.Of(c.want))
			if m := meta.FindStatusCondition(status.Conditions, v1alpha1.Ready).Message; !strings.Contains(m, c.names) {
				t.Errorf("Ready says %q, nothing of %q", m, c.names)
			}
			var others []string
			for _, kind := range []string{v1alpha1.Overlaps, v1alpha1.OutOfRange, v1alpha1.Exhausted} {
				if condition := meta.FindStatusCondition(status.Conditions, kind); condition != nil {
					others = append(others, kind)
				}
			}
			if got := strings.Join(others, " "); got != c.others {
				t.Errorf("further conditions %q, want %q", got, c.others)
			}
			healed := aged("web", 1, "30000-30009")
			healed.Status = status
			after := PoolStatus(PoolSeen{Pool: Owned([]v1alpha1.NodePortPool{healed}, Limits{})[0]}, metav1.NewTime(clock.Add(time.Minute)))
			if condition := meta.FindStatusCondition(after.Conditions, v1alpha1.OutOfRange); condition != nil {
				t.Errorf("healed, and yet %+v", condition)
			}
		})
	}
}

func TestPoolStatusOfWhatIsHeldReservedAndUndeclared(t *testing.T) {
	pool := aged("web", 1, "30000-30009")
	pool.Status.Armed = []string{"30000-30009"}
	pool.Spec.Reserved = reserve("30008-30009")
	seen := PoolSeen{
		Pool:        Owned([]v1alpha1.NodePortPool{pool}, Limits{})[0],
		Allocations: []v1alpha1.NodePortAllocation{entry("30000", v1alpha1.AllocationOpen, "shop", "web"), entry("30009", v1alpha1.AllocationOpen, "shop", "web"), entry("30008", v1alpha1.AllocationForeign, "bank", "other")},
		Held:        rule.NewPortRanges(rule.PortRange{First: 29990, Last: 30003}, rule.PortRange{First: 30008, Last: 30008}),
	}
	for i := range 100 {
		seen.Undeclared = append(seen.Undeclared, v1alpha1.UndeclaredService{Service: fmt.Sprintf("bank/%02d", i), Type: "NodePort", NodePorts: []int32{31000}})
	}
	got := PoolStatus(seen, metav1.NewTime(clock))
	if got.Capacity != 10 || got.Reserved != 2 || got.Held != 4 || got.Allocated != 2 || got.Free != 7 || len(got.Foreign) != 0 {
		t.Errorf("status %+v", got)
	}
	if !slices.Equal(got.Armed, []string{"30000-30007"}) {
		t.Errorf("armed %v", got.Armed)
	}
	if len(got.Undeclared) != 64 || got.Undeclared[63].Service != "bank/63" || len(seen.Undeclared) != 100 {
		t.Errorf("%d undeclared", len(got.Undeclared))
	}
}
