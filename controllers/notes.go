package controllers

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/event"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// Verdicts is what the allocator says about policies it could not serve, or
// exposure about companions it could not make.
type Verdicts struct {
	mu    sync.Mutex
	said  map[types.NamespacedName]compile.Refusal
	heard chan event.GenericEvent
}

// NewVerdicts returns an empty one.
func NewVerdicts() *Verdicts {
	return &Verdicts{said: map[types.NamespacedName]compile.Refusal{}, heard: make(chan event.GenericEvent, 1024)}
}

// Say records why a policy is not served, nil when it is.
func (v *Verdicts) Say(policy types.NamespacedName, why *compile.Refusal) {
	v.mu.Lock()
	before, had := v.said[policy]
	if why == nil {
		delete(v.said, policy)
	} else {
		v.said[policy] = *why
	}
	v.mu.Unlock()
	if why != nil && (!had || before != *why) {
		v.heard <- event.GenericEvent{Object: &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: policy.Namespace, Name: policy.Name}}}
	}
}

// Of returns why the policy is not served; nil when it is, or nobody has looked.
func (v *Verdicts) Of(policy types.NamespacedName) *compile.Refusal {
	v.mu.Lock()
	defer v.mu.Unlock()
	if why, ok := v.said[policy]; ok {
		return &why
	}
	return nil
}

// Clouds is what was last seen in each cloud firewall by this process.
type Clouds struct {
	mu   sync.Mutex
	seen map[string]Reading
	// changed wakes policies, cleared wakes closed allocations.
	changed, cleared chan event.GenericEvent
}

// Reading is one complete reading of a cloud firewall.
type Reading struct {
	compile.CloudSeen
	// Began is when the last complete reading began; what closed before it and is
	// not in it is gone.
	Began time.Time
}

// NewClouds returns one that has seen nothing.
func NewClouds() *Clouds {
	return &Clouds{
		seen:    map[string]Reading{},
		changed: make(chan event.GenericEvent, 64), cleared: make(chan event.GenericEvent, 64),
	}
}

// Saw records a reading and wakes those who wait for it.
func (c *Clouds) Saw(firewall string, reading Reading) {
	c.mu.Lock()
	c.seen[firewall] = reading
	c.mu.Unlock()
	c.wake(firewall)
}

// Forget drops a firewall that no longer exists, and wakes those who believed in it.
func (c *Clouds) Forget(firewall string) {
	c.mu.Lock()
	_, had := c.seen[firewall]
	delete(c.seen, firewall)
	c.mu.Unlock()
	if had {
		c.wake(firewall)
	}
}

func (c *Clouds) wake(firewall string) {
	e := event.GenericEvent{Object: &v1alpha1.CloudFirewall{ObjectMeta: metav1.ObjectMeta{Name: firewall}}}
	c.changed <- e
	c.cleared <- e
}

// Of returns the last reading, the zero Reading when there is none.
func (c *Clouds) Of(firewall string) Reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[firewall]
}

// Holding names the firewalls that have shown rules of ours for the number, or
// that have not been read whole since.
func (c *Clouds) holding(firewalls []v1alpha1.ObjectName, number uint16, since time.Time) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var holders []string
	for _, name := range firewalls {
		if seen := c.seen[string(name)]; !seen.Began.After(since) || seen.Holds(number) {
			holders = append(holders, "cloud firewall "+string(name))
		}
	}
	return holders
}
