package datapath

import (
	"context"
	"errors"
	"fmt"

	"github.com/portreeve/portreeve/internal/rule"
)

// Datapath is one way to enforce a rule.Set in a node's kernel. It is used by
// one goroutine at a time and changes only what it made itself.
type Datapath interface {
	// Sync makes the kernel enforce want, whatever it enforced before, and
	// returns once it has read that back. When the kernel already enforces want
	// it writes nothing. On an error the kernel admits at most what it admitted
	// before or what want admits; an error that wraps nothing but ErrPreempted or
	// ErrUnlogged comes after all was applied and read back.
	Sync(ctx context.Context, want rule.Set) error
	// Have reads from the kernel, whole, what is enforced now: after Sync, a set
	// that is Equal to want, until somebody changes it. The second in which a gate
	// ends is read as it was given, also once it is past. An absent or damaged
	// skeleton is an error that wraps ErrDamaged, never an empty Set; the next Sync
	// repairs it.
	Have(ctx context.Context) (rule.Set, error)
	// Cleanup removes every trace of ours and nothing else. It may be called
	// again, also when there is nothing of ours.
	Cleanup(ctx context.Context) error
}

// Fingerprinter is a Datapath that tells cheaply, without a process and without
// reading its tables, whether somebody may have changed them: ask it once each
// second. It is used as a Datapath is.
type Fingerprinter interface {
	// Fingerprint is another whenever somebody flushed, added or removed something of
	// ours, or put a rule ahead of ours, since it was last asked for; then Have says
	// what is enforced. It may be another for no reason, and miss what was replaced by
	// as much, so it is no substitute for Have now and then. Sync changes it.
	Fingerprint() (uint64, error)
}

// Silent is a Datapath that can't refuse: whom a gate refuses it drops like everybody
// else. What it is asked for is read as rule.Set.Silenced.
type Silent interface{ Silent() }

// Unserving is a Datapath that keeps Gate.Local where the node's kernel lets it.
type Unserving interface {
	// Unserved says why nobody is refused for want of somebody who takes his connection
	// up, nil where he is. It is true of what the last Sync made.
	Unserved() error
}

// What a datapath logs goes to the netlink log group LogGroup, where package nflog
// reads it, with LogPrefix and the Reason before it. Only a packet that begins a
// connection is logged; connections that nobody tracks (NOTRACK) need not be.
//
//	reason        logged when            at most, in each family
//	not-admitted  Gate.Log.Denied        Gate.Log.PerSecond a second for each port
//	limited       Gate.Log.Denied        the same
//	accepted      Gate.Log.Accepted      the same
//	audited       always                 AuditRate a second for each port
//	unclaimed     always                 AuditRate a second in all
//	denied        always                 AuditRate a second in all
//
// A datapath may count each reason and each protocol for itself, and lets so many
// through at once as in a second, or AuditBurst.
const (
	LogGroup   = 9465
	LogPrefix  = "portreeve "
	AuditRate  = 10
	AuditBurst = 20
)

var (
	// ErrUnsupported: the kernel or its tools lack something we need.
	ErrUnsupported = errors.New("unsupported")
	// ErrDamaged: what the kernel holds is not what we put there.
	ErrDamaged = errors.New("damaged")
	// ErrPreempted: somebody else's rule ahead of ours may accept packets that
	// we would drop. Ours are in force behind it.
	ErrPreempted = fmt.Errorf("preempted: %w", ErrUnsupported)
	// ErrUnlogged: the kernel can't log what want logs. Packets pass or are dropped
	// as they are to be, without a line; nothing else is amiss.
	ErrUnlogged = fmt.Errorf("not logged: %w", ErrUnsupported)
	// ErrFull: the kernel's table can't hold all of want. What does not fit is
	// not admitted; everything that want takes away is taken away.
	ErrFull = fmt.Errorf("full: %w", ErrUnsupported)
)
