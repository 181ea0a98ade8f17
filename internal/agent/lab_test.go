package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// TestMain takes client-go's global error handlers away: one of them compares
// the bubbles' clocks with the real one and would sleep for years.
func TestMain(m *testing.M) {
	utilruntime.ErrorHandlers = nil
	os.Exit(m.Run())
}

// lab is a node and an API server in memory, in a bubble of testing/synctest:
// its clock moves only when every goroutine waits.
type lab struct {
	t            *testing.T
	kernel       *fakeKernel
	other        *fakeKernel // by iptables; nil: the node has none
	history      *history
	pools        *fakePools
	allocations  *fakeAllocations
	sets         *fakeSets
	gateways     *fakeGateways
	installation *fakeInstallation
	node         *fakeNode
	reports      *fakeReports
	host         *fakeHost
	boots        int // of the node
	stateDir     string
	readInterval time.Duration
	facts        v1alpha1.NodeFacts // of who carries node ports
	unseen       error              // why a look for them fails
	packets      Packets            // of the agent that starts; nil: none
	lines        slog.Handler       // of its log; nil: nowhere
	ports        *fakePorts         // who answers on the node
	// answerInterval of the agent that starts; 0: it does not ask.
	answerInterval time.Duration

	agent *Agent
	stop  func()
}

const (
	checkInterval  = 10 * time.Second
	reportInterval = 250 * time.Millisecond
)

// inLab runs a test in a lab whose API server has a pool, an open port 30080
// and a closed port 30081, besides the agent's Node. No agent runs yet.
func inLab(t *testing.T, test func(l *lab)) {
	synctest.Test(t, func(t *testing.T) {
		h := &history{version: 99}
		l := &lab{
			t: t, kernel: &fakeKernel{}, history: h, pools: newFakePools(h), allocations: newFakeAllocations(h),
			sets: newFakeSets(h), gateways: newFakeGateways(h), installation: newFakeInstallation(h), node: newFakeNode(h),
			reports: &fakeReports{uid: "node-uid"}, host: &fakeHost{booted: time.Now().Add(-time.Hour)}, boots: 1, stateDir: t.TempDir(), stop: func() {},
		}
		l.node.put(node(map[string]string{"zone": "a"}))
		l.pools.put(pool("30000-30099"))
		l.allocations.put(open(30080, "203.0.113.0/24"))
		l.allocations.put(closed(30081))
		test(l)
		l.stop()
	})
}

func (l *lab) fakes() [kinds]fake {
	return [kinds]fake{
		kindPools: l.pools, kindAllocations: l.allocations, kindAddressSets: l.sets,
		kindGatewaySets: l.gateways, kindInstallation: l.installation, kindNode: l.node,
	}
}

// start starts an agent and lets it come to rest.
func (l *lab) start() {
	ctx, cancel := context.WithCancel(l.t.Context())
	var sources Sources
	for k, f := range l.fakes() {
		sources[k] = f
	}
	a := New(l.config(sources))
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }()
	l.agent, l.stop = a, func() { cancel(); <-done; l.stop = func() {} }
	synctest.Wait()
	l.pass(2 * roundPause) // past the pause, so that the next change begins a round at once
}

func (l *lab) config(sources Sources) Config {
	if l.lines == nil {
		l.lines = slog.DiscardHandler
	}
	var answers Answers
	if l.ports != nil {
		answers = l.ports.answers(l.answerInterval)
	}
	return Config{
		Answers: answers,
		Node:    "n1", BootID: fmt.Sprintf("boot-%d", l.boots), Backends: l.backends(), Sweep: l.kernel.Sweep, SweepStale: l.kernel.SweepStale,
		Sources: sources, Reports: l.reports, StateDir: l.stateDir,
		Host: l.host, Fallback: rule.NewPortRanges(rule.PortRange{First: 30000, Last: 32767}),
		CheckInterval: checkInterval, ReadInterval: l.readInterval, ReportInterval: reportInterval,
		Survey:  l.survey,
		Packets: l.packets, Log: slog.New(l.lines), Registerer: prometheus.NewRegistry(),
	}
}

func (l *lab) survey() (facts v1alpha1.NodeFacts, err error) {
	l.kernel.set(func() { facts, err = l.facts, l.unseen })
	return facts, err
}

