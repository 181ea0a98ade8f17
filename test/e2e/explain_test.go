package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/explain"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

// plugin runs kubectl-portreeve as somebody of the group, who has no rights but what
// ClusterRoles give to it. It returns what was printed, and the exit status.
func (s *scene) plugin(group string, args ...string) (out string, status int) {
	s.Helper()
	config, err := town.UserConfig("jo-"+group, group)
	if err != nil {
		s.Fatal(err)
	}
	kubeconfig, err := town.WriteKubeconfig("plugin-"+group, config)
	if err != nil {
		s.Fatal(err)
	}
	argv := append([]string{filepath.Join(town.Bin, "kubectl-portreeve"), "--kubeconfig", kubeconfig}, args...)
	out, err = town.ControlPlane().Output(s.ctx, argv...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out, exit.ExitCode()
	}
	if err != nil {
		s.Fatal(err)
	}
	return out, 0
}

// audits lets the group auditors do what the ClusterRole says.
func (s *scene) audits() {
	s.Helper()
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "auditors"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "portreeve-auditor"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "auditors"}},
	}
	if err := town.Client.Create(s.ctx, binding); client.IgnoreAlreadyExists(err) != nil {
		s.Fatal(err)
	}
}

// explains asks what is to say about a source, until explain says that verdict, with that
// cause. It returns the answer for the first port.
func (s *scene) explains(what string, from netip.AddrPort, verdict explain.Verdict, gate, reason string) explain.PortAnswer {
	s.Helper()
	var first explain.PortAnswer
	s.eventually(fmt.Sprintf("explain %s --from %s", what, from.Addr()), func() error {
		out, status := s.plugin("auditors", "explain", what, "-n", s.namespace, "--from", from.Addr().String(), "-o", "json")
		var a explain.Answer
		if err := json.Unmarshal([]byte(out), &a); err != nil {
			return fmt.Errorf("exit status %d: %s", status, out)
		}
		if len(a.Ports) == 0 {
			return fmt.Errorf("exit status %d, no ports: %s", status, out)
		}
		first = a.Ports[0]
		have := explain.Gate{}
		if first.StoppedBy != nil {
			have = *first.StoppedBy
		}
		if a.Verdict != verdict || status != a.ExitStatus() || have.Gate != gate || have.Reason != reason {
			return fmt.Errorf("exit status %d, want %s at %s (%s): %s", status, verdict, gate, reason, out)
		}
		return nil
	})
	return first
}

// tooOpen wants explain to have named what lets in more than policies do.
func (s *scene) tooOpen(a explain.PortAnswer, gate, reason string) {
	s.Helper()
	if a.TooOpen == nil || a.TooOpen.Gate != gate || a.TooOpen.Reason != reason {
		s.Errorf("too open: %+v, want %s (%s)", a.TooOpen, gate, reason)
	}
}

