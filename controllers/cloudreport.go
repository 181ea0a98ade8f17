package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// What a status lists at most: of each kind of foreign rules, and of a plan.
const (
	mostStrangers = 8
	mostPlanned   = 16
)

// writeStatus says what was seen of the groups. What was not read whole is as it was.
func (r *CloudFirewall) writeStatus(ctx context.Context, firewall *v1alpha1.CloudFirewall, seen synced, syncErr error) error {
	now := metav1.NewTime(r.Now())
	status := v1alpha1.CloudFirewallStatus{
		ObservedGeneration: firewall.Generation,
		LastVerified:       firewall.Status.LastVerified,
		Lookups:            r.lookupStatus(firewall.Name),
		Plan:               planStatus(seen.reports),
		Conditions:         slices.Clone(firewall.Status.Conditions),
	}
	complete := len(seen.reports) > 0
	for _, report := range seen.reports {
		complete = complete && len(report.Unlisted) == 0
		for _, g := range report.Groups {
			if slices.Contains(seen.listed, g.ID) || len(g.Ours) > 0 {
				status.Groups = append(status.Groups, groupStatus(g))
			}
		}
		for _, c := range report.Coarse[:min(len(report.Coarse), mostPlanned)] {
			status.Coarse = append(status.Coarse, spellRule(c.Rule, c.Peer))
		}
	}
	if !complete {
		status.Groups = firewall.Status.Groups
	}
	for _, c := range cloudConditions(syncErr, firewall.Generation, now) {
		meta.SetStatusCondition(&status.Conditions, c)
	}
	same := equality.Semantic.DeepEqual(status, firewall.Status)
	if complete && (status.LastVerified == nil || now.Sub(status.LastVerified.Time) >= verifiedEvery || !same) {
		status.LastVerified, same = &now, false
	}
	if same {
		return nil
	}
	firewall.Status = status
	return r.Status().Update(ctx, firewall, client.FieldOwner(v1alpha1.FieldOwner))
}

// planStatus is what is still to be done in the groups, nil if that is nothing.
func planStatus(reports []cloud.Report) *v1alpha1.CloudPlan {
	var p v1alpha1.CloudPlan
	for _, report := range reports {
		p.Unfit += int32(len(report.Overflow) + len(report.OverQuota))
		for _, g := range report.Groups {
			p.TotalAdd, p.TotalRemove = p.TotalAdd+int32(len(g.Add)), p.TotalRemove+int32(len(g.Remove))
			for _, a := range g.Add {
				p.Add = append(p.Add, g.ID+": "+spellRule(a.Rule, a.Peer))
			}
			for _, r := range g.Remove {
				p.Remove = append(p.Remove, g.ID+": "+spellRule(r.Rule, r.Peer))
			}
		}
	}
	if p.TotalAdd+p.TotalRemove+p.Unfit == 0 {
		return nil
	}
	p.Add, p.Remove = p.Add[:min(len(p.Add), mostPlanned)], p.Remove[:min(len(p.Remove), mostPlanned)]
	return &p
}

func spellRule(r rule.Rule, peer string) string {
	if peer != "" {
		return fmt.Sprintf("%s %s from %s", r.Protocol, r.Ports, peer)
	}
	return fmt.Sprintf("%s %s from %s", r.Protocol, r.Ports, r.Source)
}

func groupStatus(g cloud.GroupReport) v1alpha1.GroupStatus {
	status := v1alpha1.GroupStatus{
		ID: g.ID, Ours: int32(len(g.Ours)), Foreign: int32(len(g.Foreign)),
		Budget: fmt.Sprintf("%d/%d %d/%d", g.Budget.Used.IPv4, g.Budget.Limit.IPv4, g.Budget.Used.IPv6, g.Budget.Limit.IPv6),
	}
	if g.Budget.Limit.All > 0 {
		status.Budget = fmt.Sprintf("%d/%d", g.Budget.Used.All, g.Budget.Limit.All)
	}
	for _, s := range g.Shadowing[:min(len(g.Shadowing), mostStrangers)] {
		status.Shadowing = append(status.Shadowing, s.ID+": "+spellRule(s.Rule, s.Peer))
	}
	for _, h := range g.Hiding[:min(len(g.Hiding), mostStrangers)] {
		status.Hiding = append(status.Hiding, fmt.Sprintf("%s: %s, priority %d", h.ID, spellRule(h.Rule, h.Peer), h.Priority))
	}
	return status
}

