// Package rollout has the manager run the agents: by a DaemonSet, which a real
// controller and a real scheduler turn into pods on every node.
package rollout

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

const within = time.Minute

// inPod runs the agent as its image would, with the node's own disk where a container
// would have its volumes.
const inPod = `program=$1; shift; exec "$AGENT" "$@" --kubeconfig="$KUBECONFIG" --state-dir="$LAB_NODE_DIR" --reserved-ports-file=/proc/sys/net/ipv4/ip_local_reserved_ports`

type scene struct {
	*testing.T
	ctx    context.Context
	town   *stage.Stage
	client *lab.Client
	object *v1alpha1.Portreeve
	policy *v1alpha1.NodePortPolicy
	port   uint16
}

// The whole life of agents that the manager runs: installed by {}, replaced by another
// image while rules stand, mended after a stranger's edit, left with the rules in force,
// taken over, cleaned away, and begun anew.
func TestAgentsComeAreReplacedAndGo(t *testing.T) {
	s := setUp(t)
	s.installed()
	s.exposed()
	s.replaced()
	s.mended()
	s.died()
	s.left()
	s.cleaned()
	s.returned()
}

func setUp(t *testing.T) *scene {
	t.Helper()
	ctrllog.SetLogger(logr.Discard())
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	bin, err := stage.Build(ctx)
	t.Cleanup(func() { os.RemoveAll(bin) })
	if err != nil {
		t.Fatal(err)
	}
	image := lab.Image{Argv: []string{"/bin/sh", "-c", inPod, "agent-in-a-pod"}, Env: []string{"AGENT=" + filepath.Join(bin, "agent")}}
	cluster, err := lab.Start(ctx, lab.Options{
		Nodes: 3, KubeProxy: lab.NFTables, ControllerManager: true, Scheduler: true, LogDir: os.Getenv("PORTREEVE_LAB_LOGS"),
		Images: map[string]lab.Image{"portreeve-agent:v1": image, "portreeve-agent:v2": image},
	})
	if err != nil {
		t.Fatal(err)
	}
	cluster.CloseOnInterrupt()
	t.Cleanup(func() { cluster.Close() })
	town, err := stage.New(ctx, cluster, bin)
	if err != nil {
		t.Fatal(err)
	}
	town.Lease = 15 * time.Second // the machine may be busy, and this is not about leaders
	if _, err := town.RunManager(ctx, "manager", nil, "--metrics-bind-address", "127.0.0.1:8080", "--agent-image", "portreeve-agent:v1"); err != nil {
		t.Fatal(err)
	}
	office, err := town.AddClient("office", netip.MustParsePrefix("203.0.113.0/28"))
	if err != nil {
		t.Fatal(err)
	}
	return &scene{T: t, ctx: ctx, town: town, client: office}
}

// installed makes the object, which asks for agents and says no more.
func (s *scene) installed() {
	s.Helper()
	s.object = &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName}}
	s.object.Spec.Agent = &v1alpha1.AgentRollout{}
	s.object.Spec.Uninstall = v1alpha1.UninstallClean
	if err := s.town.Client.Create(s.ctx, s.object); err != nil {
		s.Fatal(err)
	}
	s.eventually("three agents of v1 are ready, and the object says so", func() error { return s.says("portreeve-agent:v1") })
}

func (s *scene) says(image string) error {
	if err := s.town.Client.Get(s.ctx, client.ObjectKeyFromObject(s.object), s.object); err != nil {
		return err
	}
	want := v1alpha1.AgentStatus{Image: image, Nodes: 3, Updated: 3, Ready: 3}
	ready := meta.FindStatusCondition(s.object.Status.Conditions, v1alpha1.Ready)
	if s.object.Status.Agent == nil || *s.object.Status.Agent != want || ready == nil || ready.Status != metav1.ConditionTrue {
		return fmt.Errorf("%+v, Ready %+v", s.object.Status.Agent, ready)
	}
	return nil
}

// exposed has a team's port open to the office.
func (s *scene) exposed() {
	s.Helper()
	if _, err := s.town.AddPod(s.ctx, s.town.Nodes()[0], "shop", "pod", map[string]string{"app": "shop"}); err != nil {
		s.Fatal(err)
	}
	pool := &v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: v1alpha1.NodePortPoolSpec{
		Category: "web", Team: "shop", Ranges: []v1alpha1.PortRange{"30000-30009"},
		AllocateTo: v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{"shop"}},
	}}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: "shop"}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": "shop"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(lab.EchoPort)}},
	}}
	policy := &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Name: "shop", Namespace: "shop"}, Spec: v1alpha1.NodePortPolicySpec{
		Category: "web", ServiceRef: v1alpha1.ServiceReference{Name: "shop"}, Sources: []v1alpha1.Source{{CIDR: "203.0.113.0/29"}},
	}}
	for _, o := range []client.Object{pool, service, policy} {
		if err := s.town.Client.Create(s.ctx, o); err != nil {
			s.Fatal(err)
		}
	}
	s.policy = policy
	s.enforced()
	s.port = uint16(policy.Status.Allocations[0].NodePort)
	s.eventually("every node judges", s.judged)
}

