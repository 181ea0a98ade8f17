package cloudtest

import (
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// prefixList is a managed prefix list: of one family, with room for max entries.
type prefixList struct {
	ipv6    bool
	max     int
	entries []netip.Prefix
}

// Tag sets the tags of a group; it panics when there is no such group.
func (e *EC2) Tag(group string, tags map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.groups[group].tags = maps.Clone(tags)
}

// AddPeer makes a group of another account, in a VPC that is peered with ours: rules
// may refer to it by both, and no listing of this account's groups shows it.
func (e *EC2) AddPeer(id, account string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.peers[id] = account
}

// AddPrefixList makes, or replaces, a prefix list with room for so many entries; they
// are of one family.
func (e *EC2) AddPrefixList(id string, room int, entries ...netip.Prefix) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ipv6 := len(entries) > 0 && entries[0].Addr().Is6()
	e.lists[id] = prefixList{ipv6: ipv6, max: room, entries: slices.Clone(entries)}
}

// setPeer makes the group or prefix list the source of the record.
func (e *EC2) setPeer(r *record, id string) {
	if strings.HasPrefix(id, "pl-") {
		r.prefixList = id
		return
	}
	r.groupSource, r.groupOwner = id, account
	if owner, group, foreign := strings.Cut(id, "/"); foreign {
		r.groupSource, r.groupOwner = group, owner
	}
}

// refers says whether the record's source exists, if it is a group or a prefix list:
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
// (InvalidGroup.NotFound, InvalidPrefixListId.NotFound).
func (e *EC2) refers(r record) error {
	if r.prefixList != "" {
		_, err := e.list(r.prefixList)
		return err
	}
	if r.groupSource == "" {
		return nil
	}
	// "you must include the account number" (VPC peering: Reference peer security groups).
	if r.groupOwner != "" && r.groupOwner != account {
		if e.peers[r.groupSource] != r.groupOwner {
			return refuse("InvalidGroup.NotFound", "You have specified two resources that belong to different networks.")
		}
		return nil
	}
	_, err := e.group(r.groupSource)
	return err
}

func (e *EC2) list(id string) (prefixList, error) {
	if !strings.HasPrefix(id, "pl-") {
		return prefixList{}, refuse("InvalidPrefixListId.Malformed", "Invalid id: \""+id+"\" (expecting \"pl-...\")")
	}
	list, ok := e.lists[id]
	if !ok {
		return prefixList{}, refuse("InvalidPrefixListId.NotFound", "The prefix list ID '"+id+"' does not exist")
	}
	return list, nil
}

// entries returns what a prefix list holds.
func (e *EC2) entries(id string) ([]netip.Prefix, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fault, err := e.enter(actionListEntries)
	if err != nil {
		return nil, err
	}
	list, err := e.list(id)
	if err != nil {
		return nil, err
	}
	return slices.Clone(list.entries), fault.after()
}

// describeGroups lists, in order of their ids, the groups with those ids (all without
// ids; one that does not exist is an error) that match every filter.
func (e *EC2) describeGroups(ids []string, filters map[string][]string) ([]infoXML, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fault, err := e.enter(actionDescribeGroups)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if _, err := e.group(id); err != nil {
			return nil, err
		}
	}
	out := []infoXML{}
	for _, id := range sortedKeys(e.groups) {
		g := e.groups[id]
		if (len(ids) == 0 || slices.Contains(ids, id)) && g.matches(filters) {
			out = append(out, infoXML{account, id, g.name, "a group of the simulator", tagsXML(g.tags)})
		}
	}
	return out, fault.after()
}

// matches says whether the group passes all filters, and of each at least one value:
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSecurityGroups.html
func (g *group) matches(filters map[string][]string) bool {
	for name, values := range filters {
		have, ok := g.id, true
		if key, isTag := strings.CutPrefix(name, "tag:"); isTag {
			have, ok = g.tags[key]
		}
		if !ok || !slices.ContainsFunc(values, func(v string) bool { return wildcard(v).MatchString(have) }) {
			return false
		}
	}
	return true
}

// wildcard reads a filter's value: "An asterisk (*) matches zero or more characters,
// and a question mark (?) matches zero or one character", and a backslash takes their
// meaning away: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html
func wildcard(value string) *regexp.Regexp {
	var pattern strings.Builder
	literal := false
	for _, r := range value {
		switch {
		case r == '\\' && !literal:
			literal = true
			continue
		case r == '*' && !literal:
			pattern.WriteString(".*")
		case r == '?' && !literal:
			pattern.WriteString(".?")
		default:
			pattern.WriteString(regexp.QuoteMeta(string(r)))
		}
		literal = false
	}
	return regexp.MustCompile("(?s)^" + pattern.String() + "$")
}
