package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// another makes a second pool of the scene's category.
func (s *scene) another(name string, change func(*v1alpha1.NodePortPool)) *v1alpha1.NodePortPool {
	s.Helper()
	pool := &v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: *s.pool.Spec.DeepCopy()}
	change(pool)
	s.create(pool)
	s.Cleanup(func() { _ = town.Client.Delete(context.Background(), pool) })
	s.eventually("pool "+name+" is armed", func() error {
		return s.ready(pool, func() []metav1.Condition { return pool.Status.Conditions })
	})
	return pool
}

func TestAFullPoolOverflowsIntoTheNextOfItsCategory(t *testing.T) {
	s := open(t, "overflow", "31000-31001")
	s.another("overflow-rest", func(p *v1alpha1.NodePortPool) {
		p.Spec.Ranges = []v1alpha1.PortRange{"31005-31009"}
		p.Spec.AllocateTo.Priority = ptr.To[int32](70)
	})
	for i, want := range []uint16{31000, 31001, 31005} {
		policy := s.policy(fmt.Sprintf("p%d", i), officeCIDR)
		s.create(policy)
		if got := s.awaitReady(policy); got != want {
			t.Errorf("policy %d got %d, want %d", i, got, want)
		}
	}
	s.eventually("the full pool says so", func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(s.pool), s.pool); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(s.pool.Status.Conditions, v1alpha1.Exhausted) {
			return fmt.Errorf("conditions: %s", describe(s.pool.Status.Conditions))
		}
		return nil
	})
	s.eventually("an event of it", func() error { return s.event("overflow", v1alpha1.ReasonExhausted) })
	named := s.policy("named", officeCIDR)
	named.Spec.Category, named.Spec.PoolRef = "", &v1alpha1.PoolReference{Name: "overflow-rest"}
	s.create(named)
	if got := s.awaitReady(named); got != 31006 {
		t.Errorf("the policy that names its pool got %d, want 31006", got)
	}
}

// event looks for an event of an object without a namespace.
func (s *scene) event(name, reason string) error {
	var events corev1.EventList
	if err := town.Client.List(s.ctx, &events); err != nil {
		return err
	}
	for _, e := range events.Items {
		if e.InvolvedObject.Name == name && e.Reason == reason {
			return nil
		}
	}
	return fmt.Errorf("no event %s of %s among %d", reason, name, len(events.Items))
}

func TestQuotaBoundsANamespace(t *testing.T) {
	s := open(t, "bounded", "31010-31019")
	s.editPool(func(p *v1alpha1.NodePortPool) { p.Spec.Quota.PerNamespace = 1 })
	first, second := s.policy("first", officeCIDR), s.policy("second", officeCIDR)
	s.create(first)
	s.awaitReady(first)
	s.create(second)
	if c := s.awaitReason(second, v1alpha1.Allocated, v1alpha1.ReasonQuotaExceeded); !strings.Contains(c.Message, "bounded") {
		t.Errorf("the message does not name the namespace: %s", c.Message)
	}
	s.delete(first)
	s.awaitReady(second)
}

func TestNamespacesAreSelectedByTheirLabels(t *testing.T) {
	s := open(t, "labelled", "31020-31029")
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) {
		p.Spec.AllocateTo.Namespaces = nil
		p.Spec.AllocateTo.NamespaceSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: "tier", Operator: metav1.LabelSelectorOpIn, Values: []string{"front"}},
		}}
	})
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	s.awaitReason(policy, v1alpha1.Accepted, v1alpha1.ReasonNamespaceNotAllowed)
	label := func(value string) {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "labelled"}}
		edit(s, namespace, func(n *corev1.Namespace) { n.Labels["tier"] = value })
	}
	label("front")
	port := s.awaitReady(policy)
	label("back")
	s.awaitReason(policy, v1alpha1.Accepted, v1alpha1.ReasonNamespaceNotAllowed)
	s.answers(s.office, from(officeCIDR, 1), port) // what it has stays
}

func TestAReservedNumberIsNamed(t *testing.T) {
	s := open(t, "reserved", "31030-31039")
	s.editPool(func(p *v1alpha1.NodePortPool) {
		p.Spec.Reserved = []v1alpha1.ReservedPorts{{Ports: "31030-31033", Reason: "legacy balancer"}}
	})
	policy := s.policy("shop", officeCIDR)
	policy.Spec.Ports[0].NodePort = 31031
	s.create(policy)
	if c := s.awaitReason(policy, v1alpha1.Accepted, v1alpha1.ReasonPinOutsidePool); !strings.Contains(c.Message, "legacy balancer") {
		t.Errorf("the message does not say why the number is reserved: %s", c.Message)
	}
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Ports[0].NodePort = 0 })
	if port := s.awaitReady(policy); port != 31034 {
		t.Errorf("got %d, want the first that is not reserved", port)
	}
	balancer := s.nodePortService("balancer", 31032) // not held, and never judged
	s.createSoon(balancer)
	s.answers(s.street, from(streetCIDR, 1), 31032)
}

