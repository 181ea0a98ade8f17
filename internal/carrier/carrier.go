package carrier

import (
	"fmt"
	"slices"
	"strings"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// Gate says whether our rules stand on the way of packets to node ports.
type Gate string

const (
	// OnPath: every such packet meets our rules with the client's address and the node
	// port in it.
	OnPath Gate = "OnPath"
	// AroundLocal: so it is, but for Services with externalTrafficPolicy Local whose pods
	// use the node's own network.
	AroundLocal Gate = "AroundLocal"
	// Around: something carries packets, or may, before they meet our rules.
	Around Gate = "Around"
)

// Carrier is who carries node ports on a node.
type Carrier struct {
	// Name for people: "kube-proxy (nftables)".
	Name string
	// Layer in which it does so.
	Layer string
	// Gate says where our rules stand.
	Gate Gate
	// Ways by which our rules may be gone around; none unless the Gate is Around.
	Ways []v1alpha1.WayAround
	// Next is what to do where the Gate is not OnPath.
	Next string

	cluster, local client
	masquerades    []string // chains of others
	// proxy is how kube-proxy has its rules, where it is known to carry; see Unserved.
	proxy []v1alpha1.KubeProxyRules
}

// client says what becomes of a client's address.
type client struct {
	preserved v1alpha1.ClientIP
	why       string
}

// Client says whether pods see the address of a client outside the cluster, and why, for
// a Service with externalTrafficPolicy Local or with Cluster.
func (c Carrier) Client(policy Policy) (v1alpha1.ClientIP, string) {
	to := c.cluster
	if policy == Local {
		to = c.local
	}
	if len(c.masquerades) > 0 && to.preserved == v1alpha1.ClientIPPreserved {
		return v1alpha1.ClientIPDepends, fmt.Sprintf("%s %s, but a rule of somebody else translates source addresses and may meet it (%s)", c.Name, to.why, strings.Join(c.masquerades, ", "))
	}
	return to.preserved, c.Name + " " + to.why
}

// Policy is an externalTrafficPolicy.
type Policy string

// The values of Policy.
const (
	Cluster Policy = "Cluster"
	Local   Policy = "Local"
)

// The layers in which node ports are carried.
const (
	layerNetfilter = "in netfilter, behind our rules"
	layerIPVS      = "in IPVS, behind our rules"
	layerPrograms  = "in eBPF or tc, before netfilter"
	layerOVS       = "in flows of Open vSwitch, before netfilter"
	layerUnknown   = "in a way that is not known"
)

// Of returns who carries node ports where these facts hold.
func Of(f v1alpha1.NodeFacts) Carrier {
	c := of(f)
	c.masquerades = f.Masquerades
	return c
}

func of(f v1alpha1.NodeFacts) Carrier {
	if ways := around(f); len(ways) > 0 {
		return ofWays(f, ways)
	}
	switch {
	case has(f.Links, linkOVNKubernetes):
		return localGateway()
	case has(f.Links, linkAntrea) && has(f.Chains, "ANTREA-PREROUTING"):
		return antreaProxyAll()
	case has(f.Links, linkKubeOVN) && len(f.KubeProxy) > 0:
		return kubeOVN(f)
	case len(f.KubeProxy) > 0:
		return kubeProxy(f)
	}
	return Carrier{
		Name: "something that is not known", Layer: layerUnknown, Gate: OnPath,
		cluster: client{v1alpha1.ClientIPDepends, "carries node ports: this node has no rules of kube-proxy, nor of another that is known"},
		local:   client{v1alpha1.ClientIPDepends, "carries node ports: this node has no rules of kube-proxy, nor of another that is known"},
	}
}

func has(list []string, item string) bool { return slices.Contains(list, item) }

// Well-known links.
const (
	linkOVNKubernetes = "ovn-k8s-mp0"
	linkAntrea        = "antrea-gw0"
	linkKubeOVN       = "ovn0"
	linkCilium        = "cilium_host"
)

// around are the ways that count. Cilium's program on its own link to the pods stands in
// no client's way; and the local gateway of OVN-Kubernetes gives node ports to the host.
func around(f v1alpha1.NodeFacts) []v1alpha1.WayAround {
	ways := slices.DeleteFunc(slices.Clone(f.Ways), func(w v1alpha1.WayAround) bool {
		return w.Interface == linkCilium && w.Program == "cil_to_host" ||
			w.Hook == HookOVS && has(f.Links, linkOVNKubernetes) && f.GatewayMode == "local"
	})
	if len(ways) == 0 && has(f.Links, linkOVNKubernetes) && f.GatewayMode != "local" {
		return []v1alpha1.WayAround{{Interface: "its gateway", Hook: HookOVS}} // wherever that is
	}
	return ways
}

// Spell describes a way for people.
func Spell(w v1alpha1.WayAround) string {
	switch w.Hook {
	case HookOVS:
		return fmt.Sprintf("Open vSwitch has the packets of %s", w.Interface)
	case HookFilter:
		return fmt.Sprintf("a tc filter (%s) of %s rewrites or redirects packets", w.Program, w.Interface)
	}
	return fmt.Sprintf("program %s on the %s hook of %s", w.Program, w.Hook, w.Interface)
}

// Hooks of a WayAround that are no hooks of eBPF programs.
const (
	HookOVS    = "openvswitch"
	HookFilter = "filter"
)

func spellAll(ways []v1alpha1.WayAround) string {
	var texts []string
	for _, w := range ways {
		texts = append(texts, Spell(w))
	}
	return strings.Join(texts, ", ")
}

// Trouble says in one sentence what goes around our rules, and the next step.
func (c Carrier) Trouble() string {
	if len(c.Ways) == 0 {
		return ""
	}
	return fmt.Sprintf("%s carries or may carry node ports %s (%s): %s", c.Name, c.Layer, spellAll(c.Ways), c.Next)
}
