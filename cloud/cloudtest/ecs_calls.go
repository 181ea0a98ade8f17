package cloudtest

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// The actions of the ECS API that are simulated.
const (
	ecsAuthorize      = "AuthorizeSecurityGroup"
	ecsRevoke         = "RevokeSecurityGroup"
	ecsDescribeRules  = "DescribeSecurityGroupAttribute"
	ecsDescribeGroups = "DescribeSecurityGroups"
	ecsDescribeList   = "DescribePrefixListAttributes"
)

// ecsBatch: Permissions, "Array length: 1 to 100"; SecurityGroupRuleId, "0 to 100".
const ecsBatch = 100

// ecsGroupSources: AuthorizedGroupRule.LimitExceed, "When authorization object of rule
// is security group, the limit is 20."
const ecsGroupSources = 20

// window counts the calls of one action in one minute: "If calls to an API operation
// are throttled at minute T, the operation can be called as of minute T+1" (API call
// throttling). The thresholds stand in each account's Quota Center; the default here is
// the vendor's own example, "200/60(s)".
type window struct {
	minute time.Time
	used   int
}

func (w *window) take(now time.Time, limit int) bool {
	if minute := now.Truncate(time.Minute); !minute.Equal(w.minute) {
		w.minute, w.used = minute, 0
	}
	w.used++
	return w.used <= limit
}

// enter counts the call and takes the fault that is due, if any. An error means that
// the call is refused before it does anything. The caller holds the lock.
func (e *ECS) enter(action string) (effect, error) {
	w, ok := e.windows[action]
	if !ok {
		w = &window{}
		e.windows[action] = w
	}
	if !w.take(e.options.Clock(), e.options.CallsPerMinute) {
		return effect{}, refuseECS("Throttling.User", "Request was denied due to user flow control.")
	}
	due := effect{e.faults.due(action), refuseECS}
	return due, due.before()
}

// describe returns the rules of a group, a stale picture if a fault says so, and what
// part of a page the answer may hold.
func (e *ECS) describe(id string) ([]ecsRule, effect, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fault, err := e.enter(ecsDescribeRules)
	if err != nil {
		return nil, fault, err
	}
	g, err := e.group(id)
	if err != nil {
		return nil, fault, err
	}
	return g.history.read(g.rules, fault.Stale), fault, fault.after()
}

// authorize adds the rules, all or none, except under the fault Halfway: "If the
// specified security group rule already exists, the call succeeds but no rule is
// added." The same call with the same token is made once (How to ensure idempotence).
func (e *ECS) authorize(id, token string, add []ecsRule) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	fault, err := e.enter(ecsAuthorize)
	if err != nil {
		return err
	}
	asked, made, err := e.repeated(ecsAuthorize, token, id, add)
	if made || err != nil {
		return err
	}
	g, err := e.changeable(id)
	if err != nil {
		return err
	}
	if len(add) == 0 || len(add) > ecsBatch {
		return refuseECS("InvalidParam.Permissions", "The specified parameter Permissions is not valid.")
	}
	add = slices.Clone(add)
	for i := range add {
		if add[i], err = add[i].normalize(); err != nil {
			return err
		}
		if slices.ContainsFunc(add[:i], add[i].same) {
			return refuseECS("InvalidParam.DuplicatePermissions", "There are duplicate permissions in the specified parameter Permissions.")
		}
	}
	add, err = e.missing(g, add[:fault.share(len(add))])
	if err != nil {
		return err
	}
	if err := e.admits(g, add); err != nil {
		return err
	}
	g.history.remember(g.rules, fault.Unseen)
	for _, r := range add {
		g.rules = append(g.rules, e.name(r))
	}
	return e.done(asked, fault)
}

// missing returns the rules that the group does not hold yet.
func (e *ECS) missing(g *ecsGroup, add []ecsRule) ([]ecsRule, error) {
	var out []ecsRule
	for _, r := range add {
		switch {
		case !slices.ContainsFunc(g.rules, r.same):
			out = append(out, r)
		case e.options.Older:
			return nil, refuseECS("InvalidOperation.RuleDuplicate", "The rule duplicates an existing rule.")
		}
	}
	return out, nil
}

// admits says why the group cannot take the rules, if so.
func (e *ECS) admits(g *ecsGroup, add []ecsRule) error {
	groupSources, together := 0, len(add)
	for _, other := range e.groups {
		together += len(other.rules)
	}
	for _, r := range slices.Concat(g.rules, add) {
		if r.SourceGroup != "" {
			groupSources++
		}
	}
	for _, r := range add {
		_, groupThere := e.groups[r.SourceGroup]
		_, listThere := e.prefixLists[r.SourceList]
		switch {
		case r.SourceGroup != "" && g.advanced: // "Advanced security groups do not support authorization for access from other security groups"
			return refuseECS("InvalidGroupAuthParameter.OperationDenied", "The security group can not authorize to enterprise level security group.")
		case r.SourceGroup == g.id:
			return refuseECS("InvalidParamter.Conflict", "The specified SecurityGroupId should be different from the SourceGroupId.")
		case r.SourceGroup != "" && !groupThere:
			return refuseECS("InvalidSourceGroupId.NotFound", "The SourceGroupId provided does not exist in our records.")
		case r.SourceList != "" && !listThere:
			return refuseECS("InvalidPrefixListId.NotFound", "The specified prefix list was not found.")
		case r.SourceGroup != "" && groupSources > ecsGroupSources:
			return refuseECS("AuthorizedGroupRule.LimitExceed", "You have reached the limit on the number of group authorization rules that you can add to a security group.")
		}
	}
	if len(g.rules)+len(add) > e.options.RulesPerGroup || together > e.options.RulesTogether {
		return refuseECS("AuthorizationLimitExceed", "The limit of authorization records in the security group reaches.")
	}
	return nil
}

