package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// GatewayMode says how many of the selected nodes answer.
type GatewayMode string

// The modes of gateways.
const (
	GatewaysDistributed GatewayMode = "Distributed"
	GatewaysCentralized GatewayMode = "Centralized"
)

// Gateways are the nodes that answer on a policy's ports. The others refuse them.
//
// +kubebuilder:validation:XValidation:rule="!has(self.active) || self.mode == 'Centralized'",messageExpression="'active goes with mode Centralized only, and mode is %s; remove active, since every selected node answers'.format([self.mode])",fieldPath=".active"
type Gateways struct {
	// Mode: Distributed, every selected node answers; or Centralized, so many of them as
	// active says, and when one of those is lost another takes its place.
	// +kubebuilder:validation:Enum=Distributed;Centralized
	Mode GatewayMode `json:"mode"`
	// NodeSelector picks nodes among those that the pool allows. Absent: all of them.
	// +optional
	NodeSelector *LabelSelector `json:"nodeSelector,omitempty"`
	// Active is how many nodes answer in mode Centralized, 1 to 16; absent: 1.
	// +kubebuilder:validation:XValidation:rule="1 <= self && self <= 16",messageExpression="'active %d must be from 1 to 16; for more, use mode Distributed with a nodeSelector'.format([self])"
	// +optional
	Active int32 `json:"active,omitempty"`
}

// ClaimedGateways are the nodes that answer on an allocation's number, among those that
// its nodeSelector picks.
//
// +kubebuilder:validation:XValidation:rule="has(self.set) == has(self.active)",messageExpression="has(self.set) ? 'set %s is named without active; say how many nodes are to be in it'.format([self.set]) : 'active is %d without a set; name the GatewaySet that holds the nodes'.format([self.active])",fieldPath=".set"
type ClaimedGateways struct {
	// NodeSelector picks nodes. Absent: all of them.
	// +optional
	NodeSelector *LabelSelector `json:"nodeSelector,omitempty"`
	// Active is how many of them answer. Absent: every one.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=16
	// +optional
	Active int32 `json:"active,omitempty"`
	// Set names the GatewaySet that lists those who do. Where it does not exist, nobody
	// answers.
	// +optional
	Set ObjectName `json:"set,omitempty"`
}

// GatewaySet lists the nodes that are gateways now, for all allocations that choose in
// the same way: so many, among the same nodes. Its name is made of that. One write of it
// moves them all. Only the manager writes it.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=gwset,categories=portreeve
// +kubebuilder:printcolumn:name="Nodes",type=string,JSONPath=`.spec.nodes`
// +kubebuilder:printcolumn:name="Chosen",type=string,JSONPath=`.metadata.annotations.portreeve\.dev/chosen-from`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type GatewaySet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec GatewaySetSpec `json:"spec"`
}

// GatewaySetSpec is who answers.
type GatewaySetSpec struct {
	// Nodes that answer, by their names; empty: nobody.
	// +kubebuilder:validation:MaxItems=16
	// +listType=set
	// +optional
	Nodes []ObjectName `json:"nodes,omitempty"`
}

// GatewaySetList is a list of GatewaySet.
//
// +kubebuilder:object:root=true
type GatewaySetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []GatewaySet `json:"items"`
}
