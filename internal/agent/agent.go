package agent

import (
	"context"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/carrier"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

// kernelTimeout bounds all kernel work of one round: many times what a cold load
// of everything takes, so that it only ever ends what hangs.
const kernelTimeout = time.Minute

// Config is what an agent is made of. Every field is needed, unless it says otherwise.
type Config struct {
	Node     string
	BootID   string    // of the running kernel
	Backends []Backend // the ways this agent can enforce, the preferred first
	Sweep    Sweep
	// SweepStale is for connections that have access, and go on as it was before a switch.
	SweepStale SweepStale
	// Survey returns what in the kernel tells who carries node ports, beside an error that
	// of it which could be seen; nil: nobody looks.
	Survey  func() (v1alpha1.NodeFacts, error)
	Packets Packets // may be nil: then no packet is logged or counted
	Answers Answers // by which open ports are asked; Interval 0: nobody asks

	Sources Sources
	Reports Reports

	Host     Host
	Fallback rule.PortRanges // closed where nothing is known after a boot

	StateDir string
	// MetricsToken is the file with the token for /metrics; "" lets everybody read.
	MetricsToken   string
	CheckInterval  time.Duration // between two looks whether the kernel still agrees
	ReadInterval   time.Duration // between two of them that read it all, while it looks unchanged
	ReportInterval time.Duration // at least this long between two reports

	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Agent enforces what the cluster says on one node. The fields below the mirrors
// belong to the goroutine of Run.
type Agent struct {
	config     Config
	log        *slog.Logger
	metrics    *metrics
	reporter   *reporter
	asker      *asker // nil: nobody asks
	marksFile  stateFile[memory]
	deniedFile stateFile[deniedSets]
	changed    chan struct{}
	mirrors    [kinds]*mirror
	alive      atomic.Int64 // Unix seconds at the end of the last round
	ready      atomic.Bool  // the last round ended with the kernel in step

	kernel   *kernel
	journal  *journal
	guard    guard
	switched switched
	// compiler and applied share what did not change, so that a round costs what did.
	compiler compile.NodeCompiler
	// applied is what the kernel was last seen to enforce; until begun, no more of
	// it is known than what the disk remembers.
	applied inputs
	begun   bool
	proved  versions            // of the newest objects in applied: what is reported
	memory  memory              // with what applied was complete up to: what is kept on disk
	barred  deniedSets          // likewise, in a file of its own
	reason  string              // of the last condition, to log each change once
	found   *v1alpha1.NodeFacts // in the kernel, of who carries node ports; nil: nobody looked
	whole   *v1alpha1.NodeFacts // by the last look that did not fail, nil if all did
	facts   *v1alpha1.NodeFacts // these, with what the Node says
	carrier carrier.Carrier     // by these
	unseen  error               // why they could not all be looked for

	started     time.Time
	node        home
	keeper      *keeper
	left        *rule.Set // what an earlier agent left in the kernel; nil: not looked
	booting     bool      // see Boot
	inherited   bool      // rules of ours were found, of which nobody knows since when
	away        absences
	looked      time.Time // for listeners
	reservedFor rule.PortRanges
	reserveDue  bool
	unreserved  string // why, to log it once
}

// New prepares an agent; it touches neither kernel nor API server.
func New(c Config) *Agent {
	marks, barred := newMarksFile(c.StateDir), newDeniedFile(c.StateDir)
	remembered, err := marks.load()
	if err != nil {
		c.Log.Error("the marks on disk can't be read; starting as if there were none", "error", err)
	}
	sets, err := barred.load()
	if err != nil {
		c.Log.Error("the denied AddressSets on disk can't be read; starting as if there were none", "error", err)
	}
	changed := make(chan struct{}, 1)
	m := newMetrics(c.Registerer)
	a := &Agent{
		config: c, log: c.Log, metrics: m, changed: changed, memory: remembered,
		reporter:  newReporter(c.Reports, c.Node, c.ReportInterval, c.Log, m),
		marksFile: marks, deniedFile: barred, barred: sets,
		kernel:  &kernel{backends: c.Backends, wish: v1alpha1.FirewallAuto, sweep: c.Sweep, log: c.Log, metrics: m},
		journal: newJournal(c.Log, c.Registerer),
	}
	if c.Answers.Interval > 0 {
		a.asker = newAsker(c.Answers, c.Log, m, a.reporter)
	} else {
		a.reporter.answered(&v1alpha1.NodeAnswers{}) // what an earlier agent saw is withdrawn
	}
	a.started = time.Now()
	a.switched.file = newArrivalsFile(c.StateDir)
	if a.switched.settled, err = a.switched.file.load(); err != nil {
		c.Log.Error("how traffic arrived before can't be read; starting as if it had been so", "error", err)
	}
	a.recall()
	for k := range kinds {
		a.mirrors[k] = newMirror(k, *remembered.of(k), changed)
	}
	if remembered.Standing != nil {
		a.applied[kindInstallation] = compile.ObjectsOf(&v1alpha1.Portreeve{
			ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName}, Spec: *remembered.Standing,
		})
	}
	a.applied[kindAddressSets] = sets.objects()
	return a
}

// Run enforces until the context ends, and leaves the kernel as it then is. A
// round that has begun is finished first.
func (a *Agent) Run(ctx context.Context) {
	var running sync.WaitGroup
	for k := range kinds {
		running.Go(func() { follow(ctx, a.config.Sources[k], a.mirrors[k], a.log) })
	}
	running.Go(func() { a.reporter.run(ctx) })
	running.Go(func() { a.keeper.run(ctx) })
	if a.config.Packets != nil {
		running.Go(func() { a.journal.run(ctx, a.config.Packets) })
	}
	if a.asker != nil {
		running.Go(func() { a.asker.run(ctx) })
	}
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
	drift := time.NewTicker(driftInterval)
	defer drift.Stop()
	a.lookAround()
	var backoff *wait.Backoff
	var rested <-chan time.Time
	retry := time.After(0) // the kernel need not wait for the API server
	changed := (<-chan struct{})(a.changed)
	a.alive.Store(time.Now().Unix())
	for {
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
			a.lookAround()
			o = a.bounded(ctx, a.check)
		case <-drift.C:
			if !a.kernel.disturbed() {
				continue
			}
			o = a.bounded(ctx, a.check)
		}
		a.settle(o)
		a.alive.Store(time.Now().Unix())
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
	if a.kernel.sure && a.kernel.rested() && a.kernel.unread(a.config.ReadInterval) && !ended(a.kernel.inforce, time.Now()) {
		a.kernel.verify(ctx)
	}
	if !a.begun {
		a.left = nil // look again
	}
	a.lookAfterExempt(time.Now())
	a.reserveDue = true
	return a.round(ctx)
}

// ended says whether a gate of the set has come to its end: the kernel has taken it
// away by itself, which is no damage, and the next round agrees with it.
func ended(s rule.Set, now time.Time) bool {
	for _, gate := range s.Ports.All {
		if gate.Expires != 0 && gate.Expires <= now.Unix() {
			return true
		}
	}
	return false
}

// read takes what the mirrors hold, and says so in the outcome where it is not
// all that there is to read.
func (a *Agent) read() (views [kinds]view, read inputs, o outcome) {
	for k, m := range a.mirrors {
		v := m.view()
		views[k], read[k], o.stale[k] = v, v.items, v.stale
		o.waiting = o.waiting || !v.synced
		if v.denied != nil {
			o.denied = v.denied
		}
	}
	return views, read, o
}

// round takes what the mirrors hold, once, to the kernel.
func (a *Agent) round(ctx context.Context) outcome {
	views, read, o := a.read()
	if o = a.look(ctx, o); o.waiting || o.err != nil {
		return o
	}
	var j judged
	now := time.Now()
	a.guard, j = a.guard.judge(a.applied, read, now)
	a.recognize(j.use)
	o.vanished, o.again = j.vanished, j.again
	a.kernel.wish = j.use.firewall()
	numbers, arming := a.armed(j.use)
	unserved := a.unserved()
	want, problems := a.compiler.Compile(j.use.node(a.config.Node, now, arming.exemptPorts(), unserved == ""))
	if end := a.compiler.NextEnd(); !end.IsZero() && (o.again == 0 || end.Sub(now) < o.again) {
		o.again = end.Sub(now)
	}
	o.problems = append(stayedProblems(j.stayed), problems...)
	if !a.begun {
		have := *a.left
		if lost := vanishedSince(have, want, read); len(lost) > 0 {
			o.vanished = append(lost, o.vanished...)
			if j.use.lockdown() == nil {
				o.waiting = true
			} else { // it waits for nobody: it needs no more than the numbers
				o.err = a.kernel.enforce(ctx, rule.NewSet(have.Judged.Union(want.Judged), nil))
			}
			return o
		}
	}
	unarmed := a.arm(arming)
	if o.err = a.kernel.enforce(ctx, want); o.err != nil {
		return o
	}
	o.unlogged, o.remains, o.unseen, o.unserved = a.kernel.unlogged, a.kernel.remains, a.unseen, a.waits(unserved)
	o.again = a.resweep(ctx, j.use, want, now, o.again)
	a.applied, a.begun = j.use, true
	if a.config.Packets != nil {
		a.journal.know(a.applied)
	}
	a.metrics.judged.Set(float64(want.Judged.Len()))
	a.keeper.set(want)
	a.enforced()
	if a.reserveDue || !slices.Equal(numbers.Armed, a.reservedFor) {
		a.reserve(numbers.Armed)
		a.reserveDue, a.reservedFor = false, numbers.Armed
	}
	if o.err = a.advance(views, o.vanished); o.err == nil && unarmed != nil {
		o.err = &marksError{unarmed}
	} else if o.err == nil {
		o.err = a.bypassed()
	}
	return o
}

// advance moves the marks of what the kernel now enforces: on disk first, since
// a report must never be ahead of what a restarted agent knows.
func (a *Agent) advance(views [kinds]view, vanished []kind) error {
	if denied := a.applied.denied(); !reflect.DeepEqual(denied, a.barred) {
		if err := a.deniedFile.save(denied); err != nil {
			return &marksError{err}
		}
		a.barred = denied
	}
	next, proved := memory{versions: a.memory.versions, Standing: a.applied.lasting(), Behind: a.keeper.behind()}, a.proved
	for k := range kinds {
		if !slices.Contains(vanished, k) {
			*next.of(k), *proved.of(k) = views[k].complete, views[k].newest
		}
	}
	if !reflect.DeepEqual(next, a.memory) {
		if err := a.saveMarks(next); err != nil {
			return &marksError{err}
		}
	}
	a.memory, a.proved = next, proved
	if a.asker != nil {
		a.asker.know(a.applied, a.config.Node, a.proved)
	}
	return nil
}

// settle tells the world how a round ended.
func (a *Agent) settle(o outcome) {
	a.ready.Store(!o.waiting && o.err == nil)
	if o.silent() {
		return
	}
	labels := ""
	if a.begun {
		labels = a.applied.labels()
	}
	status := o.status(a.proved, labels, a.kernel.doubt)
	status.BootID, status.Datapath, status.DatapathReason = a.config.BootID, a.kernel.name, a.kernel.why
	status.ExposedSeconds, status.Repairs = a.node.Boot.Exposed, a.kernel.repairs
	status.Facts, status.Carrier = a.facts, a.carrier.Name
	if a.applied.lockdown() == nil {
		status.Exceptions = reported(status.Exceptions, a.node.Exempt)
	}
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
