package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/compile"
)

// Keys are credentials from a Secret.
type Keys struct{ ID, Secret, Session string }

// Connect opens a provider for a CloudFirewall, with keys if it names a Secret. What it
// returns may be a cloud.Directory besides. cmd/manager holds the map from the
// provider's name to it.
type Connect func(context.Context, v1alpha1.CloudFirewallSpec, *Keys) (cloud.Provider, error)

// gate is one CloudFirewall's way to its cloud, and what is remembered of it.
type gate struct {
	opened    connection
	provider  cloud.Provider
	firewall  *cloud.Firewall
	directory cloud.Directory
}

// connection is what a gate was opened with.
type connection struct {
	provider                           v1alpha1.Provider
	region, endpoint, role, externalID string
	priority                           int32
	keys                               Keys
}

// gate opens the firewall's way to its cloud, again if it is another one now.
func (r *CloudFirewall) gate(ctx context.Context, f *v1alpha1.CloudFirewall) (*gate, error) {
	keys, err := r.keys(ctx, f.Spec.Credentials)
	if err != nil {
		return nil, err
	}
	want := connectionOf(f.Spec, keys)
	r.mu.Lock()
	g := r.gates[f.Name]
	r.mu.Unlock()
	if g != nil && g.opened == want {
		return g, nil
	}
	open := r.Providers[f.Spec.Provider]
	if open == nil {
		return nil, fmt.Errorf("%w: this manager has no provider %q", cloud.ErrInvalid, f.Spec.Provider)
	}
	p, err := open(ctx, f.Spec, keys)
	if err != nil {
		return nil, err
	}
	directory, _ := p.(cloud.Directory)
	p = cloud.Leased(p, r.Leading)
	g = &gate{want, p, cloud.NewFirewall(p, r.Now), directory}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gates == nil {
		r.gates = map[string]*gate{}
	}
	r.gates[f.Name] = g
	return g, nil
}

func connectionOf(spec v1alpha1.CloudFirewallSpec, keys *Keys) connection {
	c := connection{provider: spec.Provider, region: spec.Region, endpoint: spec.Endpoint}
	if spec.Priority != nil {
		c.priority = *spec.Priority
	}
	if spec.Credentials != nil && spec.Credentials.AssumeRole != nil {
		c.role, c.externalID = spec.Credentials.AssumeRole.ARN, spec.Credentials.AssumeRole.ExternalID
	}
	if keys != nil {
		c.keys = *keys
	}
	return c
}

// keys reads the Secret that the credentials name, in our own namespace; nil without.
func (r *CloudFirewall) keys(ctx context.Context, c *v1alpha1.CloudCredentials) (*Keys, error) {
	if c == nil || c.SecretRef == nil {
		return nil, nil
	}
	name := types.NamespacedName{Namespace: r.Snapshot.Namespace, Name: string(c.SecretRef.Name)}
	secret, err := get[corev1.Secret](ctx, r.Snapshot.Live, name)
	if err != nil {
		return nil, fmt.Errorf("read Secret %s: %w", name, err)
	}
	if secret == nil {
		return nil, fmt.Errorf("%w: spec.credentials.secretRef: there is no Secret %s; create it with the keys accessKeyID and accessKeySecret", cloud.ErrInvalid, name)
	}
	keys := &Keys{string(secret.Data["accessKeyID"]), string(secret.Data["accessKeySecret"]), string(secret.Data["sessionToken"])}
	if keys.ID == "" || keys.Secret == "" {
		return nil, fmt.Errorf("%w: spec.credentials.secretRef: Secret %s lacks the key accessKeyID or accessKeySecret", cloud.ErrInvalid, name)
	}
	return keys, nil
}

// forget drops what is remembered of a firewall that is gone.
func (r *CloudFirewall) forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.gates, name)
	delete(r.answers, name)
	delete(r.rivals, name)
	delete(r.runs, name)
}

// answered is what the firewall's cloud was last heard to say.
func (r *CloudFirewall) answered(name string) map[string]cloudAnswer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answers[name]
}

