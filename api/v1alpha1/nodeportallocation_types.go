package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NodePortAllocation is the claim on one port number: lock, register entry and
// what nodes and clouds must enforce, in one object. It is named by the number,
// so the API server's name uniqueness is the lock. Only the manager writes it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=npa,categories=portreeve
// +kubebuilder:printcolumn:name="Protocols",type=string,JSONPath=`.spec.protocols`
// +kubebuilder:printcolumn:name="Pool",type=string,JSONPath=`.spec.pool`
// +kubebuilder:printcolumn:name="Team",type=string,JSONPath=`.spec.team`
// +kubebuilder:printcolumn:name="Namespace",type=string,JSONPath=`.spec.claim.namespace`
// +kubebuilder:printcolumn:name="Service",type=string,JSONPath=`.spec.claim.service`
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.spec.state`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Policy",type=string,priority=1,JSONPath=`.spec.claim.policy`
// +kubebuilder:printcolumn:name="Admits",type=string,priority=1,JSONPath=`.spec.ports`
// +kubebuilder:printcolumn:name="Closed",type=date,priority=1,JSONPath=`.spec.closedAt`
// +kubebuilder:printcolumn:name="Grandfathered",type=boolean,priority=1,JSONPath=`.spec.grandfathered`
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[1-9][0-9]{0,4}$') && int(self.metadata.name) <= 65535",messageExpression="'metadata.name \"' + self.metadata.name + '\" must be the port number it claims, from 1 to 65535'"
// +kubebuilder:validation:XValidation:rule="!(self.metadata.name in ['22','53','179','443','2379','2380','6443','10248','10249','10250','10251','10252','10253','10254','10255','10256','10257','10258','10259'])",messageExpression="'metadata.name \"' + self.metadata.name + '\" is a fail-safe port, which nobody may claim'"
type NodePortAllocation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec NodePortAllocationSpec `json:"spec"`
}

// AllocationState is the life of a port number.
//
// +kubebuilder:validation:Enum=Open;Closed;Foreign
type AllocationState string

// The states of an allocation.
const (
	// AllocationOpen: nodes and clouds admit the listed sources.
	AllocationOpen AllocationState = "Open"
	// AllocationClosed: nobody is admitted; the number rests until it is proved closed everywhere.
	AllocationClosed AllocationState = "Closed"
	// AllocationForeign: a Service that is not ours holds the number.
	AllocationForeign AllocationState = "Foreign"
)

// NodePortAllocationSpec is the claim.
//
// +kubebuilder:validation:XValidation:rule="(self.state == 'Closed') == has(self.closedAt)",messageExpression="has(self.closedAt) ? 'closedAt is set although state is %s; remove it, or set state to Closed'.format([self.state]) : 'closedAt is missing although state is Closed; set it to the time of closing'",fieldPath=".closedAt"
// +kubebuilder:validation:XValidation:rule="!has(self.grandfathered) || !self.grandfathered || self.state == 'Foreign'",messageExpression="'grandfathered goes with state Foreign only, and state is %s; remove grandfathered'.format([self.state])",fieldPath=".grandfathered"
// +kubebuilder:validation:XValidation:rule="self.state != 'Open' || (has(self.claim.namespace) && has(self.claim.policy) && has(self.claim.service))",messageExpression="'claim must name namespace, policy and service when state is %s; set all three'.format([self.state])",fieldPath=".claim"
// +kubebuilder:validation:XValidation:rule="self.state != 'Open' || has(self.ports)",messageExpression="'ports must be set when state is %s; list each protocol with its Service port'.format([self.state])",fieldPath=".ports"
// +kubebuilder:validation:XValidation:rule="!has(self.ports) || (self.protocols.all(p, self.ports.exists(q, q.protocol == p)) && self.ports.all(q, q.protocol in self.protocols))",messageExpression="'protocols %s must be those of ports %s; list each protocol in both'.format([self.protocols, self.ports.map(q, q.protocol)])",fieldPath=".protocols"
// +kubebuilder:validation:XValidation:rule="!has(self.adopted) || !self.adopted || (has(self.carrier) && self.carrier == 'InPlace')",messageExpression="'adopted goes with carrier InPlace only, and carrier is %s; remove adopted, or set carrier to InPlace'.format([has(self.carrier) ? self.carrier : 'absent'])",fieldPath=".adopted"
// +kubebuilder:validation:XValidation:rule="!has(self.localOnly) || !self.localOnly || self.state == 'Open'",messageExpression="'localOnly goes with state Open only, and state is %s; remove localOnly'.format([self.state])",fieldPath=".localOnly"
type NodePortAllocationSpec struct {
	// State of the claim: Open, Closed or Foreign.
	State AllocationState `json:"state"`
	// Protocols held on the number.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=3
	// +listType=set
	Protocols []Protocol `json:"protocols"`
	// Claim says for whom.
	Claim Claim `json:"claim"`
	// Pool the number was drawn from.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",messageExpression="'pool \"' + self + '\" must be the name of a NodePortPool: lower-case letters, digits, inner dashes and dots'"
	Pool string `json:"pool"`
	// Team of the pool at that time.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",messageExpression="'team \"' + self + '\" must be at most 63 lower-case letters, digits and inner dashes; write for example payments'"
	Team string `json:"team"`
	// Ports by protocol, with the sources to admit. Nobody else is admitted.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=3
	// +listType=map
	// +listMapKey=protocol
	// +optional
	Ports []ClaimedPort `json:"ports,omitempty"`
	// CloudFirewalls that must admit the same sources.
	// +kubebuilder:validation:MaxItems=8
	// +listType=set
	// +optional
	CloudFirewalls []ObjectName `json:"cloudFirewalls,omitempty"`
	// Carrier is the Service that carries the number: Companion, or InPlace, the
	// claim's own Service.
	// +kubebuilder:validation:Enum=Companion;InPlace
	// +optional
	Carrier ServiceMode `json:"carrier,omitempty"`
	// Adopted: the Service held the number before the policy did, so it keeps it when
	// the policy goes.
	// +optional
	Adopted bool `json:"adopted,omitempty"`
	// NodeSelector picks the nodes that admit the sources; on others the number is
	// closed. Absent: all nodes.
	// +optional
	NodeSelector *LabelSelector `json:"nodeSelector,omitempty"`
	// Gateways picks among those the nodes that answer; the others refuse the sources.
	// Absent: all of them answer.
	// +optional
	Gateways *ClaimedGateways `json:"gateways,omitempty"`
	// Mode Audit: nodes also pass, and log, who is in the pool's allowed sources and
	// would be dropped, as long as the pool allows it; clouds admit them. Absent:
	// nobody but the sources.
	// +kubebuilder:validation:Enum=Enforce;Audit
	// +optional
	Mode PolicyMode `json:"mode,omitempty"`
	// Limits of one client address, on each node.
	// +optional
	Limits Limits `json:"limits,omitempty,omitzero"`
	// Log says for which connections nodes write a line.
	// +optional
	Log Log `json:"log,omitempty,omitzero"`
	// ExternalTrafficPolicy that the policy asks for; absent: none. Where it changes, nodes
	// forget the connections that go on as before.
	// +optional
	ExternalTrafficPolicy ExternalTrafficPolicy `json:"externalTrafficPolicy,omitempty"`
	// LocalOnly: the Service that carries the number has, or is to have,
	// externalTrafficPolicy Local, whoever says so. A node without a pod of it refuses
	// whom it admits, where that is safe.
	// +optional
	LocalOnly bool `json:"localOnly,omitempty"`
	// SessionAffinity that the policy asks for; absent: none. Where it changes, nodes
	// forget the UDP flows that go on as before.
	// +optional
	SessionAffinity *SessionAffinity `json:"sessionAffinity,omitempty"`
	// NetworkPolicy: there is to be one for the Service's pods, as long as this is there.
	// +optional
	NetworkPolicy bool `json:"networkPolicy,omitempty"`
	// ExpiresAt is the end that was last accepted: an edit that can't be honoured does
	// not put it off. Nodes close the number then, by themselves.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^2[0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3])(:[0-5][0-9]){2}([.]0{1,9})?(Z|[-+]([01][0-9]|2[0-3]):[0-5][0-9])$')",messageExpression="'expiresAt \"' + self + '\" must be a date and a time in whole seconds with its offset from UTC; write for example 2026-12-24T18:00:00Z or 2026-12-24T19:00:00+01:00'"
	// +kubebuilder:validation:XValidation:rule="!self.matches('^....-(02-3|(0[469]|11)-31)') && (!self.matches('^....-02-29') || self.matches('^(..(0[48]|[2468][048]|[13579][26])|2[048]00)-'))",messageExpression="'expiresAt \"' + self + '\" is no day of the calendar; correct the date, for example 2026-12-24T18:00:00Z'"
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`
	// Since when the policy holds the number. It outlives a backup and its restore, so
	// of two allocations for one port the older one is known.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3])(:[0-5][0-9]){2}[.][0-9]{6}(Z|[-+]([01][0-9]|2[0-3]):[0-5][0-9])$') && timestamp(self).getFullYear() > 0",messageExpression="'since \"' + self + '\" must be a time in microseconds with its offset from UTC; write for example 2026-11-20T12:00:00.000000Z'"
	// +optional
	Since *metav1.MicroTime `json:"since,omitempty"`
	// ClosedAt is when it was closed: the cool-down counts from here, and every
	// proof of closing must be younger.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3])(:[0-5][0-9]){2}[.][0-9]{6}(Z|[-+]([01][0-9]|2[0-3]):[0-5][0-9])$') && timestamp(self).getFullYear() > 0",messageExpression="'closedAt \"' + self + '\" must be a time in microseconds with its offset from UTC; write for example 2026-11-20T12:00:00.000000Z'"
	// +optional
	ClosedAt *metav1.MicroTime `json:"closedAt,omitempty"`
	// Grandfathered: nodes pass its traffic, because it stood there before the pool.
	// A Foreign allocation that is not grandfathered is dropped.
	// +optional
	Grandfathered bool `json:"grandfathered,omitempty"`
}

