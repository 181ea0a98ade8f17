package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// Cluster is what a policy is judged by besides its Service, read at one moment.
type Cluster struct {
	// Pools are all pools, resolved by Owned.
	Pools []Pool
	// Places are all AddressSets, within the pools' guard-rails.
	Places Places
	// Namespace holds the labels of the policy's namespace.
	Namespace map[string]string
	// Elder is the older policy that carries the same Service in place; "" if none.
	Elder string
	// InPlace says that the policy already holds numbers in place.
	InPlace bool
	// Now is the time by which expiry is judged.
	Now time.Time
}

// defaultPriority is what the API server fills in for allocateTo.priority.
const defaultPriority = 50

// PriorityOf is the rank of a pool: the lower is drawn from first.
func PriorityOf(p *v1alpha1.NodePortPool) int32 {
	if p.Spec.AllocateTo.Priority == nil {
		return defaultPriority
	}
	return *p.Spec.AllocateTo.Priority
}

// MayDraw says whether policies of a namespace may draw from the pool.
func MayDraw(p *v1alpha1.NodePortPool, namespace string, namespaceLabels map[string]string) bool {
	if slices.Contains(p.Spec.AllocateTo.Namespaces, v1alpha1.NamespaceName(namespace)) {
		return true
	}
	selector := p.Spec.AllocateTo.NamespaceSelector
	return selector != nil && selects(selector).Matches(labels.Set(namespaceLabels))
}

// unfit are the pools that a policy asks for and can't have, by reason.
type unfit struct{ others, narrower, expiring []string }

// candidatePools lists the pools that the policy asks for, that its namespace may
// draw from, and that take it as it is, in order of preference.
func candidatePools(policy *v1alpha1.NodePortPolicy, cluster Cluster) ([]*Pool, *Refusal) {
	var fit []*Pool
	var not unfit
	for i := range cluster.Pools {
		p := &cluster.Pools[i]
		if !asksFor(policy, p) {
			continue
		}
		problem := refuseExpiry(policy, p)
		switch {
		case !MayDraw(p.NodePortPool, policy.Namespace, cluster.Namespace):
			not.others = append(not.others, p.Name)
		case !containsAll(p.Spec.CloudFirewalls, policy.Spec.CloudFirewalls):
			not.narrower = append(not.narrower, fmt.Sprintf("%s %v", p.Name, p.Spec.CloudFirewalls))
		case problem != "":
			not.expiring = append(not.expiring, problem)
		default:
			fit = append(fit, p)
		}
	}
	slices.SortFunc(fit, func(a, b *Pool) int {
		return cmp.Or(cmp.Compare(PriorityOf(a.NodePortPool), PriorityOf(b.NodePortPool)), strings.Compare(a.Name, b.Name))
	})
	if len(fit) == 0 {
		return nil, not.refuse(policy)
	}
	return fit, nil
}

// asksFor says whether the policy means the pool, by category or by name.
func asksFor(policy *v1alpha1.NodePortPolicy, p *Pool) bool {
	if policy.Spec.PoolRef != nil {
		return string(policy.Spec.PoolRef.Name) == p.Name
	}
	return p.Spec.Category == policy.Spec.Category
}

// refuseExpiry says why the pool does not take the policy's end, "" if it does.
func refuseExpiry(policy *v1alpha1.NodePortPolicy, p *Pool) string {
	g, ends := p.Spec.Guardrails, policy.Spec.ExpiresAt
	switch {
	case ends == nil && (g.RequireExpiry || g.MaxTTL != nil):
		return fmt.Sprintf("pool %s requires expiresAt; set when the policy ends", p.Name)
	case ends == nil || g.MaxTTL == nil:
		return ""
	}
	if last := policy.CreationTimestamp.Add(g.MaxTTL.Duration); ends.After(last) {
		return fmt.Sprintf("expiresAt %s is beyond the longest life in pool %s, %s from the policy's creation; write %s at the latest",
			ends.UTC().Format(time.RFC3339), p.Name, g.MaxTTL.Duration, last.UTC().Format(time.RFC3339))
	}
	return ""
}

func (not unfit) refuse(policy *v1alpha1.NodePortPolicy) *Refusal {
	asked := fmt.Sprintf("category %q", policy.Spec.Category)
	if policy.Spec.PoolRef != nil {
		asked = fmt.Sprintf("pool %q by name", policy.Spec.PoolRef.Name)
	}
	slices.Sort(not.others)
	slices.Sort(not.narrower)
	slices.Sort(not.expiring)
	switch {
	case len(not.expiring) > 0:
		return &Refusal{Reason: v1alpha1.ReasonExpiryRefused, Message: strings.Join(not.expiring, "; ")}
	case len(not.narrower) > 0:
		return &Refusal{Reason: v1alpha1.ReasonCloudFirewallNotAllowed, Message: fmt.Sprintf(
			"cloudFirewalls %v may only narrow the pool's list (%s); name only firewalls of the pool", policy.Spec.CloudFirewalls, strings.Join(not.narrower, "; "))}
	case len(not.others) > 0:
		return &Refusal{Reason: v1alpha1.ReasonNamespaceNotAllowed, Message: fmt.Sprintf(
			"namespace %s may not draw from %s (pool %s); ask the platform team to add it to allocateTo", policy.Namespace, asked, strings.Join(not.others, ", "))}
	case policy.Spec.PoolRef != nil:
		return &Refusal{Reason: v1alpha1.ReasonPoolNotFound, Waits: true, Message: fmt.Sprintf(
			"NodePortPool %s does not exist; correct spec.poolRef.name or ask the platform team for the pool", policy.Spec.PoolRef.Name)}
	}
	return &Refusal{Reason: v1alpha1.ReasonPoolNotFound, Waits: true, Message: fmt.Sprintf(
		"no NodePortPool has category %q; correct spec.category or ask the platform team for a pool", policy.Spec.Category)}
}