// groupsOf returns the groups that the firewall lists, by id or by tags, and those that
// it listed before and that may hold rules of ours. Where tags find nothing, for whatever
// reason, those of before are still listed: what was revoked must go there as well, and
// nothing is to be emptied because of a tag. err says so.
func (g *gate) groupsOf(ctx context.Context, f *v1alpha1.CloudFirewall) (listed, vanished []string, err error) {
	var failed []error
	for _, named := range f.Spec.Groups {
		if named.ID != "" {
			listed = append(listed, named.ID)
			continue
		}
		found, err := g.tagged(ctx, f, named)
		listed, failed = append(listed, found...), append(failed, err)
	}
	for _, before := range f.Status.Groups {
		if !slices.Contains(listed, before.ID) {
			vanished = append(vanished, before.ID)
		}
	}
	if err = errors.Join(failed...); err != nil {
		listed, vanished = append(listed, vanished...), nil
	}
	return listed, vanished, err
}

// tagged finds groups by their tags; none is an error.
func (g *gate) tagged(ctx context.Context, f *v1alpha1.CloudFirewall, named v1alpha1.SecurityGroup) ([]string, error) {
	if g.directory == nil {
		return nil, fmt.Errorf("%w: groups can't be found by tags in %s", cloud.ErrInvalid, f.Spec.Provider)
	}
	tags := map[string]string{}
	for k, v := range named.Tags {
		tags[k] = string(v)
	}
	found, err := g.directory.Tagged(ctx, tags)
	if err != nil {
		return nil, fmt.Errorf("look for groups by tags: %w", err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: no security group in %s has the tags %s; tag one, or name it by id", cloud.ErrInvalid, f.Spec.Region, spellTags(tags))
	}
	return found, nil
}

func spellTags(tags map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		parts = append(parts, k+"="+tags[k])
	}
	return strings.Join(parts, ", ")
}

// wantOf is what the firewall wants of its groups.
func (r *CloudFirewall) wantOf(f *v1alpha1.CloudFirewall, groups []string, grants []cloud.Grant, pools map[string]cloud.Pool) cloud.Want {
	want := cloud.Want{
		Owner: r.Owner, Groups: groups, Grants: grants, Pools: pools,
		Confirmed: r.confirmed(f),
		Coarsen:   f.Spec.OnBudget == v1alpha1.BudgetCoarsen,
		Observe:   f.Spec.Mode == v1alpha1.CloudObserve,
		Report:    f.Spec.Drift == v1alpha1.DriftReport,
	}
	if f.Spec.Limits != nil {
		n := int(f.Spec.Limits.RulesPerGroup)
		want.Limits = cloud.Count{IPv4: n, IPv6: n}
		if f.Spec.Provider == v1alpha1.ProviderAlibaba {
			want.Limits = cloud.Count{All: n}
		}
	}
	return want
}

// confirmed says whether a person has told us that it is this cluster which may change
// the firewall's rules, and not a copy of it.
func (r *CloudFirewall) confirmed(f *v1alpha1.CloudFirewall) bool {
	_, uid, named := strings.Cut(r.Owner, "/")
	return named && f.Annotations[v1alpha1.AnnotationConfirmedCluster] == uid
}

// cloned returns the other firewall in whose groups a copy of this cluster has rules, ""
// if none is known: then no firewall is to be changed, for the copy's are the same.
func (r *CloudFirewall) cloned(name string, seen []cloud.Report) (other string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rivals == nil {
		r.rivals = map[string]bool{}
	}
	if seen != nil {
		r.rivals[name] = slices.ContainsFunc(seen, func(report cloud.Report) bool { return len(report.Rivals) > 0 })
	}
	for firewall, rival := range r.rivals {
		if rival && firewall != name && (other == "" || firewall < other) {
			other = firewall
		}
	}
	return other
}

// poolsOf bounds the rules of each pool.
func poolsOf(pools map[string]compile.CloudPool) map[string]cloud.Pool {
	out := make(map[string]cloud.Pool, len(pools))
	for name, p := range pools {
		out[name] = cloud.Pool{Ports: p.Ports, Rules: p.Rules}
	}
	return out
}

