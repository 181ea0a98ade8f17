package agent

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

// Packets delivers the packets that the kernel logs, one after the other, until the
// context ends; any other end is an error.
type Packets func(ctx context.Context, deliver func(datapath.Packet)) error

// tellEvery is how often lines that were left out are told of where no line follows.
const tellEvery = time.Minute

// journal makes lines and counters of packets, by the allocations last applied. The
// kernel bounds packets by port, the journal lines by policy.
type journal struct {
	log *slog.Logger
	// packets grows with the policies that have packets logged, and shrinks with them.
	packets    *prometheus.CounterVec
	suppressed prometheus.Counter

	mu      sync.Mutex
	applied inputs
	// writers by policy, of those that had a packet; the empty name stands for packets
	// that are no policy's.
	writers map[types.NamespacedName]*writer
}

// writer bounds the lines of one policy.
type writer struct {
	limiter    *rate.Limiter
	suppressed int // since the last line
}

func newJournal(log *slog.Logger, r prometheus.Registerer) *journal {
	j := &journal{
		log: log, writers: map[types.NamespacedName]*writer{},
		packets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "portreeve", Subsystem: "agent", Name: "packets_total",
			Help: "Packets that began a connection and were logged by the kernel, by policy (empty: no policy's) and reason.",
		}, []string{"namespace", "policy", "reason"}),
		suppressed: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "portreeve", Subsystem: "agent", Name: "packet_lines_suppressed_total",
			Help: "Packets that were counted but not written down, because their policy had its lines for that second.",
		}),
	}
	r.MustRegister(j.packets, j.suppressed)
	return j
}

// run writes until the context ends. A kernel that does not hand out packets filters
// all the same, so it is asked again at leisure.
func (j *journal) run(ctx context.Context, packets Packets) {
	var telling sync.WaitGroup
	defer telling.Wait()
	telling.Go(func() { j.tellAll(ctx) })
	backoff := wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.2, Steps: 10, Cap: time.Minute}
	said := ""
	for {
		err := packets(ctx, j.deliver)
		if ctx.Err() != nil {
			return
		}
		if text := fmt.Sprint(err); text != said {
			j.log.Warn("packets can't be read from the kernel, so none are logged; trying again", "error", err)
			said = text
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff.Step()):
		}
	}
}

// tellAll tells of lines that were left out, now and then.
func (j *journal) tellAll(ctx context.Context) {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			j.mu.Lock()
			for _, policy := range slices.SortedFunc(maps.Keys(j.writers), compareNames) {
				j.tell(policy)
			}
			j.mu.Unlock()
		}
	}
}

