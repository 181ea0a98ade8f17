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
// +kubebuilder:printcolumn:name="Sources",type=string,priority=1,JSONPath=`.spec.sources`
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
// +kubebuilder:validation:XValidation:rule="!has(self.ports) || !self.ports.all(p, has(p.name)) || !has(self.sources) || [self.ports.map(p, p.name)].all(names, self.sources.all(s, !has(s.ports) || s.ports.all(n, n in names)))",message="a source names a port that spec.ports does not list; add it there or correct the name",messageExpression="'a source names port \"%s\", which spec.ports does not list; add it there or correct the name'.format([[self.ports.map(p, p.name)].map(names, self.sources.filter(s, has(s.ports) && !s.ports.all(n, n in names))[0].ports.filter(n, !(n in names))[0])[0]])",fieldPath=".sources"
// +kubebuilder:validation:XValidation:rule="has(self.category) != has(self.poolRef)",messageExpression="has(self.category) ? 'category \"%s\" and poolRef \"%s\" are both set; keep one of them: the category of the pools to draw from, or the name of one pool'.format([self.category, self.poolRef.name]) : 'neither category nor poolRef is set; set one of them: the category of the pools to draw from, or the name of one pool'"
type NodePortPolicySpec struct {
	// Category of the pools to draw from. Exactly one of category and poolRef is set.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",messageExpression="'category \"' + self + '\" must be at most 63 lower-case letters, digits and inner dashes; kubectl get nppool lists the categories'"
	// +optional
	Category string `json:"category,omitempty"`

	// PoolRef names the one pool to draw from.
	// +optional
	PoolRef *PoolReference `json:"poolRef,omitempty"`

	// ServiceRef names the Service, always in the policy's own namespace.
	ServiceRef ServiceReference `json:"serviceRef"`

	// Ports of the Service to expose. May be omitted when the Service has one port.
	// Ports of the Service with one number and different protocols share a node port.
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:XValidation:rule="size(self) > 0",message="ports is an empty list; name a port of the Service, or leave ports out when the Service has only one"
	// +kubebuilder:validation:XValidation:rule="self.all(p, !has(p.name) || self.exists_one(q, has(q.name) && q.name == p.name))",messageExpression="'ports lists name \"%s\" more than once; list each port once'.format([self.filter(p, has(p.name) && !self.exists_one(q, has(q.name) && q.name == p.name)).map(p, p.name)[0]])"
	// +kubebuilder:validation:XValidation:rule="self.all(p, !has(p.port) || self.exists_one(q, has(q.port) && q.port == p.port))",messageExpression="'ports lists port %d more than once; list each port once'.format([self.filter(p, has(p.port) && !self.exists_one(q, has(q.port) && q.port == p.port)).map(p, p.port)[0]])"
	// +listType=atomic
	// +optional
	Ports []PolicyPort `json:"ports,omitempty"`

	// Sources that may connect. []: nobody. Absent: the default sources of the pool.
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +optional
	Sources []Source `json:"sources,omitzero"`

	// CloudFirewalls narrows the pool's list; [] means none of them.
	// +kubebuilder:validation:MaxItems=8
	// +listType=set
	// +optional
	CloudFirewalls []ObjectName `json:"cloudFirewalls,omitzero"`

	// The format date-time would also pass times that Go can't read ("...t18:00:00z"), and
	// one object that can't be read hides all others of its kind from a program. Hence
	// a schema of our own for each time of a spec.

	// ExpiresAt is when the policy ends: its ports close and are given back.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^2[0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3])(:[0-5][0-9]){2}([.]0{1,9})?(Z|[-+]([01][0-9]|2[0-3]):[0-5][0-9])$')",messageExpression="'expiresAt \"' + self + '\" must be a date and a time in whole seconds with its offset from UTC; write for example 2026-12-24T18:00:00Z or 2026-12-24T19:00:00+01:00'"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^....-(02-3|(0[469]|11)-31)') && (!self.matches('^....-02-29') || self.matches('^(..(0[48]|[2468][048]|[13579][26])|2[048]00)-'))",messageExpression="'expiresAt \"' + self + '\" is no day of the calendar; correct the date, for example 2026-12-24T18:00:00Z'"
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`

	// Mode: Enforce; or Audit, which passes and logs what would be dropped, from the
	// sources that the pool allows, and needs its word; or Plan, which writes nothing and
	// shows in status.plan what Enforce would do. What a policy holds when it turns to
	// Plan stays, less the sources it no longer names.
	// +kubebuilder:validation:Enum=Enforce;Audit;Plan
	// +default="Enforce"
	// +optional
	Mode PolicyMode `json:"mode,omitempty"`

	// Service says what carries the ports: Companion, a Service <policy>-nodeport of
	// ours, or InPlace, the referenced Service itself, which then gets a number of the
	// pool for each of its ports; those that the policy does not name admit nobody.
	// +kubebuilder:validation:Enum=Companion;InPlace
	// +default="Companion"
	// +optional
	Service ServiceMode `json:"service,omitempty"`

	// Limits bound what one client address may do on each port and node. What is above
	// them is dropped; connections that exist go on. Not applied in mode Audit.
	// +optional
	Limits Limits `json:"limits,omitempty,omitzero"`

	// Log has nodes write a line for connections as they begin.
	// +optional
	Log Log `json:"log,omitempty,omitzero"`

	// Front keeps configurations and records for what stands before the nodes: nginx,
	// HAProxy, external-dns.
	// +optional
	Front *Front `json:"front,omitempty"`
	// ExternalTrafficPolicy: Cluster, any pod of the Service answers, and sees the address
	// of a node; or Local, only those of the node that the client asked, which see the
	// client's. Absent: Cluster, or with service InPlace what the Service says.
	// +optional
	ExternalTrafficPolicy ExternalTrafficPolicy `json:"externalTrafficPolicy,omitempty"`

	// SessionAffinity leads a client to the pod that answered it before. Absent: none, or
	// with service InPlace what the Service says.
	// +optional
	SessionAffinity *SessionAffinity `json:"sessionAffinity,omitempty"`

	// NetworkPolicy keeps a NetworkPolicy <policy>-nodeport, which admits to the Service's
	// pods what the policy admits to its node ports, and the cluster's own pods and nodes
	// unless another NetworkPolicy has a say in that. With externalTrafficPolicy Cluster it
	// admits all nodes.
	// +optional
	NetworkPolicy bool `json:"networkPolicy,omitempty"`
	// Gateways are the nodes that answer, within those that the pool allows. Absent: all
	// of these.
	// +optional
	Gateways *Gateways `json:"gateways,omitempty"`
}

// PolicyMode says whether a policy acts.
type PolicyMode string

// The modes of a policy.
const (
	ModeEnforce PolicyMode = "Enforce"
	ModeAudit   PolicyMode = "Audit"
	ModePlan    PolicyMode = "Plan"
)

// ServiceMode says which Service carries the ports.
type ServiceMode string

// The values of ServiceMode.
const (
	ServiceCompanion ServiceMode = "Companion"
	ServiceInPlace   ServiceMode = "InPlace"
)

// PoolReference names a pool.
type PoolReference struct {
	// Name of the NodePortPool.
	Name ObjectName `json:"name"`
}

// ServiceReference names a Service of the same namespace.
type ServiceReference struct {
	// Name of the Service.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",messageExpression="'serviceRef.name \"' + self + '\" must be the name of a Service of the same namespace: at most 63 lower-case letters, digits and inner dashes'"
	Name string `json:"name"`
}

// PolicyPort is one port of the Service.
//
// +kubebuilder:validation:XValidation:rule="has(self.name) != has(self.port)",messageExpression="has(self.name) ? 'name \"%s\" and port %d are both set; keep one of them: the name of the Service port, or its number'.format([self.name, self.port]) : 'neither name nor port is set; set one of them: the name of the Service port, or its number'"
type PolicyPort struct {
	// Name of the Service port.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",messageExpression="'port name \"' + self + '\" must be the name of a port of the Service: at most 63 lower-case letters, digits and inner dashes'"
	// +optional
	Name string `json:"name,omitempty"`
	// Port number of the Service port (not its target port).
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 65535",messageExpression="'port %d must be from 1 to 65535; write the port of the Service, not its target port'.format([self])"
	// +optional
	Port int32 `json:"port,omitempty"`
	// NodePort pins the node port. It must lie inside the pool.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 65535",messageExpression="'nodePort %d must be from 1 to 65535 and inside the pool; leave it out to be given one'.format([self])"
	// +kubebuilder:validation:XValidation:rule="!(self in [22, 53, 179, 443, 2379, 2380, 6443]) && !(10248 <= self && self <= 10259)",messageExpression="'nodePort %d is a fail-safe port, which no pool may hold; pick a number of the pool, or leave it out to be given one'.format([self])"
	// +optional
	NodePort int32 `json:"nodePort,omitempty"`
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
	// Allocations are the policy's ports and their numbers.
	// +listType=atomic
	// +optional
	Allocations []AllocatedPort `json:"allocations,omitempty"`
	// Addresses to connect to, at most 8 of TotalAddresses: of nodes that have proved to
	// admit whom the policy admits. One that is listed stays while it answers.
	// +listType=atomic
	// +optional
	Addresses []string `json:"addresses,omitempty"`
	// TotalAddresses counts all addresses, listed or not, as of the last status.
	// +optional
	TotalAddresses int32 `json:"totalAddresses,omitempty"`
	// Answered are those of Addresses that were seen to answer by TCP, and from where. One
	// that is missing was not looked at, or did not answer; see condition Unanswered.
	// +listType=map
	// +listMapKey=address
	// +optional
	Answered []AnsweredAddress `json:"answered,omitempty"`
	// +optional
	Nodes *NodesStatus `json:"nodes,omitempty"`
	// Cloud is what each cloud firewall holds for the policy.
	// +listType=map
	// +listMapKey=firewall
	// +optional
	Cloud []CloudStatus `json:"cloud,omitempty"`
	// Plan is what mode Enforce would do; only in mode Plan.
	// +optional
	Plan *PolicyPlan `json:"plan,omitempty"`
	// ClientIPPreserved says whether pods see the address of a client outside the cluster:
	// True, False (they see one of a node or of the network plugin), or Depends. Absent
	// while no port is open or no node has told who carries its node ports.
	// +optional
	ClientIPPreserved ClientIP `json:"clientIPPreserved,omitempty"`
	// ClientIPReason says why, and names who carries the ports.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	ClientIPReason string `json:"clientIPReason,omitempty"`
	// ObservedGeneration of the spec that the status speaks of; -1: none yet.
	// +default=-1
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions: the gates Accepted, Allocated, Exposed, HostEnforced and CloudEnforced,
	// their sum Ready, and Reconciling, Stalled, Shadowed, Conflict and Fronted.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// PolicyPlan is what a policy in mode Plan would do if it were enforced.
type PolicyPlan struct {
	// Ports are the numbers it would hold now; another claim may be first.
	// +listType=atomic
	// +optional
	Ports []PlannedPort `json:"ports,omitempty"`
	// Closes are the numbers that it would give up.
	// +listType=atomic
	// +optional
	Closes []int32 `json:"closes,omitempty"`
	// Nodes are the rules that every node would get in place of the present ones of
	// these ports, at most 64: "tcp/30043 from 10.8.0.0/16".
	// +listType=atomic
	// +optional
	Nodes []string `json:"nodes,omitempty"`
	// Cloud is what each cloud firewall would change.
	// +listType=map
	// +listMapKey=firewall
	// +optional
	Cloud []PlannedCloud `json:"cloud,omitempty"`
	// Problem says why it would get no number, empty if it would.
	// +optional
	Problem string `json:"problem,omitempty"`
}

// PlannedPort is one port of a plan.
type PlannedPort struct {
	// Name of the Service port.
	// +optional
	Name string `json:"name,omitempty"`
	// Protocol of the Service port.
	Protocol string `json:"protocol"`
	// Port number of the Service port.
	Port int32 `json:"port"`
	// NodePort is the number it would get.
	NodePort int32 `json:"nodePort"`
	// Pool the number is from.
	Pool string `json:"pool"`
}

// PlannedCloud is what a plan would change in one cloud firewall.
type PlannedCloud struct {
	// Firewall is the name of the CloudFirewall.
	Firewall string `json:"firewall"`
	// Add are rules that would be authorized, at most 32, and how many there are.
	// +listType=atomic
	// +optional
	Add []string `json:"add,omitempty"`
	// TotalAdd counts all of them.
	// +optional
	TotalAdd int32 `json:"totalAdd,omitempty"`
	// Remove are rules that would be revoked, at most 32.
	// +listType=atomic
	// +optional
	Remove []string `json:"remove,omitempty"`
	// TotalRemove counts all of them.
	// +optional
	TotalRemove int32 `json:"totalRemove,omitempty"`
}

// AnsweredFrom is where somebody stood who connected to an address.
//
// +kubebuilder:validation:Enum=Node
type AnsweredFrom string

// AnsweredFromNode is the node itself that has the address. No gate judges it, so this
// says that something carries the port there, and nothing of what a client sees.
const AnsweredFromNode AnsweredFrom = "Node"

// AnsweredAddress is an address that was seen to answer.
type AnsweredAddress struct {
	// Address as in addresses.
	Address string `json:"address"`
	// AnsweredFrom: where it was seen from.
	AnsweredFrom AnsweredFrom `json:"answeredFrom"`
}

// AllocatedPort is one port of the policy and its number.
type AllocatedPort struct {
	// Name of the Service port.
	Name string `json:"name,omitempty"`
	// Protocol of the Service port.
	Protocol string `json:"protocol"`
	// Port number of the Service port.
	Port int32 `json:"port"`
	// NodePort is the number it was given.
	NodePort int32 `json:"nodePort"`
	// Pool the number was drawn from.
	Pool string `json:"pool"`
	// Since when the policy holds the number.
	Since metav1.Time `json:"since"`
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
	// Node is the name of the node.
	Node string `json:"node"`
	// Reason why it does not count.
	Reason string `json:"reason"`
}

// CloudStatus is what one cloud firewall holds for the policy.
type CloudStatus struct {
	// Firewall is the name of the CloudFirewall.
	Firewall string `json:"firewall"`
	// Groups the policy's rules are in.
	// +listType=atomic
	// +optional
	Groups []string `json:"groups,omitempty"`
	// Rules counts the rules in force that serve the policy; one rule may serve several.
	Rules int32 `json:"rules"`
	// Precision is Exact, or Coarse where the cloud admits more than was asked so that
	// the rules fit; nodes are exact.
	// +optional
	Precision string `json:"precision,omitempty"`
	// State is InForce, Pending, BudgetExceeded, Denied ... : a reason of CloudEnforced.
	State string `json:"state"`
	// Message names what is in the way and the next step.
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
