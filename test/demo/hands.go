package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/test/stage"
)

// wide is what people add when something must work at once.
const wide = "TCP 30000-32767 0.0.0.0/0"

// broken is a message on lines of their own.
var broken = strings.NewReplacer(": ", ":\n", "; ", ";\n")

// byHand: people edit the security groups, and that is noticed.
func (p *play) byHand(ctx context.Context) error {
	p.say.act("People edit the security groups by hand")
	var policy v1alpha1.NodePortPolicy
	if err := p.Client.Get(ctx, shop, &policy); err != nil {
		return err
	}
	p.say.note("Somebody opens 30000-32767 to 0.0.0.0/0 in both clouds. Times since then; the groups are\n" +
		"read again every 10 s here, give or take one:")
	began := time.Now()
	for _, a := range p.clouds {
		a.rules.Seed(stage.Group, cloudtest.Foreign(wide))
	}
	for i, said := range p.sideBySide(func(a *account) error { return p.shadowing(ctx, a, true) }) {
		p.say.check(after(said.at, began), said.err, "CloudFirewall %s lists it under shadowing", p.clouds[i].firewall)
	}
	told, err := p.shadowed(ctx, began, true)
	if p.say.check(after(told.at, began), err, "the policy says Shadowed, names it in both clouds, and stays Ready") {
		p.say.note("%s", broken.Replace(meta.FindStatusCondition(told.object.Status.Conditions, v1alpha1.Shadowed).Message))
	}
	v := visit{p.street, street4, p.port}
	p.say.check(0, p.quiet(ctx, v), "%-25s dropped as before: nodes filter, whatever a cloud lets in", v)
	p.say.check(0, p.inEach(func(a *account) error { return a.has(wide, true) }), "it stays where it is, for it is not ours")
	return p.restored(ctx, &policy)
}

// restored: a rule of ours that people remove comes back.
func (p *play) restored(ctx context.Context, policy *v1alpha1.NodePortPolicy) error {
	p.say.gap()
	lost := spelled(p.port, policy.Spec.Sources[0])
	p.say.note("They take it out again, and a rule of ours with it: %s.\n"+
		"Times since then:", lost)
	began := time.Now()
	for _, a := range p.clouds {
		a.rules.Unseed(stage.Group, cloudtest.Parse(wide))
		a.rules.Unseed(stage.Group, cloudtest.Parse(lost))
	}
	p.say.check(0, p.inEach(func(a *account) error { return a.has(lost, false) }), "neither cloud admits %s any more", policy.Spec.Sources[0].CIDR)
	var listed []result
	var group sync.WaitGroup
	group.Go(func() { listed = p.sideBySide(func(a *account) error { return p.shadowing(ctx, a, false) }) })
	for i, back := range p.sideBySide(func(a *account) error {
		return until(ctx, func(context.Context) error { return a.admits(p.port, policy.Spec.Sources) })
	}) {
		p.say.check(after(back.at, began), back.err, "%s: the rule is back; those signed admit exactly the policy's sources", p.clouds[i].firewall)
	}
	group.Wait()
	for i, said := range listed {
		p.say.check(after(said.at, began), said.err, "CloudFirewall %s lists no rule under shadowing", p.clouds[i].firewall)
	}
	told, err := p.shadowed(ctx, began, false)
	p.say.check(after(told.at, began), err, "the policy is no longer Shadowed")
	again := until(ctx, func(ctx context.Context) error {
		var now v1alpha1.NodePortPolicy
		if err := p.Client.Get(ctx, shop, &now); err != nil {
			return err
		}
		return p.proved(&now)
	})
	p.say.check(time.Since(began), again, "all five gates and Ready are True, for generation %d", policy.Generation)
	p.say.check(0, p.inEach((*account).untouched), "the %d rules of others are untouched", p.foreignRules())
	return nil
}

// result is how something ended in one cloud, and when it came.
type result struct {
	at  time.Time
	err error
}

// sideBySide does the same in all clouds at once.
func (t *town) sideBySide(do func(*account) error) []result {
	out := make([]result, len(t.clouds))
	var group sync.WaitGroup
	for i, a := range t.clouds {
		group.Go(func() { out[i].err = do(a); out[i].at = time.Now() })
	}
	group.Wait()
	return out
}

// has wants a rule to be in the group, whoever's it is, or not to be.
func (a *account) has(spelled string, want bool) error {
	there := slices.ContainsFunc(a.rules.Rules(stage.Group), func(r cloud.Rule) bool { return cloudtest.Spell(r.Rule) == spelled })
	if there != want {
		return miss{fmt.Sprintf("%s in %s: %t", spelled, a.firewall, want), a.table()}
	}
	return nil
}

// shadowing waits until the CloudFirewall names the wide rule, or no rule.
func (p *play) shadowing(ctx context.Context, a *account, want bool) error {
	return until(ctx, func(ctx context.Context) error {
		var f v1alpha1.CloudFirewall
		if err := p.Client.Get(ctx, client.ObjectKey{Name: a.firewall}, &f); err != nil {
			return err
		}
		var named []string
		for _, g := range f.Status.Groups {
			named = append(named, g.Shadowing...)
		}
		if has := len(named) == 1 && strings.HasSuffix(named[0], "TCP 30000-32767 from 0.0.0.0/0"); want && !has || !want && len(named) > 0 {
			return miss{fmt.Sprintf("the wide rule named: %t", want), fmt.Sprintf("status.groups[].shadowing: %q", named)}
		}
		return nil
	})
}

// shadowed waits until the policy is Ready and Shadowed by both clouds, or by none.
func (p *play) shadowed(ctx context.Context, since time.Time, want bool) (event[*v1alpha1.NodePortPolicy], error) {
	named := func(message string) bool {
		return !slices.ContainsFunc(p.clouds, func(a *account) bool {
			return !strings.Contains(message, "0.0.0.0/0 30000-32767 in group "+stage.Group+" of "+a.firewall)
		})
	}
	return p.policies.await(ctx, fmt.Sprintf("Shadowed by both clouds: %t", want), func(e event[*v1alpha1.NodePortPolicy]) bool {
		c := meta.FindStatusCondition(e.object.Status.Conditions, v1alpha1.Shadowed)
		if e.at.Before(since) || !want {
			return !e.at.Before(since) && c == nil
		}
		return c != nil && c.Reason == v1alpha1.ReasonForeignRule && named(c.Message) && ready(e.object)
	})
}
