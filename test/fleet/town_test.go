package fleet

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

const (
	nodes = 200
	teams = 10
	zones = 10
	edges = 4 // nodes that may be gateways
	// Of so many policies one has a gateway, and another the nodes of a zone.
	kinds = 10
	// parallel is how many requests are in flight at once.
	parallel = 8
	within   = 20 * time.Minute
	first    = 11000 // number; above the fail-safe ports
)

func soak() bool { return os.Getenv("PORTREEVE_SCALE") == "soak" }

// policies is how many there are.
func policies() int {
	if soak() {
		return 2000
	}
	return 300
}

func nodeName(i int) string   { return fmt.Sprintf("node-%03d", i) }
func policyName(i int) string { return fmt.Sprintf("shop-%04d", i) }
func team(i int) string       { return fmt.Sprintf("team-%d", i%teams) }

// node is a Node as its kubelet would register it.
func node(i int) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Labels: map[string]string{
			corev1.LabelHostname: nodeName(i), corev1.LabelOSStable: "linux", corev1.LabelTopologyZone: fmt.Sprintf("z%d", i%zones),
		}},
		Status: corev1.NodeStatus{
			NodeInfo:   corev1.NodeSystemInfo{BootID: "boot-of-" + nodeName(i), OperatingSystem: "linux"},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("10.7.%d.%d", i/200, 1+i%200)}},
		},
	}
	if i < edges {
		n.Labels["role"] = "edge"
	}
	return n
}

// policy is one of each kind by turns: with one gateway, with the nodes of a zone, and
// mostly with all.
func policy(i int) *v1alpha1.NodePortPolicy {
	p := &v1alpha1.NodePortPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: team(i), Name: policyName(i)},
		Spec: v1alpha1.NodePortPolicySpec{
			Category: team(i), ServiceRef: v1alpha1.ServiceReference{Name: policyName(i)},
			Sources: []v1alpha1.Source{{CIDR: "10.8.0.0/16"}, {CIDR: v1alpha1.CIDR(fmt.Sprintf("203.0.%d.0/24", i%teams))}},
		},
	}
	switch i / teams % kinds {
	case 0:
		p.Spec.Gateways = &v1alpha1.Gateways{Mode: v1alpha1.GatewaysCentralized, NodeSelector: &v1alpha1.LabelSelector{MatchLabels: map[string]string{"role": "edge"}}}
	case 1:
		zone := fmt.Sprintf("z%d", i%zones)
		p.Spec.Gateways = &v1alpha1.Gateways{Mode: v1alpha1.GatewaysDistributed, NodeSelector: &v1alpha1.LabelSelector{MatchLabels: map[string]string{corev1.LabelTopologyZone: zone}}}
	}
	return p
}

func service(i int) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: team(i), Name: policyName(i)},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "shop"},
			Ports:    []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
}

func pool(t int) *v1alpha1.NodePortPool {
	size := policies() / teams * 3 / 2
	return &v1alpha1.NodePortPool{
		ObjectMeta: metav1.ObjectMeta{Name: team(t)},
		Spec: v1alpha1.NodePortPoolSpec{
			Category: team(t), Team: team(t), Hold: ptr.To(false),
			Ranges:     []v1alpha1.PortRange{v1alpha1.PortRange(fmt.Sprintf("%d-%d", first+t*size, first+(t+1)*size-1))},
			AllocateTo: v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(team(t))}},
		},
	}
}

// create makes objects, a few at a time.
func create(t *testing.T, objects ...client.Object) {
	t.Helper()
	var group errgroup.Group
	group.SetLimit(parallel)
	for _, o := range objects {
		group.Go(func() error { return town.Client.Create(t.Context(), o) })
	}
	must(t, group.Wait())
}

// agents are those of all nodes: what they would report, were they there.
type agents struct {
	mu    sync.Mutex
	nodes []*corev1.Node
}

