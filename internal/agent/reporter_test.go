package agent

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

func TestReportsAreThrottled(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.pass(time.Second)
		before := len(l.reports.written())
		for i := range uint16(40) { // one every 25 ms: a second of changes
			l.allocations.put(open(30010+i, "203.0.113.0/24"))
			synctest.Wait()
			if i == 0 && len(l.reports.written()) != before+1 {
				t.Error("the first change was not reported at once")
			}
			l.pass(25 * time.Millisecond)
		}
		last := l.allocations.put(open(30050, "203.0.113.0/24"))
		l.pass(reportInterval)
		if n := len(l.reports.written()) - before; n < 4 || n > 6 {
			t.Errorf("%d writes in a second of changes, want one each %s", n, reportInterval)
		}
		l.wantMarks("101", last)
	})
}

func TestReportSurvivesErrorsConflictsAndDeletion(t *testing.T) {
	inLab(t, func(l *lab) {
		l.reports.err = errFault
		l.start()
		l.pass(time.Minute)
		l.wantAdmits(30080, "203.0.113.7", true) // the kernel does not wait for reports
		l.reports.set(func() { l.reports.err = nil })
		l.pass(3 * time.Second)
		l.wantMarks("101", "103")

		l.reports.set(func() { l.reports.stored.ResourceVersion = "999" }) // somebody else wrote
		version := l.allocations.put(closed(30080))
		l.pass(time.Second)
		l.wantMarks("101", version)

		l.reports.set(func() { l.reports.stored, l.reports.uid = nil, "another" }) // the Node was made anew
		l.pass(2 * lookAgain)
		l.wantMarks("101", version)
		if got := l.reports.stored.OwnerReferences[0].UID; got != "another" {
			t.Errorf("owner %s", got)
		}
	})
}

func TestReportOfAnEarlierNodeIsNotTakenOver(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.stop()
		l.reports.set(func() { l.reports.uid = types.UID("rebuilt") })
		writes := len(l.reports.written())
		l.start()
		l.allocations.put(closed(30080))
		l.pass(time.Minute)
		if len(l.reports.written()) != writes {
			t.Error("wrote to an object that is about to be collected")
		}
		l.reports.set(func() { l.reports.stored = nil })
		l.pass(5 * time.Second)
		if got := l.reports.stored.OwnerReferences[0].UID; got != "rebuilt" {
			t.Errorf("owner %s", got)
		}
	})
}

func TestTransitionTimeMovesWithTheStatusOnly(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		first := l.status().Conditions[0].LastTransitionTime
		l.pass(time.Minute)
		l.allocations.put(closed(30080))
		if got := l.status().Conditions[0].LastTransitionTime; !got.Equal(&first) {
			t.Errorf("moved from %v to %v", first, got)
		}
		l.kernel.set(func() { l.kernel.syncErr = errFault })
		l.allocations.put(open(30080, "203.0.113.0/24"))
		if got := l.wantReason(v1alpha1.ReasonFailed).Conditions[0].LastTransitionTime; got.Equal(&first) {
			t.Error("did not move")
		}
	})
}

func TestExceptionsFitTheSchema(t *testing.T) {
	var problems []compile.NodeProblem
	for port := range uint16(100) {
		problems = append(problems, compile.NodeProblem{Port: port, Reason: "a"}, compile.NodeProblem{Port: port, Reason: "b"})
	}
	got := exceptions(problems)
	if len(got) != maxExceptions || got[1] != (v1alpha1.PortException{Port: 1, Reason: "a; b"}) {
		t.Errorf("%d exceptions, second %+v", len(got), got[1])
	}
	ports := slices.Collect(func(yield func(int32) bool) {
		for _, e := range got {
			if !yield(e.Port) {
				return
			}
		}
	})
	if !slices.IsSorted(ports) {
		t.Error("not in order")
	}
}
