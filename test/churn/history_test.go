package churn

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Clients are of groups, each with one network in each family: policies always name
// the first, sometimes those that follow, and never the last.
const (
	always    = 0
	sometimes = 4 // groups 1 to 4
	never     = sometimes + 1
	groups    = never + 1
)

// What all networks of those that are sometimes named lie in.
const (
	sometimes4 = "198.51.100.0/24"
	sometimes6 = "2001:db8:50::/48"
)

// network is the group's in one family.
func network(group int, six bool) netip.Prefix {
	text := ""
	switch {
	case group == always && six:
		text = "2001:db8:113::/64"
	case group == always:
		text = "203.0.113.0/28"
	case group == never && six:
		text = "2001:db8:bad::/64"
	case group == never:
		text = "192.0.2.0/28"
	case six:
		text = fmt.Sprintf("2001:db8:50:%d::/64", group)
	default:
		text = fmt.Sprintf("198.51.100.%d/28", 16*group)
	}
	return netip.MustParsePrefix(text)
}

func networks() (all []netip.Prefix) {
	for group := range groups {
		all = append(all, network(group, false), network(group, true))
	}
	return all
}

// state is one wish for a policy: what of it says who passes.
type state struct {
	tcp, udp uint16 // their node ports; 0: none
	named    [never]bool
	ends     time.Time // zero: never
}

var closed = state{}

func (s state) admits(group int, number uint16) bool {
	return group != never && s.named[group] && number != 0 && (number == s.tcp || number == s.udp)
}

// phase is a time in which each of some states may be in force.
type phase struct {
	from time.Time
	// may are those that may let somebody in, must those that keep nobody out: of a
	// number that is new kube-proxy may have to hear first.
	may, must []state
}

// forgetting is for how long a number that was given up may be carried still, and then be
// carried no more although it was asked for again meanwhile: EndpointSlices follow a Service
// in batches and, where they lost a race, a second later; kube-proxy follows both by another
// second. Only who is let in is promised then.
const forgetting = 5 * time.Second

// history is what may be in force of one policy. A phase begins before its cause.
type history struct {
	mu     sync.Mutex
	phases []phase
	gaveUp map[uint16]time.Time // when a number last was
}

// giveUp is to be called before a number is given up.
func (h *history) giveUp(number uint16, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.gaveUp == nil {
		h.gaveUp = map[uint16]time.Time{}
	}
	h.gaveUp[number] = at
}

func (h *history) enter(may, must []state) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.phases = append(h.phases, phase{time.Now(), slices.Clone(may), slices.Clone(must)})
}

// allowed says whether the group may come to the number at some time of those, and
// whether it must at each.
func (h *history) allowed(group int, number uint16, from, to time.Time) (may, must bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, given := h.gaveUp[number]
	must = !given || to.Before(at) || from.After(at.Add(forgetting))
	for _, p := range slices.Backward(h.phases) {
		if p.from.After(to) {
			continue
		}
		may = may || slices.ContainsFunc(p.may, func(s state) bool { return s.admits(group, number) })
		must = must && !slices.ContainsFunc(p.must, func(s state) bool { return !s.admits(group, number) })
		if !p.from.After(from) {
			return may, must
		}
	}
	return may, false // it was not there yet
}

// newest is a state that may be in force.
func (h *history) newest() state {
	h.mu.Lock()
	defer h.mu.Unlock()
	may := h.phases[len(h.phases)-1].may
	return may[len(may)-1]
}
