package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

// within bounds every wait; goals in seconds are the benchmark's business.
const within = 20 * time.Second

// scene is one test's part of the town: a namespace of its own, with a pod behind
// a Service "shop", and a pool for it.
type scene struct {
	*testing.T
	ctx       context.Context
	namespace string
	pool      *v1alpha1.NodePortPool
	office    *lab.Client // may be named as a source
	street    *lab.Client // is never
}

var clients = map[string]*lab.Client{}

// client adds a client of the shared lab once.
func sharedClient(t *testing.T, name string, prefixes ...string) *lab.Client {
	t.Helper()
	if clients[name] == nil {
		var parsed []netip.Prefix
		for _, p := range prefixes {
			parsed = append(parsed, netip.MustParsePrefix(p))
		}
		c, err := town.AddClient(name, parsed...)
		if err != nil {
			t.Fatal(err)
		}
		clients[name] = c
	}
	return clients[name]
}

const (
	officeCIDR  = "203.0.113.0/28"
	officeCIDR6 = "2001:db8:113::/64"
	streetCIDR  = "198.51.100.0/28"
	streetCIDR6 = "2001:db8:51::/64"
)

// open sets a scene. The pool is armed when it returns.
func open(t *testing.T, name string, ranges ...v1alpha1.PortRange) *scene {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	s := &scene{
		T: t, ctx: ctx, namespace: name,
		office: sharedClient(t, "office", officeCIDR, officeCIDR6),
		street: sharedClient(t, "street", streetCIDR, streetCIDR6),
	}
	select {
	case <-town.Manager().Done(): // its lease was lost; a Deployment would start it again
		if err := town.StartManager(ctx, nil); err != nil {
			t.Fatal(err)
		}
	default:
	}
	if _, err := town.AddPod(ctx, town.Nodes()[0], name, "pod", map[string]string{"app": name}); err != nil {
		t.Fatal(err)
	}
	s.create(s.service("shop"))
	s.pool = &v1alpha1.NodePortPool{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.NodePortPoolSpec{
			Category: name, Team: "team-" + name, Ranges: ranges,
			AllocateTo: v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(name)}},
			CoolDown:   &metav1.Duration{Duration: 0},
		},
	}
	s.create(s.pool)
	s.eventually("the pool is armed", func() error {
		return s.ready(s.pool, func() []metav1.Condition { return s.pool.Status.Conditions })
	})
	return s
}

// leaveFree lets others take the free numbers of the scene's pool, as they could if
// nobody held them.
func (s *scene) leaveFree() {
	s.Helper()
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) { p.Spec.Hold = ptr.To(false) })
	s.eventually("the pool's numbers are not held", func() error {
		if held := s.heldNumbers(); len(held) > 0 {
			return fmt.Errorf("held: %v", held)
		}
		return nil
	})
}

// settle waits until the whole pool is held. A manager that is killed in the middle of
// writing a hold makes the API server lose its numbers until the next repair.
func (s *scene) settle() {
	s.Helper()
	size := s.numbers().Len()
	s.eventually("all of the pool's numbers are held", func() error {
		if held := s.heldNumbers(); len(held) != size {
			return fmt.Errorf("held: %v", held)
		}
		return nil
	})
}

// numbers are those of the scene's pool.
func (s *scene) numbers() rule.PortRanges {
	s.Helper()
	ranges := make([]string, len(s.pool.Spec.Ranges))
	for i, r := range s.pool.Spec.Ranges {
		ranges[i] = string(r)
	}
	numbers, err := rule.ParsePortRanges(ranges)
	if err != nil {
		s.Fatal(err)
	}
	return numbers
}

// heldNumbers are the numbers of the scene's pool that our holds have.
func (s *scene) heldNumbers() []int32 {
	s.Helper()
	mine := s.numbers()
	var holds corev1.ServiceList
	if err := town.Client.List(s.ctx, &holds, client.InNamespace("portreeve-system"), client.HasLabels{v1alpha1.LabelHold}); err != nil {
		s.Fatal(err)
	}
	var held []int32
	for _, hold := range holds.Items {
		for _, p := range hold.Spec.Ports {
			if mine.Contains(uint16(p.NodePort)) {
				held = append(held, p.NodePort)
			}
		}
	}
	slices.Sort(held)
	return held
}

func (s *scene) service(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Selector:       map[string]string{"app": s.namespace},
			IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyPreferDualStack),
			Ports: []corev1.ServicePort{
				{Name: "https", Port: 443, TargetPort: intstr.FromInt32(lab.EchoPort)},
				{Name: "http", Port: 80, TargetPort: intstr.FromInt32(lab.EchoPort)},
				{Name: "dns-tcp", Port: 53, TargetPort: intstr.FromInt32(lab.EchoPort)},
				{Name: "dns-udp", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(lab.EchoPort)},
			},
		},
	}
}

// policy returns a policy for the https port of the Service shop.
func (s *scene) policy(name string, cidrs ...v1alpha1.CIDR) *v1alpha1.NodePortPolicy {
	p := &v1alpha1.NodePortPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name},
		Spec: v1alpha1.NodePortPolicySpec{
			Category: s.namespace, ServiceRef: v1alpha1.ServiceReference{Name: "shop"},
			Ports: []v1alpha1.PolicyPort{{Name: "https"}},
		},
	}
	for _, c := range cidrs {
		p.Spec.Sources = append(p.Spec.Sources, v1alpha1.Source{CIDR: c})
	}
	return p
}

