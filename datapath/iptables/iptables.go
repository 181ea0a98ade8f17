package iptables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"

	"golang.org/x/sys/unix"

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

var _ datapath.Datapath = (*Datapath)(nil)

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

// Sync implements datapath.Datapath. The contents come before the skeleton: on
// a node that had none, one jump per family puts the whole of want in force. The
// skeleton comes whether or not the contents fitted, since what is not admitted
// is then closed.
func (d *Datapath) Sync(ctx context.Context, want rule.Set) error {
	if err := d.ensureSets(ctx); err != nil {
		return err
	}
	contents := d.transition(ctx, imageOf(want))
	if contents != nil {
		d.have = nil
	}
	var afterwards error // all is applied and read back by then
	for _, s := range d.skeletons {
		if err := s.ensure(); err != nil {
			return errors.Join(contents, err)
		}
		switch err := s.check(); {
		case errors.Is(err, datapath.ErrPreempted):
			afterwards = errors.Join(afterwards, err)
		case err != nil:
			return errors.Join(contents, err)
		}
		if len(want.Audited) > 0 {
			afterwards = errors.Join(afterwards, s.unlogged)
		}
	}
	if err := d.settle(); err != nil {
		return errors.Join(contents, err)
	}
	return errors.Join(contents, afterwards)
}

// Have implements datapath.Datapath.
func (d *Datapath) Have(context.Context) (rule.Set, error) {
	for _, s := range d.skeletons {
		if err := s.check(); err != nil && !errors.Is(err, datapath.ErrPreempted) {
			return rule.Set{}, err
		}
	}
	for id := range setCount {
		if _, err := d.sets.own(id); err != nil {
			return rule.Set{}, err
		}
	}
	d.have = nil
	have, err := d.sets.image()
	if err != nil {
		return rule.Set{}, err
	}
	set, ok := have.rules()
	if !ok {
		return rule.Set{}, fmt.Errorf("sets %s less %s, %s and %s disagree on where to drop: %w",
			specs[judged].name, specs[audited].name, specs[sctp4].name, specs[sctp6].name, datapath.ErrDamaged)
	}
	d.have = have
	return set, nil
}

// Cleanup implements datapath.Datapath, for both modes: an earlier run may have
// used the other one.
func (d *Datapath) Cleanup(context.Context) error {
	d.have, d.settled = nil, false
	var errs []error
	for _, mode := range modes {
		errs = append(errs, removeSkeletons(mode))
	}
	for id := range setCount {
		errs = append(errs, d.sets.destroy(id))
	}
	return errors.Join(errs...)
}

// settle removes, once, what an earlier run left in the other mode. It comes
// after our own jump, so there is no gap between the two.
func (d *Datapath) settle() error {
	if d.settled {
		return nil
	}
	for _, mode := range modes {
		if mode == d.detection.Mode {
			continue
		}
		if err := removeSkeletons(mode); err != nil {
			return fmt.Errorf("remove traces in %s mode: %w", mode, err)
		}
	}
	d.settled = true
	return nil
}

func removeSkeletons(mode Mode) error {
	for _, f := range families() {
		if !inUse(mode, f) {
			continue
		}
		ipt, err := open(mode, f)
		if errors.Is(err, exec.ErrNotFound) {
			continue // never installed, so never used
		}
		if err != nil {
			return err
		}
		s := skeleton{ipt: ipt, spelling: map[string][]string{}}
		if err := s.remove(); err != nil {
			return err
		}
	}
	return nil
}

