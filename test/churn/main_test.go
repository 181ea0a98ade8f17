// Package churn is real traffic through node ports while everything around them
// changes at random: people edit policies, agents are killed and started again, and
// a foreign hand flushes what is ours in the nodes' kernels.
//
//	people ──► history: what may be in force, since when ┐
//	(policies edited; Ready says what is)                ├► judge, as each flow ends
//	traffic ─► flows: who asked, from when to when, and  │
//	           whether a packet came through             │
//	fates ───► damages: when, on which node              ┘
//	(agents killed, rules flushed)
//
// Whoever is admitted by each state that may be in force must be answered, and
// whoever is admitted by none must not come through. Between an edit and the moment
// its status says that it is in force everywhere, either is right. So it is between
// a foreign damage and its repair, which is measured and bounded; where the kernel
// keeps the table for its owner there is no such time at all.
package churn

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

var (
	seed   = flag.Uint64("churn.seed", 0, "play this life; 0 is 1, and in a soak a new one")
	length = flag.Duration("churn.for", 0, "length of each life; 0 is 30s, and in a soak 5m")
)

var (
	town   *stage.Stage
	street *lab.Client // has the addresses of all clients
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	soak := os.Getenv("PORTREEVE_SCALE") == "soak"
	switch {
	case *seed != 0:
	case soak:
		*seed = uint64(time.Now().UnixNano())
	default:
		*seed = 1
	}
	if *length == 0 {
		*length = 30 * time.Second
		if soak {
			*length = 5 * time.Minute
		}
	}
	ctrllog.SetLogger(logr.Discard()) // the programs log for themselves
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	bin, err := stage.Build(ctx)
	defer os.RemoveAll(bin)
	if err != nil {
		return fail(err)
	}
	cluster, err := lab.Start(ctx, lab.Options{
		Nodes: 2, KubeProxy: lab.NFTables, ControllerManager: true, LogDir: os.Getenv("PORTREEVE_LAB_LOGS"),
	})
	if err != nil {
		return fail(err)
	}
	cluster.CloseOnInterrupt()
	defer cluster.Close()
	if town, err = stage.New(ctx, cluster, bin); err != nil {
		return fail(err)
	}
	town.Lease = 15 * time.Second // the machine is busy, and this is not about managers
	if err := setUp(ctx); err != nil {
		return fail(err)
	}
	return m.Run()
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func setUp(ctx context.Context) error {
	if err := town.StartAll(ctx); err != nil {
		return err
	}
	var err error
	if street, err = town.AddClient("street", networks()...); err != nil {
		return err
	}
	installation := &v1alpha1.Portreeve{}
	installation.Name = v1alpha1.InstallationName
	return town.Client.Create(ctx, installation)
}

func TestChurnWithNFTables(t *testing.T) { live(t, "nft", v1alpha1.FirewallNFTables, 30000) }

func TestChurnWithIPTables(t *testing.T) { live(t, "ipt", v1alpha1.FirewallIPTables, 30100) }
