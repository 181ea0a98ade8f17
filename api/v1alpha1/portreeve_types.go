package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// InstallationName is the name of the one Portreeve object.
const InstallationName = "cluster"

// Portreeve is the installation: what holds for all pools. There is at most one,
// named cluster; without it the defaults hold.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=portreeves,shortName=reeve,categories=portreeve
// +kubebuilder:printcolumn:name="Guard",type=string,JSONPath=`.spec.guard`
// +kubebuilder:printcolumn:name="Lockdown",type=boolean,JSONPath=`.spec.lockdown`
// +kubebuilder:printcolumn:name="Node Ports",type=string,JSONPath=`.status.nodePortRange`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'cluster'",messageExpression="'metadata.name \"' + self.metadata.name + '\" must be cluster, because there is one installation; rename it'"
type Portreeve struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +default={}
	// +optional
	Spec PortreeveSpec `json:"spec,omitempty,omitzero"`
	// +default={"observedGeneration": -1}
	// +optional
	Status PortreeveStatus `json:"status,omitempty"`
}

// GuardMode is what admission does with objects that would reach around us.
//
// +kubebuilder:validation:Enum=Off;Audit;Enforce
type GuardMode string

// The modes of the guard.
const (
	// GuardOff: no admission policies of ours.
	GuardOff GuardMode = "Off"
	// GuardAudit: warnings and audit annotations.
	GuardAudit GuardMode = "Audit"
	// GuardEnforce: such objects are refused.
	GuardEnforce GuardMode = "Enforce"
)

// PortreeveSpec is what the platform decides for the whole cluster.
type PortreeveSpec struct {
	// NodePortRange of the API server (its flag --service-node-port-range). Found by
	// a dry run when unset.
	// +optional
	NodePortRange PortSpan `json:"nodePortRange,omitempty"`

	// FailSafePorts no pool may hold and no rule may touch, besides the built-in ones.
	// +kubebuilder:validation:MaxItems=64
	// +listType=set
	// +optional
	FailSafePorts []PortSpan `json:"failSafePorts,omitempty"`

	// Guard is what admission does with objects that would reach around us.
	// +default="Audit"
	// +optional
	Guard GuardMode `json:"guard,omitempty"`

	// DenyUndeclared also guards against NodePort Services that no policy declares,
	// in the namespaces it picks.
	// +optional
	DenyUndeclared *NamespaceChoice `json:"denyUndeclared,omitempty"`

	// Firewall with which nodes filter: Auto is nf_tables where the kernel has it, else
	// iptables and ipset.
	// +default="Auto"
	// +optional
	Firewall Firewall `json:"firewall,omitempty"`

	// ClusterCIDRs are the networks of the cluster besides its Nodes: those of its pods.
	// With the Nodes they are entity Cluster, which nobody can use while there are none.
	// +kubebuilder:validation:MaxItems=64
	// +listType=set
	// +optional
	ClusterCIDRs []CIDR `json:"clusterCIDRs,omitempty"`

	// DenyAddressSets names AddressSets whose networks no port of any pool admits,
	// whatever policies say.
	// +kubebuilder:validation:MaxItems=16
	// +listType=set
	// +optional
	DenyAddressSets []ObjectName `json:"denyAddressSets,omitempty"`

	// NodeAddresses picks, by their networks, those of a node's own addresses on which
	// ports are judged; on the others nothing is ever dropped. Empty: all addresses.
	// +kubebuilder:validation:MaxItems=64
	// +listType=set
	// +optional
	NodeAddresses []Network `json:"nodeAddresses,omitempty"`

	// Lockdown closes every port of every pool to everybody, at once, until it is
	// taken back. Nodes obey it by themselves, without the manager.
	// +optional
	Lockdown bool `json:"lockdown,omitempty"`
}

// Network in CIDR notation, IPv4 or IPv6, without host bits; 0.0.0.0/0 and ::/0 are all
// addresses of a family.
//
// +kubebuilder:validation:MaxLength=128
// +kubebuilder:validation:XValidation:rule="isCIDR(self)",messageExpression="isIP(self) ? 'network \"%s\" is a single address; write %s/%d'.format([self, self, ip(self).family() == 4 ? 32 : 128]) : 'network \"%s\" is not a network in CIDR notation; write for example 192.0.2.0/24 or 2001:db8:113::/48, without spaces and leading zeros, one to an entry'.format([self])"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",messageExpression="'network \"%s\" has host bits set; write %s'.format([self, string(cidr(self).masked())])"
type Network string

// PortreeveStatus is written by the manager.
type PortreeveStatus struct {
	// NodePortRange in use: given, or found.
	// +optional
	NodePortRange string `json:"nodePortRange,omitempty"`
	// Guard that is in force.
	// +optional
	Guard GuardMode `json:"guard,omitempty"`
	// ObservedGeneration of the spec that the status speaks of; -1: none yet.
	// +default=-1
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions: Ready, Reconciling, Stalled.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// PortreeveList is a list of Portreeve.
//
// +kubebuilder:object:root=true
type PortreeveList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Portreeve `json:"items"`
}
