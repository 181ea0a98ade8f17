package v1alpha1

// ExternalTrafficPolicy says which pods answer at a node.
//
// +kubebuilder:validation:Enum=Cluster;Local
type ExternalTrafficPolicy string

// The values of ExternalTrafficPolicy.
const (
	// TrafficCluster: any pod, which sees the address of a node.
	TrafficCluster ExternalTrafficPolicy = "Cluster"
	// TrafficLocal: those of the node itself, which see the address of the client.
	TrafficLocal ExternalTrafficPolicy = "Local"
)

// SessionAffinity leads a client to the pod that answered it before.
type SessionAffinity struct {
	// ClientIPTimeoutSeconds is for how long a client address without a new connection
	// keeps its pod.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 86400",messageExpression="'clientIPTimeoutSeconds %d must be from 1 to 86400 seconds, which is a day; leave sessionAffinity out for none'.format([self])"
	ClientIPTimeoutSeconds int32 `json:"clientIPTimeoutSeconds"`
}
