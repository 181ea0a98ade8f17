package e2e

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/test/stage"
)

// nodePortService exposes the scene's pod the ordinary way, on this number.
func (s *scene) nodePortService(name string, number int32) *corev1.Service {
	service := s.service(name)
	service.Spec.Type, service.Spec.Ports = corev1.ServiceTypeNodePort, service.Spec.Ports[:1]
	service.Spec.Ports[0].NodePort = number
	return service
}

func TestAPoolCutsNobodyOffWhoStoodThereBefore(t *testing.T) {
	s := open(t, "elder", "30200-30204")
	elder := s.nodePortService("elder", 30215)
	s.create(elder)
	s.answers(s.street, from(streetCIDR, 1), 30215)
	held, err := s.street.Hold(s.ctx, patiently(flow(town.Nodes()[0], from(streetCIDR, 2), 30215)))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()

	edit(s, s.pool, func(p *v1alpha1.NodePortPool) { p.Spec.Ranges = append(p.Spec.Ranges, "30210-30219") })
	s.eventually("the wider pool is armed", func() error {
		return s.ready(s.pool, func() []metav1.Condition { return s.pool.Status.Conditions })
	})
	if a := s.awaitState(30215, v1alpha1.AllocationForeign); !a.Spec.Grandfathered || a.Spec.Claim.Service != "elder" {
		t.Errorf("the register says %+v, want it grandfathered for elder", a.Spec)
	}
	s.silentSoon(s.street, from(streetCIDR, 1), 30216) // armed on the nodes, too
	s.answers(s.street, from(streetCIDR, 1), 30215)
	select {
	case <-held.Cut():
		t.Errorf("a connection that stood before the pool was cut: %s", held.End())
	default:
	}

	edit(s, s.pool, func(p *v1alpha1.NodePortPool) { p.Spec.Grandfather = ptr.To(false) })
	s.silentSoon(s.street, from(streetCIDR, 1), 30215)
	s.delete(elder)
	s.awaitFree(30215)
}

func TestAPoolThatIsDeletedGivesBackWhatItNeverOwned(t *testing.T) {
	s := open(t, "gone", "30270-30279")
	s.leaveFree()
	squatter := s.nodePortService("squatter", 30275)
	s.createSoon(squatter)
	s.awaitState(30275, v1alpha1.AllocationForeign)
	s.silentSoon(s.street, from(streetCIDR, 1), 30275)
	last := s.pool.DeepCopy() // agents keep the rules of a last pool, see their guard
	last.ObjectMeta = metav1.ObjectMeta{Name: "remains"}
	last.Spec.Ranges = []v1alpha1.PortRange{"30280"}
	s.create(last)
	t.Cleanup(func() { _ = town.Client.Delete(context.Background(), last) })
	s.delete(s.pool)
	s.awaitFree(30275)
	s.answers(s.street, from(streetCIDR, 1), 30275)
}

func TestAServiceCreatedBehindOurBackIsUnreachableAndItsNumberIsPassedOver(t *testing.T) {
	s := open(t, "squat", "30220-30222")
	s.leaveFree()
	squatter := s.nodePortService("squatter", 30220)
	s.createSoon(squatter)
	if a := s.awaitState(30220, v1alpha1.AllocationForeign); a.Spec.Grandfathered {
		t.Errorf("a squatter is grandfathered: %+v", a.Spec)
	}
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	if port := s.awaitReady(policy); port != 30221 {
		t.Errorf("the policy got %d, want 30221: the first number is held by a Service", port)
	}
	s.silent(s.street, from(streetCIDR, 1), 30220)
	s.silent(s.office, from(officeCIDR, 1), 30220)

	pinned := s.policy("pinned", officeCIDR)
	pinned.Spec.Ports[0].NodePort = 30220
	s.create(pinned)
	s.awaitReason(pinned, v1alpha1.Conflict, v1alpha1.ReasonConflict)
	s.delete(squatter)
	if port := s.awaitReady(pinned); port != 30220 {
		t.Errorf("the pinned policy got %d once the squatter was gone, want 30220", port)
	}
}

