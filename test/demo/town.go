package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

// Who knocks. The sample policy names the office's networks as its sources, and
// nobody else.
var (
	office4Net = netip.MustParsePrefix("203.0.113.0/24")
	office6Net = netip.MustParsePrefix("2001:db8:113::/48")
	street4Net = netip.MustParsePrefix("198.51.100.0/24")
	street6Net = netip.MustParsePrefix("2001:db8:51::/48")
	office4    = netip.MustParseAddr("203.0.113.10")
	office6    = netip.MustParseAddr("2001:db8:113::10")
	street4    = netip.MustParseAddr("198.51.100.7")
	street6    = netip.MustParseAddr("2001:db8:51::7")
)

// A town is a lab with Portreeve, an account of each cloud and two clients in it. The
// team's application runs; nothing asks for a port yet.
type town struct {
	*stage.Stage
	clouds         []*account
	office, street *lab.Client
}

// raise builds a town, and leaves nothing of it on error.
func raise(ctx context.Context, say *narrator, name string) (*town, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute) // a cold build is slow
	defer cancel()
	began := time.Now()
	bin, err := stage.Build(ctx)
	defer os.RemoveAll(bin) // gone by then, unless something failed
	if err != nil {
		return nil, err
	}
	say.step(time.Since(began), "built: manager and agent")

	began = time.Now()
	cluster, err := lab.Start(ctx, lab.Options{
		Name: name, Nodes: 3, KubeProxy: lab.NFTables, ControllerManager: true, Scheduler: true,
		LogDir: os.Getenv("PORTREEVE_LAB_LOGS"),
	})
	if err != nil {
		return nil, err
	}
	t := &town{}
	if err := t.furnish(ctx, say, cluster, bin, began); err != nil {
		return nil, errors.Join(err, cluster.Close())
	}
	return t, nil
}

func (t *town) furnish(ctx context.Context, say *narrator, cluster *lab.Cluster, bin string, began time.Time) error {
	// With the lab's own files, the programs are removed even after a crash.
	inside := filepath.Join(cluster.Dir(), "bin")
	err := os.Rename(bin, inside)
	if err != nil {
		return err
	}
	if t.Stage, err = stage.New(ctx, cluster, inside); err != nil {
		return err
	}
	say.step(time.Since(began), "started: Kubernetes, 3 nodes with kube-proxy (nftables), %s", t.families())

	began = time.Now()
	if err := t.openClouds(); err != nil {
		return err
	}
	if err := t.StartAll(ctx); err != nil {
		return err
	}
	if t.office, err = t.AddClient("office", office4Net, office6Net); err != nil {
		return err
	}
	if t.street, err = t.AddClient("street", street4Net, street6Net); err != nil {
		return err
	}
	if err := until(ctx, t.working); err != nil {
		return err
	}
	say.step(time.Since(began), "started: Portreeve's manager, its agent on each node, an EC2 and an ECS of ours")

	began = time.Now()
	if out, err := t.Kubectl(ctx, "apply", "-f", demoFile("shop.yaml")); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	if out, err := t.Kubectl(ctx, "rollout", "status", "-n", "shop", "deployment/shop", "--timeout=60s"); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	say.step(time.Since(began), "started: the team's application, 2 pods")
	return nil
}

// working says whether a manager leads and every agent has read its kernel back.
func (t *town) working(ctx context.Context) error {
	var lease coordinationv1.Lease
	if err := t.Client.Get(ctx, client.ObjectKey{Namespace: "portreeve-system", Name: "portreeve-manager"}, &lease); err != nil {
		return fmt.Errorf("no manager leads yet: %w", err)
	}
	for _, node := range t.Nodes() {
		var report v1alpha1.NodeDatapath
		if err := t.Client.Get(ctx, client.ObjectKey{Name: node.Name}, &report); err != nil {
			return fmt.Errorf("no report of %s yet: %w", node.Name, err)
		}
		if !meta.IsStatusConditionTrue(report.Status.Conditions, v1alpha1.Enforced) {
			return fmt.Errorf("the agent of %s reports:%s", node.Name, describe(report.Status.Conditions))
		}
	}
	return nil
}

// apply applies config/samples as a user would, through an overlay.
func (t *town) apply(ctx context.Context) (out string, err error) {
	return t.Kubectl(ctx, "apply", "-k", demoFile("overlay"))
}

func (t *town) families() string {
	if t.IPv6() {
		return "IPv4 and IPv6"
	}
	return "IPv4 only, for this kernel has no IPv6"
}

// demoFile is a file of this folder.
func demoFile(name string) string { return filepath.Join(stage.Root(), "test", "demo", name) }

func cores() string {
	if n := runtime.NumCPU(); n != 1 {
		return fmt.Sprintf("%d cores", n)
	}
	return "1 core"
}