func (l *lab) backends() []Backend {
	backends := []Backend{{Firewall: v1alpha1.FirewallNFTables, Open: l.kernel.open}}
	if l.other != nil {
		backends = append(backends, Backend{Firewall: v1alpha1.FirewallIPTables, Open: l.other.open})
	}
	return backends
}

func (l *lab) restart() { l.stop(); l.kernel.take(); l.start() }

// pass lets the bubble's clock move on and everything come to rest.
func (l *lab) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (l *lab) wantCalls(want ...string) {
	l.t.Helper()
	if got := l.kernel.take(); !slices.Equal(got, want) {
		l.t.Errorf("calls of the kernel: %v, want %v", got, want)
	}
}

func (l *lab) wantAdmits(number uint16, source string, want bool) {
	l.t.Helper()
	loaded := l.kernel.now()
	if loaded == nil {
		l.t.Errorf("the kernel is empty")
		return
	}
	if got := loaded.Admits(rule.Port{Protocol: rule.TCP, Number: number}, netip.MustParseAddr(source)); got != want {
		l.t.Errorf("admits %s to tcp/%d: %v, want %v", source, number, got, want)
	}
}

// status waits for the report of what has happened and returns it.
func (l *lab) status() v1alpha1.NodeDatapathStatus {
	l.t.Helper()
	l.pass(2 * reportInterval)
	stored, err := l.reports.Read(l.t.Context())
	if stored == nil {
		l.t.Fatal("nothing reported: ", err)
	}
	return stored.Status
}

func (l *lab) wantReason(want string) v1alpha1.NodeDatapathStatus {
	l.t.Helper()
	s := l.status()
	c := s.Conditions[0]
	if len(s.Conditions) != 1 || c.Type != v1alpha1.Enforced || c.Reason != want || (c.Status == metav1.ConditionTrue) != (want == v1alpha1.ReasonOK) {
		l.t.Errorf("conditions %+v, want reason %s", s.Conditions, want)
	}
	return s
}

func (l *lab) wantMarks(pools, allocations string) {
	l.t.Helper()
	if got, want := l.status().Marks, (v1alpha1.Marks{Pools: pools, Allocations: allocations}); got != want {
		l.t.Errorf("marks %+v, want %+v", got, want)
	}
}

// wantMark looks at one mark alone.
func (l *lab) wantMark(k kind, want string) {
	l.t.Helper()
	marks := versions{Marks: l.status().Marks}
	if got := *marks.of(k); got != want {
		l.t.Errorf("mark of %s: %s, want %s", k, got, want)
	}
}

func node(labels map[string]string) metav1.PartialObjectMetadata {
	return metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: labels}}
}

func set(name string, cidrs ...v1alpha1.CIDR) v1alpha1.AddressSet {
	return v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.AddressSetSpec{CIDRs: cidrs}}
}

func installation(lockdown bool) v1alpha1.Portreeve {
	return v1alpha1.Portreeve{
		ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName},
		Spec:       v1alpha1.PortreeveSpec{Lockdown: lockdown},
	}
}

func pool(ranges string) v1alpha1.NodePortPool {
	return v1alpha1.NodePortPool{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       v1alpha1.NodePortPoolSpec{Ranges: []v1alpha1.PortRange{v1alpha1.PortRange(ranges)}},
		Status:     v1alpha1.NodePortPoolStatus{Armed: []string{ranges}},
	}
}

func open(number uint16, sources ...v1alpha1.CIDR) v1alpha1.NodePortAllocation {
	return v1alpha1.NodePortAllocation{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(number)},
		Spec: v1alpha1.NodePortAllocationSpec{
			State: v1alpha1.AllocationOpen, Protocols: []v1alpha1.Protocol{"TCP"},
			Ports: []v1alpha1.ClaimedPort{{Protocol: "TCP", Port: 443, Sources: sources}},
		},
	}
}

// openTo is an open port that admits AddressSets.
func openTo(number uint16, sets ...v1alpha1.ObjectName) v1alpha1.NodePortAllocation {
	a := open(number)
	a.Spec.Pool, a.Spec.Ports[0].AddressSets = "web", sets
	return a
}

func closed(number uint16) v1alpha1.NodePortAllocation {
	a := open(number)
	a.Spec.State = v1alpha1.AllocationClosed
	return a
}

var errFault = errors.New("injected fault")