// finish revokes the rules of a CloudFirewall that is being deleted, if it is to. done
// says that nothing holds it any more.
func (r *CloudFirewall) finish(ctx context.Context, f *v1alpha1.CloudFirewall) (reports []cloud.Report, done bool, err error) {
	if !slices.Contains(f.Finalizers, v1alpha1.FinalizerRevoke) {
		return nil, true, nil
	}
	if f.Spec.DeletionPolicy != v1alpha1.CloudRevoke {
		return nil, true, r.hold(ctx, f, false)
	}
	if f.Spec.Mode == v1alpha1.CloudObserve { // which is never to change the cloud, and never would end
		if left := rulesLeft(f.Status.Groups); left != "" {
			r.Events.Eventf(f, nil, corev1.EventTypeWarning, "RulesLeft", "Release",
				"mode is Observe, so nothing was revoked: rules of ours are left in %s; remove them by hand, or let a CloudFirewall with mode: Enforce list the groups", left)
		}
		return nil, true, r.hold(ctx, f, false)
	}
	g, err := r.gate(ctx, f)
	if err != nil {
		return nil, false, err
	}
	var all v1alpha1.CloudFirewallList
	if err := r.List(ctx, &all, readOnly); err != nil {
		return nil, false, err
	}
	// Those of the spec as well: a manager that died may have written before it said so.
	listed, vanished, err := g.groupsOf(ctx, f)
	if err != nil && !errors.Is(err, cloud.ErrInvalid) {
		return nil, false, err
	}
	_, groups, _ := undisputed(f, all.Items, nil, append(listed, vanished...)) // what another firewall lists is the other's
	if reports, err = r.empty(ctx, g, f, groups); err != nil {
		return reports, false, err
	}
	return reports, true, r.hold(ctx, f, false)
}

// rulesLeft are the groups in which rules of ours were last seen.
func rulesLeft(groups []v1alpha1.GroupStatus) string {
	var out []string
	for _, g := range groups {
		if g.Ours > 0 {
			out = append(out, fmt.Sprintf("%s (%d)", g.ID, g.Ours))
		}
	}
	return strings.Join(out, ", ")
}

// announce names the groups in status before anything is written to them: one that is taken
// off the list is emptied because status names it, whatever became meanwhile of the process
// that wrote there, and whichever other group it could not read.
func (r *CloudFirewall) announce(ctx context.Context, f *v1alpha1.CloudFirewall, listed []string) error {
	known := len(f.Status.Groups)
	for _, group := range listed {
		if !slices.ContainsFunc(f.Status.Groups, func(g v1alpha1.GroupStatus) bool { return g.ID == group }) {
			f.Status.Groups = append(f.Status.Groups, v1alpha1.GroupStatus{ID: group})
		}
	}
	if len(f.Status.Groups) == known || f.Spec.Mode == v1alpha1.CloudObserve {
		return nil
	}
	return r.Status().Update(ctx, f, client.FieldOwner(v1alpha1.FieldOwner))
}

// empty revokes all of our rules in the groups.
func (r *CloudFirewall) empty(ctx context.Context, g *gate, f *v1alpha1.CloudFirewall, groups []string) (reports []cloud.Report, err error) {
	var failed []error
	for _, group := range groups {
		want := r.wantOf(f, []string{group}, nil, nil)
		want.Report = false
		report, err := cloud.Sync(ctx, g.provider, want)
		if errors.Is(err, cloud.ErrInvalid) && len(report.Unlisted) > 0 {
			continue // the group itself is gone, and our rules with it
		}
		reports, failed = append(reports, report), append(failed, err)
	}
	return reports, errors.Join(failed...)
}

// hold puts the finalizer on the firewall, or takes it off.
func (r *CloudFirewall) hold(ctx context.Context, f *v1alpha1.CloudFirewall, on bool) error {
	if slices.Contains(f.Finalizers, v1alpha1.FinalizerRevoke) == on {
		return nil
	}
	f.Finalizers = slices.DeleteFunc(slices.Clone(f.Finalizers), func(s string) bool { return s == v1alpha1.FinalizerRevoke })
	if on {
		f.Finalizers = append(f.Finalizers, v1alpha1.FinalizerRevoke)
	}
	status := f.Status
	err := r.Update(ctx, f)
	f.Status = status
	return err
}
