package controllers

import (
	"context"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// byCaptured indexes Services by the ports that they serve on addresses which are not
// theirs alone: external IPs and those of load balancers.
const byCaptured = "spec.ports.port"

func capturedPorts(o client.Object) []string {
	s := o.(*corev1.Service)
	if len(s.Spec.ExternalIPs) == 0 && len(s.Status.LoadBalancer.Ingress) == 0 {
		return nil
	}
	var out []string
	for _, p := range s.Spec.Ports {
		out = append(out, strconv.Itoa(int(p.Port)))
	}
	return out
}

// hijackers describes the Services that take the traffic of an open number on the
// address of a node.
func (s Snapshot) hijackers(ctx context.Context, own []v1alpha1.NodePortAllocation, nodes []compile.NodeReport) ([]string, error) {
	var out []string
	addresses := map[string]bool{}
	for _, n := range nodes {
		for _, a := range n.Status.Addresses {
			addresses[a.Address] = true
		}
	}
	for i := range own {
		if own[i].Spec.State != v1alpha1.AllocationOpen {
			continue
		}
		var services corev1.ServiceList
		if err := s.List(ctx, &services, readOnly, client.MatchingFields{byCaptured: own[i].Name}); err != nil {
			return nil, err
		}
		for j := range services.Items {
			if how := compile.Hijacks(&services.Items[j], compile.NumberOf(&own[i]), own[i].Spec.Protocols, addresses); how != "" {
				out = append(out, how)
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// captured returns the policies whose numbers a Service takes, or took.
func (s Snapshot) captured(ctx context.Context, service *corev1.Service) []reconcile.Request {
	var out []reconcile.Request
	for _, number := range capturedPorts(service) {
		a, err := get[v1alpha1.NodePortAllocation](ctx, s, types.NamespacedName{Name: number})
		if err == nil && a != nil && a.Spec.Claim.Policy != "" {
			out = append(out, reconcile.Request{NamespacedName: policyOf(a)})
		}
	}
	return out
}
