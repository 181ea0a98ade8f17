package compile

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/carrier"
)

// maxReason is what the schema of a policy's status allows.
const maxReason = 1024

// clientIP says whether pods see the addresses of clients outside the cluster, by what
// nodes have told of who carries node ports there, and by the externalTrafficPolicy of
// the Service that carries the policy's. Nodes that have told nothing are left out: one
// that joins must not rewrite every policy.
func (s Seen) clientIP() (v1alpha1.ClientIP, string) {
	service := s.carrying()
	if service == nil {
		return "", ""
	}
	policy := trafficPolicy(service)
	var all []opinion
	for _, n := range s.serving() {
		preserved, why := carrier.Of(*n.Datapath.Status.Facts).Client(policy)
		at := slices.IndexFunc(all, func(o opinion) bool { return o.preserved == preserved && o.why == why })
		if at < 0 {
			at, all = len(all), append(all, opinion{preserved: preserved, why: why, example: n.Name})
		}
		all[at].example = min(all[at].example, n.Name)
	}
	return agreed(all, service, policy)
}

// nodesDiffer begins what is said of each kind of nodes where there are several.
const nodesDiffer = "on nodes such as "

// opinion is what nodes of one kind do to a client's address. Only one of them is named:
// with their number the text would change whenever a node comes or goes.
type opinion struct {
	preserved v1alpha1.ClientIP
	why       string
	example   string
}

// agreed sums opinions up: where nodes differ, it depends on the one that is asked.
func agreed(all []opinion, service *corev1.Service, policy carrier.Policy) (v1alpha1.ClientIP, string) {
	if len(all) == 0 {
		return "", ""
	}
	slices.SortFunc(all, func(a, b opinion) int { return strings.Compare(a.example, b.example) })
	preserved := all[0].preserved
	var texts []string
	for _, o := range all {
		if o.preserved != preserved {
			preserved = v1alpha1.ClientIPDepends
		}
		texts = append(texts, fmt.Sprintf(nodesDiffer+"%s %s", o.example, o.why))
	}
	reason := all[0].why
	if len(all) > 1 {
		reason = strings.Join(texts, "; ")
	}
	if policy == carrier.Cluster && preserved != v1alpha1.ClientIPPreserved {
		reason += fmt.Sprintf("; externalTrafficPolicy of Service %s is Cluster", service.Name)
	}
	return preserved, reason[:min(len(reason), maxReason)]
}

// carrying is the Service that carries the policy's open ports, nil while there is none.
func (s Seen) carrying() *corev1.Service {
	open := s.open()
	if len(open) == 0 {
		return nil
	}
	if !slices.ContainsFunc(open, func(a *v1alpha1.NodePortAllocation) bool { return a.Spec.Carrier != v1alpha1.ServiceInPlace }) {
		return s.Service
	}
	return s.Companion
}

func trafficPolicy(service *corev1.Service) carrier.Policy {
	if service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		return carrier.Local
	}
	return carrier.Cluster
}

// serving are the nodes that clients may ask for the policy's ports and that have told who
// carries node ports there.
func (s Seen) serving() (out []NodeReport) {
	open := s.open()
	for _, n := range s.Nodes {
		told := n.Datapath != nil && n.Datapath.Status.Facts != nil
		if told && Enforceable(n.Node) && Ready(n.Node) && !slices.ContainsFunc(open, func(a *v1alpha1.NodePortAllocation) bool {
			return a.Spec.NodeSelector != nil && !selects(a.Spec.NodeSelector).Matches(labels.Set(n.Labels))
		}) {
			out = append(out, n)
		}
	}
	return out
}

// onPath adds to the gate of the nodes who carries node ports around it, and what to do.
func (s Seen) onPath(g gate) gate {
	service := s.carrying()
	if service == nil {
		return g
	}
	unsupported := g.reason == v1alpha1.ReasonEnforcementUnsupported
	local := g.passed && trafficPolicy(service) == carrier.Local
	if !unsupported && !local {
		return g
	}
	for _, n := range s.serving() {
		switch c := carrier.Of(*n.Datapath.Status.Facts); {
		case unsupported && c.Gate == carrier.Around:
			return stalled(g.kind, g.reason, fmt.Sprintf("node %s: %s; %s", n.Name, c.Trouble(), g.message))
		case local && c.Gate == carrier.AroundLocal:
			return stalled(g.kind, v1alpha1.ReasonEnforcementUnsupported, fmt.Sprintf(
				"node %s: %s does not pass our rules for Service %s, which has externalTrafficPolicy Local, where its pods use the node's own network; %s",
				n.Name, c.Name, service.Name, c.Next))
		}
	}
	return g
}
