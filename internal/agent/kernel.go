package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// Sweeper makes the kernel forget connections that may no longer be.
type Sweeper interface {
	// Sweep removes the tracked connections to the numbers, on the node's own
	// addresses, that want does not admit, and counts them.
	Sweep(ctx context.Context, numbers rule.PortRanges, want rule.Set) (int, error)
}

// kernel is what one goroutine knows of the node's kernel.
type kernel struct {
	datapath datapath.Datapath
	sweeper  Sweeper
	log      *slog.Logger
	metrics  *metrics

	// sure: the kernel was read back and enforces inforce, and no connection is
	// left that inforce does not admit.
	sure    bool
	inforce rule.Set
	// doubt: the kernel was seen not to enforce what it was believed to. It stays
	// until the kernel is sure again.
	doubt bool
}

// enforce makes the kernel enforce want, then removes connections that lost
// their source: of the ports that narrowed, or of all judged ports if it is not
// known what the kernel enforced before (after a start, an error, a repair).
func (k *kernel) enforce(ctx context.Context, want rule.Set) error {
	if k.sure && want.Equal(k.inforce) {
		return nil
	}
	sweep := want.Judged
	if k.sure {
		sweep = rule.Narrowed(k.inforce, want)
	}
	k.sure = false
	start := time.Now()
	err := k.datapath.Sync(ctx, want)
	took := time.Since(start)
	k.metrics.synced(took, err)
	if err != nil && !applied(err) {
		return err
	}
	swept := 0
	if len(sweep) > 0 {
		var sweepErr error
		swept, sweepErr = k.sweeper.Sweep(ctx, sweep, want)
		k.metrics.swept.Add(float64(swept))
		if sweepErr != nil {
			return errors.Join(err, fmt.Errorf("remove connections that lost their source: %w", sweepErr))
		}
	}
	if err != nil {
		k.doubt = k.doubt || errors.Is(err, datapath.ErrPreempted)
		return err
	}
	k.inforce, k.sure, k.doubt = want, true, false
	k.log.Info("rules in force", "judged", want.Judged.Len(), "ports", len(want.Ports), "classes", len(want.Classes), "took", took, "swept", swept)
	return nil
}

// applied says whether Sync took away all that want takes away, although it
// failed to do, or to promise, the rest.
func applied(err error) bool {
	return errors.Is(err, datapath.ErrPreempted) || errors.Is(err, datapath.ErrFull)
}

// verify reads the kernel and notes whether it still enforces what it was seen
// to enforce. Only to be called when sure.
func (k *kernel) verify(ctx context.Context) error {
	have, err := k.datapath.Have(ctx)
	switch {
	case err == nil && enforceSame(have, k.inforce):
		return nil
	case err == nil || errors.Is(err, datapath.ErrDamaged):
		k.sure, k.doubt = false, true
		k.metrics.repairs.Inc()
		k.log.Warn("somebody changed our rules in the kernel; repairing", "damage", err)
		return nil
	}
	k.sure = false
	return fmt.Errorf("read the kernel: %w", err)
}

// leftovers returns what an earlier agent left in the kernel; an absent or
// damaged datapath is nothing that could be kept.
func (k *kernel) leftovers(ctx context.Context) (rule.Set, error) {
	have, err := k.datapath.Have(ctx)
	if errors.Is(err, datapath.ErrDamaged) {
		return rule.Set{}, nil
	}
	return have, err
}

// enforceSame compares what is admitted, not how it is spelled: a port without
// sources and a judged number without a port are both closed.
func enforceSame(a, b rule.Set) bool {
	return slices.Equal(a.Judged, b.Judged) && len(rule.Narrowed(a, b)) == 0 && len(rule.Narrowed(b, a)) == 0
}
