// Package upgrade replaces manager and agents by those of another version and goes back,
// under traffic: no packet of a denied client passes, and no allowed connection breaks.
package upgrade

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

// within bounds every wait.
const within = time.Minute

// Who asks: of the office, which has 203.0.113.0/28, the policy names the first half.
var (
	allowed  = netip.MustParseAddr("203.0.113.1")
	stranger = netip.MustParseAddr("203.0.113.9")
	guest    = netip.MustParseAddr("203.0.113.12") // is admitted and sent away again
)

const (
	officeCIDR = "203.0.113.0/29"
	guestCIDR  = "203.0.113.12/32"
)

// version is one to which a cluster may be brought: its programs, and the folder that has
// its config/.
type version struct {
	name, bin, root string
	plain           bool // see stage.Stage
}

type scene struct {
	*testing.T
	ctx          context.Context
	town         *stage.Stage
	office       *lab.Client
	traffic      *traffic
	older, newer version
	policy, edge *v1alpha1.NodePortPolicy
	welcome      bool // the guest is admitted
}

func TestUpgradeAndRollBackUnderTraffic(t *testing.T) {
	s := setUp(t)
	s.exposed()
	traffic, err := begin(s.ctx, s.office, s.town.Nodes(), s.number(s.policy))
	if err != nil {
		t.Fatal(err)
	}
	s.traffic = traffic
	t.Cleanup(func() { // also where the scene was broken off
		faults := traffic.end()
		t.Logf("%d allowed and %d denied connections in %s; %d of the allowed took more than %s",
			traffic.allowed.Load(), traffic.denied.Load(), time.Since(traffic.began).Round(time.Second), traffic.waiting.Load(), slow)
		for i, fault := range faults {
			if t.Error(fault); i == 20 {
				t.Fatalf("and %d more", len(faults)-i)
			}
		}
	})

	s.step("the newer definitions are applied beside the older programs")
	s.install(s.newer, "crd", "rbac")
	s.works()
	s.manager(s.newer)
	s.agents(s.newer)
	s.newField()

	s.withoutField()
	s.manager(s.older) // the newer definitions stay
	s.agents(s.older)
	s.install(s.older, "rbac")
	s.works()
	s.ignoredField()
}

func setUp(t *testing.T) *scene {
	t.Helper()
	ctrllog.SetLogger(logr.Discard())
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute) // most of it for the programs of two versions, on a busy machine
	t.Cleanup(cancel)
	bin, err := stage.Build(ctx)
	t.Cleanup(func() { os.RemoveAll(bin) })
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{T: t, ctx: ctx, newer: version{name: "the newer version", bin: bin, root: stage.Root()}}
	s.older = s.before()
	cluster, err := lab.Start(ctx, lab.Options{Nodes: 3, KubeProxy: lab.NFTables, ControllerManager: true, LogDir: os.Getenv("PORTREEVE_LAB_LOGS")})
	if err != nil {
		t.Fatal(err)
	}
	cluster.CloseOnInterrupt()
	t.Cleanup(func() { cluster.Close() })
	if s.town, err = stage.NewOf(ctx, cluster, s.older.bin, s.older.root); err != nil {
		t.Fatal(err)
	}
	s.town.Lease, s.town.Plain = 15*time.Second, s.older.plain // a manager that ends gives its Lease back
	if err := s.town.StartAll(ctx); err != nil {
		t.Fatal(err)
	}
	if s.office, err = s.town.AddClient("office", netip.MustParsePrefix("203.0.113.0/28")); err != nil {
		t.Fatal(err)
	}
	return s
}

// before is the version of an older commit. A copy without history has none: then the
// programs are exchanged for themselves, which still shows that an exchange harms nobody.
func (s *scene) before() version {
	s.Helper()
	build := exec.CommandContext(s.ctx, filepath.Join(stage.Root(), "hack", "earlier.sh"), "unbundled")
	var said bytes.Buffer
	build.Stderr = &said
	out, err := build.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		s.Logf("NO OLDER VERSION: %s", &said)
		return version{name: "the same version", bin: s.newer.bin, root: s.newer.root}
	}
	if err != nil {
		s.Fatal(err, said.String())
	}
	root := strings.TrimSpace(string(out))
	return version{name: "the older version", bin: filepath.Join(root, "bin"), root: root, plain: true}
}

func (s *scene) same() bool { return s.older.bin == s.newer.bin }

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
	s.policy = policy("shop")
	for _, o := range []client.Object{pool, service, s.policy} {
		if err := s.town.Client.Create(s.ctx, o); err != nil {
			s.Fatal(err)
		}
	}
	s.ready(s.policy)
	s.asked(s.policy, allowed, lab.Answered)
	s.asked(s.policy, stranger, lab.TimedOut)
}

func policy(name string) *v1alpha1.NodePortPolicy {
	return &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop"}, Spec: v1alpha1.NodePortPolicySpec{
		Category: "web", ServiceRef: v1alpha1.ServiceReference{Name: "shop"}, Sources: []v1alpha1.Source{{CIDR: officeCIDR}},
	}}
}

func (s *scene) step(what string) {
	s.traffic.now(what)
	s.Log(what)
}

func (s *scene) install(v version, folders ...string) {
	s.Helper()
	if err := s.town.Install(s.ctx, v.root, folders...); err != nil {
		s.Fatal(err)
	}
}

