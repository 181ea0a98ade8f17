package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/explain"
	"github.com/portreeve/portreeve/lab"
)

// takeover is how long clients may be without a gateway after its node was seen not to
// be Ready, on whatever machine. The goal, 2 s, is the benchmark's business; an agent that
// is only found out by what it does not do takes ten.
const takeover = 6 * time.Second

// centralized lets one of the nodes answer, by their names.
func centralized(nodes ...*lab.Node) *v1alpha1.Gateways {
	in := metav1.LabelSelectorRequirement{Key: corev1.LabelHostname, Operator: metav1.LabelSelectorOpIn}
	for _, n := range nodes {
		in.Values = append(in.Values, n.Name)
	}
	return &v1alpha1.Gateways{Mode: v1alpha1.GatewaysCentralized, NodeSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{in}}}
}

// expect asks the port on a node until that becomes of it.
func (s *scene) expect(c *lab.Client, node *lab.Node, source netip.AddrPort, number uint16, want lab.Outcome) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s to %d of %s", source.Addr(), number, node.Name), func() error {
		f := flow(node, source, number)
		if want == lab.TimedOut {
			f.Timeout = 300 * time.Millisecond
		}
		switch a := c.Ask(s.ctx, f); {
		case a.Outcome == lab.Answered && want != lab.Answered:
			return fmt.Errorf("BREACH: %s", a)
		case a.Outcome != want:
			return fmt.Errorf("%s", a)
		}
		return nil
	})
}

// answeredBy waits until that node alone answers the office, by both families, and the
// others refuse it at once; nobody else hears anything.
func (s *scene) answeredBy(gateway *lab.Node, numbers ...uint16) {
	s.Helper()
	for _, number := range numbers {
		for _, node := range town.Nodes() {
			want := lab.Refused
			if node == gateway {
				want = lab.Answered
			}
			s.expect(s.office, node, from(officeCIDR, 1), number, want)
			s.expect(s.office, node, from(officeCIDR6, 1), number, want)
		}
		s.silent(s.street, from(streetCIDR, 1), number)
	}
}

// gatewaySet returns the set of the number's allocation.
func (s *scene) gatewaySet(number uint16) *v1alpha1.GatewaySet {
	s.Helper()
	a, set := s.allocation(number), &v1alpha1.GatewaySet{}
	if a == nil || a.Spec.Gateways == nil {
		s.Fatalf("allocation %d: %+v", number, a)
	}
	if err := town.Client.Get(s.ctx, client.ObjectKey{Name: string(a.Spec.Gateways.Set)}, set); err != nil {
		s.Fatal(err)
	}
	return set
}

func (s *scene) awaitGateway(set *v1alpha1.GatewaySet, node *lab.Node) {
	s.Helper()
	s.eventually(node.Name+" is the gateway", func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(set), set); err != nil {
			return err
		}
		if !slices.Equal(set.Spec.Nodes, []v1alpha1.ObjectName{v1alpha1.ObjectName(node.Name)}) {
			return fmt.Errorf("%v", set.Spec.Nodes)
		}
		return nil
	})
}

func TestOneGatewayAnswersAndTheNextTakesOver(t *testing.T) {
	s := open(t, "gateways", "30700-30719")
	first, second := town.Nodes()[1], town.Nodes()[2]
	web, api := s.policy("web", officeCIDR, officeCIDR6), s.policy("api", officeCIDR, officeCIDR6)
	api.Spec.Ports = []v1alpha1.PolicyPort{{Name: "http"}}
	web.Spec.Gateways, api.Spec.Gateways = centralized(first, second), centralized(second, first)
	s.create(web)
	s.create(api)
	numbers := []uint16{s.awaitReady(web), s.awaitReady(api)}
	set := s.gatewaySet(numbers[0])
	if other := s.gatewaySet(numbers[1]); other.Name != set.Name || !slices.Equal(set.Spec.Nodes, []v1alpha1.ObjectName{v1alpha1.ObjectName(first.Name)}) {
		t.Fatalf("sets %s %v and %s", set.Name, set.Spec.Nodes, other.Name)
	}
	s.answeredBy(first, numbers...)
	s.audits()
	a := s.explains("web", from(officeCIDR, 1), explain.Partial, explain.GateNode, explain.ReasonNotGateway)
	if a.StoppedBy.Subject == first.Name || !strings.Contains(a.StoppedBy.Remedy, first.Name) {
		t.Errorf("explain does not name the gateway %s: %+v", first.Name, a.StoppedBy)
	}
	s.lists(web, first)
	s.lists(api, first)

	// One write moves both, in time, and the first does not come back for being Ready again.
	registered := []string{s.allocation(numbers[0]).ResourceVersion, s.allocation(numbers[1]).ResourceVersion}
	t.Cleanup(func() { _ = first.Recover(context.Background()) })
	start, failed := time.Now(), make(chan error, 1)
	go func() { failed <- first.Fail(s.ctx) }() // a kubelet that goes on might say Ready before anybody has heard
	s.expect(s.office, second, from(officeCIDR, 2), numbers[0], lab.Answered)
	took := time.Since(start)
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	t.Logf("the next gateway answered %s after the first was not Ready", took)
	if took > takeover {
		t.Errorf("the next gateway answered after %s", took)
	}
	s.answeredBy(second, numbers...)
	for _, p := range []*v1alpha1.NodePortPolicy{web, api} {
		before := p.Status
		err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(p), p)
		after := p.Status
		before.Answered, after.Answered = nil, nil // of which nodes may tell at any time
		if err != nil {
			t.Fatal(err)
		}
		// What took half a second is told, and the new addresses are after ten.
		if prompt := took < 500*time.Millisecond && time.Since(start) < 8*time.Second; prompt && !equality.Semantic.DeepEqual(after, before) {
			t.Errorf("the fail-over wrote the status of policy %s", p.Name)
		}
	}
	if err := first.Recover(s.ctx); err != nil {
		t.Fatal(err)
	}
	s.eventually(first.Name+" is Ready again", func() error { return s.nodeReady(first.Name) })
	s.lists(web, second)
	s.lists(api, second)
	now := s.gatewaySet(numbers[0])
	if now.Generation != set.Generation+1 {
		t.Errorf("the fail-over took %d writes", now.Generation-set.Generation)
	}
	for i, number := range numbers {
		if a := s.allocation(number); a.ResourceVersion != registered[i] {
			t.Errorf("the fail-over wrote allocation %d", number)
		}
	}
	s.awaitGateway(now, second)
	s.answeredBy(second, numbers...)

	s.delete(web)
	s.delete(api)
	s.eventually("nobody's set is gone", func() error { return s.absent(now) })
}

