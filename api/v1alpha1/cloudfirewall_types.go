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
// +kubebuilder:validation:Enum=AWS;Alibaba
type Provider string

// The clouds.
const (
	// ProviderAWS is Amazon EC2 security groups.
	ProviderAWS Provider = "AWS"
	// ProviderAlibaba is Alibaba Cloud ECS security groups.
	ProviderAlibaba Provider = "Alibaba"
)

// CloudMode says whether a CloudFirewall changes anything.
//
// +kubebuilder:validation:Enum=Enforce;Observe
type CloudMode string

// The modes of a CloudFirewall.
const (
	// CloudEnforce makes the groups admit what is wished.
	CloudEnforce CloudMode = "Enforce"
	// CloudObserve writes into status what it would do, and does nothing.
	CloudObserve CloudMode = "Observe"
)

// Drift says what is done when others change our rules.
//
// +kubebuilder:validation:Enum=Repair;Report
type Drift string

// What is done about drift.
const (
	DriftRepair Drift = "Repair"
	DriftReport Drift = "Report"
)

// OnBudget says what is done when the rules do not fit.
//
// +kubebuilder:validation:Enum=Fail;Coarsen
type OnBudget string

// What is done when the rules do not fit.
const (
	// BudgetFail opens what fits and says what does not.
	BudgetFail OnBudget = "Fail"
	// BudgetCoarsen widens the rules of the pool that does not fit, in the cloud only.
	BudgetCoarsen OnBudget = "Coarsen"
)

// CloudDeletionPolicy says what becomes of our rules when the CloudFirewall is deleted.
//
// +kubebuilder:validation:Enum=Retain;Revoke
type CloudDeletionPolicy string

// What becomes of our rules.
const (
	CloudRetain CloudDeletionPolicy = "Retain"
	CloudRevoke CloudDeletionPolicy = "Revoke"
)

// FinalizerRevoke is on a CloudFirewall whose rules are to be revoked before it goes.
const FinalizerRevoke = "portreeve.dev/revoke"

