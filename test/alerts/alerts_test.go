// Package alerts has a real Prometheus scrape a running cluster: each alert fires when its
// fault is made, and no alert without one.
package alerts

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

// within bounds every wait.
const within = 60 * time.Second

// smallGroup is a second security group.
const smallGroup = "sg-0aaaaaaaaaaaaaaaa"

type scene struct {
	*testing.T
	ctx     context.Context
	town    *stage.Stage
	account *cloudtest.EC2
	p       *prometheus
	// wanted are all alerts that have to fire, so far.
	wanted []string
}

// Each alert fires at its fault, and nothing else does: what has ever fired is at the end
// of each act exactly what has to.
func TestEachAlertFiresAtItsFaultAndNotOtherwise(t *testing.T) {
	path := program(t)
	s := setUp(t)
	s.p = start(s.ctx, t, s.town, path)
	s.quiet()
	s.faultsOfObjects()
	s.faultsOfTheManager()
	s.faultsOfNodes()
	s.nobodyLeads()

	_, names := rules(t)
	for _, name := range names {
		if !slices.ContainsFunc(s.wanted, func(w string) bool { return strings.HasPrefix(w, name+" ") || w == name }) {
			t.Errorf("nobody makes the fault of %s", name)
		}
	}
}

func setUp(t *testing.T) *scene {
	t.Helper()
	ctrllog.SetLogger(logr.Discard())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // most of it for the programs, on a busy machine
	t.Cleanup(cancel)
	bin, err := stage.Build(ctx)
	t.Cleanup(func() { os.RemoveAll(bin) })
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := lab.Start(ctx, lab.Options{Nodes: 3, KubeProxy: lab.NFTables, ControllerManager: true, IPv4Only: true, LogDir: os.Getenv("PORTREEVE_LAB_LOGS")})
	if err != nil {
		t.Fatal(err)
	}
	cluster.CloseOnInterrupt()
	t.Cleanup(func() { cluster.Close() })
	s := &scene{T: t, ctx: ctx}
	if s.town, err = stage.New(ctx, cluster, bin); err != nil {
		t.Fatal(err)
	}
	s.town.Lease = 15 * time.Second
	if s.account, err = s.town.ServeEC2(); err != nil {
		t.Fatal(err)
	}
	s.account.AddGroup(smallGroup)
	// Rules that are not ours alone, so that somebody can flush them.
	installation := &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName}}
	installation.Spec.Firewall = v1alpha1.FirewallIPTables
	s.create(installation)
	if err := s.town.StartAll(ctx); err != nil {
		t.Fatal(err)
	}
	s.firewall("aws", stage.Group, nil)
	s.pool("web", "31000-31009", "aws")
	s.service("web", "shop", 1)
	s.policy("web", "shop", "203.0.113.0/28")
	s.ready("web", "shop")
	return s
}

// quiet has Prometheus see all that there is, and then nothing to tell for a while.
func (s *scene) quiet() {
	s.Helper()
	s.eventually("Prometheus sees the manager and three agents", func() error {
		up, err := s.p.ask(s.ctx, `up == 1`)
		if err != nil || len(up) != 1+len(s.town.Nodes()) {
			return fmt.Errorf("up: %q, %v", up, err)
		}
		firing, err := s.p.firing(s.ctx)
		if err != nil || len(firing) > 0 {
			return fmt.Errorf("firing: %q, %v", firing, err)
		}
		return nil
	})
	s.p.since = time.Now()
	s.eventually("it has judged a few times", func() error {
		judged, err := s.p.ask(s.ctx, fmt.Sprintf(`count_over_time(portreeve_nodes{state="Enforced"}[%dms]) > 6`, time.Since(s.p.since).Milliseconds()+1))
		if err != nil || len(judged) == 0 {
			return fmt.Errorf("%q, %v", judged, err)
		}
		return nil
	})
	s.await()
}

