package compile

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// AgentPods are the labels of the agents' pods, as config/agent has them.
var AgentPods = labels.Set{"app.kubernetes.io/name": "portreeve", "app.kubernetes.io/component": "agent"}

// AgentsDown returns the nodes whose agent does not work, as their kubelets say of its
// pod; one that has reported and has no pod any more is among them. Where there is no pod
// of any agent, they are run in another way, or all are gone at once, which says nothing
// of a single one: no node is returned.
func AgentsDown(pods []corev1.Pod, nodes []NodeReport) map[string]bool {
	if len(pods) == 0 {
		return nil
	}
	works := map[string]bool{}
	for i := range pods {
		if PodReady(&pods[i]) {
			works[pods[i].Spec.NodeName] = true
		}
	}
	down := map[string]bool{}
	for _, n := range nodes {
		if Enforceable(n.Node) && n.Datapath != nil && !works[n.Name] {
			down[n.Name] = true
		}
	}
	return down
}

// PodReady says whether the kubelet says that the pod's programs run and answer.
func PodReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
