package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// AddressSet is a named list of networks that pools and policies refer to. Nodes
// follow it directly, so a change of it reaches every policy that refers to it as
// one small update.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=addrset,categories=portreeve
// +kubebuilder:printcolumn:name="CIDRs",type=string,JSONPath=`.spec.cidrs`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type AddressSet struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +required
	Spec AddressSetSpec `json:"spec"`
}

// AddressSetSpec is what the platform knows about a place.
type AddressSetSpec struct {
	// CIDRs of the place, at most 1000; empty: nobody.
	// +kubebuilder:validation:MaxItems=1000
	// +listType=set
	// +optional
	CIDRs []CIDR `json:"cidrs,omitempty"`

	// AllowedFor says which policies may refer to the set. Absent: none, only the
	// defaults of pools.
	// +optional
	AllowedFor *NamespaceChoice `json:"allowedFor,omitempty"`
}

// NamespaceChoice picks namespaces.
type NamespaceChoice struct {
	// NamespaceSelector picks namespaces by their labels; {} picks all of them.
	NamespaceSelector LabelSelector `json:"namespaceSelector"`
}

// AddressSetList is a list of AddressSet.
//
// +kubebuilder:object:root=true
type AddressSetList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AddressSet `json:"items"`
}