// An agent that no longer hears leaves its node a gateway by the rules of before. It
// is found out by the first thing that it does not do.
func TestAGatewayWhoseAgentIsLostIsReplaced(t *testing.T) {
	s := open(t, "lost-gateway", "30720-30739")
	first, second := town.Nodes()[1], town.Nodes()[2]
	web := s.policy("web", officeCIDR, officeCIDR6)
	web.Spec.Gateways = centralized(first, second)
	s.create(web)
	number := s.awaitReady(web)
	s.answeredBy(first, number)

	agent := town.Agent(first)
	agent.Kill()
	<-agent.Done()
	api := s.policy("api", officeCIDR, officeCIDR6)
	api.Spec.Ports, api.Spec.Gateways = []v1alpha1.PolicyPort{{Name: "http"}}, centralized(first, second)
	s.create(api)
	s.eventually("api has its number", func() error {
		err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(api), api)
		if err == nil && len(api.Status.Allocations) == 0 {
			err = fmt.Errorf("%s", describe(api.Status.Conditions))
		}
		return err
	})
	set := s.gatewaySet(number)
	s.awaitGateway(set, second)
	s.expect(s.office, second, from(officeCIDR, 3), number, lab.Answered)
	s.expect(s.office, second, from(officeCIDR, 3), uint16(api.Status.Allocations[0].NodePort), lab.Answered)
	if err := town.RestartAgent(s.ctx, first); err != nil {
		t.Fatal(err)
	}
	s.awaitReady(api)
	s.answeredBy(second, number, uint16(api.Status.Allocations[0].NodePort))
}

func TestNodesThatAreNoGatewaysRefuse(t *testing.T) {
	s := open(t, "distributed", "30740-30749")
	gateway := town.Nodes()[1]
	web := s.policy("web", officeCIDR, officeCIDR6)
	web.Spec.Gateways = centralized(gateway)
	web.Spec.Gateways.Mode = v1alpha1.GatewaysDistributed
	s.create(web)
	number := s.awaitReady(web)
	s.answeredBy(gateway, number)
	s.lists(web, gateway)

	edit(s, web, func(p *v1alpha1.NodePortPolicy) { p.Spec.Gateways = nil })
	s.awaitReady(web)
	s.answers(s.office, from(officeCIDR, 1), number)
	// Who is connected to a node that becomes the gateway, and stays it, is not cut.
	held, err := s.office.Hold(s.ctx, patiently(flow(gateway, from(officeCIDR, 2), number)))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	edit(s, web, func(p *v1alpha1.NodePortPolicy) { p.Spec.Gateways = centralized(gateway) })
	s.awaitReady(web)
	s.answeredBy(gateway, number)
	edit(s, web, func(p *v1alpha1.NodePortPolicy) { p.Spec.Gateways = centralized(town.Nodes()...) })
	s.awaitReady(web)
	s.answeredBy(gateway, number)
	select {
	case <-held.Cut():
		t.Errorf("a connection to the gateway was cut: %s", held.End())
	default:
	}
	edit(s, web, func(p *v1alpha1.NodePortPolicy) {
		p.Spec.Gateways = &v1alpha1.Gateways{Mode: v1alpha1.GatewaysCentralized, NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"no-such": "label"}}}
	})
	s.awaitReason(web, v1alpha1.HostEnforced, v1alpha1.ReasonNoGateways)
	s.answeredBy(nil, number)
}

// lists waits until the policy's addresses are those of the node.
func (s *scene) lists(p *v1alpha1.NodePortPolicy, node *lab.Node) {
	s.Helper()
	s.eventually(p.Name+" lists "+node.Name, func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		for _, address := range p.Status.Addresses {
			host := netip.MustParseAddrPort(address).Addr()
			if !slices.Contains(node.Addrs, host) {
				return fmt.Errorf("addresses %s", strings.Join(p.Status.Addresses, " "))
			}
		}
		if len(p.Status.Addresses) != len(node.Addrs) {
			return fmt.Errorf("addresses %s", strings.Join(p.Status.Addresses, " "))
		}
		return nil
	})
}

func (s *scene) nodeReady(name string) error {
	var node corev1.Node
	if err := town.Client.Get(s.ctx, client.ObjectKey{Name: name}, &node); err != nil {
		return err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return fmt.Errorf("%+v", node.Status.Conditions)
}

func (s *scene) absent(o client.Object) error {
	err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(o), o)
	if err == nil {
		return fmt.Errorf("%s is there", o.GetName())
	}
	return client.IgnoreNotFound(err)
}
