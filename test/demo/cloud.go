package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/test/stage"
)

// group lists the security group's inbound rules as the account itself has them,
// those that carry Portreeve's signature and those of others.
func (t *town) group() (ours, foreign []cloud.Rule) {
	for _, r := range t.account.Rules(stage.Group) {
		if r.Owner != "" {
			ours = append(ours, r)
		} else {
			foreign = append(foreign, r)
		}
	}
	return ours, foreign
}

// table is the security group for people.
func (t *town) table() string {
	rows := []string{"PROTOCOL\tPORTS\tSOURCE\tSIGNED\tDESCRIPTION"}
	for _, r := range t.account.Rules(stage.Group) {
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
func (t *town) admits(port uint16, sources []v1alpha1.Source) error {
	var want, seen []string
	for _, s := range sources {
		want = append(want, fmt.Sprintf("TCP %d %s", port, s.CIDR))
	}
	ours, _ := t.group()
	for _, r := range ours {
		seen = append(seen, cloudtest.Spell(r.Rule))
	}
	slices.Sort(want)
	slices.Sort(seen)
	if !slices.Equal(want, seen) {
		return miss{orNone(want), orNone(seen)}
	}
	return nil
}

// admitsSoon waits for it.
func (t *town) admitsSoon(ctx context.Context, port uint16, sources []v1alpha1.Source) error {
	return until(ctx, func(context.Context) error { return t.admits(port, sources) })
}

// untouched wants the foreign rules to be what they were, down to their ids.
func (t *town) untouched(before []cloud.Rule) error {
	if _, now := t.group(); !slices.Equal(before, now) {
		return miss{fmt.Sprint(before), fmt.Sprint(now)}
	}
	return nil
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "no rule"
	}
	return strings.Join(list, ", ")
}
