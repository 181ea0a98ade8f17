package agent

import (
	"errors"
	"fmt"
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
	vanished []kind
	again    time.Duration // have another round then, 0 for none
	stale    [kinds]error  // why the last list of a kind was refused
	denied   error         // why the API server does not show one of the kinds
	problems []compile.NodeProblem
	unlogged error  // in force, but not logged
	unseen   error  // in force, but whether packets come around is not known
	unserved string // in force, but why nobody is refused for want of a pod
	remains  error  // in force, but rules of another datapath are too
	err      error
}

// marksError: the kernel is in step, but the marks could not be kept.
type marksError struct{ error }

func (e *marksError) Unwrap() error { return e.error }

// retryable says whether trying again soon may help; what the kernel does not
// support is tried again at the next check only.
func (o outcome) retryable() bool { return o.err != nil && !errors.Is(o.err, datapath.ErrUnsupported) }

// silent: nothing is known yet that could be reported. The report of an earlier
// run stands, and with it the rules it speaks of.
func (o outcome) silent() bool {
	return o.waiting && o.err == nil && o.vanished == nil && o.stale == [kinds]error{} && o.denied == nil
}

// status spells the outcome as a report with one condition, Enforced. proved and
// labels are the marks of what was last enforced, and the hash of the labels it
// was judged by. They are withdrawn in doubt, and for a kind whose history went
// back: versions of another history prove nothing.
func (o outcome) status(proved versions, labels string, doubt bool) v1alpha1.NodeDatapathStatus {
	for k := range kinds {
		if doubt || o.stale[k] != nil {
			*proved.of(k) = ""
		}
	}
	if doubt || o.stale[kindNode] != nil {
		labels = ""
	}
	reason, message := o.reason()
	condition := metav1.Condition{Type: v1alpha1.Enforced, Status: metav1.ConditionFalse, Reason: reason, Message: message}
	if reason == v1alpha1.ReasonOK {
		condition.Status = metav1.ConditionTrue
	}
	return v1alpha1.NodeDatapathStatus{
		Marks: proved.Marks, NodeLabels: labels, Exceptions: exceptions(o.problems), Conditions: []metav1.Condition{condition},
	}
}

// reason names the worst of what is wrong, and the next step.
func (o outcome) reason() (reason, message string) {
	var marks *marksError
	var around *bypassError
	var failure string
	if o.err != nil {
		failure = strings.Join(strings.Fields(o.err.Error()), " ") // one line, also where iptables speaks in several
	}
	switch {
	case errors.As(o.err, &marks):
		return v1alpha1.ReasonFailed, fmt.Sprintf("the rules are in force, but can't be vouched for beyond a restart: the marks can't be written: %s; make the state directory writable", failure)
	case errors.As(o.err, &around):
		return v1alpha1.ReasonEnforcementUnsupported, fmt.Sprintf("the rules are in the kernel, but packets may come around them: %s", failure)
	case errors.Is(o.err, datapath.ErrPreempted):
		return v1alpha1.ReasonEnforcementUnsupported, fmt.Sprintf("the rules are in the kernel, but others ahead of them may let packets through: %s; remove or move those", failure)
	case errors.Is(o.err, datapath.ErrUnsupported):
		return v1alpha1.ReasonEnforcementUnsupported, fmt.Sprintf("this node's kernel can't enforce the rules: %s", failure)
	case o.err != nil:
		return v1alpha1.ReasonFailed, fmt.Sprintf("the kernel did not take the rules, earlier ones stay; trying again: %s", failure)
	case len(o.vanished) > 0:
		return v1alpha1.ReasonVanished, vanishedMessage(o.vanished)
	}
	for _, stale := range o.stale {
		if stale != nil {
			return v1alpha1.ReasonStale, stale.Error()
		}
	}
	if o.denied != nil {
		return v1alpha1.ReasonFailed, o.denied.Error()
	}
	message = "the kernel was read back and enforces everything up to the marks"
	if o.unlogged != nil {
		message += fmt.Sprintf("; packets to audited numbers pass without a line in the log: %s", o.unlogged)
	}
	if o.unseen != nil {
		message += fmt.Sprintf("; whether something carries packets around is not known: %s", o.unseen)
	}
	if o.unserved != "" {
		message += fmt.Sprintf("; who comes to a port with externalTrafficPolicy Local and finds no pod on this node waits, instead of being refused: %s", o.unserved)
	}
	if o.remains != nil {
		message += fmt.Sprintf("; what another datapath left could not be removed, and may drop more than is wished: %s", o.remains)
	}
	return v1alpha1.ReasonOK, message
}

func vanishedMessage(vanished []kind) string {
	var all, parts []string
	for _, k := range vanished {
		if message := traits[k].vanished; message != "" {
			parts = append(parts, message)
		} else {
			all = append(all, k.String())
		}
	}
	if len(all) > 0 {
		parts = append(parts, fmt.Sprintf("all %s vanished at once, so the last rules stay; if that was meant, create one, or stop the agent of this node and run \"agent cleanup\"", strings.Join(all, " and all ")))
	}
	return strings.Join(parts, "; ")
}

// stayedProblems say of AddressSets that are gone that they stay denied.
func stayedProblems(sets []metav1.Object) (problems []compile.NodeProblem) {
	for _, set := range sets {
		problems = append(problems, compile.NodeProblem{Reason: fmt.Sprintf(
			"AddressSet %s is gone, and its last networks stay denied while spec.denyAddressSets of the Portreeve object names it; create it again, or take it off the list", set.GetName())})
	}
	return problems
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
