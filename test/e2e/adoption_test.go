package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// inPlace returns a policy that carries the Service in place.
func (s *scene) inPlace(name, service string, cidrs ...v1alpha1.CIDR) *v1alpha1.NodePortPolicy {
	p := s.policy(name, cidrs...)
	p.Spec.Service, p.Spec.ServiceRef.Name = v1alpha1.ServiceInPlace, service
	return p
}

func (s *scene) live(name string) *corev1.Service {
	s.Helper()
	var service corev1.Service
	if err := town.Client.Get(s.ctx, client.ObjectKey{Namespace: s.namespace, Name: name}, &service); err != nil {
		s.Fatal(err)
	}
	return &service
}

func TestAdoptionKeepsThePort(t *testing.T) {
	s := open(t, "adopt", "31410-31414")
	elder := s.nodePortService("elder", 31425)
	s.create(elder)
	s.answers(s.office, from(officeCIDR, 1), 31425)
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) { p.Spec.Ranges = append(p.Spec.Ranges, "31420-31429") })
	s.eventually("the wider pool is armed", func() error {
		return s.ready(s.pool, func() []metav1.Condition { return s.pool.Status.Conditions })
	})
	s.awaitState(31425, v1alpha1.AllocationForeign)
	s.eventually("it is listed as undeclared", func() error { return s.undeclared("adopt/elder") })

	stop := s.asking(31425)
	policy := s.inPlace("shop", "elder", officeCIDR)
	s.create(policy)
	if port := s.awaitReady(policy); port != 31425 {
		t.Errorf("the adopted Service has %d, want the number it had", port)
	}
	s.silentSoon(s.street, from(streetCIDR, 1), 31425)
	if lost, asked := stop(); lost > 0 {
		t.Errorf("%d of %d connections of a source that was and is admitted were lost", lost, asked)
	}
	if a := s.allocation(31425); !a.Spec.Adopted || a.Spec.Carrier != v1alpha1.ServiceInPlace || a.Spec.Claim.Policy != "shop" {
		t.Errorf("the register says %+v", a.Spec)
	}
	s.delete(policy)
	s.silentSoon(s.office, from(officeCIDR, 1), 31425)
	if a := s.awaitState(31425, v1alpha1.AllocationForeign); a.Spec.Grandfathered {
		t.Errorf("deleting its policy opened the port to everybody: %+v", a.Spec)
	}
	if got := s.live("elder").Spec.Ports[0].NodePort; got != 31425 {
		t.Errorf("the Service was left with %d, want the number it had before the policy", got)
	}
}

// asking connects again and again from a source that is admitted all the time, until
// stop.
func (s *scene) asking(number uint16) (stop func() (lost, asked int)) {
	ctx, cancel := context.WithCancel(s.ctx)
	done := make(chan [2]int)
	go func() {
		lost, asked := 0, 0
		for ctx.Err() == nil {
			f := flow(town.Nodes()[0], from(officeCIDR, 3), number)
			f.Timeout = time.Second
			if a := s.office.Ask(s.ctx, f); a.Outcome != lab.Answered {
				lost++
			}
			asked++
		}
		done <- [2]int{lost, asked}
	}()
	return func() (int, int) { cancel(); r := <-done; return r[0], r[1] }
}

