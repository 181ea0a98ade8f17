package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// Agents returns the DaemonSet that runs the agents as the Portreeve object says, made of
// the manifest base. have is the one that is there, nil if none is; where it is as wished
// already, Agents returns it unchanged. image is what runs where the object names none.
//
// An object that is being deleted and whose nodes are to be cleaned gets agents that
// clean, and are Ready when they have.
func Agents(base *appsv1.DaemonSet, object *v1alpha1.Portreeve, image, namespace string, have *appsv1.DaemonSet) *appsv1.DaemonSet {
	want := agentsAsWished(base, object, image)
	sum := sumOf(want.Spec)
	if have == nil {
		want.Namespace = namespace
		want.Annotations = map[string]string{v1alpha1.AnnotationSpecHash: sum}
		want.OwnerReferences = []metav1.OwnerReference{ownerOf(object)}
		return want
	}
	// The sum shows what we wished otherwise before, the comparison what others changed.
	// What they added, such as the annotation of a restart, may stay.
	owned := slices.ContainsFunc(have.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == object.UID })
	if owned && have.Annotations[v1alpha1.AnnotationSpecHash] == sum && equality.Semantic.DeepDerivative(want.Spec, have.Spec) {
		return have
	}
	out := have.DeepCopy()
	selector := out.Spec.Selector // can't be changed
	out.Spec = want.Spec
	out.Spec.Selector = selector
	if out.Annotations == nil {
		out.Annotations = map[string]string{}
	}
	out.Annotations[v1alpha1.AnnotationSpecHash] = sum
	if !owned {
		out.OwnerReferences = append(out.OwnerReferences, ownerOf(object))
	}
	return out
}

// Cleaning says whether the nodes are to be cleaned before the object may go.
func Cleaning(object *v1alpha1.Portreeve) bool {
	return object.DeletionTimestamp != nil && CleansAtTheEnd(object)
}

// CleansAtTheEnd says whether the object has to wait, when it is deleted, until its nodes
// are clean.
func CleansAtTheEnd(object *v1alpha1.Portreeve) bool {
	return object.Spec.Agent != nil && object.Spec.Uninstall == v1alpha1.UninstallClean
}

// Rolled says whether every node has the agents that the DaemonSet asks for, Ready.
func Rolled(have *appsv1.DaemonSet) bool {
	s := have.Status
	return s.ObservedGeneration >= have.Generation && s.UpdatedNumberScheduled >= s.DesiredNumberScheduled && s.NumberReady >= s.DesiredNumberScheduled
}

// AgentStatusOf reads how far the agents are.
func AgentStatusOf(have *appsv1.DaemonSet) *v1alpha1.AgentStatus {
	out := &v1alpha1.AgentStatus{Image: have.Spec.Template.Spec.Containers[0].Image, Nodes: have.Status.DesiredNumberScheduled, Ready: have.Status.NumberReady}
	if have.Status.ObservedGeneration >= have.Generation {
		out.Updated = have.Status.UpdatedNumberScheduled
	}
	return out
}

// agentsGate says in the installation's conditions how far the agents are; false where
// the manager does not run them.
func agentsGate(object *v1alpha1.Portreeve, seen InstallationSeen) (gate, bool) {
	switch s := seen.Agents; {
	case object.Spec.Agent == nil:
		return gate{}, false
	case seen.AgentsRefused != "":
		return stalled(v1alpha1.Accepted, v1alpha1.ReasonDenied, fmt.Sprintf(
			"the API server refuses DaemonSet %s: %s; mend spec.agent, or what forbids it", v1alpha1.AgentName, seen.AgentsRefused)), true
	case s == nil:
		return stalled(v1alpha1.Accepted, v1alpha1.ReasonInvalid,
			"spec.agent.image is not set, and the manager was started without RELATED_IMAGE_AGENT; name the image of the agents"), true
	case seen.AgentsRolled:
		return passed(v1alpha1.Accepted, v1alpha1.ReasonOK, fmt.Sprintf("agents run on all %d nodes that are to have one", s.Nodes)), true
	case Cleaning(object):
		return waiting(v1alpha1.Accepted, v1alpha1.ReasonProgressing, fmt.Sprintf(
			"%d of %d nodes are being cleaned; to go without it, set spec.uninstall to Retain", s.Nodes-min(s.Ready, s.Updated), s.Nodes)), true
	default:
		return waiting(v1alpha1.Accepted, v1alpha1.ReasonProgressing, fmt.Sprintf(
			"agents: %d of %d nodes have %s as wished, %d are ready; see pods of DaemonSet %s", s.Updated, s.Nodes, s.Image, s.Ready, v1alpha1.AgentName)), true
	}
}

func agentsAsWished(base *appsv1.DaemonSet, object *v1alpha1.Portreeve, image string) *appsv1.DaemonSet {
	want, wish := base.DeepCopy(), object.Spec.Agent
	pod := &want.Spec.Template.Spec
	agent := &pod.Containers[0]
	agent.Image = image
	if wish.Image != "" {
		agent.Image = wish.Image
	}
	if pod.NodeSelector == nil {
		pod.NodeSelector = map[string]string{}
	}
	linux := maps.Clone(pod.NodeSelector)
	for key, value := range wish.NodeSelector {
		pod.NodeSelector[key] = string(value)
	}
	maps.Copy(pod.NodeSelector, linux)
	if len(wish.Tolerations) > 0 {
		pod.Tolerations = nil
		for _, t := range wish.Tolerations {
			pod.Tolerations = append(pod.Tolerations, corev1.Toleration{
				Key: t.Key, Operator: t.Operator, Value: string(t.Value), Effect: t.Effect, TolerationSeconds: t.TolerationSeconds,
			})
		}
	}
	if wish.Resources != nil {
		agent.Resources = corev1.ResourceRequirements{Requests: amounts(wish.Resources.Requests), Limits: amounts(wish.Resources.Limits)}
	}
	if wish.PriorityClassName != "" {
		pod.PriorityClassName = wish.PriorityClassName
	}
	if wish.MaxUnavailable != nil {
		want.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = wish.MaxUnavailable
	}
	if d := wish.AnswerInterval; d != nil {
		agent.Args = slices.Concat(agent.Args, []string{"--answer-interval=" + d.Duration.String()})
	}
	if Cleaning(object) {
		// Nothing filters any more where one agent has gone: no reason to be slow.
		all := intstr.FromString("100%")
		want.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = &all
		agent.Args = slices.Concat([]string{"cleanup", "--stay"}, agent.Args)
	}
	return want
}

// amounts reads what the schema has looked at; what it would not let through is left out.
func amounts(wish map[corev1.ResourceName]v1alpha1.Amount) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, amount := range wish {
		if quantity, err := resource.ParseQuantity(string(amount)); err == nil {
			out[name] = quantity
		}
	}
	return out
}

// ownerOf lets garbage collection remove the agents after the object. It does not block
// its deletion, which would ask for a right to the object's finalizers.
func ownerOf(object *v1alpha1.Portreeve) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Portreeve", Name: object.Name, UID: object.UID}
}

func sumOf(spec appsv1.DaemonSetSpec) string {
	text, err := json.Marshal(spec)
	if err != nil {
		panic(err) // a spec that was read from JSON
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// Disowned is the DaemonSet of an object that no longer asks for one: somebody else runs
// those agents now, and they are not to go with the object.
func Disowned(object *v1alpha1.Portreeve, have *appsv1.DaemonSet) *appsv1.DaemonSet {
	out := have.DeepCopy()
	out.OwnerReferences = slices.DeleteFunc(out.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == object.UID })
	return out
}
