package model

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// spans says whether the number lies in the range.
func spans(r string, n uint16) bool {
	first, last, is := strings.Cut(r, "-")
	if !is {
		last = first
	}
	f, _ := strconv.Atoi(first)
	l, _ := strconv.Atoi(last)
	return f <= int(n) && int(n) <= l
}

func inRanges(p *v1alpha1.NodePortPool, n uint16) bool {
	return slices.ContainsFunc(p.Spec.Ranges, func(r v1alpha1.PortRange) bool { return spans(string(r), n) })
}

func isReserved(p *v1alpha1.NodePortPool, n uint16) bool {
	return slices.ContainsFunc(p.Spec.Reserved, func(r v1alpha1.ReservedPorts) bool { return spans(string(r.Ports), n) })
}

func isArmed(p *v1alpha1.NodePortPool, n uint16) bool {
	return slices.ContainsFunc(p.Status.Armed, func(r string) bool { return spans(r, n) })
}

// owner is the pool that may give the number: the oldest that has it, unless that
// one reserves it.
func (w *world) owner(n uint16) *v1alpha1.NodePortPool {
	for _, p := range w.pools {
		if inRanges(p, n) {
			if isReserved(p, n) {
				return nil
			}
			return p
		}
	}
	return nil
}

// pooled says whether nodes drop what nobody has opened on the number: it is in the
// armed part of a pool.
func (w *world) pooled(n uint16) bool {
	return slices.ContainsFunc(w.pools, func(p *v1alpha1.NodePortPool) bool {
		return isArmed(p, n) && inRanges(p, n) && !isReserved(p, n)
	})
}

// selects knows the selectors that are drawn here: all, or one namespace by its
// label.
func selects(s *metav1.LabelSelector, namespace string) bool {
	name, one := s.MatchLabels[corev1.LabelMetadataName]
	return !one || name == namespace
}

func mayDraw(p *v1alpha1.NodePortPool, namespace string) bool {
	to := p.Spec.AllocateTo
	return slices.Contains(to.Namespaces, v1alpha1.NamespaceName(namespace)) || to.NamespaceSelector != nil && selects(to.NamespaceSelector, namespace)
}

func asksFor(p *v1alpha1.NodePortPolicy, pool *v1alpha1.NodePortPool) bool {
	if p.Spec.PoolRef != nil {
		return string(p.Spec.PoolRef.Name) == pool.Name
	}
	return p.Spec.Category == pool.Spec.Category
}

// candidates are the pools that the policy may draw from.
func (w *world) candidates(p *v1alpha1.NodePortPolicy) []*v1alpha1.NodePortPool {
	return slices.DeleteFunc(slices.Clone(w.pools), func(pool *v1alpha1.NodePortPool) bool {
		return !asksFor(p, pool) || !mayDraw(pool, p.Namespace) || pool.Spec.Guardrails.RequireExpiry && p.Spec.ExpiresAt == nil
	})
}

// preferred is the candidate that is drawn from first.
func (w *world) preferred(p *v1alpha1.NodePortPolicy) *v1alpha1.NodePortPool {
	var best *v1alpha1.NodePortPool
	for _, c := range w.candidates(p) {
		if best == nil || priority(c) < priority(best) || priority(c) == priority(best) && c.Name < best.Name {
			best = c
		}
	}
	return best
}

func priority(p *v1alpha1.NodePortPool) int32 { return *p.Spec.AllocateTo.Priority } // the API server fills it in

func (w *world) expired(p *v1alpha1.NodePortPolicy) bool {
	return p.Spec.ExpiresAt != nil && !p.Spec.ExpiresAt.After(w.at)
}

func planned(p *v1alpha1.NodePortPolicy) bool { return p.Spec.Mode == v1alpha1.ModePlan }

func (w *world) referenced(p *v1alpha1.NodePortPolicy) *corev1.Service {
	return w.services[key{Namespace: p.Namespace, Name: p.Spec.ServiceRef.Name}]
}

// exposes returns the port of the policy that names the Service's, nil if none does.
func exposes(p *v1alpha1.NodePortPolicy, port corev1.ServicePort) *v1alpha1.PolicyPort {
	for i, named := range p.Spec.Ports {
		if named.Name != "" && named.Name == port.Name || named.Port != 0 && named.Port == port.Port {
			return &p.Spec.Ports[i]
		}
	}
	if len(p.Spec.Ports) == 0 {
		return &v1alpha1.PolicyPort{}
	}
	return nil
}

