package compile

import (
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// companion is what the manager makes of it, which the API server must take.
func (s *scene) companion(t *testing.T) *corev1.Service {
	t.Helper()
	var service *corev1.Service
	claim := v1alpha1.Claim{}
	for _, a := range s.own() {
		claim = a.Spec.Claim
		if a.Spec.State == v1alpha1.AllocationOpen && a.Spec.Carrier != v1alpha1.ServiceInPlace {
			service = s.services[claim.Service]
		}
	}
	if service != nil && len(service.Spec.Selector) == 0 {
		service = nil
	}
	companion := Companion(claim.Namespace, claim.Policy, s.own(), service, s.services[claim.Policy+v1alpha1.CompanionSuffix])
	if companion != nil {
		for n := range Held(companion) {
			if holder := s.holder(n); holder != nil {
				t.Errorf("the API server refuses the companion: Service %s holds %d", holder.Name, n)
			}
		}
	}
	return companion
}

// carryInPlace writes the Services that carry numbers in place, as the API server
// takes it.
func (s *scene) carryInPlace(t *testing.T) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(s.services)) {
		theirs := slices.DeleteFunc(s.own(), func(a v1alpha1.NodePortAllocation) bool {
			return a.Spec.Carrier != v1alpha1.ServiceInPlace || a.Spec.Claim.Service != name
		})
		if len(theirs) > 0 {
			s.services[name] = stored(t, s.services[name], InPlace(theirs, s.services[name]))
		}
	}
}

// stored is what the API server makes of an update: a port of a Service with node
// ports that names none keeps the one it had by its name, or is given one by chance.
func stored(t *testing.T, have, want *corev1.Service) *corev1.Service {
	t.Helper()
	const byChance = 32700
	if want.Spec.Type == corev1.ServiceTypeClusterIP {
		if held := Held(want); len(held) > 0 {
			t.Errorf("the API server refuses Service %s: ClusterIP with node ports %v", want.Name, held)
		}
		return want
	}
	want, used := want.DeepCopy(), Held(want)
	for i := range want.Spec.Ports {
		p := &want.Spec.Ports[i]
		if p.NodePort != 0 {
			continue
		}
		for _, before := range have.Spec.Ports {
			if before.Name == p.Name && len(used[uint16(before.NodePort)]) == 0 {
				p.NodePort = before.NodePort
			}
		}
		if p.NodePort == 0 {
			p.NodePort = byChance + int32(i)
		}
	}
	return want
}
