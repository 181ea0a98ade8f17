package bench

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

const (
	burst     = 50
	namespace = "burst"
	office    = "203.0.113.0/28"
	deadline  = 2 * time.Minute
	// askEvery is coarse on purpose: asking costs the same two cores.
	askEvery = 100 * time.Millisecond
)

// moments are what is seen of each exposure, by its name.
type moments struct {
	mu                               sync.Mutex
	created, ready, sliced, answered map[string]time.Time
	port                             map[string]uint16
}

func newMoments() *moments {
	return &moments{
		created: map[string]time.Time{}, ready: map[string]time.Time{}, sliced: map[string]time.Time{},
		answered: map[string]time.Time{}, port: map[string]uint16{},
	}
}

func (m *moments) first(of map[string]time.Time, name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if of[name].IsZero() {
		of[name] = time.Now()
	}
}

// BenchmarkFiftyPoliciesAtOnce applies 50 policies and as many bare NodePort
// Services, one after the other, and follows each until every node answers.
func BenchmarkFiftyPoliciesAtOnce(b *testing.B) {
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	raise(ctx, b, lab.Options{Nodes: 3, KubeProxy: lab.NFTables, ControllerManager: true})
	if err := town.StartAll(ctx); err != nil {
		b.Fatal(err)
	}
	fmt.Printf("three lab nodes on %s, kube-proxy in nftables mode\n", machine())
	source, err := town.AddClient("office", netip.MustParsePrefix(office))
	if err != nil {
		b.Fatal(err)
	}
	if _, err := town.AddPod(ctx, town.Nodes()[0], namespace, "pod", map[string]string{"app": "pod"}); err != nil {
		b.Fatal(err)
	}
	bare := follow(ctx, b, source, "bare", func(i int) client.Object { return service(fmt.Sprintf("bare-%02d", i), int32(31000+i)) })
	prepare(ctx, b)
	writes := count(b)
	ours := follow(ctx, b, source, "policy", func(i int) client.Object { return policy(i) })
	settled := count(b)

	report(b, bare, ours)
	perPolicy := float64(settled.manager-writes.manager) / burst
	goal(b, "API writes of the manager per new policy of one port", perPolicy, "", 4)
	spread(writes, settled)
	b.ReportMetric(perPolicy, "writes/policy")
	note("API writes of the three agents for the burst", float64(settled.agents-writes.agents), "")
	quiet(ctx, b)
}

// quiet counts writes over a while in which nobody asks for anything.
func quiet(ctx context.Context, b *testing.B) {
	before := count(b)
	select {
	case <-ctx.Done():
	case <-time.After(75 * time.Second): // past the pool's once-a-minute counters and a bookmark
	}
	middle := count(b)
	note("API writes in the 75 s after the burst (counters in the pool's status)", float64(middle.manager+middle.agents-before.manager-before.agents), "")
	select {
	case <-ctx.Done():
	case <-time.After(30 * time.Second):
	}
	after := count(b)
	goal(b, "API writes in 30 s of steady state", float64(after.manager+after.agents-middle.manager-middle.agents), "", 0)
}

// follow creates the objects at once and returns when all of them are answered by
// every node.
func follow(ctx context.Context, b *testing.B, source *lab.Client, kind string, object func(int) client.Object) *moments {
	b.Helper()
	m := newMoments()
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	var watching sync.WaitGroup
	observe(ctx, b, &watching, &discoveryv1.EndpointSliceList{}, m.slice)
	observe(ctx, b, &watching, &v1alpha1.NodePortPolicyList{}, m.policy)
	var creating sync.WaitGroup
	for i := range burst {
		o := object(i)
		creating.Go(func() {
			m.first(m.created, o.GetName())
			if err := town.Client.Create(ctx, o); err != nil {
				b.Errorf("create %s: %v", o.GetName(), err)
			}
			if s, bare := o.(*corev1.Service); bare {
				m.mu.Lock()
				m.port[s.Name] = uint16(s.Spec.Ports[0].NodePort)
				m.mu.Unlock()
			}
		})
	}
	creating.Wait()
	m.reach(ctx, b, source)
	if kind == "policy" {
		m.await(ctx, b, m.ready)
	}
	cancel()
	watching.Wait()
	return m
}

