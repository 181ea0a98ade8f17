package compile

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// NumberOf returns the port number an allocation claims, 0 if its name is none.
func NumberOf(a *v1alpha1.NodePortAllocation) uint16 { return claimedNumber(a) }

// Assignment matches the numbers a policy wants with the allocations it has.
type Assignment struct {
	// Serving maps an allocation's number to the index of the wanted number it serves.
	Serving map[uint16]int
	// Missing are the indices of wanted numbers that no allocation serves.
	Missing []int
}

// Assign decides which of a policy's allocations serve which wanted number. A
// pinned number is served by that number only; otherwise the same port name wins
// over the same port number, then an Open allocation over a Closed one, then the
// older, then the lower number. Closed allocations serve too, the last closed
// first: a policy that comes back before its port is free gets that port back, if
// its pools still own it. An allocation that serves a port whose new number is
// still missing goes on serving it, so that a change of pin or pool closes the old
// number only when there is a new one.
func Assign(wish *Wish, own []v1alpha1.NodePortAllocation) Assignment {
	order := slices.SortedFunc(slices.Values(pointers(own)), compareClaims)
	as := Assignment{Serving: map[uint16]int{}}
	for i := range wish.Numbers {
		as.Missing = append(as.Missing, i)
	}
	// pass lets allocations serve what is missing, and returns what still is.
	pass := func(serves func(wanted Number, a *v1alpha1.NodePortAllocation) bool) (missing []int) {
		for _, i := range as.Missing {
			found := slices.IndexFunc(order, func(a *v1alpha1.NodePortAllocation) bool {
				_, used := as.Serving[NumberOf(a)]
				return !used && serves(wish.Numbers[i], a)
			})
			if found < 0 {
				missing = append(missing, i)
				continue
			}
			as.Serving[NumberOf(order[found])] = i
		}
		return missing
	}
	usable := func(wanted Number, a *v1alpha1.NodePortAllocation) bool {
		if a.Spec.State == v1alpha1.AllocationClosed && !wish.owned.Contains(NumberOf(a)) {
			return false // the number may be another team's by now
		}
		if wish.leaves(a) {
			return false
		}
		return slices.Contains(wish.Pools, a.Spec.Pool) && (wanted.Pin == 0 || wanted.Pin == NumberOf(a))
	}
	as.Missing = pass(func(w Number, a *v1alpha1.NodePortAllocation) bool { return w.Pin != 0 && usable(w, a) })
	as.Missing = pass(func(w Number, a *v1alpha1.NodePortAllocation) bool { return usable(w, a) && match(w, a) == matchName })
	as.Missing = pass(func(w Number, a *v1alpha1.NodePortAllocation) bool { return usable(w, a) && match(w, a) == matchPort })
	// An old number goes on serving until there is a new one: still missing, though.
	pass(func(w Number, a *v1alpha1.NodePortAllocation) bool {
		return a.Spec.State == v1alpha1.AllocationOpen && match(w, a) > matchNone
	})
	return as
}

// leaves says whether the allocation is carried by a Service in place that is to carry
// it no longer: such a number can't go elsewhere while that Service has it.
func (w *Wish) leaves(a *v1alpha1.NodePortAllocation) bool {
	spec := &w.policy.Spec
	return a.Spec.Carrier == v1alpha1.ServiceInPlace &&
		(spec.Service != v1alpha1.ServiceInPlace || spec.ServiceRef.Name != a.Spec.Claim.Service)
}

// compareClaims orders the allocations of one policy: who comes first keeps the port.
func compareClaims(a, b *v1alpha1.NodePortAllocation) int {
	aClosed, bClosed := closedAt(a), closedAt(b)
	switch {
	case aClosed.IsZero() && !bClosed.IsZero():
		return -1
	case bClosed.IsZero() && !aClosed.IsZero():
		return 1
	}
	return cmp.Or(
		bClosed.Compare(aClosed),
		since(a).Compare(since(b)),
		cmp.Compare(NumberOf(a), NumberOf(b)),
	)
}

// since is when the claim began. A restored allocation is younger than its claim.
func since(a *v1alpha1.NodePortAllocation) time.Time {
	if a.Spec.Since != nil {
		return a.Spec.Since.Time
	}
	return a.CreationTimestamp.Time
}

// closedAt is the zero time while the allocation is not closed.
func closedAt(a *v1alpha1.NodePortAllocation) time.Time {
	if a.Spec.ClosedAt == nil {
		return time.Time{}
	}
	return a.Spec.ClosedAt.Time
}

const (
	matchNone = iota
	matchPort
	matchName
)

