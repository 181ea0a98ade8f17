package guard

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/guard"
)

func TestNodePortServicesNeedAPolicyWhereThePlatformSaysSo(t *testing.T) {
	setMode(t, v1alpha1.GuardEnforce, undeclared)
	of := func(kind corev1.ServiceType, namespace string) *corev1.Service {
		return service(func(s *corev1.Service) { s.Namespace, s.Spec.Type = namespace, kind })
	}
	const (
		nodePort, balancer, clusterIP = corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeClusterIP
	)
	standing, inner, outer := named("standing", of(nodePort, strict)), named("inner", of(clusterIP, strict)), named("outer", of(balancer, strict))
	create(t, manager, standing)
	create(t, admin, inner)
	create(t, admin, outer)
	turn := func(kind corev1.ServiceType) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.Type = kind }
	}
	none := []string{}
	try(t, guard.Undeclared, map[string]trial{
		"a new one": {admin, dryCreate(of(nodePort, strict)), []string{
			"Service strict/probe: spec.type NodePort needs a NodePortPolicy in namespace strict; make it ClusterIP and write a NodePortPolicy whose spec.serviceRef.name is probe",
		}},
		"one that turns into it":             {admin, dryUpdate(inner, turn(nodePort)), []string{"Service strict/inner: spec.type NodePort "}},
		"a load balancer that turns into it": {admin, dryUpdate(outer, turn(nodePort)), []string{"Service strict/outer: spec.type NodePort "}},
		"the superuser is nobody else":       {superuser(t), dryCreate(of(nodePort, strict)), []string{"Service strict/probe: "}},
		"the manager's":                      {manager, dryCreate(of(nodePort, strict)), none},
		"the manager turns one into it":      {manager, dryUpdate(inner, turn(nodePort)), none},
		"one that was there may be changed":  {admin, dryUpdate(standing, func(s *corev1.Service) { s.Spec.Ports[0].Port = 8443 }), none},
		"and be something else":              {admin, dryUpdate(standing, turn(clusterIP)), none},
		"a load balancer":                    {admin, dryCreate(of(balancer, strict)), none},
		"a ClusterIP":                        {admin, dryCreate(of(clusterIP, strict)), none},
		"in another namespace":               {admin, dryCreate(of(nodePort, "default")), none},
	})
}
