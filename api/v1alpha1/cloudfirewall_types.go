package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// CloudFirewall is the security groups of one account and region.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=cfw,categories=portreeve
// +kubebuilder:printcolumn:name="Provider",type=string,JSONPath=`.spec.provider`
// +kubebuilder:printcolumn:name="Region",type=string,JSONPath=`.spec.region`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Verified",type=date,JSONPath=`.status.lastVerified`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Groups",type=string,priority=1,JSONPath=`.status.groups`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type CloudFirewall struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec CloudFirewallSpec `json:"spec"`
	// +default={"observedGeneration": -1}
	// +optional
	Status CloudFirewallStatus `json:"status,omitempty"`
}

// Provider of a cloud.
//
// +kubebuilder:validation:Enum=AWS
type Provider string

// ProviderAWS is Amazon EC2 security groups.
const ProviderAWS Provider = "AWS"

// CloudFirewallSpec says which groups, and how to reach them. Credentials are
// those the cloud's SDK finds by itself.
type CloudFirewallSpec struct {
	// Provider of the cloud.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",messageExpression="'provider can not change from ' + oldSelf + ' to ' + self + '; create another CloudFirewall, so that the rules of this one are revoked first'"
	Provider Provider `json:"provider"`
	// Region, for example eu-central-1.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="size(self) <= 64 && self.matches('^[a-z]+(-[a-z]+)+-[0-9]+$')",messageExpression="'region \"' + self + '\" must be the name of a region, not of a zone; write for example eu-central-1'"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",messageExpression="'region can not change from ' + oldSelf + ' to ' + self + '; create another CloudFirewall, so that the rules of this one are revoked first'"
	Region string `json:"region"`
	// Endpoint replaces the cloud's own API address: a private endpoint, or a test.
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^https?://([-a-zA-Z0-9.]+|\\\\[[0-9a-fA-F:.]+\\\\])(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?(/.*)?$')",messageExpression="'endpoint \"' + self + '\" must be an http or https URL; write for example https://ec2.eu-central-1.amazonaws.com, or leave it out for the one of the region'"
	// +kubebuilder:validation:XValidation:rule="!self.matches('[@?#]')",messageExpression="'endpoint \"' + self + '\" must not carry a user, a query or a fragment, which would be ignored; write scheme, host, port and path only'"
	// +optional
	Endpoint string `json:"endpoint,omitempty"`
	// Groups in the order in which they are filled.
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="size(self) > 0",message="groups is an empty list; name at least one security group, for example {id: sg-0123456789abcdef0}"
	// +listType=map
	// +listMapKey=id
	Groups []SecurityGroup `json:"groups"`
	// Resync is how often the groups are read again and repaired.
	// +kubebuilder:default="5m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,6}(ms|s|m|h)){1,4}$') && duration(self) >= duration('10s') && duration(self) <= duration('24h')",messageExpression="'resync \"' + self + '\" must be a duration from 10s to 24h, in whole hours, minutes and seconds; write for example 5m or 1h30m'"
	// +optional
	Resync *metav1.Duration `json:"resync,omitempty"`
}

// SecurityGroup names one group.
type SecurityGroup struct {
	// ID of the group, for example sg-0123456789abcdef0.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^sg-[0-9a-z]{1,61}$')",messageExpression="'group id \"' + self + '\" must be a security group id; write for example sg-0123456789abcdef0'"
	ID string `json:"id"`
}

// CloudFirewallStatus is what the last reading showed.
type CloudFirewallStatus struct {
	// Groups as they were last read.
	// +listType=map
	// +listMapKey=id
	// +optional
	Groups []GroupStatus `json:"groups,omitempty"`
	// Lookups are the prefix lists and security groups that policies name as sources,
	// as the cloud last answered; at most 64, those with a problem first.
	// +listType=map
	// +listMapKey=id
	// +optional
	Lookups []Lookup `json:"lookups,omitempty"`
	// LastVerified is when the groups were last read whole.
	// +optional
	LastVerified *metav1.Time `json:"lastVerified,omitempty"`
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

// GroupStatus is one group as it was last read.
type GroupStatus struct {
	// ID of the group.
	ID string `json:"id"`
	// Ours counts rules signed by this cluster.
	Ours int32 `json:"ours"`
	// Foreign counts all other inbound rules.
	Foreign int32 `json:"foreign"`
	// Budget is used/limit for IPv4 and IPv6, as "12/60 4/60".
	Budget string `json:"budget"`
	// Shadowing lists foreign rules that admit more than a policy does, at most 8.
	// +listType=atomic
	// +optional
	Shadowing []string `json:"shadowing,omitempty"`
}

// Lookup is a prefix list or a security group that is looked up in the cloud.
type Lookup struct {
	// ID of the prefix list or security group.
	ID string `json:"id"`
	// Networks counts those of the prefix list that nodes and clouds go by, joined.
	// +optional
	Networks int32 `json:"networks,omitempty"`
	// Problem says why the last lookup failed, and what holds meanwhile.
	// +optional
	Problem string `json:"problem,omitempty"`
}

// CloudFirewallList is a list of CloudFirewall.
//
// +kubebuilder:object:root=true
type CloudFirewallList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []CloudFirewall `json:"items"`
}
