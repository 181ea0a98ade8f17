package agent

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// Withdraw takes back what a node's agents have reported: from then on nobody takes the
// node for one that enforces anything. It must come before the rules go, or marks would
// prove what is no more. A node of which nothing was reported needs nothing. An agent that
// still runs reports anew.
func Withdraw(ctx context.Context, api Reports) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		d, err := api.Read(ctx)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the node's report: %w", err)
		}
		next := d.DeepCopy()
		next.Status = merge(d.Status, cleaned())
		if equality.Semantic.DeepEqual(next.Status, d.Status) {
			return nil
		}
		if _, err = api.WriteStatus(ctx, next); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("write status of NodeDatapath %s: %w", d.Name, err)
		}
		return nil
	})
}

// cleaned is the report of a node without rules of ours: it has no marks, and names no
// boot of which they could be.
func cleaned() v1alpha1.NodeDatapathStatus {
	return v1alpha1.NodeDatapathStatus{Conditions: []metav1.Condition{{
		Type: v1alpha1.Enforced, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonCleaned,
		Message: "agent cleanup has taken the report back, and removes every rule: nobody filters the node's ports until an agent starts there",
	}}}
}
