package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/portreeve/portreeve/internal/rule"
)

// keepPause is the least time between two writes of the last good rules: at ten
// thousand ports they are a megabyte, and churn must not wear the disk out.
const keepPause = 3 * time.Second

// keeper writes the rules that the kernel was seen to enforce to the disk, in a
// goroutine of its own. What it has not written yet is told by behind, which the
// marks file keeps, so that nothing that was closed opens again with a reboot.
type keeper struct {
	file    sealed
	node    string
	log     *slog.Logger
	metrics *metrics
	dirty   chan struct{} // capacity 1

	mu     sync.Mutex
	known  bool // latest is
	latest rule.Set
	seq    int64 // of latest
	saved  int64 // on disk
	lost   []loss
	found  kept // what was on the disk at first, less the rules
}

// loss are the numbers at which somebody lost access with the rules of a
// sequence number.
type loss struct {
	seq     int64
	numbers rule.PortRanges
}

// behind are the numbers that the rules on disk may open too widely. They are all
// in order again once the disk has the rules of Seq.
type behind struct {
	Seq   int64    `json:"seq"`
	Ports []string `json:"ports"`
}

// load reads what an earlier run has written. An error is fs.ErrNotExist or wraps
// errRefused. later is what the marks file told.
func (k *keeper) load(later *behind) error {
	found, set, err := loadRules(k.file, k.node)
	if err == nil {
		k.found = kept{Seq: found.Seq, Saved: found.Saved}
		k.latest, k.known, k.seq, k.saved = set, true, found.Seq, found.Seq
	}
	if later != nil && later.Seq > k.seq { // a number means one thing only
		k.seq, k.saved = later.Seq, later.Seq
	}
	return err
}

// lastGood is what was on the disk, less what that may have missed.
func (k *keeper) lastGood(later *behind, now time.Time) rule.Set {
	if saved := time.Unix(k.found.Saved, 0); now.Before(saved) {
		now = saved // a clock that is not set yet must not prolong what has ended
	}
	var missed rule.PortRanges
	if later != nil && later.Seq > k.found.Seq {
		missed = ranges(later.Ports)
	}
	return without(k.latest, missed, now)
}

// set hands over what is in force; it never waits for the disk.
func (k *keeper) set(want rule.Set) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known && want.Equal(k.latest) {
		return
	}
	k.seq++
	if k.known {
		if numbers := rule.Narrowed(k.latest, want).Numbers(); len(numbers) > 0 {
			k.lost = append(k.lost, loss{k.seq, numbers})
		}
	}
	k.latest, k.known = want, true
	select {
	case k.dirty <- struct{}{}:
	default:
	}
}

// behind returns what the disk does not know to be closed, nil if nothing.
func (k *keeper) behind() *behind {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all rule.PortRanges
	for _, l := range k.lost {
		all = all.Union(l.numbers)
	}
	if len(all) == 0 {
		return nil
	}
	k.lost = []loss{{k.lost[len(k.lost)-1].seq, all}} // they may be many while the disk can't be written
	return &behind{k.lost[0].seq, all.Strings()}
}

// run writes until the context ends, and then once more if there is need.
func (k *keeper) run(ctx context.Context) {
	said := "" // to say each trouble once
	for {
		select {
		case <-ctx.Done():
		case <-k.dirty:
		}
		err := k.write()
		if err == nil {
			said = ""
		} else {
			k.metrics.keepErrors.Inc()
			if said != err.Error() {
				said = err.Error()
				k.log.Error("the last good rules can't be written; a reboot would find older ones", "error", err)
			}
			select { // try again, also if nothing changes
			case k.dirty <- struct{}{}:
			default:
			}
		}
		if ctx.Err() != nil || !pause(ctx, keepPause) && k.current() {
			return
		}
	}
}

// current says whether the disk has the latest rules.
func (k *keeper) current() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.saved == k.seq
}

func (k *keeper) write() error {
	k.mu.Lock()
	latest, seq, saved := k.latest, k.seq, k.saved
	k.mu.Unlock()
	if seq == saved {
		return nil
	}
	if err := k.file.save(keep(k.node, seq, time.Now(), latest)); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.saved = seq
	for len(k.lost) > 0 && k.lost[0].seq <= seq {
		k.lost = k.lost[1:]
	}
	return nil
}
