// Package v1alpha1 is the API group portreeve.dev/v1alpha1: its kinds, what the
// API server validates by itself (schema and CEL, so that it holds with the
// manager down), and the closed lists of condition types and reasons.
//
// A field exists only when it is honoured; nothing is accepted and ignored.
//
// +kubebuilder:object:generate=true
// +groupName=portreeve.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is portreeve.dev/v1alpha1.
var GroupVersion = schema.GroupVersion{Group: "portreeve.dev", Version: "v1alpha1"}

var schemeBuilder = runtime.NewSchemeBuilder(func(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&NodePortPool{}, &NodePortPoolList{},
		&NodePortPolicy{}, &NodePortPolicyList{},
		&NodePortAllocation{}, &NodePortAllocationList{},
		&CloudFirewall{}, &CloudFirewallList{},
		&NodeDatapath{}, &NodeDatapathList{},
		&AddressSet{}, &AddressSetList{},
		&Portreeve{}, &PortreeveList{},
		&GatewaySet{}, &GatewaySetList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
})

// AddToScheme registers the kinds of this package.
var AddToScheme = schemeBuilder.AddToScheme

// Marks that others can see on the objects we write.
const (
	// LabelPolicy on a Service names the policy whose companion it is.
	LabelPolicy = "portreeve.dev/policy"
	// LabelHold on a Service in our namespace says that it only holds free numbers
	// of pools in the API server; its value is "true".
	LabelHold = "portreeve.dev/hold"
	// LabelEntity on an AddressSet of the manager's own names the entity whose addresses
	// it has: Nodes.
	LabelEntity = "portreeve.dev/entity"
	// LabelPrefixList on an AddressSet of the manager's own is the id of the prefix list
	// whose entries it has; AnnotationCloudFirewall names, for people, the CloudFirewall
	// through which they were looked up.
	LabelPrefixList         = "portreeve.dev/prefix-list"
	AnnotationCloudFirewall = "portreeve.dev/cloud-firewall"
	// AnnotationChosenFrom on a GatewaySet says, for people, how many of which nodes it
	// is to have.
	AnnotationChosenFrom = "portreeve.dev/chosen-from"
	// AnnotationConfirmedCluster on a CloudFirewall is the UID of the namespace
	// kube-system of the cluster that may change its rules although a copy of the
	// cluster has some there.
	AnnotationConfirmedCluster = "portreeve.dev/confirmed-cluster"
	// LabelFront on a ConfigMap or DNSEndpoint of ours names the policy that it is for.
	LabelFront = "portreeve.dev/front"
	// AnnotationFrontNodes and AnnotationFrontPorts, on such an object, are the nodes that
	// it names and their node ports.
	AnnotationFrontNodes = "portreeve.dev/front-nodes"
	AnnotationFrontPorts = "portreeve.dev/front-ports"
	// ServiceProxyName is the value of service.kubernetes.io/service-proxy-name
	// that takes a Service away from kube-proxy which only holds numbers in the API
	// server: a closing companion, or a hold.
	ServiceProxyName = "portreeve.dev"
	// AnnotationLent on a Service in place remembers what its fields said before a policy
	// changed them, for the day on which the policy goes.
	AnnotationLent = "portreeve.dev/lent"
	// FieldOwner is the field manager of everything the manager writes.
	FieldOwner = "portreeve"
	// CompanionSuffix turns a policy's name into its companion Service's name.
	CompanionSuffix = "-nodeport"
	// AnnotationSpecHash on the agents' DaemonSet is a sum over what we wished it to be.
	AnnotationSpecHash = "portreeve.dev/spec-hash"
	// AnnotationRelease on an allocation ends its waiting for nodes and clouds that
	// can't answer. Only the platform role may write allocations' annotations.
	AnnotationRelease = "portreeve.dev/release"
)
