package cloudtest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// Provider returns the account as a cloud.Provider that is a cloud.Directory as well,
// without HTTP in between.
func (e *ECS) Provider() cloud.Provider { return e.At(e.options.Priority) }

// At is Provider, for rules of that priority.
func (e *ECS) At(priority int) cloud.Provider { return ecsMemory{e, priority} }

type ecsMemory struct {
	ecs      *ECS
	priority int
}

func (m ecsMemory) Capabilities() cloud.Capabilities {
	o := m.ecs.options
	return cloud.Capabilities{
		RulesPerGroup: cloud.Count{All: o.RulesPerGroup},
		RulesTogether: o.RulesTogether,
		Batch:         ecsBatch,
		Priority:      m.priority,
		Lenient:       true,
		Protocols:     []rule.Protocol{rule.TCP, rule.UDP},
	}
}

func (m ecsMemory) List(ctx context.Context, group string) ([]cloud.Rule, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	rules, _, err := m.ecs.describe(group)
	if err != nil {
		return nil, err
	}
	return listedECS(rules), nil
}

func (m ecsMemory) Authorize(ctx context.Context, group, owner string, grants []cloud.Grant) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var add []ecsRule
	for _, g := range grants {
		add = append(add, ecsRuleOf(cloud.Rule{
			Rule: g.Rule, Peer: g.Peer, Owner: owner, Description: g.Description, Priority: m.priority,
		}))
	}
	return m.ecs.authorize(group, "", add)
}

func (m ecsMemory) Revoke(ctx context.Context, group string, ids []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return m.ecs.revoke(group, "", slices.Clone(ids))
}

func (m ecsMemory) Tagged(ctx context.Context, tags map[string]string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(tags) == 0 {
		return nil, fmt.Errorf("%w: no tags to look for", cloud.ErrInvalid)
	}
	groups, _, err := m.ecs.describeGroups(nil, tags)
	var out []string
	for _, g := range groups {
		if !slices.ContainsFunc(sortedKeys(tags), func(key string) bool { return g.tags[key] != tags[key] }) {
			out = append(out, g.id)
		}
	}
	return out, err
}

func (m ecsMemory) Exists(ctx context.Context, group string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	groups, _, err := m.ecs.describeGroups([]string{group}, nil)
	if err == nil && len(groups) == 0 {
		return refuseECS("InvalidSecurityGroupId.NotFound", "The specified SecurityGroupId does not exist.")
	}
	return err
}

func (m ecsMemory) PrefixList(ctx context.Context, id string) ([]netip.Prefix, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	list, err := m.ecs.prefixList(id)
	if err != nil {
		return nil, err
	}
	return rule.Canonical(list.entries), nil
}
