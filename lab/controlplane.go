package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const apiServerPort = 6443

// findControlPlane returns the path of the binary built from lab/controlplane,
// building it if need be.
func findControlPlane(ctx context.Context, given string) (string, error) {
	if given == "" {
		given = os.Getenv("PORTREEVE_CONTROLPLANE")
	}
	if given != "" {
		return given, nil
	}
	root, err := repositoryRoot()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "hack", "controlplane.sh"))
	cmd.Stderr = os.Stderr // a cold build says so there
	path, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("building the control plane: %w", err)
	}
	return string(bytes.TrimSpace(path)), nil
}

// repositoryRoot is the folder of this module, seen from the working folder;
// tests run in their package's.
func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "hack", "controlplane.sh")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("hack/controlplane.sh is in no parent folder: run inside the repository or set PORTREEVE_CONTROLPLANE")
		}
		dir = filepath.Dir(dir)
	}
}

// startAPI starts what answers kubectl, and prepares the lab's own access to it.
func (c *Cluster) startAPI(ctx context.Context) error {
	if err := c.writePKI(); err != nil {
		return err
	}
	var err error
	if c.admin, err = c.UserConfig("lab", "system:masters"); err != nil {
		return err
	}
	if c.client, err = kubernetes.NewForConfig(c.admin); err != nil {
		return err
	}
	if c.adminKubeconfig, err = c.WriteKubeconfig("admin", c.admin); err != nil {
		return err
	}
	if err := c.startEtcd(ctx); err != nil {
		return err
	}
	return c.StartAPIServer(ctx) // which waits for etcd by itself
}

// StartAPIServer starts the API server on the lab's etcd data and returns when
// it is ready. Start has done so already; it is for use after StopAPIServer.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	argv := []string{c.controlPlane, "kube-apiserver",
		"--etcd-servers", "http://127.0.0.1:2379",
		"--secure-port", strconv.Itoa(apiServerPort),
		"--advertise-address", c.vpcAddrs(controlPlaneHost)[0].String(),
		"--cert-dir", filepath.Join(c.dir, "apiserver"),
		"--tls-cert-file", filepath.Join(c.dir, "serving.crt"),
		"--tls-private-key-file", filepath.Join(c.dir, "serving.key"),
		"--client-ca-file", filepath.Join(c.dir, "ca.crt"),
		"--authorization-mode", "Node,RBAC",
		"--service-cluster-ip-range", join(c.families(serviceIPv4, serviceIPv6)),
		"--service-account-issuer", "https://lab",
		"--service-account-key-file", filepath.Join(c.dir, "sa.key"),
		"--service-account-signing-key-file", filepath.Join(c.dir, "sa.key"),
		"--allow-privileged",
	}
	if c.options.NodePortRange != "" {
		argv = append(argv, "--service-node-port-range", c.options.NodePortRange)
	}
	p, err := c.Run(ctx, Command{Name: "kube-apiserver", Argv: append(argv, c.options.APIServerFlags...)})
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.apiServer = p
	c.mu.Unlock()
	err = c.await(ctx, p, "kube-apiserver is ready", func(ctx context.Context) error {
		if err := c.client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
			return err
		}
		// Ready is said a moment before the first namespaces are there.
		_, err := c.client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceDefault, metav1.GetOptions{})
		return err
	})
	if err != nil {
		return err
	}
	return c.restartControllerManager(ctx)
}

// restartControllerManager does after an outage what leader election does to a
// real one: without it, controllers take up to a minute to look again.
func (c *Cluster) restartControllerManager(ctx context.Context) error {
	c.mu.Lock()
	p := c.controllerManager
	c.mu.Unlock()
	if p == nil {
		return nil
	}
	p.Kill()
	<-p.Done()
	return c.startControllerManager(ctx)
}

// StopAPIServer kills the API server: to everybody else it is an outage.
func (c *Cluster) StopAPIServer() {
	c.mu.Lock()
	p := c.apiServer
	c.mu.Unlock()
	p.Kill()
}

