package iptables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// Datapath enforces rule sets in the network namespace of the thread that
// called New; call its methods there too.
type Datapath struct {
	detection Detection
	sets      *ipsets
	skeletons []*skeleton

	// have is what the sets held when last seen; nil when that is not known.
	have *image
	// settled: traces of an earlier run in the other mode have been looked for.
	settled bool
}

var (
	_ datapath.Datapath  = (*Datapath)(nil)
	_ datapath.Silent    = (*Datapath)(nil)
	_ datapath.Unserving = (*Datapath)(nil)
)

// New opens the datapath in the given mode, or, when it is empty, in the one
// that Detect finds. It changes nothing in the kernel.
func New(mode Mode) (*Datapath, error) {
	detection := Detection{Mode: mode}
	if mode == "" {
		var err error
		if detection, err = Detect(); err != nil {
			return nil, err
		}
	}
	skeletons, err := openSkeletons(detection.Mode)
	if err != nil {
		return nil, err
	}
	sets, err := openIPSets()
	if err != nil {
		return nil, err
	}
	return &Datapath{detection: detection, sets: sets, skeletons: skeletons}, nil
}

// Silent implements datapath.Silent: REJECT exists in the filter table only, which sees
// node ports when they are rewritten, or not at all.
func (d *Datapath) Silent() {}

// Unserved implements datapath.Unserving.
func (d *Datapath) Unserved() error {
	for _, s := range d.skeletons {
		if s.door.refused != nil {
			return s.door.refused
		}
	}
	return nil
}

// Detection returns the mode in use and what it was chosen by.
func (d *Datapath) Detection() Detection { return d.detection }

// Changes counts what has been written to the kernel since New. It stands still
// while the kernel holds what Sync is asked for; that it grows all the same says
// that somebody else keeps changing it.
func (d *Datapath) Changes() int {
	n := d.sets.changes
	for _, s := range d.skeletons {
		n += s.changes
	}
	return n
}

// Close gives the netlink sockets back; the kernel goes on enforcing.
func (d *Datapath) Close() { d.sets.close() }

// Sync implements datapath.Datapath. On a node that had no skeleton the contents
// come first, and one jump per family puts the whole of want in force. Else the rules
// change between what is taken away and what is given, so that nobody passes by rules
// that do not limit him yet. They change whether or not the contents fitted, since
// what is not admitted is then closed.
func (d *Datapath) Sync(ctx context.Context, want rule.Set) error {
	now := time.Now().Unix()
	target := imageOf(want, now)
	if err := d.ensureSets(ctx, target); err != nil {
		return err
	}
	jumped, err := d.readSkeletons()
	if err != nil {
		return err
	}
	p := newPlan(d.have, target, now)
	before := d.have
	if len(p.steps()) > 0 {
		d.have = nil // until it is read back
	}
	// A step that fails does not stop the others: a full set must not keep a
	// revocation from taking effect.
	prepared, narrowed := d.sets.change(ctx, p.prepare), d.sets.change(ctx, p.narrow)
	contents := errors.Join(prepared, narrowed)
	// But nobody is let in whose end or limit could not be written down.
	safe := prepared == nil && (narrowed == nil || errors.Is(narrowed, datapath.ErrFull))
	var preempted, skeletons error
	if jumped {
		preempted, skeletons = d.ensureSkeletons(target)
	}
	if skeletons == nil && safe {
		contents = errors.Join(contents, d.sets.change(ctx, p.widen))
	}
	if !jumped {
		preempted, skeletons = d.ensureSkeletons(target)
	}
	if skeletons == nil {
		contents = errors.Join(contents, d.sets.change(ctx, p.finish))
	}
	if contents == nil && skeletons == nil {
		contents = d.readBack(p, target)
	}
	if err := errors.Join(contents, skeletons); err != nil {
		return err
	}
	d.have = target
	if err := d.settle(before, target); err != nil {
		d.have = nil
		return err
	}
	return errors.Join(preempted, d.unlogged(want))
}

// readSkeletons reads the rules, and says whether all families have a jump to ours.
func (d *Datapath) readSkeletons() (jumped bool, err error) {
	jumped = true
	for _, s := range d.skeletons {
		if s.have, err = s.read(); err != nil {
			return false, err
		}
		jumped = jumped && len(jumpsIn(s.have[hook])) > 0
	}
	return jumped, nil
}

