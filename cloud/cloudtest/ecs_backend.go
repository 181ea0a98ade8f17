package cloudtest

import (
	"fmt"
	"slices"

	"github.com/portreeve/portreeve/cloud"
)

// ecsDiffers are the cases in which Alibaba Cloud is not as EC2, by its nature.
var ecsDiffers = map[string]string{
	"a group may be its own peer": "Alibaba Cloud refuses (InvalidParamter.Conflict): members of a basic group reach each other by its inner access policy",
}

// ecsAPI is how the actions and errors are named here.
var ecsAPI = API{ecsDescribeRules, ecsAuthorize, ecsRevoke, "Throttling.User", "Forbidden.RAM", "AuthorizationLimitExceed", "InternalError"}

// Chaos is one of this account in groups of its own, seen through views that write rules
// of a priority.
func (e *ECS) Chaos(at func(priority int) cloud.Provider) Chaos {
	c := chaosOf(at(e.options.Priority), at(e.options.Priority))
	c.At = at
	c.API, c.Rules, c.Seed, c.Inject, c.Heal = ecsAPI, e.Rules, e.Seed, e.Inject, e.Heal
	c.Unseed = func(group string, r cloud.Rule) { e.removeRule(group, r.ID) }
	c.Remake = func(group string) { e.RemoveGroup(group); e.AddGroup(group) }
	for _, id := range slices.Concat(c.Groups, c.Peers) {
		e.AddGroup(id)
	}
	return c
}

// Backend returns the account as seen through p, for Conformance.
func (e *ECS) Backend(p cloud.Provider) Backend {
	groups, lists := 0, 0
	return Backend{
		Provider: p,
		NewGroup: func() string {
			groups++
			id := fmt.Sprintf("sg-%017x", groups)
			e.AddGroup(id)
			return id
		},
		Seed:        e.Seed,
		Rules:       e.Rules,
		RemoveGroup: e.RemoveGroup,
		Mangle:      e.Mangle,
		Tag:         e.Tag,
		NewPrefixList: func(room int, entries ...string) string {
			lists++
			id := fmt.Sprintf("pl-%017x", lists)
			e.AddPrefixList(id, room, prefixes(entries...)...)
			return id
		},
		Account: e,
		Differs: ecsDiffers,
		API:     ecsAPI,
	}
}
