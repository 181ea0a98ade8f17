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

// PortSpan is a port number or an inclusive range, fail-safe ports included.
//
// +kubebuilder:validation:MaxLength=64
// +kubebuilder:validation:XValidation:rule="self.matches('^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$') && self.split('-').all(n, int(n) <= 65535) && int(self.split('-')[0]) <= int(self.split('-')[size(self.split('-'))-1])",messageExpression="'port range \"' + self + '\" must be a number or FIRST-LAST, from 1 to 65535, the smaller one first, without spaces and leading zeros; write for example 30000-32767'"
type PortSpan string

// NodePortPoolSpec is what the platform decides.
//
// +kubebuilder:validation:XValidation:rule="!has(self.reserved) || !self.ranges.all(q, q.matches('^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$')) || !self.reserved.all(r, r.ports.matches('^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$')) || [self.ranges.map(q, q.split('-').map(n, int(n)))].all(m, self.reserved.all(r, [r.ports.split('-').map(n, int(n))].all(p, m.exists(q, q[0] <= p[0] && p[size(p)-1] <= q[size(q)-1]))))",messageExpression="'reserved ports \"%s\" do not lie within one of the ranges %s; write numbers of one range to an entry'.format([[self.ranges.map(q, q.split('-').map(n, int(n)))].map(m, self.reserved.filter(r, ![r.ports.split('-').map(n, int(n))].all(p, m.exists(q, q[0] <= p[0] && p[size(p)-1] <= q[size(q)-1]))))[0][0].ports, self.ranges])",fieldPath=".reserved"
// +kubebuilder:validation:XValidation:rule="!has(self.defaultSources) || !self.defaultSources.exists(s, has(s.entity) && s.entity == 'World') || (has(self.guardrails) && has(self.guardrails.world) && self.guardrails.world == 'Allow')",message="defaultSources has entity World, and guardrails.world is not Allow; set guardrails.world to Allow, or name the networks",fieldPath=".defaultSources"
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

	// Reserved numbers of the ranges are never handed out and never judged.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="!self.all(r, r.ports.matches('^[1-9][0-9]{0,4}(-[1-9][0-9]{0,4})?$')) || [self.map(r, r.ports.split('-').map(n, int(n)))].all(m, m.all(p, p[0] > p[size(p)-1] || m.exists_one(q, q[0] <= p[size(p)-1] && p[0] <= q[size(q)-1])))",messageExpression="'reserved ports %s overlap; write each port number once'.format([[self.map(r, r.ports.split('-').map(n, int(n)))].map(m, self.filter(r, ![r.ports.split('-').map(n, int(n))].all(p, m.exists_one(q, q[0] <= p[size(p)-1] && p[0] <= q[size(q)-1]))))[0].map(r, r.ports)])"
	// +listType=atomic
	// +optional
	Reserved []ReservedPorts `json:"reserved,omitempty"`

	// Quota bounds what one namespace may hold of the pool, and the pool of the clouds.
	// +optional
	Quota Quota `json:"quota,omitempty,omitzero"`

	// Placement of new numbers. BySource puts them next to numbers with the same
	// sources, so that cloud rules merge; Spread takes the lowest free one.
	// +kubebuilder:validation:Enum=BySource;Spread
	// +default="Spread"
	// +optional
	Placement Placement `json:"placement,omitempty"`

	// DefaultSources are those of policies that name none. Empty: nobody.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:XValidation:rule="self.all(s, self.exists_one(t, t == s))",messageExpression="'defaultSources lists \"%s\" more than once; list each source once'.format([self.filter(s, !self.exists_one(t, t == s)).map(s, has(s.cidr) ? s.cidr : has(s.addressSet) ? s.addressSet : s.entity)[0]])"
	// +listType=atomic
	// +optional
	DefaultSources []DefaultSource `json:"defaultSources,omitempty"`

	// Guardrails bound what policies may ask for.
	// +optional
	Guardrails Guardrails `json:"guardrails,omitempty,omitzero"`

	// Unclaimed says what happens to packets to numbers of the pool that have no
	// allocation: Drop, Audit (pass, and log on the node) or Ignore (pass).
	// +kubebuilder:validation:Enum=Drop;Audit;Ignore
	// +default="Drop"
	// +optional
	Unclaimed Unclaimed `json:"unclaimed,omitempty"`

	// Hold keeps the pool's free numbers out of the API server's random choice, by
	// Services of ours that nothing serves.
	// +default=true
	// +optional
	Hold *bool `json:"hold,omitempty"`
}

// Placement of new numbers in a pool.
type Placement string

