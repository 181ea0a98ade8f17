package cloudtest

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// ecsRule is one rule as Alibaba Cloud keeps and lists it (DescribeSecurityGroupAttribute:
// Permissions.Permission). What a rule does not have is the empty string.
type ecsRule struct {
	ID           string `json:"SecurityGroupRuleId"`
	Direction    string `json:"Direction"`
	Policy       string `json:"Policy"`
	Priority     string `json:"Priority"`
	Protocol     string `json:"IpProtocol"`
	PortRange    string `json:"PortRange"`
	PortList     string `json:"PortRangeListId"`
	CIDR         string `json:"SourceCidrIp"`
	CIDR6        string `json:"Ipv6SourceCidrIp"`
	SourceGroup  string `json:"SourceGroupId"`
	SourceList   string `json:"SourcePrefixListId"`
	SourcePorts  string `json:"SourcePortRange"`
	DestCIDR     string `json:"DestCidrIp"`
	DestCIDR6    string `json:"Ipv6DestCidrIp"`
	NicType      string `json:"NicType"`
	Description  string `json:"Description"`
	CreateTime   string `json:"CreateTime"`
	OwnerAccount string `json:"SourceGroupOwnerAccount"`
}

// ecsProtocols are the names that the API takes, by their upper case, and the
// address family that each is bound to. AuthorizeSecurityGroup: "Case-insensitive
// protocol names"; RevokeSecurityGroup adds ICMPv6. Numbers are taken in some regions
// only; here they are not.
var ecsProtocols = map[string]string{"TCP": "", "UDP": "", "GRE": "", "ALL": "", "ICMP": "4", "ICMPV6": "6"}

// normalize brings a rule to the form that is stored, or says what the API finds
// wrong with it. Source: the parameters and error codes of AuthorizeSecurityGroup,
// ModifySecurityGroupRule and RevokeSecurityGroup.
func (r ecsRule) normalize() (ecsRule, error) {
	r.Direction = "ingress"
	r.Protocol = strings.ToUpper(r.Protocol)
	r.NicType = cmp.Or(r.NicType, "intranet") // VPC: "only intranet is supported"
	family, known := ecsProtocols[r.Protocol]
	if !known {
		return r, refuseECS("InvalidIpProtocol.ValueNotSupported", "The parameter IpProtocol must be specified with case insensitive TCP, UDP, ICMP, GRE or All.")
	}
	if r.NicType != "intranet" {
		return r, refuseECS("InvalidNicType.Mismatch", "The specified NicType conflicts with the authorization record.")
	}
	switch strings.ToLower(cmp.Or(r.Policy, "accept")) { // "Default value: accept"
	case "accept":
		r.Policy = "Accept"
	case "drop":
		r.Policy = "Drop"
	default:
		return r, refuseECS("InvalidPolicy.Malformed", "The specified parameter Policy is not valid.")
	}
	r.Priority = cmp.Or(r.Priority, "1") // "Default value: 1"
	if n, err := strconv.Atoi(r.Priority); err != nil || n < 1 || n > 100 {
		return r, refuseECS("InvalidPriority.ValueNotSupported", "The parameter Priority is invalid.")
	}
	if err := r.checkPorts(); err != nil {
		return r, err
	}
	if err := checkECSDescription(r.Description); err != nil {
		return r, err
	}
	return r.withOneSource(family)
}

// checkPorts: "TCP/UDP: 1 to 65535 ... ICMP, GRE, ALL: -1/-1".
func (r ecsRule) checkPorts() error {
	if r.PortRange == "" && r.PortList == "" {
		return refuseECS("InvalidPortRange.Malformed", "The specified parameter PortRange must set.")
	}
	if r.Protocol != "TCP" && r.Protocol != "UDP" {
		if r.PortRange != "-1/-1" {
			return refuseECS("OperationDenied", "The specified IpProtocol does not exist or IpProtocol and PortRange do not match.")
		}
		return nil
	}
	if first, last, ok := splitPorts(r.PortRange); r.PortList == "" && (!ok || first < 1 || last > 65535 || first > last) {
		return refuseECS("InvalidParam.PortRange", "The specified parameter PortRange is not valid. It should be two integers less than 65535 in ?/? format.")
	}
	return nil
}

func splitPorts(s string) (first, last int, ok bool) {
	a, b, _ := strings.Cut(s, "/")
	first, err1 := strconv.Atoi(a)
	last, err2 := strconv.Atoi(b)
	return first, last, err1 == nil && err2 == nil
}

// withOneSource keeps the source that counts: "If both SourceGroupId and SourceCidrIp
// are specified, SourceCidrIp takes precedence"; a prefix list is ignored beside any
// other.
func (r ecsRule) withOneSource(family string) (ecsRule, error) {
	if r.CIDR != "" && r.CIDR6 != "" {
		return r, refuseECS("InvalidParam.SourceIp", "The Parameters SourceCidrIp and Ipv6SourceCidrIp in Permissions cannot be set at the same time.")
	}
	if r.CIDR+r.CIDR6 != "" {
		r.SourceGroup, r.SourceList, r.OwnerAccount = "", "", ""
	}
	if r.SourceGroup != "" {
		r.SourceList = ""
	}
	switch {
	case r.CIDR+r.CIDR6+r.SourceGroup+r.SourceList == "":
		return r, refuseECS("MissingParameter.Source", "One of the parameters SourceCidrIp, Ipv6SourceCidrIp, SourceGroupId or SourcePrefixListId in Permissions must be specified.")
	case r.CIDR != "" && !r.source().Addr().Is4():
		return r, refuseECS("InvalidParam.SourceCidrIp", "The specified parameter SourceCidrIp is not valid.")
	case r.CIDR6 != "" && !r.source().Addr().Is6():
		return r, refuseECS("InvalidParam.Ipv6SourceCidrIp", "The specified parameter Ipv6SourceCidrIp is not valid.")
	case r.CIDR6 != "" && family == "4":
		return r, refuseECS("InvalidParam.Ipv4ProtocolConflictWithIpv6Address", "IPv6 address cannot be specified for IPv4-specific protocol.")
	case r.CIDR != "" && family == "6":
		return r, refuseECS("InvalidParam.Ipv6ProtocolConflictWithIpv4Address", "IPv4 address cannot be specified for IPv6-specific protocol.")
	}
	return r, nil
}