func match(wanted Number, a *v1alpha1.NodePortAllocation) int {
	best := matchNone
	for _, w := range wanted.Ports {
		for _, p := range a.Spec.Ports {
			switch {
			case w.Protocol != p.Protocol:
			case w.Name == p.Name:
				best = max(best, matchName)
			case w.Port == p.Port:
				best = max(best, matchPort)
			}
		}
	}
	return best
}

// Claim returns the spec of an Open allocation for a wanted number, drawn from one of
// the wish's pools.
func (w *Wish) Claim(wanted Number, pool string) v1alpha1.NodePortAllocationSpec {
	offer, policy := w.offers[pool], w.policy
	spec := v1alpha1.NodePortAllocationSpec{
		State:          v1alpha1.AllocationOpen,
		Claim:          v1alpha1.Claim{Namespace: policy.Namespace, Policy: policy.Name, Service: policy.Spec.ServiceRef.Name},
		Pool:           pool,
		Team:           offer.pool.Spec.Team,
		Protocols:      protocolsOf(wanted.Ports),
		CloudFirewalls: offer.firewalls,
		NodeSelector:   offer.pool.Spec.Guardrails.AllowedNodes,
		Gateways:       gatewaysOf(policy, offer.pool.Spec.Guardrails.AllowedNodes),
		Carrier:        cmp.Or(policy.Spec.Service, v1alpha1.ServiceCompanion),
		ExpiresAt:      policy.Spec.ExpiresAt,
	}
	for _, p := range wanted.Ports {
		spec.Ports = append(spec.Ports, offer.ports[keyOf(p)])
	}
	offer.gated(&spec, policy)
	spec.LocalOnly = w.local
	return spec
}

// Allocation returns what a policy's allocation must say now. policy is nil when
// it is gone; of wish and refusal exactly one is set otherwise; own are all the
// allocations of the policy.
func Allocation(a *v1alpha1.NodePortAllocation, policy *v1alpha1.NodePortPolicy, wish *Wish, refusal *Refusal,
	own []v1alpha1.NodePortAllocation, cluster Cluster, now metav1.MicroTime,
) v1alpha1.NodePortAllocationSpec {
	switch {
	case policy == nil:
		return closed(a.Spec, now)
	case refusal != nil, wish.Planned && !wish.Expired:
		if end := a.Spec.ExpiresAt; end != nil && !end.After(now.Time) {
			return closed(a.Spec, now)
		}
		return narrowed(a.Spec, policy, cluster)
	}
	i, serves := Assign(wish, own).Serving[NumberOf(a)]
	if !serves {
		return closed(a.Spec, now)
	}
	if wish.offers[a.Spec.Pool].pool == nil {
		return narrowed(a.Spec, policy, cluster)
	}
	spec := wish.Claim(wish.Numbers[i], a.Spec.Pool)
	spec.Since = a.Spec.Since
	spec.Adopted = a.Spec.Adopted && spec.Carrier == v1alpha1.ServiceInPlace
	// One that only serves until there is a new number stays where it is.
	if pin := wish.Numbers[i].Pin; pin != 0 && pin != NumberOf(a) || wish.leaves(a) {
		spec.Carrier, spec.Adopted = cmp.Or(a.Spec.Carrier, v1alpha1.ServiceCompanion), a.Spec.Adopted
	}
	if wish.leaves(a) {
		spec.Claim = a.Spec.Claim
	}
	return spec
}

// Adopted returns what the Foreign allocation of a number must say when the policy
// that carries its holder in place takes it over; nil when the policy does not want
// it.
func Adopted(a *v1alpha1.NodePortAllocation, wish *Wish, pool string, now metav1.MicroTime) *v1alpha1.NodePortAllocationSpec {
	if wish == nil || wish.Planned || wish.offers[pool].pool == nil {
		return nil
	}
	for _, n := range wish.Numbers {
		if n.Holding && n.Pin == NumberOf(a) {
			spec := wish.Claim(n, pool)
			spec.Since, spec.Adopted = &now, true
			return &spec
		}
	}
	return nil
}

// closed admits nobody. The claim stays: it says who may have the number back.
func closed(spec v1alpha1.NodePortAllocationSpec, now metav1.MicroTime) v1alpha1.NodePortAllocationSpec {
	if spec.State == v1alpha1.AllocationClosed {
		return spec
	}
	spec.State, spec.ClosedAt, spec.Grandfathered = v1alpha1.AllocationClosed, &now, false
	spec.Mode, spec.Limits, spec.Log, spec.Gateways = "", v1alpha1.Limits{}, v1alpha1.Log{}, nil
	spec.ExternalTrafficPolicy, spec.SessionAffinity, spec.LocalOnly = "", nil, false
	spec.Ports = slices.Clone(spec.Ports)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		*p = v1alpha1.ClaimedPort{Protocol: p.Protocol, Name: p.Name, Port: p.Port}
	}
	return spec
}

