package guard

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/guard"
)

// The API server gives up on expressions that cost too much, and an ignored
// failure lets the request pass. So the dearest that is judged must be judged, and
// whatever is dearer must be refused for its size.

func TestNobodyIsTooLargeForALargePool(t *testing.T) {
	setMode(t, v1alpha1.GuardEnforce, undeclared)
	addPool(t, dearPool(), 31200)
	// Numbers that are looked for in every entry of the pool, and belong to it.
	host := func(n int32) (ports []corev1.ContainerPort) {
		for _, number := range count(31300, n) {
			ports = append(ports, corev1.ContainerPort{ContainerPort: number, HostPort: number})
		}
		return ports
	}
	external := func(ports int32, addresses int) *corev1.Service {
		return service(func(s *corev1.Service) {
			s.Spec.ExternalIPs = longAddresses(addresses)
			s.Spec.Ports = servicePorts(count(31300, ports)...)
		})
	}
	const much = ", too many to be judged against the 128 entries of spec.ranges and spec.reserved of NodePortPool dear; split the "
	try(t, guard.Ports, map[string]trial{
		"as many as can be judged": {admin, dryCreate(nodePortService(count(31300, 292)...)), []string{"nodePort 31300, 31301, ", ", 31591 belongs to NodePortPool dear"}},
		"one more":                 {admin, dryCreate(nodePortService(count(31300, 293)...)), []string{"Service default/probe: spec.ports[].nodePort has 293 numbers from 31000 to 32255" + much + "Service"}},
		"one more for the manager": {manager, dryCreate(nodePortService(count(31300, 293)...)), nil},
		"as many elsewhere":        {admin, dryCreate(nodePortService(count(30100, 800)...)), nil},
	})
	try(t, guard.CaptureServices, map[string]trial{
		"as many as can be judged": {admin, dryCreate(external(292, 1000)), []string{"spec.ports[].port 31300, 31301, ", " and 992 more would take over"}},
		"one more":                 {admin, dryCreate(external(293, 1)), []string{"Service default/probe has 1 spec.externalIPs, 0 status.loadBalancer.ingress[].ip and 293 spec.ports[].port from 31000 to 32255" + much + "Service"}},
		"one more, on no address":  {admin, dryCreate(external(293, 0)), nil},
	})
	try(t, guard.CapturePods, map[string]trial{
		"as many as can be judged": {admin, dryCreate(pod(host(292)...)), []string{"hostPort 31300, 31301, "}},
		"one more":                 {admin, dryCreate(pod(host(293)...)), []string{"Pod default/probe: ports[].hostPort of its containers has 293 numbers from 31000 to 32255" + much + "pod"}},
	})
}

// What a Service had is compared with what it is to have.
func TestNobodyIsTooLargeForWhatTheyHad(t *testing.T) {
	setMode(t, v1alpha1.GuardEnforce, undeclared)
	ports := named("ports", nodePortService(count(31300, 765)...))
	create(t, admin, ports)
	captured := named("captured", service(func(s *corev1.Service) {
		s.Spec.Ports = servicePorts(count(31300, 765)...)
		s.Spec.ExternalIPs = longAddresses(316)
	}))
	create(t, admin, captured)
	addPool(t, newPool("plain", "31200-32255"), 31200)

	addPort := func(n int32) func(*corev1.Service) {
		return func(s *corev1.Service) {
			for _, number := range count(32200, n) {
				s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: fmt.Sprint("more-", number), Port: number, NodePort: number})
			}
		}
	}
	addPlainPort := func(n int32) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.Ports = append(s.Spec.Ports, servicePorts(count(32200, n)...)...) }
	}
	try(t, guard.Ports, map[string]trial{
		"one more than before":      {admin, dryUpdate(ports, addPort(1)), []string{"spec.ports[].nodePort 32200 belongs to NodePortPool plain"}},
		"many more than before":     {admin, dryUpdate(ports, addPort(20)), []string{"spec.ports[].nodePort has 785 numbers from 31200 to 32255, too many to be judged"}},
		"as before but for a label": {admin, dryUpdate(ports, func(s *corev1.Service) { s.Labels = map[string]string{"a": "b"} }), nil},
		"as before but for another": {admin, dryUpdate(ports, func(s *corev1.Service) { s.Spec.Ports[0].Port = 9999 }), nil},
	})
	try(t, guard.CaptureServices, map[string]trial{
		"one port more":    {admin, dryUpdate(captured, addPlainPort(1)), []string{"spec.ports[].port 32200 on spec.externalIPs ", " and 308 more would"}},
		"many ports more":  {admin, dryUpdate(captured, addPlainPort(20)), []string{"785 spec.ports[].port from 31200 to 32255, too many to be judged"}},
		"one address more": {admin, dryUpdate(captured, func(s *corev1.Service) { s.Spec.ExternalIPs = longAddresses(317) }), []string{"has 317 spec.externalIPs", "too many to be judged"}},
		// Too many for one message: the one without numbers has to do.
		"one address for another":   {admin, dryUpdate(captured, func(s *corev1.Service) { s.Spec.ExternalIPs[0] = "203.0.113.7" }), []string{"spec.externalIPs with a spec.ports[].port of a NodePortPool could take the pool's traffic on a node; remove externalIPs, or choose another port"}},
		"as before but for a label": {admin, dryUpdate(captured, func(s *corev1.Service) { s.Labels = map[string]string{"a": "b"} }), nil},
		"as before but for less":    {admin, dryUpdate(captured, func(s *corev1.Service) { s.Spec.ExternalIPs = longAddresses(315) }), nil},
	})
}

// dearPool is one with as many entries as may be, all of which are looked at for a
// number from 31300 on.
func dearPool() *v1alpha1.NodePortPool {
	pool := newPool("dear")
	for i := range 63 {
		pool.Spec.Ranges = append(pool.Spec.Ranges, v1alpha1.PortRange(fmt.Sprint(31000+2*i)))
	}
	pool.Spec.Ranges = append(pool.Spec.Ranges, "31200-32255")
	for i := range 64 {
		pool.Spec.Reserved = append(pool.Spec.Reserved, v1alpha1.ReservedPorts{Ports: v1alpha1.PortRange(fmt.Sprintf("%d-%d", 32000+4*i, 32001+4*i)), Reason: "legacy"})
	}
	return pool
}

// count is n numbers from first on.
func count(first, n int32) []int32 {
	var all []int32
	for i := range n {
		all = append(all, first+i)
	}
	return all
}

// servicePorts have numbers, but no node ports.
func servicePorts(numbers ...int32) []corev1.ServicePort {
	var all []corev1.ServicePort
	for _, n := range numbers {
		all = append(all, corev1.ServicePort{Name: fmt.Sprint("p", n), Port: n})
	}
	return all
}

// longAddresses are alike for as long as addresses can be.
func longAddresses(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("2001:db8:1111:2222:3333:4444:5555:%d", 1000+i))
	}
	return all
}
