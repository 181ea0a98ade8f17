package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/compile"
)

// lookupAgain is how soon a lookup is tried again that failed for a reason that may pass
// by itself.
const lookupAgain = 30 * time.Second

// cloudAnswer is what a cloud said of a prefix list or a security group, and what is held to
// meanwhile.
type cloudAnswer struct {
	asked time.Time
	// known: it answered once, and entries, or absent, are of the last time it did.
	known   bool
	entries []netip.Prefix
	absent  bool
	problem string
	// passing: the problem may go by itself.
	passing bool
}

// lookUp asks the cloud for the prefix lists and security groups that are named as
// sources, if it is time to, and keeps the lists' entries in AddressSets. A lookup that
// fails takes nothing away: what was last known stays. The error is the API server's.
func (r *CloudFirewall) lookUp(ctx context.Context, name string, firewall *v1alpha1.CloudFirewall) error {
	want, err := r.lookups(ctx, name)
	if err != nil {
		return err
	}
	if firewall != nil {
		r.ask(ctx, firewall, want)
	} else {
		r.forget(name)
	}
	var sets v1alpha1.AddressSetList
	if err := r.List(ctx, &sets, readOnly); err != nil {
		return err
	}
	return errors.Join(r.keep(ctx, name, want, sets.Items), r.sweep(ctx, name, want, sets.Items))
}

// lookups are what the firewall is to be asked for.
func (r *CloudFirewall) lookups(ctx context.Context, name string) (compile.Lookups, error) {
	var pools v1alpha1.NodePortPoolList
	if err := r.List(ctx, &pools, readOnly); err != nil {
		return compile.Lookups{}, err
	}
	var allocations v1alpha1.NodePortAllocationList
	if err := r.List(ctx, &allocations, readOnly); err != nil {
		return compile.Lookups{}, err
	}
	var failed error
	named := func(id v1alpha1.PrefixListID) bool {
		var policies v1alpha1.NodePortPolicyList
		err := r.List(ctx, &policies, readOnly, client.MatchingFields{byList: string(id)})
		failed = errors.Join(failed, err)
		return len(policies.Items) > 0
	}
	return compile.LookupsOf(name, pools.Items, named, allocations.Items), failed
}

