// Package crash kills managers from outside, at each of their writes, and holds
// what is left to the promises that no crash may break. Nothing in the manager
// helps: it speaks to the API server and to the cloud through a trap that counts
// its writes, kills the process at one of them, and starts the next.
//
//	manager ──► trap ──► API server        beat ──► every port of the pool
//	   ▲          ├────► EC2               (probes, all the time)
//	   └──starts──┘
//
// A manager is never asked what it thinks: all that is judged was read from the
// API server, from the cloud, or is the answer to a packet.
package crash

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

// within bounds every wait, on a busy machine.
const within = 45 * time.Second

var (
	town    *stage.Stage
	account *cloudtest.EC2
	// way is the trap before the cloud and, where there is one manager, before the
	// API server; it lets all pass unless set.
	way = &trap{}
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	bin, err := stage.Build(ctx)
	defer os.RemoveAll(bin)
	if err != nil {
		return fail(err)
	}
	cluster, err := lab.Start(ctx, lab.Options{
		Nodes: 2, KubeProxy: lab.NFTables, ControllerManager: true, IPv4Only: true, LogDir: os.Getenv("PORTREEVE_LAB_LOGS"),
	})
	if err != nil {
		return fail(err)
	}
	cluster.CloseOnInterrupt()
	defer cluster.Close()
	if town, err = stage.New(ctx, cluster, bin); err != nil {
		return fail(err)
	}
	if account, err = town.ServeEC2(func(next http.Handler) http.Handler { return way.beforeCloud(next) }); err != nil {
		return fail(err)
	}
	if err := setUp(ctx); err != nil {
		return fail(err)
	}
	return m.Run()
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// The teams, each a namespace with a pod and a Service of its own name before it.
// squatter has exposed its Service by itself, on a number that later joins a pool.
const (
	shop     = "shop"
	vault    = "vault"
	squatter = "squatter"
)

// setUp adds what all tests share: agents, teams, the cloud firewall, and a pool
// that stays while those of the tests come and go, for an agent believes no
// server that has lost all pools.
func setUp(ctx context.Context) error {
	// What nodes see of their own ports is told some seconds later, by a write that would
	// come in between at any moment.
	town.AgentArgs = []string{"--answer-interval", "0s"}
	for i, node := range town.Nodes() {
		if err := town.StartAgent(ctx, node); err != nil {
			return err
		}
		for _, team := range [][]string{{shop, squatter}, {vault}}[i] {
			if _, err := town.AddPod(ctx, node, team, team, map[string]string{"app": team}); err != nil {
				return err
			}
		}
	}
	anchor := newPool("anchor", 32700, 1, 0)
	for _, o := range []client.Object{
		newService(shop, shop, 0), newService(vault, vault, 0), anchor,
		&v1alpha1.CloudFirewall{
			ObjectMeta: metav1.ObjectMeta{Name: "aws"},
			Spec: v1alpha1.CloudFirewallSpec{
				Provider: v1alpha1.ProviderAWS, Region: stage.Region, Endpoint: stage.Endpoint,
				Groups: []v1alpha1.SecurityGroup{{ID: stage.Group}},
			},
		},
	} {
		if err := town.Client.Create(ctx, o); err != nil {
			return err
		}
	}
	return addClients()
}

// newService is a Service before a team's pod; on a node port of its own if that
// is not 0.
func newService(team, name string, nodePort uint16) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": team},
			Ports:    []corev1.ServicePort{{Port: 443, TargetPort: intstr.FromInt32(lab.EchoPort), NodePort: int32(nodePort)}},
		},
	}
	if nodePort != 0 {
		s.Spec.Type = corev1.ServiceTypeNodePort
	}
	return s
}

// newPool has its name for a category, and is for every team.
func newPool(name string, first, size uint16, coolDown time.Duration) *v1alpha1.NodePortPool {
	return &v1alpha1.NodePortPool{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.NodePortPoolSpec{
			Category: name, Team: "crash", CoolDown: &metav1.Duration{Duration: coolDown},
			Ranges:         []v1alpha1.PortRange{v1alpha1.PortRange(fmt.Sprintf("%d-%d", first, first+size-1))},
			AllocateTo:     v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{shop, vault}},
			CloudFirewalls: []v1alpha1.ObjectName{"aws"},
		},
	}
}

// newPolicy exposes a team's Service to clients.
func newPolicy(team, name, category string, sources ...string) *v1alpha1.NodePortPolicy {
	p := &v1alpha1.NodePortPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: team, Name: name},
		Spec:       v1alpha1.NodePortPolicySpec{Category: category, ServiceRef: v1alpha1.ServiceReference{Name: team}},
	}
	for _, s := range sources {
		p.Spec.Sources = append(p.Spec.Sources, v1alpha1.Source{CIDR: v1alpha1.CIDR(networks[s].String())})
	}
	return p
}
