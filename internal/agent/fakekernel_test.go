package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/rule"
)

// fakeKernel is a datapath and a sweeper over memory. Like the real ones it
// outlives agents, and it notes each call in order.
type fakeKernel struct {
	mu      sync.Mutex
	loaded  *rule.Set // nil: absent
	calls   []string
	swept   []rule.PortRanges
	openErr error // of the next calls
	syncErr error
	haveErr error
	sweeps  error
	print   uint64
	slow    time.Duration // how long it takes to read
	silent  bool          // it can't refuse
}

// silentKernel is one that drops whom it should refuse.
type silentKernel struct{ *fakeKernel }

// Silent implements datapath.Silent.
func (silentKernel) Silent() {}

func (k silentKernel) Sync(ctx context.Context, want rule.Set) error {
	return k.fakeKernel.Sync(ctx, want.Silenced())
}

// Fingerprint implements datapath.Fingerprinter.
func (k *fakeKernel) Fingerprint() (uint64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.print, nil
}

func (k *fakeKernel) note(call string) func() {
	k.mu.Lock()
	k.calls = append(k.calls, call)
	return k.mu.Unlock
}

func (k *fakeKernel) open() (datapath.Datapath, string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.silent {
		return silentKernel{k}, "fake", k.openErr
	}
	return k, "fake", k.openErr
}

func (k *fakeKernel) Sync(_ context.Context, want rule.Set) error {
	defer k.note("sync")()
	same := k.loaded != nil && k.loaded.Equal(want)
	if same {
		k.calls[len(k.calls)-1] = "confirm" // nothing is written
	}
	if k.syncErr != nil && !tookAway(k.syncErr) {
		return k.syncErr
	}
	if len(want.Judged.Intersect(rule.FailSafe)) > 0 {
		return errors.New("fake kernel: a fail-safe port is judged")
	}
	for port := range want.Ports.All {
		if !want.Judged.Contains(port.Number) {
			return fmt.Errorf("fake kernel: %s has a class but is not judged", port)
		}
	}
	if !same {
		k.loaded = &want
	}
	return k.syncErr
}

func (k *fakeKernel) Have(context.Context) (rule.Set, error) {
	time.Sleep(k.slow) // of the bubble's clock
	defer k.note("have")()
	switch {
	case k.haveErr != nil:
		return rule.Set{}, k.haveErr
	case k.loaded == nil:
		return rule.Set{}, fmt.Errorf("fake kernel: no chain: %w", datapath.ErrDamaged)
	}
	return *k.loaded, nil
}

func (k *fakeKernel) Cleanup(context.Context) error {
	defer k.note("cleanup")()
	k.loaded = nil
	return nil
}

func (k *fakeKernel) Sweep(_ context.Context, ports rule.ProtocolPorts, _ rule.Set) (int, error) {
	defer k.note("sweep")()
	if k.sweeps != nil {
		return 0, k.sweeps
	}
	k.swept = append(k.swept, ports.Numbers())
	return ports.Numbers().Len(), nil
}

// set changes the fake from outside.
func (k *fakeKernel) set(change func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change()
}

// now returns what is loaded, nil for nothing.
func (k *fakeKernel) now() *rule.Set {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.loaded
}

// take returns the calls since the last take.
func (k *fakeKernel) take() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	calls := k.calls
	k.calls = nil
	return calls
}

func (k *fakeKernel) lastSweep() rule.PortRanges {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.swept) == 0 {
		return nil
	}
	return k.swept[len(k.swept)-1]
}
