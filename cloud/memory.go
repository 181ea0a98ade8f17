package cloud

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/portreeve/portreeve/internal/rule"
)

const (
	// settling is how long a listing may be older than a write. Clouds say seconds at
	// most; a rule that somebody removes meanwhile is missed for no longer.
	settling = time.Minute
	// contended is how often running others may remove a rule before it is left to
	// them, and respite for how long.
	contended = 3
	respite   = time.Hour
	// relearn is when the limit of a group is found out anew: it may have been raised.
	relearn = time.Hour
)

// memory is what one listing does not tell.
type memory struct {
	limits  map[string]learnt
	added   map[spot]time.Time   // what was authorized, and when
	removed map[string]time.Time // ids of what was revoked
	had     map[match]bool       // what of ours was listed last; nil: not known
	losses  map[match]loss
}

// match is what a rule admits, wherever it stands.
type match struct {
	rule.Rule
	peer string
}

type spot struct {
	group string
	match
}

// learnt is how many rules a group was found to hold.
type learnt struct {
	limit Count
	at    time.Time
}

// loss is how often others removed a rule, and when it was last put back.
type loss struct {
	times int
	last  time.Time
}

func matchOf(r rule.Rule, peer string) match { return match{masked(r), peer} }

// begin forgets what is too long ago.
func (m *memory) begin(now time.Time) {
	if m.limits == nil {
		m.limits, m.added, m.removed, m.losses = map[string]learnt{}, map[spot]time.Time{}, map[string]time.Time{}, map[match]loss{}
	}
	old := func(at time.Time, after time.Duration) bool { return now.Sub(at) >= after || at.After(now) }
	maps.DeleteFunc(m.limits, func(_ string, l learnt) bool { return old(l.at, relearn) })
	maps.DeleteFunc(m.added, func(_ spot, at time.Time) bool { return old(at, settling) })
	maps.DeleteFunc(m.removed, func(_ string, at time.Time) bool { return old(at, settling) })
	maps.DeleteFunc(m.losses, func(_ match, l loss) bool { return old(l.last, respite) })
}

// known are the limits that groups were found to have.
func (m *memory) known() map[string]Count {
	out := map[string]Count{}
	for group, l := range m.limits {
		out[group] = l.limit
	}
	return out
}

// learn notes that a group that holds so many rules has no room for one of that cost.
// It says whether that is news.
func (m *memory) learn(group string, used, cost Count, now time.Time) bool {
	l, known := m.limits[group]
	if !known {
		l.limit = Count{math.MaxInt, math.MaxInt, math.MaxInt}
	}
	before := l.limit
	for _, f := range []struct {
		limit      *int
		cost, used int
	}{{&l.limit.IPv4, cost.IPv4, used.IPv4}, {&l.limit.IPv6, cost.IPv6, used.IPv6}, {&l.limit.All, cost.All, used.All}} {
		if f.cost > 0 {
			*f.limit = min(*f.limit, f.used)
		}
	}
	l.at = now
	m.limits[group] = l
	return l.limit != before
}

// authorized notes what was added. What others had removed is a loss.
func (m *memory) authorized(group string, grants []Grant, now time.Time) {
	for _, g := range grants {
		k := matchOf(g.Rule, g.Peer)
		m.added[spot{group, k}] = now
		if m.had[k] {
			m.losses[k] = loss{m.losses[k].times + 1, now}
			delete(m.had, k)
		}
	}
}

// revoked notes what was removed.
func (m *memory) revoked(group string, rules []Rule, now time.Time) {
	for _, r := range rules {
		k := matchOf(r.Rule, r.Peer)
		delete(m.added, spot{group, k})
		delete(m.had, k)
		m.removed[r.ID] = now
	}
}

// believe returns the listings as they will be when the cloud shows what was written:
// what does not show yet is there, without an id, and what was removed is not. The
// latter is returned by itself.
func (m *memory) believe(have map[string][]Rule, owner string, priority int) (believed, fading map[string][]Rule) {
	believed, fading = map[string][]Rule{}, map[string][]Rule{}
	for group, listed := range have {
		there := map[match]bool{}
		believed[group] = []Rule{} // nothing in it is not the same as not read
		for _, r := range listed {
			if _, gone := m.removed[r.ID]; gone && r.Owner == owner {
				fading[group] = append(fading[group], r)
				continue
			}
			there[matchOf(r.Rule, r.Peer)] = true
			believed[group] = append(believed[group], r)
		}
		for p := range m.added {
			if p.group == group && !there[p.match] {
				believed[group] = append(believed[group], Rule{Rule: p.Rule, Peer: p.peer, Owner: owner, Priority: priority})
			}
		}
	}
	return believed, fading
}

// unseen says whether the rule was written and is not listed yet.
func (r Rule) unseen() bool { return r.ID == "" }

// hold takes out of the changes what is left to others: rules that they remove again
// and again, and with report all that they did.
func (m *memory) hold(c *Changes, report bool) (left []Grant, drifted []string) {
	for i := range c.Groups {
		g := &c.Groups[i]
		g.Add = slices.DeleteFunc(g.Add, func(a Grant) bool {
			k := matchOf(a.Rule, a.Peer)
			switch {
			case report && m.had[k]:
				drifted = append(drifted, spell(a)+" was removed from "+g.ID)
				return true
			case m.losses[k].times >= contended:
				left = append(left, a)
				return true
			}
			return false
		})
		if !report || m.had == nil {
			continue
		}
		g.Remove = slices.DeleteFunc(g.Remove, func(r Rule) bool {
			strange := !m.had[matchOf(r.Rule, r.Peer)]
			if strange {
				drifted = append(drifted, spell(Grant{Rule: r.Rule, Peer: r.Peer})+" was added to "+g.ID+" under our name")
				g.Keep = append(g.Keep, r)
			}
			return strange
		})
	}
	return left, drifted
}

// listed notes what of ours the last listing has shown.
func (m *memory) listed(c Changes, report bool) {
	before := m.had
	m.had = map[match]bool{}
	for _, g := range c.Groups {
		for _, r := range slices.Concat(g.Keep, g.Remove) {
			if k := matchOf(r.Rule, r.Peer); !r.unseen() && (!report || before == nil || before[k] || m.added[spot{g.ID, k}] != (time.Time{})) {
				m.had[k] = true
			}
		}
	}
	if report { // what was removed is still missed
		maps.Copy(m.had, before)
	}
}
