package bench

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

// programs is the folder of the manager and the agent.
var programs string

// The lab of the benchmark that runs: they run one after the other.
var (
	town  *stage.Stage
	audit string // the API server's audit log
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() == "" {
		return m.Run() // nothing is measured
	}
	ctrllog.SetLogger(logr.Discard())
	defer func() { _ = os.RemoveAll(programs) }()
	return m.Run()
}

// raise starts the lab of a benchmark, with Portreeve installed and not running.
func raise(ctx context.Context, b *testing.B, options lab.Options) {
	b.Helper()
	build(ctx, b)
	dir := b.TempDir()
	policy := filepath.Join(dir, "audit.yaml")
	audit = filepath.Join(dir, "audit.log")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		b.Fatal(err)
	}
	options.APIServerFlags = append(options.APIServerFlags, "--audit-policy-file="+policy, "--audit-log-path="+audit, "--audit-log-maxsize=4096")
	cluster, err := lab.Start(ctx, options)
	if err != nil {
		b.Fatal(err)
	}
	cluster.CloseOnInterrupt()
	b.Cleanup(func() { _ = cluster.Close() })
	if town, err = stage.New(ctx, cluster, programs); err != nil {
		b.Fatal(err)
	}
}

// build builds the programs, once: a benchmark of a datapath needs none.
func build(ctx context.Context, b *testing.B) {
	b.Helper()
	if programs != "" {
		return
	}
	var err error
	if programs, err = stage.Build(ctx); err != nil {
		b.Fatal(err)
	}
}

func machine() string {
	return fmt.Sprintf("a machine of %d cores, %s", runtime.NumCPU(), runtime.Version())
}

// auditPolicy logs each write of our own programs once, when it is answered; not
// Leases, which are written all the time, nor Events, which nobody waits for, nor
// questions, which write nothing.
const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted, Panic]
rules:
- level: None
  resources: [{group: coordination.k8s.io, resources: [leases]}, {group: events.k8s.io, resources: [events]}, {group: authorization.k8s.io}]
- level: Metadata
  users: ["system:serviceaccount:portreeve-system:portreeve-manager", "system:serviceaccount:portreeve-system:portreeve-agent"]
  verbs: [create, update, patch, delete]
- level: None
`
