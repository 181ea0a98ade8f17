package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Guardrails bound what policies of a pool may ask for. Sources are judged by their
// union, after AddressSets and prefix lists are resolved, and again whenever one of them
// changes.
type Guardrails struct {
	// WidestIPv4 is the shortest prefix length allowed in the union of the IPv4
	// sources: 16 allows a /16 and refuses a /15. Unset: no limit.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 32",messageExpression="'widestIPv4 %d must be a prefix length from 1 to 32; write for example 16, or leave it out for no limit'.format([self])"
	// +optional
	WidestIPv4 *int32 `json:"widestIPv4,omitempty"`
	// WidestIPv6 is the same for IPv6.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 128",messageExpression="'widestIPv6 %d must be a prefix length from 1 to 128; write for example 48, or leave it out for no limit'.format([self])"
	// +optional
	WidestIPv6 *int32 `json:"widestIPv6,omitempty"`
	// MaxAddresses is the most addresses that one port may admit: IPv4 addresses, and
	// IPv6 networks of 64 bits. Unset: no limit.
	// +kubebuilder:validation:XValidation:rule="1 <= self",messageExpression="'maxAddresses %d must be at least 1; leave it out for no limit'.format([self])"
	// +optional
	MaxAddresses *int64 `json:"maxAddresses,omitempty"`
	// MaxCIDRs is the most networks that one port may admit, after they are joined.
	// Unset: no limit.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 10000",messageExpression="'maxCIDRs %d must be from 1 to 10000; leave it out for no limit'.format([self])"
	// +optional
	MaxCIDRs *int32 `json:"maxCIDRs,omitempty"`
	// World says whether policies may open a port to everybody by entity World.
	// +kubebuilder:validation:Enum=Deny;Allow
	// +default="Deny"
	// +optional
	World Permission `json:"world,omitempty"`
	// Audit says whether policies may use mode Audit, which opens a port to all of
	// AllowedSources, on nodes and in clouds; to everybody where those are empty and
	// World is Allow.
	// +kubebuilder:validation:Enum=Deny;Allow
	// +default="Deny"
	// +optional
	Audit Permission `json:"audit,omitempty"`
	// RequireExpiry refuses policies without expiresAt.
	// +optional
	RequireExpiry bool `json:"requireExpiry,omitempty"`
	// MaxTTL is the longest that a policy may live, from its creation to its expiresAt.
	// Unset: no limit.
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') && self != '' && duration('0s') < duration(self) && duration(self) <= duration('87600h')",messageExpression="'maxTTL \"' + self + '\" must be a duration from 1s to 87600h, in whole hours, minutes and seconds; write for example 480h or 1h30m, or leave it out for no limit'"
	// +optional
	MaxTTL *metav1.Duration `json:"maxTTL,omitempty"`
	// AllowedSources are the networks within which all sources must lie. Empty: no limit.
	// +kubebuilder:validation:MaxItems=256
	// +listType=set
	// +optional
	AllowedSources []CIDR `json:"allowedSources,omitempty"`
	// AddressSets that policies may refer to, of those that allow their namespace.
	// Empty: all of those.
	// +kubebuilder:validation:MaxItems=64
	// +listType=set
	// +optional
	AddressSets []ObjectName `json:"addressSets,omitempty"`
	// PrefixLists that policies may name. Empty: none.
	// +kubebuilder:validation:MaxItems=64
	// +listType=set
	// +optional
	PrefixLists []PrefixListID `json:"prefixLists,omitempty"`
	// SecurityGroups that policies may name as sources. Empty: none.
	// +kubebuilder:validation:MaxItems=20
	// +listType=set
	// +optional
	SecurityGroups []SecurityGroupID `json:"securityGroups,omitempty"`
	// DNSDomains in which policies may publish host names. Empty: none.
	// +kubebuilder:validation:MaxItems=32
	// +listType=set
	// +optional
	DNSDomains []DNSDomain `json:"dnsDomains,omitempty"`
	// AllowedNodes are the nodes on which ports of the pool open; on others they are
	// closed. Absent: all nodes.
	// +optional
	AllowedNodes *LabelSelector `json:"allowedNodes,omitempty"`
}

// Permission to ask for something.
type Permission string

// The values of Permission.
const (
	Deny  Permission = "Deny"
	Allow Permission = "Allow"
)
