package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/ports"
)

// Bounds of the lists in a plan.
const (
	maxPlannedRules  = 64
	maxPlannedGrants = 32
)

// plan says what a policy in mode Plan would do now, nil for any other.
func (r *Policy) plan(ctx context.Context, view View) (*v1alpha1.PolicyPlan, error) {
	if view.Wish == nil || !view.Wish.Planned || view.Wish.Expired {
		return nil, nil
	}
	wish := *view.Wish
	wish.Planned = false
	view.Wish = &wish
	var plan v1alpha1.PolicyPlan
	added, problem, err := r.planned(ctx, view)
	if err != nil {
		return nil, err
	}
	plan.Problem = problem
	now := metav1.NewMicroTime(r.Now())
	after := slices.Concat(view.Allocations, added)
	would := map[string]v1alpha1.NodePortAllocation{}
	for _, a := range after {
		before := a.Spec.State
		a.Spec = compile.Allocation(&a, view.Policy, view.Wish, nil, after, view.Cluster, now)
		would[a.Name] = a
		if before == v1alpha1.AllocationOpen && a.Spec.State == v1alpha1.AllocationClosed {
			plan.Closes = append(plan.Closes, int32(compile.NumberOf(&a)))
		}
	}
	for _, a := range would {
		if a.Spec.State != v1alpha1.AllocationOpen {
			continue
		}
		for _, p := range a.Spec.Ports {
			plan.Ports = append(plan.Ports, v1alpha1.PlannedPort{
				Name: p.Name, Protocol: string(p.Protocol), Port: p.Port, NodePort: int32(compile.NumberOf(&a)), Pool: a.Spec.Pool,
			})
		}
		for _, atom := range view.Places.Passing(&a) {
			plan.Nodes = append(plan.Nodes, fmt.Sprintf("%s/%s from %s", strings.ToLower(string(atom.Protocol)), atom.Ports, atom.Source))
		}
	}
	slices.Sort(plan.Closes)
	slices.SortFunc(plan.Ports, func(a, b v1alpha1.PlannedPort) int {
		return strings.Compare(fmt.Sprint(a.NodePort, a.Protocol), fmt.Sprint(b.NodePort, b.Protocol))
	})
	slices.Sort(plan.Nodes)
	plan.Nodes = plan.Nodes[:min(len(plan.Nodes), maxPlannedRules)]
	plan.Cloud, err = r.plannedClouds(ctx, view, would)
	return &plan, err
}

// whyNot says, in a plan, what is in the way.
var whyNot = map[ports.Outcome]string{
	ports.Exhausted: "none is free",
	ports.OverQuota: "the quota of the namespace is used up",
	ports.Outside:   "the pinned one is not armed yet",
	ports.Taken:     "the pinned one is held by somebody else",
}

// planned returns the allocations that would be made.
func (r *Policy) planned(ctx context.Context, view View) (added []v1alpha1.NodePortAllocation, problem string, err error) {
	missing := compile.Assign(view.Wish, view.Allocations).Missing
	if len(missing) == 0 {
		return nil, "", nil
	}
	supply, err := r.Snapshot.supply(ctx, view.Pools, nil)
	if err != nil {
		return nil, "", err
	}
	carrier, err := r.Snapshot.carrier(ctx, view)
	if err != nil {
		return nil, "", err
	}
	var asked []ports.Request
	for _, n := range missing {
		asked = append(asked, supply.request(view, view.Wish.Numbers[n], carrier))
	}
	for i, choice := range ports.Choose(asked, supply.pools, supply.taken, supply.neighbours) {
		number := view.Wish.Numbers[missing[i]]
		if choice.Outcome != ports.Chosen && number.Holding && choice.Outcome == ports.Taken {
			choice.Outcome, choice.Number, choice.Pool = ports.Chosen, number.Pin, compile.PoolOf(view.Pools, number.Pin).Name // it would be adopted
		}
		if choice.Outcome != ports.Chosen {
			problem = fmt.Sprintf("no number would be had in pool %s now: %s", strings.Join(view.Wish.Pools, ", "), whyNot[choice.Outcome])
			continue
		}
		added = append(added, v1alpha1.NodePortAllocation{
			ObjectMeta: metav1.ObjectMeta{Name: numberName(choice.Number), CreationTimestamp: metav1.NewTime(r.Now())},
			Spec:       view.Wish.Claim(number, choice.Pool),
		})
	}
	return added, problem, nil
}

// plannedClouds compares the rules that each firewall holds now with those it would.
func (r *Policy) plannedClouds(ctx context.Context, view View, would map[string]v1alpha1.NodePortAllocation) ([]v1alpha1.PlannedCloud, error) {
	var now v1alpha1.NodePortAllocationList
	if err := r.List(ctx, &now, readOnly); err != nil {
		return nil, err
	}
	var names []string
	var then []v1alpha1.NodePortAllocation
	for _, a := range would {
		for _, f := range a.Spec.CloudFirewalls {
			names = append(names, string(f))
		}
		then = append(then, a)
	}
	for _, a := range now.Items {
		if _, replaced := would[a.Name]; !replaced {
			then = append(then, a)
		}
	}
	slices.Sort(names)
	var out []v1alpha1.PlannedCloud
	for _, name := range slices.Compact(names) {
		before, after := granted(name, now.Items, view.Places), granted(name, then, view.Places)
		c := v1alpha1.PlannedCloud{Firewall: name, Add: without(after, before), Remove: without(before, after)}
		c.TotalAdd, c.TotalRemove = int32(len(c.Add)), int32(len(c.Remove))
		c.Add, c.Remove = c.Add[:min(len(c.Add), maxPlannedGrants)], c.Remove[:min(len(c.Remove), maxPlannedGrants)]
		if c.TotalAdd+c.TotalRemove > 0 {
			out = append(out, c)
		}
	}
	return out, nil
}

// granted spells the rules that a firewall holds for the allocations.
func granted(firewall string, allocations []v1alpha1.NodePortAllocation, places compile.Places) []string {
	var grants []cloud.Grant
	for _, a := range compile.Cloud(firewall, allocations, places) {
		grants = append(grants, cloud.Grant(a))
	}
	var out []string
	for _, g := range cloud.Merge(grants) {
		source := g.Peer
		if source == "" {
			source = g.Source.String()
		}
		out = append(out, fmt.Sprintf("%s/%s from %s", strings.ToLower(string(g.Protocol)), g.Ports, source))
	}
	return out
}

// without returns what is in a and not in b.
func without(a, b []string) []string {
	there := make(map[string]bool, len(b))
	for _, s := range b {
		there[s] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return there[s] })
}
