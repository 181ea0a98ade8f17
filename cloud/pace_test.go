package cloud

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// hands is a clock that stands still until somebody sleeps or moves it.
type hands struct {
	mu  sync.Mutex
	now time.Time
}

func newHands() *hands { return &hands{now: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)} }

func (h *hands) Now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

func (h *hands) Sleep(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	h.move(d)
	return nil
}

func (h *hands) move(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

var authorizeRate = Rate{Burst: 50, PerSecond: 5}

func TestAPaceLetsABurstThroughAndThenKeepsTheRate(t *testing.T) {
	clock := newHands()
	pace, start := NewPace(authorizeRate, clock), clock.Now()
	for i := range 60 {
		if err := pace.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := max(0, i-49) * 200
		if took := clock.Now().Sub(start); took != time.Duration(want)*time.Millisecond {
			t.Fatalf("call %d after %s, want %d ms", i+1, took, want)
		}
	}
}

// However calls, refusals and pauses fall, a vendor who keeps the documented bucket
// for us alone never finds it empty.
func TestAPaceNeverExceedsTheDocumentedRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		clock := newHands()
		documented := Rate{Burst: rapid.IntRange(1, 100).Draw(t, "burst"), PerSecond: float64(rapid.IntRange(1, 20).Draw(t, "per second"))}
		pace, tokens, last := NewPace(documented, clock), float64(documented.Burst), clock.Now()
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				pace.Throttled()
			case 1:
				clock.move(time.Duration(rapid.IntRange(0, 20_000).Draw(t, "pause")) * time.Millisecond)
			default:
				if err := pace.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				now := clock.Now()
				tokens = min(float64(documented.Burst), tokens+now.Sub(last).Seconds()*documented.PerSecond)
				last = now
				if tokens--; tokens < -1e-6 {
					t.Fatalf("the vendor's bucket is overdrawn by %g", -tokens)
				}
			}
			if r := pace.PerSecond(); r > documented.PerSecond || r < documented.PerSecond*slowest {
				t.Fatalf("rate %g of %g", r, documented.PerSecond)
			}
		}
	})
}

func TestThrottlingHalvesTheRateAndTimeBringsItBack(t *testing.T) {
	clock := newHands()
	pace := NewPace(authorizeRate, clock)
	for _, step := range []struct {
		after time.Duration
		act   func()
		want  float64
	}{
		{0, func() {}, 5},
		{0, pace.Throttled, 2.5},
		{time.Second / 2, pace.Throttled, 2.5 + 5.0/120}, // the same burst
		{time.Second / 2, pace.Throttled, (2.5 + 5.0/60) / 2},
		{12 * time.Second, func() {}, (2.5+5.0/60)/2 + 1},
		{time.Minute, func() {}, 5},
		{time.Hour, func() {}, 5},
	} {
		clock.move(step.after)
		step.act()
		if got := pace.PerSecond(); math.Abs(got-step.want) > 1e-9 {
			t.Errorf("%s later: %g calls a second, want %g", step.after, got, step.want)
		}
	}
}

func TestThrottlingEmptiesTheBucket(t *testing.T) {
	clock := newHands()
	pace, start := NewPace(authorizeRate, clock), clock.Now()
	pace.Throttled()
	if err := pace.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took := clock.Now().Sub(start); took != 400*time.Millisecond {
		t.Errorf("the next call after %s, want 400ms: one at half the rate", took)
	}
}

func TestWhoeverCannotWaitLongEnoughIsThrottledAndGivesTheTurnBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pace := NewPace(Rate{Burst: 1, PerSecond: 0.1}, SystemClock{})
		if err := pace.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		if err := pace.Wait(short); !errors.Is(err, ErrThrottled) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("waited %s in vain", took)
		}
		if err := pace.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("the next turn came after %s, want 10s", took)
		}
	})
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pace := NewPace(Rate{Burst: 1, PerSecond: 0.1}, SystemClock{})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		start := time.Now()
		if err := errors.Join(pace.Wait(ctx), pace.Wait(ctx)); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("waited %s", took)
		}
		if err := NewPace(authorizeRate, SystemClock{}).Wait(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("a context that has ended: error %v", err)
		}
	})
}

func TestOneAPIOfAnAccountAndRegionHasOnePace(t *testing.T) {
	paces := NewPaces(newHands())
	api := API{"111122223333", "eu-central-1", "AuthorizeSecurityGroupIngress"}
	first := paces.Of(api, authorizeRate)
	if paces.Of(api, authorizeRate) != first {
		t.Error("two paces for one API")
	}
	for _, other := range []API{
		{"444455556666", api.Region, api.Name}, {api.Account, "eu-west-1", api.Name}, {api.Account, api.Region, "RevokeSecurityGroupIngress"},
	} {
		if paces.Of(other, authorizeRate) == first {
			t.Errorf("%v shares the pace of %v", other, api)
		}
	}
}
