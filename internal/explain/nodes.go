package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// way is what becomes of the packet on a node.
type way int

const (
	wayUnknown way = iota
	wayOpen
	wayShut
)

// nodeGates looks at every node, and says which ways are open. A node that is not Ready is
// no way in, and yet nothing is closed that it has not proved to be: its kernel may well run.
func (w walk) nodeGates() (gates []Gate, ways []way) {
	for _, n := range w.nodes {
		if n.Labels["type"] == "virtual-kubelet" {
			continue
		}
		g, way := w.node(n)
		if !compile.Ready(n.Node) {
			g.Message = "the node is not Ready; " + g.Message
			if g.State, g.Reason = Warns, ReasonNotReady; way != wayShut && !w.decision.passes(w.from) {
				g.State = Doubtful
				ways = append(ways, wayUnknown)
			}
			gates = append(gates, g)
			continue
		}
		gates, ways = append(gates, g), append(ways, way)
	}
	if len(ways) == 0 {
		gates = append(gates, Gate{
			Gate: GateNode, State: Doubtful, Reason: v1alpha1.ReasonNoNodes, Message: "no node is Ready: nothing is reachable, and nothing is proved",
			Remedy: "kubectl get nodes",
		})
	}
	return gates, ways
}

// node is one node's gate.
func (w walk) node(n compile.NodeReport) (Gate, way) {
	g := Gate{Gate: GateNode, Subject: n.Name, State: Passes, Reason: v1alpha1.ReasonOK}
	exception := w.exception(n)
	d, exempt := w.on(n, exception)
	if !d.judged() {
		g.State, g.Reason, g.Message = NotRequired, ReasonNotGated, "does not judge this number: everybody passes"
		return w.local(n, g, wayOpen)
	}
	if reason, message, remedy, known := w.unfiltered(n); reason != "" {
		g.State, g.Reason, g.Message, g.Remedy = Warns, reason, message, remedy
		if known {
			return w.local(n, g, wayOpen)
		}
		g.State = Doubtful
		return g, wayUnknown
	}
	if missing := w.missing(n); missing != "" {
		g.State, g.Reason, g.Message, g.Remedy = Doubtful, missing, "has not proved that it does what is wished", agentRemedy(w.Namespace, n.Name)
		if missing == exception { // a sentence, not a word
			g.Reason, g.Message = v1alpha1.ReasonFailed, exception
		}
		return g, wayUnknown
	}
	switch passes := d.passes(w.from); {
	case passes && exempt && !w.decision.passes(w.from):
		g.State, g.Reason, g.Message = Warns, ReasonExempt, exception
		return g, wayOpen
	case passes:
		g.Message = "proved: lets it pass"
		return w.local(n, g, wayOpen)
	case w.decision.passes(w.from) && d.refuses(w.from):
		g = w.noGateway(n, g)
	case w.decision.passes(w.from):
		g.State, g.Reason = Stops, ReasonNotSelected
		g.Message = fmt.Sprintf("proved: drops it, since pool %s opens the number on selected nodes only", w.allocation.Spec.Pool)
		g.Remedy = "connect to another node, or see guardrails.allowedNodes of the pool"
	default:
		g.State, g.Reason, g.Message = Stops, v1alpha1.ReasonOK, "proved: drops it"
	}
	return w.unjudged(n, g)
}

// on is the decision of a node, and whether it exempts the number. Without an allocation
// there is no other exception of a number.
func (w walk) on(n compile.NodeReport, exception string) (d decision, exempt bool) {
	switch {
	case w.allocation == nil && exception != "":
		return w.decide(nil, w.port, n.Name, n.Labels, w.port), true
	case w.allocation != nil && choosesNodes(w.allocation):
		return w.decide(w.allocation, w.port, n.Name, n.Labels), false
	}
	return w.decision, false // all nodes alike
}

// noGateway is the gate of a node that turns away whom gateways admit.
func (w walk) noGateway(n compile.NodeReport, g Gate) Gate {
	g.State, g.Reason = Stops, ReasonNotGateway
	how := "refuses at once"
	if n.Datapath != nil && strings.HasPrefix(n.Datapath.Status.Datapath, "iptables") {
		how = "drops"
	}
	g.Message = fmt.Sprintf("proved: is no gateway of NodePortPolicy %s/%s, so it %s whom gateways admit", w.allocation.Spec.Claim.Namespace, w.allocation.Spec.Claim.Policy, how)
	g.Remedy = "connect to a node that spec.gateways of the policy selects"
	if name := w.allocation.Spec.Gateways.Set; name != "" {
		g.Remedy = fmt.Sprintf("no node is a gateway now; see why none is fit: kubectl get gwset %s", name)
		if set := w.proof.Gateways[name]; set != nil && len(set.Spec.Nodes) > 0 {
			g.Remedy = fmt.Sprintf("connect to a gateway, which is %s now: kubectl get gwset %s", nodeNames(set.Spec.Nodes), name)
		}
	}
	return g
}

func nodeNames(names []v1alpha1.ObjectName) string {
	var texts []string
	for _, n := range names {
		texts = append(texts, string(n))
	}
	return join(texts)
}

func agentRemedy(namespace, node string) string {
	return fmt.Sprintf("see kubectl get nodedp %s -o wide, and whether its agent runs: kubectl -n %s get pods -o wide --field-selector spec.nodeName=%s", node, namespace, node)
}

