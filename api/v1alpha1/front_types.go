package v1alpha1

// Front says what is kept for those who lead clients to the nodes, in the namespace of
// the policy: the addresses of nodes that answer, current as nodes come and go. Every
// object is the policy's and ends with it; one that is not ours is never touched.
//
// +kubebuilder:validation:XValidation:rule="has(self.nginx) || has(self.haproxy) || has(self.dns)",message="front names none of nginx, haproxy and dns; set one of them, or leave front out"
// +kubebuilder:validation:XValidation:rule="!has(self.nginx) || !has(self.haproxy) || self.nginx.configMap != self.haproxy.configMap",messageExpression="'configMap \"%s\" is named by nginx and haproxy; give each a ConfigMap of its own'.format([self.haproxy.configMap])",fieldPath=".haproxy.configMap"
type Front struct {
	// Nginx keeps a ConfigMap with a configuration for the stream block of nginx, under
	// the key stream.conf: TCP and UDP.
	// +optional
	Nginx *ProxyFront `json:"nginx,omitempty"`

	// HAProxy keeps a ConfigMap with a configuration for HAProxy, under the key
	// haproxy.cfg: TCP only.
	// +optional
	HAProxy *ProxyFront `json:"haproxy,omitempty"`

	// DNS keeps a DNSEndpoint <policy>-nodeport for external-dns, with records of types A
	// and AAAA.
	// +optional
	DNS *DNSFront `json:"dns,omitempty"`

	// Ports says where nginx and HAProxy listen. One that is not named here: on the number
	// of the Service port.
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:XValidation:rule="self.all(p, self.exists_one(q, q.port == p.port))",messageExpression="'ports lists port %d more than once; list each port once'.format([self.filter(p, !self.exists_one(q, q.port == p.port))[0].port])"
	// +listType=atomic
	// +optional
	Ports []FrontPort `json:"ports,omitempty"`

	// IPFamilies of the addresses, and on which nginx and HAProxy listen. Absent: those
	// of the Service.
	// +kubebuilder:validation:MaxItems=2
	// +kubebuilder:validation:XValidation:rule="size(self) > 0",message="ipFamilies is an empty list; name IPv4, IPv6 or both, or leave ipFamilies out for those of the Service"
	// +listType=set
	// +optional
	IPFamilies []IPFamily `json:"ipFamilies,omitempty"`

	// MaxNodes is how many nodes are named at most. Of more, a sample that stays as it is
	// while they answer.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 64",messageExpression="'maxNodes %d must be from 1 to 64; leave it out for 16'.format([self])"
	// +default=16
	// +optional
	MaxNodes int32 `json:"maxNodes,omitempty"`
}

// ProxyFront is the configuration of one kind of proxy.
type ProxyFront struct {
	// ConfigMap is the name of the ConfigMap.
	ConfigMap ObjectName `json:"configMap"`
	// AddressType says by which of its addresses a node is named.
	// +default="InternalIP"
	// +optional
	AddressType AddressType `json:"addressType,omitempty"`
}

// DNSFront is a host name for the nodes.
type DNSFront struct {
	// Hostname of the records. It must lie in one of the pool's guardrails.dnsDomains.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^([*][.])?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?[.])+[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",messageExpression="'hostname \"' + self + '\" must be a full host name of lower-case letters, digits, inner dashes and dots; write for example shop.example.org'"
	Hostname string `json:"hostname"`
	// TTLSeconds is how long resolvers may keep the records.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 86400",messageExpression="'ttlSeconds %d must be from 1 to 86400 seconds; leave it out for 60'.format([self])"
	// +default=60
	// +optional
	TTLSeconds int32 `json:"ttlSeconds,omitempty"`
	// AddressType says which addresses of a node are published.
	// +default="ExternalIP"
	// +optional
	AddressType AddressType `json:"addressType,omitempty"`
}

// FrontPort says where the proxies listen for one port of the Service.
type FrontPort struct {
	// Port number of the Service port, of all its protocols.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 65535",messageExpression="'port %d must be from 1 to 65535; write the port of the Service, not its target port'.format([self])"
	Port int32 `json:"port"`
	// Listen is the number on which the proxies listen for it.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 65535",messageExpression="'listen %d must be from 1 to 65535; leave the entry out to listen on the port of the Service'.format([self])"
	Listen int32 `json:"listen"`
}

// AddressType is a kind of addresses in the status of a Node.
//
// +kubebuilder:validation:Enum=InternalIP;ExternalIP
type AddressType string

// The values of AddressType.
const (
	InternalIP AddressType = "InternalIP"
	ExternalIP AddressType = "ExternalIP"
)

// IPFamily is IPv4 or IPv6.
//
// +kubebuilder:validation:Enum=IPv4;IPv6
type IPFamily string

// DNSDomain is a domain, with all that is below it.
//
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:XValidation:rule="self.matches('^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?[.])*[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",messageExpression="'domain \"' + self + '\" must be lower-case letters, digits, inner dashes and dots, without a star; write for example shop.example.org, which has all that is below it'"
type DNSDomain string
