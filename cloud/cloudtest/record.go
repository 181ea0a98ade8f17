package cloudtest

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// record is one security group rule as EC2 keeps it.
type record struct {
	id          string
	egress      bool
	protocol    string // "tcp", "udp", "icmp", "-1", "132" ...
	from, to    int
	source      netip.Prefix
	groupSource string
	groupOwner  string // the account of groupSource
	prefixList  string
	description string
	tags        map[string]string
}

// admits says why the group cannot take the records, if so.
//
// Duplicates: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
// (InvalidPermission.Duplicate). Quota, "enforced separately for IPv4 rules and IPv6
// rules": https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html
func (e *EC2) admits(g *group, add []record) error {
	for i, r := range add {
		if slices.ContainsFunc(add[:i], r.same) {
			return refuse("InvalidParameterValue", "The same permission must not appear multiple times")
		}
		if slices.ContainsFunc(g.rules, r.same) {
			return refuse("InvalidPermission.Duplicate", "the specified rule \""+r.spell()+"\" already exists")
		}
	}
	v4, v6 := 0, 0
	for _, r := range slices.Concat(g.rules, add) {
		if r.egress {
			continue
		}
		r4, r6 := e.weight(r)
		v4, v6 = v4+r4, v6+r6
	}
	if limit := e.options.RulesPerGroup; v4 > limit || v6 > limit {
		return refuse("RulesPerSecurityGroupLimitExceeded", "The maximum number of rules per security group has been reached.")
	}
	return nil
}

// weight is what a rule takes of the group's quotas. A rule with a group counts in
// both families. A prefix list counts as many entries as it has room for, not as it
// holds: "if you create a prefix list with 20 maximum entries and you reference that
// prefix list in a security group rule, this counts as 20 security group rules" (both
// on the page of the quotas, above); in its own family, for it has only one.
func (e *EC2) weight(r record) (v4, v6 int) {
	list, known := e.lists[r.prefixList]
	switch {
	case known && list.ipv6:
		return 0, list.max
	case known:
		return list.max, 0
	case !r.source.IsValid():
		return 1, 1
	case r.source.Addr().Is4():
		return 1, 0
	}
	return 0, 1
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
		// allows traffic on all ports, regardless of any port range you specify":
		// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_IpPermission.html
		if n, err := strconv.Atoi(r.protocol); err != nil || n < -1 || n > 255 {
			return refuse("InvalidParameterValue", "Invalid value '"+r.protocol+"' for IP protocol. Unknown protocol.")
		}
		r.from, r.to = -1, -1
	}
	if r.peer() == "" {
		return refuse("MissingParameter", "The request must contain a source")
	}
	if r.source.IsValid() {
		// "100.68.0.18/18 becomes 100.68.0.0/18":
		// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_AuthorizeSecurityGroupIngress.html
		r.source = r.source.Masked()
	}
	return checkDescription(r.description)
}

// What EC2 takes in a rule's description:
// https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_IpRange.html
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
