package cloud

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Rate is a token bucket as a vendor documents it: Burst calls at once, PerSecond
// in the long run.
type Rate struct {
	Burst     int
	PerSecond float64
}

// Clock is what a Pace waits by.
type Clock interface {
	Now() time.Time
	// Sleep returns nil after d, or an error as soon as it is sure that the
	// context ends before that.
	Sleep(ctx context.Context, d time.Duration) error
}

// SystemClock is the computer's clock.
type SystemClock struct{}

// Now implements Clock.
func (SystemClock) Now() time.Time { return time.Now() }

// Sleep implements Clock.
func (SystemClock) Sleep(ctx context.Context, d time.Duration) error {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < d {
		return context.DeadlineExceeded
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// How a pace answers to throttling: it halves, and grows back by as much in each
// moment as in any other. Additive increase and multiplicative decrease let many
// clients of one bucket, ours and those of others, settle on fair shares of it
// (Chiu and Jain, 1989).
const (
	// recovery is how long a rate takes from nothing to the documented one.
	recovery = time.Minute
	// slowest is the share of the documented rate that no throttling takes.
	slowest = 1.0 / 32
	// oneBurst is how long refusals count as one: calls that were under way
	// together were refused by one empty bucket.
	oneBurst = time.Second
)

// Pace keeps the calls of one API at the vendor's documented rate or below it. The
// vendor's bucket is shared with everybody in the account: when it is found empty the
// pace halves, and recovers with time. Its methods may be called concurrently.
type Pace struct {
	documented Rate
	clock      Clock

	mu      sync.Mutex
	limiter *rate.Limiter
	cut     float64   // calls per second right after the last throttling
	cutAt   time.Time // zero: never throttled
	refused int       // calls, for their rate
}

// NewPace returns a pace whose bucket is full.
func NewPace(documented Rate, clock Clock) *Pace {
	return &Pace{
		documented: documented, clock: clock,
		limiter: rate.NewLimiter(rate.Limit(documented.PerSecond), documented.Burst),
	}
}

// Wait returns when the next call may be made. It fails with ErrThrottled, and gives
// its turn back, when the context ends before that.
func (p *Pace) Wait(ctx context.Context) error {
	turn, delay := p.reserve()
	if delay == 0 {
		return ctx.Err()
	}
	if err := p.clock.Sleep(ctx, delay); err != nil {
		turn.CancelAt(p.clock.Now())
		return fmt.Errorf("%w: the next call is due in %s: %w", ErrThrottled, delay.Round(time.Millisecond), err)
	}
	return nil
}

func (p *Pace) reserve() (*rate.Reservation, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	p.limiter.SetLimitAt(now, rate.Limit(p.rate(now)))
	turn := p.limiter.ReserveN(now, 1)
	return turn, turn.DelayFrom(now)
}

// Throttled is told that the vendor has refused a call for its rate.
func (p *Pace) Throttled() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refused++
	now := p.clock.Now()
	if !p.cutAt.IsZero() && now.Sub(p.cutAt) < oneBurst {
		return
	}
	p.cut, p.cutAt = max(p.rate(now)/2, p.documented.PerSecond*slowest), now
	p.limiter.SetLimitAt(now, rate.Limit(p.cut))
	if left := int(p.limiter.TokensAt(now)); left > 0 {
		p.limiter.AllowN(now, left) // the vendor's bucket is empty, so is ours
	}
}

// Refused is how many calls the vendor has refused for their rate.
func (p *Pace) Refused() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

// PerSecond is the rate at which calls are let through now in the long run.
func (p *Pace) PerSecond() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rate(p.clock.Now())
}

func (p *Pace) rate(now time.Time) float64 {
	full := p.documented.PerSecond
	if p.cutAt.IsZero() {
		return full
	}
	return min(full, p.cut+full*now.Sub(p.cutAt).Seconds()/recovery.Seconds())
}

// API is what vendors keep one bucket for.
type API struct{ Account, Region, Name string }

// Paces are the paces of every account that a process speaks to, so that whoever calls
// the same API shares one. Its methods may be called concurrently.
type Paces struct {
	clock Clock

	mu    sync.Mutex
	paces map[API]*Pace
}

// NewPaces returns paces that wait by the clock.
func NewPaces(clock Clock) *Paces {
	return &Paces{clock: clock, paces: map[API]*Pace{}}
}

// Of returns the pace of the API, made with the documented rate the first time.
func (p *Paces) Of(api API, documented Rate) *Pace {
	p.mu.Lock()
	defer p.mu.Unlock()
	pace, ok := p.paces[api]
	if !ok {
		pace = NewPace(documented, p.clock)
		p.paces[api] = pace
	}
	return pace
}

// Refused is how many calls were refused for their rate, by API.
func (p *Paces) Refused() map[API]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[API]int, len(p.paces))
	for api, pace := range p.paces {
		out[api] = pace.Refused()
	}
	return out
}
