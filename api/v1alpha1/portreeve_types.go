package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// InstallationName is the name of the one Portreeve object.
const InstallationName = "cluster"

// Portreeve is the installation: what holds for all pools. There is at most one,
// named cluster; without it the defaults hold.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,path=portreeves,shortName=reeve,categories=portreeve
// +kubebuilder:printcolumn:name="Guard",type=string,JSONPath=`.spec.guard`
// +kubebuilder:printcolumn:name="Lockdown",type=boolean,JSONPath=`.spec.lockdown`
// +kubebuilder:printcolumn:name="Node Ports",type=string,JSONPath=`.status.nodePortRange`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:validation:XValidation:rule="self.metadata.name == 'cluster'",messageExpression="'metadata.name \"' + self.metadata.name + '\" must be cluster, because there is one installation; rename it'"
type Portreeve struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +default={}
	// +optional
	Spec PortreeveSpec `json:"spec,omitempty,omitzero"`
	// +default={"observedGeneration": -1}
	// +optional
	Status PortreeveStatus `json:"status,omitempty"`
}

// GuardMode is what admission does with objects that would reach around us.
//
// +kubebuilder:validation:Enum=Off;Audit;Enforce
type GuardMode string

// The modes of the guard.
const (
	// GuardOff: no admission policies of ours.
	GuardOff GuardMode = "Off"
	// GuardAudit: warnings and audit annotations.
	GuardAudit GuardMode = "Audit"
	// GuardEnforce: such objects are refused.
	GuardEnforce GuardMode = "Enforce"
)

// PortreeveSpec is what the platform decides for the whole cluster.
type PortreeveSpec struct {
	// NodePortRange of the API server (its flag --service-node-port-range). Found by
	// a dry run when unset.
	// +optional
	NodePortRange PortSpan `json:"nodePortRange,omitempty"`

	// FailSafePorts no pool may hold and no rule may touch, besides the built-in ones.
	// +kubebuilder:validation:MaxItems=64
	// +listType=set
	// +optional
	FailSafePorts []PortSpan `json:"failSafePorts,omitempty"`

	// Guard is what admission does with objects that would reach around us.
	// +default="Audit"
	// +optional
	Guard GuardMode `json:"guard,omitempty"`

	// DenyUndeclared also guards against NodePort Services that no policy declares,
	// in the namespaces it picks.
	// +optional
	DenyUndeclared *NamespaceChoice `json:"denyUndeclared,omitempty"`

	// Firewall with which nodes filter: Auto is nf_tables where the kernel has it, else
	// iptables and ipset.
	// +default="Auto"
	// +optional
	Firewall Firewall `json:"firewall,omitempty"`

	// ClusterCIDRs are the networks of the cluster besides its Nodes: those of its pods.
	// With the Nodes they are entity Cluster, which nobody can use while there are none.
	// +kubebuilder:validation:MaxItems=64
	// +listType=set
	// +optional
	ClusterCIDRs []CIDR `json:"clusterCIDRs,omitempty"`

	// DenyAddressSets names AddressSets whose networks no port of any pool admits,
	// whatever policies say.
	// +kubebuilder:validation:MaxItems=16
	// +listType=set
	// +optional
	DenyAddressSets []ObjectName `json:"denyAddressSets,omitempty"`

	// NodeAddresses picks, by their networks, those of a node's own addresses on which
	// ports are judged; on the others nothing is ever dropped. Empty: all addresses.
	// +kubebuilder:validation:MaxItems=64
	// +listType=set
	// +optional
	NodeAddresses []Network `json:"nodeAddresses,omitempty"`

	// Lockdown closes every port of every pool to everybody, at once, until it is
	// taken back. Nodes obey it by themselves, without the manager.
	// +optional
	Lockdown bool `json:"lockdown,omitempty"`

	// Agent that the manager runs on every node, by a DaemonSet portreeve-agent in its own
	// namespace; {} is enough. Unset: whoever installed Portreeve runs the agents, and a
	// DaemonSet that is there already stays as it is.
	// +optional
	Agent *AgentRollout `json:"agent,omitempty"`

	// Uninstall is what becomes of the nodes when this object is deleted, and with it the
	// agents that the manager runs: Retain leaves what each node enforces as it is; Clean
	// first removes every trace of ours from each node, whose pool ports are then
	// open to everybody for whom a Service stands there.
	// +default="Retain"
	// +optional
	Uninstall Uninstall `json:"uninstall,omitempty"`
}

