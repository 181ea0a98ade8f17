package arrival

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
	"github.com/portreeve/portreeve/test/stage"
)

const (
	office4 = "203.0.113.0/24"
	office6 = "2001:db8:113::/64"
	street4 = "198.51.100.0/28"
	street6 = "2001:db8:51::/64"

	firstNumber  = 30000
	changeNumber = 30100 // of the policies that are changed
	// within bounds every wait.
	within = 60 * time.Second
)

// world is a lab with kube-proxy in one mode, and Portreeve in it.
type world struct {
	town      *stage.Stage
	ctx       context.Context
	proxy     lab.ProxyMode
	firewall  v1alpha1.Firewall
	office    *lab.Client // may be named as a source
	street    *lab.Client // is never
	exposures []exposure
}

// raise starts one, which ends with the test.
func raise(t *testing.T, mode lab.ProxyMode) *world {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	t.Cleanup(cancel)
	options := lab.Options{Nodes: len(podsOn), KubeProxy: mode, ControllerManager: true}
	if dir := os.Getenv("PORTREEVE_LAB_LOGS"); dir != "" {
		options.LogDir = filepath.Join(dir, string(mode))
	}
	cluster, err := lab.Start(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	cluster.CloseOnInterrupt()
	t.Cleanup(func() { _ = cluster.Close() })
	w := &world{ctx: ctx, proxy: mode}
	if w.town, err = stage.New(ctx, cluster, bin); err != nil {
		t.Fatal(err)
	}
	w.town.Lease = 15 * time.Second // the machine may be busy, and this is not about managers
	installation := &v1alpha1.Portreeve{}
	installation.Name = v1alpha1.InstallationName
	installation.Spec.Firewall = firstFirewall[mode]
	w.create(t, installation)
	if err := w.town.StartAll(ctx); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]**lab.Client{"office": &w.office, "street": &w.street} {
		networks := map[string][]string{"office": {office4, office6}, "street": {street4, street6}}[name]
		if *c, err = w.town.AddClient(name, netip.MustParsePrefix(networks[0]), netip.MustParsePrefix(networks[1])); err != nil {
			t.Fatal(err)
		}
	}
	w.choose(t, firstFirewall[mode]) // else who is there first becomes the gateway
	w.furnish(t)
	return w
}

var firstFirewall = map[lab.ProxyMode]v1alpha1.Firewall{lab.NFTables: v1alpha1.FirewallNFTables, lab.IPTables: v1alpha1.FirewallIPTables}

// furnish makes all exposures at once.
func (w *world) furnish(t *testing.T) {
	t.Helper()
	rows := cover(parameters)
	if soak() {
		rows = product(parameters)
	}
	for i, row := range rows {
		w.exposures = append(w.exposures, exposureOf(row, uint16(firstNumber+i)))
	}
	w.pods(t, place, podsOn)
	w.create(t, w.pool())
	var group errgroup.Group
	group.SetLimit(8)
	for _, e := range w.exposures {
		group.Go(func() error {
			if err := w.town.Client.Create(w.ctx, e.service()); err != nil {
				return err
			}
			return w.town.Client.Create(w.ctx, e.policy())
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

// pods runs the pods on the nodes, all with the same label in one namespace.
func (w *world) pods(t *testing.T, namespace string, on [][]string) {
	t.Helper()
	var group errgroup.Group
	for i, names := range on {
		for _, name := range names {
			group.Go(func() error {
				_, err := w.town.AddPod(w.ctx, w.town.Nodes()[i], namespace, name, map[string]string{"app": namespace})
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

func (w *world) create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := w.town.Client.Create(w.ctx, o); err != nil {
			t.Fatalf("create %T %s: %v", o, o.GetName(), err)
		}
	}
}

// choose has the nodes filter with the firewall.
func (w *world) choose(t *testing.T, firewall v1alpha1.Firewall) {
	t.Helper()
	w.firewall = firewall
	must(t, w.await("the firewall is chosen", func() error {
		installation := &v1alpha1.Portreeve{}
		if err := w.town.Client.Get(w.ctx, client.ObjectKey{Name: v1alpha1.InstallationName}, installation); err != nil {
			return err
		}
		installation.Spec.Firewall = firewall
		return w.town.Client.Update(w.ctx, installation)
	}))
	must(t, w.await("all nodes filter so", func() error {
		for _, node := range w.town.Nodes() {
			have := &v1alpha1.NodeDatapath{}
			if err := w.town.Client.Get(w.ctx, client.ObjectKey{Name: node.Name}, have); err != nil {
				return err
			}
			if kind, _, _ := strings.Cut(have.Status.Datapath, " "); !strings.EqualFold(kind, string(firewall)) {
				return fmt.Errorf("%s filters with %q", node.Name, have.Status.Datapath)
			}
		}
		return nil
	}))
}

// inForce returns the policy as it is now, an error unless it is Ready in its present
// generation.
func (w *world) inForce(namespace, name string) (*v1alpha1.NodePortPolicy, error) {
	p := &v1alpha1.NodePortPolicy{}
	if err := w.town.Client.Get(w.ctx, client.ObjectKey{Namespace: namespace, Name: name}, p); err != nil {
		return nil, err
	}
	c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.Ready)
	if c == nil || c.Status != "True" || c.ObservedGeneration != p.Generation {
		return nil, fmt.Errorf("generation %d is not in force: %+v", p.Generation, p.Status.Conditions)
	}
	return p, nil
}

// await tries until there is no error, for a bounded time.
func (w *world) await(what string, try func() error) error {
	deadline := time.Now().Add(within)
	for {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || !pause(w.ctx, 30*time.Millisecond) {
			return fmt.Errorf("not within %s: %s: %w", within, what, err)
		}
	}
}

// pause says whether the time has passed and ctx has not ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return ctx.Err() == nil
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// source is the n-th address of a client's network, in the family of to.
func source(to netip.Addr, four, six string, n int) netip.AddrPort {
	prefix := netip.MustParsePrefix(six)
	if to.Is4() {
		prefix = netip.MustParsePrefix(four)
	}
	bytes := prefix.Addr().AsSlice()
	bytes[len(bytes)-1] = byte(n)
	a, _ := netip.AddrFromSlice(bytes)
	return netip.AddrPortFrom(a, 0)
}