func TestExplainSaysWhoIsKeptOutAndWhy(t *testing.T) {
	s := open(t, "tellwhy", "30850-30859")
	s.audits()
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) { p.Spec.CoolDown = &metav1.Duration{Duration: time.Hour} })
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	number := strconv.Itoa(int(port))
	office, street := from(officeCIDR, 4), from(streetCIDR, 1)
	s.answers(s.office, office, port)
	s.explains(number, office, explain.Open, "", "")
	s.explains("shop", office, explain.Open, "", "")

	// Not listed.
	s.silent(s.street, street, port)
	a := s.explains(number, street, explain.Closed, explain.GateSources, explain.ReasonNotListed)
	if !strings.Contains(a.StoppedBy.Message, officeCIDR) || a.StoppedBy.Remedy == "" {
		t.Errorf("%+v does not say who is listed, and what to do", a.StoppedBy)
	}
	out, status := s.plugin("auditors", "explain", number, "--from", street.Addr().String())
	if status != 1 || !strings.HasPrefix(out, "CLOSED: tcp/"+number+" from "+street.Addr().String()) {
		t.Errorf("exit status %d: %s", status, out)
	}
	// Nobody claims the next number.
	s.explains(strconv.Itoa(int(port)+1), office, explain.Closed, explain.GateAllocation, explain.ReasonUnclaimed)

	// Denied to all; lockdown.
	s.set("explained-bad", v1alpha1.CIDR(office.Addr().String()+"/32"))
	s.installation(func(p *v1alpha1.Portreeve) { p.Spec.DenyAddressSets = []v1alpha1.ObjectName{"explained-bad"} })
	s.silentSoon(s.office, office, port)
	s.explains(number, office, explain.Closed, explain.GateSources, explain.ReasonDeniedToAll)
	s.explains(number, from(officeCIDR, 1), explain.Open, "", "")
	s.installation(func(p *v1alpha1.Portreeve) { p.Spec.DenyAddressSets, p.Spec.Lockdown = nil, true })
	s.silentSoon(s.office, from(officeCIDR, 1), port)
	s.explains(number, office, explain.Closed, explain.GateSources, v1alpha1.ReasonLockdown)
	s.installation(func(p *v1alpha1.Portreeve) { p.Spec.Lockdown = false })
	s.explains(number, office, explain.Open, "", "")

	// Expired, then closed.
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.ExpiresAt = &metav1.Time{Time: time.Now().Add(-time.Second)} })
	s.awaitState(port, v1alpha1.AllocationClosed)
	s.silentSoon(s.office, office, port)
	s.explains(number, office, explain.Closed, explain.GateAllocation, v1alpha1.ReasonExpired)
	s.explains("shop", office, explain.Closed, explain.GateAllocation, v1alpha1.ReasonExpired)
	s.delete(policy)
	s.explains(number, office, explain.Closed, explain.GateAllocation, explain.ReasonClosed)
}

