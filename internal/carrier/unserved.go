package carrier

import (
	"fmt"
	"slices"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// Unserved says why a node whose rules are made by that firewall must not refuse what
// comes to a port with externalTrafficPolicy Local and finds no pod there, "" where it
// may: kube-proxy's nftables and iptables modes rewrite in prerouting what they have a pod
// for, so that the rest comes to the node itself, where they drop it.
//
//	nftables  map no-endpoint-nodeports, from the chain filter-input (hook input, 0)
//	iptables  chain KUBE-EXTERNAL-SERVICES, from INPUT of filter
//
// (pkg/proxy/nftables/proxier.go, pkg/proxy/iptables/proxier.go of Kubernetes 1.36.) IPVS
// takes it up in LOCAL_IN only, behind us; and what others do there is not known.
func (c Carrier) Unserved(firewall v1alpha1.Firewall) string {
	switch {
	case c.Gate != OnPath || len(c.proxy) == 0:
		return fmt.Sprintf("it is not known that kube-proxy carries node ports here, in its mode nftables or iptables: %s does", c.Name)
	case slices.Contains(c.proxy, v1alpha1.KubeProxyIPVS):
		return "kube-proxy carries node ports by IPVS, which takes them up behind our rules"
	case firewall == v1alpha1.FirewallIPTables && slices.Contains(c.proxy, v1alpha1.KubeProxyNFTables):
		return "rules by iptables may stand behind those of kube-proxy's mode nftables"
	}
	return ""
}
