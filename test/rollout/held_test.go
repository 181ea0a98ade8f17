package rollout

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/portreeve/portreeve/lab"
)

// patience is how long an answer that is due may take: a machine that has no time must not
// look like a node that drops. What is dropped for good fails all the same.
const patience = 5 * time.Second

// holds opens a connection that is used all the time.
func (s *scene) holds(from string) *lab.Held {
	s.Helper()
	held, err := s.client.Hold(s.ctx, lab.Flow{
		From: netip.MustParseAddrPort(from), To: netip.AddrPortFrom(s.town.Nodes()[1].Addrs[0], s.port), Timeout: patience,
	})
	if err != nil {
		s.Fatal(err)
	}
	return held
}

// lives sees that a connection was not cut, by an answer that comes from now on.
func (s *scene) lives(held *lab.Held) {
	s.Helper()
	now := time.Now()
	s.eventually("an open connection goes on", func() error {
		select {
		case <-held.Cut():
			s.Fatalf("an open connection was cut: %s", held.End())
		default:
		}
		if last := held.LastAnswer(); !last.After(now) {
			return fmt.Errorf("the last answer came at %s", last.Format("15:04:05.000"))
		}
		return nil
	})
}
