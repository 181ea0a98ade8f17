package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Cluster is a running lab. Its methods may be called concurrently.
type Cluster struct {
	name, dir, logDir string
	options           Options
	ipv6              bool
	controlPlane      string

	journal   *journal
	spawner   *spawner
	processes processSet

	vpc *network
	cp  *Namespace

	authority       *authority
	admin           *rest.Config
	adminKubeconfig string
	client          kubernetes.Interface

	// running ends the fake kubelets; kubelets waits for them.
	running  context.Context
	stop     context.CancelFunc
	kubelets sync.WaitGroup

	mu                sync.Mutex
	etcd              *Process
	apiServer         *Process
	controllerManager *Process
	scheduler         *Process
	names             map[string]bool // of nodes and clients, which share the VPC
	hosts             map[int]bool    // host numbers taken in the VPC
	nodes             []*Node

	life   sync.RWMutex // held by what makes things, against Close
	closed bool
	once   sync.Once
	closeE error
}

// Start sweeps up after dead labs and starts a new one. It returns when the API
// server is ready, every node is Ready and every kube-proxy has synced; on
// error nothing is left. ctx bounds the start, not the lab's life.
func Start(ctx context.Context, options Options) (*Cluster, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := checkMachine(); err != nil {
		return nil, err
	}
	if _, err := Sweep(); err != nil {
		return nil, err
	}
	binary, err := findControlPlane(ctx, options.ControlPlane)
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		name: options.Name, options: options, controlPlane: binary,
		names: map[string]bool{"cp": true, "vpc": true}, hosts: map[int]bool{},
		ipv6: !options.IPv4Only && kernelHasIPv6(),
	}
	c.running, c.stop = context.WithCancel(context.Background())
	if c.journal, err = claim(c.name); err != nil {
		return nil, err
	}
	c.spawner = newSpawner()
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("starting lab %s: %w", c.name, err), c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := c.makeDirs(); err != nil {
		return err
	}
	vpc, err := c.newNamespace("vpc")
	if err != nil {
		return err
	}
	if c.vpc, err = newNetwork(vpc); err != nil {
		return err
	}
	if c.cp, err = c.newNamespace("cp"); err != nil {
		return err
	}
	if _, err := c.vpc.join(c.cp, "cp", c.vpcAddrs(controlPlaneHost)); err != nil {
		return err
	}
	if err := c.startAPI(ctx); err != nil {
		return err
	}
	// All the rest starts at once; each finds the others when they are there.
	group, ctx := errgroup.WithContext(ctx)
	if c.options.ControllerManager {
		group.Go(func() error { return c.startControllerManager(ctx) })
	}
	if c.options.Scheduler {
		group.Go(func() error { return c.startScheduler(ctx) })
	}
	for i := range c.options.Nodes {
		n, err := c.plugInNode(fmt.Sprintf("n%d", i+1)) // in order: addresses follow the number
		if err != nil {
			return err
		}
		group.Go(func() error { return n.boot(ctx) })
	}
	return group.Wait()
}

func (c *Cluster) makeDirs() (err error) {
	if c.dir, err = os.MkdirTemp("", "portreeve-lab-"+c.name+"-"); err != nil {
		return err
	}
	if err := c.journal.add(record{Dir: c.dir}); err != nil {
		return err
	}
	c.logDir = c.options.LogDir
	if c.logDir == "" {
		c.logDir = filepath.Join(c.dir, "logs")
	}
	c.logDir, err = filepath.Abs(c.logDir)
	if err != nil {
		return err
	}
	return os.MkdirAll(c.logDir, 0o755)
}

// Close ends all processes and removes everything the lab has made. It may be
// called more than once, also while other methods run: those fail.
func (c *Cluster) Close() error {
	c.once.Do(func() {
		c.life.Lock() // whatever is being made is made and recorded first
		c.closed = true
		c.life.Unlock()
		c.stop()
		c.processes.kill()
		c.kubelets.Wait()
		c.spawner.close()
		c.closeE = c.journal.remove()
	})
	return c.closeE
}

// enter holds off Close while something is made that Close must know of.
func (c *Cluster) enter() (leave func(), err error) {
	c.life.RLock()
	if c.closed {
		c.life.RUnlock()
		return nil, fmt.Errorf("lab %s is closed", c.name)
	}
	return c.life.RUnlock, nil
}

// CloseOnInterrupt closes the lab and ends the calling program when it gets an
// interrupt or a request to end. Call it once, in TestMain or main.
func (c *Cluster) CloseOnInterrupt() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	go func() {
		sig := <-signals
		fmt.Fprintf(os.Stderr, "%v: removing lab %s\n", sig, c.name)
		code := 130
		if err := c.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}()
}

// Name is the prefix of the lab's namespaces.
func (c *Cluster) Name() string { return c.name }

// Dir is a folder for files of the lab's user; it is removed with the lab.
func (c *Cluster) Dir() string { return c.dir }

// LogDir holds one log file per process.
func (c *Cluster) LogDir() string { return c.logDir }

// IPv6 tells whether the lab is dual-stack.
func (c *Cluster) IPv6() bool { return c.ipv6 }

// ControlPlane is the namespace of the API server, in which managers run too.
func (c *Cluster) ControlPlane() *Namespace { return c.cp }

// VPC is the namespace of the bridge that joins all others.
func (c *Cluster) VPC() *Namespace { return c.vpc.ns }

// checkMachine refuses early, with the way to find out more, what would
// otherwise fail late with a riddle.
func checkMachine() error {
	if os.Geteuid() != 0 {
		return errors.New("the lab needs root (it makes network namespaces): use sudo; hack/preflight lists all needs")
	}
	for _, tool := range []string{"ip", "iptables", "ip6tables", "nft", "conntrack"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("the lab needs %s: run hack/preflight --install", tool)
		}
	}
	return nil
}

func kernelHasIPv6() bool {
	_, err := os.Stat("/proc/net/if_inet6")
	return err == nil
}
