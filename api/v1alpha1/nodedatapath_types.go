package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NodeDatapath is what one node has really loaded, written by that node's agent
// only. It is named by the node.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=nodedp,categories=portreeve
// +kubebuilder:printcolumn:name="Datapath",type=string,JSONPath=`.status.datapath`
// +kubebuilder:printcolumn:name="Carrier",type=string,JSONPath=`.status.carrier`
// +kubebuilder:printcolumn:name="Enforced",type=string,JSONPath=`.status.conditions[?(@.type=="Enforced")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Enforced")].reason`
// +kubebuilder:printcolumn:name="Allocations",type=string,JSONPath=`.status.marks.allocations`
// +kubebuilder:printcolumn:name="Pools",type=string,JSONPath=`.status.marks.pools`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Enforced")].message`
type NodeDatapath struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Status NodeDatapathStatus `json:"status,omitempty"`
}

// NodeDatapathStatus is the agent's report.
type NodeDatapathStatus struct {
	// BootID of the node's kernel (/proc/sys/kernel/random/boot_id): marks of an
	// earlier boot prove nothing.
	BootID string `json:"bootID,omitempty"`
	// Datapath in use and its mode, for example "nftables" or "iptables (nft)".
	Datapath string `json:"datapath,omitempty"`
	// DatapathReason says why it is this one.
	// +optional
	DatapathReason string `json:"datapathReason,omitempty"`
	// ExposedSeconds is how long after the node's boot nothing was enforced yet: the
	// time from its boot to the first rules. Absent where that is not known.
	// +optional
	ExposedSeconds *int64 `json:"exposedSeconds,omitempty"`
	// Marks say how far the kernel agrees with what the agent has read.
	// +optional
	Marks Marks `json:"marks,omitempty,omitzero"`
	// NodeLabels is a hash of the labels of the Node by which the agent judged node
	// selectors.
	// +optional
	NodeLabels string `json:"nodeLabels,omitempty"`
	// Exceptions are ports that the node does not enforce although the marks are
	// past them, at most 64.
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=port
	// +optional
	Exceptions []PortException `json:"exceptions,omitempty"`
	// Repairs tells of foreign changes to our rules since the agent started.
	// +optional
	Repairs *Repairs `json:"repairs,omitempty"`
	// Carrier is who carries node ports on this node, by what Facts say, for people:
	// "kube-proxy (nftables)".
	// +kubebuilder:validation:MaxLength=128
	// +optional
	Carrier string `json:"carrier,omitempty"`
	// Facts by which it is known who carries node ports there, and with whose address.
	// +optional
	Facts *NodeFacts `json:"facts,omitempty"`
	// Answers tell what the agent saw when it connected to open TCP ports of its own node.
	// Absent while it has not been through them since the node booted; {} where it does not
	// look.
	// +optional
	Answers *NodeAnswers `json:"answers,omitempty"`
	// Conditions: Enforced.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// NodeAnswers say how far an agent has looked whether its node answers on open TCP ports,
// and where nothing did. All others, up to the marks and on these addresses, answered: a
// connection was accepted from a process of the node itself, which no gate judges.
type NodeAnswers struct {
	// Addresses of the Node object that are on an interface of the node, at most 8. Only
	// there is looked.
	// +kubebuilder:validation:MaxItems=8
	// +listType=atomic
	// +optional
	Addresses []string `json:"addresses,omitempty"`
	// Allocations: the resource version up to which the ports of NodePortAllocations have
	// been looked at since they were in force.
	// +optional
	Allocations string `json:"allocations,omitempty"`
	// GatewaySets: the resource version of GatewaySets by which the ports were chosen.
	// +optional
	GatewaySets string `json:"gatewaySets,omitempty"`
	// NodeLabels is a hash of the labels of the Node by which the ports were chosen.
	// +optional
	NodeLabels string `json:"nodeLabels,omitempty"`
	// Unanswered are the ports on which nothing answered, twice in a row; the lowest 64 of
	// UnansweredPorts.
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=port
	// +optional
	Unanswered []UnansweredPort `json:"unanswered,omitempty"`
	// UnansweredPorts counts them, listed or not.
	// +optional
	UnansweredPorts int32 `json:"unansweredPorts,omitempty"`
}

// UnansweredPort is a port on which a node does not answer itself.
type UnansweredPort struct {
	// Port number.
	Port int32 `json:"port"`
	// Addresses on which nothing answered; none: on all.
	// +kubebuilder:validation:MaxItems=8
	// +listType=atomic
	// +optional
	Addresses []string `json:"addresses,omitempty"`
}

// Marks are resource versions, each comparable within its own type only: every
// object of that type up to there is what the kernel was seen to enforce.
type Marks struct {
	// Pools: the resource version up to which NodePortPools are in force.
	// +optional
	Pools string `json:"pools,omitempty"`
	// Allocations: the resource version up to which NodePortAllocations are in force.
	// +optional
	Allocations string `json:"allocations,omitempty"`
	// AddressSets: the resource version up to which AddressSets are in force.
	// +optional
	AddressSets string `json:"addressSets,omitempty"`
	// Installation: the resource version up to which the Portreeve object is in force.
	// +optional
	Installation string `json:"installation,omitempty"`
	// GatewaySets: the resource version up to which GatewaySets are in force.
	// +optional
	GatewaySets string `json:"gatewaySets,omitempty"`
}

// Repairs counts how often the kernel was found not to enforce what it had been seen to.
type Repairs struct {
	// Count of them.
	Count int64 `json:"count"`
	// Last is when it last was.
	Last metav1.Time `json:"last"`
	// Damage says what was found then.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Damage string `json:"damage,omitempty"`
}

// PortException is a port the node can't enforce as wished.
type PortException struct {
	// Port number.
	Port int32 `json:"port"`
	// Reason why it is not enforced.
	Reason string `json:"reason"`
}

// NodeDatapathList is a list of NodeDatapath.
//
// +kubebuilder:object:root=true
type NodeDatapathList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeDatapath `json:"items"`
}