// faultsOfObjects are those that people make.
func (s *scene) faultsOfObjects() {
	s.Helper()
	// A Service without a policy, in a namespace that may draw.
	s.pool("wiki", "31010-31019")
	wiki := s.service("wiki", "wiki", 0)
	wiki.Spec.Type, wiki.Spec.Ports = corev1.ServiceTypeNodePort, []corev1.ServicePort{{Port: 80, NodePort: 32700}}
	s.create(wiki)
	s.want("PortreeveUndeclaredServices wiki")

	// Pools that run out.
	s.pool("one", "31020")
	s.service("one", "shop", 1)
	s.policy("one", "shop", "203.0.113.0/28")
	s.want("PortreevePoolExhausted one")
	s.pool("ten", "31030-31039")
	s.service("ten", "shop", 9)
	s.policy("ten", "shop", "203.0.113.0/28")
	s.want("PortreevePoolNearlyExhausted ten")

	// Somebody's Service has the name of the companion.
	s.pool("taken", "31040-31049")
	s.service("taken", "shop", 1)
	s.create(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "taken", Name: "shop-nodeport"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
	s.policy("taken", "shop", "203.0.113.0/28")
	s.want("PortreevePortDown ServiceNameTaken")
	// What a policy that is not Ready says of nodes may be 2 s old: several of them in a row
	// would come near the time after which an alert fires.
	s.settled()

	// A group without room, one that does not exist, and somebody's hand in a third.
	s.firewall("small", smallGroup, &v1alpha1.CloudLimits{RulesPerGroup: 2})
	s.pool("small", "31050-31059", "small")
	s.service("small", "shop", 1)
	s.policy("small", "shop", "203.0.113.0/28", "203.0.113.32/28", "203.0.113.64/28")
	s.want("PortreeveCloudQuota small")
	s.firewall("nowhere", "sg-0bbbbbbbbbbbbbbbb", nil)
	s.want("PortreeveCloudNotInForce nowhere Invalid")
	s.account.Unseed(stage.Group, cloudtest.Parse("TCP 31000 203.0.113.0/28"))
	s.want("PortreeveCloudDrift aws")
	s.await("PortreeveCloudDrift aws")
	s.account.Seed(stage.Group, cloudtest.Foreign("TCP 31000-31009 0.0.0.0/0"))
	s.want("PortreeveShadowed ForeignRule")
	s.settled()
}

// settled waits until every node has proved every policy.
func (s *scene) settled() {
	s.Helper()
	s.eventually("all policies are in force on nodes", func() error {
		var list v1alpha1.NodePortPolicyList
		if err := s.town.Client.List(s.ctx, &list); err != nil {
			return err
		}
		for _, p := range list.Items {
			if !meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.HostEnforced) {
				return fmt.Errorf("%s: %+v", p.Namespace, p.Status.Conditions)
			}
		}
		return nil
	})
}

// faultsOfTheManager: the API server refuses what it writes.
func (s *scene) faultsOfTheManager() {
	s.Helper()
	role := &rbacv1.ClusterRole{}
	if err := s.town.Client.Get(s.ctx, client.ObjectKey{Name: "portreeve-manager"}, role); err != nil {
		s.Fatal(err)
	}
	whole := role.DeepCopy()
	for i := range role.Rules {
		role.Rules[i].Resources = slices.DeleteFunc(role.Rules[i].Resources, func(r string) bool { return r == "nodeportpolicies/status" })
	}
	if err := s.town.Client.Update(s.ctx, role); err != nil {
		s.Fatal(err)
	}
	s.refused("portreeve-manager", "nodeportpolicies", "status")
	s.service("wiki", "shop", 1)
	s.policy("wiki", "shop", "203.0.113.0/28")
	s.want("PortreeveReconcileFails policy")
	s.await("PortreeveReconcileFails policy")
	whole.ResourceVersion = ""
	if err := s.town.Client.Update(s.ctx, whole); err != nil {
		s.Fatal(err)
	}
	s.ready("wiki", "shop")
}

