package cloudtest

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// ECSOptions say which Alibaba Cloud account is played. Zero values mean what the
// cloud does by default.
type ECSOptions struct {
	// Clock is the time, for signatures and rates. Default: time.Now.
	Clock func() time.Time
	// RulesPerGroup is the quota of rules in one group, both directions and families
	// together. Default: 200.
	RulesPerGroup int
	// RulesTogether is the quota over all groups of one network interface. The account
	// has one interface, in all its groups. Default: 1000.
	RulesTogether int
	// AccessKey and SecretKey are the only credentials that ServeHTTP accepts, with
	// SecurityToken unless it is empty. Default: "test", "test".
	AccessKey, SecretKey, SecurityToken string
	// Region is the only one that ServeHTTP knows. Default: any.
	Region string
	// PageSize bounds a page of a listing below what was asked for. Default: 1000.
	PageSize int
	// CallsPerMinute is the rate of each action. Default: 200.
	CallsPerMinute int
	// Priority of the rules that the in-memory provider writes. Default: 1.
	Priority int
	// Older plays the generation of the API that knew no leniency towards duplicates
	// and much towards ids: a rule that is there already is an error, an id that is not
	// is none.
	Older bool
}

// ECS is one account and region of Alibaba Cloud. Its methods may be called
// concurrently.
type ECS struct {
	options ECSOptions

	mu          sync.Mutex
	groups      map[string]*ecsGroup
	prefixLists map[string]prefixList
	windows     map[string]*window
	nonces      map[string]time.Time
	tokens      map[string]string // action and ClientToken -> what was asked
	faults      faults
	created     int
}

type ecsGroup struct {
	id       string
	advanced bool
	managed  bool
	tags     map[string]string
	rules    []ecsRule
	history  history[ecsRule]
}

// NewECS returns an account without groups.
func NewECS(o ECSOptions) *ECS {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.AccessKey == "" {
		o.AccessKey, o.SecretKey = "test", "test"
	}
	for value, absent := range map[*int]int{
		&o.RulesPerGroup: 200, &o.RulesTogether: 1000, &o.PageSize: 1000, &o.CallsPerMinute: 200, &o.Priority: 1,
	} {
		if *value == 0 {
			*value = absent
		}
	}
	return &ECS{
		options: o, groups: map[string]*ecsGroup{}, prefixLists: map[string]prefixList{},
		windows: map[string]*window{}, nonces: map[string]time.Time{}, tokens: map[string]string{},
	}
}

// AddGroup makes an empty basic group. What a group of a VPC does without rules
// (nothing in, all out) is not listed as a rule.
func (e *ECS) AddGroup(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.groups[id] = &ecsGroup{id: id, tags: map[string]string{}}
}

// Advance makes an advanced group of a basic one: it takes no groups as sources.
func (e *ECS) Advance(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.groups[id].advanced = true
}

// Manage gives the group to a cloud product; nobody else can change it then.
func (e *ECS) Manage(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.groups[id].managed = true
}

// Tag replaces the tags of the group.
func (e *ECS) Tag(id string, tags map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.groups[id].tags = tags
}

// RemoveGroup deletes a group, as somebody else would.
func (e *ECS) RemoveGroup(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.groups, id)
}

// AddPrefixList makes, or replaces, a prefix list with room for so many entries; they
// are of one family.
func (e *ECS) AddPrefixList(id string, room int, entries ...netip.Prefix) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.prefixLists[id] = prefixList{max: room, entries: slices.Clone(entries)}
}

// Seed adds rules as somebody else would, or as an earlier life of ours did when
// Owner is set. A rule with neither Source nor Peer gets another group for its
// source. It panics on a group that does not exist and on a rule that is there
// already.
func (e *ECS) Seed(group string, rules ...cloud.Rule) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.groups[group]
	for _, r := range rules {
		if !r.Source.IsValid() && r.Peer == "" {
			r.Peer = "sg-0000000000000beef"
		}
		if r.Priority == 0 {
			r.Priority = e.options.Priority
		}
		seeded, err := ecsRuleOf(r).normalize()
		if err == nil && slices.ContainsFunc(g.rules, seeded.same) {
			err = fmt.Errorf("%s already holds it", group)
		}
		if err != nil {
			panic(fmt.Sprintf("cloudtest: %v: %v", r.Rule, err))
		}
		g.rules = append(g.rules, e.name(seeded))
	}
}

// Unseed removes every rule that admits exactly this, as somebody else would.
func (e *ECS) Unseed(group string, r rule.Rule) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.groups[group]
	g.rules = slices.DeleteFunc(g.rules, func(have ecsRule) bool {
		listed := have.listed()
		return !listed.Drop && listed.Rule == r
	})
}

// removeRule removes the rule with that id, as somebody else would.
func (e *ECS) removeRule(group, id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.groups[group]
	g.rules = slices.DeleteFunc(g.rules, func(r ecsRule) bool { return r.ID == id })
}

// Mangle edits the description of a rule as a person might who takes it for text: the
// signature is there no more.
func (e *ECS) Mangle(group, id string) {
	e.edit(group, id, func(r *ecsRule) { r.Description = "was: " + r.Description })
}

// Narrow edits a rule, as a person might, to admit to one destination only.
func (e *ECS) Narrow(group, id, destination string) {
	e.edit(group, id, func(r *ecsRule) { r.DestCIDR = destination })
}

func (e *ECS) edit(group, id string, change func(*ecsRule)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	rules := e.groups[group].rules
	for i := range rules {
		if rules[i].ID == id {
			change(&rules[i])
		}
	}
}

// Rules returns the true inbound rules of the group in canonical order, whatever a
// reading through the API would show.
func (e *ECS) Rules(group string) []cloud.Rule {
	e.mu.Lock()
	defer e.mu.Unlock()
	g, ok := e.groups[group]
	if !ok {
		return nil
	}
	return listedECS(g.rules)
}

func listedECS(rules []ecsRule) []cloud.Rule {
	var out []cloud.Rule
	for _, r := range rules {
		if r.Direction == "ingress" {
			out = append(out, r.listed())
		}
	}
	slices.SortFunc(out, func(a, b cloud.Rule) int { return rule.CompareRules(a.Rule, b.Rule) })
	return out
}

// name gives a new rule its id and its date.
func (e *ECS) name(r ecsRule) ecsRule {
	e.created++
	r.ID = fmt.Sprintf("sgr-%016x", e.created)
	r.CreateTime = e.options.Clock().UTC().Format(time.RFC3339)
	return r
}

// Inject implements Account.
func (e *ECS) Inject(f Fault) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults.add(f)
}

// Heal implements Account.
func (e *ECS) Heal() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults = nil
}
