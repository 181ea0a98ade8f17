package aws

import (
	"fmt"
	"net/netip"
	"strings"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// What others can see of us in an account, beside the descriptions. Changing
// the tag orphans every rule written so far.
const (
	// ownerTag is the key of the signature; its value is the cluster id. A tag
	// rather than the description, because IAM can demand it in a condition and
	// because people edit descriptions. The prefix is our API group, as
	// Kubernetes tags are spelled on AWS.
	ownerTag = "portreeve.dev/cluster"
	// userAgent marks our calls in CloudTrail.
	userAgent = "portreeve"
)

const (
	descriptionLimit = 255
	// descriptionCharset is what EC2 takes besides letters and digits.
	descriptionCharset = " ._-:/()#,@[]+=&;{}!$*"
)

// protocols are the names under which EC2 lists the protocols we know. It takes
// and gives tcp, udp and icmp by name, everything else by number.
var protocols = map[string]rule.Protocol{
	"tcp": rule.TCP, "6": rule.TCP,
	"udp": rule.UDP, "17": rule.UDP,
	"132": rule.SCTP, "sctp": rule.SCTP,
	"-1": cloud.AnyProtocol,
}

// allPorts is what a rule admits whose ports EC2 ignores.
var allPorts = rule.PortRange{First: 0, Last: 65535}

// permissionsOf spells the grants, one permission for each protocol and range of ports,
// with all its sources; groups in one of their own, for the API reference wants them
// apart from prefixes ("You can't specify a source security group and a CIDR IP address
// range in the same set of permissions"). The order of the grants is kept.
func permissionsOf(grants []cloud.Grant) ([]types.IpPermission, error) {
	type key struct {
		protocol rule.Protocol
		ports    rule.PortRange
		peers    bool
	}
	at := map[key]int{}
	var out []types.IpPermission
	for _, g := range grants {
		if g.Protocol != rule.TCP && g.Protocol != rule.UDP {
			return nil, fmt.Errorf("%w: EC2 ignores the ports of a %s rule and would open all of them", cloud.ErrUnsupported, g.Protocol)
		}
		k := key{g.Protocol, g.Ports, g.Peer != ""}
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k] = i
			out = append(out, types.IpPermission{
				IpProtocol: sdk.String(strings.ToLower(string(g.Protocol))),
				FromPort:   sdk.Int32(int32(g.Ports.First)),
				ToPort:     sdk.Int32(int32(g.Ports.Last)),
			})
		}
		if err := admit(&out[i], g); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// admit adds the grant's source to the permission: its peer or else its prefix.
func admit(p *types.IpPermission, g cloud.Grant) error {
	description := sdk.String(describe(g.Description))
	switch {
	case g.Peer != "" && g.Source.IsValid(), g.Peer == "" && !g.Source.IsValid():
		return fmt.Errorf("%w: a grant of %s %s has exactly one source, not %q and %q", cloud.ErrInvalid, g.Protocol, g.Ports, g.Peer, g.Source)
	case g.Peer != "":
		pair := types.UserIdGroupPair{GroupId: sdk.String(g.Peer), Description: description}
		if account, group, other := strings.Cut(g.Peer, "/"); other {
			pair.UserId, pair.GroupId = sdk.String(account), sdk.String(group)
		}
		p.UserIdGroupPairs = append(p.UserIdGroupPairs, pair)
	case g.Source.Addr().Is4():
		p.IpRanges = append(p.IpRanges, types.IpRange{CidrIp: sdk.String(g.Source.Masked().String()), Description: description})
	default:
		p.Ipv6Ranges = append(p.Ipv6Ranges, types.Ipv6Range{CidrIpv6: sdk.String(g.Source.Masked().String()), Description: description})
	}
	return nil
}

// describe returns the text as EC2 takes it: other characters become "_", and
// what is too long ends in "...".
func describe(text string) string {
	clean := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(descriptionCharset, r):
			return r
		}
		return '_'
	}, text)
	if len(clean) > descriptionLimit {
		return clean[:descriptionLimit-3] + "..."
	}
	return clean
}

// ruleOf reads a rule as EC2 lists it. What we never write keeps its meaning as
// far as it can hurt us: all protocols, all ports, a source that is no prefix.
func ruleOf(r types.SecurityGroupRule) (cloud.Rule, error) {
	out := cloud.Rule{ID: sdk.ToString(r.SecurityGroupRuleId), Description: sdk.ToString(r.Description)}
	for _, t := range r.Tags {
		if sdk.ToString(t.Key) == ownerTag {
			out.Owner = sdk.ToString(t.Value)
		}
	}
	name := strings.ToLower(sdk.ToString(r.IpProtocol))
	protocol, known := protocols[name]
	if !known {
		protocol = rule.Protocol(strings.ToUpper(name))
	}
	out.Protocol, out.Ports = protocol, allPorts
	from, to := sdk.ToInt32(r.FromPort), sdk.ToInt32(r.ToPort)
	if (protocol == rule.TCP || protocol == rule.UDP) && from >= 0 && from <= to && to <= 65535 {
		out.Ports = rule.PortRange{First: uint16(from), Last: uint16(to)}
	}
	if peer := r.ReferencedGroupInfo; peer != nil { // with its account, where that is not ours
		out.Peer = sdk.ToString(peer.GroupId)
		if account, own := sdk.ToString(peer.UserId), sdk.ToString(r.GroupOwnerId); account != "" && own != "" && account != own {
			out.Peer = account + "/" + out.Peer
		}
	} else {
		out.Peer = sdk.ToString(r.PrefixListId)
	}
	for _, cidr := range []*string{r.CidrIpv4, r.CidrIpv6} {
		if sdk.ToString(cidr) == "" {
			continue
		}
		source, err := netip.ParsePrefix(*cidr)
		if err != nil {
			return cloud.Rule{}, fmt.Errorf("rule %s of %s: %w", out.ID, sdk.ToString(r.GroupId), err)
		}
		out.Source = source.Masked()
	}
	return out, nil
}