// Foreign returns what the allocation of a number that somebody else holds must
// say now. holder is the Service that holds it, nil when none shows it; rested
// says that an unexplained refusal is old enough to try the number again.
func Foreign(a *v1alpha1.NodePortAllocation, holder *corev1.Service, pool *Pool, rested bool, now metav1.MicroTime) v1alpha1.NodePortAllocationSpec {
	spec := a.Spec
	if holder == nil {
		if spec.Claim.Service != "" || rested {
			return closed(spec, now)
		}
		return spec
	}
	same := spec.Claim.Namespace == holder.Namespace && spec.Claim.Service == holder.Name
	wishes := pool == nil || pool.Spec.Grandfather == nil || *pool.Spec.Grandfather
	spec.Grandfathered = spec.Grandfathered && same && wishes
	spec.Claim = v1alpha1.Claim{Namespace: holder.Namespace, Service: holder.Name}
	spec.Protocols = Held(holder)[NumberOf(a)]
	return spec
}

// Former returns what the closed allocation of a number that was Foreign must say now.
// holder is the Service that has it, nil when none does. Nobody keeps such a number in
// the API server, so it may be another's long before it has rested, and the register
// says at once whose. That one is never passed: nodes go on dropping, and before a
// policy has the number it is closed again, with proof.
func Former(a *v1alpha1.NodePortAllocation, holder *corev1.Service, pool *Pool) v1alpha1.NodePortAllocationSpec {
	if holder == nil || pool == nil {
		return a.Spec
	}
	spec := NewForeign(holder, NumberOf(a), pool.NodePortPool, false)
	spec.CloudFirewalls = a.Spec.CloudFirewalls // they may have rules of ours yet
	return spec
}

// defaultCoolDown serves allocations whose pool is gone.
const defaultCoolDown = 10 * time.Minute

// CoolDown is how long a closed allocation rests at least. pool is the one that it was
// drawn from, nil when that is gone. What no policy ever had, and no pool has any more,
// is kept from nobody longer than the proof of its closing takes.
func CoolDown(a *v1alpha1.NodePortAllocation, pool *v1alpha1.NodePortPool) time.Duration {
	switch {
	case pool != nil && pool.Spec.CoolDown != nil:
		return pool.Spec.CoolDown.Duration
	case pool == nil && a.Spec.Claim.Policy == "":
		return 0
	}
	return defaultCoolDown
}

// NewForeign is the claim of a Service that is not ours on a number of a pool.
func NewForeign(holder *corev1.Service, number uint16, pool *v1alpha1.NodePortPool, stood bool) v1alpha1.NodePortAllocationSpec {
	return v1alpha1.NodePortAllocationSpec{
		State: v1alpha1.AllocationForeign, Protocols: Held(holder)[number],
		Claim: v1alpha1.Claim{Namespace: holder.Namespace, Service: holder.Name},
		Pool:  pool.Name, Team: pool.Spec.Team,
		// A companion that came out of a backup without its owners stood there only
		// for those whom its policy admitted.
		Grandfathered: stood && (pool.Spec.Grandfather == nil || *pool.Spec.Grandfather) && holder.Labels[v1alpha1.LabelPolicy] == "",
	}
}

// Held returns the node port numbers that a Service holds in the API server's
// allocator, health-check node ports included, with their protocols.
func Held(service *corev1.Service) map[uint16][]v1alpha1.Protocol {
	held := map[uint16][]v1alpha1.Protocol{}
	add := func(number int32, protocol corev1.Protocol) {
		n, p := uint16(number), v1alpha1.Protocol(protocol)
		if n != 0 && !slices.Contains(held[n], p) {
			held[n] = append(held[n], p)
			slices.Sort(held[n])
		}
	}
	for _, p := range service.Spec.Ports {
		add(p.NodePort, protocolOf(p))
	}
	add(service.Spec.HealthCheckNodePort, corev1.ProtocolTCP)
	return held
}

func protocolsOf(ports []v1alpha1.ClaimedPort) []v1alpha1.Protocol {
	out := make([]v1alpha1.Protocol, len(ports))
	for i, p := range ports {
		out[i] = p.Protocol
	}
	return out
}

func pointers[T any](list []T) []*T {
	out := make([]*T, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}
