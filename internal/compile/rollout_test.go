package compile

import (
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/portreeve/portreeve/api/v1alpha1"
	agentmanifest "github.com/portreeve/portreeve/config/agent"
	"github.com/portreeve/portreeve/test/health"
)

func agentBase(t *testing.T) *appsv1.DaemonSet {
	t.Helper()
	base := &appsv1.DaemonSet{}
	if err := yaml.UnmarshalStrict(agentmanifest.DaemonSet, base); err != nil {
		t.Fatal(err)
	}
	return base
}

func TestAgentsAreTheManifestAsTheObjectSays(t *testing.T) {
	base := agentBase(t)
	object := &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: "cluster", UID: "u1"}}
	object.Spec.Agent = &v1alpha1.AgentRollout{}
	plain := Agents(base, object, "released:v1", "ours", nil)
	pod := plain.Spec.Template.Spec
	if plain.Namespace != "ours" || pod.Containers[0].Image != "released:v1" || len(pod.Tolerations) != 1 || plain.OwnerReferences[0].UID != "u1" {
		t.Errorf("{} gives %+v", plain)
	}
	few := intstr.FromInt32(3)
	object.Spec.Agent = &v1alpha1.AgentRollout{
		Image: "mine:v2", NodeSelector: map[string]v1alpha1.LabelValue{"edge": "yes", "kubernetes.io/os": "windows"},
		Tolerations:       []v1alpha1.AgentToleration{{Key: "edge", Operator: corev1.TolerationOpExists}},
		Resources:         &v1alpha1.AgentResources{Limits: map[corev1.ResourceName]v1alpha1.Amount{corev1.ResourceMemory: "1Gi"}},
		PriorityClassName: "high", MaxUnavailable: &few, AnswerInterval: &metav1.Duration{},
	}
	wished := Agents(base, object, "released:v1", "ours", nil)
	pod = wished.Spec.Template.Spec
	switch agent := pod.Containers[0]; {
	case agent.Image != "mine:v2", pod.NodeSelector["edge"] != "yes", pod.Tolerations[0].Key != "edge", pod.PriorityClassName != "high",
		agent.Resources.Limits.Memory().String() != "1Gi", len(agent.Resources.Requests) != 0, wished.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable.IntValue() != 3:
		t.Errorf("the wishes are not in %+v", wished.Spec)
	case !slices.Contains(agent.Args, "--answer-interval=0s"), slices.ContainsFunc(plain.Spec.Template.Spec.Containers[0].Args, func(arg string) bool { return strings.Contains(arg, "answer") }):
		t.Errorf("args %q, and without a wish %q", agent.Args, plain.Spec.Template.Spec.Containers[0].Args)
	case pod.NodeSelector["kubernetes.io/os"] != "linux":
		t.Error("agents are sent to nodes that can't run them")
	}
	if base.Spec.Template.Spec.Containers[0].Image == "mine:v2" || base.Spec.Template.Spec.NodeSelector["edge"] != "" {
		t.Error("the manifest was changed")
	}
}

func TestAgentsAreWrittenOnlyWhenTheyDiffer(t *testing.T) {
	base := agentBase(t)
	object := &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: "cluster", UID: "u1"}}
	object.Spec.Agent = &v1alpha1.AgentRollout{Tolerations: []v1alpha1.AgentToleration{{Operator: corev1.TolerationOpExists}}}
	stands := func(change func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
		have := Agents(base, object, "released:v1", "ours", nil)
		have.Spec.RevisionHistoryLimit = new(int32) // what the API server fills in
		have.Spec.Template.Spec.SchedulerName = "default-scheduler"
		change(have)
		return have
	}
	for sentence, c := range map[string]struct {
		change  func(*appsv1.DaemonSet)
		image   string
		written bool
	}{
		"as wished": {func(*appsv1.DaemonSet) {}, "released:v1", false},
		"somebody restarted the agents": {func(d *appsv1.DaemonSet) {
			d.Spec.Template.Annotations = map[string]string{"kubectl.kubernetes.io/restartedAt": "now"}
		}, "released:v1", false},
		"another image":                  {func(*appsv1.DaemonSet) {}, "released:v2", true},
		"somebody took an argument away": {func(d *appsv1.DaemonSet) { d.Spec.Template.Spec.Containers[0].Args = nil }, "released:v1", true},
		"somebody runs it with more powers": {func(d *appsv1.DaemonSet) {
			d.Spec.Template.Spec.Containers[0].SecurityContext.Capabilities.Add = []corev1.Capability{"ALL"}
		}, "released:v1", true},
		"it is another's": {func(d *appsv1.DaemonSet) { d.OwnerReferences = nil }, "released:v1", true},
	} {
		t.Run(sentence, func(t *testing.T) {
			have := stands(c.change)
			want := Agents(base, object, c.image, "ours", have)
			if written := want != have; written != c.written {
				t.Fatalf("written: %t", written)
			}
			if c.written && Agents(base, object, c.image, "ours", want) != want {
				t.Error("what was written is written again")
			}
		})
	}
}