// refusals are the reasons for which the policy can't be honoured as it stands, each
// true; none when it can.
func (w *world) refusals(p *v1alpha1.NodePortPolicy) []string {
	var out []string
	candidates, service := w.candidates(p), w.referenced(p)
	if len(candidates) == 0 {
		out = append(out, v1alpha1.ReasonPoolNotFound)
		for _, pool := range w.pools {
			switch {
			case !asksFor(p, pool):
				continue
			case mayDraw(pool, p.Namespace):
				return []string{v1alpha1.ReasonExpiryRefused}
			}
			out = []string{v1alpha1.ReasonNamespaceNotAllowed}
		}
		return out
	}
	if service == nil {
		return []string{v1alpha1.ReasonServiceNotFound}
	}
	if len(p.Spec.Ports) == 0 && len(service.Spec.Ports) != 1 {
		out = append(out, v1alpha1.ReasonServicePortsAmbiguous)
	}
	for _, named := range p.Spec.Ports {
		if !slices.ContainsFunc(service.Spec.Ports, func(port corev1.ServicePort) bool {
			return named.Name != "" && named.Name == port.Name || named.Port != 0 && named.Port == port.Port
		}) {
			out = append(out, v1alpha1.ReasonServicePortNotFound)
		}
		if n := uint16(named.NodePort); n != 0 && !slices.Contains(candidates, w.owner(n)) {
			out = append(out, v1alpha1.ReasonPinOutsidePool)
		}
	}
	if p.Spec.Service == v1alpha1.ServiceInPlace {
		out = append(out, w.refusalsInPlace(p, service)...)
	}
	return out
}

// refusalsInPlace are those that only a Service in place brings. A number outside the
// pools is refused to a policy that is to adopt it. One that is in place already is
// moved away from it; or stays, where the number was given and then left the pool.
func (w *world) refusalsInPlace(p *v1alpha1.NodePortPolicy, service *corev1.Service) (out []string) {
	for _, o := range w.policies {
		if o.Namespace == p.Namespace && o.Spec.ServiceRef == p.Spec.ServiceRef && o.Spec.Service == v1alpha1.ServiceInPlace && !planned(o) && !w.expired(o) && isOlder(o, p) {
			out = append(out, v1alpha1.ReasonServiceInPlace)
		}
	}
	adopts := service.Spec.Type != corev1.ServiceTypeClusterIP
	for _, a := range w.register {
		adopts = adopts && !(inPlace(a) && policyOf(a) == client.ObjectKeyFromObject(p))
	}
	for _, port := range service.Spec.Ports {
		named, n := exposes(p, port), uint16(port.NodePort)
		switch {
		case n == 0:
		case adopts && named != nil && named.NodePort == 0 && !slices.Contains(w.candidates(p), w.owner(n)):
			out = append(out, v1alpha1.ReasonPinOutsidePool)
		case slices.ContainsFunc(p.Spec.Ports, func(o v1alpha1.PolicyPort) bool { return uint16(o.NodePort) == n && (named == nil || *named != o) }):
			out = append(out, v1alpha1.ReasonInvalid) // the pin of one port is the number of another
		}
	}
	return out
}

func isOlder(a, b *v1alpha1.NodePortPolicy) bool {
	c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	return c < 0 || c == 0 && a.Name < b.Name
}

// wanted are the ports of the Service for which an accepted policy wants numbers: in
// place, all of them.
func (w *world) wanted(p *v1alpha1.NodePortPolicy) []corev1.ServicePort {
	return slices.DeleteFunc(slices.Clone(w.referenced(p).Spec.Ports), func(port corev1.ServicePort) bool {
		return p.Spec.Service != v1alpha1.ServiceInPlace && exposes(p, port) == nil
	})
}

// serves says whether the allocation is for the port.
func serves(a *v1alpha1.NodePortAllocation, port corev1.ServicePort) bool {
	return slices.ContainsFunc(a.Spec.Ports, func(c v1alpha1.ClaimedPort) bool {
		return c.Port == port.Port && string(c.Protocol) == string(port.Protocol)
	})
}

// available says whether a wanted port of the policy could be given a number now.
func (w *world) available(p *v1alpha1.NodePortPolicy, port corev1.ServicePort) bool {
	pin := uint16(0)
	if named := exposes(p, port); named != nil {
		pin = uint16(named.NodePort)
	}
	for _, pool := range w.candidates(p) {
		if quota := int(pool.Spec.Quota.PerNamespace); quota > 0 && w.held(pool, p.Namespace) >= quota {
			continue
		}
		for n := uint16(dynamic); n <= lastPort; n++ {
			if w.owner(n) == pool && isArmed(pool, n) && w.register[n] == nil && w.holder(n) == nil && (pin == 0 || pin == n) {
				return true
			}
		}
	}
	return false
}

// held counts the numbers that a namespace has of a pool, resting ones included.
func (w *world) held(pool *v1alpha1.NodePortPool, namespace string) (n int) {
	for _, a := range w.register {
		if a.Spec.Claim.Policy != "" && a.Spec.Pool == pool.Name && a.Spec.Claim.Namespace == namespace {
			n++
		}
	}
	return n
}
