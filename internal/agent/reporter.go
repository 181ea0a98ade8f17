package agent

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// Reports is where an agent finds its node and writes its NodeDatapath. Errors
// are those of the API server.
type Reports interface {
	// Node returns the UID of the agent's own Node.
	Node(ctx context.Context) (types.UID, error)
	Read(ctx context.Context) (*v1alpha1.NodeDatapath, error)
	Create(ctx context.Context, d *v1alpha1.NodeDatapath) (*v1alpha1.NodeDatapath, error)
	WriteStatus(ctx context.Context, d *v1alpha1.NodeDatapath) (*v1alpha1.NodeDatapath, error)
}

const (
	// lookAgain is how often a reporter with nothing to say looks whether its
	// last report still stands; somebody may have deleted it.
	lookAgain = 5 * time.Minute
	// callTimeout ends a call that hangs.
	callTimeout = 10 * time.Second
)

// reporter writes the latest status to the API server: the first change at once,
// later ones at most once an interval, equal ones never. It lives in a goroutine
// of its own, so that the kernel never waits for the API server.
type reporter struct {
	api      Reports
	node     string
	interval time.Duration
	log      *slog.Logger
	metrics  *metrics

	dirty  chan struct{} // capacity 1
	mu     sync.Mutex
	latest *v1alpha1.NodeDatapathStatus
	// answers belong to latest, and come from another goroutine; nil: none yet, and those
	// of an earlier agent of this boot stand.
	answers *v1alpha1.NodeAnswers

	known *v1alpha1.NodeDatapath // as last seen on the server, nil if not known; owned by run
}

func newReporter(api Reports, node string, interval time.Duration, log *slog.Logger, m *metrics) *reporter {
	return &reporter{api: api, node: node, interval: interval, log: log, metrics: m, dirty: make(chan struct{}, 1)}
}

// set hands over what should be reported; it never waits.
func (r *reporter) set(s v1alpha1.NodeDatapathStatus) {
	r.mu.Lock()
	r.latest = &s
	r.mu.Unlock()
	r.wake()
}

// answered takes what the next report says of answers; it does not wake the reporter.
func (r *reporter) answered(answers *v1alpha1.NodeAnswers) {
	r.mu.Lock()
	r.answers = answers
	r.mu.Unlock()
}

func (r *reporter) wake() {
	select {
	case r.dirty <- struct{}{}:
	default:
	}
}

func (r *reporter) run(ctx context.Context) {
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.dirty:
		case <-look.C:
			r.known = nil
		}
		wrote, err := r.write(ctx)
		for backoff := apiBackoff(); err != nil; wrote, err = r.write(ctx) {
			if ctx.Err() != nil {
				return
			}
			r.metrics.reportErrors.Inc()
			r.metrics.unreported.Set(1)
			r.log.Warn("the report could not be written; trying again", "error", err)
			if !pause(ctx, backoff.Step()) {
				return
			}
		}
		r.metrics.unreported.Set(0)
		if wrote && !pause(ctx, r.interval) {
			return
		}
	}
}

// pause returns false when the context ends first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// write brings the object on the server up to the latest status, and says
// whether it had to.
func (r *reporter) write(ctx context.Context) (wrote bool, err error) {
	r.mu.Lock()
	latest, answers := r.latest, r.answers
	r.mu.Unlock()
	if latest == nil {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if r.known == nil {
		if r.known, err = r.find(ctx); err != nil {
			return false, err
		}
	}
	next := r.known.DeepCopy()
	next.Status = merge(r.known.Status, *latest)
	if next.Status.Answers = answers; answers == nil && r.known.Status.BootID == latest.BootID {
		next.Status.Answers = r.known.Status.Answers
	}
	if equality.Semantic.DeepEqual(next.Status, r.known.Status) {
		return false, nil
	}
	written, err := r.api.WriteStatus(ctx, next)
	if err != nil {
		r.known = nil // it may have been deleted or changed: look before the next try
		return false, fmt.Errorf("write status of NodeDatapath %s: %w", r.node, err)
	}
	r.known = written
	return true, nil
}

// merge takes over latest, but keeps the time of a transition that was none.
func merge(before, latest v1alpha1.NodeDatapathStatus) v1alpha1.NodeDatapathStatus {
	conditions := latest.Conditions
	latest.Conditions = nil
	for _, c := range conditions {
		if old := meta.FindStatusCondition(before.Conditions, c.Type); old != nil {
			meta.SetStatusCondition(&latest.Conditions, *old)
		}
		meta.SetStatusCondition(&latest.Conditions, c)
	}
	return latest
}

// find reads the node's NodeDatapath, or creates it as the Node's dependant, so
// that it goes when the Node goes.
func (r *reporter) find(ctx context.Context) (*v1alpha1.NodeDatapath, error) {
	uid, err := r.api.Node(ctx)
	if err != nil {
		return nil, fmt.Errorf("read Node %s: %w", r.node, err)
	}
	d, err := r.api.Read(ctx)
	if apierrors.IsNotFound(err) {
		d, err = r.api.Create(ctx, &v1alpha1.NodeDatapath{ObjectMeta: metav1.ObjectMeta{
			Name:            r.node,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: r.node, UID: uid}},
		}})
	}
	if err != nil {
		return nil, fmt.Errorf("find NodeDatapath %s: %w", r.node, err)
	}
	for _, owner := range d.OwnerReferences {
		if owner.Kind == "Node" && owner.UID != uid {
			return nil, fmt.Errorf("NodeDatapath %s belongs to an earlier Node of that name; waiting for its removal by the garbage collector", r.node)
		}
	}
	return d, nil
}