// Protocol of a Service port.
//
// +kubebuilder:validation:Enum=TCP;UDP;SCTP
type Protocol string

// Claim names the holder of a number: a policy and its Service, or, when
// Foreign, the Service alone.
type Claim struct {
	// Namespace of the policy and its Service.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",messageExpression="'claim.namespace \"' + self + '\" must be at most 63 lower-case letters, digits and inner dashes; write for example shop'"
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// Policy that asked for the number; empty when Foreign.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z]([-a-z0-9]{0,52}[a-z0-9])?$')",messageExpression="'claim.policy \"' + self + '\" must be the name of a NodePortPolicy: at most 54 lower-case letters, digits and inner dashes, a letter first'"
	// +optional
	Policy string `json:"policy,omitempty"`
	// Service referenced by the policy, or holding the number when Foreign. Empty:
	// the API server refused the number and no Service shows it.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",messageExpression="'claim.service \"' + self + '\" must be at most 63 lower-case letters, digits and inner dashes; write for example shop'"
	// +optional
	Service string `json:"service,omitempty"`
}

// ClaimedPort is one Service port on the number.
type ClaimedPort struct {
	// Protocol of the Service port.
	Protocol Protocol `json:"protocol"`
	// Name of the Service port; empty for a Service with one unnamed port.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",messageExpression="'port name \"' + self + '\" must be at most 63 lower-case letters, digits and inner dashes; write for example https'"
	// +optional
	Name string `json:"name,omitempty"`
	// Port number of the Service port.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
	// Sources to admit, canonical CIDRs.
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +optional
	Sources []CIDR `json:"sources,omitempty"`
	// AddressSets to admit as well, by name. Nodes resolve them, within the pool's
	// guard-rails.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	AddressSets []ObjectName `json:"addressSets,omitempty"`
	// Entities to admit as well. Nodes resolve them, within the pool's guard-rails.
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:XValidation:rule="!('World' in self)",message="entities lists World, which has a field of its own; set world to true"
	// +listType=set
	// +optional
	Entities []Entity `json:"entities,omitempty"`
	// PrefixLists to admit as well, by id. Nodes find their entries in AddressSets of the
	// manager's, and judge them within the pool's guard-rails.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	PrefixLists []PrefixListID `json:"prefixLists,omitempty"`
	// Peers to admit as well: security groups, each with the networks that bound it.
	// +kubebuilder:validation:MaxItems=20
	// +listType=map
	// +listMapKey=id
	// +optional
	Peers []Peer `json:"peers,omitempty"`
	// World admits everybody.
	// +optional
	World bool `json:"world,omitempty"`
}

// Peer is a security group as a source. Clouds admit its members, whatever their
// address; nodes admit the networks, whoever is in them. Who passes both gates
// is both.
type Peer struct {
	// ID of the security group.
	ID SecurityGroupID `json:"id"`
	// Sources that bound it on the nodes, canonical CIDRs.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Sources []CIDR `json:"sources"`
}

// NodePortAllocationList is a list of NodePortAllocation.
//
// +kubebuilder:object:root=true
type NodePortAllocationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodePortAllocation `json:"items"`
}
