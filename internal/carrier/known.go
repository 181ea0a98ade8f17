package carrier

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// What is known of each datapath. The source of each statement stands in its fixture,
// and in docs/datapaths.md.

// harmless is the next step where a way turns out to be none.
const harmless = "if you know that it leaves node ports alone, name it in the agent's --harmless-programs"

// ofWays is who stands ahead of our rules.
func ofWays(f v1alpha1.NodeFacts, ways []v1alpha1.WayAround) Carrier {
	by := func(prefix string) bool {
		return slices.ContainsFunc(ways, func(w v1alpha1.WayAround) bool { return strings.HasPrefix(w.Program, prefix) })
	}
	c := Carrier{Layer: layerPrograms, Gate: Around, Ways: ways}
	unknown := client{v1alpha1.ClientIPDepends, "stands before netfilter, and what it does to addresses can't be told from outside"}
	c.cluster, c.local = unknown, unknown
	switch {
	case by("cil_"):
		c.Name = "Cilium's kube-proxy replacement"
		c.Next = "run kube-proxy and set kubeProxyReplacement to false there, or leave these nodes to Cilium's own policies; where Cilium does not replace kube-proxy, " + harmless
		c.cluster = client{v1alpha1.ClientIPDepends, "keeps the client's address where the pod runs on the node that was asked, and elsewhere only in its mode DSR"}
		c.local = client{v1alpha1.ClientIPPreserved, "keeps the client's address with externalTrafficPolicy Local"}
	case by("cali"):
		c.Name = "Calico's eBPF dataplane"
		c.Next = "use Calico's iptables or nftables dataplane with kube-proxy there, or leave these nodes to Calico's own policies"
		c.cluster = client{v1alpha1.ClientIPPreserved, "keeps the client's address all the way to the pod"}
		c.local = c.cluster
	case ways[0].Hook == HookOVS && !slices.ContainsFunc(ways, func(w v1alpha1.WayAround) bool { return w.Hook != HookOVS }):
		return openVSwitch(f, c)
	default:
		c.Name = "something ahead of netfilter"
		c.Next = "remove it; " + harmless
	}
	return c
}

// GatewayAnnotation of a Node is by which OVN-Kubernetes tells its gateway mode.
const GatewayAnnotation = "k8s.ovn.org/l3-gateway-config"

// GatewayMode reads the value of that annotation: "shared", "local", or "" where it can't
// be told.
func GatewayMode(annotation string) string {
	var config map[string]struct {
		Mode string `json:"mode"`
	}
	if annotation == "" || json.Unmarshal([]byte(annotation), &config) != nil {
		return ""
	}
	if mode := config["default"].Mode; mode == "shared" || mode == "local" {
		return mode
	}
	return ""
}

func openVSwitch(f v1alpha1.NodeFacts, c Carrier) Carrier {
	c.Layer = layerOVS
	if !has(f.Links, linkOVNKubernetes) {
		c.Name = "Open vSwitch"
		c.Next = "take the node's own link and address off its bridge; if you know that its flows leave node ports alone, name the bridge in the agent's --harmless-programs"
		return c
	}
	c.Name = "OVN-Kubernetes (shared gateway)"
	c.Next = "set its gateway mode to local (on OpenShift spec.defaultNetwork.ovnKubernetesConfig.gatewayConfig.routingViaHost: true)"
	c.cluster = client{v1alpha1.ClientIPReplaced, "has its gateway router translate the client's address with externalTrafficPolicy Cluster"}
	c.local = client{v1alpha1.ClientIPPreserved, "keeps the client's address with externalTrafficPolicy Local"}
	return c
}

func localGateway() Carrier {
	return Carrier{
		Name: "OVN-Kubernetes (local gateway)", Layer: layerNetfilter, Gate: AroundLocal,
		Next:    "use externalTrafficPolicy Cluster, or pods that do not use the node's own network",
		cluster: client{v1alpha1.ClientIPReplaced, "has its gateway router translate the client's address with externalTrafficPolicy Cluster"},
		local:   client{v1alpha1.ClientIPPreserved, "keeps the client's address with externalTrafficPolicy Local"},
	}
}

