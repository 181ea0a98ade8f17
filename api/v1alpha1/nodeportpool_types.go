package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NodePortPool hands port ranges to a team and category.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=nppool,categories=portreeve
// +kubebuilder:printcolumn:name="Category",type=string,JSONPath=`.spec.category`
// +kubebuilder:printcolumn:name="Team",type=string,JSONPath=`.spec.team`
// +kubebuilder:printcolumn:name="Ranges",type=string,JSONPath=`.spec.ranges`
// +kubebuilder:printcolumn:name="Allocated",type=integer,JSONPath=`.status.allocated`
// +kubebuilder:printcolumn:name="Cooling",type=integer,JSONPath=`.status.cooling`
// +kubebuilder:printcolumn:name="Free",type=integer,JSONPath=`.status.free`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Namespaces",type=string,priority=1,JSONPath=`.spec.allocateTo.namespaces`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type NodePortPool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec NodePortPoolSpec `json:"spec"`
	// +default={"observedGeneration": -1}
	// +optional
	Status NodePortPoolStatus `json:"status,omitempty"`
}

// PortRange is a port number ("30180") or an inclusive range ("30000-30099").
//
// +kubebuilder:validation:MaxLength=64
// +kubebuilder:validation:XValidation:rule="self.matches('^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$') && self.split('-').all(n, int(n) <= 65535) && int(self.split('-')[0]) <= int(self.split('-')[size(self.split('-'))-1])",messageExpression="'port range \"' + self + '\" must be a number or FIRST-LAST, from 1 to 65535, the smaller one first, without spaces and leading zeros; write for example 30000-30099'"
// +kubebuilder:validation:XValidation:rule="!self.matches('^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$') || [22,53,179,443,2379,2380,6443,10248,10249,10250,10251,10252,10253,10254,10255,10256,10257,10258,10259].all(p, p < int(self.split('-')[0]) || p > int(self.split('-')[size(self.split('-'))-1]))",messageExpression="'port range \"' + self + '\" holds a fail-safe port (22, 53, 179, 443, 2379-2380, 6443, 10248-10259), which no pool may hold; write ranges that leave it out'"
type PortRange string

// NodePortPoolSpec is what the platform decides.
type NodePortPoolSpec struct {
	// Category that policies ask for: web, api, db, monitor, or any name the platform chooses.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",messageExpression="'category \"' + self + '\" must be at most 63 lower-case letters, digits and inner dashes; write for example web'"
	Category string `json:"category"`

	// Team that owns the range, shown in the register, in metrics and beside cloud rules.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",messageExpression="'team \"' + self + '\" must be at most 63 lower-case letters, digits and inner dashes; write for example payments'"
	Team string `json:"team"`

	// Ranges of port numbers. Where pools overlap, the older one owns.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="size(self) > 0",message="ranges is an empty list; write for example [\"30000-30099\"], or delete the pool"
	// +kubebuilder:validation:XValidation:rule="!self.all(r, r.matches('^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$') && int(r.split('-')[0]) <= int(r.split('-')[size(r.split('-'))-1])) || self.all(r, self.exists_one(q, int(q.split('-')[0]) <= int(r.split('-')[size(r.split('-'))-1]) && int(r.split('-')[0]) <= int(q.split('-')[size(q.split('-'))-1])))",messageExpression="'ranges %s overlap; write each port number once'.format([self.filter(r, !self.exists_one(q, int(q.split('-')[0]) <= int(r.split('-')[size(r.split('-'))-1]) && int(r.split('-')[0]) <= int(q.split('-')[size(q.split('-'))-1])))])"
	// +listType=set
	Ranges []PortRange `json:"ranges"`

	// AllocateTo says who may draw from the pool. Nothing set: nobody.
	// +optional
	AllocateTo AllocateTo `json:"allocateTo,omitempty,omitzero"`

	// CoolDown is how long a released port rests before it is handed out again.
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,6}(ms|s|m|h)){1,4}$') && duration(self) <= duration('720h')",messageExpression="'coolDown \"' + self + '\" must be a duration from 0s to 720h, in whole hours, minutes and seconds; write for example 10m or 1h30m'"
	// +optional
	CoolDown *metav1.Duration `json:"coolDown,omitempty"`

	// Grandfather leaves alone what already stood on these ports when they joined
	// the pool: it is in the register as Foreign and passed by the nodes. False
	// closes those ports to everyone.
	// +kubebuilder:default=true
	// +optional
	Grandfather *bool `json:"grandfather,omitempty"`

	// CloudFirewalls are the cloud gates of the pool's policies, by name.
	// +kubebuilder:validation:MaxItems=8
	// +listType=set
	// +optional
	CloudFirewalls []ObjectName `json:"cloudFirewalls,omitempty"`
}

// ObjectName is the name of a cluster-scoped object.
//
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",messageExpression="'name \"' + self + '\" must be lower-case letters, digits, inner dashes and dots, as in metadata.name of the object you mean'"
type ObjectName string

// NamespaceName is the name of a namespace.
//
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",messageExpression="'namespace \"' + self + '\" must be the exact name of a namespace (lower-case letters, digits, inner dashes); patterns are not understood'"
type NamespaceName string

// AllocateTo says who may draw ports.
type AllocateTo struct {
	// Namespaces by exact name.
	// +kubebuilder:validation:MaxItems=256
	// +listType=set
	// +optional
	Namespaces []NamespaceName `json:"namespaces,omitempty"`
}

// NodePortPoolStatus is written by the manager at most once a minute, unless a
// condition or what is armed changes.
type NodePortPoolStatus struct {
	// Armed are the ranges on which nodes drop what is not allocated. A range is
	// armed only after everything that stood on it is in the register.
	// +listType=atomic
	// +optional
	Armed []string `json:"armed,omitempty"`
	// Capacity counts the port numbers that the pool owns.
	// +optional
	Capacity int32 `json:"capacity"`
	// Allocated counts open allocations.
	// +optional
	Allocated int32 `json:"allocated"`
	// Cooling counts closed allocations that are not yet free.
	// +optional
	Cooling int32 `json:"cooling"`
	// Free counts port numbers that could be handed out now.
	// +optional
	Free int32 `json:"free"`
	// ByNamespace counts open allocations, largest first, at most 64 entries.
	// +listType=atomic
	// +optional
	ByNamespace []NamespaceCount `json:"byNamespace,omitempty"`
	// Foreign lists ports of the pool that somebody else holds, at most 64 entries.
	// +listType=atomic
	// +optional
	Foreign []ForeignPort `json:"foreign,omitempty"`
	// ObservedGeneration of the spec that the status speaks of; -1: none yet.
	// +default=-1
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions: Ready, Reconciling, Stalled, Overlaps.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// NamespaceCount counts the ports of one namespace.
type NamespaceCount struct {
	// Namespace that holds the ports.
	Namespace string `json:"namespace"`
	// Ports counts its open allocations.
	Ports int32 `json:"ports"`
}

// ForeignPort is a port number that a Service we did not make holds.
type ForeignPort struct {
	// Port number.
	Port int32 `json:"port"`
	// Holder is "namespace/service", or "unknown" where the API server refused the
	// number and no Service shows it.
	Holder string `json:"holder"`
	// Passed says whether nodes let its traffic through (it stood there before the pool).
	Passed bool `json:"passed"`
}

// NodePortPoolList is a list of NodePortPool.
//
// +kubebuilder:object:root=true
type NodePortPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodePortPool `json:"items"`
}
