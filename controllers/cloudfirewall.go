package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/compile"
)

const (
	// defaultResync serves a CloudFirewall whose field was removed.
	defaultResync = 5 * time.Minute
	// verifiedEvery bounds how often lastVerified alone is written.
	verifiedEvery = time.Minute
	// callTimeout bounds one synchronisation of one firewall.
	callTimeout = time.Minute
)

// Connect opens a provider for a CloudFirewall. cmd/manager holds the map from
// the provider's name to it.
type Connect func(context.Context, v1alpha1.CloudFirewallSpec) (cloud.Provider, error)

// CloudFirewall makes the security groups of one CloudFirewall admit what the
// open allocations ask for, and says in Clouds what was seen there.
type CloudFirewall struct {
	client.Client
	Snapshot Snapshot
	Clouds   *Clouds
	// Providers by name.
	Providers map[v1alpha1.Provider]Connect
	// Owner signs our rules: the id of this cluster.
	Owner string
	// Leading is asked before each call that changes something in the cloud.
	Leading func(context.Context) error
	Now     func() time.Time
	// connected are the providers in use, by what they were opened with.
	connected map[connection]cloud.Provider
	// directories are those of them that also look things up.
	directories map[connection]cloud.Directory
	// answers of the clouds, by firewall and id.
	answers map[string]map[string]cloudAnswer
}

type connection struct {
	provider         v1alpha1.Provider
	region, endpoint string
}

func connectionOf(spec v1alpha1.CloudFirewallSpec) connection {
	return connection{spec.Provider, spec.Region, spec.Endpoint}
}

