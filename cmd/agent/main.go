// Command agent is Portreeve's hand on each node: it keeps the kernel in step
// with what the cluster says of its node ports, and reports what it saw in force.
//
//	agent [flags]           enforce until told to stop; the rules stay
//	agent boot [flags]      enforce the last rules from the disk, and end; see docs/boot.md
//	agent cleanup [flags]   take the node's report back, then remove every trace of ours from it
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
	"math/rand/v2"
	"net/http"
	"net/netip"
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
	"github.com/portreeve/portreeve/datapath/nflog"
	"github.com/portreeve/portreeve/internal/agent"
	"github.com/portreeve/portreeve/internal/host"
	"github.com/portreeve/portreeve/internal/rule"
	"github.com/portreeve/portreeve/internal/version"
)

// firewallModes are the values of --firewall-mode.
var firewallModes = map[string]iptables.Mode{"auto": "", "nft": iptables.NFT, "legacy": iptables.Legacy}

type options struct {
	node, kubeconfig, stateDir, listen string
	metricsToken                       string // file
	check, read, report, answer        time.Duration
	firewallMode                       iptables.Mode
	fallback                           rule.PortRanges
	host                               host.Host
	harmless                           []string // programs
	stay, offline, version             bool
}

// commands are what an agent does when told by its first argument, else it enforces.
var commands = map[string]func(ctx context.Context, o options, log *slog.Logger) error{"": enforce, "boot": boot, "cleanup": cleanUp}

func parse(args []string) (command string, o options, err error) {
	if len(args) > 0 && commands[args[0]] != nil {
		command, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("agent", flag.ContinueOnError)
	flags.StringVar(&o.node, "node", os.Getenv("NODE_NAME"), "name of this node's Node object; default $NODE_NAME")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "path of a kubeconfig; default the pod's ServiceAccount")
	flags.StringVar(&o.stateDir, "state-dir", "/var/lib/portreeve", "directory that outlives restarts")
	flags.DurationVar(&o.check, "check-interval", 10*time.Second, "how often to look whether the kernel still agrees, and repair it")
	flags.DurationVar(&o.read, "read-interval", time.Minute, "how often to read the kernel whole although it looks unchanged")
	flags.DurationVar(&o.report, "report-interval", 250*time.Millisecond, "shortest time between two reports to the API server")
	flags.DurationVar(&o.answer, "answer-interval", 5*time.Minute, "how often to connect to each open TCP port of the own node, to see whether anything answers there; 0 for never")
	flags.StringVar(&o.listen, "listen", ":9465", "address of /metrics, /healthz and /readyz, on the node's own network; empty for none")
	flags.StringVar(&o.metricsToken, "metrics-token-file", "", "file with the bearer token that who reads /metrics must show; while there is none, only the node itself may read. Empty for everybody")
	fallback := flags.String("fallback-range", "30000-32767", "ports that are closed after a boot until the first sync if the last rules can't be read; empty for none")
	flags.StringVar(&o.host.ReservedPorts, "reserved-ports-file", host.ReservedPorts, "where net.ipv4.ip_local_reserved_ports can be written")
	harmless := flags.String("harmless-programs", "", "names of eBPF programs, kinds of tc filters and bridges of Open vSwitch, separated by commas, that are known not to carry packets around netfilter")
	mode := flags.String("firewall-mode", "auto", "iptables variant: auto (the one Kubernetes uses on this node), nft or legacy")
	flags.BoolVar(&o.stay, "stay", false, "cleanup: try until the node is clean, then answer /readyz, and end when told to")
	flags.BoolVar(&o.offline, "offline", false, "cleanup: leave the node's report at the API server as it is; it goes on saying that the rules are in force")
	flags.BoolVar(&o.version, "version", false, "print the version and end")
	if err := flags.Parse(args); err != nil || o.version {
		return command, o, err
	}
	if o.fallback, err = rule.ParsePortRanges(strings.FieldsFunc(*fallback, func(r rune) bool { return r == ',' })); err != nil {
		return command, o, fmt.Errorf("--fallback-range: %w", err)
	}
	o.harmless = strings.FieldsFunc(*harmless, func(r rune) bool { return r == ',' })
	known := false
	o.firewallMode, known = firewallModes[strings.ToLower(*mode)]
	switch {
	case flags.NArg() > 0:
		err = fmt.Errorf("unknown argument %q; the subcommands are boot and cleanup, and they come first", flags.Arg(0))
	case !known:
		err = fmt.Errorf("--firewall-mode %q is not auto, nft or legacy", *mode)
	case o.node == "" && (command == "" || command == "cleanup" && !o.offline):
		err = errors.New("--node is not set; give the name of this node's Node object, or set NODE_NAME")
	case o.check <= 0:
		err = fmt.Errorf("--check-interval %s must be longer than nothing", o.check)
	case o.answer < 0:
		err = fmt.Errorf("--answer-interval %s must not be less than nothing", o.answer)
	}
	return command, o, err
}

func main() {
	command, o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if o.version {
		fmt.Println(version.Line("portreeve-agent"))
		return
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	klog.SetLogger(logr.FromSlogHandler(log.Handler())) // what client-go logs without a context
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err == nil {
		err = commands[command](ctx, o, log)
	}
	if err != nil {
		log.Error("agent stopped", "error", err)
		os.Exit(1)
	}
}

func enforce(ctx context.Context, o options, log *slog.Logger) error {
	client, err := connect(o)
	if err != nil {
		return err
	}
	c, err := offline(o, log)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), version.Info())
	c.Sources, c.Reports, c.Registerer = client.Sources(), client, registry
	c.Answers = agent.Answers{Interval: o.answer, Dial: host.Knock, Random: rand.Float64, Addresses: func(ctx context.Context) ([]netip.Addr, error) {
		addresses, err := client.Addresses(ctx)
		if err != nil {
			return nil, err
		}
		return host.Local(addresses)
	}}
	a := agent.New(c)
	if o.listen != "" {
		go serve(ctx, o.listen, a.Handler(registry), log)
	}
	log.Info("agent started", "node", o.node)
	a.Run(ctx)
	log.Info("agent stopped; the rules stay in force")
	return nil
}

// connect returns the client of the node's agent; it does not speak to the API server yet.
func connect(o options) (*agent.Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS, config.UserAgent = -1, version.UserAgent("portreeve-agent") // the agent paces itself
	return agent.NewClient(config, o.node)
}

// offline is the agent that needs no API server.
func offline(o options, log *slog.Logger) (agent.Config, error) {
	boot, err := host.BootID()
	return agent.Config{
		Node: o.node, BootID: boot, Backends: backends(o, log), Sweep: conntrack.Sweep, SweepStale: conntrack.SweepStale, Packets: nflog.Listen, Survey: o.survey(),
		Host: o.host, Fallback: o.fallback,
		MetricsToken: o.metricsToken,
		StateDir:     o.stateDir, CheckInterval: o.check, ReadInterval: o.read, ReportInterval: o.report,
		Log: log, Registerer: prometheus.NewRegistry(),
	}, err
}

// boot puts in force what is known without the API server, before anything listens.
func boot(ctx context.Context, o options, log *slog.Logger) error {
	c, err := offline(o, log)
	if err != nil {
		return err
	}
	return agent.New(c).Boot(ctx)
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