// exception is what the node says of the number, "" if nothing.
func (w walk) exception(n compile.NodeReport) string {
	if n.Datapath == nil {
		return ""
	}
	for _, e := range n.Datapath.Status.Exceptions {
		if e.Port == int32(w.port.Number) {
			return e.Reason
		}
	}
	return ""
}

// unfiltered says why packets may pass the node unjudged, reason "" if they may not;
// known: they do.
func (w walk) unfiltered(n compile.NodeReport) (reason, message, remedy string, known bool) {
	switch {
	case !compile.Enforceable(n.Node):
		return ReasonNotGated, "no agent can work on this node: nobody filters its node ports", "keep clients away from it by other means", true
	case n.Datapath == nil || n.Datapath.Status.BootID == "":
		return compile.NodeUngated, ungated(n.Datapath), agentRemedy(w.Namespace, n.Name), true
	case n.Datapath.Status.BootID != n.Status.NodeInfo.BootID:
		return compile.NodeRebooted, "rebooted, and its agent has not reported since", agentRemedy(w.Namespace, n.Name), false
	}
	c := meta.FindStatusCondition(n.Datapath.Status.Conditions, v1alpha1.Enforced)
	if c != nil && c.Status == metav1.ConditionFalse && c.Reason == v1alpha1.ReasonEnforcementUnsupported {
		return c.Reason, c.Message, "", false
	}
	return "", "", "", false
}

// ungated says why nobody filters a node of which no agent reports.
func ungated(d *v1alpha1.NodeDatapath) string {
	if d != nil {
		if c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.Enforced); c != nil && c.Reason == v1alpha1.ReasonCleaned {
			return "its rules were removed by agent cleanup, and no agent has started since: nobody filters its node ports"
		}
	}
	return "no agent has ever reported: nobody filters its node ports"
}

// missing says why the node is not proved to do what is wished, "" if it is.
func (w walk) missing(n compile.NodeReport) string {
	marks, a := n.Datapath.Status.Marks, w.allocation
	if a != nil {
		if missing := w.proof.Missing(n, a); missing != "" || a.Spec.State == v1alpha1.AllocationOpen || a.Spec.State == v1alpha1.AllocationClosed {
			return missing
		}
		return w.unheard(marks)
	}
	// A free number is as the node has read pools and the installation.
	if c := meta.FindStatusCondition(n.Datapath.Status.Conditions, v1alpha1.Enforced); c != nil && c.Status == metav1.ConditionFalse {
		return c.Reason
	}
	for i := range w.Pools {
		if !compile.AtLeast(marks.Pools, w.Pools[i].ResourceVersion) {
			return compile.NodePending
		}
	}
	return w.unheard(marks)
}

// unheard says whether the node has yet to hear of what holds for all ports.
func (w walk) unheard(marks v1alpha1.Marks) string {
	if w.Installation == nil {
		return ""
	}
	late := !compile.AtLeast(marks.Installation, w.proof.Installation)
	for i := range w.AddressSets {
		denied := slices.Contains(w.Installation.Spec.DenyAddressSets, v1alpha1.ObjectName(w.AddressSets[i].Name))
		late = late || denied && !compile.AtLeast(marks.AddressSets, w.AddressSets[i].ResourceVersion)
	}
	if late {
		return compile.NodePending
	}
	return ""
}

// unjudged looks for packets that the node does not judge although it drops the others: its
// own, and those to addresses on which the installation has nothing judged.
func (w walk) unjudged(n compile.NodeReport, g Gate) (Gate, way) {
	if slices.ContainsFunc(n.Status.Addresses, func(a corev1.NodeAddress) bool {
		ip, err := netip.ParseAddr(a.Address)
		return err == nil && ip.Unmap() == w.from
	}) {
		g.State, g.Reason = Warns, ReasonItself
		g.Message = "the client is the node itself, which never judges its own packets; from others it drops them"
		return g, wayOpen
	}
	judged := w.decision.set.Addresses
	if len(judged) == 0 {
		return g, wayShut
	}
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && !contains(judged, ip) && w.sameFamily(ip) {
			g.State, g.Reason = Doubtful, ReasonNotGated
			g.Message += fmt.Sprintf("; but nobody judges packets to %s, which is outside spec.nodeAddresses", ip)
			g.Remedy = "add the network to spec.nodeAddresses of the Portreeve object, unless kube-proxy serves no node ports there"
			return g, wayUnknown
		}
	}
	return g, wayShut
}

func (w walk) sameFamily(ip netip.Addr) bool { return !w.from.IsValid() || w.from.Is4() == ip.Is4() }

// local stops what passes where the Service wants an endpoint on the node itself.
func (w walk) local(n compile.NodeReport, g Gate, open way) (Gate, way) {
	s := w.carrier()
	if s == nil || s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return g, open
	}
	if slices.ContainsFunc(w.ready(s), func(node string) bool { return node == n.Name }) {
		return g, open
	}
	g.State, g.Reason = Stops, ReasonNoLocal
	g.Message += fmt.Sprintf("; but no endpoint of Service %s/%s is ready on it, and its externalTrafficPolicy is Local", s.Namespace, s.Name)
	g.Remedy = "connect to a node that has one, or set externalTrafficPolicy: Cluster"
	return g, wayShut
}