// Reconcile serves one CloudFirewall.
func (r *CloudFirewall) Reconcile(ctx context.Context, key reconcile.Request) (reconcile.Result, error) {
	firewall, err := get[v1alpha1.CloudFirewall](ctx, r, key.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	if firewall == nil || firewall.DeletionTimestamp != nil {
		r.Clouds.Forget(key.Name) // its rules stay: nobody asked for a clean-up
		return conflict(r.lookUp(ctx, key.Name, nil))
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	began := r.Now()
	lookErr := r.lookUp(ctx, firewall.Name, firewall)
	reports, syncErr := r.sync(ctx, firewall)
	observeCloud(firewall.Name, reports)
	if syncErr != nil {
		log.FromContext(ctx).Info("cloud firewall not in force", "firewall", firewall.Name, "reason", cloudReason(syncErr), "error", syncErr.Error())
	}
	reading := r.reading(firewall.Name, reports, syncErr, began)
	r.Clouds.Saw(firewall.Name, reading)
	if err := cmp.Or(lookErr, r.writeStatus(ctx, firewall, reports, syncErr)); err != nil {
		return conflict(err)
	}
	result, err := again(firewall, syncErr)
	return r.sooner(firewall.Name, result), err
}

// sync serves the listed groups, and once more, to empty, those that were listed before.
func (r *CloudFirewall) sync(ctx context.Context, firewall *v1alpha1.CloudFirewall) ([]cloud.Report, error) {
	provider, err := r.connect(ctx, firewall.Spec)
	if err != nil {
		return nil, err
	}
	var allocations v1alpha1.NodePortAllocationList
	if err := r.List(ctx, &allocations, readOnly); err != nil {
		return nil, err
	}
	cluster, err := r.Snapshot.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	grants := r.grants(firewall.Name, compile.Cloud(firewall.Name, allocations.Items, cluster.Places))
	var all v1alpha1.CloudFirewallList
	if err := r.List(ctx, &all); err != nil {
		return nil, err
	}
	listed, vanished := groupsOf(firewall)
	listed, vanished, err = undisputed(firewall, all.Items, listed, vanished)
	var reports []cloud.Report
	if len(listed) > 0 {
		report, syncErr := cloud.Sync(ctx, provider, cloud.Want{Owner: r.Owner, Groups: listed, Grants: grants})
		reports, err = append(reports, report), errors.Join(err, syncErr)
	}
	for _, group := range vanished {
		emptied, emptyErr := cloud.Sync(ctx, provider, cloud.Want{Owner: r.Owner, Groups: []string{group}})
		if errors.Is(emptyErr, cloud.ErrInvalid) && len(emptied.Unlisted) > 0 {
			continue // the group itself is gone, and our rules with it
		}
		reports, err = append(reports, emptied), errors.Join(err, emptyErr)
	}
	return reports, err
}

// undisputed leaves each group to one CloudFirewall, the oldest that lists it (then
// by name): the rules of all of them bear the cluster's one signature, so two would
// go on revoking each other's. A group that one has let go and another lists is
// the other's to empty. err names the groups that are an older one's.
func undisputed(f *v1alpha1.CloudFirewall, all []v1alpha1.CloudFirewall, listed, vanished []string) (own, letGo []string, err error) {
	var olders []error
	others := func(group string, younger bool) *v1alpha1.CloudFirewall {
		i := slices.IndexFunc(all, func(o v1alpha1.CloudFirewall) bool {
			return o.Name != f.Name && o.DeletionTimestamp == nil && o.Spec.Provider == f.Spec.Provider && o.Spec.Region == f.Spec.Region &&
				slices.Contains(o.Spec.Groups, v1alpha1.SecurityGroup{ID: group}) &&
				(younger || cmp.Or(o.CreationTimestamp.Compare(f.CreationTimestamp.Time), strings.Compare(o.Name, f.Name)) < 0)
		})
		if i < 0 {
			return nil
		}
		return &all[i]
	}
	for _, group := range listed {
		if older := others(group, false); older != nil {
			olders = append(olders, fmt.Errorf("%w: group %s is also listed by CloudFirewall %s, which is older; list it in one of them only", cloud.ErrInvalid, group, older.Name))
			continue
		}
		own = append(own, group)
	}
	for _, group := range vanished {
		if others(group, true) == nil {
			letGo = append(letGo, group)
		}
	}
	return own, letGo, errors.Join(olders...)
}

func groupsOf(firewall *v1alpha1.CloudFirewall) (listed, vanished []string) {
	for _, g := range firewall.Spec.Groups {
		listed = append(listed, g.ID)
	}
	for _, g := range firewall.Status.Groups {
		if !slices.Contains(listed, g.ID) {
			vanished = append(vanished, g.ID)
		}
	}
	return listed, vanished
}

func (r *CloudFirewall) connect(ctx context.Context, spec v1alpha1.CloudFirewallSpec) (cloud.Provider, error) {
	key := connectionOf(spec)
	if p := r.connected[key]; p != nil {
		return p, nil
	}
	open := r.Providers[spec.Provider]
	if open == nil {
		return nil, fmt.Errorf("%w: this manager has no provider %q", cloud.ErrInvalid, spec.Provider)
	}
	p, err := open(ctx, spec)
	if err != nil {
		return nil, err
	}
	if d, is := p.(cloud.Directory); is {
		if r.directories == nil {
			r.directories = map[connection]cloud.Directory{}
		}
		r.directories[key] = d
	}
	r.connected[key] = cloud.Leased(p, r.Leading)
	return r.connected[key], nil
}

// reading turns reports into what policies and closed allocations conclude from.
// An incomplete reading keeps the time of the last complete one.
func (r *CloudFirewall) reading(name string, reports []cloud.Report, err error, began time.Time) Reading {
	last := r.Clouds.Of(name)
	reading := Reading{Began: last.Began}
	reading.Read, reading.Lookups = last.Read, r.looked(name)
	complete := len(reports) > 0
	for _, report := range reports {
		complete = complete && len(report.Unlisted) == 0
		for _, g := range report.InForce {
			reading.InForce = append(reading.InForce, compile.Admission(g))
		}
		for _, g := range report.Groups {
			seen := compile.GroupSeen{ID: g.ID}
			for _, ours := range g.Ours {
				seen.Ours = append(seen.Ours, ours.Rule)
			}
			for _, s := range g.Shadowing {
				seen.Shadowing = append(seen.Shadowing, compile.Admission{Rule: s.Rule, Description: s.Description})
			}
			reading.Groups = append(reading.Groups, seen)
		}
	}
	if complete {
		reading.Read, reading.Began = true, began
	} else {
		// What a group that was not read admits now, nobody knows: it counts as it was.
		reading.Groups, reading.InForce = last.Groups, last.InForce
	}
	slices.SortFunc(reading.InForce, compile.CompareAdmissions)
	if err != nil {
		reading.Reason, reading.Message = cloudReason(err), err.Error()
	}
	return reading
}

func (r *CloudFirewall) writeStatus(ctx context.Context, firewall *v1alpha1.CloudFirewall, reports []cloud.Report, syncErr error) error {
	now := metav1.NewTime(r.Now())
	status := v1alpha1.CloudFirewallStatus{
		ObservedGeneration: firewall.Generation,
		LastVerified:       firewall.Status.LastVerified,
		Lookups:            r.lookupStatus(firewall.Name),
		Conditions:         slices.Clone(firewall.Status.Conditions),
	}
	listed, _ := groupsOf(firewall)
	complete := len(reports) > 0
	for _, report := range reports {
		complete = complete && len(report.Unlisted) == 0
		for _, g := range report.Groups {
			if slices.Contains(listed, g.ID) || len(g.Ours) > 0 {
				status.Groups = append(status.Groups, groupStatus(g))
			}
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

func groupStatus(g cloud.GroupReport) v1alpha1.GroupStatus {
	status := v1alpha1.GroupStatus{
		ID: g.ID, Ours: int32(len(g.Ours)), Foreign: int32(len(g.Foreign)),
		Budget: fmt.Sprintf("%d/%d %d/%d", g.Budget.Used.IPv4, g.Budget.Limit.IPv4, g.Budget.Used.IPv6, g.Budget.Limit.IPv6),
	}
	for _, s := range g.Shadowing[:min(len(g.Shadowing), 8)] {
		status.Shadowing = append(status.Shadowing, fmt.Sprintf("%s: %s %s from %s", s.ID, s.Protocol, s.Ports, s.Source))
	}
	return status
}

// cloudReason names the kind of an error as a condition reason.
func cloudReason(err error) string {
	switch {
	case err == nil:
		return v1alpha1.ReasonOK
	case errors.Is(err, cloud.ErrDenied):
		return v1alpha1.ReasonDenied
	case errors.Is(err, cloud.ErrInvalid):
		return v1alpha1.ReasonInvalid
	case errors.Is(err, cloud.ErrUnsupported):
		return v1alpha1.ReasonEnforcementUnsupported
	case errors.Is(err, cloud.ErrQuota):
		return v1alpha1.ReasonBudgetExceeded
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
	case v1alpha1.ReasonDenied, v1alpha1.ReasonInvalid, v1alpha1.ReasonBudgetExceeded, v1alpha1.ReasonEnforcementUnsupported:
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
	case err == nil, errors.Is(err, cloud.ErrDenied), errors.Is(err, cloud.ErrInvalid), errors.Is(err, cloud.ErrQuota), errors.Is(err, cloud.ErrUnsupported):
		return reconcile.Result{RequeueAfter: jitter(resync)}, nil
	case errors.Is(err, cloud.ErrThrottled):
		return reconcile.Result{RequeueAfter: jitter(5 * time.Second)}, nil
	case errors.Is(err, cloud.ErrStale):
		return reconcile.Result{RequeueAfter: jitter(time.Second)}, nil
	}
	return reconcile.Result{}, err
}

func resyncOf(firewall *v1alpha1.CloudFirewall) time.Duration {
	if firewall.Spec.Resync != nil {
		return firewall.Spec.Resync.Duration
	}
	return defaultResync
}

// jitter spreads d by a tenth, so that firewalls do not come back together.
func jitter(d time.Duration) time.Duration {
	return d*9/10 + rand.N(d/5) //nolint:gosec // not for secrets
}

func observeCloud(firewall string, reports []cloud.Report) {
	for _, report := range reports {
		cloudCalls.WithLabelValues(firewall, "list").Add(float64(report.Calls.List))
		cloudCalls.WithLabelValues(firewall, "authorize").Add(float64(report.Calls.Authorize))
		cloudCalls.WithLabelValues(firewall, "revoke").Add(float64(report.Calls.Revoke))
		for _, g := range report.Groups {
			cloudRules.WithLabelValues(firewall, g.ID, "ours").Set(float64(len(g.Ours)))
			cloudRules.WithLabelValues(firewall, g.ID, "foreign").Set(float64(len(g.Foreign)))
		}
	}
}
