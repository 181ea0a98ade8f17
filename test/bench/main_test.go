package bench

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

var (
	town  *stage.Stage
	audit string // the API server's audit log
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() == "" {
		return m.Run() // nothing is measured, so no lab is needed
	}
	ctrllog.SetLogger(logr.Discard())
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "portreeve-bench-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	bin, err := stage.Build(ctx)
	defer os.RemoveAll(bin)
	if err != nil {
		return fail(err)
	}
	policy := filepath.Join(dir, "audit.yaml")
	audit = filepath.Join(dir, "audit.log")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return fail(err)
	}
	cluster, err := lab.Start(ctx, lab.Options{
		Nodes: 3, KubeProxy: lab.NFTables, ControllerManager: true,
		APIServerFlags: []string{"--audit-policy-file=" + policy, "--audit-log-path=" + audit},
	})
	if err != nil {
		return fail(err)
	}
	cluster.CloseOnInterrupt()
	defer cluster.Close()
	if town, err = stage.New(ctx, cluster, bin); err != nil {
		return fail(err)
	}
	if err := town.StartAll(ctx); err != nil {
		return fail(err)
	}
	fmt.Printf("three lab nodes on a machine of %d cores, %s, kube-proxy in nftables mode\n", runtime.NumCPU(), runtime.Version())
	return m.Run()
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// auditPolicy logs each write of our own programs once, when it is answered.
const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted, Panic]
rules:
- level: Metadata
  users: ["system:serviceaccount:portreeve-system:portreeve-manager", "system:serviceaccount:portreeve-system:portreeve-agent"]
  verbs: [create, update, patch, delete]
- level: None
`