// faultsOfNodes: what goes wrong on each.
func (s *scene) faultsOfNodes() {
	s.Helper()
	open, late, busy := s.town.Nodes()[0], s.town.Nodes()[1], s.town.Nodes()[2]

	// Somebody flushes, the disk takes nothing any more, and packets go around.
	rules := filepath.Join(s.town.AgentState(busy), "rules")
	if err := os.Remove(rules); err != nil {
		s.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(rules, "in-the-way"), 0o755); err != nil {
		s.Fatal(err)
	}
	s.flushed(busy)
	s.service("web", "more", 1)
	s.policy("web", "more", "203.0.113.0/28")
	s.ready("web", "more")
	s.want("PortreeveRulesNotKept " + busy.Name)

	// On one node the agent hangs, another loses its agent and its rules.
	s.town.Agent(late).Signal(syscall.SIGSTOP)
	s.service("web", "late", 1)
	s.policy("web", "late", "203.0.113.0/28")
	s.want("PortreeveAgentDown "+late.Name, "PortreeveNodeLagging "+late.Name, "PortreevePolicyNotEnforced NodesPending")
	s.await("PortreevePolicyNotEnforced NodesPending", "PortreeveNodeLagging "+late.Name)
	if err := s.town.PowerOff(s.ctx, open); err != nil {
		s.Fatal(err)
	}
	s.delete(&v1alpha1.NodeDatapath{ObjectMeta: metav1.ObjectMeta{Name: open.Name}})
	s.want("PortreeveNodeUngated", "PortreeveAgentDown "+open.Name, "PortreevePolicyNotEnforced NodesFailing")

	// And the third may not report that packets go around its rules.
	s.delete(&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "portreeve-agent"}})
	s.refused("portreeve-agent", "nodedatapaths", "status")
	s.around(busy)
	s.want("PortreeveNodeNotEnforcing "+busy.Name, "PortreeveReportsFail "+busy.Name)
	s.await()
}

// flushed has somebody flush a node's rules, again if need be: a change of ours that comes
// right after puts them back without knowing that they were gone.
func (s *scene) flushed(node *lab.Node) {
	s.Helper()
	alert, last := "PortreeveRulesChangedByOthers "+node.Name, time.Time{}
	s.want(alert)
	s.eventually("a flush is noticed", func() error {
		if time.Since(last) > 5*time.Second {
			s.run(node, "iptables", "-w", "10", "-t", "mangle", "-F")
			last = time.Now()
		}
		fired, err := s.p.fired(s.ctx)
		if err != nil || !slices.Contains(fired, alert) {
			return fmt.Errorf("fired: %q, %v", fired, err)
		}
		return nil
	})
}

// nobodyLeads: the manager is gone.
func (s *scene) nobodyLeads() {
	s.Helper()
	s.town.Manager().Kill()
	s.want("PortreeveManagerDown")
	s.await()
	s.eventually("nothing speaks for a manager that is gone", func() error {
		firing, err := s.p.firing(s.ctx)
		left := slices.DeleteFunc(firing, func(a string) bool {
			return !strings.HasPrefix(a, "PortreevePool") && !strings.HasPrefix(a, "PortreeveNodeUngated") && !strings.HasPrefix(a, "PortreeveCloud")
		})
		if err != nil || len(left) > 0 {
			return fmt.Errorf("firing: %q, %v", left, err)
		}
		return nil
	})
}

func (s *scene) want(alerts ...string) { s.wanted = append(s.wanted, alerts...) }

