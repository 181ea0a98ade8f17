package v1alpha1

// Limits bound the connections of one client address to one node port on one node.
//
// +kubebuilder:validation:XValidation:rule="!has(self.burst) || has(self.newConnectionsPerSecond)",messageExpression="'burst %d goes with newConnectionsPerSecond only, which is absent; set it, or remove burst'.format([self.burst])"
type Limits struct {
	// ConnectionsPerSource is how many one address may have at a time. Unset: no limit.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 65535",messageExpression="'connectionsPerSource %d must be from 1 to 65535; leave it out for no limit'.format([self])"
	// +optional
	ConnectionsPerSource int32 `json:"connectionsPerSource,omitempty"`
	// NewConnectionsPerSecond is how many one address may begin in a second. Unset: no
	// limit.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 10000",messageExpression="'newConnectionsPerSecond %d must be from 1 to 10000; leave it out for no limit'.format([self])"
	// +optional
	NewConnectionsPerSecond int32 `json:"newConnectionsPerSecond,omitempty"`
	// Burst is how many one address may begin at once before that rate counts. Unset: as
	// many as in a second.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 10000",messageExpression="'burst %d must be from 1 to 10000; leave it out for as many as in a second'.format([self])"
	// +optional
	Burst int32 `json:"burst,omitempty"`
}

// Log says for which connections nodes write a line, as they begin.
type Log struct {
	// Denied: those that are dropped, with the reason.
	// +optional
	Denied bool `json:"denied,omitempty"`
	// Accepted: those that pass.
	// +optional
	Accepted bool `json:"accepted,omitempty"`
	// PerSecond is how many lines one node writes for the policy in a second, at most,
	// those of mode Audit included.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 1000",messageExpression="'perSecond %d must be from 1 to 1000 lines; to log nothing, set neither denied nor accepted'.format([self])"
	// +default=10
	// +optional
	PerSecond int32 `json:"perSecond,omitempty"`
}

// Firewall says with what nodes filter.
//
// +kubebuilder:validation:Enum=Auto;NFTables;IPTables
type Firewall string

// The values of Firewall.
const (
	// FirewallAuto: nf_tables where the kernel has it, else iptables.
	FirewallAuto Firewall = "Auto"
	// FirewallNFTables: nf_tables, on every node.
	FirewallNFTables Firewall = "NFTables"
	// FirewallIPTables: iptables and ipset, on every node.
	FirewallIPTables Firewall = "IPTables"
)
