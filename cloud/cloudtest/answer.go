package cloudtest

import (
	"encoding/xml"
	"maps"
	"slices"
)

// The shapes of EC2's answers; element names from the service model.

const xmlNamespace = "http://ec2.amazonaws.com/doc/2016-11-15/"

type answer struct {
	XMLName   xml.Name
	Namespace string      `xml:"xmlns,attr"`
	RequestID string      `xml:"requestId"`
	Return    *bool       `xml:"return,omitempty"`
	Rules     *[]ruleXML  `xml:"securityGroupRuleSet>item"`
	Revoked   *[]ruleXML  `xml:"revokedSecurityGroupRuleSet>item"`
	Groups    *[]infoXML  `xml:"securityGroupInfo>item"`
	Entries   *[]entryXML `xml:"entrySet>item"`
	NextToken string      `xml:"nextToken,omitempty"`
}

type ruleXML struct {
	ID          string        `xml:"securityGroupRuleId"`
	GroupID     string        `xml:"groupId"`
	OwnerID     string        `xml:"groupOwnerId"`
	Egress      bool          `xml:"isEgress"`
	Protocol    string        `xml:"ipProtocol"`
	From        int           `xml:"fromPort"`
	To          int           `xml:"toPort"`
	IPv4        string        `xml:"cidrIpv4,omitempty"`
	IPv6        string        `xml:"cidrIpv6,omitempty"`
	PrefixList  string        `xml:"prefixListId,omitempty"`
	Referenced  *referenceXML `xml:"referencedGroupInfo"`
	Description string        `xml:"description,omitempty"`
	Tags        []tagXML      `xml:"tagSet>item"`
}

type referenceXML struct {
	GroupID string `xml:"groupId"`
	UserID  string `xml:"userId"`
}

type tagXML struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

type infoXML struct {
	OwnerID     string   `xml:"ownerId"`
	ID          string   `xml:"groupId"`
	Name        string   `xml:"groupName"`
	Description string   `xml:"groupDescription"`
	Tags        []tagXML `xml:"tagSet>item"`
}

type entryXML struct {
	CIDR string `xml:"cidr"`
}

type errorXML struct {
	XMLName   xml.Name `xml:"Response"`
	Code      string   `xml:"Errors>Error>Code"`
	Message   string   `xml:"Errors>Error>Message"`
	RequestID string   `xml:"RequestID"`
}

// account is the id of the simulated account.
const account = "123456789012"

func rulesXML(group string, records []record) []ruleXML {
	out := make([]ruleXML, 0, len(records))
	for _, r := range records {
		x := ruleXML{
			ID: r.id, GroupID: group, OwnerID: account, Egress: r.egress,
			Protocol: r.protocol, From: r.from, To: r.to,
			PrefixList: r.prefixList, Description: r.description, Tags: tagsXML(r.tags),
		}
		switch {
		case r.groupSource != "":
			x.Referenced = &referenceXML{GroupID: r.groupSource, UserID: r.groupOwner}
		case r.source.Addr().Is4():
			x.IPv4 = r.source.String()
		case r.source.Addr().Is6():
			x.IPv6 = r.source.String()
		}
		out = append(out, x)
	}
	return out
}

func tagsXML(tags map[string]string) []tagXML {
	var out []tagXML
	for _, key := range sortedKeys(tags) {
		out = append(out, tagXML{key, tags[key]})
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
