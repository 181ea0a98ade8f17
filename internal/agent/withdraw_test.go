package agent

import (
	"errors"
	"testing"
	"time"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/test/health"
)

func TestAReportThatIsWithdrawnProvesNothingUntilAnAgentStarts(t *testing.T) {
	inLab(t, func(l *lab) {
		l.start()
		l.wantMarks("101", "103")
		l.stop()
		if err := Withdraw(l.t.Context(), l.reports); err != nil {
			l.t.Fatal(err)
		}
		status := l.reports.stored.Status
		if status.Marks != (v1alpha1.Marks{}) || status.BootID != "" || status.NodeLabels != "" || status.Datapath != "" {
			l.t.Errorf("left of the report: %+v", status)
		}
		if health, _, err := health.Argo(health.Untyped(l.t, l.reports.stored)); health != "Degraded" || err != nil {
			l.t.Errorf("Argo CD says %s, %v", health, err)
		}
		writes := len(l.reports.written())
		if err := Withdraw(l.t.Context(), l.reports); err != nil || len(l.reports.written()) != writes {
			l.t.Errorf("written again: %v", err)
		}
		l.start() // with the marks on its disk, which still mean something forward only
		l.pass(time.Second)
		l.wantMarks("101", "103")
	})
}

func TestOnlyWhatIsThereIsWithdrawn(t *testing.T) {
	inLab(t, func(l *lab) {
		if err := Withdraw(l.t.Context(), l.reports); err != nil || l.reports.stored != nil {
			l.t.Errorf("%v, made %+v", err, l.reports.stored)
		}
		l.start()
		l.stop()
		l.reports.err = errFault
		if err := Withdraw(l.t.Context(), l.reports); !errors.Is(err, errFault) {
			l.t.Errorf("%v, want that of the API server", err)
		}
	})
}
