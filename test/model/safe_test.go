package model

import (
	"slices"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// What may never be, not even on the way, is that somebody is answered who was not to
// be. An answer was to be if
//
//   - the nodes were to let the question through: the register had the number open to
//     that source, and people had wished it so; or passed it, for whoever stood there
//     before the pool; or had nothing on it, and no armed pool had the number. All that
//     at some time of the step, and not longer ago than nodes may be behind;
//   - and the pod was the number's, not longer ago than kube-proxy may be behind: of the
//     policy whose sources those are, or of somebody whom everybody reached there anyway.
//
// kube-proxy goes on for a second or two to carry a Service that has changed or is gone,
// and nodes judge sources and numbers, not pods. So when a lockdown ends, or a policy
// takes a number that stood free, its sources may for that time meet who was there
// before. They never may where that was another policy's pod: for this the number rests.
// And whom a number is not open to is not answered, whatever kube-proxy carries.

// behind bounds how long nodes may be behind the register, and behind the API server
// kube-proxy, on a busy machine. Agents go on by what vanished for half of that.
const behind = 5 * time.Second

// judge holds what happened since the last rest to what may be so at any moment.
func (p *play) judge() {
	hits := p.prober.take()
	p.seen["answered on the way"] += len(hits)
	history, breaches := p.ledger.cut()
	p.history = history
	for _, e := range given(history) {
		if why := p.ungiven(e); why != "" {
			breaches = append(breaches, why+": "+e.String())
		}
	}
	for _, h := range hits {
		if !p.allowed(h) {
			breaches = append(breaches, h.String())
		}
	}
	if len(breaches) > 0 {
		p.fail("what may never be", breaches)
	}
}

// ungiven says why a number could not be given so, "" if it could in one of the
// worlds.
func (p *play) ungiven(e entry) string {
	for _, w := range p.worlds {
		owner := w.owner(e.number)
		if e.spec.Grandfathered && (owner == nil || !isArmed(owner, e.number)) {
			return ""
		}
		policy := w.policies[e.policy()]
		if e.isOpen() && owner != nil && policy != nil && owner.Name == e.spec.Pool && slices.Contains(w.candidates(policy), owner) {
			return ""
		}
	}
	if e.isOpen() {
		return "a number was given that the policy could not have had"
	}
	return "a number was passed as having stood there before the pool"
}

// allowed says whether somebody could be answered as he was.
func (p *play) allowed(h hit) bool {
	past := p.past(h)
	unclaimed := len(past) == 0 || slices.ContainsFunc(past, func(e entry) bool { return e.spec == nil }) // at some time
	for _, w := range p.worlds {
		if unclaimed && !w.pooled(h.number) {
			return true
		}
		for _, e := range past {
			if !w.lockdown && w.lets(e, h.client) && p.serves(e, h) {
				return true
			}
		}
	}
	return false
}

// past is what the register said of the number when nodes last looked: since the step
// began, and not longer ago than they may be behind. A node whose agent was dead goes by
// what that one saw.
func (p *play) past(h hit) []entry {
	past := slices.DeleteFunc(slices.Clone(p.history), func(e entry) bool { return e.number != h.number })
	slices.SortStableFunc(past, func(a, b entry) int { return a.from.Compare(b.from) })
	for len(past) > 1 && !p.away && past[1].from.Before(h.began.Add(-behind)) {
		past = past[1:]
	}
	return past
}

// lets says whether a client may come in by what the register said, in a world that
// wished it so.
func (w *world) lets(e entry, client string) bool {
	policy := w.policies[e.policy()]
	if e.isOpen() && policy != nil && !w.expired(policy) {
		return w.entered(e.spec).has(client) && w.accessOpen(&v1alpha1.NodePortAllocation{Spec: *e.spec}).may.has(client)
	}
	return e.spec != nil && e.spec.Grandfathered
}

// entered is who may come in by the register's own word, whatever people wished.
func (w *world) entered(spec *v1alpha1.NodePortAllocationSpec) (who crowd) {
	for _, port := range spec.Ports {
		if port.World {
			return everybody
		}
		for _, cidr := range port.Sources {
			who |= within(cidr)
		}
		for _, name := range port.AddressSets {
			if set := w.sets[string(name)]; set != nil {
				for _, cidr := range set.Spec.CIDRs {
					who |= within(cidr)
				}
			}
		}
	}
	return who
}

// serves says whether it was, a moment ago, the pod's number. A policy that goes from
// one Service to another may show its new sources the old one: both are the team's.
func (p *play) serves(e entry, h hit) bool {
	lately := func(pods map[string]time.Time) bool { return h.began.Sub(pods[h.pod]) < behind }
	if lately(p.common[h.number]) {
		return true
	}
	if e.isOpen() {
		return lately(p.pods[e.policy()])
	}
	return slices.ContainsFunc(p.worlds, func(w *world) bool {
		service := w.services[key{Namespace: e.spec.Claim.Namespace, Name: e.spec.Claim.Service}]
		return service != nil && podOf(service) == h.pod
	})
}

// remember notes which pods policies expose, and which everybody reaches.
func (p *play) remember() {
	w := p.last()
	for k, policy := range w.policies {
		if service := w.referenced(policy); service != nil {
			note(p.pods, k, podOf(service))
		}
	}
	for _, service := range w.services {
		for _, n := range numbersOf(service) {
			a := w.register[n]
			if !isHold(service) && (a == nil && !w.pooled(n) || a != nil && a.Spec.Grandfathered) {
				note(p.common, n, podOf(service))
			}
		}
	}
}

// disowned notes that a person takes a claim out of the register: its pod is anybody's
// until kube-proxy has heard that the companion is gone as well.
func (p *play) disowned(n uint16, policy key) {
	for pod, last := range p.pods[policy] {
		if time.Since(last) < behind {
			note(p.common, n, pod)
		}
	}
}

func note[K comparable](pods map[K]map[string]time.Time, k K, pod string) {
	if pods[k] == nil {
		pods[k] = map[string]time.Time{}
	}
	pods[k][pod] = time.Now()
}
