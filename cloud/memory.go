package cloud

import (
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/portreeve/portreeve/internal/rule"
)

const (
	// settling is how long a listing may be older than a write. Clouds say seconds at
	// most; a rule that somebody removes before it was ever listed is missed for no
	// longer.
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
	added   map[spot]time.Time        // what was authorized, and when
	tried   map[spot]time.Time        // what may have been authorized: the answer was lost
	sent    map[spot]time.Time        // both, and what was listed, until it is listed again
	removed map[string]time.Time      // ids of what was revoked
	had     map[match]map[string]bool // what of ours was listed last, and in which groups; nil: not known
	losses  map[match]loss
	taken   []Taken // by others, and left so
	// gone is what others took and that is to be put back.
	gone []Taken
	// restored counts what this run has put back.
	restored int
}

// match is what a rule admits, wherever it stands.
type match struct {
	rule.Rule
	peer     string
	priority int
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

// whatever the priority: to the cloud that has them, two rules that differ in nothing
// else are one.
func (m match) whatever() match {
	m.priority = 0
	return m
}

func matchOf(r Rule) match { return match{masked(r.Rule), r.Peer, r.Priority} }

// written is the rule that a grant becomes.
func written(g Grant, owner string, priority int) Rule {
	return Rule{Rule: masked(g.Rule), Peer: g.Peer, Owner: owner, Priority: priority}
}

func (m match) grant() Grant { return Grant{Rule: m.Rule, Peer: m.peer} }

// begin forgets what is too long ago, and groups that are no longer meant.
func (m *memory) begin(now time.Time, groups []string) {
	m.restored = 0
	if m.limits == nil {
		m.limits, m.removed, m.losses = map[string]learnt{}, map[string]time.Time{}, map[match]loss{}
		m.added, m.tried, m.sent = map[spot]time.Time{}, map[spot]time.Time{}, map[spot]time.Time{}
	}
	old := func(at time.Time, after time.Duration) bool { return now.Sub(at) >= after || at.After(now) }
	maps.DeleteFunc(m.limits, func(_ string, l learnt) bool { return old(l.at, relearn) })
	maps.DeleteFunc(m.added, func(_ spot, at time.Time) bool { return old(at, settling) })
	maps.DeleteFunc(m.tried, func(_ spot, at time.Time) bool { return old(at, settling) })
	maps.DeleteFunc(m.sent, func(_ spot, at time.Time) bool { return now.Sub(at) >= respite })
	maps.DeleteFunc(m.removed, func(_ string, at time.Time) bool { return old(at, settling) })
	maps.DeleteFunc(m.losses, func(_ match, l loss) bool { return old(l.last, respite) })
	for _, stood := range m.had {
		maps.DeleteFunc(stood, func(group string, _ bool) bool { return !slices.Contains(groups, group) })
	}
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

// unlearn corrects a limit by a listing that shows more: others filled the group
// between our reading and our writing.
func (m *memory) unlearn(group string, used Count) {
	if l, known := m.limits[group]; known {
		l.limit = Count{max(l.limit.IPv4, used.IPv4), max(l.limit.IPv6, used.IPv6), max(l.limit.All, used.All)}
		m.limits[group] = l
	}
}

// authorized notes what was added. What others had removed is a loss.
func (m *memory) authorized(group string, rules []Rule, now time.Time) {
	for _, r := range rules {
		k := matchOf(r)
		m.added[spot{group, k}], m.sent[spot{group, k}] = now, now
		delete(m.tried, spot{group, k})
		if len(m.had[k]) > 0 {
			m.losses[k] = loss{m.losses[k].times + 1, now}
			delete(m.had, k)
		}
		before := len(m.gone)
		m.gone = slices.DeleteFunc(m.gone, func(t Taken) bool {
			return t.Protocol == r.Protocol && t.Peer == r.Peer && (block{t.Ports, t.Source}).meets(block{r.Ports, r.Source})
		})
		m.restored += before - len(m.gone)
	}
}

// attempted notes what was sent without hearing what became of it.
func (m *memory) attempted(group string, rules []Rule, now time.Time) {
	for _, r := range rules {
		m.tried[spot{group, matchOf(r)}], m.sent[spot{group, matchOf(r)}] = now, now
	}
}

// revoking forgets what is being removed without hearing what becomes of it: if it is
// gone, nobody else has taken it.
func (m *memory) revoking(group string, rules []Rule) {
	for _, r := range rules {
		delete(m.had[matchOf(r)], group)
	}
}

// revoked notes what was removed.
func (m *memory) revoked(group string, rules []Rule, now time.Time) {
	for _, r := range rules {
		k := matchOf(r)
		maps.DeleteFunc(m.added, func(p spot, _ time.Time) bool { return p.group == group && p.whatever() == k.whatever() })
		delete(m.had[k], group)
		m.removed[r.ID] = now
	}
}

// believe returns the listings as they will be when the cloud shows what was written:
// what does not show yet is there, without an id, and what was removed is not. The
// latter is returned by itself.
func (m *memory) believe(have map[string][]Rule, owner string) (believed, fading map[string][]Rule) {
	believed, fading = map[string][]Rule{}, map[string][]Rule{}
	for group, listed := range have {
		there := map[match]bool{}
		believed[group] = []Rule{} // nothing in it is not the same as not read
		for _, r := range listed {
			if _, gone := m.removed[r.ID]; gone && r.Owner == owner {
				fading[group] = append(fading[group], r)
				continue
			}
			there[matchOf(r).whatever()] = true
			believed[group] = append(believed[group], r)
		}
		// What has shown once needs no belief any more: if it is gone then, somebody took it.
		maps.DeleteFunc(m.added, func(p spot, _ time.Time) bool { return p.group == group && there[p.whatever()] })
		for p := range m.added {
			if p.group == group {
				believed[group] = append(believed[group], Rule{Rule: p.Rule, Peer: p.peer, Owner: owner, Priority: p.priority})
			}
		}
	}
	return believed, fading
}

// lost returns what may have been added, and shows in none of the listings.
func (m *memory) lost(have map[string][]Rule) []Grant {
	there := map[spot]bool{}
	for group, listed := range have {
		for _, r := range listed {
			there[spot{group, matchOf(r)}] = true
		}
	}
	var out []Grant
	for p := range m.tried {
		if _, read := have[p.group]; there[p] {
			delete(m.tried, p)
		} else if read {
			out = append(out, p.grant())
		}
	}
	return out
}

// missed returns what was there, and is in none of the listings: others have taken it,
// now or earlier. What stood in a group that was not read may stand there still.
func (m *memory) missed(have map[string][]Rule) []Taken {
	there := map[match]bool{}
	for _, listed := range have {
		for _, r := range listed {
			there[matchOf(r)] = true
		}
	}
	out := slices.Clone(m.taken)
	for k, groups := range m.had {
		from := slices.Sorted(maps.Keys(groups))
		unread := slices.ContainsFunc(from, func(group string) bool { _, read := have[group]; return !read })
		if len(from) > 0 && !unread && !there[k] {
			out = append(out, Taken{k.grant(), from})
		}
	}
	slices.SortFunc(out, func(a, b Taken) int { return compareGrants(a.Grant, b.Grant) })
	return slices.CompactFunc(out, func(a, b Taken) bool { return a.Grant == b.Grant })
}

// unseen says whether the rule was written and is not listed yet.
func (r Rule) unseen() bool { return r.ID == "" }

// held is what of the changes is left to others.
type held struct {
	contended []Grant         // rules that they remove again and again
	drifted   []string        // all that they did, where that is only to be reported
	strange   map[string]bool // ids of what they added
}

func (h held) empty() bool { return len(h.contended)+len(h.drifted) == 0 }

// hold takes out of the changes what is left to others.
func (m *memory) hold(c *Changes, report bool, priority int) held {
	out := held{strange: map[string]bool{}}
	for _, t := range c.Taken {
		out.drifted = append(out.drifted, spell(t.Grant)+" was removed from "+strings.Join(t.From, ", "))
	}
	for i := range c.Groups {
		g := &c.Groups[i]
		g.Add = slices.DeleteFunc(g.Add, func(a Grant) bool {
			lost := m.losses[matchOf(written(a, "", priority))].times >= contended
			if lost {
				out.contended = append(out.contended, a)
			}
			return lost
		})
		if !report || m.had == nil {
			continue
		}
		g.Remove = slices.DeleteFunc(g.Remove, func(r Rule) bool {
			k := matchOf(r)
			if _, ours := m.sent[spot{g.ID, k}]; ours || m.had[k][g.ID] {
				return false
			}
			out.drifted, out.strange[r.ID] = append(out.drifted, spell(k.grant())+" was added to "+g.ID+" under our name"), true
			g.Keep = append(g.Keep, r)
			return true
		})
	}
	return out
}

// listed notes what of ours the last listing has shown. What was there before and does
// not show for a moment counts as well.
func (m *memory) listed(c Changes, h held, now time.Time) {
	before := m.had
	m.had = map[match]map[string]bool{}
	note := func(k match, group string) {
		if m.had[k] == nil {
			m.had[k] = map[string]bool{}
		}
		m.had[k][group] = true
	}
	for _, g := range c.Groups {
		for _, r := range slices.Concat(g.Keep, g.Remove) {
			if k := matchOf(r); !h.strange[r.ID] && (!r.unseen() || before[k][g.ID]) {
				note(k, g.ID)
				delete(m.sent, spot{g.ID, k})
			}
		}
	}
	for k, groups := range before {
		for group := range groups {
			if !m.had[k][group] {
				m.sent[spot{group, k}] = now
			}
		}
	}
}