func (s *scene) undeclared(service string) error {
	if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(s.pool), s.pool); err != nil {
		return err
	}
	for _, u := range s.pool.Status.Undeclared {
		if u.Service == service {
			return nil
		}
	}
	return fmt.Errorf("undeclared: %v", s.pool.Status.Undeclared)
}

func TestRangesOutsideTheNodePortRangeAreReported(t *testing.T) {
	s := open(t, "outside", "31040-31041", "32760-32769")
	s.eventually("the pool says what lies outside", func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(s.pool), s.pool); err != nil {
			return err
		}
		c := meta.FindStatusCondition(s.pool.Status.Conditions, v1alpha1.OutOfRange)
		if c == nil || !strings.Contains(c.Message, "32768-32769") || s.pool.Status.Capacity != 10 {
			return fmt.Errorf("capacity %d, conditions: %s", s.pool.Status.Capacity, describe(s.pool.Status.Conditions))
		}
		return nil
	})
}

func TestPlacementBySource(t *testing.T) {
	s := open(t, "placed", "31050-31069")
	s.editPool(func(p *v1alpha1.NodePortPool) { p.Spec.Placement = v1alpha1.PlacementBySource })
	got := map[string][]uint16{}
	for i := range 3 {
		for name, cidr := range map[string]v1alpha1.CIDR{"office": officeCIDR, "street": streetCIDR} {
			policy := s.policy(fmt.Sprintf("%s-%d", name, i), cidr)
			s.create(policy)
			got[name] = append(got[name], s.awaitReady(policy))
		}
	}
	for name, numbers := range got {
		if lowest, highest := min(numbers[0], numbers[1], numbers[2]), max(numbers[0], numbers[1], numbers[2]); highest-lowest != 2 {
			t.Errorf("the numbers of %s, %v, do not lie side by side", name, numbers)
		}
	}
}

func TestAnExpiredPolicyClosesAndIsReady(t *testing.T) {
	s := open(t, "expiry", "31070-31079")
	policy := s.policy("shop", officeCIDR)
	policy.Spec.ExpiresAt = ptr.To(metav1.NewTime(time.Now().Add(15 * time.Second)))
	s.create(policy)
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), port)
	held, err := s.office.Hold(s.ctx, flow(town.Nodes()[0], from(officeCIDR, 1), port))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	s.awaitReason(policy, v1alpha1.Ready, v1alpha1.ReasonExpired)
	s.silentSoon(s.office, from(officeCIDR, 2), port)
	select {
	case <-held.Cut():
	case <-time.After(within):
		t.Error("a connection outlived the policy")
	}
	s.awaitFree(port)
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.ExpiresAt = ptr.To(metav1.NewTime(time.Now().Add(time.Hour))) })
	s.eventually("it opens again", func() error {
		return s.ready(policy, func() []metav1.Condition {
			if len(policy.Status.Allocations) == 0 {
				return nil
			}
			return policy.Status.Conditions
		})
	})
	s.answers(s.office, from(officeCIDR, 1), uint16(policy.Status.Allocations[0].NodePort))
}

func TestAPlanWritesNothing(t *testing.T) {
	s := open(t, "plan", "31080-31089")
	policy := s.policy("shop", officeCIDR)
	policy.Spec.Mode = v1alpha1.ModePlan
	s.create(policy)
	s.awaitReason(policy, v1alpha1.Ready, v1alpha1.ReasonPlanned)
	plan := policy.Status.Plan
	if plan == nil || len(plan.Ports) != 1 || plan.Ports[0].NodePort != 31080 || len(plan.Nodes) != 1 || plan.Nodes[0] != "tcp/31080 from "+officeCIDR {
		t.Fatalf("the plan is %+v", plan)
	}
	if a := s.allocation(31080); a != nil {
		t.Errorf("a plan claimed %+v", a.Spec)
	}
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Mode = v1alpha1.ModeEnforce })
	if port := s.awaitReady(policy); port != 31080 || policy.Status.Plan != nil {
		t.Errorf("it got %d, and the plan is %+v", port, policy.Status.Plan)
	}
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) {
		p.Spec.Mode, p.Spec.Ports[0].NodePort = v1alpha1.ModePlan, 31085
		p.Spec.Sources = append(p.Spec.Sources, v1alpha1.Source{CIDR: streetCIDR})
	})
	s.awaitReason(policy, v1alpha1.Ready, v1alpha1.ReasonPlanned)
	if plan := policy.Status.Plan; plan == nil || len(plan.Ports) != 1 || plan.Ports[0].NodePort != 31085 || len(plan.Closes) != 1 || plan.Closes[0] != 31080 {
		t.Errorf("the plan is %+v", plan)
	}
	s.answers(s.office, from(officeCIDR, 1), 31080)
	s.silent(s.street, from(streetCIDR, 1), 31080)
}