func compareNames(a, b types.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// tell says how many lines of a policy were left out since its last one.
func (j *journal) tell(policy types.NamespacedName) {
	if w := j.writers[policy]; w.suppressed > 0 {
		j.log.Info("packets not logged", "namespace", policy.Namespace, "policy", policy.Name, "suppressed", w.suppressed)
		w.suppressed = 0
	}
}

// know takes what was applied. Policies that are gone take their counters along.
func (j *journal) know(applied inputs) {
	j.mu.Lock()
	defer j.mu.Unlock()
	gone := map[types.NamespacedName]bool{} // perhaps
	for c := range j.applied[kindAllocations].Changes(applied[kindAllocations]) {
		if policy := policyOf(opened(c.From)); j.writers[policy] != nil && policyOf(opened(c.To)) != policy {
			gone[policy] = true
		}
	}
	delete(gone, types.NamespacedName{})
	j.applied = applied
	if len(gone) == 0 {
		return
	}
	for _, o := range applied[kindAllocations].All {
		delete(gone, policyOf(opened(o)))
	}
	for _, policy := range slices.SortedFunc(maps.Keys(gone), compareNames) {
		j.tell(policy)
		delete(j.writers, policy)
		j.packets.DeletePartialMatch(prometheus.Labels{"namespace": policy.Namespace, "policy": policy.Name})
	}
}

// opened returns an allocation that is Open and a policy's, else nil.
func opened(o metav1.Object) *v1alpha1.NodePortAllocation {
	if a, is := o.(*v1alpha1.NodePortAllocation); is && a != nil && a.Spec.State == v1alpha1.AllocationOpen && a.Spec.Claim.Policy != "" {
		return a
	}
	return nil
}

// policyOf names the policy of an allocation; nil is nobody's.
func policyOf(a *v1alpha1.NodePortAllocation) types.NamespacedName {
	if a == nil {
		return types.NamespacedName{}
	}
	return types.NamespacedName{Namespace: a.Spec.Claim.Namespace, Name: a.Spec.Claim.Policy}
}

// deliver counts a packet, and writes it down if its policy wants that and has not had
// enough.
func (j *journal) deliver(p datapath.Packet) {
	j.mu.Lock()
	defer j.mu.Unlock()
	a := opened(j.applied.allocation(p.Port))
	if a != nil && !slices.Contains(a.Spec.Protocols, v1alpha1.Protocol(p.Protocol)) {
		a = nil
	}
	policy := policyOf(a)
	j.packets.WithLabelValues(policy.Namespace, policy.Name, string(p.Reason)).Inc()
	limit, burst := rate.Limit(datapath.AuditRate), datapath.AuditBurst
	if a != nil {
		lines := compile.LogOf(a).PerSecond
		limit, burst = rate.Limit(lines), int(lines)
	}
	w := j.writers[policy]
	if w == nil {
		w = &writer{limiter: rate.NewLimiter(limit, burst)}
		j.writers[policy] = w
	}
	if !wanted(a, p.Reason) {
		return
	}
	now := time.Now()
	if w.limiter.Limit() != limit {
		w.limiter.SetLimitAt(now, limit)
		w.limiter.SetBurstAt(now, burst)
	}
	if !w.limiter.AllowN(now, 1) {
		w.suppressed++
		j.suppressed.Inc()
		return
	}
	j.write(p, a, w.suppressed)
	w.suppressed = 0
}

// wanted says whether a packet is to be written down. What only passes because
// somebody audits always is.
func wanted(a *v1alpha1.NodePortAllocation, reason datapath.Reason) bool {
	switch {
	case reason == datapath.Unclaimed:
		return true
	case a == nil: // it has just closed
		return false
	case reason == datapath.Audited:
		return true
	case reason == datapath.Accepted:
		return a.Spec.Log.Accepted
	}
	return a.Spec.Log.Denied
}

// write makes the line of a packet; docs/agent.md has its format.
func (j *journal) write(p datapath.Packet, a *v1alpha1.NodePortAllocation, suppressed int) {
	verdict := "passed"
	switch p.Reason {
	case datapath.NotAdmitted, datapath.Limited, datapath.Denied:
		verdict = "dropped"
	case datapath.Unclaimed, datapath.Audited, datapath.Accepted:
	}
	line := []any{
		"verdict", verdict, "reason", string(p.Reason), "protocol", string(p.Protocol),
		"source", p.Source.String(), "sourcePort", p.SourcePort,
		"destination", p.Destination.String(), "port", p.Port, "interface", p.Interface,
	}
	if a != nil {
		line = append(line, "namespace", a.Spec.Claim.Namespace, "policy", a.Spec.Claim.Policy,
			"service", a.Spec.Claim.Service, "pool", a.Spec.Pool, "team", a.Spec.Team)
	} else if pool := j.poolOf(p.Port); pool != nil {
		line = append(line, "pool", pool.Name, "team", pool.Spec.Team)
	}
	if suppressed > 0 {
		line = append(line, "suppressed", suppressed)
	}
	j.log.Info("packet", line...)
}

// poolOf returns a pool that has armed the number, nil if none has.
func (j *journal) poolOf(number uint16) *v1alpha1.NodePortPool {
	for _, o := range j.applied[kindPools].All {
		pool := o.(*v1alpha1.NodePortPool)
		for _, armed := range pool.Status.Armed {
			if r, err := rule.ParsePortRange(armed); err == nil && r.Contains(number) {
				return pool
			}
		}
	}
	return nil
}
