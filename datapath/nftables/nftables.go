package nftables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// The flags of a table (linux/netfilter/nf_tables.h): only the socket that made it
// may change it, and it outlives that socket.
const (
	flagOwner   = 1 << 1
	flagPersist = 1 << 2
	owned       = flagOwner | flagPersist
)

// Datapath enforces rule sets in the network namespace of the thread that called
// New; call its methods there too.
type Datapath struct {
	routes *netlink.Handle // to ask for addresses
	socket *socket         // nil after an error that leaves unknown what it would answer
	owning bool            // the table is bound to the socket
	lacks  lacking
	now    func() time.Time

	// have is what the table was last seen to hold, at that generation of the
	// ruleset; nil when that is not known.
	have       *state
	doubted    bool // what the kernel can do is to be asked again
	needs      needs
	generation uint32
	changes    int
	// left is what ends have left, for a moment.
	left []leavings
	// settled: nothing is left of a table that was to be replaced.
	settled bool
}

var (
	_ datapath.Datapath  = (*Datapath)(nil)
	_ datapath.Unserving = (*Datapath)(nil)
)

// New opens the datapath. It changes nothing in the kernel. A kernel without
// nf_tables is an error that wraps datapath.ErrUnsupported.
func New() (*Datapath, error) {
	routes, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	d := &Datapath{routes: routes, now: time.Now}
	if err := d.open(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// open makes sure that there is a socket, and that nf_tables answers.
func (d *Datapath) open() error {
	if d.socket != nil && !d.doubted {
		return nil
	}
	lacks, err := probe()
	if err != nil {
		return err
	}
	if d.socket == nil {
		if d.socket, err = openSocket(); err != nil {
			return err
		}
	}
	d.socket.deaf = lacks.socket != nil
	lacks.owner = lacks.owner || d.lacks.owner // once is enough, and a test may insist
	d.lacks, d.doubted = lacks, false
	return nil
}

// forget gives the socket up after an error. The table stays as it is.
func (d *Datapath) forget() {
	if d.socket != nil {
		d.socket.close()
	}
	d.socket, d.have, d.owning, d.left = nil, nil, false, nil
}

// doubt forgets what the table was seen to hold, after an error. The socket is kept
// if it can be: the table is bound to it, and without an owner anybody may change the
// table until we have taken it over again.
func (d *Datapath) doubt() {
	d.have, d.doubted = nil, true
	if d.socket != nil && d.socket.drain() != nil {
		d.forget()
	}
}

// Unserved implements datapath.Unserving.
func (d *Datapath) Unserved() error {
	if d.lacks.socket == nil {
		return nil
	}
	return fmt.Errorf("the kernel can't tell who listens (module nft_socket): %w", d.lacks.socket)
}

// Owned says whether the kernel keeps the table for us alone.
func (d *Datapath) Owned() bool { return !d.lacks.owner }

// Changes counts what has been written to the kernel since New. It stands still
// while the kernel holds what Sync is asked for.
func (d *Datapath) Changes() int { return d.changes }

// Close gives the sockets back; the kernel goes on enforcing.
func (d *Datapath) Close() {
	d.forget()
	d.routes.Close()
}

// attempts of a Sync: what is remembered may be out of date, and what was read may be
// of a kernel that can't be changed in place; the last one loads a whole table.
// Somebody else's changes meanwhile don't count, up to a bound.
const (
	attempts      = 3
	interruptions = 20
)

// Sync implements datapath.Datapath. What changes does so in a few transactions, none
// of which leaves a state that admits or drops what neither old nor new would.
func (d *Datapath) Sync(ctx context.Context, want rule.Set) error {
	virtual, err := d.virtual()
	if err != nil {
		return err
	}
	interrupted := 0
	for attempt := 1; ; attempt++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := d.sync(state{Set: want, virtual: virtual}, attempt == attempts)
		if err == nil || errors.Is(err, datapath.ErrUnlogged) || errors.Is(err, datapath.ErrFull) {
			return err
		}
		d.doubt()
		if errors.Is(err, unix.ERESTART) && interrupted < interruptions {
			interrupted++
			attempt--
		} else if attempt == attempts {
			return err
		}
	}
}

func (d *Datapath) sync(want state, whole bool) error {
	if err := d.open(); err != nil {
		return err
	}
	now := d.now()
	want.mute, want.deaf = d.lacks.log != nil, d.lacks.socket != nil
	want, unlimited := d.lacks.without(want)
	replace, err := d.remember(now)
	if err != nil {
		return err
	}
	if whole || d.have == nil || d.have.mute != want.mute || d.have.deaf != want.deaf {
		err = d.load(want, replace, now)
	} else {
		err = d.change(want, now)
	}
	if err != nil {
		return err
	}
	d.have = &want
	if !d.settled { // an earlier agent may have ended while it replaced the table
		if err := d.remove(nextName); err != nil {
			return err
		}
		d.settled = true
	}
	return errors.Join(unlimited, d.lacks.unlogged(want))
}

// change takes what is remembered to want, and reads back what changed.
func (d *Datapath) change(want state, now time.Time) error {
	c := planChange(tableName, *d.have, want, d.needs)
	for i := range d.left {
		c.reuse(&d.left[i])
	}
	steps, err := c.batches(*d.have, want, now)
	if err != nil {
		return err
	}
	for _, b := range append(steps, d.leftLongAgo(now)...) {
		if err := d.commit(b); err != nil {
			return err
		}
	}
	if c.lingers(now) {
		d.left = append(d.left, leavings{c.deleteGates, c.deleteClasses, c.deleteSets, *d.have, now})
	}
	if len(steps) == 0 {
		return nil
	}
	return d.readBack(c, want, now)
}

// leftLongAgo removes what an end left, once the kernel has collected what had ended.
func (d *Datapath) leftLongAgo(now time.Time) []batch {
	var out []batch
	d.left = slices.DeleteFunc(d.left, func(l leavings) bool {
		if now.Sub(l.since) < lingering {
			return false
		}
		b := batch{table: tableName}
		if b.remove(l); len(b.messages) > 0 {
			out = append(out, b)
		}
		return true
	})
	return out
}

// load makes the table, in the place of an earlier one if there is one.
func (d *Datapath) load(want state, replace bool, now time.Time) error {
	if replace {
		if err := d.loadTable(nextName, want, 0, true, now); err != nil {
			return err
		}
	}
	flags := uint32(owned)
	if d.lacks.owner {
		flags = 0
	}
	d.settled = false
	if err := d.loadTable(tableName, want, flags, replace, now); err != nil {
		return err
	}
	d.owning, d.left = !d.lacks.owner, nil
	return d.readWhole(want, now)
}

func (d *Datapath) loadTable(name string, want state, flags uint32, replace bool, now time.Time) error {
	if replace {
		switch _, err := d.socket.tableFlags(name); {
		case errors.Is(err, unix.ENOENT):
			replace = false
		case err != nil:
			return err
		}
	}
	b, n, err := load(name, want, flags, replace, now)
	if err != nil {
		return err
	}
	if d.generation, err = d.socket.generation(); err != nil {
		return err
	}
	d.needs = n
	return d.commit(b)
}

// commit changes the kernel, but not behind somebody else's change of a table that is
// not ours alone: such a change is not to be taken for what we left there.
func (d *Datapath) commit(b batch) error {
	var expected uint32
	if !d.owning {
		expected = d.generation
	}
	if err := d.socket.commit(b, expected); err != nil {
		return err
	}
	d.changes += len(b.messages)
	if d.generation++; d.generation == 0 { // as the kernel counts
		d.generation = 1
	}
	return nil
}

// remember makes sure that have is what the kernel holds, and leaves it nil when
// that has to be loaded as a whole, in the place of an earlier table if there is one.
func (d *Datapath) remember(now time.Time) (replace bool, err error) {
	if d.have != nil && d.owning {
		return true, nil
	}
	generation, err := d.socket.generation()
	if err != nil {
		return false, err
	}
	if d.have != nil && generation == d.generation {
		return true, nil
	}
	d.have, d.generation = nil, generation
	whole, err := d.adopt()
	if err != nil || !whole {
		return !errors.Is(err, unix.ENOENT), ignore(err, unix.ENOENT)
	}
	// Whoever changes something while we read moves the generation past this one.
	if d.generation, err = d.socket.generation(); err != nil {
		return false, err
	}
	found, n, err := d.socket.read(now, d.left)
	if err == nil {
		d.have, d.needs = &found, n
	}
	return true, ignore(err, datapath.ErrDamaged)
}

func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// adopt binds an existing table to our socket. One that can't be bound is to be
// replaced: whole is false then.
func (d *Datapath) adopt() (whole bool, err error) {
	flags, err := d.socket.tableFlags(tableName)
	switch {
	case err != nil:
		return false, err
	case d.owning || d.lacks.owner:
		return true, nil
	case flags&flagOwner != 0:
		return false, fmt.Errorf("table %s belongs to another process: does a second agent run on this node?: %w", tableName, unix.EPERM)
	case flags != flagPersist:
		return false, nil
	}
	b := batch{table: tableName}
	b.addTable(owned)
	if err := d.socket.commit(b, 0); err != nil {
		return false, fmt.Errorf("take table %s over: %w", tableName, err)
	}
	d.changes += len(b.messages)
	d.owning = true
	return true, nil
}

// Have implements datapath.Datapath.
func (d *Datapath) Have(context.Context) (rule.Set, error) {
	if err := d.open(); err != nil {
		return rule.Set{}, err
	}
	d.have = nil // the next Sync believes nothing but what is read now
	if _, err := d.adopt(); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPERM) {
		return rule.Set{}, err
	}
	var err error
	if d.generation, err = d.socket.generation(); err != nil {
		return rule.Set{}, err
	}
	found, n, err := d.socket.read(d.now(), d.left)
	if err != nil {
		d.doubt()
		return rule.Set{}, err
	}
	d.have, d.needs = &found, n
	return found.Set, nil
}

