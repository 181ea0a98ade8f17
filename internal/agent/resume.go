package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/host"
	"github.com/portreeve/portreeve/internal/rule"
)

// Host is what an agent asks of its node, and what it sets there.
type Host interface {
	Listeners() ([]host.Listener, error)
	Reserved() (rule.PortRanges, error)
	Reserve(ranges rule.PortRanges) error
	Uptime() (time.Duration, error)
}

// young is how long after its boot a node without a trace of Portreeve is taken
// for one that has just joined, or whose disk does not outlive a reboot. Later it
// is one on which Portreeve is being installed, with traffic that must go on.
const young = 5 * time.Minute

// resumeAgain is when to try again what a kernel would not do before the API server
// was read.
const resumeAgain = 2 * time.Second

// resumption is what an agent does to the kernel before it has heard of the API
// server.
type resumption int

const (
	leave   resumption = iota // as it is
	restore                   // the last good rules
	shut                      // the fallback range: what is not known is closed
)

// situation is what an agent finds on its node.
type situation struct {
	intact bool // the kernel holds rules of ours
	kept   bool // the disk has the last good rules
	trace  bool // Portreeve has worked here before
	boot   bool // this is the boot unit: nothing runs yet that must go on
	up     time.Duration
}

func (s situation) resume() resumption {
	switch {
	case s.intact:
		return leave
	case s.kept:
		return restore
	case s.trace || s.boot || s.up < young:
		return shut
	}
	return leave
}

// resume makes the kernel enforce the best that is known without the API server,
// unless it enforces something already, and notes in left what an earlier agent has
// left there.
func (a *Agent) resume(ctx context.Context) error {
	have, intact, err := a.kernel.leftovers(ctx, a.node.Firewall)
	if err != nil {
		return err
	}
	up, err := a.config.Host.Uptime()
	if err != nil {
		return err
	}
	a.noteBoot()
	a.inherited = a.inherited || intact && a.node.Boot.Exposed == nil
	switch (situation{intact: intact, kept: a.keeper.known, trace: a.node.trace, boot: a.booting, up: up}).resume() {
	case restore:
		have = a.keeper.lastGood(a.memory.Behind, time.Now())
		a.log.Warn("the kernel holds no rules of ours: enforcing the last ones from the disk until the API server has been read", "judged", have.Judged.Len(), "ports", have.Ports.Len())
		if err := a.kernel.restore(ctx, have); err != nil {
			return err
		}
		a.enforced()
	case shut:
		have = a.fallback()
		a.log.Warn("the kernel holds no rules of ours, and the disk has none that can be used: closing the fallback range until the API server has been read", "closed", have.Judged.Strings())
		if err := a.shut(ctx, have); err != nil {
			return err
		}
	case leave:
	}
	a.left = a.asLeft(have)
	return nil
}

// shut closes a range, having noted that it is one of which nothing is known.
func (a *Agent) shut(ctx context.Context, closed rule.Set) error {
	if closed.Empty() {
		return nil // the flag says so
	}
	next := a.node.nodeMemory
	next.Boot.ID, next.Boot.Fallback = a.config.BootID, closed.Judged.Strings()
	if err := a.node.remember(next); err != nil {
		a.log.Error("the state directory can't be written", "error", err)
	}
	if err := a.kernel.restore(ctx, closed); err != nil {
		return err
	}
	a.enforced()
	return nil
}

// noteBoot forgets what held for an earlier boot. The new kernel has reserved
// nothing for us yet.
func (a *Agent) noteBoot() {
	before := a.node.nodeMemory
	if !a.node.trace || before.Boot.ID == a.config.BootID {
		return
	}
	next := before
	next.Boot, next.Reserved = boot{ID: a.config.BootID}, nil
	if err := a.node.remember(next); err != nil {
		a.log.Error("the state directory can't be written", "error", err)
	}
	a.reserve(ranges(before.Reserved))
}

// fallback closes the range that was given for the case that nothing is known. What
// is known of the node holds there as well: what is exempt, and who is denied.
func (a *Agent) fallback() rule.Set {
	judged := a.config.Fallback.Subtract(rule.FailSafe)
	gates := map[rule.Port]rule.Terms{}
	for _, port := range a.node.exemptPorts() {
		if judged.Contains(port.Number) && a.applied.lockdown() == nil {
			gates[port] = rule.Terms{Sources: rule.World}
		}
	}
	var denied []netip.Prefix
	for _, cidrs := range a.barred {
		for _, cidr := range cidrs {
			if prefix, err := netip.ParsePrefix(string(cidr)); err == nil {
				denied = append(denied, prefix)
			}
		}
	}
	return rule.Build(judged, gates).WithDenied(denied)
}

// asLeft is what an earlier agent left in the kernel by what it had read. A range
// that was closed because nothing was known tells nothing, and what is exempt has
// no allocation.
func (a *Agent) asLeft(have rule.Set) *rule.Set {
	if b := a.node.Boot; b.ID == a.config.BootID && len(b.Fallback) > 0 && slices.Equal(b.Fallback, have.Judged.Strings()) {
		return &rule.Set{}
	}
	for _, port := range a.node.exemptPorts() {
		have.Ports = have.Ports.With(port, rule.Gate{})
	}
	return &have
}

