package compile

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// traffic is what a policy, or a Service, says of the way from a node port to the pods;
// a zero field says nothing.
type traffic struct {
	policy   corev1.ServiceExternalTrafficPolicy
	affinity int32 // seconds; none: there is no affinity
}

const none int32 = -1

// longestAffinity is what the API server allows, in seconds.
const longestAffinity = 86400

// orDefault fills in what the API server would, where a policy is silent.
func (t traffic) orDefault() traffic {
	return traffic{cmp.Or(t.policy, corev1.ServiceExternalTrafficPolicyCluster), cmp.Or(t.affinity, none)}
}

// trafficAsked is what the policy of the allocations asks of the Service that carries
// them. Closed ones ask nothing.
func trafficAsked(own []*v1alpha1.NodePortAllocation) traffic {
	open := slices.DeleteFunc(slices.Clone(own), func(a *v1alpha1.NodePortAllocation) bool { return a.Spec.State != v1alpha1.AllocationOpen })
	if len(open) == 0 {
		return traffic{}
	}
	a := slices.MinFunc(open, compareClaims)
	t := traffic{policy: corev1.ServiceExternalTrafficPolicy(a.Spec.ExternalTrafficPolicy)}
	if a.Spec.SessionAffinity != nil {
		t.affinity = a.Spec.SessionAffinity.ClientIPTimeoutSeconds
	}
	return t
}

// localOnly says whether a policy's ports are carried with externalTrafficPolicy Local:
// because it says so, or in place, where it is silent, because its Service does.
func localOnly(policy *v1alpha1.NodePortPolicy, service *corev1.Service) bool {
	if says := policy.Spec.ExternalTrafficPolicy; says != "" || policy.Spec.Service != v1alpha1.ServiceInPlace {
		return says == v1alpha1.TrafficLocal
	}
	lent := lentBy(service).Policy
	if lent != nil && lent.Is == service.Spec.ExternalTrafficPolicy { // what it goes back to
		return lent.Was == corev1.ServiceExternalTrafficPolicyLocal
	}
	return service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// trafficOf is what a Service says, whether it or the API server's defaults do.
func trafficOf(service *corev1.ServiceSpec) traffic {
	t := traffic{policy: service.ExternalTrafficPolicy}
	if service.SessionAffinity == corev1.ServiceAffinityClientIP {
		t.affinity = corev1.DefaultClientIPServiceAffinitySeconds
		if c := service.SessionAffinityConfig; c != nil && c.ClientIP != nil {
			t.affinity = ptr.Deref(c.ClientIP.TimeoutSeconds, t.affinity)
		}
	}
	return t.orDefault()
}

// said says whether a Service does what is asked.
func (t traffic) said(service *corev1.ServiceSpec) bool {
	have := trafficOf(service)
	return traffic{cmp.Or(t.policy, have.policy), cmp.Or(t.affinity, have.affinity)} == have
}

func (t traffic) String() string {
	var parts []string
	if t.policy != "" {
		parts = append(parts, "externalTrafficPolicy "+string(t.policy))
	}
	switch {
	case t.affinity == none:
		parts = append(parts, "sessionAffinity None")
	case t.affinity != 0:
		parts = append(parts, fmt.Sprintf("sessionAffinity ClientIP for %d seconds", t.affinity))
	}
	return strings.Join(parts, " and ")
}

// apply makes a Service with node ports say it, and leaves what it says already as it
// is spelled.
func (t traffic) apply(service *corev1.ServiceSpec) {
	have := trafficOf(service)
	if have.policy != t.policy {
		service.ExternalTrafficPolicy = t.policy
	}
	switch {
	case have.affinity == t.affinity:
	case t.affinity == none:
		service.SessionAffinity, service.SessionAffinityConfig = corev1.ServiceAffinityNone, nil
	default:
		service.SessionAffinity = corev1.ServiceAffinityClientIP
		service.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To(t.affinity)}}
	}
}

// loans are what a policy has changed of a Service in place, as the Service remembers
// it in AnnotationLent: it goes where the Service goes, also into a backup.
type loans struct {
	Borrower string                                     `json:"policy"`
	Policy   *loan[corev1.ServiceExternalTrafficPolicy] `json:"externalTrafficPolicy,omitempty"`
	Affinity *loan[int32]                               `json:"sessionAffinitySeconds,omitempty"`
}

