package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/explain"
	"github.com/portreeve/portreeve/lab"
)

// installation edits the Portreeve object, which is made when there is none, and
// takes the edit back when the test ends.
func (s *scene) installation(change func(*v1alpha1.Portreeve)) {
	s.Helper()
	object := &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName}}
	if err := town.Client.Create(s.ctx, object); client.IgnoreAlreadyExists(err) != nil {
		s.Fatal(err)
	}
	edit(s, object, change)
	s.Cleanup(func() {
		err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
			if err := town.Client.Get(context.Background(), client.ObjectKeyFromObject(object), object); err != nil {
				return err
			}
			object.Spec = v1alpha1.PortreeveSpec{}
			return town.Client.Update(context.Background(), object)
		})
		if err != nil {
			s.Error(err)
		}
	})
}

// askedOn asks the port on one node, and wants an answer, or silence.
func (s *scene) askedOn(node string, number uint16, answers bool) {
	s.Helper()
	for _, n := range town.Nodes() {
		if n.Name != node {
			continue
		}
		s.eventually(fmt.Sprintf("%s answers on %d: %t", node, number, answers), func() error {
			if a := s.office.Ask(s.ctx, flow(n, from(officeCIDR, 1), number)); (a.Outcome == lab.Answered) != answers {
				return fmt.Errorf("%s", a)
			}
			return nil
		})
	}
}

func TestFailSafePortsOfTheInstallation(t *testing.T) {
	s := open(t, "failsafe", "31160-31169")
	policy := s.policy("shop", officeCIDR)
	s.installation(func(p *v1alpha1.Portreeve) { p.Spec.FailSafePorts = []v1alpha1.PortSpan{"31160-31162"} })
	s.eventually("the pool has lost them", func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(s.pool), s.pool); err != nil {
			return err
		}
		if len(s.pool.Status.Armed) != 1 || s.pool.Status.Armed[0] != "31163-31169" {
			return fmt.Errorf("armed: %v", s.pool.Status.Armed)
		}
		return nil
	})
	s.create(policy)
	if port := s.awaitReady(policy); port != 31163 {
		t.Errorf("got %d, want the first that is not fail-safe", port)
	}
}

func TestGuardModes(t *testing.T) {
	s := open(t, "guarded", "31170-31179")
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	guard := func(mode v1alpha1.GuardMode) {
		s.installation(func(p *v1alpha1.Portreeve) { p.Spec.Guard = mode })
	}
	claim := s.allocation(port)
	touch := func() error {
		again := claim.DeepCopy()
		again.Spec.Team = "nobody"
		return town.Client.Update(s.ctx, again, client.DryRunAll)
	}
	guard(v1alpha1.GuardEnforce)
	s.eventually("the register is the manager's", func() error {
		if err := touch(); !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) || !strings.Contains(fmt.Sprint(err), "portreeve-guard-allocations") {
			return fmt.Errorf("a hand at the register: %w", err)
		}
		return nil
	})
	next := s.policy("next", officeCIDR) // the manager goes on working
	s.create(next)
	s.answers(s.office, from(officeCIDR, 1), s.awaitReady(next))
	guard(v1alpha1.GuardOff)
	s.eventually("the guard is off", touch)
}

func TestUndeclaredServicesAreRefused(t *testing.T) {
	s := open(t, "declared", "31180-31189")
	s.installation(func(p *v1alpha1.Portreeve) {
		p.Spec.Guard = v1alpha1.GuardEnforce
		p.Spec.DenyUndeclared = &v1alpha1.NamespaceChoice{NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "declared"}}}
	})
	random := s.nodePortService("random", 0)
	s.eventually("a NodePort Service without a policy is refused", func() error {
		if err := town.Client.Create(s.ctx, random.DeepCopy(), client.DryRunAll); !strings.Contains(fmt.Sprint(err), "portreeve-guard-undeclared") {
			return fmt.Errorf("created: %w", err)
		}
		return nil
	})
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	s.answers(s.office, from(officeCIDR, 1), s.awaitReady(policy))
}

// External IPs on a node's address come before node ports in kube-proxy, and
// admission may not have been asked.
func TestAHijackerIsNamedOnItsVictim(t *testing.T) {
	s := open(t, "hijacked", "31190-31199")
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	thief := s.service("thief")
	thief.Spec.Ports = []corev1.ServicePort{{Name: "x", Port: int32(port)}}
	thief.Spec.ExternalIPs = []string{town.Nodes()[0].Addrs[0].String()}
	s.createSoon(thief)
	if c := s.awaitReason(policy, v1alpha1.Conflict, v1alpha1.ReasonHijacked); !strings.Contains(c.Message, "hijacked by Service hijacked/thief") {
		t.Errorf("message: %s", c.Message)
	}
	s.audits()
	if a := s.explains("shop", from(officeCIDR, 1), explain.Unproved, explain.GateService, v1alpha1.ReasonHijacked); !strings.Contains(a.StoppedBy.Message, "hijacked/thief") {
		t.Errorf("explain does not name the thief: %+v", a.StoppedBy)
	}
	s.delete(thief)
	s.eventually("the conflict is over", func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(policy), policy); err != nil {
			return err
		}
		for _, c := range policy.Status.Conditions {
			if c.Type == v1alpha1.Conflict {
				return fmt.Errorf("%s: %s", c.Reason, c.Message)
			}
		}
		return nil
	})
}