// Connection refused: the gates let the packet pass, and nobody is behind them.
func TestExplainSaysThatNobodyIsBehindTheService(t *testing.T) {
	s := open(t, "nobody-home", "30860-30864")
	s.audits()
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), port)
	edit(s, s.service("shop"), func(service *corev1.Service) { service.Spec.Selector = map[string]string{"app": "nobody"} })
	s.eventually("the node refuses the connection", func() error {
		if a := s.office.Ask(s.ctx, flow(town.Nodes()[0], from(officeCIDR, 1), port)); a.Outcome != lab.Refused {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
	s.explains("shop", from(officeCIDR, 1), explain.Closed, explain.GateEndpoints, explain.ReasonNoReadyEndpoints)
}

// Only some nodes answer: the agent of one is dead and has not heard of the port.
func TestExplainNamesTheNodeWhoseAgentIsDead(t *testing.T) {
	s := open(t, "dead-agent", "30865-30869")
	s.audits()
	first := s.policy("first", officeCIDR)
	s.create(first)
	next := s.awaitReady(first) + 1
	node := town.Nodes()[2]
	s.silentOn(node, s.office, officeCIDR, next) // it has read that the pool is armed
	dead := town.Agent(node)
	dead.Kill()
	<-dead.Done()
	t.Cleanup(func() {
		if town.Agent(node) == dead {
			_ = town.RestartAgent(context.Background(), node)
		}
	})
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	s.awaitReason(policy, v1alpha1.HostEnforced, v1alpha1.ReasonNodesPending)
	port := uint16(policy.Status.Allocations[0].NodePort)
	s.answered(s.office, town.Nodes()[0], 1, port)
	s.dropped(s.office, node, 1, port)
	a := s.explains("shop", from(officeCIDR, 1), explain.Unproved, explain.GateNode, compile.NodePending)
	if a.StoppedBy.Subject != node.Name || !strings.Contains(a.StoppedBy.Remedy, node.Name) {
		t.Errorf("%+v does not name %s", a.StoppedBy, node.Name)
	}
	if err := town.RestartAgent(s.ctx, node); err != nil {
		t.Fatal(err)
	}
	s.answers(s.office, from(officeCIDR, 1), port)
	s.explains("shop", from(officeCIDR, 1), explain.Open, "", "")
}

// Wrong source address, uneven load, only some nodes answer: the way behind the gates.
func TestExplainTellsWhereConnectionsGo(t *testing.T) {
	s := open(t, "ways", "30885-30889")
	s.audits()
	s.leaveFree()
	s.createSoon(s.nodePortService("front", 30885))
	s.awaitState(30885, v1alpha1.AllocationForeign)
	s.create(s.inPlace("shop", "front", officeCIDR))
	client, near, far := from(officeCIDR, 1), town.Nodes()[0], town.Nodes()[1] // the pod is on the first
	s.answers(s.office, client, 30885)
	if a := s.office.Ask(s.ctx, flow(far, client, 30885)); a.Peer.Addr() == client.Addr() {
		t.Errorf("the pod saw the client's address by way of another node: %s", a)
	}
	a := s.explains("30885", client, explain.Open, "", "")
	for gate, want := range map[string]string{explain.GateService: "pods see the address of the node that forwards", explain.GateEndpoints: "ready: 1 on " + near.Name} {
		if !slices.ContainsFunc(a.Gates, func(g explain.Gate) bool { return g.Gate == gate && strings.Contains(g.Message, want) }) {
			t.Errorf("%s does not say %q: %+v", gate, want, a.Gates)
		}
	}

	edit(s, s.live("front"), func(service *corev1.Service) {
		service.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	})
	s.askedOn(far.Name, 30885, false)
	s.askedOn(near.Name, 30885, true)
	s.eventually("the pod sees the client's address", func() error { // kube-proxy was told, too, but when
		if a := s.office.Ask(s.ctx, flow(near, client, 30885)); a.Peer.Addr() != client.Addr() {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
	a = s.explains("30885", client, explain.Partial, explain.GateNode, explain.ReasonNoLocal)
	if a.StoppedBy.Subject != far.Name {
		t.Errorf("%+v, want %s", a.StoppedBy, far.Name)
	}
}

func TestExplainNamesTheCloud(t *testing.T) {
	s := openCloud(t, "explain-cloud", "30870-30874")
	s.audits()
	policy := s.policy("shop", officeCIDR)
	account.Inject(cloudtest.Fault{Action: "AuthorizeSecurityGroupIngress", Code: "UnauthorizedOperation", Times: 1000})
	t.Cleanup(account.Heal)
	s.create(policy)
	s.awaitReason(policy, v1alpha1.CloudEnforced, v1alpha1.ReasonDenied)
	port := uint16(policy.Status.Allocations[0].NodePort)
	a := s.explains("shop", from(officeCIDR, 1), explain.Closed, explain.GateCloud, v1alpha1.ReasonDenied)
	if a.StoppedBy.Subject != "aws" {
		t.Errorf("%+v does not name the firewall", a.StoppedBy)
	}
	account.Heal()
	s.awaitReady(policy)
	s.explains("shop", from(officeCIDR, 1), explain.Open, "", "")

	// Too open: somebody's rule admits the street, and only nodes keep it out.
	wide := cloudtest.Foreign("TCP 30870-30879 0.0.0.0/0")
	account.Seed(stage.Group, wide)
	t.Cleanup(func() { account.Unseed(stage.Group, wide.Rule) })
	s.awaitReason(policy, v1alpha1.Shadowed, v1alpha1.ReasonForeignRule)
	s.eventually("the firewall says so", func() error { // its status comes after the policy may have heard
		f := s.firewall(nil)
		if !slices.ContainsFunc(f.Status.Groups, func(g v1alpha1.GroupStatus) bool { return len(g.Shadowing) > 0 }) {
			return fmt.Errorf("status.groups is %+v", f.Status.Groups)
		}
		return nil
	})
	s.silent(s.street, from(streetCIDR, 1), port)
	a = s.explains("shop", from(streetCIDR, 1), explain.Closed, explain.GateSources, explain.ReasonNotListed)
	s.tooOpen(a, explain.GateCloud, v1alpha1.ReasonForeignRule)
	out, status := s.plugin("auditors", "audit", "--fail-on", "Shadowed", "-o", "csv")
	if status != 1 || !strings.Contains(out, fmt.Sprintf("Shadowed,%d,TCP,explain-cloud,shop", port)) {
		t.Errorf("exit status %d: %s", status, out)
	}
	account.Unseed(stage.Group, wide.Rule)
	s.delete(policy)
	s.awaitRules()
}

func TestExplainNamesTheSquatterAndTheAuditWhoIsNotDeclared(t *testing.T) {
	s := open(t, "explain-squat", "30880-30884")
	s.audits()
	s.leaveFree()
	squatter := s.nodePortService("squatter", 30880)
	s.createSoon(squatter)
	s.awaitState(30880, v1alpha1.AllocationForeign)
	s.silentSoon(s.office, from(officeCIDR, 1), 30880)
	a := s.explains("30880", from(officeCIDR, 1), explain.Closed, explain.GateAllocation, explain.ReasonForeign)
	if !strings.Contains(a.StoppedBy.Message, "explain-squat/squatter") {
		t.Errorf("%+v does not name the Service", a.StoppedBy)
	}

	// Outside of pools nobody gates, and everybody is answered.
	s.createSoon(s.nodePortService("wiki", 30890))
	s.answers(s.street, from(streetCIDR, 1), 30890)
	a = s.explains("30890", from(streetCIDR, 1), explain.Open, "", "")
	s.tooOpen(a, explain.GateAllocation, explain.ReasonNotGated)

	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	out, status := s.plugin("auditors", "audit", "-o", "json", "--fail-on", "Undeclared,Ungated")
	var report explain.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil || status != 1 {
		t.Fatalf("exit status %d: %s", status, out)
	}
	for _, want := range []explain.Line{
		{Finding: explain.FindingForeign, Ports: "30880", Service: "squatter", ReachableBy: []string{}},
		{Finding: explain.FindingUndeclared, Ports: "30890", Service: "wiki", ReachableBy: []string{"0.0.0.0/0", "::/0"}},
		{Finding: explain.FindingOpen, Ports: strconv.Itoa(int(port)), Service: "shop", ReachableBy: []string{officeCIDR}},
	} {
		if !slices.ContainsFunc(report.Lines, func(l explain.Line) bool {
			return l.Finding == want.Finding && l.Ports == want.Ports && l.Namespace == s.namespace && l.Service == want.Service && slices.Equal(l.ReachableBy, want.ReachableBy)
		}) {
			t.Errorf("no line %+v:\n%s", want, out)
		}
	}
	if out, status := s.plugin("auditors", "audit"); status != 0 || !strings.HasPrefix(out, "FINDING") {
		t.Errorf("exit status %d: %s", status, out)
	}
}

// Too open: nodes pass what stood on the number before the pool.
func TestExplainNamesWhatStoodThereBefore(t *testing.T) {
	s := open(t, "explain-elder", "30875-30876")
	s.audits()
	s.create(s.nodePortService("elder", 30878))
	s.answers(s.street, from(streetCIDR, 1), 30878)
	edit(s, s.pool, func(p *v1alpha1.NodePortPool) { p.Spec.Ranges = append(p.Spec.Ranges, "30877-30879") })
	s.awaitState(30878, v1alpha1.AllocationForeign)
	a := s.explains("30878", from(streetCIDR, 1), explain.Open, "", "")
	s.tooOpen(a, explain.GateAllocation, explain.ReasonGrandfathered)
	s.answers(s.street, from(streetCIDR, 1), 30878)
	if out, status := s.plugin("auditors", "audit", "--fail-on", "Grandfathered"); status != 1 || !strings.Contains(out, "explain-elder/elder") {
		t.Errorf("exit status %d: %s", status, out)
	}
}

// What can't be read is an error, and nobody takes it for nothing.
func TestThePluginFailsWhereItMayNotRead(t *testing.T) {
	s := open(t, "no-rights", "30895-30899")
	s.audits()
	for _, args := range [][]string{{"audit"}, {"explain", "30895"}} {
		if out, status := s.plugin("strangers", args...); status != 2 || !strings.Contains(out, "portreeve-auditor") {
			t.Errorf("%v: exit status %d: %s", args, status, out)
		}
	}
	for _, args := range [][]string{
		{"explain"}, {"explain", "0"}, {"explain", "65536"}, {"explain", "30x"}, {"explain", "30895", "--from", "office"}, {"explain", "30895", "--protocol", "icmp"},
		{"explain", "30895", "-o", "yaml"}, {"explain", "gone", "-n", "no-rights"}, {"audit", "all"}, {"audit", "--fail-on", "Everything"}, {"audit", "-o", "xml"}, {"enforce"},
	} {
		if out, status := s.plugin("auditors", args...); status != 2 || !strings.Contains(out, "error: ") {
			t.Errorf("%v: exit status %d: %s", args, status, out)
		}
	}
}
