package model

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// overdue is how long after its cool-down a closed number may still not be free.
const overdue = time.Second

// faults are what must not be so at rest; most of it is, for a moment, on the way.
func (w *world) faults() (found faults) {
	for _, p := range w.pools {
		for n := uint16(dynamic); n <= lastPort; n++ {
			if owned := w.owner(n) == p; owned != isArmed(p, n) {
				found.add("pool %s: owns %d: %t, and says armed: %v", p.Name, n, owned, p.Status.Armed)
			}
		}
	}
	for n, a := range w.register {
		w.checkAllocation(&found, n, a)
	}
	w.checkDoubles(&found)
	w.checkServices(&found)
	w.checkHolds(&found)
	for k, p := range w.policies {
		w.checkStatus(&found, k, p)
	}
	w.checkProofs(&found)
	return found
}

type faults []string

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

// checkAllocation asks whether an entry of the register has a reason to be there.
func (w *world) checkAllocation(f *faults, n uint16, a *v1alpha1.NodePortAllocation) {
	p, service := w.policies[policyOf(a)], w.services[serviceOf(a)]
	carrier := w.services[carrierOf(a)]
	carried := carrier != nil && slices.Contains(numbersOf(carrier), n)
	switch a.Spec.State {
	case v1alpha1.AllocationOpen:
		switch {
		case p == nil:
			f.add("%d is open for policy %v, which is not there", n, policyOf(a))
		case w.expired(p):
			f.add("%d is open for policy %v, which has expired", n, policyOf(a))
		case len(w.refusals(p)) == 0 && !planned(p) && !slices.ContainsFunc(w.wanted(p), func(port corev1.ServicePort) bool { return serves(a, port) }):
			f.add("%d is open for policy %v, which does not want its port: %+v", n, policyOf(a), a.Spec.Ports)
		case a.Spec.ExpiresAt != nil && !a.Spec.ExpiresAt.After(w.at):
			f.add("%d is open beyond its end %s", n, a.Spec.ExpiresAt)
		case !carried && (!inPlace(a) || w.mustCarry(service, p, a)):
			f.add("%d is open, and Service %v does not have it", n, carrierOf(a))
		}
	case v1alpha1.AllocationClosed:
		if a.Spec.Claim.Policy != "" && !inPlace(a) && !carried {
			f.add("%d rests, and Service %v does not keep it", n, carrierOf(a))
		}
		if rested := w.at.Sub(a.Spec.ClosedAt.Time); w.mayBeFreed(a) && rested > coolDown+overdue {
			f.add("%d was closed %s ago and is not free", n, rested)
		}
	case v1alpha1.AllocationForeign:
		w.checkForeign(f, n, a, service)
	}
}

// mustCarry says whether a Service in place must have the number: not while it is gone
// or has lost the port, nor while another of its ports has none, for then the API
// server would give that one a random number.
func (w *world) mustCarry(service *corev1.Service, p *v1alpha1.NodePortPolicy, a *v1alpha1.NodePortAllocation) bool {
	if service == nil || !slices.ContainsFunc(service.Spec.Ports, func(port corev1.ServicePort) bool { return serves(a, port) }) {
		return false
	}
	return service.Spec.Type != corev1.ServiceTypeClusterIP || len(w.refusals(p)) == 0 && len(w.missing(policyOf(a), p)) == 0
}

// mayBeFreed says whether nothing but the cool-down keeps a closed number: the pool
// says how long, and what came out of a backup waits for its policy.
func (w *world) mayBeFreed(a *v1alpha1.NodePortAllocation) bool {
	restored := a.Spec.Since != nil && a.CreationTimestamp.Sub(a.Spec.Since.Time) > time.Minute-5*time.Second
	return (w.pool(a.Spec.Pool) != nil || a.Spec.Claim.Policy == "") && !restored
}

