// Package e2e is the end-to-end truth: a real control plane, real kube-proxy,
// real packets. All tests share one lab; each has a namespace, a category and a
// range of ports of its own.
package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

var (
	town    *stage.Stage
	account *cloudtest.EC2
	alibaba *cloudtest.ECS
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctrllog.SetLogger(logr.Discard()) // the programs log for themselves
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	bin, err := stage.Build(ctx)
	defer os.RemoveAll(bin)
	if err != nil {
		return fail(err)
	}
	flags, remove, err := auditing()
	if err != nil {
		return fail(err)
	}
	defer remove()
	cluster, err := lab.Start(ctx, lab.Options{
		Nodes: 3, KubeProxy: proxyMode(), ControllerManager: true, LogDir: os.Getenv("PORTREEVE_LAB_LOGS"),
		APIServerFlags: flags,
	})
	if err != nil {
		return fail(err)
	}
	cluster.CloseOnInterrupt()
	defer cluster.Close()
	if town, err = stage.New(ctx, cluster, bin); err != nil {
		return fail(err)
	}
	town.Lease = 5 * time.Second
	if account, err = town.ServeEC2(); err != nil {
		return fail(err)
	}
	if alibaba, err = town.ServeECS(); err != nil {
		return fail(err)
	}
	if err := town.StartAll(ctx); err != nil {
		return fail(err)
	}
	return m.Run()
}

// proxyMode is nftables unless the environment asks for kube-proxy's other mode.
func proxyMode() lab.ProxyMode {
	if mode := os.Getenv("PORTREEVE_PROXY_MODE"); mode != "" {
		return lab.ProxyMode(mode)
	}
	return lab.NFTables
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}