// report has every agent say that its kernel agrees with all that there is now.
func (a *agents) report(ctx context.Context) error {
	marks := v1alpha1.Marks{}
	for list, mark := range map[client.ObjectList]*string{
		&v1alpha1.NodePortPoolList{}: &marks.Pools, &v1alpha1.NodePortAllocationList{}: &marks.Allocations,
		&v1alpha1.AddressSetList{}: &marks.AddressSets, &v1alpha1.GatewaySetList{}: &marks.GatewaySets,
	} {
		if err := town.Client.List(ctx, list, client.Limit(1)); err != nil {
			return err
		}
		*mark = list.GetResourceVersion()
	}
	var group errgroup.Group
	group.SetLimit(parallel)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, n := range a.nodes {
		group.Go(func() error { return says(ctx, n, marks) })
	}
	return group.Wait()
}

// says writes one agent's report.
func says(ctx context.Context, n *corev1.Node, marks v1alpha1.Marks) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		d := &v1alpha1.NodeDatapath{}
		err := town.Client.Get(ctx, client.ObjectKey{Name: n.Name}, d)
		if client.IgnoreNotFound(err) != nil {
			return err
		}
		if err != nil {
			d.Name = n.Name
			if err := town.Client.Create(ctx, d); err != nil {
				return err
			}
		}
		d.Status.BootID, d.Status.Datapath, d.Status.Marks = n.Status.NodeInfo.BootID, "nftables (owner)", marks
		d.Status.NodeLabels = compile.LabelsHash(n.Labels)
		d.Status.Facts = &v1alpha1.NodeFacts{KubeProxy: []v1alpha1.KubeProxyRules{v1alpha1.KubeProxyNFTables}, ProxyMode: "nftables"}
		meta.SetStatusCondition(&d.Status.Conditions, metav1.Condition{Type: v1alpha1.Enforced, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonOK})
		return town.Client.Status().Update(ctx, d)
	})
}

// ready says on how many Nodes the Ready condition is to change, and to what.
func ready(t *testing.T, name string, is corev1.ConditionStatus) {
	t.Helper()
	must(t, retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		var n corev1.Node
		if err := town.Client.Get(t.Context(), client.ObjectKey{Name: name}, &n); err != nil {
			return err
		}
		n.Status.Conditions[0].Status = is
		return town.Client.Status().Update(t.Context(), &n)
	}))
}

// listing counts the policies whose status lists an address of each node, by its name.
func listing(t *testing.T) map[string]int {
	t.Helper()
	var list v1alpha1.NodePortPolicyList
	must(t, town.Client.List(t.Context(), &list))
	names := map[string]string{}
	for i := range nodes {
		names[node(i).Status.Addresses[0].Address] = nodeName(i)
	}
	out := map[string]int{}
	for _, p := range list.Items {
		for _, a := range p.Status.Addresses {
			host := netip.MustParseAddrPort(a).Addr().String()
			out[names[host]]++
		}
	}
	return out
}

// gateway is the active one.
func gateway(t *testing.T) string {
	t.Helper()
	var sets v1alpha1.GatewaySetList
	must(t, town.Client.List(t.Context(), &sets))
	if len(sets.Items) != 1 || len(sets.Items[0].Spec.Nodes) != 1 {
		t.Fatalf("gateway sets: %+v", sets.Items)
	}
	return string(sets.Items[0].Spec.Nodes[0])
}

// awaitReady has the agents report until every policy is in force.
func (a *agents) awaitReady(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		must(t, a.report(t.Context()))
		var list v1alpha1.NodePortPolicyList
		must(t, town.Client.List(t.Context(), &list))
		waiting := slices.DeleteFunc(list.Items, func(p v1alpha1.NodePortPolicy) bool {
			return meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.Ready)
		})
		if len(waiting) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d policies are not Ready, such as %s: %+v", len(waiting), policies(), waiting[0].Name, waiting[0].Status.Conditions)
		}
		time.Sleep(2 * time.Second)
	}
}

// settle waits until the manager has written nothing for so long.
func settle(t *testing.T, quiet time.Duration) {
	t.Helper()
	since := time.Now()
	for min(writes.idle(), time.Since(since)) < quiet {
		select {
		case <-town.Manager().Done():
			t.Fatalf("the manager has ended: %s", town.Manager().Tail(5))
		case <-t.Context().Done():
			t.Fatal("the time is over")
		case <-time.After(50 * time.Millisecond):
		}
	}
}
