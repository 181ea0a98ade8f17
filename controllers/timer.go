package controllers

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// timedGates are those whose time from apply to proof is measured.
var timedGates = []string{v1alpha1.Exposed, v1alpha1.HostEnforced, v1alpha1.CloudEnforced, v1alpha1.Ready}

// timer measures how long the gates of a policy take from the first sight of a generation
// to the first proof of it. A generation whose status another manager has begun to write
// is not measured: nobody knows since when it was there.
type timer struct {
	mu      sync.Mutex
	pending map[types.NamespacedName]*pending
}

// pending is a generation that is not Ready yet.
type pending struct {
	generation int64
	since      time.Time
	proved     map[string]bool // gates that were observed
}

// begin takes note of a policy whose generation is new.
func (t *timer) begin(key types.NamespacedName, p *v1alpha1.NodePortPolicy, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if have := t.pending[key]; have != nil && have.generation == p.Generation {
		return
	}
	delete(t.pending, key)
	if p.Status.ObservedGeneration == p.Generation {
		return
	}
	if t.pending == nil {
		t.pending = map[types.NamespacedName]*pending{}
	}
	t.pending[key] = &pending{generation: p.Generation, since: now, proved: map[string]bool{}}
}

// saw observes the gates that are now proved. What does not apply takes no time.
func (t *timer) saw(key types.NamespacedName, conditions []metav1.Condition, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.pending[key]
	if p == nil {
		return
	}
	for _, gate := range timedGates {
		c := meta.FindStatusCondition(conditions, gate)
		if c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != p.generation {
			continue
		}
		if c.Reason == v1alpha1.ReasonOK && !p.proved[gate] {
			p.proved[gate] = true
			appliedSeconds.WithLabelValues(gate).Observe(now.Sub(p.since).Seconds())
		}
		if gate == v1alpha1.Ready {
			delete(t.pending, key)
		}
	}
}

func (t *timer) forget(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.pending, key)
}
