package agent

import (
	"errors"
	"fmt"
	"testing"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/test/health"
)

// However a round ends, Argo CD must call the node's report rightly. kstatus does not
// know Enforced, and nobody commits these objects.
func TestArgoCDReadsAReportRightly(t *testing.T) {
	trouble := errors.New("trouble")
	var stale outcome
	stale.stale[0] = trouble
	for name, c := range map[string]struct {
		outcome outcome
		want    string
	}{
		"in force":             {outcome{}, "Healthy"},
		"in force, not logged": {outcome{unlogged: trouble, unseen: trouble, remains: trouble}, "Healthy"},
		"no marks":             {outcome{err: &marksError{trouble}}, "Degraded"},
		"preempted":            {outcome{err: fmt.Errorf("%w: a jump", datapath.ErrPreempted)}, "Degraded"},
		"unsupported":          {outcome{err: fmt.Errorf("%w: no ipset", datapath.ErrUnsupported)}, "Degraded"},
		"refused":              {outcome{err: trouble}, "Degraded"},
		"vanished":             {outcome{vanished: []kind{0}}, "Degraded"},
		"stale":                {stale, "Degraded"},
		"denied":               {outcome{denied: trouble}, "Degraded"},
	} {
		t.Run(name, func(t *testing.T) {
			object := &v1alpha1.NodeDatapath{Status: c.outcome.status(versions{}, "", false)}
			if got, message, err := health.Argo(health.Untyped(t, object)); got != c.want || message == "" || err != nil {
				t.Errorf("Argo CD says %q (%s), %v, want %s", got, message, err, c.want)
			}
		})
	}
}
