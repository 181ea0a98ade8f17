package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

const (
	teams = 20
	// cidrs that each policy names, the same for all of a team.
	cidrs = 10
	// firstPort of the pools, which have half as many numbers more than there are
	// policies. The API server's range is twice as large: the peer finds its own.
	firstPort  = 11000 // above the fail-safe ports
	rangeAtAll = "10000-39999"
	// parallel writers: as many as the manager has for allocations, and for companions.
	parallel       = 8
	lookEach       = 100 * time.Millisecond
	metricsAddress = "127.0.0.1:8080"
	// silence is longer than a pool keeps its counters back, for a minute.
	silence = 70 * time.Second
)

// policies is how many there are at full scale: $PORTREEVE_BENCH_POLICIES makes them
// fewer.
func policies(b *testing.B) int {
	b.Helper()
	text := os.Getenv("PORTREEVE_BENCH_POLICIES")
	if text == "" {
		return 10_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < teams || n > 10_000 || n%teams != 0 {
		b.Fatalf("PORTREEVE_BENCH_POLICIES=%s: want a multiple of %d up to 10000", text, teams)
	}
	return n
}

// BenchmarkPoliciesFromCold applies everything while no manager runs, starts one, and
// compares what it takes for all numbers with the API server's own allocation of as
// many NodePort Services. Then a second manager finds everything settled.
func BenchmarkPoliciesFromCold(b *testing.B) {
	for _, hold := range []bool{true, false} {
		b.Run(fmt.Sprintf("hold=%v", hold), func(b *testing.B) { fromCold(b, policies(b), hold) })
	}
}

// bareTook is what the API server's own allocation took in this run.
var bareTook time.Duration

func fromCold(b *testing.B, n int, hold bool) {
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	raise(ctx, b, lab.Options{NodePortRange: rangeAtAll, IPv4Only: true})
	fmt.Printf("%d policies of one port and %d networks, %d pools with hold: %v, no nodes; %s\n", n, cidrs, teams, hold, machine())
	furnish(ctx, b, n)
	if bareTook == 0 { // beside as many other Services as the companions will be
		bareTook = bare(ctx, b, n)
	}
	ask(ctx, b, n, hold)

	services, before := population(ctx, b, "Service", ""), count(b)
	began := time.Now()
	if err := startManager(ctx); err != nil {
		b.Fatal(err)
	}
	var allocated, exposed time.Duration
	for exposed == 0 {
		alive(ctx, b)
		if allocated == 0 && population(ctx, b, "NodePortAllocation", "") >= n {
			allocated = time.Since(began)
		}
		if population(ctx, b, "Service", "")-population(ctx, b, "Service", "portreeve-system")-services >= n {
			exposed = time.Since(began)
		}
	}
	until(ctx, b, silence)
	settled := time.Since(began) - silence
	after := count(b)

	note("as many NodePort Services, by the API server's own allocation", bareTook.Seconds(), "s")
	beside(b, "from the manager's start until all are allocated", allocated, "allocated/bare")
	beside(b, "the same until all companion Services stand", exposed, "exposed/bare")
	note("the same until the last write", settled.Seconds(), "s")
	note("CPU time of the manager until then", cpu(b), "s")
	note("its peak memory", memory(b), "MiB")
	most := 4.0
	if hold {
		most = 5
	}
	goal(b, "API writes of the manager per policy", float64(after.manager-before.manager)/float64(n), "", most)
	spread(before, after)
	anew(ctx, b, n)
}

// beside prints a time and how it compares with the peer's.
func beside(b *testing.B, what string, took time.Duration, metric string) {
	ratio := took.Seconds() / bareTook.Seconds()
	fmt.Printf("  %-70s %8.2f s, ratio %.2f\n", what, took.Seconds(), ratio)
	b.ReportMetric(ratio, metric)
}

// anew replaces the manager, with everything settled, as an upgrade does.
func anew(ctx context.Context, b *testing.B, n int) {
	b.Helper()
	manager.Stop(10 * time.Second)
	before := count(b)
	began := time.Now()
	if err := startManager(ctx); err != nil {
		b.Fatal(err)
	}
	for looked(ctx, b, "policy") < n || looked(ctx, b, "exposure") < n || looked(ctx, b, "allocation") < n {
		alive(ctx, b)
	}
	idle(ctx, b)
	took := time.Since(began)
	goal(b, "a new manager until it has looked at everything", took.Seconds(), "s", 10)
	note("CPU time of it until then", cpu(b), "s")
	goal(b, "its peak memory", memory(b), "MiB", 256)
	after := count(b)
	note("its API writes", float64(after.manager-before.manager), "")
	spread(before, after)
	b.ReportMetric(took.Seconds(), "start-s")

	p := exposure(0, newcomer)
	asked := time.Now()
	create(ctx, b, town.Client, []client.Object{p})
	companion := client.ObjectKey{Namespace: p.Namespace, Name: p.Name + v1alpha1.CompanionSuffix}
	for town.Client.Get(ctx, companion, &corev1.Service{}) != nil {
		alive(ctx, b)
	}
	note("one more policy beside them, until its companion stands", time.Since(asked).Seconds(), "s")
}

// manager is the running one.
var manager *lab.Process

// startManager gives it the lease that it has in a cluster: one of two seconds is lost
// when the API server is busy with us.
func startManager(ctx context.Context) (err error) {
	manager, err = town.RunManager(ctx, "manager", nil, "--metrics-bind-address", metricsAddress, "--lease-duration", "15s")
	return err
}

// newcomer is the policy that comes last.
const newcomer = "newcomer"

// furnish makes the Services that are to be exposed.
func furnish(ctx context.Context, b *testing.B, n int) {
	b.Helper()
	var namespaces, services []client.Object
	for t := range teams {
		namespaces = append(namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: team(t)}})
	}
	for i := range n {
		services = append(services, inside(team(i%teams), service(nameOf(i), 0)))
	}
	create(ctx, b, town.Client, namespaces)
	create(ctx, b, town.Client, append(services, inside(team(0), service(newcomer, 0))))
}

