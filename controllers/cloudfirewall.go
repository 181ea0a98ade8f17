package controllers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/tools/events"
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
	Events  events.EventRecorder
	// mu guards gates and answers: firewalls are served side by side, so that a region
	// that does not answer delays only its own.
	mu    sync.Mutex
	gates map[string]*gate
	// rivals are the firewalls in whose groups a copy of this cluster has rules.
	rivals map[string]bool
	// answers of the clouds, by firewall and id.
	answers map[string]map[string]cloudAnswer
	// runs are the last ones that wrote, by firewall.
	runs map[string]run
}

// Reconcile serves one CloudFirewall.
func (r *CloudFirewall) Reconcile(ctx context.Context, key reconcile.Request) (reconcile.Result, error) {
	firewall, err := get[v1alpha1.CloudFirewall](ctx, r, key.NamespacedName)
	if err != nil {
		return reconcile.Result{}, err
	}
	if firewall == nil {
		r.Clouds.Forget(key.Name)
		forgetCloud(key.Name)
		return conflict(r.lookUp(ctx, key.Name, nil))
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if firewall.DeletionTimestamp != nil {
		return r.goes(ctx, firewall)
	}
	if err := r.hold(ctx, firewall, firewall.Spec.DeletionPolicy == v1alpha1.CloudRevoke); err != nil {
		return conflict(err)
	}
	if pause, err := r.pause(ctx, firewall); pause > 0 || err != nil {
		return reconcile.Result{RequeueAfter: pause}, err
	}
	began := r.Now()
	lookErr := r.lookUp(ctx, firewall.Name, firewall)
	seen, syncErr := r.sync(ctx, firewall)
	r.ran(firewall, seen, syncErr)
	observeCloud(firewall.Name, seen.reports)
	if syncErr != nil {
		log.FromContext(ctx).Info("cloud firewall not in force", "firewall", firewall.Name, "reason", cloudReason(syncErr), "error", syncErr.Error())
	}
	reading := r.reading(firewall.Name, seen.reports, syncErr, began)
	r.Clouds.Saw(firewall.Name, reading)
	if err := cmp.Or(lookErr, r.writeStatus(ctx, firewall, seen, syncErr)); err != nil {
		return conflict(err)
	}
	result, err := again(firewall, syncErr)
	return r.sooner(firewall.Name, result), err
}

// goes serves a CloudFirewall that is being deleted.
func (r *CloudFirewall) goes(ctx context.Context, f *v1alpha1.CloudFirewall) (reconcile.Result, error) {
	began := r.Now()
	reports, done, err := r.finish(ctx, f)
	if done {
		return conflict(cmp.Or(err, r.lookUp(ctx, f.Name, nil)))
	}
	r.Clouds.Saw(f.Name, r.reading(f.Name, reports, err, began))
	if err := r.writeStatus(ctx, f, synced{reports: reports}, err); err != nil {
		return conflict(err)
	}
	return again(f, err)
}

// synced is what was seen of the groups, and which are listed.
type synced struct {
	grants  []cloud.Grant // what was wished
	reports []cloud.Report
	listed  []string
}

// sync serves the listed groups, and empties those that were listed before.
func (r *CloudFirewall) sync(ctx context.Context, firewall *v1alpha1.CloudFirewall) (seen synced, err error) {
	g, err := r.gate(ctx, firewall)
	if err != nil {
		return seen, err
	}
	var allocations []v1alpha1.NodePortAllocation
	if seen.grants, allocations, err = r.wished(ctx, firewall.Name); err != nil {
		return seen, err
	}
	pools, err := r.Snapshot.Pools(ctx)
	if err != nil {
		return seen, err
	}
	var all v1alpha1.CloudFirewallList
	if err := r.List(ctx, &all); err != nil {
		return seen, err
	}
	listed, vanished, unfound := g.groupsOf(ctx, firewall)
	seen.listed = listed
	listed, vanished, err = undisputed(firewall, all.Items, listed, vanished)
	err = errors.Join(unfound, err)
	if sayErr := r.announce(ctx, firewall, listed); sayErr != nil {
		return seen, sayErr
	}
	if len(listed) > 0 {
		want := r.wantOf(firewall, listed, seen.grants, poolsOf(compile.CloudPools(pools, allocations)))
		if other := r.cloned(firewall.Name, nil); other != "" && !want.Confirmed {
			want.Observe = true
			err = errors.Join(err, fmt.Errorf("%w: see CloudFirewall %s", cloud.ErrCloned, other))
		}
		report, syncErr := g.firewall.Sync(ctx, want)
		seen.reports, err = append(seen.reports, report), errors.Join(err, syncErr)
		r.cloned(firewall.Name, seen.reports)
	}
	emptied, emptyErr := r.empty(ctx, g, firewall, vanished)
	seen.reports = append(seen.reports, emptied...)
	return seen, errors.Join(err, emptyErr)
}

// wished is what the open allocations ask of the firewall, and the allocations.
func (r *CloudFirewall) wished(ctx context.Context, name string) ([]cloud.Grant, []v1alpha1.NodePortAllocation, error) {
	var allocations v1alpha1.NodePortAllocationList
	if err := r.List(ctx, &allocations, readOnly); err != nil {
		return nil, nil, err
	}
	cluster, err := r.Snapshot.Cluster(ctx)
	if err != nil {
		return nil, nil, err
	}
	return r.grants(name, compile.Cloud(name, allocations.Items, cluster.Places)), allocations.Items, nil
}

// undisputed leaves each group to one CloudFirewall, the oldest that lists it (then
// by name): the rules of all of them bear the cluster's one signature, so two would
// go on revoking each other's. A group that one has let go and another lists is
// the other's to empty. err names the groups that are an older one's.
func undisputed(f *v1alpha1.CloudFirewall, all []v1alpha1.CloudFirewall, listed, vanished []string) (own, letGo []string, err error) {
	var olders []error
	others := func(group string, younger bool) *v1alpha1.CloudFirewall {
		i := slices.IndexFunc(all, func(o v1alpha1.CloudFirewall) bool {
			return o.Name != f.Name && o.DeletionTimestamp == nil && o.Spec.Provider == f.Spec.Provider && o.Spec.Region == f.Spec.Region && lists(&o, group) &&
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

// lists says whether the firewall lists the group: by id, or as far as is known by tags.
func lists(f *v1alpha1.CloudFirewall, group string) bool {
	byTags := false
	for _, g := range f.Spec.Groups {
		if g.ID == group {
			return true
		}
		byTags = byTags || g.ID == ""
	}
	return byTags && slices.ContainsFunc(f.Status.Groups, func(g v1alpha1.GroupStatus) bool { return g.ID == group })
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
		for _, g := range report.Doubtful {
			reading.Doubtful = append(reading.Doubtful, compile.Admission(g))
		}
		for _, g := range report.Groups {
			seen := compile.GroupSeen{ID: g.ID}
			for _, ours := range g.Ours {
				seen.Ours = append(seen.Ours, ours.Rule)
			}
			for _, s := range g.Shadowing {
				seen.Shadowing = append(seen.Shadowing, compile.Admission{Rule: s.Rule, Description: s.Description})
			}
			for _, h := range g.Dropping { // what was wanted then is not all that is asked about
				seen.Hiding = append(seen.Hiding, compile.Admission{Rule: h.Rule, Peer: h.Peer})
			}
			for _, c := range report.Coarse {
				seen.Coarse = append(seen.Coarse, compile.Admission{Rule: c.Rule, Peer: c.Peer})
			}
			reading.Groups = append(reading.Groups, seen)
		}
	}
	if complete {
		reading.Read, reading.Began = true, began
	} else {
		// What a group that was not read admits now, nobody knows: it counts as it was.
		reading.Groups, reading.InForce, reading.Doubtful = last.Groups, last.InForce, append(reading.Doubtful, last.Doubtful...)
	}
	slices.SortFunc(reading.InForce, compile.CompareAdmissions)
	slices.SortFunc(reading.Doubtful, compile.CompareAdmissions)
	reading.Doubtful = slices.Compact(reading.Doubtful)
	if err != nil {
		reading.Reason, reading.Message = cloudReason(err), err.Error()
	}
	return reading
}

// jitter spreads d by a tenth, so that firewalls do not come back together.
func jitter(d time.Duration) time.Duration {
	return d*9/10 + rand.N(d/5) //nolint:gosec // not for secrets
}

func observeCloud(firewall string, reports []cloud.Report) {
	complete := !slices.ContainsFunc(reports, func(r cloud.Report) bool { return len(r.Unlisted) > 0 })
	if complete && len(reports) > 0 { // a group may have been taken off the list
		forgetCloud(firewall)
	}
	for _, report := range reports {
		cloudRestored.WithLabelValues(firewall).Add(float64(report.Restored))
		cloudCalls.WithLabelValues(firewall, "list").Add(float64(report.Calls.List))
		cloudCalls.WithLabelValues(firewall, "authorize").Add(float64(report.Calls.Authorize))
		cloudCalls.WithLabelValues(firewall, "revoke").Add(float64(report.Calls.Revoke))
		for _, g := range report.Groups {
			cloudRules.WithLabelValues(firewall, g.ID, "ours").Set(float64(len(g.Ours)))
			cloudRules.WithLabelValues(firewall, g.ID, "foreign").Set(float64(len(g.Foreign)))
			observeBudget(firewall, g)
		}
	}
}

// observeBudget tells of the families that the cloud counts.
func observeBudget(firewall string, g cloud.GroupReport) {
	used, limit := g.Budget.Used, g.Budget.Limit
	for family, count := range map[string][2]int{"IPv4": {used.IPv4, limit.IPv4}, "IPv6": {used.IPv6, limit.IPv6}, "All": {used.All, limit.All}} {
		if count[1] > 0 && count[1] < math.MaxInt32 { // else it is counted otherwise, or has no limit that is known
			cloudUsed.WithLabelValues(firewall, g.ID, family).Set(float64(count[0]))
			cloudLimit.WithLabelValues(firewall, g.ID, family).Set(float64(count[1]))
		}
	}
}

// forgetCloud drops what was told of a firewall's groups; what was counted stays.
func forgetCloud(firewall string) {
	for _, gauge := range []*prometheus.GaugeVec{cloudRules, cloudUsed, cloudLimit} {
		gauge.DeletePartialMatch(prometheus.Labels{"firewall": firewall})
	}
}
