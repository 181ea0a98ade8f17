package lab_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/portreeve/portreeve/lab"
)

const widgets = `
apiVersion: example.dev/v1
kind: Widget
metadata: {name: one}
spec: {size: 3}
---
# The definition comes second: Apply sorts.
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.dev}
spec:
  group: example.dev
  names: {kind: Widget, plural: widgets, singular: widget, listKind: WidgetList}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {size: {type: integer, maximum: 9}}}}
`

func TestAPIServerAloneServesNewKinds(t *testing.T) {
	c := start(t, lab.Options{NodePortRange: "10000-39999"})
	if err := c.ApplyYAML(t.Context(), nil, widgets); err != nil {
		t.Fatal(err)
	}
	bad := strings.ReplaceAll("apiVersion: example.dev/v1\nkind: Widget\nmetadata: {name: two}\nspec: {size: SIZE}\n", "SIZE", "10")
	if err := c.ApplyYAML(t.Context(), nil, bad); err == nil || !strings.Contains(err.Error(), "spec.size") {
		t.Errorf("a bad widget: %v; want an error about spec.size", err)
	}

	nobody, err := c.UserConfig("dev@example.dev", "team-shop")
	if err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := c.WriteKubeconfig("dev", nobody)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := c.KubectlWith(t.Context(), kubeconfig, "get", "widgets"); err == nil || !strings.Contains(out, `"dev@example.dev" cannot list`) {
		t.Errorf("a user without rights: %v, %q", err, out)
	}
}

const daemon = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: daemon}
spec:
  selector: {matchLabels: {app: daemon}}
  template:
    metadata: {labels: {app: daemon}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 1
      containers:
      - name: daemon
        image: example.dev/daemon:v1
        args: ["echo $(NODE_NAME) >$LAB_NODE_DIR/seen; test -s $KUBECONFIG && exec sleep 600"]
        env: [{name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
`

func TestDaemonSetRunsAProgramOnEveryNodeThroughAnOutage(t *testing.T) {
	c := start(t, lab.Options{
		Nodes: 2, KubeProxy: lab.NFTables, ControllerManager: true, Scheduler: true,
		Images: map[string]lab.Image{"example.dev/daemon:v1": {Argv: []string{"/bin/sh", "-c"}}},
	})
	if err := c.ApplyYAML(t.Context(), nil, daemon); err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(c.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	awaitDaemons(t, client, 2)
	for _, n := range c.Nodes() {
		for deadline := time.Now().Add(soon); ; time.Sleep(20 * time.Millisecond) { // a program that runs need not have got there
			seen, err := os.ReadFile(filepath.Join(c.Dir(), "disk-"+n.Name, "seen"))
			if err == nil && string(seen) == n.Name+"\n" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the disk of %s: %q, %v", n.Name, seen, err)
			}
		}
	}

	pods, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=n1"})
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("pods on n1: %v, %v", pods, err)
	}
	pod := c.Node("n1").Pod("default", pods.Items[0].Name)

	seeIdentity(t, c, &pods.Items[0])

	outage(t, c, func() { crash(t, pod) })

	awaitRestarts(t, client, pod.Name, 1)
	if _, err := c.AddNode(t.Context(), "late"); err != nil {
		t.Fatal(err)
	}
	awaitDaemons(t, client, 3)
	if out, err := c.Kubectl(t.Context(), "delete", "daemonset", "daemon", "--cascade=foreground", "--timeout="+soon.String()); err != nil {
		t.Error(out, err)
	}
}

// seeIdentity sees that a pod's token says which node it is on: rights of "that
// node's agent only" are made of it.
func seeIdentity(t *testing.T, c *lab.Cluster, pod *corev1.Pod) {
	t.Helper()
	cfg, err := c.ServiceAccountConfig(t.Context(), "default", "default", pod)
	if err != nil {
		t.Fatal(err)
	}
	who, err := whoAmI(t, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if node := who.Extra["authentication.kubernetes.io/node-name"]; who.Username != "system:serviceaccount:default:default" || !slices.Equal(node, []string{"n1"}) {
		t.Errorf("the pod is %s on %v; want its service account on n1", who.Username, node)
	}
}

// crash kills the program of a pod and sees it started again.
func crash(t *testing.T, pod *lab.Pod) {
	t.Helper()
	first := pod.Process("daemon")
	first.Kill()
	for deadline := time.Now().Add(soon); pod.Process("daemon").PID == first.PID; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the program of a killed container was not started again")
		}
	}
}

// awaitRestarts sees in the API that a pod runs, after so many restarts.
func awaitRestarts(t *testing.T, client kubernetes.Interface, name string, want int32) {
	t.Helper()
	for deadline := time.Now().Add(soon); ; time.Sleep(50 * time.Millisecond) {
		pod, err := client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := pod.Status.ContainerStatuses[0]
		if got.Ready && got.RestartCount == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("pod %s: %+v; want ready after %d restarts", name, got, want)
		}
	}
}

func awaitDaemons(t *testing.T, client kubernetes.Interface, want int32) {
	t.Helper()
	var ds *appsv1.DaemonSet
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var err error
		if ds, err = client.AppsV1().DaemonSets("default").Get(t.Context(), "daemon", metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
		if ds.Status.NumberReady == want {
			return
		}
	}
	t.Fatalf("daemons: %+v; want %d ready", ds.Status, want)
}

// outage stops the API server, sees that traffic flows on, does what is to be
// done meanwhile, and starts it again on the same data.
func outage(t *testing.T, c *lab.Cluster, meanwhile func()) {
	t.Helper()
	client, err := c.AddClient("client")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.AddPod(t.Context(), c.Node("n1"), "shop", "shop-1", selector); err != nil {
		t.Fatal(err)
	}
	expose(t, c, 30080)
	flow := lab.Flow{To: netip.AddrPortFrom(c.Node("n2").Addrs[0], 30080)}
	eventually(t, client.Namespace, flow, lab.Answered)

	c.StopAPIServer()
	if out, err := c.Kubectl(t.Context(), "get", "nodes", "--request-timeout=1s"); err == nil {
		t.Errorf("kubectl works without an API server: %s", out)
	}
	flow.Timeout = 20 * time.Second
	if answer := client.Ask(t.Context(), flow); answer.Outcome != lab.Answered {
		t.Errorf("while the API server is away: %s", answer)
	}
	meanwhile()
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	begin := time.Now()
	if err := c.StartAPIServer(ctx); err != nil {
		t.Fatal(err)
	}
	t.Logf("the API server was back after %s", time.Since(begin).Round(10*time.Millisecond))
}