// ask brings the answers up to date, and forgets those that nobody needs.
func (r *CloudFirewall) ask(ctx context.Context, firewall *v1alpha1.CloudFirewall, want compile.Lookups) {
	before, now := r.answered(firewall.Name), r.Now()
	answers := map[string]cloudAnswer{}
	due := func(id string) bool {
		last, asked := before[id]
		answers[id] = last
		rest := resyncOf(firewall) * 9 / 10
		if last.passing {
			rest = min(rest, lookupAgain)
		}
		return !asked || now.Sub(last.asked) >= rest
	}
	for _, id := range want.Lists {
		if due(string(id)) {
			answers[string(id)] = r.askList(ctx, firewall, id, before[string(id)])
		}
	}
	for _, id := range want.Groups {
		if due(string(id)) {
			answers[string(id)] = r.askGroup(ctx, firewall, string(id), before[string(id)])
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answers == nil {
		r.answers = map[string]map[string]cloudAnswer{}
	}
	r.answers[firewall.Name] = answers
}

// directory is what the firewall's cloud looks things up in.
func (r *CloudFirewall) directory(ctx context.Context, firewall *v1alpha1.CloudFirewall) (cloud.Directory, error) {
	g, err := r.gate(ctx, firewall)
	if err != nil {
		return nil, err
	}
	if g.directory != nil {
		return g.directory, nil
	}
	return nil, fmt.Errorf("%w: provider %s of this manager looks nothing up", cloud.ErrInvalid, firewall.Spec.Provider)
}

func (r *CloudFirewall) askList(ctx context.Context, firewall *v1alpha1.CloudFirewall, id v1alpha1.PrefixListID, last cloudAnswer) cloudAnswer {
	last.asked = r.Now()
	var entries []netip.Prefix
	d, err := r.directory(ctx, firewall)
	if err == nil {
		entries, err = d.PrefixList(ctx, string(id))
	}
	if err != nil {
		last.problem, last.passing = fmt.Sprintf("%v; what was last known of it stays in force", err), passes(err)
		return last
	}
	last.known, last.passing = true, false
	last.entries, last.problem = compile.List{Firewall: v1alpha1.ObjectName(firewall.Name), ID: id}.Usable(entries)
	return last
}

func (r *CloudFirewall) askGroup(ctx context.Context, firewall *v1alpha1.CloudFirewall, id string, last cloudAnswer) cloudAnswer {
	last.asked = r.Now()
	d, err := r.directory(ctx, firewall)
	if err == nil {
		err = d.Exists(ctx, id)
	}
	switch {
	case err == nil:
		last.known, last.absent, last.problem, last.passing = true, false, "", false
	case errors.Is(err, cloud.ErrInvalid):
		last.known, last.absent, last.passing = true, true, false
		last.problem = fmt.Sprintf("%v; nobody is admitted by it here", err)
	default: // what it was before; a group that does not exist admits nobody anyhow
		last.problem, last.passing = fmt.Sprintf("%v; it is held to be what it last was", err), passes(err)
	}
	return last
}

// passes says whether the trouble may go by itself.
func passes(err error) bool {
	switch cloudReason(err) {
	case v1alpha1.ReasonThrottled, v1alpha1.ReasonUnreachable:
		return true
	}
	return false
}

// keep writes the AddressSets of the lists that are known, where they differ.
func (r *CloudFirewall) keep(ctx context.Context, name string, want compile.Lookups, have []v1alpha1.AddressSet) error {
	for _, id := range want.Lists {
		last := r.answered(name)[string(id)]
		if !last.known {
			continue // they stay as an earlier manager left them
		}
		for _, set := range (compile.List{Firewall: v1alpha1.ObjectName(name), ID: id}).Sets(last.entries, have) {
			i := slices.IndexFunc(have, func(s v1alpha1.AddressSet) bool { return s.Name == set.Name })
			if i < 0 {
				if err := r.Create(ctx, &set, client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
					return err
				}
				continue
			}
			if equality.Semantic.DeepEqual(have[i].Spec, set.Spec) {
				continue
			}
			changed := have[i].DeepCopy()
			changed.Spec = set.Spec // the resource version makes a lost race a conflict
			if err := r.Update(ctx, changed, client.FieldOwner(v1alpha1.FieldOwner)); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweep deletes the AddressSets of lists that nobody refers to any more. Allocations
// name the lists, so by then no node goes by them.
func (r *CloudFirewall) sweep(ctx context.Context, name string, want compile.Lookups, have []v1alpha1.AddressSet) error {
	for i := range have {
		id, _ := compile.ListID(&have[i])
		list := compile.List{Firewall: v1alpha1.ObjectName(name), ID: id}
		if !list.Has(&have[i]) || want.Keeps(list.ID) {
			continue
		}
		only := client.Preconditions{UID: ptr.To(have[i].UID), ResourceVersion: ptr.To(have[i].ResourceVersion)}
		if err := r.Delete(ctx, have[i].DeepCopy(), only); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// grants are the admissions without those to groups that the cloud does not have: it
// would refuse them, with all that is told it in the same call.
func (r *CloudFirewall) grants(name string, admissions []compile.Admission) []cloud.Grant {
	var out []cloud.Grant
	for _, a := range admissions {
		if a.Peer == "" || !r.answered(name)[a.Peer].absent {
			out = append(out, cloud.Grant(a))
		}
	}
	return out
}

// looked is what policies conclude from the answers.
func (r *CloudFirewall) looked(name string) map[string]compile.LookupSeen {
	seen := map[string]compile.LookupSeen{}
	for id, a := range r.answered(name) {
		seen[id] = compile.LookupSeen{Absent: a.absent, Problem: a.problem}
	}
	return seen
}

// lookupStatus lists the answers, those with a problem first.
func (r *CloudFirewall) lookupStatus(name string) []v1alpha1.Lookup {
	const most = 64
	var out []v1alpha1.Lookup
	for id, a := range r.answered(name) {
		out = append(out, v1alpha1.Lookup{ID: id, Networks: int32(len(a.entries)), Problem: a.problem})
	}
	slices.SortFunc(out, compareLookups)
	return out[:min(len(out), most)]
}

func compareLookups(a, b v1alpha1.Lookup) int {
	if (a.Problem == "") != (b.Problem == "") {
		if a.Problem == "" {
			return 1
		}
		return -1
	}
	if a.ID < b.ID {
		return -1
	}
	return 1
}

// sooner says when to come back, if a lookup is to be tried again before.
func (r *CloudFirewall) sooner(name string, result reconcile.Result) reconcile.Result {
	for _, a := range r.answered(name) {
		if a.passing && result.RequeueAfter > lookupAgain {
			result.RequeueAfter = jitter(lookupAgain * 11 / 10)
		}
	}
	return result
}
