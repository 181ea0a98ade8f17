package agent

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/portreeve/portreeve/internal/host"
	"github.com/portreeve/portreeve/internal/rule"
)

// fakeHost is a node in memory. Its uptime runs by the bubble's clock.
type fakeHost struct {
	mu         sync.Mutex
	booted     time.Time
	listeners  []host.Listener
	listErr    error
	reserved   rule.PortRanges
	reserveErr error
	writes     int // of the reserved ports
	asked      int // for the listeners
}

func (h *fakeHost) Listeners() ([]host.Listener, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	return slices.Clone(h.listeners), h.listErr
}

func (h *fakeHost) Reserved() (rule.PortRanges, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.reserved), nil
}

func (h *fakeHost) Reserve(ranges rule.PortRanges) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reserveErr != nil {
		return h.reserveErr
	}
	if !slices.Equal(ranges, rule.NewPortRanges(ranges...)) {
		return fmt.Errorf("fake host: %v is not in order", ranges)
	}
	h.writes++
	h.reserved = slices.Clone(ranges)
	return nil
}

func (h *fakeHost) Uptime() (time.Duration, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Since(h.booted), nil
}

// set changes the fake from outside.
func (h *fakeHost) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// listen lets something of the node listen on "tcp/30050" and so on, and on
// nothing else.
func (h *fakeHost) listen(ports ...string) {
	h.set(func() {
		h.listeners = nil
		for _, p := range ports {
			protocol, number, _ := strings.Cut(p, "/")
			n, _ := strconv.ParseUint(number, 10, 16)
			h.listeners = append(h.listeners, host.Listener{
				Port: rule.Port{Protocol: rule.Protocol(strings.ToUpper(protocol)), Number: uint16(n)}, What: "a listener of the node on 10.0.0.1",
			})
		}
	})
}

// reboot lets the node start anew: the kernel is empty, and this is another boot.
// No agent runs.
func (l *lab) reboot() {
	l.stop()
	l.kernel.set(func() { l.kernel.loaded = nil })
	l.boots++
	l.host.set(func() { l.host.booted, l.host.reserved = time.Now(), nil })
	l.kernel.take()
}

// wantUntouched: the kernel was read, if anything.
func (l *lab) wantUntouched() {
	l.t.Helper()
	if got := slices.DeleteFunc(l.kernel.take(), func(call string) bool { return call == "have" }); len(got) > 0 {
		l.t.Errorf("calls of the kernel: %v, want none that changes it", got)
	}
}

// wantReserved looks at the kernel's list.
func (l *lab) wantReserved(want ...string) {
	l.t.Helper()
	got, _ := l.host.Reserved()
	if !slices.Equal(got.Strings(), want) {
		l.t.Errorf("reserved %v, want %v", got.Strings(), want)
	}
}

func ranged(t testing.TB, list ...string) rule.PortRanges {
	t.Helper()
	out, err := rule.ParsePortRanges(list)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
