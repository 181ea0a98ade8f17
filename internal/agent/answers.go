package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// Answers is by what an agent finds out whether something answers on open TCP ports of its
// own node. Its connections begin in the node itself and never come by a rule of ours:
// nothing is opened for them, and they count for no limit and no log.
type Answers struct {
	// Interval between two questions on one address and port, unless there are so many of
	// them that a round takes longer.
	Interval time.Duration
	// Addresses returns those of the Node object that are on an interface.
	Addresses func(context.Context) ([]netip.Addr, error)
	// Dial connects and closes at once. It says whether somebody accepted, or returns an
	// error where it could not even ask.
	Dial func(context.Context, netip.AddrPort) (answered bool, err error)
	// Random returns numbers from 0 to 1, by which nodes ask at different times.
	Random func() float64
}

const (
	// answersEvery is the least time between two reports of what does not answer, and
	// marksEvery between two that only say how far the questions are: all of them go to
	// every manager.
	answersEvery = 5 * time.Second
	marksEvery   = 30 * time.Second
)

// asker asks one port after the other in a goroutine of its own, slowly.
type asker struct {
	Answers
	log     *slog.Logger
	metrics *metrics
	// tell takes the report; wake has it written.
	tell func(*v1alpha1.NodeAnswers)
	wake func()

	woken chan struct{} // capacity 1

	mu     sync.Mutex
	agenda agenda
	told   *v1alpha1.NodeAnswers
	toldOf int // the agenda's changes that it holds
	toldAt time.Time
}

func newAsker(c Answers, log *slog.Logger, m *metrics, r *reporter) *asker {
	return &asker{
		Answers: c, log: log, metrics: m, tell: r.answered, wake: r.wake,
		woken: make(chan struct{}, 1), agenda: agenda{interval: c.Interval, random: c.Random},
	}
}

// know hands over what is enforced now. What needs no question is told with the report of
// the same round: a change that does not concern the node costs no report of its own.
func (k *asker) know(applied inputs, node string, proved versions) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	quiet := k.told != nil && k.toldOf == k.agenda.changes
	k.agenda.know(applied.node(node, now, nil, false), heard{
		allocations: proved.Allocations, gatewaySets: proved.GatewaySets, nodeLabel: applied.labels(),
	}, now)
	if quiet && len(k.agenda.waiting) == 0 && k.toldOf != k.agenda.changes {
		k.say(k.agenda.report())
	}
	select {
	case k.woken <- struct{}{}:
	default:
	}
}

// run asks until the context ends.
func (k *asker) run(ctx context.Context) {
	var lookAt, askAt time.Time
	for ctx.Err() == nil {
		if now := time.Now(); !now.Before(lookAt) {
			lookAt = now.Add(k.lookUp(ctx))
		}
		now := time.Now()
		wait := lookAt.Sub(now)
		if until := askAt.Sub(now); until > 0 {
			wait = min(wait, until)
		} else if q, in := k.next(now); q != nil {
			k.ask(ctx, q)
			askAt, wait = now.Add(askPace), 0
		} else if in > 0 {
			wait = min(wait, in)
		}
		if in := k.publish(time.Now()); in > 0 {
			wait = min(wait, in)
		}
		if wait > 0 {
			k.rest(ctx, wait)
		}
	}
}

func (k *asker) rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-k.woken:
	case <-t.C:
	}
}

func (k *asker) next(now time.Time) (*question, time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.agenda.next(now)
}

func (k *asker) ask(ctx context.Context, q *question) {
	answered, err := k.Dial(ctx, q.to)
	if ctx.Err() != nil {
		return
	}
	k.metrics.asked.WithLabelValues(resultOf(answered, err)).Inc()
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.log.Debug("an open port of the node could not be asked", "address", q.to, "error", err)
		k.agenda.postpone(q, time.Now())
		return
	}
	k.agenda.saw(q, answered, time.Now())
	k.metrics.silent.Set(float64(k.agenda.silent))
}

func resultOf(answered bool, err error) string {
	switch {
	case err != nil:
		return "error"
	case answered:
		return "answered"
	}
	return "silent"
}

// lookUp reads the node's addresses, and returns in what time to do so again.
func (k *asker) lookUp(ctx context.Context) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := k.Addresses(ctx)
	if err != nil {
		k.log.Warn("the addresses of the node can't be read, so earlier ones are asked", "error", err)
		return askSilent
	}
	slices.SortFunc(found, netip.Addr.Compare)
	found = slices.Compact(found)
	found = slices.Concat([]netip.Addr{}, found[:min(len(found), maxAskedAddresses)]) // not nil: known
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.Equal(found, k.agenda.addresses) {
		k.agenda.addresses = found
		if in := k.agenda.in; k.agenda.latest.known {
			in.Now = time.Now()
			k.agenda.know(in, k.agenda.latest, in.Now)
		}
	}
	return k.Interval
}

// publish tells what is new, if it is time for it, and else in what time it will be; 0:
// there is nothing.
func (k *asker) publish(now time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.toldOf == k.agenda.changes {
		return 0
	}
	report := k.agenda.report()
	if report == nil || equality.Semantic.DeepEqual(report, k.told) {
		k.toldOf = k.agenda.changes
		return 0
	}
	if k.told != nil {
		pause := marksEvery
		if report.UnansweredPorts != k.told.UnansweredPorts || !reflect.DeepEqual(report.Unanswered, k.told.Unanswered) {
			pause = answersEvery
		}
		if left := k.toldAt.Add(pause).Sub(now); left > 0 {
			return left
		}
	}
	k.say(report)
	k.toldAt = now
	k.wake()
	return 0
}

func (k *asker) say(report *v1alpha1.NodeAnswers) {
	k.told, k.toldOf = report, k.agenda.changes
	k.tell(report)
}
