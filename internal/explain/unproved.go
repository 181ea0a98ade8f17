package explain

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

// behind says why a node that reports does not vouch for all that was read, "" if it
// does. Numbers that it says itself it can't vouch for are told of one by one.
func (a *audit) behind(n compile.NodeReport) (reason, message string) {
	if c := meta.FindStatusCondition(n.Datapath.Status.Conditions, v1alpha1.Enforced); c != nil && c.Status == metav1.ConditionFalse {
		return c.Reason, c.Message
	}
	w := walk{view: a.view}
	if missing := w.missing(n); missing != "" {
		return missing, "has not proved what holds for all numbers: pools, the Portreeve object and whom it denies"
	}
	for i := range a.Allocations {
		w.allocation = &a.Allocations[i]
		if missing := w.missing(n); missing != "" && !excepted(n, w.allocation) {
			return missing, fmt.Sprintf("has not proved allocation %s as it stands", w.allocation.Name)
		}
	}
	return "", ""
}

// excepted says whether the node has an exception for the allocation's number.
func excepted(n compile.NodeReport, a *v1alpha1.NodePortAllocation) bool {
	return slices.ContainsFunc(n.Datapath.Status.Exceptions, func(e v1alpha1.PortException) bool {
		return strconv.Itoa(int(e.Port)) == a.Name
	})
}

// away says of a node that is not Ready what it has not proved: its kernel may well run,
// and pass whom it passed last. One that is tainted out-of-service is gone.
func (a *audit) away(n compile.NodeReport) {
	if slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService }) {
		return
	}
	reason, message, _, _ := walk{view: a.view}.unfiltered(n)
	if reason == "" {
		reason, message = a.behind(n)
	}
	if reason != "" {
		a.whole(FindingUnproved, n.Name, "the node is not Ready; "+reason+": "+message)
	}
}