// await waits until those alerts have fired, or else all that are wanted, and fails as soon
// as one has that is not.
func (s *scene) await(alerts ...string) {
	s.Helper()
	if alerts == nil {
		alerts = s.wanted
	}
	s.eventually("alerts have fired, and no others", func() error {
		fired, err := s.p.fired(s.ctx)
		if err != nil {
			return err
		}
		for _, a := range fired {
			if !slices.Contains(s.wanted, a) {
				s.Fatalf("%s has fired, and nobody made its fault; made were those of %q", a, s.wanted)
			}
		}
		var missing []string
		for _, w := range alerts {
			if !slices.Contains(fired, w) {
				missing = append(missing, w)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("missing: %q", missing)
		}
		return nil
	})
}

func (s *scene) eventually(what string, try func() error) {
	s.Helper()
	began := time.Now()
	for {
		err := try()
		if err == nil {
			s.Logf("after %.1f s: %s", time.Since(began).Seconds(), what)
			return
		}
		if time.Since(began) > within {
			s.Fatalf("not within %s: %s: %v", within, what, err)
		}
		select {
		case <-s.ctx.Done():
			s.Fatalf("%s: %v", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *scene) create(o client.Object) {
	s.Helper()
	if err := s.town.Client.Create(s.ctx, o); err != nil {
		s.Fatalf("create %T %s: %v", o, o.GetName(), err)
	}
}

func (s *scene) delete(o client.Object) {
	s.Helper()
	if err := s.town.Client.Delete(s.ctx, o); err != nil {
		s.Fatalf("delete %T %s: %v", o, o.GetName(), err)
	}
}

func (s *scene) run(node *lab.Node, argv ...string) {
	s.Helper()
	if _, err := node.Output(s.ctx, argv...); err != nil {
		s.Fatal(err)
	}
}

// pool makes a namespace, and a pool that is its own, armed.
func (s *scene) pool(name string, ports v1alpha1.PortRange, firewalls ...v1alpha1.ObjectName) {
	s.Helper()
	s.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	pool := &v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.NodePortPoolSpec{
		Category: name, Team: "team", Ranges: []v1alpha1.PortRange{ports}, CloudFirewalls: firewalls,
		AllocateTo: v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(name)}},
	}}
	s.create(pool)
	s.eventually("pool "+name+" is armed", func() error {
		if err := s.town.Client.Get(s.ctx, client.ObjectKeyFromObject(pool), pool); err != nil {
			return err
		}
		if len(pool.Status.Armed) == 0 {
			return fmt.Errorf("conditions: %+v", pool.Status.Conditions)
		}
		return nil
	})
}

// service makes a Service of so many ports, or returns one that is not made.
func (s *scene) service(namespace, name string, ports int32) *corev1.Service {
	s.Helper()
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": name}}}
	for i := range ports {
		service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{Name: fmt.Sprintf("p%d", i), Port: 443 + i, TargetPort: intstr.FromInt32(lab.EchoPort)})
	}
	if ports > 0 {
		s.create(service)
	}
	return service
}

// policy exposes all ports of the Service of its name.
func (s *scene) policy(namespace, name string, cidrs ...v1alpha1.CIDR) {
	s.Helper()
	var service corev1.Service
	if err := s.town.Client.Get(s.ctx, client.ObjectKey{Namespace: namespace, Name: name}, &service); err != nil {
		s.Fatal(err)
	}
	p := &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: v1alpha1.NodePortPolicySpec{
		Category: namespace, ServiceRef: v1alpha1.ServiceReference{Name: name},
	}}
	for _, port := range service.Spec.Ports {
		p.Spec.Ports = append(p.Spec.Ports, v1alpha1.PolicyPort{Name: port.Name})
	}
	for _, c := range cidrs {
		p.Spec.Sources = append(p.Spec.Sources, v1alpha1.Source{CIDR: c})
	}
	s.create(p)
}

func (s *scene) ready(namespace, name string) {
	s.Helper()
	s.eventually("policy "+namespace+"/"+name+" is Ready", func() error {
		var p v1alpha1.NodePortPolicy
		if err := s.town.Client.Get(s.ctx, client.ObjectKey{Namespace: namespace, Name: name}, &p); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.Ready) {
			return fmt.Errorf("conditions: %+v", p.Status.Conditions)
		}
		return nil
	})
}

func (s *scene) firewall(name, group string, limits *v1alpha1.CloudLimits) {
	s.Helper()
	s.create(&v1alpha1.CloudFirewall{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.CloudFirewallSpec{
		Provider: v1alpha1.ProviderAWS, Region: stage.Region, Endpoint: stage.Endpoint, Limits: limits,
		Groups: []v1alpha1.SecurityGroup{{ID: group}}, Resync: &metav1.Duration{Duration: 10 * time.Second},
	}})
}
