package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/internal/rule"
	"github.com/portreeve/portreeve/test/stage"
)

// An account is one cloud's, with the security group of the nodes in it.
type account struct {
	firewall string // the sample CloudFirewall that names the group
	api      string // what the vendor calls the service
	rules    interface {
		Rules(group string) []cloud.Rule
		Seed(group string, rules ...cloud.Rule)
		Unseed(group string, r rule.Rule)
	}
	foreign []cloud.Rule // what others have in the group when the policy comes
}

// openClouds serves both clouds beside the manager.
func (t *town) openClouds() error {
	ec2, err := t.ServeEC2()
	if err != nil {
		return err
	}
	ecs, err := t.ServeECS()
	if err != nil {
		return err
	}
	t.clouds = []*account{
		{firewall: "aws-prod", api: "EC2", rules: ec2},
		{firewall: "alibaba-prod", api: "ECS", rules: ecs},
	}
	return nil
}

// group lists the security group's inbound rules as the account itself has them,
// those that carry Portreeve's signature and those of others.
func (a *account) group() (ours, foreign []cloud.Rule) {
	for _, r := range a.rules.Rules(stage.Group) {
		if r.Owner != "" {
			ours = append(ours, r)
		} else {
			foreign = append(foreign, r)
		}
	}
	return ours, foreign
}

// table is the security group for people.
func (a *account) table() string {
	rows := []string{"PROTOCOL\tPORTS\tSOURCE\tSIGNED\tDESCRIPTION"}
	for _, r := range a.rules.Rules(stage.Group) {
		signed := "no"
		if r.Owner != "" {
			signed = "yes"
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%s\t%s", r.Protocol, r.Ports, r.Source, signed, r.Description))
	}
	return columns(rows)
}

// admits wants the rules of ours to be those of the sources on the port, no more
// and no fewer.
func (a *account) admits(port uint16, sources []v1alpha1.Source) error {
	var want, seen []string
	for _, s := range sources {
		want = append(want, spelled(port, s))
	}
	ours, _ := a.group()
	for _, r := range ours {
		seen = append(seen, cloudtest.Spell(r.Rule))
	}
	slices.Sort(want)
	slices.Sort(seen)
	if !slices.Equal(want, seen) {
		return miss{a.firewall + ": " + orNone(want), a.firewall + ": " + orNone(seen)}
	}
	return nil
}

// spelled is the rule of a source on the port, as cloudtest reads it.
func spelled(port uint16, s v1alpha1.Source) string {
	return fmt.Sprintf("TCP %d %s", port, s.CIDR)
}

// untouched wants the foreign rules to be what they were, down to their ids.
func (a *account) untouched() error {
	if _, now := a.group(); !slices.Equal(a.foreign, now) {
		return miss{fmt.Sprint(a.foreign), fmt.Sprint(now)}
	}
	return nil
}

// inEach asks every cloud.
func (t *town) inEach(want func(*account) error) error {
	var all []error
	for _, a := range t.clouds {
		all = append(all, want(a))
	}
	all = slices.DeleteFunc(all, func(err error) bool { return err == nil })
	if len(all) == 1 {
		return all[0]
	}
	return errors.Join(all...)
}

// admitsSoon waits until every cloud admits just that.
func (t *town) admitsSoon(ctx context.Context, port uint16, sources []v1alpha1.Source) error {
	return until(ctx, func(context.Context) error {
		return t.inEach(func(a *account) error { return a.admits(port, sources) })
	})
}

// foreignRules counts the rules of others.
func (t *town) foreignRules() (n int) {
	for _, a := range t.clouds {
		n += len(a.foreign)
	}
	return n
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "no rule"
	}
	return strings.Join(list, ", ")
}
