package cloudtest

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
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
	// AccessKey and SecretKey are the only credentials that ServeHTTP accepts.
	// Default: "test", "test".
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

	mu      sync.Mutex
	groups  map[string]*group
	buckets map[string]*bucket
	faults  []Fault
	created int
}

type group struct {
	id, name string
	rules    []record
	before   []record // what a stale reading still shows
}

// record is one security group rule as EC2 keeps it.
type record struct {
	id          string
	egress      bool
	protocol    string // "tcp", "udp", "icmp", "-1", "132" ...
	from, to    int
	source      netip.Prefix
	groupSource string
	prefixList  string
	description string
	tags        map[string]string
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
	return &EC2{options: o, groups: map[string]*group{}, buckets: map[string]*bucket{}}
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
// when Owner is set. A rule without Source gets another group for its source.
// It panics on a group that does not exist and on a rule that is there already.
func (e *EC2) Seed(group string, rules ...cloud.Rule) {
	e.mu.Lock()
	defer e.mu.Unlock()
	g := e.groups[group]
	for _, r := range rules {
		rec := recordOf(r.Rule, r.Description)
		if !r.Source.IsValid() {
			rec.groupSource = "sg-0000000000000beef"
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
		if fault.stale && g.before != nil {
			out[id] = slices.Clone(g.before)
		} else {
			out[id] = slices.Clone(g.rules)
		}
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
	}
	add = add[:fault.share(len(add))]
	if err := g.admits(add, e.options.RulesPerGroup); err != nil {
		return nil, err
	}
	for i := range add {
		add[i].id = e.nextID()
	}
	g.before = slices.Clone(g.rules)
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
	g.before = slices.Clone(g.rules)
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

// admits says why the group cannot take the records, if so.
func (g *group) admits(add []record, limit int) error {
	v4, v6 := 0, 0
	for i, r := range add {
		if slices.ContainsFunc(add[:i], r.same) {
			return refuse("InvalidParameterValue", "The same permission must not appear multiple times")
		}
		if slices.ContainsFunc(g.rules, r.same) {
			return refuse("InvalidPermission.Duplicate", "the specified rule \""+r.spell()+"\" already exists")
		}
	}
	for _, r := range slices.Concat(g.rules, add) {
		if r.egress {
			continue
		}
		if !r.source.IsValid() || r.source.Addr().Is4() {
			v4++
		}
		if !r.source.IsValid() || r.source.Addr().Is6() {
			v6++
		}
	}
	if v4 > limit || v6 > limit {
		return refuse("RulesPerSecurityGroupLimitExceeded", "The maximum number of rules per security group has been reached.")
	}
	return nil
}

// same says whether two records are one rule to EC2: id, description and tags
// play no part.
func (r record) same(o record) bool {
	return r.egress == o.egress && r.protocol == o.protocol && r.from == o.from && r.to == o.to &&
		r.source == o.source && r.groupSource == o.groupSource && r.prefixList == o.prefixList
}

func (r record) spell() string {
	return fmt.Sprintf("peer: %s, %s, from port: %d, to port: %d, ALLOW", r.peer(), r.protocol, r.from, r.to)
}

func (r record) peer() string {
	if r.source.IsValid() {
		return r.source.String()
	}
	return r.groupSource + r.prefixList
}

// normalize brings the record to the form that EC2 stores, or says what EC2
// would find wrong with it.
func (r *record) normalize() error {
	r.protocol = strings.ToLower(r.protocol)
	if name, ok := protocolNames[r.protocol]; ok {
		r.protocol = name
	}
	switch r.protocol {
	case "tcp", "udp":
		if r.from < 0 || r.to > 65535 || r.from > r.to {
			return refuse("InvalidParameterValue", fmt.Sprintf("Invalid value for portRange: %d-%d", r.from, r.to))
		}
	case "icmp", "icmpv6":
	default:
		// "specifying -1 or a protocol number other than tcp, udp, icmp, or icmpv6
		// allows traffic on all ports, regardless of any port range you specify"
		if n, err := strconv.Atoi(r.protocol); err != nil || n < -1 || n > 255 {
			return refuse("InvalidParameterValue", "Invalid value '"+r.protocol+"' for IP protocol. Unknown protocol.")
		}
		r.from, r.to = -1, -1
	}
	if r.peer() == "" {
		return refuse("MissingParameter", "The request must contain a source")
	}
	if r.source.IsValid() {
		r.source = r.source.Masked()
	}
	return checkDescription(r.description)
}

// What EC2 takes in a rule's description.
const (
	descriptionCharset = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ._-:/()#,@[]+=&;{}!$*"
	descriptionLimit   = 255
)

func checkDescription(s string) error {
	if len(s) > descriptionLimit || strings.Trim(s, descriptionCharset) != "" {
		return refuse("InvalidParameterValue", "Invalid rule description. Valid descriptions are strings less than 256 characters from the following set: a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*")
	}
	return nil
}

var protocolNames = map[string]string{"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6"}