// manager replaces the manager as a Deployment does: the old one is told to end.
func (s *scene) manager(v version) {
	s.Helper()
	s.step("the manager is replaced by " + v.name)
	s.town.Manager().Stop(30 * time.Second)
	s.town.Bin, s.town.Plain = v.bin, v.plain
	if err := s.town.StartManager(s.ctx, nil); err != nil {
		s.Fatal(err)
	}
	s.works()
}

// agents replaces one agent after the other, as a DaemonSet does.
func (s *scene) agents(v version) {
	s.Helper()
	s.town.Bin = v.bin
	for _, node := range s.town.Nodes() {
		s.step("the agent of " + node.Name + " is replaced by " + v.name)
		s.town.Agent(node).Stop(60 * time.Second)
		if err := s.town.RestartAgent(s.ctx, node); err != nil {
			s.Fatal(err)
		}
		s.works()
	}
}

// works shows that manager and agents, of whatever versions, do what they are for: an
// edit is enforced on every node, and status says so.
func (s *scene) works() {
	s.Helper()
	s.welcome = !s.welcome
	s.edit(s.policy, func(p *v1alpha1.NodePortPolicySpec) {
		p.Sources = []v1alpha1.Source{{CIDR: officeCIDR}}
		if s.welcome {
			p.Sources = append(p.Sources, v1alpha1.Source{CIDR: guestCIDR})
		}
	})
	s.ready(s.policy)
	want := lab.TimedOut
	if s.welcome {
		want = lab.Answered
	}
	s.asked(s.policy, guest, want)
}

// newField uses what the older version does not know: one node answers, the others refuse.
func (s *scene) newField() {
	s.Helper()
	s.step("a policy uses a field that the older version does not know")
	s.edge = policy("edge")
	s.edge.Spec.Gateways = &v1alpha1.Gateways{Mode: v1alpha1.GatewaysCentralized}
	if err := s.town.Client.Create(s.ctx, s.edge); err != nil {
		s.Fatal(err)
	}
	s.ready(s.edge)
	s.traffic.also(s.number(s.edge))
	s.eventually("one node answers", func() error { return s.answering(s.edge, 1) })
}

// withoutField takes it back, as docs/upgrade.md asks for before a roll-back.
func (s *scene) withoutField() {
	s.Helper()
	s.step("no policy uses the newer field any more")
	s.edit(s.edge, func(p *v1alpha1.NodePortPolicySpec) { p.Gateways = nil })
	s.ready(s.edge)
	s.eventually("all nodes answer", func() error { return s.answering(s.edge, len(s.town.Nodes())) })
}

// ignoredField shows what docs/upgrade.md says of a newer field after a roll-back: the
// definitions take it, and the programs do as if it were not there. So all nodes answer
// those who are admitted; whom nobody names stays out, which the denied client tries all
// the time.
func (s *scene) ignoredField() {
	s.Helper()
	if s.same() {
		return
	}
	s.step("the older version meets a field that it does not know")
	s.edit(s.edge, func(p *v1alpha1.NodePortPolicySpec) {
		p.Gateways = &v1alpha1.Gateways{Mode: v1alpha1.GatewaysCentralized}
	})
	s.ready(s.edge)
	s.eventually("all nodes answer all the same", func() error { return s.answering(s.edge, len(s.town.Nodes())) })
	s.asked(s.edge, stranger, lab.TimedOut)
}

func (s *scene) answering(p *v1alpha1.NodePortPolicy, want int) error {
	have := 0
	for _, node := range s.town.Nodes() {
		if s.ask(node, p, allowed).Outcome == lab.Answered {
			have++
		}
	}
	if have != want {
		return fmt.Errorf("%d nodes answer, want %d", have, want)
	}
	return nil
}

func (s *scene) ask(node *lab.Node, p *v1alpha1.NodePortPolicy, source netip.Addr) lab.Answer {
	return s.office.Ask(s.ctx, lab.Flow{From: netip.AddrPortFrom(source, 0), To: netip.AddrPortFrom(node.Addrs[0], s.number(p)), Timeout: 300 * time.Millisecond})
}

// asked waits until every node treats the source so.
func (s *scene) asked(p *v1alpha1.NodePortPolicy, source netip.Addr, want lab.Outcome) {
	s.Helper()
	for _, node := range s.town.Nodes() {
		s.eventually(fmt.Sprintf("%s asks %s: %s", source, node.Name, want), func() error {
			if a := s.ask(node, p, source); a.Outcome != want {
				return fmt.Errorf("%s", a)
			}
			return nil
		})
	}
}

func (s *scene) number(p *v1alpha1.NodePortPolicy) uint16 {
	return uint16(p.Status.Allocations[0].NodePort)
}

// ready waits until the policy is Ready in its present generation, on every node.
func (s *scene) ready(p *v1alpha1.NodePortPolicy) {
	s.Helper()
	s.eventually("policy "+p.Name+" is Ready", func() error {
		if err := s.town.Client.Get(s.ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.Ready)
		if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != p.Generation || len(p.Status.Allocations) == 0 {
			return fmt.Errorf("%+v", p.Status.Conditions)
		}
		return nil
	})
}

func (s *scene) edit(p *v1alpha1.NodePortPolicy, change func(*v1alpha1.NodePortPolicySpec)) {
	s.Helper()
	if err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if err := s.town.Client.Get(s.ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		change(&p.Spec)
		return s.town.Client.Update(s.ctx, p)
	}); err != nil {
		s.Fatal(err)
	}
}

// eventually tries until there is no error, for a bounded time.
func (s *scene) eventually(what string, try func() error) {
	s.Helper()
	if err := stage.Eventually(s.ctx, within, try); err != nil {
		s.Fatalf("%s: %v", what, err)
	}
}
