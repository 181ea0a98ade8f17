// Package fleet is what the news of a node costs where there are many nodes and
// policies: two hundred Nodes, which are plain objects with the reports of agents that
// nobody runs, beside a real API server and a real manager.
//
//	Node changes ─► manager ─► proxy, which counts its writes ─► API server
//	                   └─► its metrics: how many policies it looked at; its CPU time
//
// What it may write follows from what statuses said before: those that list an address
// of the node have to be corrected, and no other.
package fleet

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

var (
	town   *stage.Stage
	writes = &ledger{}
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctrllog.SetLogger(logr.Discard()) // the programs log for themselves
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	bin, err := stage.Build(ctx)
	defer func() { _ = os.RemoveAll(bin) }()
	if err != nil {
		return fail(err)
	}
	cluster, err := lab.Start(ctx, lab.Options{NodePortRange: "10000-19999", IPv4Only: true, LogDir: os.Getenv("PORTREEVE_LAB_LOGS")})
	if err != nil {
		return fail(err)
	}
	cluster.CloseOnInterrupt()
	defer cluster.Close()
	if town, err = stage.New(ctx, cluster, bin); err != nil {
		return fail(err)
	}
	town.Lease = 15 * time.Second // the machine may be busy, and this is not about leaders
	return m.Run()
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}
