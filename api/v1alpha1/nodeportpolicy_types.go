package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NodePortPolicy exposes one Service of its namespace on node ports of a pool,
// to the sources it names and to nobody else.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,shortName=npp,categories=portreeve
// +kubebuilder:printcolumn:name="Service",type=string,JSONPath=`.spec.serviceRef.name`
// +kubebuilder:printcolumn:name="Category",type=string,JSONPath=`.spec.category`
// +kubebuilder:printcolumn:name="Port",type=string,JSONPath=`.status.nodePorts`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Nodes",type=string,JSONPath=`.status.nodes.enforced`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 54",messageExpression="'metadata.name \"' + self.metadata.name + '\" must be at most 54 lower-case letters, digits and inner dashes and begin with a letter, because the Service <name>-nodeport is named after it'"
type NodePortPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec NodePortPolicySpec `json:"spec"`
	// +default={"observedGeneration": -1}
	// +optional
	Status NodePortPolicyStatus `json:"status,omitempty"`
}

// NodePortPolicySpec is what the team asks for.
//
// +kubebuilder:validation:XValidation:rule="!has(self.ports) || !self.ports.all(p, has(p.name)) || !has(self.sources) || self.sources.all(s, !has(s.ports) || s.ports.all(n, self.ports.exists(p, p.name == n)))",message="sources[].ports must name entries of ports; add the port to spec.ports or correct its name",fieldPath=".sources"
type NodePortPolicySpec struct {
	// Category of the pool to draw from.
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",messageExpression="'category \"' + self + '\" must be lower-case letters, digits and inner dashes; kubectl get nppool lists the categories'"
	Category string `json:"category"`

	// ServiceRef names the Service, always in the policy's own namespace.
	ServiceRef ServiceReference `json:"serviceRef"`

	// Ports of the Service to expose. May be omitted when the Service has one port.
	// Ports of the Service with one number and different protocols share a node port.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:XValidation:rule="self.all(p, !has(p.name) || self.exists_one(q, has(q.name) && q.name == p.name)) && self.all(p, !has(p.port) || self.exists_one(q, has(q.port) && q.port == p.port))",message="a Service port is listed twice; name each once"
	// +listType=atomic
	// +optional
	Ports []PolicyPort `json:"ports,omitempty"`

	// Sources that may connect. Absent or empty: nobody.
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +optional
	Sources []Source `json:"sources,omitzero"`

	// CloudFirewalls narrows the pool's list; [] means none of them.
	// +kubebuilder:validation:MaxItems=8
	// +listType=set
	// +optional
	CloudFirewalls []ObjectName `json:"cloudFirewalls,omitzero"`
}

// ServiceReference names a Service of the same namespace.
type ServiceReference struct {
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",messageExpression="'serviceRef.name \"' + self + '\" must be the name of a Service in the same namespace'"
	Name string `json:"name"`
}

// PolicyPort is one port of the Service.
//
// +kubebuilder:validation:XValidation:rule="has(self.name) != has(self.port)",message="set exactly one of name and port: the Service port's name, or its number"
type PolicyPort struct {
	// Name of the Service port.
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",messageExpression="'port name \"' + self + '\" must be the name of a port of the Service'"
	// +optional
	Name string `json:"name,omitempty"`
	// Port number of the Service port (not its target port).
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 65535",messageExpression="'port %d must be from 1 to 65535: the port of the Service'.format([self])"
	// +optional
	Port int32 `json:"port,omitempty"`
	// NodePort pins the node port. It must lie inside the pool.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 65535",messageExpression="'nodePort %d must be from 1 to 65535 and inside the pool; leave it out to be given one'.format([self])"
	// +optional
	NodePort int32 `json:"nodePort,omitempty"`
}

// CIDR is a network in CIDR notation, IPv4 or IPv6, without host bits, never /0.
//
// +kubebuilder:validation:MaxLength=43
// +kubebuilder:validation:XValidation:rule="isCIDR(self)",messageExpression="'cidr \"' + self + '\" is not a network in CIDR notation; write for example 203.0.113.0/24, or 203.0.113.7/32 for one address'"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",messageExpression="'cidr \"%s\" has host bits set; write %s'.format([self, string(cidr(self).masked())])"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self).prefixLength() > 0",messageExpression="'cidr \"' + self + '\" is the whole world, which a CIDR may not open; name the networks that need the port'"
type CIDR string

// Source is who may connect.
type Source struct {
	// CIDR of the clients' addresses as the node sees them.
	CIDR CIDR `json:"cidr"`
	// Ports limits the source to some of the policy's ports, by Service port name.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=63
	// +listType=set
	// +optional
	Ports []string `json:"ports,omitempty"`
}

// Enforcement sums up the nodes.
//
// +kubebuilder:validation:Enum=All;Partial;None
type Enforcement string

// The values of Enforcement.
const (
	EnforcedAll     Enforcement = "All"
	EnforcedPartial Enforcement = "Partial"
	EnforcedNone    Enforcement = "None"
)

// NodePortPolicyStatus is what was seen to be in force.
type NodePortPolicyStatus struct {
	// NodePorts is the short form of allocations, for people: "30043" or "30043,30044".
	// +optional
	NodePorts string `json:"nodePorts,omitempty"`
	// +listType=atomic
	// +optional
	Allocations []AllocatedPort `json:"allocations,omitempty"`
	// Addresses to connect to, at most 8 of TotalAddresses.
	// +listType=atomic
	// +optional
	Addresses []string `json:"addresses,omitempty"`
	// +optional
	TotalAddresses int32 `json:"totalAddresses,omitempty"`
	// +optional
	Nodes *NodesStatus `json:"nodes,omitempty"`
	// +listType=map
	// +listMapKey=firewall
	// +optional
	Cloud []CloudStatus `json:"cloud,omitempty"`
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// AllocatedPort is one port of the policy and its number.
type AllocatedPort struct {
	Name     string      `json:"name,omitempty"`
	Protocol string      `json:"protocol"`
	Port     int32       `json:"port"`
	NodePort int32       `json:"nodePort"`
	Pool     string      `json:"pool"`
	Since    metav1.Time `json:"since"`
}

// NodesStatus sums up what the nodes have proved.
type NodesStatus struct {
	Enforced Enforcement `json:"enforced"`
	// Failing lists nodes that have not, at most 8.
	// +listType=atomic
	// +optional
	Failing []NodeFailure `json:"failing,omitempty"`
}

// NodeFailure says why a node does not count.
type NodeFailure struct {
	Node   string `json:"node"`
	Reason string `json:"reason"`
}

// CloudStatus is what one cloud firewall holds for the policy.
type CloudStatus struct {
	Firewall string `json:"firewall"`
	// Groups the policy's rules are in.
	// +listType=atomic
	// +optional
	Groups []string `json:"groups,omitempty"`
	// Rules counts the rules in force that serve the policy; one rule may serve several.
	Rules int32 `json:"rules"`
	// State is InForce, Pending, BudgetExceeded, Denied ... : a reason of CloudEnforced.
	State string `json:"state"`
	// +optional
	Message string `json:"message,omitempty"`
}

// NodePortPolicyList is a list of NodePortPolicy.
//
// +kubebuilder:object:root=true
type NodePortPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodePortPolicy `json:"items"`
}
