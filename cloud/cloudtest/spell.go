package cloudtest

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// Parse reads a rule as tests write it: "TCP 30080-30099 10.8.0.0/16". The
// source "group" is the zero Prefix: something that is no prefix. It panics on
// anything else, for it reads what a programmer wrote.
func Parse(s string) rule.Rule {
	f := strings.Fields(s)
	if len(f) != 3 {
		panic(fmt.Sprintf("cloudtest: rule %q: want protocol, ports, source", s))
	}
	r := rule.Rule{Protocol: rule.Protocol(f[0])}
	if f[1] == "0-65535" { // rule.ParsePortRange knows no port 0, clouds do
		r.Ports = rule.PortRange{First: 0, Last: 65535}
	} else {
		ports, err := rule.ParsePortRange(f[1])
		if err != nil {
			panic(err)
		}
		r.Ports = ports
	}
	if f[2] != "group" {
		r.Source = netip.MustParsePrefix(f[2])
	}
	return r
}

// Spell is the inverse of Parse.
func Spell(r rule.Rule) string {
	source := "group"
	if r.Source.IsValid() {
		source = r.Source.String()
	}
	return fmt.Sprintf("%s %s %s", r.Protocol, r.Ports, source)
}

// Grant returns the grant that Parse reads.
func Grant(s string) cloud.Grant { return cloud.Grant{Rule: Parse(s)} }

func grants(spelled ...string) []cloud.Grant {
	var out []cloud.Grant
	for _, s := range spelled {
		out = append(out, Grant(s))
	}
	return out
}

// Foreign returns the rule that Parse reads, made by a person.
func Foreign(s string) cloud.Rule {
	return cloud.Rule{Rule: Parse(s), Description: "made by hand"}
}

// Peering returns the rule that Parse reads with the source "group", which is the peer,
// made by a person.
func Peering(s, peer string) cloud.Rule {
	r := Foreign(s)
	r.Peer = peer
	return r
}

// PeerGrant returns the grant that Parse reads with the source "group", which is the peer.
func PeerGrant(s, peer string) cloud.Grant { return cloud.Grant{Rule: Parse(s), Peer: peer} }

// Signed returns the rule that Parse reads, signed by owner.
func Signed(s, owner string) cloud.Rule { return cloud.Rule{Rule: Parse(s), Owner: owner} }

// Port returns one port.
func Port(protocol rule.Protocol, number uint16) rule.Port {
	return rule.Port{Protocol: protocol, Number: number}
}
