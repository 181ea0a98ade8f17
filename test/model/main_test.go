// Package model plays random lives of a cluster against a real API server, real
// nodes and real packets, and after each step holds everything that can be seen to
// a model that is simple: who may use a number is worked out from the objects as
// people wrote them, by a few rules in rules_test.go and sources_test.go that share
// nothing with the manager's own.
//
//	rapid ──► step (ops_test.go, ...) ──► API server, processes
//	             │ until all is at rest (rest_test.go, told_test.go)
//	             ▼
//	world (world_test.go) ──► rules ──► who is answered (reach_test.go)
//	watch ──► ledger: every change of the register       ┐ judged after each
//	prober ──► every answer that anybody got in between   ┘ step, by all that was
//	                                                        wished during it
//
// A step may be several changes at once, with the manager or an agent dead
// meanwhile. What must be so at rest is waited for; what may never be so is a
// breach at once.
package model

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

var town *stage.Stage

// The API server's range is small, so that its random choice often falls on a
// pool; it takes the numbers from dynamic on.
const (
	nodePorts = "30084-30147"
	dynamic   = 30100
	lastPort  = 30147
	// anchorPort is of a pool and a policy that stay: an agent believes no server
	// that has lost all of either.
	anchorPort = 30084
)

const (
	red, blue = "red", "blue"
	wild      = "wild"
	anchor    = "anchor"
	system    = "portreeve-system"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctrllog.SetLogger(logr.Discard()) // the programs log for themselves
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	bin, err := stage.Build(ctx)
	defer os.RemoveAll(bin)
	if err != nil {
		return fail(err)
	}
	cluster, err := lab.Start(ctx, lab.Options{
		Nodes: 2, KubeProxy: lab.NFTables, ControllerManager: true, IPv4Only: true,
		NodePortRange: nodePorts, LogDir: os.Getenv("PORTREEVE_LAB_LOGS"),
	})
	if err != nil {
		return fail(err)
	}
	cluster.CloseOnInterrupt()
	defer cluster.Close()
	if town, err = stage.New(ctx, cluster, bin); err != nil {
		return fail(err)
	}
	town.Lease = 15 * time.Second // on a busy machine; a killed one's is deleted
	if err := setUp(ctx); err != nil {
		return fail(err)
	}
	return m.Run()
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// setUp adds what all lives share. The pod of each Service has the Service's name,
// so an answer says for whom it was; Services of squatters share one.
func setUp(ctx context.Context) error {
	if err := town.StartAll(ctx); err != nil {
		return err
	}
	for name, network := range networks {
		c, err := town.AddClient(name, network)
		if err != nil {
			return err
		}
		clients[name] = c
	}
	nodes := town.Nodes()
	for namespace, pods := range map[string][]string{red: {"a", "b"}, blue: {"c"}, wild: {wild}, anchor: {anchor}} {
		for i, pod := range pods {
			if _, err := town.AddPod(ctx, nodes[i%len(nodes)], namespace, pod, map[string]string{"app": pod}); err != nil {
				return err
			}
		}
	}
	pool := newPool(anchor, v1alpha1.PortRange(fmt.Sprint(anchorPort)))
	pool.Spec.Category, pool.Spec.AllocateTo.Namespaces = anchor, []v1alpha1.NamespaceName{anchor}
	policy := &v1alpha1.NodePortPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: anchor, Name: anchor},
		Spec: v1alpha1.NodePortPolicySpec{
			Category: anchor, ServiceRef: v1alpha1.ServiceReference{Name: anchor},
			Sources: []v1alpha1.Source{{AddressSet: anchor}},
		},
	}
	set := &v1alpha1.AddressSet{
		ObjectMeta: metav1.ObjectMeta{Name: anchor},
		Spec:       v1alpha1.AddressSetSpec{CIDRs: []v1alpha1.CIDR{"203.0.113.0/28"}, AllowedFor: &v1alpha1.NamespaceChoice{}},
	}
	service := newService(anchor, anchor, corev1.ServicePort{Port: 443})
	installation := &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName}}
	for _, o := range []client.Object{installation, set, service, pool, policy} {
		if err := town.Client.Create(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// coolDown is that of every pool.
const coolDown = 3 * time.Second

func newPool(name string, ranges ...v1alpha1.PortRange) *v1alpha1.NodePortPool {
	return &v1alpha1.NodePortPool{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1alpha1.NodePortPoolSpec{
			Category: "web", Team: "model", Ranges: ranges, CoolDown: &metav1.Duration{Duration: coolDown},
		},
	}
}

// newService is a Service before the pod of the given name.
func newService(namespace, name string, ports ...corev1.ServicePort) *corev1.Service {
	for i := range ports {
		ports[i].TargetPort = intstr.FromInt32(lab.EchoPort)
	}
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: ports},
	}
}
