package guard

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/guard"
)

// withHealthCheck is a load balancer that asks for the number of its health check.
// It has no node ports, which the API server could choose in the way of a test.
func withHealthCheck(number int32) *corev1.Service {
	return service(func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.HealthCheckNodePort = number
		s.Spec.AllocateLoadBalancerNodePorts = ptr.To(false)
	})
}

// impersonated is the superuser in the group for restores.
func impersonated(t *testing.T) *person {
	t.Helper()
	config, err := cluster.UserConfig("restore", "system:masters", guard.Restorers)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPerson(config, admin)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestANumberOfAPoolIsClaimedByTheManagerOnly(t *testing.T) {
	setMode(t, v1alpha1.GuardEnforce, undeclared)
	// They stood there before the pool.
	old, oldHealth := named("old", nodePortService(30101)), named("old-health", withHealthCheck(30102))
	create(t, admin, old)
	create(t, admin, oldHealth)
	pool := newPool("ports", "30100-30109", "30120")
	pool.Spec.Reserved = []v1alpha1.ReservedPorts{{Ports: "30105-30106", Reason: "legacy"}, {Ports: "30108", Reason: "legacy"}}
	addPool(t, pool, 30100)

	none := []string{}
	port := func(number int32) corev1.ServicePort {
		return corev1.ServicePort{Name: "more", Port: 4443, NodePort: number}
	}
	try(t, guard.Ports, map[string]trial{
		"a number of a range": {admin, dryCreate(nodePortService(30100)), []string{
			"Service default/probe: spec.ports[].nodePort 30100 belongs to NodePortPool ports",
			"leave nodePort out (if you did, the API server chose it, so try again) and expose the Service by a NodePortPolicy", "list the number under spec.reserved of the pool",
		}},
		"the last number of a range":    {admin, dryCreate(nodePortService(30109)), []string{"nodePort 30109 "}},
		"a range of one number":         {admin, dryCreate(nodePortService(30120)), []string{"nodePort 30120 "}},
		"several numbers are all named": {admin, dryCreate(nodePortService(30109, 30110, 0, 30100)), []string{"nodePort 30109, 30100 "}},
		"a load balancer's number":      {admin, dryCreate(service(func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeLoadBalancer, 30100 })), []string{"nodePort 30100 "}},
		"a UDP port's number": {admin, dryCreate(service(func(s *corev1.Service) {
			s.Spec.Type, s.Spec.Ports[0].Protocol, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, corev1.ProtocolUDP, 30100
		})), []string{"nodePort 30100 "}},
		"the number of a health check":   {admin, dryCreate(withHealthCheck(30103)), []string{"Service default/probe: spec.healthCheckNodePort 30103 belongs to NodePortPool ports", "leave healthCheckNodePort out"}},
		"the superuser is nobody else":   {superuser(t), dryCreate(nodePortService(30100)), []string{"nodePort 30100 "}},
		"a restorer is nobody else":      {impersonated(t), dryCreate(nodePortService(30100)), []string{"nodePort 30100 "}},
		"the manager may":                {manager, dryCreate(nodePortService(30100)), none},
		"a number before the pool":       {admin, dryCreate(nodePortService(30099)), none},
		"a number between the ranges":    {admin, dryCreate(nodePortService(30110, 30119)), none},
		"a number behind the pool":       {admin, dryCreate(nodePortService(30121)), none},
		"a reserved number":              {admin, dryCreate(nodePortService(30105, 30106, 30108)), none},
		"a number beside a reserved one": {admin, dryCreate(nodePortService(30107)), []string{"nodePort 30107 "}},
		"a reserved health check":        {admin, dryCreate(withHealthCheck(30105)), none},
		"any number":                     {admin, dryCreate(nodePortService(0)), none},
		"any health check":               {admin, dryCreate(withHealthCheck(0)), none},
		"no node port":                   {admin, dryCreate(service()), none},

		"who had a number may keep it": {admin, dryUpdate(old, func(s *corev1.Service) { s.Spec.Ports[0].Port = 8443 }), none},
		"and be labelled":              {admin, dryUpdate(old, func(s *corev1.Service) { s.Labels = map[string]string{"a": "b"} }), none},
		"and give it up":               {admin, dryUpdate(old, func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30099 }), none},
		"and put another protocol on it": {admin, dryUpdate(old, func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "udp", Protocol: corev1.ProtocolUDP, Port: 1, NodePort: 30101})
		}), none},
		"and have another, which the server chooses": {admin, dryUpdate(old, func(s *corev1.Service) { s.Spec.Ports = append(s.Spec.Ports, port(0)) }), none},
		"but not take another":                       {admin, dryUpdate(old, func(s *corev1.Service) { s.Spec.Ports = append(s.Spec.Ports, port(30104)) }), []string{"Service default/old: spec.ports[].nodePort 30104 "}},
		"nor move to another":                        {admin, dryUpdate(old, func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30104 }), []string{"nodePort 30104 "}},
		"who had a health check may keep it":         {admin, dryUpdate(oldHealth, func(s *corev1.Service) { s.Spec.Ports[0].Port = 8443 }), none},
		"a load balancer takes no number either":     {admin, dryUpdate(oldHealth, func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30104 }), []string{"nodePort 30104 "}},
		"the manager may move a Service":             {manager, dryUpdate(old, func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30104 }), none},
	})
}

// Each pool is judged by itself, and each that is offended is heard.
func TestEveryPoolIsJudged(t *testing.T) {
	setMode(t, v1alpha1.GuardEnforce, undeclared)
	addPool(t, newPool("east", "30130-30139"), 30130)
	addPool(t, newPool("west", "30140-30149"), 30140)
	try(t, guard.Ports, map[string]trial{
		"a number of the one":   {admin, dryCreate(nodePortService(30139)), []string{"NodePortPool east"}},
		"a number of the other": {admin, dryCreate(nodePortService(30149)), []string{"NodePortPool west"}},
	})
}

// The API server chooses before it asks: also a number that nobody named is kept
// out of pools. Most of the range is a pool here.
func TestTheServersRandomChoiceIsJudgedToo(t *testing.T) {
	setMode(t, v1alpha1.GuardEnforce, undeclared)
	addPool(t, newPool("wide", "30100-32500"), 30100)
	denied := 0
	for i := range 20 { // it would choose outside twenty times in a row once in 10^17 runs
		s := named(fmt.Sprint("random-", i), nodePortService(0))
		err := admin.Create(t.Context(), s)
		if refused(err, guard.Ports, "NodePortPool wide", "if you did, the API server chose it, so try again") == nil {
			denied++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n := s.Spec.Ports[0].NodePort; n >= 30100 && n <= 32500 {
			t.Errorf("the API server gave away number %d of the pool", n)
		}
		if err := admin.Delete(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if denied == 0 {
		t.Error("20 Services with random numbers were made, none in the pool")
	}
	if err := passed(admin.try(t.Context(), dryCreate(nodePortService(0)))); err != nil {
		t.Errorf("a dry run, which chooses nothing: %v", err)
	}
}
