package guard

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/guard"
)

// onAddresses is a Service for a port on external IPs.
func onAddresses(port int32, addresses ...string) *corev1.Service {
	return service(func(s *corev1.Service) {
		s.Spec.ExternalIPs, s.Spec.Ports[0].Port = addresses, port
	})
}

func balanced(port int32) *corev1.Service {
	return service(func(s *corev1.Service) {
		s.Spec.Type, s.Spec.Ports[0].Port = corev1.ServiceTypeLoadBalancer, port
		s.Spec.AllocateLoadBalancerNodePorts = ptr.To(false) // which could be in the way of a test
	})
}

func ingress(all ...corev1.LoadBalancerIngress) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = all }
}

func capturePool() *v1alpha1.NodePortPool {
	pool := newPool("capture", "30200-30249")
	pool.Spec.Reserved = []v1alpha1.ReservedPorts{{Ports: "30240", Reason: "legacy"}}
	return pool
}

func TestServicesDoNotCaptureAPoolsPortOnAnAddress(t *testing.T) {
	setMode(t, v1alpha1.GuardEnforce, undeclared)
	// They stood there before the pool.
	old := named("old", onAddresses(30201, "203.0.113.7", "203.0.113.8"))
	create(t, admin, old)
	fresh, standing := named("fresh", balanced(30202)), named("standing", balanced(30203))
	create(t, admin, fresh)
	create(t, admin, standing)
	standing.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.9"}}
	if err := admin.Status().Update(t.Context(), standing); err != nil {
		t.Fatal(err)
	}
	addPool(t, capturePool(), 30200)

	vip, proxy := ptr.To(corev1.LoadBalancerIPModeVIP), ptr.To(corev1.LoadBalancerIPModeProxy)
	address := func(ip string, mode *corev1.LoadBalancerIPMode) corev1.LoadBalancerIngress {
		return corev1.LoadBalancerIngress{IP: ip, IPMode: mode}
	}
	none := []string{}
	try(t, guard.CaptureServices, map[string]trial{
		"an external IP": {admin, dryCreate(onAddresses(30200, "203.0.113.7")), []string{
			"Service default/probe: spec.ports[].port 30200 on spec.externalIPs 203.0.113.7 would take over that number of NodePortPool capture",
			"admission cannot know which addresses are nodes', so any counts", "remove externalIPs, choose another port, or ask the platform to list the number under spec.reserved",
		}},
		"several external IPs":       {admin, dryCreate(onAddresses(30200, "203.0.113.7", "2001:db8::7")), []string{"externalIPs 203.0.113.7, 2001:db8::7 would"}},
		"the manager is nobody else": {manager, dryCreate(onAddresses(30200, "203.0.113.7")), []string{"port 30200 "}},
		"the port of no pool":        {admin, dryCreate(onAddresses(443, "203.0.113.7")), none},
		"a reserved port":            {admin, dryCreate(onAddresses(30240, "203.0.113.7")), none},
		"no external IP":             {admin, dryCreate(onAddresses(30200)), none},
		"a target port of the pool's": {admin, dryCreate(service(func(s *corev1.Service) {
			s.Spec.ExternalIPs = []string{"203.0.113.7"}
			s.Spec.Ports[0].TargetPort.IntVal = 30200
		})), none},

		"what was taken before may stay": {admin, dryUpdate(old, func(s *corev1.Service) { s.Spec.Ports[0].TargetPort.IntVal = 8443 }), none},
		"and be labelled":                {admin, dryUpdate(old, func(s *corev1.Service) { s.Labels = map[string]string{"a": "b"} }), none},
		"and be less":                    {admin, dryUpdate(old, func(s *corev1.Service) { s.Spec.ExternalIPs = s.Spec.ExternalIPs[1:] }), none},
		"but no address comes to it":     {admin, dryUpdate(old, func(s *corev1.Service) { s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, "203.0.113.1") }), []string{"Service default/old: spec.ports[].port 30201 on spec.externalIPs 203.0.113.7, 203.0.113.8, 203.0.113.1 "}},
		"and no port": {admin, dryUpdate(old, func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "more", Port: 30204})
		}), []string{"port 30204 on spec.externalIPs "}},
		"nor does it move": {admin, dryUpdate(old, func(s *corev1.Service) { s.Spec.Ports[0].Port = 30204 }), []string{"port 30204 "}},
		"the manager does not move what others gave an address": {manager, dryUpdate(old, func(s *corev1.Service) { s.Spec.Ports[0].Port = 30204 }), []string{"port 30204 "}},

		"the address of a load balancer": {admin, dryStatus(fresh, ingress(address("203.0.113.7", nil))), []string{
			"Service default/fresh: spec.ports[].port 30202 on status.loadBalancer.ingress[].ip 203.0.113.7 would take over that number of NodePortPool capture",
			"admission cannot know which addresses are nodes', so any counts", "choose another port for the load balancer, have it set ipMode Proxy",
		}},
		"of mode VIP":   {admin, dryStatus(fresh, ingress(address("2001:db8::7", vip))), []string{"ingress[].ip 2001:db8::7 "}},
		"of mode Proxy": {admin, dryStatus(fresh, ingress(address("203.0.113.7", proxy))), none},
		"one of each":   {admin, dryStatus(fresh, ingress(address("203.0.113.7", proxy), address("203.0.113.8", nil))), []string{"ingress[].ip 203.0.113.8 would"}},
		"its host name": {admin, dryStatus(fresh, ingress(corev1.LoadBalancerIngress{Hostname: "lb.example.com"})), none},
		"the address it had": {admin, dryStatus(standing, func(s *corev1.Service) {
			s.Status.Conditions = []metav1.Condition{{Type: "A", Status: "True", Reason: "B", LastTransitionTime: metav1.Now()}}
		}), none},
		"one more address": {admin, dryStatus(standing, func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, address("203.0.113.1", nil))
		}), []string{"port 30203 on status.loadBalancer.ingress[].ip 203.0.113.9, 203.0.113.1 would"}},
		"another port below it":       {admin, dryUpdate(standing, func(s *corev1.Service) { s.Spec.Ports[0].Port = 30204 }), []string{"Service default/standing: spec.ports[].port 30204 on status.loadBalancer.ingress[].ip 203.0.113.9 "}},
		"another target port":         {admin, dryUpdate(standing, func(s *corev1.Service) { s.Spec.Ports[0].TargetPort.IntVal = 8443 }), none},
		"its address, as an external": {admin, dryUpdate(standing, func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.9"} }), none},
	})
}

