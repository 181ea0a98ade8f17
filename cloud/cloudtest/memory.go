package cloudtest

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

// Provider returns the account as a cloud.Provider, without HTTP in between.
func (e *EC2) Provider() cloud.Provider { return memory{e} }

type memory struct{ ec2 *EC2 }

func (m memory) Capabilities() cloud.Capabilities {
	n := m.ec2.options.RulesPerGroup
	return cloud.Capabilities{
		RulesPerGroup: cloud.Count{IPv4: n, IPv6: n},
		Batch:         200,
		Protocols:     []rule.Protocol{rule.TCP, rule.UDP},
	}
}

func (m memory) List(ctx context.Context, group string) ([]cloud.Rule, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	found, err := m.ec2.describe([]string{group})
	if err != nil {
		return nil, err
	}
	if _, ok := found[group]; !ok {
		return nil, refuse("InvalidGroup.NotFound", "The security group '"+group+"' does not exist")
	}
	return listed(found[group]), nil
}

func (m memory) Authorize(ctx context.Context, group, owner string, grants []cloud.Grant) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var add []record
	for _, g := range grants {
		rec := recordOf(g.Rule, allowed(g.Description))
		if g.Peer != "" {
			m.ec2.setPeer(&rec, g.Peer)
		}
		rec.tags = map[string]string{OwnerTag: owner}
		add = append(add, rec)
	}
	_, err := m.ec2.authorize(group, add)
	return err
}

func (m memory) Revoke(ctx context.Context, group string, ids []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := m.ec2.revoke(group, slices.Clone(ids))
	return err
}

// Tagged implements cloud.Directory.
func (m memory) Tagged(ctx context.Context, tags map[string]string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(tags) == 0 {
		return nil, refuse("MissingParameter", "The request must contain a tag")
	}
	m.ec2.mu.Lock()
	defer m.ec2.mu.Unlock()
	if _, err := m.ec2.enter(actionDescribeGroups); err != nil {
		return nil, err
	}
	var out []string
	for _, id := range sortedKeys(m.ec2.groups) {
		if carries(m.ec2.groups[id].tags, tags) {
			out = append(out, id)
		}
	}
	return out, nil
}

func carries(have, want map[string]string) bool {
	for key, value := range want {
		if v, ok := have[key]; !ok || v != value {
			return false
		}
	}
	return true
}

// Exists implements cloud.Directory.
func (m memory) Exists(ctx context.Context, group string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := m.ec2.describeGroups([]string{group}, nil)
	return err
}

// PrefixList implements cloud.Directory.
func (m memory) PrefixList(ctx context.Context, id string) ([]netip.Prefix, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := m.ec2.entries(id)
	return rule.Canonical(entries), err
}

// allowed spells a description as EC2 takes it.
func allowed(s string) string {
	clean := strings.Map(func(r rune) rune {
		if strings.ContainsRune(descriptionCharset, r) {
			return r
		}
		return '_'
	}, s)
	return clean[:min(len(clean), descriptionLimit)]
}

// toEC2 and fromEC2 translate protocols between the two vocabularies.
var (
	toEC2   = map[rule.Protocol]string{rule.TCP: "tcp", rule.UDP: "udp", rule.SCTP: "132", cloud.AnyProtocol: "-1"}
	fromEC2 = map[string]rule.Protocol{"tcp": rule.TCP, "udp": rule.UDP, "132": rule.SCTP, "-1": cloud.AnyProtocol}
)

func recordOf(r rule.Rule, description string) record {
	rec := record{from: int(r.Ports.First), to: int(r.Ports.Last), description: description}
	var known bool
	if rec.protocol, known = toEC2[r.Protocol]; !known {
		rec.protocol = strings.ToLower(string(r.Protocol))
	}
	if rec.protocol != "tcp" && rec.protocol != "udp" {
		rec.from, rec.to = -1, -1
	}
	if r.Source.IsValid() {
		rec.source = r.Source.Masked()
	}
	return rec
}

// peerID is the group or prefix list that is the record's source, with its account where
// that is another one.
func (r record) peerID() string {
	if r.groupSource != "" && r.groupOwner != account {
		return r.groupOwner + "/" + r.groupSource
	}
	return r.groupSource + r.prefixList
}

func (r record) listed() cloud.Rule {
	out := cloud.Rule{ID: r.id, Peer: r.peerID(), Owner: r.tags[OwnerTag], Description: r.description}
	protocol, known := fromEC2[r.protocol]
	if !known {
		protocol = rule.Protocol(strings.ToUpper(r.protocol))
	}
	out.Rule = rule.Rule{Protocol: protocol, Ports: rule.PortRange{First: 0, Last: 65535}, Source: r.source}
	if r.from >= 0 {
		out.Ports = rule.PortRange{First: uint16(r.from), Last: uint16(r.to)}
	}
	return out
}
