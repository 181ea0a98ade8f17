package model

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// checkStatus asks of what a policy says whether it is said of the present spec, and
// true.
func (w *world) checkStatus(f *faults, k key, p *v1alpha1.NodePortPolicy) {
	ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.Ready)
	if ready == nil || p.Status.ObservedGeneration != p.Generation || ready.ObservedGeneration != p.Generation {
		f.add("policy %v is at generation %d, and its status of %d", k, p.Generation, p.Status.ObservedGeneration)
		return
	}
	says := func(condition string) bool { return meta.IsStatusConditionTrue(p.Status.Conditions, condition) }
	if n := count(says(v1alpha1.Ready), says(v1alpha1.Reconciling), says(v1alpha1.Stalled)); n != 1 {
		f.add("policy %v: of Ready, Reconciling and Stalled %d are True: %+v", k, n, p.Status.Conditions)
	}
	if why := w.untrue(k, p, ready); why != "" {
		f.add("policy %v says Ready=%s %s (%s), but %s", k, ready.Status, ready.Reason, ready.Message, why)
	}
	open := w.openFor(k)
	var told []uint16
	for _, a := range p.Status.Allocations {
		told = append(told, uint16(a.NodePort))
	}
	if slices.Sort(told); !slices.Equal(slices.Compact(told), open) {
		f.add("policy %v says it has %v, and the register %v", k, told, open)
	}
}

func count(list ...bool) (n int) {
	for _, b := range list {
		if b {
			n++
		}
	}
	return n
}

// untrue says why the reason that a policy gives is not true, "" if it is.
func (w *world) untrue(k key, p *v1alpha1.NodePortPolicy, ready *metav1.Condition) string {
	isReady, refusals := ready.Status == metav1.ConditionTrue, w.refusals(p)
	switch ready.Reason {
	case v1alpha1.ReasonOK, v1alpha1.ReasonExpired, v1alpha1.ReasonPlanned:
		if !isReady {
			return "that is no reason not to be Ready"
		}
	default:
		if isReady {
			return "that is no reason to be Ready"
		}
	}
	switch {
	case w.expired(p) != (ready.Reason == v1alpha1.ReasonExpired):
		return "it ends at " + p.Spec.ExpiresAt.String()
	case w.expired(p):
		return ""
	case len(refusals) > 0 && !slices.Contains(refusals, ready.Reason):
		return "it can't be honoured: " + refusals[0]
	case len(refusals) > 0:
		return ""
	case !w.clean(k, p) != (ready.Reason == v1alpha1.ReasonSourceRefused):
		return "whether all its sources may be admitted is another matter"
	case !w.clean(k, p):
		return w.unserved(k, p)
	case w.lockdown && len(w.openFor(k)) > 0 && w.unserved(k, p) == "" && len(w.missing(k, p)) == 0:
		if ready.Reason != v1alpha1.ReasonLockdown {
			return "there is a lockdown"
		}
		return ""
	case planned(p) != (ready.Reason == v1alpha1.ReasonPlanned):
		return "its mode is " + string(p.Spec.Mode)
	case planned(p):
		return ""
	}
	return w.untrueOfNumbers(k, p, ready.Reason)
}

// untrueOfNumbers is untrue for a policy with which nothing is wrong but that it may
// lack a number.
func (w *world) untrueOfNumbers(k key, p *v1alpha1.NodePortPolicy, reason string) string {
	if why := w.unserved(k, p); why != "" {
		return why
	}
	missing := len(w.missing(k, p)) > 0
	switch reason {
	case v1alpha1.ReasonOK:
		if missing {
			return "it lacks a number"
		}
	case v1alpha1.ReasonExhausted, v1alpha1.ReasonQuotaExceeded, v1alpha1.ReasonConflict:
		if !missing {
			return "it has all its numbers"
		}
	default:
		return "nothing is in the way"
	}
	return ""
}

// missing are the wanted ports that no number of the right kind serves: the pinned
// one, of a pool that the policy draws from, on the Service that is to carry it.
func (w *world) missing(k key, p *v1alpha1.NodePortPolicy) []corev1.ServicePort {
	if planned(p) {
		return nil
	}
	return slices.DeleteFunc(w.wanted(p), func(port corev1.ServicePort) bool {
		return slices.ContainsFunc(w.openFor(k), func(n uint16) bool {
			a, named := w.register[n], exposes(p, port)
			pool := w.pool(a.Spec.Pool)
			return serves(a, port) && slices.Contains(w.candidates(p), pool) && (named == nil || named.NodePort == 0 || uint16(named.NodePort) == n) &&
				(!inPlace(a) || p.Spec.Service == v1alpha1.ServiceInPlace && a.Spec.Claim.Service == p.Spec.ServiceRef.Name)
		})
	})
}

// unserved says that a number could be had for a port that has none, "" if not.
func (w *world) unserved(k key, p *v1alpha1.NodePortPolicy) string {
	for _, port := range w.missing(k, p) {
		if w.available(p, port) {
			return "there is a number for port " + port.Name
		}
	}
	return ""
}

// clean says whether all sources of the policy are admitted, in the pools that serve
// it or, while none does, in the one that would.
func (w *world) clean(k key, p *v1alpha1.NodePortPolicy) bool {
	var pools []*v1alpha1.NodePortPool
	for _, n := range w.openFor(k) {
		if pool := w.pool(w.register[n].Spec.Pool); slices.Contains(w.candidates(p), pool) {
			pools = append(pools, pool)
		}
	}
	if len(w.openFor(k)) == 0 {
		pools = append(pools, w.preferred(p))
	}
	for _, pool := range pools {
		for _, port := range w.referenced(p).Spec.Ports {
			if exposes(p, port) == nil {
				continue
			}
			if _, clean := w.admitted(p, pool, port.Name); !clean {
				return false
			}
		}
	}
	return true
}