// cloudReason names the kind of an error as a condition reason.
func cloudReason(err error) string {
	switch {
	case err == nil:
		return v1alpha1.ReasonOK
	case errors.Is(err, cloud.ErrCloned):
		return v1alpha1.ReasonCloned
	case errors.Is(err, cloud.ErrDenied):
		return v1alpha1.ReasonDenied
	case errors.Is(err, cloud.ErrInvalid):
		return v1alpha1.ReasonInvalid
	case errors.Is(err, cloud.ErrUnsupported):
		return v1alpha1.ReasonEnforcementUnsupported
	case errors.Is(err, cloud.ErrQuota):
		return v1alpha1.ReasonBudgetExceeded
	case errors.Is(err, cloud.ErrContended):
		return v1alpha1.ReasonContended
	case errors.Is(err, cloud.ErrHidden):
		return v1alpha1.ReasonHidden
	case errors.Is(err, cloud.ErrDrifted):
		return v1alpha1.ReasonDrifted
	case errors.Is(err, cloud.ErrObserving):
		return v1alpha1.ReasonObserving
	case errors.Is(err, cloud.ErrThrottled), errors.Is(err, cloud.ErrStale):
		return v1alpha1.ReasonThrottled
	}
	return v1alpha1.ReasonUnreachable
}

func cloudConditions(err error, generation int64, now metav1.Time) []metav1.Condition {
	reason, message := cloudReason(err), "read whole, and exactly as wished"
	if err != nil {
		message = err.Error()
	}
	ready, working, stuck := metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionFalse
	switch reason {
	case v1alpha1.ReasonOK:
	case v1alpha1.ReasonDenied, v1alpha1.ReasonInvalid, v1alpha1.ReasonBudgetExceeded, v1alpha1.ReasonEnforcementUnsupported,
		v1alpha1.ReasonContended, v1alpha1.ReasonHidden, v1alpha1.ReasonDrifted, v1alpha1.ReasonCloned:
		ready, stuck = metav1.ConditionFalse, metav1.ConditionTrue
	default:
		ready, working = metav1.ConditionFalse, metav1.ConditionTrue
	}
	condition := func(kind string, status metav1.ConditionStatus) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: generation, LastTransitionTime: now}
	}
	return []metav1.Condition{
		condition(v1alpha1.Ready, ready), condition(v1alpha1.Reconciling, working), condition(v1alpha1.Stalled, stuck),
	}
}

// again says when to come back. Network trouble and bugs go to the workqueue's backoff.
func again(firewall *v1alpha1.CloudFirewall, err error) (reconcile.Result, error) {
	resync := resyncOf(firewall)
	switch {
	case errors.Is(err, cloud.ErrThrottled):
		return reconcile.Result{RequeueAfter: jitter(min(resync, 5*time.Second))}, nil
	case errors.Is(err, cloud.ErrStale):
		return reconcile.Result{RequeueAfter: jitter(time.Second)}, nil
	case cloudReason(err) != v1alpha1.ReasonUnreachable:
		return reconcile.Result{RequeueAfter: jitter(resync)}, nil
	}
	return reconcile.Result{}, err
}

func resyncOf(firewall *v1alpha1.CloudFirewall) time.Duration {
	if firewall.Spec.Resync != nil {
		return firewall.Spec.Resync.Duration
	}
	return defaultResync
}