// loan is what a field said, and what we made of it. A field that says something else
// by now was changed by its owner.
type loan[T comparable] struct {
	Was T `json:"was"`
	Is  T `json:"is"`
}

// lend makes a Service in place say what the policy asks, and gives back what the
// policy asks no longer. What another policy has changed since is that one's.
func lend(service *corev1.Service, borrower string, ask traffic) {
	lent := lentBy(service)
	if ask == (traffic{}) && lent.Borrower != borrower {
		return
	}
	says := trafficOf(&service.Spec)
	var want traffic
	want.policy, lent.Policy = lent.Policy.settle(says.policy, ask.policy)
	want.affinity, lent.Affinity = lent.Affinity.settle(says.affinity, ask.affinity)
	if service.Spec.Type != corev1.ServiceTypeNodePort && service.Spec.Type != corev1.ServiceTypeLoadBalancer { // the API server allows it no policy
		want.policy, lent.Policy = says.policy, nil
	}
	want.apply(&service.Spec)
	if lent.Policy == nil && lent.Affinity == nil {
		delete(service.Annotations, v1alpha1.AnnotationLent)
		return
	}
	lent.Borrower = borrower
	text, err := json.Marshal(lent)
	if err != nil {
		panic(err) // of strings and numbers
	}
	if service.Annotations == nil {
		service.Annotations = map[string]string{}
	}
	service.Annotations[v1alpha1.AnnotationLent] = string(text)
}

// lentBy reads what the Service remembers. What can't be read, or what no Service can have
// said, was edited by somebody, and nobody knows any more what it was.
func lentBy(service *corev1.Service) (lent loans) {
	if text, is := service.Annotations[v1alpha1.AnnotationLent]; is && json.Unmarshal([]byte(text), &lent) != nil {
		return loans{}
	}
	policies := []corev1.ServiceExternalTrafficPolicy{corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal}
	if l := lent.Policy; l != nil && !slices.Contains(policies, l.Was) {
		lent.Policy = nil
	}
	if l := lent.Affinity; l != nil && l.Was != none && (l.Was < 1 || l.Was > longestAffinity) {
		lent.Affinity = nil
	}
	return lent
}

// Borrower names the policy that has changed fields of the Service in place, "" if none
// has.
func Borrower(service *corev1.Service) string { return lentBy(service).Borrower }

// Returned is a Service whose fields say again what they did before a policy changed
// them.
func Returned(have *corev1.Service) *corev1.Service {
	want := have.DeepCopy()
	lend(want, Borrower(have), traffic{})
	return want
}

// settle returns what a field must say that says something now, and what there is to
// give back then. The zero value asks for nothing.
func (l *loan[T]) settle(says, ask T) (T, *loan[T]) {
	var nothing T
	own := says // of the Service's owner
	if l != nil && l.Is == says {
		own = l.Was
	}
	if ask == nothing || ask == own {
		return own, nil
	}
	return ask, &loan[T]{Was: own, Is: ask}
}

// Arrival is how traffic arrives at an Open allocation, as far as nodes are concerned;
// the zero Arrival is the ordinary way.
type Arrival struct {
	// Local: at pods of the node itself, which see the client.
	Local bool `json:"local,omitempty"`
	// Bound: each client has one pod.
	Bound bool `json:"bound,omitempty"`
}

// ArrivalOf is what an allocation says. One whose policy is silent stands for the
// ordinary way, which is what nearly all Services say.
func ArrivalOf(a *v1alpha1.NodePortAllocation) Arrival {
	return Arrival{Local: a.Spec.ExternalTrafficPolicy == v1alpha1.TrafficLocal, Bound: a.Spec.SessionAffinity != nil}
}

// Stale says which connections are none that could begin as traffic arrives next.
func (a Arrival) Stale(next Arrival) rule.Stale {
	return rule.Stale{Masqueraded: next.Local && !a.Local, Direct: a.Local && !next.Local, Unbound: next.Bound && !a.Bound}
}

// Narrow leaves out what is not stale any more where traffic arrives so: there may have
// been several switches in a row.
func (a Arrival) Narrow(stale rule.Stale) rule.Stale {
	return rule.Stale{
		Masqueraded: stale.Masqueraded && a.Local, Direct: stale.Direct && !a.Local, Unbound: stale.Unbound && a.Bound,
		Unanswered: stale.Unanswered,
	}
}