func TestAServiceInPlaceIsHandedBack(t *testing.T) {
	s := open(t, "handback", "31430-31439")
	policy := s.inPlace("shop", "shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), port)
	service := s.live("shop")
	if service.Spec.Type != corev1.ServiceTypeNodePort {
		t.Fatalf("the Service is %s", service.Spec.Type)
	}
	for _, p := range service.Spec.Ports { // every port has a number of the pool, and only one admits anybody
		if p.NodePort < 31430 || p.NodePort > 31439 {
			t.Errorf("port %s has %d, outside the pool", p.Name, p.NodePort)
		}
		if uint16(p.NodePort) != port {
			s.silent(s.office, from(officeCIDR, 1), uint16(p.NodePort))
		}
	}
	rival := s.inPlace("rival", "shop", officeCIDR)
	s.create(rival)
	s.awaitReason(rival, v1alpha1.Accepted, v1alpha1.ReasonServiceInPlace)
	s.delete(rival)

	s.delete(policy)
	s.silentSoon(s.office, from(officeCIDR, 1), port)
	s.eventually("the Service is what it was", func() error {
		after := s.live("shop")
		if after.Spec.Type != corev1.ServiceTypeClusterIP {
			return fmt.Errorf("it is %s with %v", after.Spec.Type, after.Spec.Ports)
		}
		return nil
	})
	s.awaitFree(port)
}

// Git goes on owning the Service: it renames, renumbers, adds and removes ports, by
// either kind of apply, and nobody fights.
func TestGitEditsAServiceInPlace(t *testing.T) {
	for i, how := range []string{"client-side", "server-side"} {
		t.Run(how, func(t *testing.T) {
			s := open(t, "git-"+how, v1alpha1.PortRange(fmt.Sprintf("%d-%d", 31440+10*i, 31449+10*i)))
			inside := func(n int32) bool { return n >= int32(31440+10*i) && n <= int32(31449+10*i) }
			apply := func(ports ...corev1.ServicePort) {
				t.Helper()
				s.apply(how == "server-side", "git", ports...)
			}
			https := corev1.ServicePort{Name: "https", Protocol: "TCP", Port: 443, TargetPort: intstr.FromInt32(lab.EchoPort)}
			admin := corev1.ServicePort{Name: "admin", Protocol: "TCP", Port: 8443, TargetPort: intstr.FromInt32(lab.EchoPort)}
			apply(https, admin)
			policy := s.inPlace("shop", "git", officeCIDR)
			policy.Spec.Ports = []v1alpha1.PolicyPort{{Port: 443}}
			s.create(policy)
			port := s.awaitReady(policy)
			s.answers(s.office, from(officeCIDR, 1), port)
			settled := func(names ...string) {
				t.Helper()
				s.eventually(fmt.Sprintf("every port of %v has a number of the pool", names), func() error {
					var got []string
					for _, p := range s.live("git").Spec.Ports {
						if got = append(got, p.Name); !inside(p.NodePort) {
							return fmt.Errorf("port %s has %d", p.Name, p.NodePort)
						}
						if a := s.allocation(uint16(p.NodePort)); a == nil || a.Spec.State != v1alpha1.AllocationOpen || a.Spec.Ports[0].Port != p.Port {
							return fmt.Errorf("port %s has %d, and the register %+v", p.Name, p.NodePort, a)
						}
					}
					if !slices.Equal(got, names) {
						return fmt.Errorf("the Service has %v", got)
					}
					return nil
				})
			}
			https.Name = "web"
			apply(https, admin)
			settled("web", "admin")
			s.answers(s.office, from(officeCIDR, 1), port)

			metrics := corev1.ServicePort{Name: "metrics", Protocol: "TCP", Port: 9090, TargetPort: intstr.FromInt32(lab.EchoPort)}
			apply(https, admin, metrics)
			settled("web", "admin", "metrics")

			admin.Port = 9443
			apply(https, admin, metrics)
			settled("web", "admin", "metrics")

			apply(https, metrics)
			settled("web", "metrics")
			s.answers(s.office, from(officeCIDR, 1), port)
			if got := s.awaitReady(policy); got != port {
				t.Errorf("the port moved from %d to %d", port, got)
			}
			https.Port = 444
			apply(https, metrics)
			edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Ports[0].Port = 444 })
			settled("web", "metrics")
			s.answers(s.office, from(officeCIDR, 1), s.awaitReady(policy))
		})
	}
}

// apply writes the Service as Git does: all that it declares, and nothing of the node
// ports.
func (s *scene) apply(serverSide bool, name string, ports ...corev1.ServicePort) {
	s.Helper()
	manifest, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Service",
		"metadata": map[string]any{"namespace": s.namespace, "name": name},
		"spec":     map[string]any{"selector": map[string]string{"app": s.namespace}, "ports": manifestPorts(ports)},
	})
	if err != nil {
		s.Fatal(err)
	}
	file := filepath.Join(s.TempDir(), "service.json")
	if err := os.WriteFile(file, manifest, 0o600); err != nil {
		s.Fatal(err)
	}
	args := []string{"apply", "-f", file}
	if serverSide {
		args = append(args, "--server-side", "--field-manager", "argocd-controller")
	}
	if out, err := town.Kubectl(s.ctx, args...); err != nil {
		s.Fatalf("kubectl %v: %v\n%s", args, err, out)
	}
}

func manifestPorts(ports []corev1.ServicePort) (out []map[string]any) {
	for _, p := range ports {
		out = append(out, map[string]any{"name": p.Name, "protocol": string(p.Protocol), "port": p.Port, "targetPort": p.TargetPort.IntValue()})
	}
	return out
}

func TestAServiceOutsideThePoolIsNotAdopted(t *testing.T) {
	s := open(t, "elsewhere", "31460-31469")
	s.create(s.nodePortService("elder", 31479))
	policy := s.inPlace("shop", "elder", officeCIDR)
	s.create(policy)
	s.awaitReason(policy, v1alpha1.Accepted, v1alpha1.ReasonPinOutsidePool)
	if got := s.live("elder").Spec.Ports[0].NodePort; got != 31479 {
		t.Errorf("its number was changed to %d", got)
	}
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Ports[0].NodePort = 31465 })
	if port := s.awaitReady(policy); port != 31465 {
		t.Errorf("it moved to %d, want the pinned number", port)
	}
	s.answers(s.office, from(officeCIDR, 1), 31465)
}

// The numbers of a Service that is gone are held for it.
func TestAServiceInPlaceThatComesBackHasItsNumbersAgain(t *testing.T) {
	s := open(t, "comeback", "31480-31489")
	policy := s.inPlace("shop", "shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	s.delete(s.live("shop"))
	s.eventually("its number is held", func() error {
		if !slices.Contains(s.heldNumbers(), int32(port)) {
			return fmt.Errorf("held: %v", s.heldNumbers())
		}
		return nil
	})
	s.create(s.service("shop"))
	s.eventually("the Service has its number again", func() error {
		for _, p := range s.live("shop").Spec.Ports {
			if uint16(p.NodePort) == port {
				return nil
			}
		}
		return fmt.Errorf("it has %v", s.live("shop").Spec.Ports)
	})
	s.answers(s.office, from(officeCIDR, 1), port)
}