// Uninstall is what becomes of the nodes when the installation goes.
//
// +kubebuilder:validation:Enum=Retain;Clean
type Uninstall string

// What becomes of the nodes.
const (
	// UninstallRetain leaves what nodes enforce as it is.
	UninstallRetain Uninstall = "Retain"
	// UninstallClean removes it, on every node, before the agents go.
	UninstallClean Uninstall = "Clean"
)

// FinalizerClean is on a Portreeve object whose nodes are to be cleaned before it goes.
const FinalizerClean = "portreeve.dev/clean"

// AgentName is the name of the DaemonSet that runs the agents, and of their
// ServiceAccount.
const AgentName = "portreeve-agent"

// AgentRollout is how the manager runs the agents.
type AgentRollout struct {
	// Image of the agent; default the one that was released with the manager (its
	// environment variable RELATED_IMAGE_AGENT).
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:XValidation:rule="self.matches('^[A-Za-z0-9][A-Za-z0-9._:/@-]*$')",messageExpression="'image \"' + self + '\" is not the name of an image; write for example example.com/portreeve-agent:v0.1.0'"
	// +optional
	Image string `json:"image,omitempty"`

	// NodeSelector picks the nodes that get an agent, besides kubernetes.io/os: linux.
	// A node without one is Ungated: nothing filters there.
	// +kubebuilder:validation:MaxProperties=16
	// +kubebuilder:validation:XValidation:rule="self.all(k, size(k) <= 317 && k.indexOf('/') <= 253 && k.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))",messageExpression="'label key \"' + self.filter(k, !(size(k) <= 317 && k.indexOf('/') <= 253 && k.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$')))[0] + '\" can not be the key of a label; write for example team or example.com/team'"
	// +optional
	NodeSelector map[string]LabelValue `json:"nodeSelector,omitempty"`

	// Tolerations of the agents; default all taints, because every node carries traffic to
	// node ports.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	Tolerations []AgentToleration `json:"tolerations,omitempty"`

	// Resources of one agent; default 20m CPU and 48Mi asked for, and at most 192Mi.
	// +optional
	Resources *AgentResources `json:"resources,omitempty"`

	// PriorityClassName of the agents; default system-node-critical.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:XValidation:rule="self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",messageExpression="'priority class \"' + self + '\" is not the name of an object; write it as in metadata.name of the PriorityClass you mean'"
	// +optional
	PriorityClassName string `json:"priorityClassName,omitempty"`

	// MaxUnavailable is how many agents are replaced at a time, as a number or in percent
	// of the nodes; default 10%. Rules stay in force meanwhile.
	// +kubebuilder:validation:XValidation:rule="type(self) == int ? self > 0 : self.matches('^([1-9][0-9]?|100)%$')",messageExpression="'maxUnavailable ' + string(self) + ' is neither a number above 0 nor a share of 1% to 100%; write for example 1 or 10%'"
	// +optional
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`

	// AnswerInterval is how often each agent connects to each open TCP port of its own node,
	// to see whether anything answers there; 0s for never, default 5m.
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,6}(ms|s|m|h)){1,4}$') && (duration(self) == duration('0s') || duration(self) >= duration('10s') && duration(self) <= duration('24h'))",messageExpression="'answerInterval \"' + self + '\" must be 0s for never, or a duration from 10s to 24h, in whole hours, minutes and seconds; write for example 5m or 1h30m'"
	// +optional
	AnswerInterval *metav1.Duration `json:"answerInterval,omitempty"`
}

// LabelValue is the value of a label.
//
// +kubebuilder:validation:MaxLength=253
// +kubebuilder:validation:XValidation:rule="self.matches('^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$')",messageExpression="'label value \"' + self + '\" can not be the value of a label: at most 63 letters, digits and inner dashes, dots and underscores; write for example payments'"
type LabelValue string

// AgentToleration is a pod's toleration of a taint, with the rules that the API server
// has for it.
//
// +kubebuilder:validation:XValidation:rule="has(self.key) && size(self.key) > 0 || (has(self.operator) && self.operator == 'Exists')",message="a toleration without a key tolerates every taint, which only operator Exists may say; name the key of the taint, or write operator: Exists"
// +kubebuilder:validation:XValidation:rule="!(has(self.operator) && self.operator == 'Exists' && has(self.value) && size(self.value) > 0)",messageExpression="'a toleration with operator Exists compares no value, and there is \"' + self.value + '\"; leave value out, or write operator: Equal'"
// +kubebuilder:validation:XValidation:rule="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",message="tolerationSeconds is for effect NoExecute alone; leave it out, or write effect: NoExecute"
type AgentToleration struct {
	// Key of the taint; none, with operator Exists, means all taints.
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:XValidation:rule="self == '' || self.matches('^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$')",messageExpression="'key \"' + self + '\" can not be the key of a taint; write for example team or example.com/team'"
	// +optional
	Key string `json:"key,omitempty"`
	// Operator: Equal (the default) compares the value as well, Exists does not.
	// +kubebuilder:validation:Enum=Exists;Equal
	// +optional
	Operator corev1.TolerationOperator `json:"operator,omitempty"`
	// Value of the taint.
	// +optional
	Value LabelValue `json:"value,omitempty"`
	// Effect of the taint; none means all.
	// +kubebuilder:validation:Enum=NoSchedule;PreferNoSchedule;NoExecute
	// +optional
	Effect corev1.TaintEffect `json:"effect,omitempty"`
	// TolerationSeconds is how long, in seconds, an agent stays on a node with a taint of
	// effect NoExecute; unset: for ever.
	// +kubebuilder:validation:Minimum=0
	// +optional
	TolerationSeconds *int64 `json:"tolerationSeconds,omitempty"`
}

// Amount of a resource, as Kubernetes writes quantities.
//
// +kubebuilder:validation:MaxLength=32
// +kubebuilder:validation:XValidation:rule="isQuantity(self) && !quantity(self).isLessThan(quantity('0'))",messageExpression="'\"' + self + '\" is not an amount of a resource; write for example 100m or 192Mi'"
type Amount string

// AgentResources are a container's.
type AgentResources struct {
	// Requests by the name of the resource.
	// +kubebuilder:validation:MaxProperties=8
	// +optional
	Requests map[corev1.ResourceName]Amount `json:"requests,omitempty"`
	// Limits by the name of the resource.
	// +kubebuilder:validation:MaxProperties=8
	// +optional
	Limits map[corev1.ResourceName]Amount `json:"limits,omitempty"`
}

// Network in CIDR notation, IPv4 or IPv6, without host bits; 0.0.0.0/0 and ::/0 are all
// addresses of a family.
//
// +kubebuilder:validation:MaxLength=128
// +kubebuilder:validation:XValidation:rule="isCIDR(self)",messageExpression="isIP(self) ? 'network \"%s\" is a single address; write %s/%d'.format([self, self, ip(self).family() == 4 ? 32 : 128]) : 'network \"%s\" is not a network in CIDR notation; write for example 192.0.2.0/24 or 2001:db8:113::/48, without spaces and leading zeros, one to an entry'.format([self])"
// +kubebuilder:validation:XValidation:rule="!isCIDR(self) || cidr(self) == cidr(self).masked()",messageExpression="'network \"%s\" has host bits set; write %s'.format([self, string(cidr(self).masked())])"
type Network string

// PortreeveStatus is written by the manager.
type PortreeveStatus struct {
	// NodePortRange in use: given, or found.
	// +optional
	NodePortRange string `json:"nodePortRange,omitempty"`
	// Guard that is in force.
	// +optional
	Guard GuardMode `json:"guard,omitempty"`
	// Agent is how far the agents are that the manager runs.
	// +optional
	Agent *AgentStatus `json:"agent,omitempty"`
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

// AgentStatus is how far the DaemonSet of the agents is.
type AgentStatus struct {
	// Image that is rolled out.
	Image string `json:"image"`
	// Nodes that are to have an agent.
	Nodes int32 `json:"nodes"`
	// Updated of these have this image with these settings.
	Updated int32 `json:"updated"`
	// Ready agents, of whatever image: they enforce what they have read.
	Ready int32 `json:"ready"`
}

// PortreeveList is a list of Portreeve.
//
// +kubebuilder:object:root=true
type PortreeveList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Portreeve `json:"items"`
}