func antreaProxyAll() Carrier {
	return Carrier{
		Name: "Antrea (proxyAll)", Layer: layerNetfilter, Gate: OnPath,
		cluster: client{v1alpha1.ClientIPDepends, "translates the client's address where it sends a packet to another node"},
		local:   client{v1alpha1.ClientIPPreserved, "keeps the client's address with externalTrafficPolicy Local"},
	}
}

// kubeProxy carries node ports itself, whatever network plugin it stands beside.
func kubeProxy(f v1alpha1.NodeFacts) Carrier {
	c := Carrier{
		Name: "kube-proxy (" + proxyMode(f) + ")", Layer: layerNetfilter, Gate: OnPath,
		cluster: client{v1alpha1.ClientIPReplaced, "masquerades with externalTrafficPolicy Cluster, wherever the pod runs: pods see an address of the node that was asked"},
		local:   client{v1alpha1.ClientIPPreserved, "keeps the client's address with externalTrafficPolicy Local"},
	}
	c.proxy = f.KubeProxy
	if slices.Contains(f.KubeProxy, v1alpha1.KubeProxyIPVS) {
		c.Layer = layerIPVS
	}
	if beside := plugin(f); beside != "" {
		c.Name += " beside " + beside
	}
	return c
}

// proxyMode is how kube-proxy has its rules. Those of another mode may be left over:
// then what it says itself decides between those that are there.
func proxyMode(f v1alpha1.NodeFacts) string {
	var modes, said []string
	for _, rules := range f.KubeProxy {
		modes = append(modes, string(rules))
		if f.ProxyMode != "" && strings.HasPrefix(string(rules), f.ProxyMode) {
			said = append(said, string(rules))
		}
	}
	if len(said) > 0 {
		modes = said
	}
	return strings.Join(modes, " and ")
}

// plugin names the network plugin that leaves node ports to kube-proxy.
func plugin(f v1alpha1.NodeFacts) string {
	switch {
	case has(f.Links, linkAntrea):
		return "Antrea"
	case has(f.Links, linkCilium):
		return "Cilium"
	case has(f.Chains, "AWS-SNAT-CHAIN-0"):
		return "the AWS VPC CNI"
	case has(f.Chains, "cali-PREROUTING"):
		return "Calico"
	case has(f.Links, "cali*"):
		return "Calico or Terway"
	case has(f.Links, "flannel.1"), has(f.Chains, "FLANNEL-POSTRTG"):
		return "flannel"
	}
	return ""
}

// kubeOVN leaves node ports to kube-proxy, and masquerades on top of it what goes to
// centralized subnets: it knows node ports with externalTrafficPolicy Local by the
// ipsets that kube-proxy keeps in its IPVS mode only.
func kubeOVN(f v1alpha1.NodeFacts) Carrier {
	c := kubeProxy(f)
	c.Name += " beside Kube-OVN"
	central, distributed := len(f.CentralizedSubnets) > 0, len(f.DistributedSubnets) > 0
	switch masquerades := slices.Contains(f.KubeProxy, v1alpha1.KubeProxyIPVS); {
	case central && distributed:
		c.local = client{v1alpha1.ClientIPDepends, fmt.Sprintf("keeps the client's address with externalTrafficPolicy Local only for pods of distributed subnets; centralized are %s", strings.Join(f.CentralizedSubnets, ", "))}
	case central && masquerades:
		c.local = client{v1alpha1.ClientIPReplaced, "masquerades what goes to pods of its centralized subnets also with externalTrafficPolicy Local; make the subnet's gatewayType distributed"}
	case central:
		c.local = client{v1alpha1.ClientIPDepends, "keeps the client's address with externalTrafficPolicy Local, but answers of pods in centralized subnets leave by the subnet's gateway node, which may not be the one that was asked; make the subnet's gatewayType distributed"}
	case !distributed:
		c.local = client{v1alpha1.ClientIPDepends, "has subnets of which it is not known whether they are centralized"}
	}
	return c
}