// ensureSkeletons makes the rules those of an image. That others may preempt them is
// no failure: ours are in force behind.
func (d *Datapath) ensureSkeletons(im *image) (preempted, failed error) {
	for _, s := range d.skeletons {
		switch err := s.ensure(terms{shapeOf(im.properties), im.connections}); {
		case errors.Is(err, datapath.ErrPreempted):
			preempted = errors.Join(preempted, err)
		case err != nil:
			return preempted, err
		}
		if err := d.lookForDoor(s); err != nil {
			return preempted, err
		}
		if err := s.ensureDoor(im.hasLocal()); err != nil {
			return preempted, err
		}
	}
	return preempted, nil
}

// unlogged says why the kernel does not log what want logs.
func (d *Datapath) unlogged(want rule.Set) error {
	logs := len(want.Audited)+len(want.Denied) > 0
	for _, gate := range want.Ports.All {
		logs = logs || gate.Audit != "" || gate.Log != (rule.Log{})
	}
	var err error
	for _, s := range d.skeletons {
		if logs {
			err = errors.Join(err, s.unlogged)
		}
	}
	return err
}

// Have implements datapath.Datapath.
func (d *Datapath) Have(context.Context) (rule.Set, error) {
	d.have = nil
	headers, err := d.sets.headers()
	if err != nil {
		return rule.Set{}, err
	}
	have, err := d.sets.image(headers)
	if err != nil {
		return rule.Set{}, err
	}
	if _, err := d.readSkeletons(); err != nil {
		return rule.Set{}, err
	}
	for i, s := range d.skeletons {
		counts, _ := s.counts(s.have)
		if i == 0 {
			have.connections = counts
		}
		if err := s.check(terms{shapeOf(have.properties), have.connections}); err != nil && !errors.Is(err, datapath.ErrPreempted) {
			return rule.Set{}, err
		}
		if err := s.checkDoor(have.hasLocal()); err != nil {
			return rule.Set{}, err
		}
	}
	for _, id := range fixedSets {
		if err := own(headers, id); err != nil {
			return rule.Set{}, err
		}
	}
	set, what := have.rules(time.Now().Unix())
	if what != "" {
		return rule.Set{}, fmt.Errorf("the sets disagree: %s: %w", what, datapath.ErrDamaged)
	}
	d.have = have
	return set, nil
}

// Cleanup implements datapath.Datapath, for both modes and for the sets of other
// versions: an earlier run may have used them.
func (d *Datapath) Cleanup(context.Context) error {
	d.have, d.settled = nil, false
	var errs []error
	for _, mode := range modes {
		errs = append(errs, removeSkeletons(mode))
	}
	headers, err := d.sets.headers()
	errs = append(errs, err)
	for _, id := range slices.Sorted(maps.Keys(headers)) {
		if strings.HasPrefix(string(id), setPrefix) {
			errs = append(errs, d.sets.destroy(id))
		}
	}
	return errors.Join(errs...)
}

// settle removes what nothing refers to any more: once, what an earlier run left in
// the other mode, and the sets of properties that no port has. It comes after our own
// rules, so there is no gap between the two.
func (d *Datapath) settle(before, now *image) error {
	for _, mode := range modes {
		if d.settled || mode == d.detection.Mode {
			continue
		}
		if err := removeSkeletons(mode); err != nil {
			return fmt.Errorf("remove traces in %s mode: %w", mode, err)
		}
	}
	d.settled = true
	for _, p := range shapeOf(before.properties) {
		if _, still := now.properties[p]; still {
			continue
		}
		for _, id := range p.sets() {
			if err := d.sets.destroy(id); err != nil {
				return err
			}
		}
	}
	return nil
}

func removeSkeletons(mode Mode) error {
	for _, f := range families() {
		if !inUse(mode, f, table) && !inUse(mode, f, doorTable) {
			continue
		}
		s, err := openSkeleton(mode, f)
		if errors.Is(err, exec.ErrNotFound) {
			continue // never installed, so never used
		}
		if err != nil {
			return err
		}
		if inUse(mode, f, table) {
			if err := s.remove(); err != nil {
				return err
			}
		}
		if err := s.removeDoor(); err != nil {
			return err
		}
	}
	return nil
}
