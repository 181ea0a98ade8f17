package cloudtest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// OwnerTag is the tag key that this simulator's in-memory Provider takes for
// the signature. It equals that of cloud/aws; a test there holds the two
// together.
const OwnerTag = "portreeve.dev/cluster"

// Options say which account is played. Zero values mean what EC2 does by
// default.
type Options struct {
	// Clock is the time, for signatures and token buckets. Default: time.Now.
	Clock func() time.Time
	// RulesPerGroup is the quota of inbound rules, the families counted apart.
	// Default: 60.
	RulesPerGroup int
	// AccessKey and SecretKey are the only credentials that ServeHTTP accepts,
	// beside the sessions of STS. Default: "test", "test".
	AccessKey, SecretKey string
	// Region is the only one for which ServeHTTP accepts signatures. Default: any.
	Region string
	// PageSize bounds a page of a listing, as EC2 may return fewer than asked
	// for. Default: 1000.
	PageSize int
}

// EC2 is one account and region. Its methods may be called concurrently.
type EC2 struct {
	options Options

	mu       sync.Mutex
	groups   map[string]*group
	peers    map[string]string // groups of other accounts, and whose they are
	lists    map[string]prefixList
	roles    map[string]Role
	sessions map[string]session // by access key id
	buckets  map[string]*bucket
	faults   faults
	created  int
}

type group struct {
	id, name string
	tags     map[string]string
	rules    []record
	history  history[record]
}

// NewEC2 returns an account without groups.
func NewEC2(o Options) *EC2 {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.RulesPerGroup == 0 {
		o.RulesPerGroup = 60
	}
	if o.AccessKey == "" {
		o.AccessKey, o.SecretKey = "test", "test"
	}
	if o.PageSize == 0 {
		o.PageSize = 1000
	}
	return &EC2{
		options: o, groups: map[string]*group{}, buckets: map[string]*bucket{},
		peers: map[string]string{}, lists: map[string]prefixList{},
		roles: map[string]Role{}, sessions: map[string]session{},
	}
}

// AddGroup makes an empty group. Like every group of a VPC it has one outbound
// rule.
func (e *EC2) AddGroup(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	everything := record{id: e.nextID(), egress: true, protocol: "-1", from: -1, to: -1, source: rule.World[0]}
	e.groups[id] = &group{id: id, name: "group " + id, rules: []record{everything}}
}

// DropEgress removes the group's outbound rule, which leaves it without any.
func (e *EC2) DropEgress(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.groups[id]
	g.rules = slices.DeleteFunc(g.rules, func(r record) bool { return r.egress })
}

// RemoveGroup deletes a group, as somebody else would.
func (e *EC2) RemoveGroup(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.groups, id)
}

// Seed adds rules as somebody else would, or as an earlier life of ours did
// when Owner is set. A rule without Source has its Peer for source, which need not
// exist, or else some other group.
// It panics on a group that does not exist and on a rule that is there already.
func (e *EC2) Seed(group string, rules ...cloud.Rule) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.groups[group]
	for _, r := range rules {
		rec := recordOf(r.Rule, r.Description)
		if !r.Source.IsValid() {
			e.setPeer(&rec, cmp.Or(r.Peer, "sg-0000000000000beef"))
		}
		if r.Owner != "" {
			rec.tags = map[string]string{OwnerTag: r.Owner}
		}
		rec.id = e.nextID()
		if slices.ContainsFunc(g.rules, rec.same) {
			panic(fmt.Sprintf("cloudtest: %s already holds %v", group, r.Rule))
		}
		g.rules = append(g.rules, rec)
	}
}

// Unseed removes every rule that admits exactly this, as somebody else would.
func (e *EC2) Unseed(group string, r rule.Rule) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g, rec := e.groups[group], recordOf(r, "")
	g.rules = slices.DeleteFunc(g.rules, rec.same)
}

