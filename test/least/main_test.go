// Package least is what our programs may do and what they may not, asked of a real API
// server: rights that are granted where they are wanted, an agent's token in the wrong
// hands, metrics, and the security of pods.
package least

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/go-logr/logr"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

const (
	within    = 30 * time.Second
	namespace = "portreeve-system"
	metrics   = "127.0.0.1:8443"
)

var (
	town *stage.Stage
	// manager is the process that TestMain started: no test may end it.
	manager *lab.Process
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctrllog.SetLogger(logr.Discard())
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	bin, err := stage.Build(ctx)
	defer os.RemoveAll(bin)
	if err != nil {
		return fail(err)
	}
	cluster, err := lab.Start(ctx, lab.Options{Nodes: 2, ControllerManager: true, LogDir: os.Getenv("PORTREEVE_LAB_LOGS")})
	if err != nil {
		return fail(err)
	}
	cluster.CloseOnInterrupt()
	defer cluster.Close()
	if town, err = stage.New(ctx, cluster, bin); err != nil {
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

// optional are the rights that a manager may lack, by what they are about.
var optional = map[string]authorizationv1.ResourceAttributes{
	"portreeve-manager-fronts":          {Verb: "list", Resource: "configmaps"},
	"portreeve-manager-records":         {Verb: "list", Group: "externaldns.k8s.io", Resource: "dnsendpoints"},
	"portreeve-manager-networkpolicies": {Verb: "list", Group: "networking.k8s.io", Resource: "networkpolicies"},
}

// setUp starts a manager as config/default installs it: without what only some want.
func setUp(ctx context.Context) error {
	config, err := town.ManagerConfig(ctx)
	if err != nil {
		return err
	}
	own, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	for name, right := range optional {
		if err := town.Client.Delete(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			return err
		}
		if err := until(ctx, func() error { // the API server hears of it by a watch
			review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &right}}
			review, err := own.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if err == nil && review.Status.Allowed {
				err = fmt.Errorf("the manager still may %s %s", right.Verb, right.Resource)
			}
			return err
		}); err != nil {
			return err
		}
	}
	manager, err = town.RunManager(ctx, "manager", nil, "--lease-duration=15s", "--rights-interval=500ms",
		"--metrics-secure=true", "--metrics-bind-address", metrics)
	if err != nil {
		return err
	}
	for _, node := range town.Nodes() {
		if err := town.StartAgent(ctx, node); err != nil {
			return err
		}
	}
	return nil
}

// until tries until there is no error, for a bounded time.
func until(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", within, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	if err := until(t.Context(), try); err != nil {
		t.Fatalf("%s: %v\nmanager: %s", what, err, manager.Tail(5))
	}
}

// shop opens a pool, and a Service for policies in a namespace of its own.
func shop(t *testing.T, name string, numbers v1alpha1.PortRange) {
	t.Helper()
	pool := &v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: name}}
	pool.Spec = v1alpha1.NodePortPoolSpec{
		Category: name, Team: "team", Ranges: []v1alpha1.PortRange{numbers},
		AllocateTo: v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(name)}},
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "shop"}}
	service.Spec.Selector = map[string]string{"app": "shop"}
	service.Spec.Ports = []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(lab.EchoPort)}}
	for _, o := range []client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, pool, service} {
		if err := town.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
}

// serviceAccount returns access as a ServiceAccount of that name, which is made.
func serviceAccount(t *testing.T, name string) *rest.Config {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	if err := town.Client.Create(t.Context(), account); client.IgnoreAlreadyExists(err) != nil {
		t.Fatal(err)
	}
	config, err := town.ServiceAccountConfig(t.Context(), account.Namespace, account.Name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// office is a source that policies name.
var office = netip.MustParsePrefix("203.0.113.0/28")
