package compile

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
	"github.com/portreeve/portreeve/test/health"
)

func aged(name string, days int, ranges ...v1alpha1.PortRange) v1alpha1.NodePortPool {
	return v1alpha1.NodePortPool{
		ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 2, CreationTimestamp: metav1.NewTime(clock.AddDate(0, 0, -days))},
		Spec:       v1alpha1.NodePortPoolSpec{Category: "web", Team: "payments", Ranges: ranges},
	}
}

func TestTheOlderPoolOwns(t *testing.T) {
	pools := []v1alpha1.NodePortPool{
		aged("young", 1, "30000-30019"),
		aged("b", 2, "30010-30014"),
		aged("a", 2, "30013-30016"), // as old as b, first by name
		aged("broken", 3, "30000-30099", "x"),
		aged("none", 1, "30013-30014"),
	}
	pools[0].Status.Armed = []string{"30000-30015"}
	pools[1].Status.Armed = []string{"x"}
	want := []string{
		"broken owns [] armed [] over [] invalid true",
		"a owns [30013-30016] armed [] over [] invalid false",
		"b owns [30010-30012] armed [] over [a owns 30013-30014] invalid false",
		"none owns [] armed [] over [a owns 30013-30014] invalid false",
		"young owns [30000-30009 30017-30019] armed [30000-30009] over [a owns 30013-30016 b owns 30010-30012] invalid false",
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		random.Shuffle(len(pools), func(i, j int) { pools[i], pools[j] = pools[j], pools[i] })
		var got []string
		for _, p := range Owned(pools, Limits{}) {
			got = append(got, fmt.Sprintf("%s owns %v armed %v over %v invalid %v", p.Name, p.Owned.Strings(), p.Armed.Strings(), p.Overlaps, p.Invalid != ""))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("owned\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
	}
	owned := Owned(pools, Limits{})
	for number, want := range map[uint16]string{30000: "young", 30012: "b", 30013: "a", 30099: ""} {
		name := ""
		if p := PoolOf(owned, number); p != nil {
			name = p.Name
		}
		if name != want {
			t.Errorf("%d belongs to %q, want %q", number, name, want)
		}
	}
}

func TestNoPoolOwnsAFailSafePort(t *testing.T) {
	p := Owned([]v1alpha1.NodePortPool{aged("greedy", 1, "1-65535")}, Limits{})[0]
	if both := p.Owned.Intersect(rule.FailSafe); len(both) > 0 {
		t.Errorf("owns %v", both)
	}
	if p.Owned.Len() != 65535-rule.FailSafe.Len() {
		t.Errorf("owns %d ports", p.Owned.Len())
	}
}

// Every number of a valid range has exactly one owner: the oldest pool that names it.
func TestEveryNumberHasOneOwner(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var pools []v1alpha1.NodePortPool
		for i := range rapid.IntRange(1, 5).Draw(t, "pools") {
			first := rapid.IntRange(30000, 30020).Draw(t, "first")
			pools = append(pools, aged(fmt.Sprintf("p%d", i), rapid.IntRange(0, 3).Draw(t, "age"), v1alpha1.PortRange(fmt.Sprintf("%d-%d", first, rapid.IntRange(first, 30020).Draw(t, "last")))))
		}
		owned := Owned(pools, Limits{})
		for n := uint16(29999); n <= 30021; n++ {
			var owners []string
			oldest := ""
			for _, p := range owned { // oldest first
				if p.Owned.Contains(n) {
					owners = append(owners, p.Name)
				}
				if named, err := rule.ParsePortRange(string(p.Spec.Ranges[0])); err == nil && named.Contains(n) && oldest == "" {
					oldest = p.Name
				}
			}
			if strings.Join(owners, " ") != oldest {
				t.Fatalf("%d is owned by %q, the oldest that names it is %q", n, owners, oldest)
			}
		}
	})
}

func entry(number string, state v1alpha1.AllocationState, namespace, pool string) v1alpha1.NodePortAllocation {
	a := *version(number, "1")
	a.Spec = v1alpha1.NodePortAllocationSpec{State: state, Pool: pool, Claim: v1alpha1.Claim{Namespace: namespace, Policy: "p", Service: "s"}}
	return a
}

func TestPoolStatusCounts(t *testing.T) {
	pool := aged("web", 1, "30000-30009")
	pool.Status.Armed = []string{"30000-30009"}
	register := []v1alpha1.NodePortAllocation{
		entry("30000", v1alpha1.AllocationOpen, "shop", "web"),
		entry("30001", v1alpha1.AllocationOpen, "till", "web"),
		entry("30002", v1alpha1.AllocationOpen, "till", "web"),
		entry("30003", v1alpha1.AllocationClosed, "shop", "web"),
		entry("30004", v1alpha1.AllocationForeign, "ledger", "web"),
		entry("30005", v1alpha1.AllocationForeign, "", "web"),
		entry("30100", v1alpha1.AllocationOpen, "cafe", "web"), // the pool was narrowed since
		entry("30200", v1alpha1.AllocationOpen, "bank", "api"), // none of ours
	}
	register[4].Spec.Grandfathered = true
	register[5].Spec.Claim = v1alpha1.Claim{}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		random.Shuffle(len(register), func(i, j int) { register[i], register[j] = register[j], register[i] })
		got := PoolStatus(PoolSeen{Pool: Owned([]v1alpha1.NodePortPool{pool}, Limits{})[0], Allocations: register}, metav1.NewTime(clock))
		if got.Capacity != 10 || got.Allocated != 4 || got.Cooling != 1 || got.Free != 4 || got.ObservedGeneration != 2 || !slices.Equal(got.Armed, []string{"30000-30009"}) {
			t.Fatalf("status %+v", got)
		}
		if want := []v1alpha1.NamespaceCount{{Namespace: "till", Ports: 2}, {Namespace: "cafe", Ports: 1}, {Namespace: "shop", Ports: 1}}; !slices.Equal(got.ByNamespace, want) {
			t.Fatalf("byNamespace %v", got.ByNamespace)
		}
		if want := []v1alpha1.ForeignPort{{Port: 30004, Holder: "ledger/s", Passed: true}, {Port: 30005, Holder: "unknown"}}; !slices.Equal(got.Foreign, want) {
			t.Fatalf("foreign %v", got.Foreign)
		}
	}
}

