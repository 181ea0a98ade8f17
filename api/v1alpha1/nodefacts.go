package v1alpha1

// NodeFacts are what an agent found on its node that tells who carries node ports
// there. They are sorted and bounded, and say nothing that changes with traffic.
type NodeFacts struct {
	// KubeProxy lists how kube-proxy's rules stand in the kernel: nftables,
	// iptables-nft, iptables-legacy, ipvs. More than one: some are left over.
	// +kubebuilder:validation:MaxItems=4
	// +listType=atomic
	// +optional
	KubeProxy []KubeProxyRules `json:"kubeProxy,omitempty"`
	// ProxyMode is what kube-proxy itself answers on 127.0.0.1:10249; empty where
	// nobody does.
	// +kubebuilder:validation:MaxLength=32
	// +optional
	ProxyMode string `json:"proxyMode,omitempty"`
	// NodePortAddresses are the node's addresses on which kube-proxy (nftables) carries
	// node ports, at most 16; empty: all of them, or not known.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	NodePortAddresses []string `json:"nodePortAddresses,omitempty"`
	// Links are those of network plugins by their well-known names; "cali*" stands for
	// all links that begin so.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	Links []string `json:"links,omitempty"`
	// Chains are those that network plugins keep in the nat table of iptables, where they
	// translate and masquerade.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	Chains []string `json:"chains,omitempty"`
	// Masquerades are the chains of postrouting whose own rules translate source addresses
	// of whoever passes, each after its table: "nat POSTROUTING". At most 16.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	Masquerades []string `json:"masquerades,omitempty"`
	// Ways are what stands ahead of netfilter on the way of packets to the node, at most
	// 16. What the operator called harmless is left out.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	Ways []WayAround `json:"ways,omitempty"`
	// CentralizedSubnets are networks of Kube-OVN whose packets leave by gateway nodes,
	// at most 16.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	CentralizedSubnets []string `json:"centralizedSubnets,omitempty"`
	// DistributedSubnets are networks of Kube-OVN whose packets leave by the pod's own
	// node, at most 16.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	DistributedSubnets []string `json:"distributedSubnets,omitempty"`
	// GatewayMode is that of OVN-Kubernetes, as the annotation
	// k8s.ovn.org/l3-gateway-config of the Node says: shared or local.
	// +kubebuilder:validation:MaxLength=32
	// +optional
	GatewayMode string `json:"gatewayMode,omitempty"`
}

// KubeProxyRules say by what kube-proxy has its rules.
type KubeProxyRules string

// The values of KubeProxyRules.
const (
	KubeProxyNFTables       KubeProxyRules = "nftables"
	KubeProxyIPTablesNFT    KubeProxyRules = "iptables-nft"
	KubeProxyIPTablesLegacy KubeProxyRules = "iptables-legacy"
	KubeProxyIPVS           KubeProxyRules = "ipvs"
)

// WayAround is something by which packets may come around netfilter.
type WayAround struct {
	// Interface on which it begins.
	// +kubebuilder:validation:MaxLength=32
	Interface string `json:"interface"`
	// Hook is xdp, tc, tcx or openvswitch.
	// +kubebuilder:validation:MaxLength=32
	Hook string `json:"hook"`
	// Program is its name: that of an eBPF program, the kind of a tc filter, or the bridge
	// of Open vSwitch.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	Program string `json:"program,omitempty"`
}

// ClientIP says whether the pod sees the address of the client itself.
//
// +kubebuilder:validation:Enum="True";"False";Depends
type ClientIP string

// The values of ClientIP.
const (
	ClientIPPreserved ClientIP = "True"
	ClientIPReplaced  ClientIP = "False"
	ClientIPDepends   ClientIP = "Depends"
)