// CloudFirewallSpec says which groups, and how to reach and treat them.
//
// +kubebuilder:validation:XValidation:rule="!has(self.priority) || self.provider == 'Alibaba'",fieldPath=".priority",message="priority means nothing on AWS, whose rules have no order; leave it out"
// +kubebuilder:validation:XValidation:rule="!has(self.credentials) || !has(self.credentials.assumeRole) || self.credentials.assumeRole.arn.startsWith('acs:') == (self.provider == 'Alibaba')",fieldPath=".credentials.assumeRole.arn",message="the role is of another cloud than provider; write arn:aws:iam::... for AWS and acs:ram::... for Alibaba"
type CloudFirewallSpec struct {
	// Provider of the cloud.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",messageExpression="'provider can not change from ' + oldSelf + ' to ' + self + '; create another CloudFirewall, so that the rules of this one are revoked first'"
	Provider Provider `json:"provider"`
	// Region, for example eu-central-1 or cn-hangzhou.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="size(self) <= 64 && self.matches('^[a-z]+(-[a-z]{2,}|-[0-9]+)+$')",messageExpression="'region \"' + self + '\" must be the name of a region, not of a zone; write for example eu-central-1'"
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",messageExpression="'region can not change from ' + oldSelf + ' to ' + self + '; create another CloudFirewall, so that the rules of this one are revoked first'"
	Region string `json:"region"`
	// Endpoint replaces the cloud's own API address: a private endpoint, or a test.
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^https?://([-a-zA-Z0-9.]+|\\\\[[0-9a-fA-F:.]+\\\\])(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?(/.*)?$')",messageExpression="'endpoint \"' + self + '\" must be an http or https URL; write for example https://ec2.eu-central-1.amazonaws.com, or leave it out for the one of the region'"
	// +kubebuilder:validation:XValidation:rule="!self.matches('[@?#]')",messageExpression="'endpoint \"' + self + '\" must not carry a user, a query or a fragment, which would be ignored; write scheme, host, port and path only'"
	// +optional
	Endpoint string `json:"endpoint,omitempty"`
	// Groups in the order in which they are filled; those that tags find, by id.
	// +kubebuilder:validation:MaxItems=16
	// +kubebuilder:validation:XValidation:rule="size(self) > 0",message="groups is an empty list; name at least one security group, for example {id: sg-0123456789abcdef0}"
	// +kubebuilder:validation:XValidation:rule="self.all(g, !has(g.id) || self.exists_one(h, has(h.id) && h.id == g.id))",message="groups names the same id twice; name each group once"
	// +listType=atomic
	Groups []SecurityGroup `json:"groups"`
	// NodeSelector picks the nodes to which the groups are attached. A policy that none of
	// them can answer for gets no rules here. Absent: all nodes.
	// +optional
	NodeSelector *LabelSelector `json:"nodeSelector,omitempty"`
	// Credentials for the cloud; absent: those the cloud's SDK finds by itself.
	// +optional
	Credentials *CloudCredentials `json:"credentials,omitempty"`
	// Mode: Enforce, or Observe: say what would be done and change nothing.
	// +kubebuilder:default=Enforce
	// +optional
	Mode CloudMode `json:"mode,omitempty"`
	// Drift says what is done when others change our rules: Repair them, or Report it.
	// +kubebuilder:default=Repair
	// +optional
	Drift Drift `json:"drift,omitempty"`
	// OnBudget says what is done when the rules do not fit: Fail, or Coarsen those of the
	// pool that does not fit. Nodes stay exact.
	// +kubebuilder:default=Fail
	// +optional
	OnBudget OnBudget `json:"onBudget,omitempty"`
	// Limits of the account where they are not the cloud's usual ones.
	// +optional
	Limits *CloudLimits `json:"limits,omitempty"`
	// Priority of our rules on Alibaba Cloud, 1 the best: others' rules that drop, at
	// this priority or a better one, win.
	// +kubebuilder:validation:XValidation:rule="self >= 1 && self <= 100",message="priority must be from 1, the best, to 100"
	// +optional
	Priority *int32 `json:"priority,omitempty"`
	// DeletionPolicy says what becomes of our rules when this object is deleted: Retain
	// them, or Revoke them first.
	// +kubebuilder:default=Retain
	// +optional
	DeletionPolicy CloudDeletionPolicy `json:"deletionPolicy,omitempty"`
	// Resync is how often the groups are read again and repaired.
	// +kubebuilder:default="5m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,6}(ms|s|m|h)){1,4}$') && duration(self) >= duration('10s') && duration(self) <= duration('24h')",messageExpression="'resync \"' + self + '\" must be a duration from 10s to 24h, in whole hours, minutes and seconds; write for example 5m or 1h30m'"
	// +optional
	Resync *metav1.Duration `json:"resync,omitempty"`
}

// SecurityGroup names one group by its id, or several by their tags.
//
// +kubebuilder:validation:XValidation:rule="has(self.id) != has(self.tags)",message="name a security group by id, or groups by tags, and not both in one entry; write for example {id: sg-0123456789abcdef0}"
type SecurityGroup struct {
	// ID of the group, for example sg-0123456789abcdef0.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^sg-[0-9a-z]{1,61}$')",messageExpression="'group id \"' + self + '\" must be a security group id; write for example sg-0123456789abcdef0'"
	// +optional
	ID string `json:"id,omitempty"`
	// Tags that a group must all carry.
	// +kubebuilder:validation:MaxProperties=10
	// +kubebuilder:validation:XValidation:rule="size(self) > 0",message="tags is empty and would find every group; name at least one tag, for example {role: nodes}"
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) > 0 && size(k) <= 128 && size(self[k]) <= 256)",message="the key of a tag has 1 to 128 characters and its value at most 256; write it as the cloud shows it"
	// +optional
	Tags map[string]TagValue `json:"tags,omitempty"`
}

