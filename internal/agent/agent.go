package agent

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// kernelTimeout bounds all kernel work of one round: many times what a cold load
// of everything takes, so that it only ever ends what hangs.
const kernelTimeout = time.Minute

// Config is what an agent is made of. Every field is needed.
type Config struct {
	Node   string
	BootID string // of the running kernel
	Open   Opener
	Sweep  Sweep

	Pools       cache.ListerWatcherWithContext
	Allocations cache.ListerWatcherWithContext
	Reports     Reports

	StateDir       string
	CheckInterval  time.Duration // between two looks whether the kernel still agrees
	ReportInterval time.Duration // at least this long between two reports

	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Agent enforces the cluster's pools and allocations on one node. The fields
// below the mirrors belong to the goroutine of Run.
type Agent struct {
	config      Config
	log         *slog.Logger
	metrics     *metrics
	reporter    *reporter
	marksFile   marksFile
	changed     chan struct{}
	pools       *mirror[v1alpha1.NodePortPool, *v1alpha1.NodePortPool]
	allocations *mirror[v1alpha1.NodePortAllocation, *v1alpha1.NodePortAllocation]
	alive       atomic.Int64 // Unix seconds of the last turn of the loop
	ready       atomic.Bool  // the last round ended with the kernel in step

	kernel  *kernel
	guard   guard
	applied *inputs        // what the kernel was last seen to enforce, nil at first
	proved  v1alpha1.Marks // of the newest objects in applied: what is reported
	floor   v1alpha1.Marks // what applied was complete up to: what is kept on disk
	reason  string         // of the last condition, to log each change once
}

// New prepares an agent; it touches neither kernel nor API server.
func New(c Config) *Agent {
	floor, err := newMarksFile(c.StateDir).load()
	if err != nil {
		c.Log.Error("the marks on disk can't be read; starting as if there were none", "error", err)
	}
	changed := make(chan struct{}, 1)
	m := newMetrics(c.Registerer)
	return &Agent{
		config: c, log: c.Log, metrics: m, changed: changed, floor: floor,
		reporter:    newReporter(c.Reports, c.Node, c.ReportInterval, c.Log, m),
		marksFile:   newMarksFile(c.StateDir),
		pools:       newMirror[v1alpha1.NodePortPool](kindPools, floor.Pools, changed),
		allocations: newMirror[v1alpha1.NodePortAllocation](kindAllocations, floor.Allocations, changed),
		kernel:      &kernel{open: c.Open, sweep: c.Sweep, log: c.Log, metrics: m},
	}
}

// Run enforces until the context ends, and leaves the kernel as it then is. A
// round that has begun is finished first.
func (a *Agent) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() {
		follow(ctx, a.config.Pools, &v1alpha1.NodePortPool{}, kindPools, a.pools, a.log)
	})
	running.Go(func() {
		follow(ctx, a.config.Allocations, &v1alpha1.NodePortAllocation{}, kindAllocations, a.allocations, a.log)
	})
	running.Go(func() { a.reporter.run(ctx) })
	a.loop(ctx)
	running.Wait()
}

// roundPause is the least time between two rounds that changes begin. The first
// change goes to the kernel at once; a burst behind it costs a few rounds, not
// one for each of its changes.
const roundPause = 100 * time.Millisecond

// loop has one round after each change, each failure and each check interval.
func (a *Agent) loop(ctx context.Context) {
	check := time.NewTicker(a.config.CheckInterval)
	defer check.Stop()
	var backoff *wait.Backoff
	var retry, rested <-chan time.Time
	changed := (<-chan struct{})(a.changed)
	for {
		a.alive.Store(time.Now().Unix())
		var o outcome
		select {
		case <-ctx.Done():
			return
		case <-changed:
			o = a.bounded(ctx, a.round)
			if !o.waiting {
				changed, rested = nil, time.After(roundPause)
			}
		case <-rested:
			changed, rested = a.changed, nil
			continue
		case <-retry:
			o = a.bounded(ctx, a.round)
		case <-check.C:
			o = a.bounded(ctx, a.check)
		}
		a.settle(o)
		if !o.retryable() {
			backoff = nil
		} else if backoff == nil {
			backoff = kernelBackoff()
		}
		switch {
		case backoff != nil:
			retry = time.After(backoff.Step())
		case o.again > 0:
			retry = time.After(o.again)
		default:
			retry = nil
		}
	}
}

