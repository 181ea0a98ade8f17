package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// inPlace turns the ports that a policy names into all ports of its Service, each
// with the number the Service has on it: in place, Kubernetes gives every port a
// number, so every port needs one of the pool. Those that the policy does not name
// admit nobody.
//
// A number that lies in none of the pools is moved into one, unless the policy is
// about to adopt the Service: then its clients know the number, and a person decides.
func (w *Wish) inPlace(named []chosenPort, service *corev1.Service, cluster Cluster) ([]chosenPort, *Refusal) {
	if cluster.Elder != "" {
		return nil, &Refusal{Reason: v1alpha1.ReasonServiceInPlace, Waits: true, Message: fmt.Sprintf(
			"Service %s is already carried in place by policy %s; add the ports to that policy, or use service: Companion", service.Name, cluster.Elder)}
	}
	adopts := !cluster.InPlace && service.Spec.Type != corev1.ServiceTypeClusterIP
	var all []chosenPort
	for _, port := range service.Spec.Ports {
		c := chosenPort{port: port, silent: true}
		for _, n := range named {
			if n.port.Port == port.Port && protocolOf(n.port) == protocolOf(port) {
				c = n
			}
		}
		holds := uint16(port.NodePort)
		switch {
		case holds == 0:
		case c.pin != 0:
			c.holding = c.pin == holds
		case w.owned.Contains(holds):
			c.pin, c.holding = holds, true
		case adopts && !c.silent:
			return nil, &Refusal{Reason: v1alpha1.ReasonPinOutsidePool, Message: fmt.Sprintf(
				"port %s of Service %s has node port %d, which is in none of the pools %v; widen a pool, or pin the number it is to move to in spec.ports[].nodePort",
				describePort(v1alpha1.PolicyPort{Name: port.Name, Port: port.Port}), service.Name, holds, w.Pools)}
		}
		all = append(all, c)
	}
	slices.SortStableFunc(all, pinsFirst)
	return all, nil
}

// InPlace returns the Service as it must be to carry the policy's allocations in
// place, or have itself when nothing is to change. What the policy's allocations do
// not decide stays as it is, and what they decide no longer becomes as it was.
//
// An Open number goes to its port. A Closed one is taken from the Service, unless it
// was the Service's before the policy came. A ClusterIP Service becomes one with node
// ports only when there is a number for each of its ports: the API server would give
// the others random ones, which nobody gates.
func InPlace(own []v1alpha1.NodePortAllocation, have *corev1.Service) *corev1.Service {
	want := have.DeepCopy()
	carries, lacks := false, false
	for i := range want.Spec.Ports {
		p := &want.Spec.Ports[i]
		if a := servingInPlace(own, *p); a != nil {
			p.NodePort = int32(NumberOf(a))
		} else if revoked(own, p.NodePort) {
			p.NodePort = 0
		}
		carries, lacks = carries || p.NodePort != 0, lacks || p.NodePort == 0
	}
	switch {
	case want.Spec.Type == corev1.ServiceTypeClusterIP && lacks:
		return have.DeepCopy()
	case want.Spec.Type == corev1.ServiceTypeClusterIP && carries:
		want.Spec.Type = corev1.ServiceTypeNodePort
	case want.Spec.Type == corev1.ServiceTypeNodePort && !carries:
		want.Spec.Type = corev1.ServiceTypeClusterIP
		want.Spec.ExternalTrafficPolicy = ""
	}
	carriers := slices.DeleteFunc(pointers(own), func(a *v1alpha1.NodePortAllocation) bool { return a.Spec.Carrier != v1alpha1.ServiceInPlace })
	borrower := ""
	if len(carriers) > 0 {
		borrower = carriers[0].Spec.Claim.Policy
	}
	lend(want, borrower, trafficAsked(carriers))
	return want
}

// servingInPlace returns the Open allocation that serves the port of the Service; of
// several, while the port moves, the one that has it until the others may.
func servingInPlace(own []v1alpha1.NodePortAllocation, port corev1.ServicePort) *v1alpha1.NodePortAllocation {
	for _, a := range slices.SortedFunc(slices.Values(pointers(own)), compareClaims) {
		if a.Spec.Carrier == v1alpha1.ServiceInPlace && a.Spec.State == v1alpha1.AllocationOpen &&
			slices.ContainsFunc(a.Spec.Ports, func(p v1alpha1.ClaimedPort) bool {
				return p.Port == port.Port && corev1.Protocol(p.Protocol) == protocolOf(port)
			}) {
			return a
		}
	}
	return nil
}

// revoked says whether the number was given in place and is closed.
func revoked(own []v1alpha1.NodePortAllocation, number int32) bool {
	return number != 0 && slices.ContainsFunc(own, func(a v1alpha1.NodePortAllocation) bool {
		return int32(NumberOf(&a)) == number && a.Spec.Carrier == v1alpha1.ServiceInPlace &&
			a.Spec.State == v1alpha1.AllocationClosed && !a.Spec.Adopted
	})
}

// Elder names the oldest policy of the list, older than the given one, that carries
// the same Service in place; "" if there is none. Then the names decide.
func Elder(policy *v1alpha1.NodePortPolicy, others []v1alpha1.NodePortPolicy) string {
	elder := policy
	for i := range others {
		o := &others[i]
		if o.Namespace != policy.Namespace || o.Name == policy.Name || o.DeletionTimestamp != nil ||
			o.Spec.Service != v1alpha1.ServiceInPlace || o.Spec.Mode == v1alpha1.ModePlan || o.Spec.ServiceRef != policy.Spec.ServiceRef {
			continue
		}
		if cmp.Or(o.CreationTimestamp.Compare(elder.CreationTimestamp.Time), strings.Compare(o.Name, elder.Name)) < 0 {
			elder = o
		}
	}
	if elder == policy {
		return ""
	}
	return elder.Name
}
