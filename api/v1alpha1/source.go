package v1alpha1

// CIDR is a network in CIDR notation, IPv4 or IPv6, without host bits, never /0.
//
// +kubebuilder:validation:MaxLength=128
// +kubebuilder:validation:XValidation:rule="isCIDR(self)",messageExpression="isIP(self) ? 'cidr \"%s\" is a single address; write %s/%d'.format([self, self, ip(self).family() == 4 ? 32 : 128]) : self.matches('^::[fF]{4}:') ? 'cidr \"%s\" is an IPv4-mapped address; write the IPv4 network itself, for example 203.0.113.0/24'.format([self]) : 'cidr \"%s\" is not a network in CIDR notation; write for example 203.0.113.0/24 or 2001:db8:113::/48, without spaces and leading zeros, one to an entry'.format([self])"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",messageExpression="'cidr \"%s\" has host bits set; write %s'.format([self, string(cidr(self).masked())])"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self).prefixLength() > 0",messageExpression="'cidr \"' + self + '\" is the whole world, which a CIDR may not open; name the networks that need the port'"
type CIDR string

// Entity is a place that has a meaning rather than addresses.
//
// +kubebuilder:validation:Enum=Cluster;Nodes;World
type Entity string

// The entities.
const (
	// EntityCluster is Portreeve.spec.clusterCIDRs and the addresses of all Nodes.
	EntityCluster Entity = "Cluster"
	// EntityNodes is the internal and external addresses of all Nodes.
	EntityNodes Entity = "Nodes"
	// EntityWorld is everybody, IPv4 and IPv6.
	EntityWorld Entity = "World"
)

// PrefixListID is the id of a prefix list of a cloud.
//
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:XValidation:rule="self.matches('^pl-[0-9a-z]{1,60}$')",messageExpression="'prefix list \"' + self + '\" must be the id of a prefix list, not its name; write for example pl-0123456789abcdef0'"
type PrefixListID string

// SecurityGroupID is the id of a security group of a cloud: sg-0123, and of another AWS
// account 123456789012/sg-0123.
//
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{12}/)?sg-[0-9a-z]{1,61}$')",messageExpression="'security group \"' + self + '\" must be the id of a security group, not its name; write for example sg-0123456789abcdef0, or 123456789012/sg-0123456789abcdef0 for one of another AWS account'"
type SecurityGroupID string

// Source is who may connect.
//
// +kubebuilder:validation:XValidation:rule="[has(self.cidr), has(self.addressSet), has(self.entity), has(self.prefixList)].exists_one(s, s) || (has(self.securityGroup) && !has(self.cidr))",messageExpression="!has(self.cidr) && !has(self.addressSet) && !has(self.entity) && !has(self.prefixList) ? 'none of cidr, addressSet, entity and prefixList is set; set one of them' : '%s and %s are both set; keep one of them, and write the other as a source of its own'.format([has(self.cidr) ? 'cidr \"%s\"'.format([self.cidr]) : has(self.addressSet) ? 'addressSet \"%s\"'.format([self.addressSet]) : 'entity %s'.format([self.entity]), has(self.cidr) && has(self.addressSet) ? 'addressSet \"%s\"'.format([self.addressSet]) : has(self.entity) && (has(self.cidr) || has(self.addressSet)) ? 'entity %s'.format([self.entity]) : 'prefixList \"%s\"'.format([self.prefixList])])"
// +kubebuilder:validation:XValidation:rule="!has(self.except) || has(self.cidr)",messageExpression="'except goes with cidr only, and this source has %s; leave except out, or write a cidr'.format([has(self.addressSet) ? 'addressSet \"%s\"'.format([self.addressSet]) : has(self.entity) ? 'entity %s'.format([self.entity]) : has(self.prefixList) ? 'prefixList \"%s\"'.format([self.prefixList]) : 'none'])",fieldPath=".except"
// +kubebuilder:validation:XValidation:rule="!has(self.except) || !has(self.cidr) || !isCIDR(self.cidr) || self.except.all(e, !isCIDR(e) || cidr(self.cidr).containsCIDR(e) && cidr(self.cidr).prefixLength() < cidr(e).prefixLength())",messageExpression="'except %s must lie inside cidr \"%s\" and be narrower; write networks that are part of it, or leave except out'.format([self.except, self.cidr])",fieldPath=".except"
// +kubebuilder:validation:XValidation:rule="!has(self.securityGroup) || has(self.cidr)",messageExpression="'securityGroup \"' + self.securityGroup + '\" needs a cidr in the same source, because nodes know no groups; write the network of its members as cidr'",fieldPath=".securityGroup"
type Source struct {
	// CIDR of the clients' addresses as the node sees them.
	// +optional
	CIDR CIDR `json:"cidr,omitempty"`
	// Except are parts of the CIDR that this source does not admit.
	// +kubebuilder:validation:MaxItems=32
	// +listType=set
	// +optional
	Except []CIDR `json:"except,omitempty"`
	// AddressSet by name. The set and the pool must allow it.
	// +optional
	AddressSet ObjectName `json:"addressSet,omitempty"`
	// Entity is Nodes, the addresses of all Nodes; Cluster, those and the networks that
	// Portreeve.spec.clusterCIDRs names; or World, everybody, if the guard-rails of the
	// pool allow it.
	// +optional
	Entity Entity `json:"entity,omitempty"`
	// PrefixList by its id: the manager looks up its entries through the cloud firewalls
	// of the pool, and nodes and clouds admit them. The pool must allow it.
	// +optional
	PrefixList PrefixListID `json:"prefixList,omitempty"`
	// SecurityGroup whose members the clouds admit, instead of all of the CIDR, which
	// bounds them on the nodes. The pool must allow it.
	// +optional
	SecurityGroup SecurityGroupID `json:"securityGroup,omitempty"`
	// Ports limits the source to some of the policy's ports, by Service port name.
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="size(self) > 0",message="ports is an empty list; name ports of the policy, or leave ports out to admit the source to all of them"
	// +kubebuilder:validation:items:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",messageExpression="'port name \"' + self + '\" must be the name of a port of the Service: at most 63 lower-case letters, digits and inner dashes'"
	// +listType=set
	// +optional
	Ports []string `json:"ports,omitempty"`
}