// ask makes the pools, and the policies that draw from them.
func ask(ctx context.Context, b *testing.B, n int, hold bool) {
	b.Helper()
	size := n / teams * 3 / 2
	var pools, policies []client.Object
	for t := range teams {
		first := firstPort + t*size
		pools = append(pools, &v1alpha1.NodePortPool{
			ObjectMeta: metav1.ObjectMeta{Name: team(t)},
			Spec: v1alpha1.NodePortPoolSpec{
				Category: team(t), Team: team(t), Hold: &hold,
				Ranges:     []v1alpha1.PortRange{v1alpha1.PortRange(fmt.Sprintf("%d-%d", first, first+size-1))},
				AllocateTo: v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(team(t))}},
			},
		})
	}
	for i := range n {
		policies = append(policies, exposure(i, nameOf(i)))
	}
	create(ctx, b, town.Client, pools)
	create(ctx, b, town.Client, policies)
}

func nameOf(i int) string { return fmt.Sprintf("shop-%05d", i) }

func inside(namespace string, s *corev1.Service) *corev1.Service {
	s.Namespace = namespace
	return s
}

func team(t int) string { return fmt.Sprintf("team-%02d", t) }

// exposure is a policy of a team for the Service of its name.
func exposure(i int, name string) *v1alpha1.NodePortPolicy {
	t := i % teams
	p := &v1alpha1.NodePortPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: team(t), Name: name},
		Spec:       v1alpha1.NodePortPolicySpec{Category: team(t), ServiceRef: v1alpha1.ServiceReference{Name: name}},
	}
	for c := range cidrs {
		network := netip.PrefixFrom(netip.AddrFrom4([4]byte{203, byte(t), byte(2 * c), 0}), 24)
		p.Spec.Sources = append(p.Spec.Sources, v1alpha1.Source{CIDR: v1alpha1.CIDR(network.String())})
	}
	return p
}

func create(ctx context.Context, b *testing.B, c client.Client, objects []client.Object) {
	b.Helper()
	each(ctx, b, objects, func(ctx context.Context, o client.Object) error { return c.Create(ctx, o) })
}

