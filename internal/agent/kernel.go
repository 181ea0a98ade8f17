package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// Sweep removes the tracked connections to the ports, on the node's own
// addresses, that want does not admit, and counts them.
type Sweep func(ctx context.Context, ports rule.ProtocolPorts, want rule.Set) (int, error)

// kernel is what one goroutine knows of the node's kernel.
type kernel struct {
	backends []Backend // the preferred first
	sweep    Sweep
	log      *slog.Logger
	metrics  *metrics

	// wish is what the installation asks for.
	wish v1alpha1.Firewall

	datapath  datapath.Datapath // nil until it could be opened
	name      string
	inUse     v1alpha1.Firewall
	chosenFor v1alpha1.Firewall // the wish that was met, as far as it could be
	why       string
	former    []datapath.Datapath
	settled   bool  // nothing is left of other datapaths
	remains   error // why something is

	// sure: the kernel was read back and enforces inforce, and no connection is
	// left that inforce does not admit.
	sure    bool
	inforce rule.Set
	// due: the next round runs Sync although nothing changed.
	due bool
	// print is the fingerprint of the kernel when it was last seen to be right.
	print    uint64
	printErr error
	// reading is how long it took to read the kernel, and read when that was.
	reading time.Duration
	read    time.Time
	// repairs tells of what somebody changed; nil: nothing yet.
	repairs *v1alpha1.Repairs
	// doubt: the kernel was seen not to enforce what it was believed to. It stays
	// until the kernel is sure again.
	doubt bool
	// unlogged: the rules are in force, but the kernel can't log what it audits.
	unlogged error
}

// enforce makes the kernel enforce want, then removes connections that lost
// their source: of the ports that narrowed, or of all judged ones if it is not
// known what the kernel enforced before (after a start, an error, a repair).
func (k *kernel) enforce(ctx context.Context, want rule.Set) error {
	if err := k.opened(); err != nil {
		return err
	}
	if _, silent := k.datapath.(datapath.Silent); silent {
		want = want.Silenced()
	}
	same := k.sure && want.Equal(k.inforce)
	if same && !k.due {
		return nil
	}
	narrowed := rule.EveryProtocol(want.Judged)
	if k.sure {
		narrowed = rule.Narrowed(k.inforce, want)
	}
	k.sure = false
	start := time.Now()
	err := k.datapath.Sync(ctx, want)
	took := time.Since(start)
	k.metrics.synced(took, err)
	k.unlogged = nil
	if onlyUnlogged(err) && k.holds(ctx, want) {
		k.unlogged, err = err, nil
	}
	if err != nil && !tookAway(err) {
		return err
	}
	k.fingerprint() // before anything else: what changes from here on is somebody's
	swept := 0
	if len(narrowed) > 0 {
		var sweepErr error
		swept, sweepErr = k.sweep(ctx, narrowed, want)
		k.metrics.swept.Add(float64(swept))
		if sweepErr != nil {
			return errors.Join(err, fmt.Errorf("remove connections that lost their source: %w", sweepErr))
		}
	}
	if err != nil {
		k.doubt = k.doubt || errors.Is(err, datapath.ErrPreempted)
		return err
	}
	k.inforce, k.sure, k.due, k.doubt = want, true, false, false
	k.settle(ctx)
	if !same {
		k.log.Info("rules in force", "judged", want.Judged.Len(), "ports", want.Ports.Len(), "classes", len(want.Classes), "took", took, "swept", swept)
	}
	return nil
}

// holds says whether the kernel enforces want, whatever else Sync complained of.
func (k *kernel) holds(ctx context.Context, want rule.Set) bool {
	have, err := k.datapath.Have(ctx)
	return err == nil && have.Equal(want)
}

// onlyUnlogged says whether Sync complained of nothing but lines that the kernel can't
// write.
func onlyUnlogged(err error) bool {
	return errors.Is(err, datapath.ErrUnlogged) && !errors.Is(err, datapath.ErrPreempted) && !errors.Is(err, datapath.ErrFull)
}

// tookAway says whether Sync took away all that want takes away, although it
// failed to do, or to promise, the rest.
func tookAway(err error) bool {
	return errors.Is(err, datapath.ErrPreempted) || errors.Is(err, datapath.ErrFull)
}

// verify reads the kernel and notes whether it still enforces what it was seen
// to enforce. Only to be called when sure. A Sync is due in any case: it repairs,
// and it looks for what Have does not show, such as others' rules ahead of ours.
func (k *kernel) verify(ctx context.Context) {
	k.due = true
	start := time.Now()
	have, err := k.datapath.Have(ctx)
	k.reading, k.read = time.Since(start), time.Now()
	if err == nil && have.Equal(k.inforce) {
		return
	}
	k.sure, k.doubt = false, true
	if err != nil && !errors.Is(err, datapath.ErrDamaged) {
		k.log.Warn("the kernel can't be read", "error", err)
		return
	}
	k.metrics.repairs.Inc()
	k.repaired(err)
	k.log.Warn("somebody changed our rules in the kernel; repairing", "damage", err)
}