// revoke removes the rules with those ids: "If a specified security group rule ID does
// not exist, the invocation is failed", since July 8, 2024.
func (e *ECS) revoke(id, token string, ids []string) error {
	return e.remove(id, token, ids, func(g *ecsGroup) error {
		for i, rule := range ids {
			known := slices.ContainsFunc(g.rules, func(r ecsRule) bool { return r.ID == rule && r.Direction == "ingress" })
			switch {
			case slices.Contains(ids[:i], rule):
				return refuseECS("InvalidParam.SecurityGroupRuleIdRepeated", "The specified parameter SecurityGroupRuleId is repeated.")
			case !known && !e.options.Older:
				return refuseECS("InvalidParam.SecurityGroupRuleId", "The specified parameter SecurityGroupRuleId is not valid.")
			}
		}
		return nil
	}, func(r ecsRule, share int) bool { return slices.Contains(ids[:share], r.ID) })
}

// revokeEqual removes rules by what they are: "If no matching security group rule
// exists, the invocation succeeds but no rule is deleted."
func (e *ECS) revokeEqual(id, token string, rules []ecsRule) error {
	var wanted []ecsRule
	for _, r := range rules {
		normal, err := r.normalize()
		if err != nil {
			return err
		}
		wanted = append(wanted, normal)
	}
	return e.remove(id, token, rules, func(*ecsGroup) error { return nil },
		func(r ecsRule, share int) bool { return slices.ContainsFunc(wanted[:share], r.same) })
}

// remove is what both ways to revoke share; asked is what the call names.
func (e *ECS) remove(id, token string, asked any, check func(*ecsGroup) error, hit func(r ecsRule, share int) bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	fault, err := e.enter(ecsRevoke)
	if err != nil {
		return err
	}
	call, made, err := e.repeated(ecsRevoke, token, id, asked)
	if made || err != nil {
		return err
	}
	g, err := e.changeable(id)
	if err != nil {
		return err
	}
	n := 0
	switch asked := asked.(type) {
	case []string:
		n = len(asked)
	case []ecsRule:
		n = len(asked)
	}
	if n > ecsBatch {
		return refuseECS("InvalidParam.Permissions", "The specified parameter is not valid: more than 100 rules.")
	}
	if err := check(g); err != nil {
		return err
	}
	g.history.remember(g.rules, fault.Unseen)
	g.rules = slices.DeleteFunc(g.rules, func(r ecsRule) bool { return hit(r, fault.share(n)) })
	return e.done(call, fault)
}

// request is what a client token stands for.
type request struct{ key, what string }

// repeated says whether the same call was made before under the token.
func (e *ECS) repeated(action, token, group string, asked any) (request, bool, error) {
	r := request{action + " " + token, fmt.Sprint(group, asked)}
	was, known := e.tokens[r.key]
	if known && was != r.what {
		return r, false, refuseECS("IdempotentParameterMismatch", "The request uses the same client token as a previous, but non-identical request.")
	}
	return r, known && token != "", nil
}

// done is the answer to a call that was applied, and remembers its token.
func (e *ECS) done(r request, fault effect) error {
	if !fault.Halfway && !strings.HasSuffix(r.key, " ") {
		e.tokens[r.key] = r.what
	}
	return fault.after()
}

// group finds a group.
func (e *ECS) group(id string) (*ecsGroup, error) {
	g, ok := e.groups[id]
	if !ok {
		return nil, refuseECS("InvalidSecurityGroupId.NotFound", "The specified SecurityGroupId does not exist.")
	}
	return g, nil
}

// changeable finds a group that may be changed: of a managed one "you can call only API
// operations for query purposes" (Managed security groups).
func (e *ECS) changeable(id string) (*ecsGroup, error) {
	g, err := e.group(id)
	if err == nil && g.managed {
		return nil, refuseECS("InvalidOperation.ResourceManagedByCloudProduct", "The security group "+id+" is managed by a cloud product.")
	}
	return g, err
}

// describeGroups returns the groups that match, sorted by id: with one of ids, if there
// are any, and with all of the tags. A tag without value stands for any value.
func (e *ECS) describeGroups(ids []string, tags map[string]string) ([]ecsGroup, effect, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fault, err := e.enter(ecsDescribeGroups)
	if err != nil {
		return nil, fault, err
	}
	var out []ecsGroup
	for _, id := range sortedKeys(e.groups) {
		if len(ids) == 0 || slices.Contains(ids, id) {
			if g := *e.groups[id]; hasTags(g.tags, tags) {
				out = append(out, g)
			}
		}
	}
	return out, fault, fault.after()
}

func hasTags(have, want map[string]string) bool {
	for key, value := range want {
		if v, ok := have[key]; !ok || (value != "" && v != value) {
			return false
		}
	}
	return true
}

// prefixList returns the entries of a prefix list.
func (e *ECS) prefixList(id string) (prefixList, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fault, err := e.enter(ecsDescribeList)
	if err != nil {
		return prefixList{}, err
	}
	list, ok := e.prefixLists[id]
	if !ok {
		return prefixList{}, refuseECS("InvalidPrefixListId.NotFound", "The specified prefix list was not found.")
	}
	return list, fault.after()
}
