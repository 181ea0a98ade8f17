package olm

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/portreeve/portreeve/lab"
)

const (
	// How long one waits for an answer that is due, and for one that is not. Three lost
	// packets in a row fit into the former, and so does a busy machine.
	patience   = 8 * time.Second
	impatience = 300 * time.Millisecond
	pace       = 50 * time.Millisecond
)

// traffic goes on while something else happens, and keeps what became wrong meanwhile.
type traffic struct {
	held []*lab.Held // a connection to each node, which is in use all the time
	stop context.CancelFunc
	all  sync.WaitGroup

	mu       sync.Mutex
	counts   map[string]int
	slowest  time.Duration // of those who are let in
	failures []string
}

// goes starts the traffic: to every node those who are admitted, over one connection that
// stays and by new ones, one who is not, and one to a number that nobody has.
func (s *scene) goes() *traffic {
	s.Helper()
	ctx, stop := context.WithCancel(s.ctx)
	t := &traffic{stop: stop, counts: map[string]int{}}
	s.Cleanup(func() { t.ends() })
	for _, node := range s.town.Nodes() {
		to := netip.AddrPortFrom(node.Addrs[0], s.port)
		held, err := s.office.Hold(s.ctx, lab.Flow{From: netip.MustParseAddrPort("203.0.113.2:0"), To: to, Timeout: patience})
		if err != nil {
			s.Fatal(err)
		}
		s.Cleanup(held.Close)
		t.held = append(t.held, held)
		t.repeat(ctx, s.office, "admitted", lab.Answered, lab.Flow{From: netip.MustParseAddrPort("203.0.113.1:0"), To: to, Timeout: patience})
		t.repeat(ctx, s.office, "denied", lab.TimedOut, lab.Flow{From: netip.MustParseAddrPort("203.0.113.9:0"), To: to, Timeout: impatience})
		t.repeat(ctx, s.office, "unclaimed", lab.TimedOut, lab.Flow{
			From: netip.MustParseAddrPort("203.0.113.1:0"), To: netip.AddrPortFrom(to.Addr(), s.unclaimed()), Timeout: impatience,
		})
	}
	return t
}

// unclaimed is a number of the pool that no policy has.
func (s *scene) unclaimed() uint16 {
	if s.port == poolFirst {
		return poolFirst + 1
	}
	return poolFirst
}

// repeat asks by a new connection at every pace, without waiting for the one before.
func (t *traffic) repeat(ctx context.Context, from *lab.Client, who string, want lab.Outcome, flow lab.Flow) {
	t.all.Go(func() {
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				t.all.Go(func() {
					began := time.Now()
					a := from.Ask(ctx, flow)
					if ctx.Err() == nil { // else cut short
						t.judge(began, who, want, flow, a)
					}
				})
			case <-ctx.Done():
				return
			}
		}
	})
}

func (t *traffic) judge(began time.Time, who string, want lab.Outcome, flow lab.Flow, have lab.Answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts[who]++
	if want == lab.Answered {
		t.slowest = max(t.slowest, have.Took)
	}
	if have.Outcome != want {
		t.failures = append(t.failures, fmt.Sprintf("%s: %s asks %s: %s, want %s", began.Format("15:04:05.000"), who, flow.To, have, want))
	}
}

// ends stops what asks anew; the connections stay.
func (t *traffic) ends() {
	t.stop()
	t.all.Wait()
}

// report ends the traffic, and says what became wrong.
func (t *traffic) report(s *scene) {
	s.Helper()
	t.ends()
	for i, held := range t.held {
		select {
		case <-held.Cut():
			s.Errorf("the connection to %s was cut after %s: %s", s.town.Nodes()[i].Name, held.LastAnswer().Format("15:04:05.000"), held.End())
		default:
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, failure := range t.failures {
		s.Error(failure)
	}
	for _, who := range []string{"admitted", "denied", "unclaimed"} {
		if t.counts[who] == 0 {
			s.Errorf("nobody %s has asked", who)
		}
	}
	s.Logf("connections meanwhile: %v; the slowest answer took %s", t.counts, t.slowest.Round(time.Millisecond))
}