// removeRule removes the rule with that id, as somebody else would.
func (e *EC2) removeRule(group, id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.groups[group]
	g.rules = slices.DeleteFunc(g.rules, func(r record) bool { return r.id == id })
}

// Rules returns the true inbound rules of the group in canonical order,
// whatever a reading through the API would show.
func (e *EC2) Rules(group string) []cloud.Rule {
	e.mu.Lock()
	defer e.mu.Unlock()
	g, ok := e.groups[group]
	if !ok {
		return nil
	}
	return listed(g.rules)
}

func listed(records []record) []cloud.Rule {
	var out []cloud.Rule
	for _, r := range records {
		if !r.egress {
			out = append(out, r.listed())
		}
	}
	slices.SortFunc(out, func(a, b cloud.Rule) int { return rule.CompareRules(a.Rule, b.Rule) })
	return out
}

// describe returns the rules of the groups with those ids, a stale picture if a
// fault says so. Like EC2's filter it knows no unknown group.
func (e *EC2) describe(groups []string) (map[string][]record, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fault, err := e.enter(actionDescribeRules)
	if err != nil {
		return nil, err
	}
	out := map[string][]record{}
	for id, g := range e.groups {
		if len(groups) > 0 && !slices.Contains(groups, id) {
			continue
		}
		out[id] = g.history.read(g.rules, fault.Stale)
	}
	return out, fault.after()
}

// authorize adds the records: all of them or none, except under the fault
// Halfway. It returns them as stored.
func (e *EC2) authorize(groupID string, add []record) ([]record, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fault, err := e.enter(actionAuthorize)
	if err != nil {
		return nil, err
	}
	g, err := e.group(groupID)
	if err != nil {
		return nil, err
	}
	add = slices.Clone(add)
	for i := range add {
		if err := add[i].normalize(); err != nil {
			return nil, err
		}
		if err := e.refers(add[i]); err != nil {
			return nil, err
		}
	}
	add = add[:fault.share(len(add))]
	if err := e.admits(g, add); err != nil {
		return nil, err
	}
	for i := range add {
		add[i].id = e.nextID()
		if add[i].groupSource != "" {
			add[i].groupOwner = cmp.Or(add[i].groupOwner, account)
		}
	}
	g.history.remember(g.rules, fault.Unseen)
	g.rules = append(g.rules, add...)
	return add, fault.after()
}

// revoke removes rules by id and returns them.
func (e *EC2) revoke(groupID string, ids []string) ([]record, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fault, err := e.enter(actionRevoke)
	if err != nil {
		return nil, err
	}
	g, err := e.group(groupID)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if !slices.ContainsFunc(g.rules, func(r record) bool { return r.id == id && !r.egress }) {
			return nil, refuse("InvalidSecurityGroupRuleId.NotFound", "The security group rule ID '"+id+"' does not exist")
		}
	}
	ids = ids[:fault.share(len(ids))]
	g.history.remember(g.rules, fault.Unseen)
	var gone []record
	g.rules = slices.DeleteFunc(g.rules, func(r record) bool {
		hit := slices.Contains(ids, r.id)
		if hit {
			gone = append(gone, r)
		}
		return hit
	})
	return gone, fault.after()
}

func (e *EC2) group(id string) (*group, error) {
	if !strings.HasPrefix(id, "sg-") {
		return nil, refuse("InvalidGroupId.Malformed", "Invalid id: \""+id+"\" (expecting \"sg-...\")")
	}
	g, ok := e.groups[id]
	if !ok {
		return nil, refuse("InvalidGroup.NotFound", "The security group '"+id+"' does not exist")
	}
	return g, nil
}

func (e *EC2) nextID() string {
	e.created++
	return fmt.Sprintf("sgr-%017x", e.created)
}

// Mangle gives a rule another tag for ours, as a person might who copies tags around.
func (e *EC2) Mangle(group, id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i, r := range e.groups[group].rules {
		if r.id == id {
			e.groups[group].rules[i].tags = map[string]string{OwnerTag + "-was": r.tags[OwnerTag]}
		}
	}
}