func TestNodesAreCleanedOnlyWhenTheObjectGoesAndSaysSo(t *testing.T) {
	base := agentBase(t)
	now := metav1.NewTime(time.Unix(1_800_000_000, 0))
	for _, c := range []struct {
		uninstall v1alpha1.Uninstall
		deleted   *metav1.Time
		cleans    bool
	}{{v1alpha1.UninstallClean, &now, true}, {v1alpha1.UninstallClean, nil, false}, {v1alpha1.UninstallRetain, &now, false}, {"", &now, false}} {
		object := &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: "cluster", DeletionTimestamp: c.deleted}}
		object.Spec.Agent, object.Spec.Uninstall = &v1alpha1.AgentRollout{}, c.uninstall
		args := Agents(base, object, "released:v1", "ours", nil).Spec.Template.Spec.Containers[0].Args
		if cleans := strings.HasPrefix(strings.Join(args, " "), "cleanup --stay --"); cleans != c.cleans {
			t.Errorf("uninstall %q, deleted %t: args %q", c.uninstall, c.deleted != nil, args)
		}
	}
}

func TestNodesAreCleanWhenEveryNewAgentIsReady(t *testing.T) {
	for _, c := range []struct {
		status appsv1.DaemonSetStatus
		rolled bool
	}{
		{appsv1.DaemonSetStatus{ObservedGeneration: 2, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberReady: 3}, true},
		{appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberReady: 3}, false},
		{appsv1.DaemonSetStatus{ObservedGeneration: 2, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 2, NumberReady: 3}, false},
		{appsv1.DaemonSetStatus{ObservedGeneration: 2, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberReady: 2}, false},
	} {
		if rolled := Rolled(&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Status: c.status}); rolled != c.rolled {
			t.Errorf("%+v: rolled %t", c.status, rolled)
		}
	}
}

func TestTheInstallationSaysHowFarItsAgentsAre(t *testing.T) {
	for sentence, c := range map[string]struct {
		spec   *v1alpha1.AgentRollout
		seen   InstallationSeen
		ready  metav1.ConditionStatus
		reason string
		says   string
	}{
		"run by others": {nil, InstallationSeen{}, metav1.ConditionTrue, v1alpha1.ReasonOK, "as wished"},
		"no image":      {&v1alpha1.AgentRollout{}, InstallationSeen{}, metav1.ConditionFalse, v1alpha1.ReasonInvalid, "spec.agent.image is not set"},
		"refused":       {&v1alpha1.AgentRollout{}, InstallationSeen{AgentsRefused: "quota"}, metav1.ConditionFalse, v1alpha1.ReasonDenied, "refuses DaemonSet portreeve-agent: quota"},
		"on the way":    {&v1alpha1.AgentRollout{}, InstallationSeen{Agents: &v1alpha1.AgentStatus{Image: "a:v2", Nodes: 3, Updated: 1, Ready: 2}}, metav1.ConditionFalse, v1alpha1.ReasonProgressing, "agents: 1 of 3 nodes have a:v2 as wished, 2 are ready"},
		"on every node": {&v1alpha1.AgentRollout{}, InstallationSeen{AgentsRolled: true, Agents: &v1alpha1.AgentStatus{Image: "a:v2", Nodes: 3, Updated: 3, Ready: 3}}, metav1.ConditionTrue, v1alpha1.ReasonOK, "as wished"},
	} {
		t.Run(sentence, func(t *testing.T) {
			object := &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Spec: v1alpha1.PortreeveSpec{Agent: c.spec}}
			status := InstallationStatus(object, c.seen, metav1.NewTime(time.Unix(1_800_000_000, 0)))
			for _, ready := range status.Conditions {
				if ready.Type == v1alpha1.Ready && (ready.Status != c.ready || ready.Reason != c.reason || !strings.Contains(ready.Message, c.says)) {
					t.Errorf("Ready=%s %s: %s", ready.Status, ready.Reason, ready.Message)
				}
			}
			object.Status = status
			verdict := health.Stuck
			if c.ready == metav1.ConditionTrue {
				verdict = health.InForce
			} else if c.reason == v1alpha1.ReasonProgressing {
				verdict = health.Working
			}
			health.Check(t, object, verdict)
		})
	}
}