// ensureSets makes the sets that are missing, forgets what it remembers when
// the kernel no longer holds as much, and keeps the addresses of kube-ipvs0.
func (d *Datapath) ensureSets(ctx context.Context) error {
	var remembered [setCount]int
	if d.have != nil {
		remembered = d.have.counts()
	}
	for id := range setCount {
		found, err := d.sets.own(id)
		if errors.Is(err, errAbsent) {
			d.have = nil
			if err := d.sets.create(id); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if id != exempt4 && id != exempt6 && found.entries != remembered[id] {
			d.have = nil
		}
	}
	if d.have == nil {
		have, err := d.sets.image()
		if err != nil {
			return err
		}
		d.have = have
	}
	return d.exempt(ctx)
}

var errAbsent = fmt.Errorf("there is no such set: %w", datapath.ErrDamaged)

// own reads the header of one of our sets and makes sure that it is what we
// would have made.
func (k *ipsets) own(id setID) (header, error) {
	found, err := k.header(id)
	if errors.Is(err, unix.ENOENT) {
		return found, fmt.Errorf("set %s: %w", specs[id].name, errAbsent)
	}
	if err != nil {
		return found, err
	}
	if found.kind != specs[id].kind || found.family != specs[id].family {
		return found, fmt.Errorf("set %s is of type %s, not %s: somebody else made it; destroy it: %w",
			specs[id].name, found.kind, specs[id].kind, datapath.ErrDamaged)
	}
	return found, nil
}

// exempt makes the exempt sets hold the addresses of kube-ipvs0. A new one is
// judged until the next Sync: closed when in doubt.
func (d *Datapath) exempt(ctx context.Context) error {
	addresses, err := datapath.ReadAddresses(d.sets.h)
	if err != nil {
		return err
	}
	have := map[netip.Addr]bool{}
	for _, id := range []setID{exempt4, exempt6} {
		if err := d.sets.entries(id, func(e element) { have[e.prefix.Addr()] = true }); err != nil {
			return err
		}
	}
	var steps []step
	for addr := range have {
		if !addresses.Virtual[addr] {
			steps = append(steps, exemption(del, addr))
		}
	}
	for addr := range addresses.Virtual {
		if !have[addr] {
			steps = append(steps, exemption(add, addr))
		}
	}
	return d.sets.change(ctx, steps)
}

func exemption(v verb, addr netip.Addr) step {
	id := exempt6
	if addr.Is4() {
		id = exempt4
	}
	return step{v, element{set: id, prefix: netip.PrefixFrom(addr, addr.BitLen())}}
}

func (k *ipsets) image() (*image, error) {
	im := &image{admit: map[rule.Port][]netip.Prefix{}}
	for _, id := range []setID{judged, audited, sctp4, sctp6, admit4, admit6} {
		if err := k.entries(id, im.add); err != nil {
			return nil, err
		}
	}
	im.sort()
	return im, nil
}

// fullReadBack is the number of steps from which one listing of everything is
// cheaper than asking for each changed entry.
const fullReadBack = 2000

// transition makes the sets hold want and reads back that they do. A step that
// fails does not stop the others: a full set must not keep a revocation from
// taking effect. It returns the first failure.
func (d *Datapath) transition(ctx context.Context, want *image) error {
	p := newPlan(d.have, want)
	if err := errors.Join(d.sets.change(ctx, p.narrow), d.sets.change(ctx, p.widen)); err != nil {
		return err
	}
	if err := d.readBack(p, want); err != nil {
		return err
	}
	d.have = want
	return nil
}

func (d *Datapath) readBack(p plan, want *image) error {
	if len(p.narrow)+len(p.widen) >= fullReadBack {
		found, err := d.sets.image()
		if err != nil {
			return err
		}
		if !found.equal(want) {
			return fmt.Errorf("the sets do not read back as written: %w", datapath.ErrDamaged)
		}
		return nil
	}
	for _, steps := range [][]step{p.narrow, p.widen} {
		for _, s := range steps {
			found, err := d.sets.contains(s.element)
			if err != nil {
				return err
			}
			if found != want.contains(s.element) {
				return fmt.Errorf("set %s does not read back as written for %v %v: %w",
					specs[s.set].name, s.port, s.prefix, datapath.ErrDamaged)
			}
		}
	}
	return nil
}
