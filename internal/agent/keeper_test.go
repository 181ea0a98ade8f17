package agent

import (
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/portreeve/portreeve/internal/rule"
)

func TestRulesThatCannotBeWrittenAreTriedAgain(t *testing.T) {
	inLab(t, func(l *lab) {
		inTheWay := newRulesFile(l.stateDir).path + ".next"
		if err := os.Mkdir(inTheWay, 0o700); err != nil {
			t.Fatal(err)
		}
		l.start()
		l.allocations.put(closed(30080))
		l.pass(10 * keepPause)
		if got := testutil.ToFloat64(l.agent.metrics.keepErrors); got < 5 || got > 15 {
			t.Errorf("%v errors counted in ten pauses", got)
		}
		// The disk has nothing that could open 30080, so nothing is behind.
		if err := os.Remove(inTheWay); err != nil {
			t.Fatal(err)
		}
		l.pass(2 * keepPause)
		l.down()
		l.reboot()
		l.start()
		l.wantAdmits(30080, "203.0.113.7", false)
		l.wantJudged("30000-30099")
	})
}

func TestABurstOfChangesCostsFewWrites(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		before := l.agent.keeper.savedSeq()
		for number := uint16(30010); number < 30060; number++ {
			l.allocations.put(open(number, "203.0.113.0/24"))
			l.pass(2 * roundPause)
		}
		l.pass(2 * keepPause)
		if after := l.agent.keeper.savedSeq(); after-before != 50 {
			t.Errorf("the disk has the rules of change %d of 50", after-before)
		}
		info, err := os.Stat(newRulesFile(l.stateDir).path)
		if err != nil {
			t.Fatal(err)
		}
		l.pass(time.Hour)
		if again, err := os.Stat(newRulesFile(l.stateDir).path); err != nil || !again.ModTime().Equal(info.ModTime()) {
			t.Errorf("written though nothing changed: %v", err)
		}
		if b := l.agent.keeper.behind(); b != nil {
			t.Errorf("behind by %+v at rest", b)
		}
	})
}

// savedSeq is the sequence number of what the disk has.
func (k *keeper) savedSeq() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.saved
}

func TestWhatTheDiskIsBehind(t *testing.T) {
	k := &keeper{dirty: make(chan struct{}, 1)}
	one := ranged(t, "30000-30009")
	k.set(without(lastRules(t), nil, time.Time{}))
	if b := k.behind(); b != nil {
		t.Errorf("behind by %+v with nothing on the disk", b)
	}
	k.saved = 1
	k.set(without(lastRules(t), ranged(t, "30001"), time.Time{}))
	k.set(without(lastRules(t), one, time.Time{}))
	b := k.behind()
	if b == nil || b.Seq != 3 || len(b.Ports) != 1 || b.Ports[0] != "30001-30002" {
		t.Errorf("behind by %+v, want 30001 and 30002", b)
	}
	// A number that is opened again is not closed by that: the next write tells.
	k.set(lastRules(t))
	if again := k.behind(); again == nil || again.Seq != b.Seq {
		t.Errorf("behind by %+v", again)
	}
}

// What a changed port costs the loop after its rules are in force.
func BenchmarkKeeperSet(b *testing.B) {
	sets := [2]rule.Set{manyRules(b, 0), manyRules(b, 1)}
	k := &keeper{dirty: make(chan struct{}, 1)}
	for i := 0; b.Loop(); i++ {
		k.set(sets[i%2])
		k.behind()
	}
}