// pod is a pod with one container.
func pod(ports ...corev1.ContainerPort) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "probe"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "example.com/main", Ports: ports}}},
	}
}

func TestPodsDoNotCaptureAPoolsPortOnTheirNode(t *testing.T) {
	setMode(t, v1alpha1.GuardEnforce, undeclared)
	old := named("old", pod(corev1.ContainerPort{ContainerPort: 80, HostPort: 30201})) // before the pool
	create(t, admin, old)
	addPool(t, capturePool(), 30200)

	hostPort := func(number int32, ip string) corev1.ContainerPort {
		return corev1.ContainerPort{ContainerPort: 80, HostPort: number, HostIP: ip}
	}
	none := []string{}
	try(t, guard.CapturePods, map[string]trial{
		"a hostPort": {admin, dryCreate(pod(hostPort(30200, ""))), []string{
			"Pod default/probe, container main: ports[].hostPort 30200 would take over that number of NodePortPool capture",
			"admission cannot know which addresses are nodes', so any but loopback counts", "remove hostPort and expose the pod by a Service and a NodePortPolicy",
		}},
		"on one address":   {admin, dryCreate(pod(hostPort(30200, "203.0.113.7"))), []string{"hostPort 30200 "}},
		"on loopback":      {admin, dryCreate(pod(hostPort(30200, "127.0.0.1"))), none},
		"on IPv6 loopback": {admin, dryCreate(pod(hostPort(30200, "::1"))), none},
		"of an init container": {admin, dryCreate(changed(pod(), func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "side", Image: "example.com/side", Ports: []corev1.ContainerPort{hostPort(30200, "")}}}
		})), []string{"Pod default/probe, container side: ports[].hostPort 30200 "}},
		"of a pod that has yet to be named": {admin, dryCreate(changed(pod(hostPort(30200, "")), func(p *corev1.Pod) { p.Name, p.GenerateName = "", "web-" })), []string{"Pod default/web-"}},
		"in the host's network":             {admin, dryCreate(changed(pod(corev1.ContainerPort{ContainerPort: 30200}), func(p *corev1.Pod) { p.Spec.HostNetwork = true })), []string{"hostPort 30200 "}},
		"in the pod's network":              {admin, dryCreate(pod(corev1.ContainerPort{ContainerPort: 30200})), none},
		"a hostPort of no pool":             {admin, dryCreate(pod(hostPort(8080, ""))), none},
		"a reserved one":                    {admin, dryCreate(pod(hostPort(30240, ""))), none},
		"none":                              {admin, dryCreate(pod()), none},
		"what ran before may be written":    {admin, dryUpdate(old, func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }), none},
		"and may have another image":        {admin, dryUpdate(old, func(p *corev1.Pod) { p.Spec.Containers[0].Image = "example.com/other" }), none},
		"the superuser is nobody else":      {superuser(t), dryCreate(pod(hostPort(30200, ""))), []string{"hostPort 30200 "}},
	})
}
