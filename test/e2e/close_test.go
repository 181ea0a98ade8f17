package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

func TestARevokedSourceIsCutMidConnectionAndOthersAreNot(t *testing.T) {
	s := open(t, "revoke", "30100-30109")
	policy := s.policy("shop", officeCIDR, streetCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), port)
	s.answers(s.street, from(streetCIDR, 1), port)

	node := town.Nodes()[1]
	cut, err := s.street.Hold(s.ctx, flow(node, from(streetCIDR, 2), port))
	if err != nil {
		t.Fatal(err)
	}
	defer cut.Close()
	kept, err := s.office.Hold(s.ctx, patiently(flow(node, from(officeCIDR, 2), port)))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Sources = p.Spec.Sources[:1] })
	s.awaitReady(policy)
	select {
	case <-cut.Cut():
	case <-time.After(within):
		t.Fatal("the connection of the revoked source lives on")
	}
	s.silent(s.street, from(streetCIDR, 1), port)
	select {
	case <-kept.Cut():
		t.Fatalf("the connection of the source that stays was cut: %s", kept.End())
	default:
	}
	s.answers(s.office, from(officeCIDR, 1), port)
}

func TestADeletedPolicyIsClosedThenRestsThenIsFree(t *testing.T) {
	s := open(t, "delete", "30110-30119")
	const rest = 8 * time.Second // longer than it takes to look at all nodes while it is closed
	s.editPool(func(p *v1alpha1.NodePortPool) { p.Spec.CoolDown = &metav1.Duration{Duration: rest} })
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), port)

	s.delete(policy)
	closed := s.awaitState(port, v1alpha1.AllocationClosed).Spec.ClosedAt
	s.silentSoon(s.office, from(officeCIDR, 1), port)
	// The number is held in the API server, not only in our register.
	rival := s.service("rival")
	rival.Spec.Type, rival.Spec.Ports = corev1.ServiceTypeNodePort, rival.Spec.Ports[:1]
	rival.Spec.Ports[0].NodePort = int32(port)
	if err := town.Client.Create(s.ctx, rival); err == nil {
		t.Error("another Service took the port while it was closing")
	}
	s.awaitFree(port)
	if rested := time.Since(closed.Time); rested < rest {
		t.Errorf("the port rested %s, want its cool-down of %s", rested, rest)
	}
	s.eventually("the companion is gone", func() error {
		err := town.Client.Get(s.ctx, client.ObjectKey{Namespace: s.namespace, Name: "shop-nodeport"}, &corev1.Service{})
		if client.IgnoreNotFound(err) == nil && err != nil {
			return nil
		}
		return fmt.Errorf("it is there: %w", err)
	})
}

func TestARecreatedPolicyGetsItsPortBack(t *testing.T) {
	s := open(t, "recreate", "30120-30129")
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) { p.Spec.CoolDown = &metav1.Duration{Duration: time.Minute} })
	for _, name := range []string{"a", "b", "c"} {
		s.create(s.policy(name, officeCIDR))
	}
	policy := s.policy("b")
	port := s.awaitReady(policy)
	s.delete(policy)
	s.awaitState(port, v1alpha1.AllocationClosed)
	policy = s.policy("b", officeCIDR)
	s.create(policy)
	if again := s.awaitReady(policy); again != port {
		t.Errorf("the re-created policy has port %d, want its old %d", again, port)
	}
	s.answers(s.office, from(officeCIDR, 1), port)
}

func TestADeletedNamespaceClosesItsPortsAtOnce(t *testing.T) {
	s := open(t, "vanish", "30130-30139")
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) { p.Spec.CoolDown = &metav1.Duration{Duration: time.Minute} })
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	s.delete(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}})
	s.awaitState(port, v1alpha1.AllocationClosed)
	s.silentSoon(s.office, from(officeCIDR, 1), port)
}

func TestANodeThatIsCutOffHoldsThePortUntilItHasProvedTheClosing(t *testing.T) {
	s := open(t, "cutoff", "30140-30149")
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	node := town.Nodes()[2]
	if err := town.CutLink(node); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = town.RestoreLink(node) }()
	s.delete(policy)
	s.awaitState(port, v1alpha1.AllocationClosed)
	s.eventually("an event names the node that holds the port", func() error {
		out, err := town.Kubectl(s.ctx, "events", "--for", fmt.Sprintf("nodeportallocation/%d", port), "-A")
		if err == nil && !strings.Contains(out, node.Name+" (Pending)") {
			err = fmt.Errorf("events: %s", out)
		}
		return err
	})
	if s.allocation(port) == nil {
		t.Fatal("the port was freed although a node may still admit its old sources")
	}
	if err := town.RestoreLink(node); err != nil {
		t.Fatal(err)
	}
	s.awaitFree(port)
}

func TestAnAnnotationReleasesAPortThatALostNodeHolds(t *testing.T) {
	s := open(t, "release", "30150-30159")
	ghost := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "ghost"}}
	s.create(ghost)
	t.Cleanup(func() { _ = town.Client.Delete(context.Background(), ghost) })
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy) // the ghost is not Ready, so it is not asked
	s.delete(policy)
	closed := s.awaitState(port, v1alpha1.AllocationClosed)
	s.eventually("an event names the lost node", func() error {
		out, err := town.Kubectl(s.ctx, "events", "--for", fmt.Sprintf("nodeportallocation/%d", port), "-A")
		if err == nil && !strings.Contains(out, "ghost (Ungated)") {
			err = fmt.Errorf("events: %s", out)
		}
		return err
	})
	edit(s, closed, func(a *v1alpha1.NodePortAllocation) {
		a.Annotations = map[string]string{v1alpha1.AnnotationRelease: "the node burnt down"}
	})
	s.awaitFree(port)
}

func (s *scene) awaitState(port uint16, state v1alpha1.AllocationState) *v1alpha1.NodePortAllocation {
	s.Helper()
	var found *v1alpha1.NodePortAllocation
	s.eventually(fmt.Sprintf("port %d is %s", port, state), func() error {
		if found = s.allocation(port); found == nil || found.Spec.State != state {
			return fmt.Errorf("the register says %+v", found)
		}
		return nil
	})
	return found
}

func (s *scene) awaitFree(port uint16) {
	s.Helper()
	s.eventually(fmt.Sprintf("port %d is free", port), func() error {
		if a := s.allocation(port); a != nil {
			return fmt.Errorf("the register says %s, closed at %v", a.Spec.State, a.Spec.ClosedAt)
		}
		return nil
	})
}

// silentSoon waits until every node drops, then looks once more at all of them.
func (s *scene) silentSoon(c *lab.Client, source netip.AddrPort, port uint16) {
	s.Helper()
	for _, node := range town.Nodes() {
		f := flow(node, source, port)
		f.Timeout = 300 * time.Millisecond
		s.eventually(node.Name+" drops", func() error {
			if a := c.Ask(s.ctx, f); a.Outcome != lab.TimedOut {
				return fmt.Errorf("BREACH: %s", a)
			}
			return nil
		})
	}
	s.silent(c, source, port)
}