// Cleanup implements datapath.Datapath.
func (d *Datapath) Cleanup(context.Context) error {
	if err := d.open(); err != nil {
		return err
	}
	err := errors.Join(d.remove(nextName), d.remove(tableName))
	d.forget()
	return err
}

// remove takes the rules of a table's hook away, and then, when no packet is on its
// way through the table any more, the table: one that still was would find no port
// in it.
func (d *Datapath) remove(name string) error {
	flags, err := d.socket.tableFlags(name)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil && flags&flagOwner != 0 && !d.owning {
		err = errors.New("it belongs to another process: stop this node's agent before")
	}
	for _, take := range []func(*batch){func(b *batch) { b.flushChain(chainHook) }, (*batch).deleteTable} {
		if err != nil {
			return fmt.Errorf("remove table %s: %w", name, err)
		}
		b := batch{table: name}
		take(&b)
		// Whatever else changes meanwhile. A damaged one may lack its hook.
		err = ignore(d.socket.commit(b, 0), unix.ENOENT)
		d.changes += len(b.messages)
	}
	return err
}

// virtual returns the addresses of kube-ipvs0.
func (d *Datapath) virtual() ([]netip.Prefix, error) {
	addresses, err := datapath.ReadVirtual(d.routes)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for a := range addresses {
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return rule.Canonical(out), nil
}
