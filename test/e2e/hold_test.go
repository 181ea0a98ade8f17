package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

func (s *scene) awaitHeld(want ...int32) {
	s.Helper()
	s.eventually(fmt.Sprintf("held are %v", want), func() error {
		if held := s.heldNumbers(); !slices.Equal(held, want) {
			return fmt.Errorf("held: %v", held)
		}
		return nil
	})
}

func TestFreeNumbersAreHeld(t *testing.T) {
	s := open(t, "held", "31200-31203")
	s.awaitHeld(31200, 31201, 31202, 31203)
	thief := s.nodePortService("thief", 31202)
	if err := town.Client.Create(s.ctx, thief); err == nil || !strings.Contains(err.Error(), "already allocated") {
		t.Errorf("a free number of the pool could be taken: %v", err)
	}
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), port)
	s.awaitHeld(31201, 31202, 31203)
	s.kubeProxyIgnores(31202)
	s.delete(policy)
	s.awaitFree(port)
	s.awaitHeld(31200, 31201, 31202, 31203)
	s.leaveFree()
	s.createSoon(s.nodePortService("taker", 31202))
}

// kubeProxyIgnores looks into the rules that kube-proxy made on a node.
func (s *scene) kubeProxyIgnores(number int) {
	s.Helper()
	out, err := town.Nodes()[0].Namespace.Output(s.ctx, "nft", "list", "ruleset")
	if err != nil {
		s.Fatal(err)
	}
	if !strings.Contains(out, "kube-proxy") {
		s.Fatalf("no rules of kube-proxy:\n%s", out)
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, fmt.Sprint(number)) && !strings.Contains(line, "PORTREEVE") {
			s.Errorf("kube-proxy serves a held number: %s", line)
		}
	}
}

// The API server gives random numbers out of its whole range; none may come out of a
// pool.
func TestRandomNodePortsAvoidThePool(t *testing.T) {
	s := open(t, "random", "31210-31399", "31600-32099")
	s.eventually("all is held that nobody had before", func() error {
		var register v1alpha1.NodePortAllocationList
		if err := town.Client.List(s.ctx, &register); err != nil {
			return err
		}
		taken := 0
		for _, a := range register.Items {
			if a.Spec.Pool == s.pool.Name {
				taken++
			}
		}
		if held := s.heldNumbers(); len(held)+taken != 690 {
			return fmt.Errorf("%d are held, %d taken", len(held), taken)
		}
		return nil
	})
	for i := range 60 {
		service := s.nodePortService(fmt.Sprintf("random-%d", i), 0)
		service.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.create(service)
		if n := uint16(service.Spec.Ports[0].NodePort); n >= 31210 && n <= 31399 || n >= 31600 && n <= 32099 {
			t.Errorf("Service %d was given %d, a number of the pool", i, n)
		}
		s.delete(service)
	}
}

func TestHoldsAreExplained(t *testing.T) {
	s := open(t, "explained", "31400-31409")
	s.awaitHeld(31400, 31401, 31402, 31403, 31404, 31405, 31406, 31407, 31408, 31409)
	hold := &corev1.Service{}
	hold.Namespace, hold.Name = "portreeve-system", compile.HoldOf(31400)
	edit(s, hold, func(h *corev1.Service) { h.Spec.Ports = h.Spec.Ports[:1] }) // somebody tampers
	s.awaitHeld(31400, 31401, 31402, 31403, 31404, 31405, 31406, 31407, 31408, 31409)
	if hold.Labels[v1alpha1.LabelHold] != "true" || hold.Annotations["portreeve.dev/explanation"] == "" || len(hold.Spec.Selector) != 0 {
		t.Errorf("the hold does not explain itself: %+v", hold.ObjectMeta)
	}
}
