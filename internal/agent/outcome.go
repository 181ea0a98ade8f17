package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/datapath"
	"github.com/portreeve/portreeve/internal/compile"
)

// outcome is how a round ended.
type outcome struct {
	waiting  bool // the kernel was left alone
	vanished []string
	again    time.Duration // have another round then, 0 for none
	stale    staleKinds
	problems []compile.NodeProblem
	err      error
}

// staleKinds holds why the last list of a kind was refused.
type staleKinds struct{ pools, allocations error }

// marksError: the kernel is in step, but the marks could not be kept.
type marksError struct{ error }

func (e *marksError) Unwrap() error { return e.error }

// retryable says whether trying again soon may help; what the kernel does not
// support is tried again at the next check only.
func (o outcome) retryable() bool { return o.err != nil && !errors.Is(o.err, datapath.ErrUnsupported) }

// silent: nothing is known yet that could be reported. The report of an earlier
// run stands, and with it the rules it speaks of.
func (o outcome) silent() bool {
	return o.waiting && o.err == nil && o.vanished == nil && o.stale == staleKinds{}
}

// enforcedKinds are the kinds that did not vanish.
func enforcedKinds(vanished []string) []string {
	return slices.DeleteFunc([]string{kindPools, kindAllocations}, func(kind string) bool {
		return slices.Contains(vanished, kind)
	})
}

// status spells the outcome as a report with one condition, Enforced. proved are
// the marks of what was last enforced. They are withdrawn in doubt, and for a
// kind whose history went back: versions of another history prove nothing.
func (o outcome) status(proved v1alpha1.Marks, doubt bool) v1alpha1.NodeDatapathStatus {
	if doubt || o.stale.pools != nil {
		proved.Pools = ""
	}
	if doubt || o.stale.allocations != nil {
		proved.Allocations = ""
	}
	reason, message := o.reason()
	condition := metav1.Condition{Type: v1alpha1.Enforced, Status: metav1.ConditionFalse, Reason: reason, Message: message}
	if reason == v1alpha1.ReasonOK {
		condition.Status = metav1.ConditionTrue
	}
	return v1alpha1.NodeDatapathStatus{
		Marks: proved, Exceptions: exceptions(o.problems), Conditions: []metav1.Condition{condition},
	}
}

// reason names the worst of what is wrong, and the next step.
func (o outcome) reason() (reason, message string) {
	var marks *marksError
	var failure string
	if o.err != nil {
		failure = strings.Join(strings.Fields(o.err.Error()), " ") // one line, also where iptables speaks in several
	}
	switch {
	case errors.As(o.err, &marks):
		return v1alpha1.ReasonFailed, fmt.Sprintf("the rules are in force, but can't be vouched for beyond a restart: the marks can't be written: %s; make the state directory writable", failure)
	case errors.Is(o.err, datapath.ErrPreempted):
		return v1alpha1.ReasonEnforcementUnsupported, fmt.Sprintf("the rules are in the kernel, but others ahead of them may let packets through: %s; remove or move those", failure)
	case errors.Is(o.err, datapath.ErrUnsupported):
		return v1alpha1.ReasonEnforcementUnsupported, fmt.Sprintf("this node's kernel can't enforce the rules: %s", failure)
	case o.err != nil:
		return v1alpha1.ReasonFailed, fmt.Sprintf("the kernel did not take the rules, earlier ones stay; trying again: %s", failure)
	case len(o.vanished) > 0:
		return v1alpha1.ReasonVanished, fmt.Sprintf("all %s vanished at once, so the last rules stay; if that was meant, create one, or stop the agent of this node and run \"agent cleanup\"", strings.Join(o.vanished, " and all "))
	case o.stale.pools != nil:
		return v1alpha1.ReasonStale, o.stale.pools.Error()
	case o.stale.allocations != nil:
		return v1alpha1.ReasonStale, o.stale.allocations.Error()
	}
	return v1alpha1.ReasonOK, "the kernel was read back and enforces everything up to the marks"
}

// maxExceptions is what the schema of NodeDatapath allows.
const maxExceptions = 64

// exceptions sums problems up by port, as the schema demands, lowest first.
func exceptions(problems []compile.NodeProblem) []v1alpha1.PortException {
	var out []v1alpha1.PortException
	for _, p := range problems { // sorted by port
		if n := len(out); n > 0 && out[n-1].Port == int32(p.Port) {
			out[n-1].Reason += "; " + p.Reason
			continue
		}
		if len(out) == maxExceptions {
			break
		}
		out = append(out, v1alpha1.PortException{Port: int32(p.Port), Reason: p.Reason})
	}
	return out
}