// leftovers returns what an earlier agent left in the kernel; an absent or damaged
// datapath, which is not intact, is nothing that could be kept. inUse is the firewall
// that it used; "" if nobody knows, and then it may be any.
func (k *kernel) leftovers(ctx context.Context, inUse v1alpha1.Firewall) (have rule.Set, intact bool, err error) {
	if k.datapath == nil && inUse != "" {
		k.wish = inUse
	}
	if err = k.opened(); err != nil && k.wish != v1alpha1.FirewallAuto { // the node has lost what it takes
		k.wish = v1alpha1.FirewallAuto
		err = k.opened()
	}
	if err != nil {
		return rule.Set{}, false, err
	}
	if have, err = k.datapath.Have(ctx); !errors.Is(err, datapath.ErrDamaged) {
		return have, err == nil, err
	}
	for _, b := range k.backends {
		if inUse != "" || b.Firewall == k.inUse {
			continue
		}
		d, _, err := b.Open()
		if err != nil {
			continue // what the node can't have has left nothing
		}
		have, err := d.Have(ctx)
		closeDatapath(d)
		if err == nil {
			return have, true, nil
		}
	}
	return rule.Set{}, false, nil
}

// restore puts rules into a kernel that holds none of ours. Connections are not
// swept: which of them may stay is known when the API server has been read.
func (k *kernel) restore(ctx context.Context, set rule.Set) error {
	k.sure = false
	start := time.Now()
	err := k.datapath.Sync(ctx, set)
	k.metrics.synced(time.Since(start), err)
	if err != nil && (tookAway(err) || errors.Is(err, datapath.ErrUnlogged)) {
		k.log.Warn("the rules are in force, but not as they should be", "error", err)
		return nil
	}
	return err
}

// enforced notes that something is enforced, which ends the time for which the
// node was exposed in this boot.
func (a *Agent) enforced() {
	next := a.node.nodeMemory
	next.Boot.ID, next.Firewall = a.config.BootID, a.kernel.inUse
	if a.begun {
		next.Boot.Fallback = nil
	}
	if next.Boot.Exposed == nil {
		next.Boot.Exposed = a.exposed()
	}
	if err := a.node.remember(next); err != nil {
		a.log.Error("the state directory can't be written", "error", err)
	}
	if next.Boot.Exposed != nil {
		a.metrics.exposed.Set(float64(*next.Boot.Exposed))
	}
}

// exposed is for how long nothing was enforced in this boot until now; nil where
// that is not known, as rules of ours were found that nobody remembers.
func (a *Agent) exposed() *int64 {
	up, err := a.config.Host.Uptime()
	if err != nil || a.inherited {
		return nil
	}
	if since := time.Since(a.started); a.node.newcomer && !a.booting && up-since >= young {
		up = since // before, nobody had asked for anything
	}
	seconds := int64(math.Ceil(up.Seconds()))
	return &seconds
}

// recall loads what earlier runs left on the disk.
func (a *Agent) recall() {
	c := a.config
	a.node = loadHome(newNodeFile(c.StateDir), c.Node, c.Log)
	a.keeper = &keeper{file: newRulesFile(c.StateDir), node: c.Node, log: c.Log, metrics: a.metrics, dirty: make(chan struct{}, 1)}
	err := a.keeper.load(a.memory.Behind)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.Log.Error("the last good rules can't be used", "error", err)
	}
	a.node.trace = a.node.trace || !errors.Is(err, fs.ErrNotExist)
	a.node.newcomer = !a.node.trace
}

// look finds out, once, what is in the kernel, and puts in force what should be.
func (a *Agent) look(ctx context.Context, o outcome) outcome {
	if a.begun || a.left != nil {
		return o
	}
	err := a.resume(ctx)
	if err != nil && o.waiting { // nothing has been read yet that could be reported
		a.log.Error("the kernel can't be made to enforce the last rules; trying again", "error", err)
		o.again = resumeAgain
		return o
	}
	o.err = err
	return o
}

// Boot makes the kernel enforce the best that is known without the API server,
// closing the fallback range if that is nothing, and returns. It is for a moment
// at which nothing runs yet that must go on.
func (a *Agent) Boot(ctx context.Context) error {
	a.booting = true
	ctx, cancel := context.WithTimeout(ctx, kernelTimeout)
	defer cancel()
	return a.resume(ctx)
}

// Forget takes back what an agent did to the node besides its rules, and removes
// what it remembers, except up to where it has read the API server.
func (a *Agent) Forget() error {
	if a.node.Boot.ID == a.config.BootID && len(a.node.Reserved) > 0 {
		if err := a.reserveNow(nil); err != nil {
			return fmt.Errorf("take the ports %v out of net.ipv4.ip_local_reserved_ports, which this agent had put there: %w", a.node.Reserved, err)
		}
	}
	for _, file := range []string{a.keeper.file.path, a.node.file.path, a.switched.file.path} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