func kernelBackoff() *wait.Backoff {
	return &wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 10, Cap: 10 * time.Second}
}

// bounded runs a round to its end also while the agent is told to stop: killing
// it is safe, but finishing leaves the kernel with the newer rules.
func (a *Agent) bounded(ctx context.Context, run func(context.Context) outcome) outcome {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), kernelTimeout)
	defer cancel()
	return run(ctx)
}

// check looks whether the kernel still enforces what it was seen to, and repairs
// it. It is also the retry of what no change can be hoped to cure.
func (a *Agent) check(ctx context.Context) outcome {
	if a.kernel.sure {
		a.kernel.verify(ctx)
	}
	return a.round(ctx)
}

// round takes what the mirrors hold, once, to the kernel.
func (a *Agent) round(ctx context.Context) outcome {
	pools, allocations := a.pools.view(), a.allocations.view()
	o := outcome{stale: staleKinds{pools: pools.stale, allocations: allocations.stale}}
	if !pools.synced || !allocations.synced {
		o.waiting = true
		return o
	}
	read := inputs{pools.items, allocations.items}
	j := judged{use: read}
	if a.applied != nil {
		a.guard, j = a.guard.judge(*a.applied, read, time.Now())
		o.vanished, o.again = j.vanished, j.again
	}
	want, problems := compile.Node(j.use.pools, j.use.allocations)
	o.problems = problems
	if a.applied == nil {
		have, err := a.kernel.leftovers(ctx)
		if err != nil {
			o.err = err
			return o
		}
		if o.vanished = vanishedSince(have, want, read); len(o.vanished) > 0 {
			o.waiting = true
			return o
		}
	}
	if o.err = a.kernel.enforce(ctx, want); o.err != nil {
		return o
	}
	a.applied = &j.use
	a.metrics.judged.Set(float64(want.Judged.Len()))
	o.err = a.advance(pools, allocations, o.vanished)
	return o
}

// advance moves the marks of what the kernel now enforces: on disk first, since
// a report must never be ahead of what a restarted agent knows.
func (a *Agent) advance(pools view[v1alpha1.NodePortPool], allocations view[v1alpha1.NodePortAllocation], vanished []string) error {
	floor, proved := a.floor, a.proved
	for _, kind := range enforcedKinds(vanished) {
		switch kind {
		case kindPools:
			floor.Pools, proved.Pools = pools.complete, pools.newest
		case kindAllocations:
			floor.Allocations, proved.Allocations = allocations.complete, allocations.newest
		}
	}
	if floor != a.floor {
		if err := a.marksFile.save(floor); err != nil {
			return &marksError{err}
		}
	}
	a.floor, a.proved = floor, proved
	return nil
}

// settle tells the world how a round ended.
func (a *Agent) settle(o outcome) {
	a.ready.Store(!o.waiting && o.err == nil)
	if o.silent() {
		return
	}
	status := o.status(a.proved, a.kernel.doubt)
	status.BootID, status.Datapath = a.config.BootID, a.kernel.name
	condition := status.Conditions[0]
	if condition.Reason != a.reason {
		a.log.Info("condition "+condition.Type, "status", condition.Status, "reason", condition.Reason, "message", condition.Message)
		a.reason = condition.Reason
	}
	a.metrics.settled(condition.Reason == v1alpha1.ReasonOK, status.Marks)
	a.reporter.set(status)
}

// Handler serves /metrics of the gatherer, /healthz and /readyz.
func (a *Agent) Handler(g prometheus.Gatherer) http.Handler { return handler(a, g) }