// enforced waits until the policy is Ready, which asks every node.
func (s *scene) enforced() {
	s.Helper()
	s.eventually("the policy is Ready", func() error {
		if err := s.town.Client.Get(s.ctx, client.ObjectKeyFromObject(s.policy), s.policy); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(s.policy.Status.Conditions, v1alpha1.Ready) {
			return fmt.Errorf("%+v", s.policy.Status.Conditions)
		}
		return nil
	})
}

// judged sees that the office's named half gets through on each node and the other
// does not.
func (s *scene) judged() error { return s.asked(lab.TimedOut) }

func (s *scene) asked(others lab.Outcome) error {
	for _, node := range s.town.Nodes() {
		for source, want := range map[string]lab.Outcome{"203.0.113.1": lab.Answered, "203.0.113.9": others} {
			flow := lab.Flow{From: netip.AddrPortFrom(netip.MustParseAddr(source), 0), To: netip.AddrPortFrom(node.Addrs[0], s.port)}
			if want == lab.Answered {
				flow.Timeout = patience
			}
			if a := s.client.Ask(s.ctx, flow); a.Outcome != want {
				return fmt.Errorf("%s asks %s: %s", source, node.Name, a)
			}
		}
	}
	return nil
}

// replaced rolls another image out. A connection lives through it, and nobody gets in.
func (s *scene) replaced() {
	s.Helper()
	held := s.holds("203.0.113.2:0")
	defer held.Close()
	told, err := s.town.Client.Watch(s.ctx, &v1alpha1.PortreeveList{})
	if err != nil {
		s.Fatal(err)
	}
	rolling := make(chan bool)
	go func() {
		seen := false
		for event := range told.ResultChan() {
			object, ok := event.Object.(*v1alpha1.Portreeve)
			seen = seen || ok && object.Status.Agent != nil && object.Status.Agent.Image == "portreeve-agent:v2" && object.Status.Agent.Updated < 3
		}
		rolling <- seen
	}()
	s.edit(func(o *v1alpha1.Portreeve) { o.Spec.Agent.Image = "portreeve-agent:v2" })
	s.eventually("three agents of v2 are ready", func() error {
		if err := s.judged(); err != nil {
			s.Fatalf("while agents are replaced: %v", err)
		}
		return s.says("portreeve-agent:v2")
	})
	told.Stop()
	if !<-rolling {
		s.Error("the object never said that the roll was on its way")
	}
	s.lives(held)
}

// mended sees that what a stranger changes comes back, and what he adds may stay.
func (s *scene) mended() {
	s.Helper()
	s.eventually("a stranger edits the DaemonSet", func() error {
		agents := s.agents()
		agents.Spec.Template.Spec.NodeSelector["nowhere"] = "true"
		return s.town.Client.Update(s.ctx, agents) // whose status others write
	})
	s.eventually("the selector is as wished", func() error {
		if agents := s.agents(); len(agents.Spec.Template.Spec.NodeSelector) != 1 {
			return fmt.Errorf("%v", agents.Spec.Template.Spec.NodeSelector)
		}
		return s.says("portreeve-agent:v2")
	})
	s.ran()
}

// left deletes the object with uninstall Retain: the agents go, the rules stay in force,
// and so status goes on saying so. One that is made again takes them over without a gap.
func (s *scene) left() {
	s.Helper()
	held := s.holds("203.0.113.3:0")
	defer held.Close()
	s.edit(func(o *v1alpha1.Portreeve) { o.Spec.Uninstall = v1alpha1.UninstallRetain })
	if err := s.town.Client.Delete(s.ctx, s.object); err != nil {
		s.Fatal(err)
	}
	s.eventually("the agents are gone", func() error {
		if err := s.judged(); err != nil {
			s.Fatalf("while agents go: %v", err)
		}
		var pods corev1.PodList
		if err := s.town.Client.List(s.ctx, &pods, client.InNamespace("portreeve-system")); err != nil {
			return err
		}
		if len(pods.Items) > 0 {
			return fmt.Errorf("%d pods", len(pods.Items))
		}
		return s.gone()
	})
	if err := s.judged(); err != nil {
		s.Errorf("without agents: %v", err)
	}
	for _, d := range s.reports() {
		if d.Status.Marks.Allocations == "" || d.Status.BootID == "" || !meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.Enforced) {
			s.Errorf("%s enforces what it did, and says %+v", d.Name, d.Status)
		}
	}
	s.enforced()

	again := s.object.Spec
	s.object = &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName}, Spec: again}
	s.object.Spec.Uninstall = v1alpha1.UninstallClean
	if err := s.town.Client.Create(s.ctx, s.object); err != nil {
		s.Fatal(err)
	}
	s.eventually("three agents are ready again", func() error {
		if err := s.judged(); err != nil {
			s.Fatalf("while agents take over: %v", err)
		}
		return s.says("portreeve-agent:v2")
	})
	s.enforced()
	s.lives(held)
}