func (w *world) checkForeign(f *faults, n uint16, a *v1alpha1.NodePortAllocation, service *corev1.Service) {
	switch {
	case nobodys(a) && lost[n]:
		return
	case nobodys(a):
		f.add("%d is said to be somebody's, nobody knows whose", n)
		return
	case service == nil || !slices.Contains(numbersOf(service), n):
		f.add("%d is said to be Service %v's, which does not have it", n, serviceOf(a))
		return
	case w.owner(n) == nil && !a.Spec.Grandfathered:
		f.add("%d is in no pool, and in the register for Service %v", n, serviceOf(a))
	}
	for k, p := range w.policies {
		if p.Spec.Service != v1alpha1.ServiceInPlace || w.referenced(p) != service || planned(p) || w.expired(p) || len(w.refusals(p)) > 0 {
			continue
		}
		for _, port := range w.wanted(p) {
			named := exposes(p, port)
			if uint16(port.NodePort) == n && slices.Contains(w.candidates(p), w.owner(n)) && (named == nil || named.NodePort == 0 || uint16(named.NodePort) == n) {
				f.add("%d is not adopted by policy %v, which carries Service %v in place", n, k, serviceOf(a))
			}
		}
	}
}

// checkDoubles wants one number for each port of a policy.
func (w *world) checkDoubles(f *faults) {
	type claim struct {
		policy   key
		protocol v1alpha1.Protocol
		port     int32
	}
	has := map[claim]uint16{}
	for n, a := range w.register {
		if a.Spec.State != v1alpha1.AllocationOpen {
			continue
		}
		for _, p := range a.Spec.Ports {
			c := claim{policyOf(a), p.Protocol, p.Port}
			if has[c] != 0 {
				f.add("port %d/%s of policy %v has %d and %d", c.port, c.protocol, c.policy, has[c], n)
			}
			has[c] = n
		}
	}
}

// checkServices compares each number that a Service has with the register.
func (w *world) checkServices(f *faults) {
	has := map[uint16]key{}
	for k, s := range w.services {
		for _, n := range numbersOf(s) {
			if other, is := has[n]; is {
				f.add("%d is in the hands of Services %v and %v", n, other, k)
			}
			has[n] = k
			a := w.register[n]
			switch {
			case isHold(s):
				continue
			case a == nil && w.owner(n) == nil:
			case a == nil:
				f.add("Service %v has %d of pool %s, and the register nothing", k, n, w.owner(n).Name)
			case a.Spec.Claim.Service == "" && a.Spec.State == v1alpha1.AllocationForeign:
				f.add("Service %v has %d, and the register does not know whose it is", k, n)
			case carrierOf(a) != k:
				f.add("Service %v has %d, and the register says %+v", k, n, a.Spec)
			}
		}
	}
}

// checkHolds wants exactly the free numbers of the pools that hold theirs to be held,
// besides those of Services in place that do not have them now.
func (w *world) checkHolds(f *faults) {
	held := map[uint16]bool{}
	for _, s := range w.services {
		if isHold(s) {
			for _, n := range numbersOf(s) {
				held[n] = true
			}
		}
	}
	for n := uint16(dynamic); n <= lastPort; n++ {
		pool, a := w.owner(n), w.register[n]
		holds := pool != nil && *pool.Spec.Hold && w.holder(n) == nil
		switch {
		case holds && (lost[n] || a != nil && inPlace(a)):
		case holds && a == nil != held[n], !holds && held[n]:
			f.add("%d is held: %t; its pool: %v, the register: %v", n, held[n], pool != nil, a)
		}
	}
}

// checkProofs waits for every node to have enforced all that was read.
func (w *world) checkProofs(f *faults) {
	if len(w.reports) != len(town.Nodes()) {
		f.add("%d nodes have reported", len(w.reports))
	}
	for _, r := range w.reports {
		marks := r.Status.Marks
		for n, a := range w.register {
			if !reaches(marks.Allocations, a.ResourceVersion) {
				f.add("%s has not proved %d", r.Name, n)
			}
		}
		for _, p := range w.pools {
			if !reaches(marks.Pools, p.ResourceVersion) {
				f.add("%s has not proved pool %s", r.Name, p.Name)
			}
		}
		for name, s := range w.sets {
			if !reaches(marks.AddressSets, s.ResourceVersion) {
				f.add("%s has not proved set %s", r.Name, name)
			}
		}
		if !reaches(marks.Installation, w.installation) {
			f.add("%s has not proved the installation", r.Name)
		}
	}
}