// observe calls see for each object as it changes.
func observe(ctx context.Context, b *testing.B, watching *sync.WaitGroup, list client.ObjectList, see func(any)) {
	b.Helper()
	w, err := town.Client.Watch(ctx, list, client.InNamespace(namespace))
	if err != nil {
		b.Fatal(err)
	}
	watching.Go(func() {
		defer w.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case e, open := <-w.ResultChan():
				if !open {
					return
				}
				if e.Type == watch.Added || e.Type == watch.Modified {
					see(e.Object)
				}
			}
		}
	})
}

func (m *moments) slice(o any) {
	if s, is := o.(*discoveryv1.EndpointSlice); is && len(s.Endpoints) > 0 {
		m.first(m.sliced, s.Labels[discoveryv1.LabelServiceName])
	}
}

func (m *moments) policy(o any) {
	p, is := o.(*v1alpha1.NodePortPolicy)
	if !is || len(p.Status.Allocations) == 0 {
		return
	}
	m.mu.Lock()
	m.port[p.Name] = uint16(p.Status.Allocations[0].NodePort)
	m.mu.Unlock()
	if meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.Ready) {
		m.first(m.ready, p.Name)
	}
}

// reach asks every port on every node until each has answered.
func (m *moments) reach(ctx context.Context, b *testing.B, source *lab.Client) {
	b.Helper()
	from := netip.AddrPortFrom(netip.MustParsePrefix(office).Addr().Next(), 0)
	var asking sync.WaitGroup
	for name := range m.created {
		asking.Go(func() {
			for _, node := range town.Nodes() {
				for {
					m.mu.Lock()
					port := m.port[name]
					m.mu.Unlock()
					if port != 0 {
						a := source.Ask(ctx, lab.Flow{To: netip.AddrPortFrom(node.Addrs[0], port), From: from, Timeout: 200 * time.Millisecond})
						if a.Outcome == lab.Answered {
							break
						}
					}
					select {
					case <-ctx.Done():
						b.Errorf("%s on %s never answered", name, node.Name)
						return
					case <-time.After(askEvery):
					}
				}
			}
			m.first(m.answered, name)
		})
	}
	asking.Wait()
}

func (m *moments) await(ctx context.Context, b *testing.B, of map[string]time.Time) {
	b.Helper()
	for {
		m.mu.Lock()
		n := len(of)
		m.mu.Unlock()
		if n == burst {
			return
		}
		select {
		case <-ctx.Done():
			b.Fatalf("only %d of %d policies became Ready", n, burst)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// since returns, sorted, how long after its creation each exposure reached of.
func (m *moments) since(of map[string]time.Time, name func(string) string) []time.Duration {
	var out []time.Duration
	for created, at := range m.created {
		if reached := of[name(created)]; !reached.IsZero() {
			out = append(out, reached.Sub(at))
		}
	}
	slices.Sort(out)
	return out
}

func service(name string, nodePort int32) *corev1.Service {
	kind := corev1.ServiceTypeClusterIP
	if nodePort != 0 {
		kind = corev1.ServiceTypeNodePort
	}
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Type: kind, Selector: map[string]string{"app": "pod"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt32(lab.EchoPort), NodePort: nodePort}},
		},
	}
}

func policy(i int) *v1alpha1.NodePortPolicy {
	return &v1alpha1.NodePortPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("policy-%02d", i)},
		Spec: v1alpha1.NodePortPolicySpec{
			Category: "burst", ServiceRef: v1alpha1.ServiceReference{Name: "shop"}, Sources: []v1alpha1.Source{{CIDR: office}},
		},
	}
}

// prepare makes what the policies stand on, and waits until the pool is armed.
func prepare(ctx context.Context, b *testing.B) {
	b.Helper()
	pool := &v1alpha1.NodePortPool{
		ObjectMeta: metav1.ObjectMeta{Name: "burst"},
		Spec: v1alpha1.NodePortPoolSpec{
			Category: "burst", Team: "bench", Ranges: []v1alpha1.PortRange{"30000-30999"},
			AllocateTo: v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{namespace}},
		},
	}
	for _, o := range []client.Object{service("shop", 0), pool} {
		if err := town.Client.Create(ctx, o); err != nil {
			b.Fatal(err)
		}
	}
	for !meta.IsStatusConditionTrue(pool.Status.Conditions, v1alpha1.Ready) {
		select {
		case <-ctx.Done():
			b.Fatal("the pool was never armed")
		case <-time.After(20 * time.Millisecond):
		}
		if err := town.Client.Get(ctx, client.ObjectKeyFromObject(pool), pool); err != nil {
			b.Fatal(err)
		}
	}
}