// gone sees that neither the object nor the DaemonSet is there.
func (s *scene) gone() error {
	for _, o := range []client.Object{s.object.DeepCopy(), &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "portreeve-system", Name: v1alpha1.AgentName}}} {
		if err := s.town.Client.Get(s.ctx, client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%T: %v", o, err)
		}
	}
	return nil
}

func (s *scene) reports() []v1alpha1.NodeDatapath {
	s.Helper()
	var list v1alpha1.NodeDatapathList
	if err := s.town.Client.List(s.ctx, &list); err != nil || len(list.Items) != 3 {
		s.Fatal(err, len(list.Items))
	}
	return list.Items
}

// cleaned deletes the object: every node is cleaned, then the agents go, then it does.
func (s *scene) cleaned() {
	s.Helper()
	if err := s.town.Client.Delete(s.ctx, s.object); err != nil {
		s.Fatal(err)
	}
	s.eventually("the object and its agents are gone", s.gone)
	for _, d := range s.reports() {
		if c := meta.FindStatusCondition(d.Status.Conditions, v1alpha1.Enforced); d.Status.Marks != (v1alpha1.Marks{}) || d.Status.BootID != "" || c == nil || c.Reason != v1alpha1.ReasonCleaned {
			s.Errorf("%s filters nothing, and says %+v", d.Name, d.Status)
		}
	}
	s.eventually("the policy says that no node enforces it", func() error {
		if err := s.town.Client.Get(s.ctx, client.ObjectKeyFromObject(s.policy), s.policy); err != nil {
			return err
		}
		c, nodes := meta.FindStatusCondition(s.policy.Status.Conditions, v1alpha1.HostEnforced), s.policy.Status.Nodes
		if c == nil || c.Reason != v1alpha1.ReasonNodesFailing || nodes == nil || nodes.Enforced != v1alpha1.EnforcedNone || len(nodes.Failing) != 3 {
			return fmt.Errorf("%+v, %+v", c, nodes)
		}
		return nil
	})
	for _, node := range s.town.Nodes() {
		for _, list := range [][]string{{"nft", "list", "tables"}, {"ipset", "list", "-n"}} {
			out, err := node.Namespace.Output(s.ctx, list...)
			if err != nil {
				s.Fatal(err)
			}
			if strings.Contains(out, "portreeve") {
				s.Errorf("%s, when the agents are gone: %v: %s", node.Name, list, out)
			}
		}
	}
	s.eventually("nothing filters any more", func() error { return s.asked(lab.Answered) })
}

// returned makes the object once more: what was cleaned is enforced and proved anew.
func (s *scene) returned() {
	s.Helper()
	s.object = &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName}}
	s.object.Spec.Agent = &v1alpha1.AgentRollout{}
	if err := s.town.Client.Create(s.ctx, s.object); err != nil {
		s.Fatal(err)
	}
	s.enforced()
	s.eventually("every node judges again", s.judged)
}

func (s *scene) agents() *appsv1.DaemonSet {
	s.Helper()
	var agents appsv1.DaemonSet
	if err := s.town.Client.Get(s.ctx, client.ObjectKey{Namespace: "portreeve-system", Name: v1alpha1.AgentName}, &agents); err != nil {
		s.Fatal(err)
	}
	return &agents
}

func (s *scene) edit(change func(*v1alpha1.Portreeve)) {
	s.Helper()
	s.eventually("edit the object", func() error {
		if err := s.town.Client.Get(s.ctx, client.ObjectKeyFromObject(s.object), s.object); err != nil {
			return err
		}
		change(s.object)
		return s.town.Client.Update(s.ctx, s.object)
	})
}

// eventually tries until there is no error, for a bounded time.
func (s *scene) eventually(what string, try func() error) {
	s.Helper()
	if err := stage.Eventually(s.ctx, within, try); err != nil {
		s.Fatalf("%s: %v", what, err)
	}
}