func TestPoolStatusListsAtMost64(t *testing.T) {
	pool := aged("web", 1, "30000-30999")
	var register []v1alpha1.NodePortAllocation
	for i := range 100 {
		register = append(register,
			entry(fmt.Sprint(30000+i), v1alpha1.AllocationOpen, fmt.Sprintf("ns-%02d", i), "web"),
			entry(fmt.Sprint(30100+i), v1alpha1.AllocationForeign, "ledger", "web"))
	}
	got := PoolStatus(PoolSeen{Pool: Owned([]v1alpha1.NodePortPool{pool}, Limits{})[0], Allocations: register}, metav1.NewTime(clock))
	if len(got.ByNamespace) != 64 || len(got.Foreign) != 64 || got.Foreign[63].Port != 30163 || got.Allocated != 100 {
		t.Errorf("%d namespaces, %d foreign, %d allocated", len(got.ByNamespace), len(got.Foreign), got.Allocated)
	}
}

func TestPoolConditions(t *testing.T) {
	for _, c := range []struct {
		name  string
		pools []v1alpha1.NodePortPool // the last is looked at
		armed []string
		want  string
		names string // in the message of Ready
	}{
		{"armed", []v1alpha1.NodePortPool{aged("web", 1, "30000-30009")}, []string{"30000-30009"}, "Ready OK", "armed"},
		{"arming", []v1alpha1.NodePortPool{aged("web", 1, "30000-30009")}, []string{"30000-30004"}, "Reconciling Arming", "30005-30009"},
		{"unreadable", []v1alpha1.NodePortPool{aged("web", 1, "30009-30000")}, nil, "Stalled Invalid", "write 30000-30009"},
		{"all is owned by others", []v1alpha1.NodePortPool{aged("elder", 2, "30000-30099"), aged("web", 1, "30000-30009")}, nil, "Stalled Overlaps", "elder owns 30000-30009"},
		{"part is owned by others", []v1alpha1.NodePortPool{aged("elder", 2, "30005-30099"), aged("web", 1, "30000-30009")}, []string{"30000-30004"}, "Ready OK Overlaps", "armed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			last := len(c.pools) - 1
			c.pools[last].Status.Armed = c.armed
			pool := Owned(c.pools, Limits{})[last]
			status := PoolStatus(PoolSeen{Pool: pool}, metav1.NewTime(clock))
			var holds []string
			for _, kind := range []string{v1alpha1.Ready, v1alpha1.Reconciling, v1alpha1.Stalled} {
				condition := meta.FindStatusCondition(status.Conditions, kind)
				if condition == nil || condition.ObservedGeneration != 2 {
					t.Fatalf("condition %s is %+v", kind, condition)
				}
				if condition.Status == metav1.ConditionTrue {
					holds = append(holds, kind, condition.Reason)
				}
			}
			if overlaps := meta.FindStatusCondition(status.Conditions, v1alpha1.Overlaps); len(pool.Overlaps) > 0 {
				if !strings.Contains(overlaps.Message, "elder") {
					t.Errorf("Overlaps: %s", overlaps.Message)
				}
				if holds[0] == v1alpha1.Ready {
					holds = append(holds, overlaps.Type)
				}
			} else if overlaps != nil {
				t.Errorf("condition %+v", overlaps)
			}
			if got := strings.Join(holds, " "); got != c.want {
				t.Errorf("conditions %q, want %q", got, c.want)
			}
			health.Check(t, &v1alpha1.NodePortPool{ObjectMeta: pool.ObjectMeta, Status: status}, health.Of(c.want))
			if m := meta.FindStatusCondition(status.Conditions, v1alpha1.Ready).Message; !strings.Contains(m, c.names) {
				t.Errorf("Ready says %q, nothing of %q", m, c.names)
			}

			// What no longer holds goes, and times move with a status only.
			healed := aged("web", 1, "30000-30009")
			healed.Status = status
			healed.Status.Armed = []string{"30000-30009"}
			after := PoolStatus(PoolSeen{Pool: Owned([]v1alpha1.NodePortPool{healed}, Limits{})[0]}, metav1.NewTime(clock.Add(time.Minute)))
			ready := meta.FindStatusCondition(after.Conditions, v1alpha1.Ready)
			if moved := !ready.LastTransitionTime.Time.Equal(clock); ready.Status != metav1.ConditionTrue || moved != (holds[0] != v1alpha1.Ready) {
				t.Errorf("healed: %+v", ready)
			}
			if meta.FindStatusCondition(after.Conditions, v1alpha1.Overlaps) != nil {
				t.Error("healed, and yet Overlaps")
			}
		})
	}
}