// TagValue of a security group.
//
// +kubebuilder:validation:MaxLength=256
type TagValue string

// CloudCredentials say as whom the manager speaks to the cloud.
//
// +kubebuilder:validation:XValidation:rule="has(self.assumeRole) != has(self.secretRef)",message="name either assumeRole or secretRef; leave credentials out for those that the SDK finds by itself"
type CloudCredentials struct {
	// AssumeRole is taken on with the credentials that the SDK finds by itself.
	// +optional
	AssumeRole *AssumeRole `json:"assumeRole,omitempty"`
	// SecretRef names a Secret in the manager's own namespace with the keys accessKeyID,
	// accessKeySecret and, for temporary ones, sessionToken.
	// +optional
	SecretRef *SecretReference `json:"secretRef,omitempty"`
}

// AssumeRole is a role of AWS IAM or of Alibaba Cloud RAM.
type AssumeRole struct {
	// ARN of the role.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:XValidation:rule="self.matches('^(arn:aws[a-z-]*:iam::[0-9]{12}:role/|acs:ram::[0-9]{1,20}:role/).+$')",messageExpression="'arn \"' + self + '\" must be that of a role; write for example arn:aws:iam::123456789012:role/portreeve or acs:ram::1234567890123456:role/portreeve'"
	ARN string `json:"arn"`
	// ExternalID that the role's trust policy asks for.
	// +kubebuilder:validation:MaxLength=1224
	// +kubebuilder:validation:XValidation:rule="self == '' || size(self) >= 2 && self.matches('^[-a-zA-Z0-9_+=,.@:/]+$')",message="externalID has 2 to 1224 characters: letters, digits and + = , . @ : / - _; write it as the trust policy of the role does"
	// +optional
	ExternalID string `json:"externalID,omitempty"`
}

// SecretReference names a Secret in the manager's own namespace.
type SecretReference struct {
	Name ObjectName `json:"name"`
}

// CloudLimits of an account.
type CloudLimits struct {
	// RulesPerGroup is how many inbound rules a security group holds: of each family on
	// AWS, of both together on Alibaba Cloud. Absent: the cloud's default, and what is
	// learnt from its refusals.
	// +kubebuilder:validation:XValidation:rule="self >= 1 && self <= 1000",message="rulesPerGroup must be from 1 to 1000; write what the quota of the account says, or leave it out"
	RulesPerGroup int32 `json:"rulesPerGroup"`
}

// CloudFirewallStatus is what the last reading showed.
type CloudFirewallStatus struct {
	// Groups as they were last read. One is named before anything is written to it, without
	// a budget until it has been read.
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
	// Plan is what is still to be done, or with mode Observe or drift Report would be.
	// +optional
	Plan *CloudPlan `json:"plan,omitempty"`
	// Coarse are rules that admit more than was asked, so that they fit; at most 16.
	// +listType=atomic
	// +optional
	Coarse []string `json:"coarse,omitempty"`
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
	// Hiding lists foreign rules that drop, ahead of ours, what is wished; at most 8.
	// +listType=atomic
	// +optional
	Hiding []string `json:"hiding,omitempty"`
}

// CloudPlan is what is not done yet.
type CloudPlan struct {
	// Add are rules, each with its group; at most 16.
	// +listType=atomic
	// +optional
	Add []string `json:"add,omitempty"`
	// Remove are rules of ours, each with its group; at most 16.
	// +listType=atomic
	// +optional
	Remove []string `json:"remove,omitempty"`
	// TotalAdd counts all that are to be added.
	TotalAdd int32 `json:"totalAdd"`
	// TotalRemove counts all that are to be removed.
	TotalRemove int32 `json:"totalRemove"`
	// Unfit counts the rules for which there is no room.
	// +optional
	Unfit int32 `json:"unfit,omitempty"`
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