// The placements.
const (
	PlacementBySource Placement = "BySource"
	PlacementSpread   Placement = "Spread"
)

// Unclaimed is what happens to packets to numbers without an allocation.
type Unclaimed string

// The values of Unclaimed.
const (
	UnclaimedDrop   Unclaimed = "Drop"
	UnclaimedAudit  Unclaimed = "Audit"
	UnclaimedIgnore Unclaimed = "Ignore"
)

// ReservedPorts are numbers that the pool owns and leaves alone.
type ReservedPorts struct {
	// Ports is a number or an inclusive range.
	Ports PortRange `json:"ports"`
	// Reason, for people.
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self.trim() != ''",messageExpression="'reason \"' + self + '\" is empty; say in a few words who uses the ports'"
	Reason string `json:"reason"`
}

// Quota bounds what is held of what is shared.
type Quota struct {
	// PerNamespace is the most ports that one namespace may hold of the pool; unset:
	// no limit. Lowering it takes nothing away.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 65535",messageExpression="'perNamespace %d must be from 1 to 65535; leave it out for no limit'.format([self])"
	// +optional
	PerNamespace int32 `json:"perNamespace,omitempty"`
	// CloudRules is the most rules that the pool's policies may take of each cloud
	// firewall; unset: no limit.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 16000",messageExpression="'cloudRules %d must be from 1 to 16000; leave it out for no limit'.format([self])"
	// +optional
	CloudRules int32 `json:"cloudRules,omitempty"`
}

// DefaultSource is who may connect where a policy names nobody.
//
// +kubebuilder:validation:XValidation:rule="[has(self.cidr), has(self.addressSet), has(self.entity)].exists_one(s, s)",messageExpression="!has(self.cidr) && !has(self.addressSet) && !has(self.entity) ? 'none of cidr, addressSet and entity is set; set one of them' : !has(self.addressSet) ? 'cidr \"%s\" and entity %s are both set; keep one of them, and write the other as a source of its own'.format([self.cidr, self.entity]) : !has(self.cidr) ? 'addressSet \"%s\" and entity %s are both set; keep one of them, and write the other as a source of its own'.format([self.addressSet, self.entity]) : 'cidr \"%s\" and addressSet \"%s\" are both set; keep one of them, and write the other as a source of its own'.format([self.cidr, self.addressSet])"
type DefaultSource struct {
	// CIDR of the clients' addresses as the node sees them.
	// +optional
	CIDR CIDR `json:"cidr,omitempty"`
	// AddressSet by name.
	// +optional
	AddressSet ObjectName `json:"addressSet,omitempty"`
	// Entity is Nodes, Cluster or World; see the sources of a policy. World needs the
	// guard-rails' word.
	// +optional
	Entity Entity `json:"entity,omitempty"`
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

	// NamespaceSelector picks namespaces by their labels, besides those listed. {}
	// picks all of them.
	// +optional
	NamespaceSelector *LabelSelector `json:"namespaceSelector,omitempty"`

	// Priority of the pool where several fit a policy: the lower number is drawn from
	// first, then the name that sorts first.
	// +kubebuilder:validation:XValidation:rule="0 <= self && self <= 1000",messageExpression="'priority %d must be from 0 to 1000; the lower wins'.format([self])"
	// +default=50
	// +optional
	Priority *int32 `json:"priority,omitempty"`
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
	// Reserved counts the port numbers that are never handed out.
	// +optional
	Reserved int32 `json:"reserved,omitempty"`
	// Held counts the free numbers that Services of ours hold in the API server.
	// +optional
	Held int32 `json:"held,omitempty"`
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
	// Undeclared lists Services with node ports that no policy declares: on numbers of
	// the pool, or in namespaces that may draw from it; at most 64 entries.
	// +listType=atomic
	// +optional
	Undeclared []UndeclaredService `json:"undeclared,omitempty"`
	// ObservedGeneration of the spec that the status speaks of; -1: none yet.
	// +default=-1
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions: Ready, Reconciling, Stalled, Overlaps, OutOfRange, Exhausted.
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

// UndeclaredService is a Service with node ports that nobody declared.
type UndeclaredService struct {
	// Service is "namespace/name".
	Service string `json:"service"`
	// Type of the Service: NodePort or LoadBalancer.
	Type string `json:"type"`
	// NodePorts that it holds, health-check node ports included.
	// +listType=atomic
	NodePorts []int32 `json:"nodePorts"`
}

// NodePortPoolList is a list of NodePortPool.
//
// +kubebuilder:object:root=true
type NodePortPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodePortPool `json:"items"`
}
