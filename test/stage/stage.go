// Package stage sets Portreeve up in a lab, for the demo, the end-to-end tests
// and the benchmarks alike: the CRDs and RBAC of config/, the manager in the
// control plane's namespace and an agent on every node, each as its own process
// with its ServiceAccount's token and no other right.
package stage

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// Stage is a lab with Portreeve in it.
type Stage struct {
	*lab.Cluster
	// Client reads and writes as the lab's own administrator.
	Client client.WithWatch
	// Bin holds the programs manager, agent and kubectl-portreeve.
	Bin string

	// Lease is how long a silent manager stays leader; 2 s when zero. A busy machine
	// may be silent for longer, and the manager then ends.
	Lease time.Duration

	// Plain: the manager in Bin is of a version that serves its metrics in plain text, and
	// knows of no other way.
	Plain bool

	// AgentArgs are further arguments of the agents that start.
	AgentArgs []string

	manager *lab.Process
	agents  map[string]*lab.Process
	// kubeconfigs of the agents by node.
	kubeconfigs map[string]string
}

// Root is the folder of the module.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// Build compiles the programs into a new folder, which the caller removes.
func Build(ctx context.Context) (dir string, err error) {
	dir, err = os.MkdirTemp("", "portreeve-bin-")
	if err != nil {
		return "", err
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", dir+"/", "./cmd/manager", "./cmd/agent", "./cmd/kubectl-portreeve")
	build.Dir = Root()
	// Interrupted, go leaves its work folder behind: have it where the caller
	// removes it.
	build.Env = append(os.Environ(), "GOTMPDIR="+dir)
	build.Cancel = func() error { return build.Process.Signal(os.Interrupt) }
	build.WaitDelay = 10 * time.Second
	if out, err := build.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return dir, nil
}

// New installs what config/ holds and starts nothing yet.
func New(ctx context.Context, cluster *lab.Cluster, bin string) (*Stage, error) {
	return NewOf(ctx, cluster, bin, Root())
}

// NewOf is New with the config/ in root, which may be that of another version.
func NewOf(ctx context.Context, cluster *lab.Cluster, bin, root string) (*Stage, error) {
	c, err := Client(cluster)
	if err != nil {
		return nil, err
	}
	s := &Stage{Cluster: cluster, Client: c, Bin: bin, agents: map[string]*lab.Process{}, kubeconfigs: map[string]string{}}
	return s, s.Install(ctx, root, "crd", "rbac", "grants/*")
}

// Client reads and writes Kubernetes' kinds and ours as the lab's own administrator.
func Client(cluster *lab.Cluster) (client.WithWatch, error) {
	scheme := kruntime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		return nil, err
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	admin := cluster.RESTConfig()
	admin.WarningHandler = rest.NoWarnings{} // of the guard, which scenes mean to provoke
	return client.NewWithWatch(admin, client.Options{Scheme: scheme})
}

// Install applies every file of the folders of root's config/, of those that are there for
// any kind of cluster: crd, rbac and grants/*. Apply knows the order.
func (s *Stage) Install(ctx context.Context, root string, folders ...string) error {
	var files []string
	for _, dir := range folders {
		pattern := filepath.Join(root, "config", dir, "*.yaml")
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		found = slices.DeleteFunc(found, func(f string) bool { return filepath.Base(f) == "kustomization.yaml" })
		if len(found) == 0 && !strings.Contains(dir, "*") { // an older version may have no such folders
			return fmt.Errorf("%s: no such file", pattern)
		}
		files = append(files, found...)
	}
	return s.Apply(ctx, files...)
}

// StartManager starts the manager. through, when not nil, is the access it gets
// in place of its own to the API server, such as a proxy's; it must carry the
// ServiceAccount's token.
func (s *Stage) StartManager(ctx context.Context, through *rest.Config) error {
	var err error
	s.manager, err = s.RunManager(ctx, "manager", through, "--metrics-bind-address", "127.0.0.1:8080")
	return err
}

// RunManager is StartManager for managers that the caller keeps, such as a second
// one. The name is that of its log; further flags come after the stage's own.
func (s *Stage) RunManager(ctx context.Context, name string, through *rest.Config, flags ...string) (*lab.Process, error) {
	config := through
	if config == nil {
		var err error
		if config, err = s.ManagerConfig(ctx); err != nil {
			return nil, err
		}
	}
	kubeconfig, err := s.WriteKubeconfig(name, config)
	if err != nil {
		return nil, err
	}
	argv := []string{filepath.Join(s.Bin, "manager"), "--kubeconfig", kubeconfig, "--lease-duration", cmp.Or(s.Lease, 2*time.Second).String()}
	if !s.Plain {
		argv = append(argv, "--metrics-secure=false")
	}
	return s.Run(ctx, lab.Command{
		Name: name, Argv: append(argv, flags...),
		Env: []string{
			"AWS_ACCESS_KEY_ID=" + AccessKey, "AWS_SECRET_ACCESS_KEY=" + SecretKey, "AWS_EC2_METADATA_DISABLED=true", "AWS_ENDPOINT_URL_STS=" + stsEndpoint,
			"ALIBABA_CLOUD_ACCESS_KEY_ID=" + AccessKey, "ALIBABA_CLOUD_ACCESS_KEY_SECRET=" + SecretKey,
		},
	})
}

// RunRival is RunManager for one that heeds no leader and no Lease: it works from
// the start, beside whatever other manager does, as one does that was paused past
// its lease and has not noticed. It listens nowhere, unless a flag says so.
func (s *Stage) RunRival(ctx context.Context, name string, through *rest.Config, flags ...string) (*lab.Process, error) {
	alone := []string{"--leader-elect=false", "--metrics-bind-address", "0", "--health-probe-bind-address", "0"}
	return s.RunManager(ctx, name, through, append(alone, flags...)...)
}

// ManagerConfig is access with the manager's own ServiceAccount.
func (s *Stage) ManagerConfig(ctx context.Context) (*rest.Config, error) {
	return s.ServiceAccountConfig(ctx, "portreeve-system", "portreeve-manager", nil)
}

// Manager is the running manager's process, nil before StartManager.
func (s *Stage) Manager() *lab.Process { return s.manager }

// StartAgent starts the agent of a node, with a new token.
func (s *Stage) StartAgent(ctx context.Context, node *lab.Node) error {
	config, err := s.AgentConfig(ctx, node.Name)
	if err != nil {
		return err
	}
	if s.kubeconfigs[node.Name], err = s.WriteKubeconfig("agent-"+node.Name, config); err != nil {
		return err
	}
	return s.RestartAgent(ctx, node)
}

// AgentConfig is access with the agents' ServiceAccount, by a token that says, as
// that of a DaemonSet's pod does, which node its bearer is on. It is bound to the
// Node: with that deleted the token is dead, also for a new Node of the name, whose
// agent needs StartAgent.
func (s *Stage) AgentConfig(ctx context.Context, node string) (*rest.Config, error) {
	var object corev1.Node
	if err := s.Client.Get(ctx, client.ObjectKey{Name: node}, &object); err != nil {
		return nil, err
	}
	return s.ServiceAccountConfig(ctx, "portreeve-system", "portreeve-agent", &object)
}

// RestartAgent starts the agent of a node with the token it had, which needs no
// API server.
func (s *Stage) RestartAgent(ctx context.Context, node *lab.Node) error {
	return s.runAgent(ctx, node, s.kubeconfigs[node.Name])
}

func (s *Stage) runAgent(ctx context.Context, node *lab.Node, kubeconfig string) error {
	state := s.AgentState(node)
	if err := os.MkdirAll(state, 0o700); err != nil {
		return err
	}
	var err error
	s.agents[node.Name], err = s.Run(ctx, lab.Command{
		Name: "agent-" + node.Name, In: node.Namespace,
		Argv: append([]string{filepath.Join(s.Bin, "agent"), "--node", node.Name, "--kubeconfig", kubeconfig, "--state-dir", state}, s.AgentArgs...),
	})
	return err
}

// Agent is the running agent of a node, nil if there is none.
func (s *Stage) Agent(node *lab.Node) *lab.Process { return s.agents[node.Name] }

// StartAll starts the manager and an agent on every node.
func (s *Stage) StartAll(ctx context.Context) error {
	if err := s.StartManager(ctx, nil); err != nil {
		return err
	}
	for _, node := range s.Nodes() {
		if err := s.StartAgent(ctx, node); err != nil {
			return err
		}
	}
	return nil
}
