// Command agent is Portreeve's hand on each node: it keeps the kernel in step
// with what the cluster says of its node ports, and reports what it saw in force.
//
//	agent [flags]           enforce until told to stop; the rules stay
//	agent cleanup [flags]   remove every trace of ours from the kernel
//
// It runs in the node's own network namespace with NET_ADMIN, and holds no
// secret but its ServiceAccount's token.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/portreeve/portreeve/datapath/conntrack"
	"github.com/portreeve/portreeve/datapath/iptables"
	"github.com/portreeve/portreeve/internal/agent"
)

// firewallModes are the values of --firewall-mode.
var firewallModes = map[string]iptables.Mode{"auto": "", "nft": iptables.NFT, "legacy": iptables.Legacy}

type options struct {
	node, kubeconfig, stateDir, listen string
	check, report                      time.Duration
	firewallMode                       iptables.Mode
}

func parse(args []string) (cleanup bool, o options, err error) {
	if len(args) > 0 && args[0] == "cleanup" {
		cleanup, args = true, args[1:]
	}
	flags := flag.NewFlagSet("agent", flag.ContinueOnError)
	flags.StringVar(&o.node, "node", os.Getenv("NODE_NAME"), "name of this node's Node object; default $NODE_NAME")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "path of a kubeconfig; default the pod's ServiceAccount")
	flags.StringVar(&o.stateDir, "state-dir", "/var/lib/portreeve", "directory that outlives restarts")
	flags.DurationVar(&o.check, "check-interval", 10*time.Second, "how often to read the kernel and repair it")
	flags.DurationVar(&o.report, "report-interval", 250*time.Millisecond, "shortest time between two reports to the API server")
	flags.StringVar(&o.listen, "listen", ":9465", "address of /metrics, /healthz and /readyz, on the node's own network; empty for none")
	mode := flags.String("firewall-mode", "auto", "iptables variant: auto (the one Kubernetes uses on this node), nft or legacy")
	if err := flags.Parse(args); err != nil {
		return cleanup, o, err
	}
	known := false
	o.firewallMode, known = firewallModes[strings.ToLower(*mode)]
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("unknown argument %q; the only subcommand is cleanup, and it comes first", flags.Arg(0))
	case !known:
		err = fmt.Errorf("--firewall-mode %q is not auto, nft or legacy", *mode)
	case !cleanup && o.node == "":
		err = errors.New("--node is not set; give the name of this node's Node object, or set NODE_NAME")
	case o.check <= 0:
		err = fmt.Errorf("--check-interval %s must be longer than nothing", o.check)
	}
	return cleanup, o, err
}

func main() {
	cleanup, o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	klog.SetLogger(logr.FromSlogHandler(log.Handler())) // what client-go logs without a context
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := enforce
	if cleanup {
		run = clean
	}
	if err == nil {
		err = run(ctx, o, log)
	}
	if err != nil {
		log.Error("agent stopped", "error", err)
		os.Exit(1)
	}
}

// clean removes what any earlier agent left in the kernel, by whatever datapath. Stop
// the node's agent before, else it repairs what it finds missing.
func clean(ctx context.Context, o options, log *slog.Logger) error {
	var failed, missing []error
	for _, b := range backends(o, log) {
		d, name, err := b.Open()
		if err != nil { // what the node can't have has left nothing
			missing = append(missing, err)
			continue
		}
		if err := d.Cleanup(ctx); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
			continue
		}
		log.Info("every trace of ours is gone from the kernel", "datapath", name)
	}
	if len(missing) == len(backends(o, log)) {
		failed = append(failed, missing...)
	}
	return errors.Join(failed...)
}

func enforce(ctx context.Context, o options, log *slog.Logger) error {
	config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return err
	}
	config.QPS, config.UserAgent = -1, "portreeve-agent" // the agent paces itself
	client, err := agent.NewClient(config, o.node)
	if err != nil {
		return err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	a := agent.New(agent.Config{
		Node: o.node, BootID: strings.TrimSpace(string(boot)),
		Backends: backends(o, log), Sweep: conntrack.Sweep,
		Sources: client.Sources(), Reports: client,
		StateDir: o.stateDir, CheckInterval: o.check, ReportInterval: o.report,
		Log: log, Registerer: registry,
	})
	if o.listen != "" {
		go serve(ctx, o.listen, a.Handler(registry), log)
	}
	log.Info("agent started", "node", o.node)
	a.Run(ctx)
	log.Info("agent stopped; the rules stay in force")
	return nil
}

// serve answers until the context ends. An address that is taken must not keep
// a node from enforcing, so it is tried again.
func serve(ctx context.Context, address string, handler http.Handler, log *slog.Logger) {
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	for {
		err := server.ListenAndServe()
		if errors.Is(err, http.ErrServerClosed) {
			return
		}
		log.Error("metrics and health can't be served; trying again", "address", address, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Second):
		}
	}
}