// controllers are those of Kubernetes' controllers that a lab has work for. All
// of them would take four seconds longer to start: each begins with a request
// for a token, and those are rate-limited.
var controllers = []string{
	"clusterrole-aggregation-controller",
	"daemonset-controller",
	"deployment-controller",
	"disruption-controller",
	"endpointslice-controller",
	"garbage-collector-controller",
	"job-controller",
	"namespace-controller",
	"node-lifecycle-controller",
	"pod-garbage-collector-controller",
	"replicaset-controller",
	"root-ca-certificate-publisher-controller",
	"serviceaccount-controller",
	"statefulset-controller",
	"taint-eviction-controller",
	"validatingadmissionpolicy-status-controller",
}

func (c *Cluster) startControllerManager(ctx context.Context) error {
	kubeconfig, err := c.userKubeconfig("system:kube-controller-manager")
	if err != nil {
		return err
	}
	argv := []string{c.controlPlane, "kube-controller-manager",
		"--kubeconfig", kubeconfig,
		"--service-account-private-key-file", filepath.Join(c.dir, "sa.key"),
		"--root-ca-file", filepath.Join(c.dir, "ca.crt"),
		"--use-service-account-credentials", // the bootstrap roles are for these
		"--leader-elect=false",
		"--allocate-node-cidrs=false", // the lab's address plan does it
		"--controllers", strings.Join(controllers, ","),
		"--cluster-cidr", join(c.families(podsIPv4, podsIPv6)),
		"--service-cluster-ip-range", join(c.families(serviceIPv4, serviceIPv6)),
	}
	p, err := c.Run(ctx, Command{Name: "kube-controller-manager", Argv: append(argv, c.options.ControllerManagerFlags...)})
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.controllerManager = p
	c.mu.Unlock()
	// Pods need it, and it shows that controllers run.
	return c.await(ctx, p, "kube-controller-manager has made the default service account", func(ctx context.Context) error {
		_, err := c.client.CoreV1().ServiceAccounts(corev1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

func (c *Cluster) startScheduler(ctx context.Context) error {
	kubeconfig, err := c.userKubeconfig("system:kube-scheduler")
	if err != nil {
		return err
	}
	p, err := c.Run(ctx, Command{Name: "kube-scheduler", Argv: []string{c.controlPlane, "kube-scheduler",
		"--kubeconfig", kubeconfig, "--leader-elect=false"}})
	c.mu.Lock()
	c.scheduler = p
	c.mu.Unlock()
	return err
}

// Kubectl runs kubectl as a person with all rights would, and returns what it
// printed on both streams.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.KubectlWith(ctx, c.adminKubeconfig, args...)
}

// KubectlWith runs kubectl with a kubeconfig of [Cluster.WriteKubeconfig].
func (c *Cluster) KubectlWith(ctx context.Context, kubeconfig string, args ...string) (string, error) {
	return c.cp.Output(ctx, append([]string{c.controlPlane, "kubectl", "--kubeconfig", kubeconfig}, args...)...)
}

// KubectlCommand is what a person types in a shell to use kubectl in the lab.
func (c *Cluster) KubectlCommand() string {
	return fmt.Sprintf("ip netns exec %s %s kubectl --kubeconfig %s", c.cp.NetNS(), c.controlPlane, c.adminKubeconfig)
}

// await polls until check succeeds, the process ends, or ctx does. It is for
// things that only time tells, such as another program's readiness.
func (c *Cluster) await(ctx context.Context, p *Process, what string, check func(context.Context) error) error {
	ended := make(<-chan struct{})
	if p != nil {
		ended = p.Done()
	}
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		attempt, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := check(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ended:
			return fmt.Errorf("waiting until %s: the process ended (%v):\n%s", what, p.Err(), p.Tail(20))
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w: %w", what, ctx.Err(), err)
		}
	}
}

func join(prefixes []netip.Prefix) string {
	var s []string
	for _, p := range prefixes {
		s = append(s, p.String())
	}
	return strings.Join(s, ",")
}

// ignoreExists is for making what an earlier attempt may have made.
func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