func (s *scene) create(o client.Object) {
	s.Helper()
	if err := town.Client.Create(s.ctx, o); err != nil && !(apierrors.IsAlreadyExists(err) && o.GetNamespace() == "") {
		s.Fatalf("create %T %s: %v", o, o.GetName(), err)
	}
}

// createSoon creates an object for which the API server has to be ready first: it frees
// numbers, and takes back admission policies, a little after it was told to.
func (s *scene) createSoon(o client.Object) {
	s.Helper()
	s.eventually("create "+o.GetName(), func() error {
		o.SetResourceVersion("")
		return town.Client.Create(s.ctx, o)
	})
}

// edit changes an object as a person would, however often others write it meanwhile.
func edit[T client.Object](s *scene, object T, change func(T)) {
	s.Helper()
	s.eventually("edit "+object.GetName(), func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		change(object)
		return town.Client.Update(s.ctx, object)
	})
}

// editPool changes the scene's pool, and waits until the manager has seen it: what it gives
// before, by the pool of before, stays given.
func (s *scene) editPool(change func(*v1alpha1.NodePortPool)) {
	s.Helper()
	edit(s, s.pool, change)
	s.eventually("the manager has seen the pool", func() error {
		return s.ready(s.pool, func() []metav1.Condition { return s.pool.Status.Conditions })
	})
}

func (s *scene) delete(o client.Object) {
	s.Helper()
	if err := town.Client.Delete(s.ctx, o); client.IgnoreNotFound(err) != nil {
		s.Fatalf("delete %T %s: %v", o, o.GetName(), err)
	}
}

// awaitReady waits until the policy is Ready in its present generation, and
// returns its first node port.
func (s *scene) awaitReady(p *v1alpha1.NodePortPolicy) uint16 {
	s.Helper()
	s.eventually("policy "+p.Name+" is Ready", func() error {
		return s.ready(p, func() []metav1.Condition { return p.Status.Conditions })
	})
	if len(p.Status.Allocations) == 0 {
		s.Fatalf("policy %s is Ready without a port", p.Name)
	}
	return uint16(p.Status.Allocations[0].NodePort)
}

// awaitReason waits until a condition has the reason in the present generation.
func (s *scene) awaitReason(p *v1alpha1.NodePortPolicy, condition, reason string) metav1.Condition {
	s.Helper()
	var found metav1.Condition
	s.eventually(fmt.Sprintf("policy %s: %s is %s", p.Name, condition, reason), func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		c := meta.FindStatusCondition(p.Status.Conditions, condition)
		if c == nil || c.Reason != reason || c.ObservedGeneration != p.Generation {
			return fmt.Errorf("conditions: %s", describe(p.Status.Conditions))
		}
		found = *c
		return nil
	})
	return found
}

func (s *scene) ready(o client.Object, conditions func() []metav1.Condition) error {
	if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(o), o); err != nil {
		return err
	}
	c := meta.FindStatusCondition(conditions(), v1alpha1.Ready)
	if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != o.GetGeneration() {
		return fmt.Errorf("conditions: %s", describe(conditions()))
	}
	return nil
}

func describe(conditions []metav1.Condition) string {
	text := ""
	for _, c := range conditions {
		text += fmt.Sprintf("\n  %s=%s %s (generation %d): %s", c.Type, c.Status, c.Reason, c.ObservedGeneration, c.Message)
	}
	return text
}

// eventually tries until there is no error, for a bounded time.
func (s *scene) eventually(what string, try func() error) {
	s.Helper()
	if err := stage.Eventually(s.ctx, within, try); err != nil {
		s.Fatalf("%s: %v", what, err)
	}
}

// allocation returns the register's entry for the number, nil if there is none.
func (s *scene) allocation(number uint16) *v1alpha1.NodePortAllocation {
	s.Helper()
	var a v1alpha1.NodePortAllocation
	err := town.Client.Get(s.ctx, client.ObjectKey{Name: strconv.Itoa(int(number))}, &a)
	if client.IgnoreNotFound(err) != nil {
		s.Fatal(err)
	}
	if err != nil {
		return nil
	}
	return &a
}

// from is an address of a client's prefix: the n-th.
func from(prefix string, n int) netip.AddrPort {
	a := netip.MustParsePrefix(prefix).Addr()
	for range n {
		a = a.Next()
	}
	return netip.AddrPortFrom(a, 0)
}

// answers asks the port on every node and wants an answer from each.
func (s *scene) answers(c *lab.Client, source netip.AddrPort, number uint16) {
	s.Helper()
	for _, node := range town.Nodes() {
		s.eventually(fmt.Sprintf("%s answers %s on %d", node.Name, source.Addr(), number), func() error {
			if a := c.Ask(s.ctx, flow(node, source, number)); a.Outcome != lab.Answered {
				return fmt.Errorf("%s", a)
			}
			return nil
		})
	}
}

// silent asks the port on every node once and wants silence from each.
func (s *scene) silent(c *lab.Client, source netip.AddrPort, number uint16) {
	s.Helper()
	for _, node := range town.Nodes() {
		f := flow(node, source, number)
		f.Timeout = 300 * time.Millisecond
		if a := c.Ask(s.ctx, f); a.Outcome != lab.TimedOut {
			s.Errorf("BREACH: %s: %s from %s to %d: %s, want it dropped", node.Name, c.Name, source.Addr(), number, a)
		}
	}
}

func flow(node *lab.Node, source netip.AddrPort, number uint16) lab.Flow {
	to := node.Addrs[0]
	if source.Addr().Is6() {
		to = node.Addrs[len(node.Addrs)-1]
	}
	return lab.Flow{To: netip.AddrPortFrom(to, number), From: source}
}