// source is the prefix that the rule admits: "CIDR format and IPv4 (IPv6) format". It
// is the zero Prefix for any other source.
func (r ecsRule) source() netip.Prefix {
	text := r.CIDR + r.CIDR6
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Masked()
	}
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a, a.BitLen())
	}
	return netip.Prefix{}
}

// checkECSDescription: "The description must be 1 to 512 characters in length" and,
// like every description of ECS, must not start with http:// or https://. None is none.
func checkECSDescription(s string) error {
	if utf8.RuneCountInString(s) > 512 || strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") {
		return refuseECS("InvalidSecurityGroupDiscription.Malformed", "The specified security group rule description is not valid.")
	}
	return nil
}

// same says whether two rules are one to the API: "Source settings, PortRange,
// IpProtocol, Policy", with the optional rest of a quintuple rule. Priority and
// description play no part.
func (r ecsRule) same(o ecsRule) bool {
	return r.Direction == o.Direction && r.Policy == o.Policy && r.Protocol == o.Protocol &&
		r.PortRange == o.PortRange && r.PortList == o.PortList && r.source() == o.source() &&
		r.SourceGroup == o.SourceGroup && r.SourceList == o.SourceList &&
		r.SourcePorts == o.SourcePorts && r.DestCIDR == o.DestCIDR && r.DestCIDR6 == o.DestCIDR6
}

// listed is the rule as a provider shall show it.
func (r ecsRule) listed() cloud.Rule {
	out := cloud.Rule{ID: r.ID, Peer: r.SourceGroup + r.SourceList, Drop: r.Policy == "Drop", Description: r.Description}
	out.Priority, _ = strconv.Atoi(r.Priority)
	out.Rule = rule.Rule{Protocol: rule.Protocol(r.Protocol), Ports: rule.PortRange{First: 0, Last: 65535}, Source: r.source()}
	if first, last, ok := splitPorts(r.PortRange); ok && first > 0 {
		out.Ports = rule.PortRange{First: uint16(first), Last: uint16(last)}
	}
	if rest := r.SourcePorts + r.DestCIDR + r.DestCIDR6; rest != "" {
		out.Peer = strings.TrimSpace(r.CIDR + r.CIDR6 + out.Peer + " and " + rest)
		out.Source = netip.Prefix{}
		return out
	}
	if owner, text, ok := readECSMark(out); ok {
		out.Owner, out.Description = owner, text
	}
	return out
}

// ecsRuleOf spells a rule as the API takes it, signed when it has an owner.
func ecsRuleOf(r cloud.Rule) ecsRule {
	out := ecsRule{
		Policy: "accept", Priority: strconv.Itoa(r.Priority), Protocol: strings.ToLower(string(r.Protocol)),
		PortRange: "-1/-1", NicType: "intranet", Description: r.Description,
	}
	if r.Drop {
		out.Policy = "drop"
	}
	if r.Protocol == rule.TCP || r.Protocol == rule.UDP {
		out.PortRange = fmt.Sprintf("%d/%d", r.Ports.First, r.Ports.Last)
	}
	switch {
	case strings.HasPrefix(r.Peer, "pl-"):
		out.SourceList = r.Peer
	case r.Peer != "":
		out.SourceGroup = r.Peer
	case r.Source.Addr().Is4():
		out.CIDR = r.Source.String()
	default:
		out.CIDR6 = r.Source.String()
	}
	if r.Owner != "" {
		out.Description = ECSMark(r) + " " + ecsText(r.Description)
	}
	return out
}

// ecsText spells a text as a description takes it, with room for the mark.
func ecsText(s string) string {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' {
			return '_'
		}
		return r
	}, s)
	runes := []rune(clean)
	return string(runes[:min(len(runes), 350)])
}

// ECSMark is the signature of a rule of r.Owner: there are no tags on rules. It equals
// that of cloud/alibaba; a test there holds the two together. It is bound to what the
// rule admits, so that a copy of it beside other ports or sources is nobody's.
func ECSMark(r cloud.Rule) string {
	source := r.Peer
	if r.Source.IsValid() {
		source = r.Source.Masked().String()
	}
	sum := sha256.Sum256([]byte(fmt.Sprintf("%s %s %d-%d %s", r.Owner, r.Protocol, r.Ports.First, r.Ports.Last, source)))
	return fmt.Sprintf("portreeve.dev/cluster=%s rule=%x", r.Owner, sum[:8])
}

// readECSMark returns the owner that r's description names and the text beside it, if
// the mark is that of r.
func readECSMark(r cloud.Rule) (owner, text string, ok bool) {
	if r.Drop {
		return "", "", false
	}
	rest, ok := strings.CutPrefix(r.Description, "portreeve.dev/cluster=")
	owner, _, _ = strings.Cut(rest, " ")
	if !ok || owner == "" {
		return "", "", false
	}
	r.Owner = owner
	text, ok = strings.CutPrefix(r.Description, ECSMark(r))
	return owner, strings.TrimPrefix(text, " "), ok && (text == "" || text[0] == ' ')
}
