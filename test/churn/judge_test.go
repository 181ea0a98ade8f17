package churn

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/portreeve/portreeve/lab"
)

// bound is how long a damage may last: a second is the promise at idle load, and the
// machine may be busy.
const bound = 3 * time.Second

// flow is one question and what became of it.
type flow struct {
	what string // kind of traffic
	// from is when it was sent, to when it was answered or given up. since is from, or
	// for a connection that was there before, when it was last known to be alive.
	since, from, to time.Time
	group           int
	source          netip.Addr
	node            string
	number          uint16
	outcome         lab.Outcome
	// passed: a packet came through, also if there was nobody to answer it.
	passed bool
	// patient: the answer had all the time that it may need.
	patient bool
}

func (f flow) String() string {
	return fmt.Sprintf("%s of %s (group %d) to %s:%d: %s; alive %s, sent %s, ended %s", f.what, f.source, f.group, f.node, f.number,
		f.outcome, clock(f.since), clock(f.from), clock(f.to))
}

func clock(t time.Time) string { return t.Format("05.000") }

// damage is what a foreign hand did, from when until when, and until when it was felt.
type damage struct {
	node, what string
	at         time.Time
	done       time.Time // zero: it is still at it
	felt       bool
	window     time.Duration
}

// breach is a broken promise.
type breach struct {
	at   time.Time
	node string
	what string
}

// judge holds flows to the histories. A flow is judged as it ends: whatever could
// excuse it is known by then, as edits and damages are noted before they are made.
type judge struct {
	histories map[uint16]*history // by number

	mu       sync.Mutex
	damages  []*damage
	breaches []breach
	events   []event
	counts   map[string]int
	excused  int
}

type event struct {
	at   time.Time
	what string
}

func newJudge() *judge {
	return &judge{histories: map[uint16]*history{}, counts: map[string]int{}}
}

// note counts what happened, and keeps it to be told beside a breach.
func (j *judge) note(kind, format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.counts[kind]++
	j.events = append(j.events, event{time.Now(), kind + ": " + fmt.Sprintf(format, args...)})
}

func (j *judge) count(kind string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.counts[kind]++
}

// damaged is to be called before the damage is done, and what it returns afterwards: what
// is done last, after other programs' turns at the same tables, is not sooner repaired.
func (j *judge) damaged(node, what string) (done func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	d := &damage{node: node, what: what, at: time.Now()}
	j.damages = append(j.damages, d)
	return func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		d.done = time.Now()
	}
}

func (j *judge) breach(at time.Time, node, format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.breaches = append(j.breaches, breach{at, node, fmt.Sprintf(format, args...)})
}

// flow judges one, and counts it.
func (j *judge) flow(f flow) {
	h := j.histories[f.number]
	may, _ := h.allowed(f.group, f.number, f.from, f.to)
	_, must := h.allowed(f.group, f.number, f.since, f.to)
	complaint := ""
	switch {
	case f.passed && !may:
		complaint = "came through, and nothing that may be in force admits it"
	case f.outcome != lab.Answered && f.patient && must:
		complaint = "failed, and all that may be in force admits it"
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.counts[f.what]++
	if complaint == "" {
		return
	}
	if j.excuse(f) {
		j.excused++
		return
	}
	j.breaches = append(j.breaches, breach{f.from, f.node, f.String() + ": it " + complaint})
}

// excuse says whether the flow met a damage that may not have been repaired yet. A
// damage was felt for as long as flows that began after it went wrong.
func (j *judge) excuse(f flow) bool {
	for _, d := range slices.Backward(j.damages) {
		if d.node == f.node && !d.at.After(f.to) && (d.done.IsZero() || !f.since.After(d.done.Add(bound))) {
			d.felt, d.window = true, max(d.window, f.from.Sub(d.at))
			return true
		}
	}
	return false
}

// windows are those of the damages that were felt, in order.
func (j *judge) windows() (all []time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, d := range j.damages {
		if d.felt {
			all = append(all, d.window)
		}
	}
	slices.Sort(all)
	return all
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
	j, h := newJudge(), &history{}
	open := state{tcp: 1, named: [never]bool{true, true}}
	narrow := state{tcp: 1, named: [never]bool{true}}
	start := time.Now()
	at := func(second int) time.Time { return start.Add(time.Duration(second) * time.Second) }
	h.phases = []phase{
		{at(0), []state{open}, []state{open}},
		{at(10), []state{open, narrow}, []state{open, narrow}},
		{at(20), []state{narrow}, []state{narrow}},
	}
	h.giveUp(1, at(40))
	j.histories[1] = h
	j.damages = []*damage{{node: "struck", at: at(30), done: at(30)}, {node: "struck long", at: at(50), done: at(54)}, {node: "being struck", at: at(60)}}
	for _, c := range []struct {
		from, to, group int
		node            string
		answered, fault bool
	}{
		{1, 2, 1, "n", true, false}, {1, 2, 1, "n", false, true}, // admitted
		{9, 11, 1, "n", true, false}, {9, 11, 1, "n", false, false}, // by one of two
		{9, 25, 0, "n", false, true},                                 // by both
		{21, 22, 1, "n", false, false}, {21, 22, 1, "n", true, true}, // no more
		{19, 22, 1, "n", true, false}, // begun while it may be
		{1, 2, never, "n", true, true}, {31, 32, never, "struck", true, false},
		{31, 32, never, "n", true, true}, {34, 35, never, "struck", true, true}, {28, 29, never, "struck", true, true},
		{28, 31, 0, "struck", false, false},
		{56, 56, never, "struck long", true, false}, {58, 58, never, "struck long", true, true}, {69, 69, never, "being struck", true, false},
		{38, 39, 0, "n", false, true}, {39, 41, 0, "n", false, false}, {43, 44, 0, "n", false, false}, {46, 47, 0, "n", false, true}, // carried again, or not yet
		{43, 44, never, "n", true, true}, // let in is nobody
	} {
		f := flow{since: at(c.from), from: at(c.from), to: at(c.to), group: c.group, node: c.node, number: 1, passed: c.answered, patient: true, outcome: lab.TimedOut}
		if c.answered {
			f.outcome = lab.Answered
		}
		before := len(j.breaches)
		if j.flow(f); (len(j.breaches) > before) != c.fault {
			t.Errorf("%+v: %v", c, j.breaches[before:])
		}
	}
	if w := j.windows(); !slices.Equal(w, []time.Duration{time.Second, 6 * time.Second, 9 * time.Second}) {
		t.Errorf("windows %v, want 1s, 6s and 9s", w)
	}
}