// Another Service takes the number between our claim and our companion, before
// any cache can show it: the moment that only the API server knows of.
func TestANumberThatTheAPIServerRefusesIsForeignAndAnotherIsChosen(t *testing.T) {
	s := open(t, "refused", "30225-30229")
	rival := s.nodePortService("rival", 30225)
	var took error
	var once sync.Once
	config, stop, err := town.Proxied(s.ctx, func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/namespaces/refused/services") {
				once.Do(func() { // the API server frees the number a little after our hold has lost it
					took = stage.Eventually(s.ctx, within, func() error {
						rival.SetResourceVersion("")
						return town.Client.Create(s.ctx, rival)
					})
				})
			}
			return next.RoundTrip(r)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	s.settle()
	town.Manager().Kill()
	if err := town.StartManager(s.ctx, config); err != nil {
		t.Fatal(err)
	}
	defer func() {
		town.Manager().Kill()
		stop()
		if err := town.StartManager(s.ctx, nil); err != nil {
			t.Fatal(err)
		}
	}()
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	if port := s.awaitReady(policy); port != 30226 {
		t.Errorf("the policy got %d, want 30226", port)
	}
	if took != nil {
		t.Fatal(took)
	}
	s.eventually("the refused number is the rival's", func() error { // by whose name it is known once the manager has seen it
		if a := s.allocation(30225); a == nil || a.Spec.State != v1alpha1.AllocationForeign || a.Spec.Claim.Service != "rival" || a.Spec.Claim.Policy != "" {
			return fmt.Errorf("the register says %+v", a)
		}
		return nil
	})
	if s.allocation(30225).Spec.Grandfathered {
		t.Error("the refused number is grandfathered")
	}
	s.silentSoon(s.office, from(officeCIDR, 1), 30225)
	s.answers(s.office, from(officeCIDR, 1), 30226)
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAnExhaustedPoolServesTheOldestClaimWhenAPortIsFreed(t *testing.T) {
	s := open(t, "full", "30230")
	first, second := s.policy("first", officeCIDR), s.policy("second", officeCIDR)
	s.create(first)
	s.awaitReady(first)
	s.create(second)
	s.awaitReason(second, v1alpha1.Allocated, v1alpha1.ReasonExhausted)
	s.awaitReason(second, v1alpha1.Reconciling, v1alpha1.ReasonExhausted)
	s.delete(first)
	if port := s.awaitReady(second); port != 30230 {
		t.Errorf("the waiting policy got %d, want 30230", port)
	}
}

func TestTheOlderPoolOwnsAndTheYoungerSaysOverlaps(t *testing.T) {
	s := open(t, "older", "30240-30249")
	younger := s.pool.DeepCopy()
	younger.ObjectMeta = metav1.ObjectMeta{Name: "younger"}
	younger.Spec.Category, younger.Spec.Ranges = "younger", []v1alpha1.PortRange{"30245-30254"}
	s.create(younger)
	t.Cleanup(func() { _ = town.Client.Delete(context.Background(), younger) })
	s.eventually("the younger pool says Overlaps and owns the rest", func() error {
		if err := s.ready(younger, func() []metav1.Condition { return younger.Status.Conditions }); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(younger.Status.Conditions, v1alpha1.Overlaps) || younger.Status.Capacity != 5 {
			return fmt.Errorf("status is %+v", younger.Status)
		}
		return nil
	})
}

func TestOnlyNamespacesOfThePoolMayDraw(t *testing.T) {
	s := open(t, "mine", "30255-30259")
	other := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "yours"}}
	s.create(other)
	policy := s.policy("shop", officeCIDR)
	policy.Namespace = other.Name
	s.create(policy)
	s.awaitReason(policy, v1alpha1.Accepted, v1alpha1.ReasonNamespaceNotAllowed)
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) {
		p.Spec.AllocateTo.Namespaces = append(p.Spec.AllocateTo.Namespaces, "yours")
	})
	s.awaitReason(policy, v1alpha1.Accepted, v1alpha1.ReasonServiceNotFound)
	unknown := s.policy("unknown", officeCIDR)
	unknown.Spec.Category = "nowhere"
	s.create(unknown)
	s.awaitReason(unknown, v1alpha1.Accepted, v1alpha1.ReasonPoolNotFound)
}

func TestAnInvalidEditKeepsWhatWasInForceLessTheSourcesItRemoved(t *testing.T) {
	s := open(t, "invalid", "30260-30269")
	policy := s.policy("shop", officeCIDR, streetCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	s.answers(s.street, from(streetCIDR, 1), port)
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) {
		p.Spec.Ports[0].Name = "no-such-port"
		p.Spec.Sources = []v1alpha1.Source{{CIDR: officeCIDR}, {CIDR: "192.0.2.0/24"}}
	})
	s.awaitReason(policy, v1alpha1.Stalled, v1alpha1.ReasonServicePortNotFound)
	s.silentSoon(s.street, from(streetCIDR, 1), port)
	s.answers(s.office, from(officeCIDR, 1), port)
	if a := s.allocation(port); len(a.Spec.Ports[0].Sources) != 1 || a.Spec.Ports[0].Sources[0] != officeCIDR {
		t.Errorf("the allocation admits %v, want only %s", a.Spec.Ports[0].Sources, officeCIDR)
	}
}

func TestTheAgentMayReadAllocationsPoolsAndNodesAndNothingElse(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	config, err := town.ServiceAccountConfig(ctx, "portreeve-system", "portreeve-agent", nil)
	if err != nil {
		t.Fatal(err)
	}
	agent, err := client.New(config, client.Options{Scheme: town.Client.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range []client.ObjectList{&v1alpha1.NodePortAllocationList{}, &v1alpha1.NodePortPoolList{}} {
		if err := agent.List(ctx, list); err != nil {
			t.Errorf("the agent can't list %T: %v", list, err)
		}
	}
	for _, list := range []client.ObjectList{
		&corev1.SecretList{}, &corev1.ServiceList{}, &corev1.PodList{}, &v1alpha1.NodePortPolicyList{}, &v1alpha1.CloudFirewallList{},
	} {
		if err := agent.List(ctx, list); err == nil {
			t.Errorf("the agent may list %T", list)
		}
	}
	if err := agent.Delete(ctx, &v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: "30000"}}); err == nil {
		t.Error("the agent may delete allocations")
	}
}