// each does something to every object, with so many in flight as the manager has.
func each(ctx context.Context, b *testing.B, objects []client.Object, do func(context.Context, client.Object) error) {
	b.Helper()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, o := range objects {
		group.Go(func() error { return do(ctx, o) })
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
}

// bare is what the API server takes to give random numbers to as many Services, asked
// with the manager's own account and as many at a time. They are gone afterwards.
func bare(ctx context.Context, b *testing.B, n int) time.Duration {
	b.Helper()
	config, err := town.ManagerConfig(ctx)
	if err != nil {
		b.Fatal(err)
	}
	config.QPS = -1
	c, err := client.New(config, client.Options{Scheme: town.Client.Scheme()})
	if err != nil {
		b.Fatal(err)
	}
	create(ctx, b, town.Client, []client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "bare"}}})
	services := make([]client.Object, n)
	for i := range services {
		s := inside("bare", service(nameOf(i), 0))
		s.Spec.Type = corev1.ServiceTypeNodePort
		services[i] = s
	}
	began := time.Now()
	create(ctx, b, c, services)
	took := time.Since(began)
	each(ctx, b, services, func(ctx context.Context, o client.Object) error { return town.Client.Delete(ctx, o) })
	return took
}

// population counts the objects of a kind, in all namespaces when none is given.
func population(ctx context.Context, b *testing.B, kind, namespace string) int {
	b.Helper()
	group := corev1.SchemeGroupVersion
	if kind != "Service" {
		group = v1alpha1.GroupVersion
	}
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: group.Group, Version: group.Version, Kind: kind + "List"})
	if err := town.Client.List(ctx, &list, client.InNamespace(namespace), client.Limit(1)); err != nil {
		b.Fatal(err)
	}
	n := len(list.Items)
	if list.RemainingItemCount != nil {
		n += int(*list.RemainingItemCount)
	}
	return n
}

// alive waits a moment, and ends the benchmark where the manager has ended.
func alive(ctx context.Context, b *testing.B) {
	b.Helper()
	select {
	case <-ctx.Done():
		b.Fatal("the time is over")
	case <-manager.Done():
		b.Fatalf("the manager has ended: %s", manager.Tail(5))
	case <-time.After(lookEach):
	}
}

// until returns when the manager has written nothing for so long.
func until(ctx context.Context, b *testing.B, quiet time.Duration) {
	b.Helper()
	size, since := int64(-1), time.Now()
	for time.Since(since) < quiet {
		alive(ctx, b)
		info, err := os.Stat(audit)
		if err != nil {
			b.Fatal(err)
		}
		if info.Size() != size {
			size, since = info.Size(), time.Now()
		}
	}
}

// idle returns when nothing waits in the manager's queues, and nobody works.
func idle(ctx context.Context, b *testing.B) {
	b.Helper()
	for busy := 1; busy > 0; alive(ctx, b) {
		busy = 0
		for _, match := range atWork.FindAllSubmatch(metrics(ctx, b), -1) {
			if string(match[1]) != "0" {
				busy++
			}
		}
	}
}

// looked is how often a controller has looked at something.
func looked(ctx context.Context, b *testing.B, controller string) int {
	b.Helper()
	sum := 0
	for _, match := range reconciled.FindAllSubmatch(metrics(ctx, b), -1) {
		if string(match[1]) == controller {
			n, _ := strconv.ParseFloat(string(match[2]), 64)
			sum += int(n)
		}
	}
	return sum
}

var (
	atWork     = regexp.MustCompile(`(?m)^(?:workqueue_depth|controller_runtime_active_workers)\{.*\} (\S+)$`)
	reconciled = regexp.MustCompile(`(?m)^controller_runtime_reconcile_total\{controller="([^"]*)",.*\} (\S+)$`)
)

// metrics of the manager, nothing while it does not listen.
func metrics(ctx context.Context, b *testing.B) []byte {
	b.Helper()
	web := &http.Client{Transport: &http.Transport{DialContext: town.ControlPlane().DialContext, DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+metricsAddress+"/metrics", nil)
	if err != nil {
		b.Fatal(err)
	}
	response, err := web.Do(request)
	if err != nil {
		return nil
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil
	}
	return text
}

// memory is the most that the manager ever had in memory, in MiB.
func memory(b *testing.B) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", manager.PID))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := bytes.Cut(status, []byte("VmHWM:"))
	kib, err := strconv.Atoi(string(bytes.Fields(rest)[0]))
	if err != nil {
		b.Fatal(err)
	}
	return float64(kib) / 1024
}

// cpu is how long processors have worked for the manager, in seconds.
func cpu(b *testing.B) float64 {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", manager.PID))
	if err != nil {
		b.Fatal(err)
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	ticks := 0
	for _, f := range fields[11:13] { // utime and stime, in hundredths of a second
		n, err := strconv.Atoi(string(f))
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return float64(ticks) / 100
}
