package alibaba

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// What others can see of us in an account. Changing the mark orphans every rule written
// so far.
const (
	// mark begins the description of each rule of ours; the cluster id follows. It is
	// spelled as our tag on AWS is.
	mark = "portreeve.dev/cluster="
	// sumMark comes between the cluster id and a sum of what the rule admits.
	sumMark = " rule="
	sumSize = 8 // bytes of it
	// userAgent marks our calls in ActionTrail.
	userAgent = "portreeve"
)

// descriptionLimit is in characters, of any script.
const descriptionLimit = 512

// protocols are the names, and the numbers that some regions take, under which ECS
// lists the protocols we know. Others keep their own.
var protocols = map[string]rule.Protocol{
	"tcp": rule.TCP, "6": rule.TCP,
	"udp": rule.UDP, "17": rule.UDP,
	"132": rule.SCTP,
	"all": cloud.AnyProtocol,
}

// allPorts is what a rule admits that knows no ports.
var allPorts = rule.PortRange{First: 0, Last: 65535}

// permissionsOf spells the grants, signed with the owner, in their order.
func permissionsOf(owner, priority string, grants []cloud.Grant) ([]ecs.AuthorizeSecurityGroupPermissions, error) {
	if len(grants) > batch {
		return nil, fmt.Errorf("%w: %d rules in one call, which takes %d", cloud.ErrInvalid, len(grants), batch)
	}
	if owner == "" || strings.ContainsFunc(owner, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("%w: %q can't sign a rule", cloud.ErrInvalid, owner)
	}
	out := make([]ecs.AuthorizeSecurityGroupPermissions, len(grants))
	for i, g := range grants {
		if g.Protocol != rule.TCP && g.Protocol != rule.UDP {
			return nil, fmt.Errorf("%w: %s is no protocol of an ECS security group", cloud.ErrUnsupported, g.Protocol)
		}
		out[i] = ecs.AuthorizeSecurityGroupPermissions{
			Policy: "accept", Priority: priority, NicType: nicType,
			IpProtocol:  strings.ToLower(string(g.Protocol)),
			PortRange:   fmt.Sprintf("%d/%d", g.Ports.First, g.Ports.Last),
			Description: describe(signature(owner, g.Rule, g.Peer), g.Description),
		}
		switch source := &out[i]; {
		case g.Peer != "":
			source.SourceGroupId = g.Peer
		case g.Source.Addr().Is4():
			source.SourceCidrIp = g.Source.Masked().String()
		default:
			source.Ipv6SourceCidrIp = g.Source.Masked().String()
		}
	}
	return out, nil
}

// signature begins the description of a rule of the owner. The sum binds it to what the
// rule admits: ECS' console copies rules with their descriptions, and a copy with other
// ports or sources is not ours to revoke.
func signature(owner string, r rule.Rule, peer string) string {
	source := peer
	if r.Source.IsValid() {
		source = r.Source.Masked().String()
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d-%d %s", owner, r.Protocol, r.Ports.First, r.Ports.Last, source))
	return mark + owner + sumMark + hex.EncodeToString(sum[:sumSize])
}

// signer reads the owner out of a description, and what a person shall read beside it.
// Both are as listed unless the whole signature is that of the rule.
func signer(r rule.Rule, peer, description string) (owner, text string) {
	rest, ok := strings.CutPrefix(description, mark)
	owner, _, more := strings.Cut(rest, sumMark)
	if !ok || !more || owner == "" {
		return "", description
	}
	text, ok = strings.CutPrefix(description, signature(owner, r, peer))
	if !ok || (text != "" && text[0] != ' ') {
		return "", description
	}
	return owner, strings.TrimPrefix(text, " ")
}

// describe returns the signature and as much of the text as there is room for. ECS does
// not say which characters it takes: those that no script is written in become "_".
func describe(signature, text string) string {
	clean := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || r > '\uffff' || !unicode.IsPrint(r) || strings.ContainsRune(`<>"'&\`, r) {
			return '_'
		}
		return r
	}, text)
	if clean == "" {
		return signature
	}
	if runes, room := []rune(clean), descriptionLimit-utf8.RuneCountInString(signature)-1; len(runes) > room {
		clean = string(runes[:room-3]) + "..."
	}
	return signature + " " + clean
}

// ruleOf reads a rule as ECS lists it. What we never write keeps its meaning as far as
// it can hurt us: drops, all protocols, all ports, a source that is no prefix.
func ruleOf(p ecs.Permission) (cloud.Rule, error) {
	out := cloud.Rule{ID: p.SecurityGroupRuleId, Drop: strings.EqualFold(p.Policy, "drop"), Priority: 1, Description: p.Description}
	if p.Priority != "" {
		n, err := strconv.Atoi(p.Priority)
		if err != nil {
			return cloud.Rule{}, fmt.Errorf("priority %q", p.Priority)
		}
		out.Priority = n
	}
	protocol, known := protocols[strings.ToLower(p.IpProtocol)]
	if !known {
		protocol = rule.Protocol(strings.ToUpper(p.IpProtocol))
	}
	out.Protocol, out.Ports = protocol, portsOf(protocol, p.PortRange)
	if cidr := p.SourceCidrIp + p.Ipv6SourceCidrIp; cidr != "" {
		source, err := parseSource(cidr)
		if err != nil {
			return cloud.Rule{}, err
		}
		out.Source = source
	} else {
		out.Peer = cmp.Or(p.SourceGroupId, p.SourcePrefixListId)
	}
	if more := conditions(p); more != "" {
		out.Peer = strings.TrimSpace(p.SourceCidrIp+p.Ipv6SourceCidrIp+out.Peer) + more
		out.Source = netip.Prefix{}
		return out, nil // of a shape that we never write, whatever it is signed with
	}
	if !out.Drop {
		out.Owner, out.Description = signer(out.Rule, out.Peer, p.Description)
	}
	return out, nil
}

// conditions tells in words what a quintuple rule asks for beside its source, ports and
// protocol. Every address is a destination of everything.
func conditions(p ecs.Permission) string {
	out := ""
	for _, to := range []string{p.DestCidrIp, p.Ipv6DestCidrIp} {
		if to != "" && to != "0.0.0.0/0" && to != "::/0" {
			out += " to " + to
		}
	}
	if from := p.SourcePortRange; from != "" && from != "-1/-1" && from != "1/65535" {
		out += " from source ports " + from
	}
	return out
}

// portsOf reads a range of ports, "a/b". Where it is none, or hidden in a list of ports
// that the SDK does not show, all may be meant.
func portsOf(protocol rule.Protocol, s string) rule.PortRange {
	a, b, _ := strings.Cut(s, "/")
	first, err1 := strconv.ParseUint(a, 10, 16)
	last, err2 := strconv.ParseUint(b, 10, 16)
	if (protocol != rule.TCP && protocol != rule.UDP) || err1 != nil || err2 != nil || first > last {
		return allPorts
	}
	return rule.PortRange{First: uint16(first), Last: uint16(last)}
}

// parseSource reads what ECS takes for a source: a CIDR block or one address.
func parseSource(s string) (netip.Prefix, error) {
	if address, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(address, address.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	return prefix.Masked(), err
}
