package arrival

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/portreeve/portreeve/lab"
)

// attempt is something that a client tried, and what became of it.
type attempt struct {
	policy  string
	network string
	to      netip.AddrPort
	node    string
	// since is when it began or, in a connection that was there before, when an answer
	// last came; until is when it was answered or given up. begun is when the connection
	// was.
	begun, since, until time.Time
	old                 bool // in a connection that was there before
	outcome             lab.Outcome
	err                 error
}

func (a attempt) String() string {
	what := "a new connection"
	if a.old {
		what = fmt.Sprintf("a connection of %s", clock(a.begun))
	}
	return fmt.Sprintf("%s to %s (%s on %s, %s): %s, from %s to %s (%v)", what, a.policy, a.network, a.node, a.to, a.outcome, clock(a.since), clock(a.until), a.err)
}

func clock(t time.Time) string { return t.Format("04:05.000") }

// window is what was really taken away, of whom, and from when until it was seen to be
// given back.
type window struct {
	what        string
	policies    []string // none: all
	nodes       []string // by which clients came; none: all
	from, until time.Time
	// late: until then, connections that began before until may still be cut, where they
	// go on in a way that is no longer right.
	late      time.Time
	explained int
}

func (w *window) explains(a attempt) bool {
	if len(w.policies) > 0 && !slices.Contains(w.policies, a.policy) || len(w.nodes) > 0 && !slices.Contains(w.nodes, a.node) {
		return false
	}
	met := !a.until.Before(w.from) && (w.until.IsZero() || !a.since.After(w.until))
	cut := a.old && !w.late.IsZero() && !a.begun.After(w.until) && !a.until.Before(w.from) && !a.until.After(w.late)
	return met || cut
}

// judge holds each failure to what was taken away. It is asked when all is over, and all
// windows are known.
type judge struct {
	mu       sync.Mutex
	windows  []*window
	failures []attempt
	events   []event
	counts   map[string]int
	breaches []string // of those who are never admitted
}

type event struct {
	at   time.Time
	what string
}

func newJudge() *judge { return &judge{counts: map[string]int{}} }

// take opens a window, before anything is taken away.
func (j *judge) take(w window) *window {
	j.mu.Lock()
	defer j.mu.Unlock()
	w.from = time.Now()
	j.windows = append(j.windows, &w)
	j.events = append(j.events, event{w.from, fmt.Sprintf("taken away: %s, of policies %v, nodes %v", w.what, w.policies, w.nodes)})
	return &w
}

// give closes a window, when all that it took away has been seen to be back.
func (j *judge) give(w *window) {
	j.mu.Lock()
	defer j.mu.Unlock()
	w.until = time.Now()
	j.events = append(j.events, event{w.until, fmt.Sprintf("given back after %s: %s, of policies %v, nodes %v", w.until.Sub(w.from).Round(time.Millisecond), w.what, w.policies, w.nodes)})
}

// note keeps what happened, to be told beside a failure.
func (j *judge) note(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, event{time.Now(), fmt.Sprintf(format, args...)})
}

func (j *judge) count(what string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.counts[what]++
}

// tried takes in an attempt of somebody who is admitted.
func (j *judge) tried(a attempt) {
	j.mu.Lock()
	defer j.mu.Unlock()
	kind := "new " + a.network
	if a.old {
		kind = "old " + a.network
	}
	j.counts[kind]++
	if a.outcome != lab.Answered {
		j.counts["failed"]++
		j.failures = append(j.failures, a)
	}
}

// unexplained are the failures that nothing accounts for.
func (j *judge) unexplained() (out []attempt) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, f := range j.failures {
		found := false
		for _, w := range j.windows {
			if w.explains(f) {
				w.explained++
				found = true
			}
		}
		if !found {
			out = append(out, f)
		}
	}
	return out
}

// story is what happened around a moment.
func (j *judge) story(at time.Time) (text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.events {
		if d := e.at.Sub(at); -8*time.Second < d && d < 8*time.Second {
			text += fmt.Sprintf("\n    %s %s", clock(e.at), e.what)
		}
	}
	return text
}

// Who judges must be able to find fault.
func TestTheJudgeFindsFault(t *testing.T) {
	start := time.Now()
	at := func(second int) time.Time { return start.Add(time.Duration(second) * time.Second) }
	windows := []*window{
		{what: "a node", nodes: []string{"n1"}, from: at(10), until: at(20)},
		{what: "a switch", policies: []string{"turn"}, from: at(30), until: at(32), late: at(65)},
		{what: "what is never given back", policies: []string{"gone"}, nodes: []string{"n2"}, from: at(40)},
	}
	for _, c := range []struct {
		policy, node        string
		begun, since, until int
		old                 bool
		fault               bool
	}{
		{"all", "n1", 11, 11, 12, false, false}, {"all", "n2", 11, 11, 12, false, true}, // there and elsewhere
		{"all", "n1", 1, 9, 11, true, false}, {"all", "n1", 19, 19, 24, false, false}, // at its edges
		{"all", "n1", 1, 8, 9, false, true}, {"all", "n1", 21, 21, 22, false, true}, {"all", "n1", 15, 21, 22, true, true}, // before, after
		{"turn", "n2", 31, 31, 33, false, false}, {"all", "n2", 31, 31, 33, false, true}, // of that policy
		{"turn", "n2", 31, 40, 41, true, false}, {"turn", "n2", 33, 40, 41, true, true}, // begun before, and after
		{"turn", "n2", 31, 66, 67, true, true}, {"turn", "n2", 31, 40, 41, false, true},
		{"gone", "n2", 90, 90, 91, false, false}, {"gone", "n1", 90, 90, 91, false, true},
	} {
		j := newJudge()
		j.windows = windows
		j.tried(attempt{policy: c.policy, node: c.node, begun: at(c.begun), since: at(c.since), until: at(c.until), old: c.old, outcome: lab.TimedOut})
		if got := j.unexplained(); (len(got) > 0) != c.fault {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
