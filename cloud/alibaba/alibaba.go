package alibaba

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"

	"github.com/aliyun/alibaba-cloud-sdk-go/sdk/requests"
	"github.com/aliyun/alibaba-cloud-sdk-go/services/ecs"

	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/rule"
)

const (
	// pageSize is the most that DescribeSecurityGroupAttribute gives.
	pageSize = 1000
	// batch is the most permissions, or rule ids, that one call takes.
	batch = 100
	// rulesPerGroup is what a group held when its rules were counted alone, and
	// rulesTogether what the groups of one interface hold since. Both count both
	// directions.
	rulesPerGroup = 200
	rulesTogether = 1000
	// direction and nicType are the only ones of an inbound rule in a VPC.
	direction = "ingress"
	nicType   = "intranet"
)

// Provider is one account and region of ECS, and the Directory of what stands there.
// Its methods may be called concurrently.
type Provider struct {
	client   *client
	priority int
}

var _ interface {
	cloud.Provider
	cloud.Directory
} = (*Provider)(nil)

// New returns a provider for the account that the options' credentials belong to. It
// calls nobody. Options that contradict themselves are ErrInvalid; where nothing says
// who we are it is ErrDenied.
func New(o Options) (*Provider, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	c, err := newClient(o)
	if err != nil {
		return nil, err
	}
	return &Provider{client: c, priority: max(o.Priority, 1)}, nil
}

// Capabilities implements cloud.Provider.
func (p *Provider) Capabilities() cloud.Capabilities {
	return cloud.Capabilities{
		RulesPerGroup: cloud.Count{All: rulesPerGroup},
		RulesTogether: rulesTogether,
		Batch:         batch,
		Priority:      p.priority,
		Lenient:       true,
		Protocols:     []rule.Protocol{rule.TCP, rule.UDP},
	}
}

// List implements cloud.Provider.
func (p *Provider) List(ctx context.Context, group string) ([]cloud.Rule, error) {
	var out []cloud.Rule
	seen := map[string]bool{}
	err := pages(func(token string) (string, error) {
		page, err := call(ctx, p.client, func() *ecs.DescribeSecurityGroupAttributeRequest {
			r := ecs.CreateDescribeSecurityGroupAttributeRequest()
			r.SecurityGroupId, r.Direction, r.NicType = group, direction, nicType
			r.MaxResults, r.NextToken = requests.NewInteger(pageSize), token
			return r
		}, (*ecs.Client).DescribeSecurityGroupAttribute)
		if err != nil {
			return "", err
		}
		for _, permission := range page.Permissions.Permission {
			if permission.Direction == "egress" || seen[permission.SecurityGroupRuleId] {
				continue
			}
			listed, err := ruleOf(permission)
			if err != nil {
				return "", fmt.Errorf("rule %s of %s: %w", permission.SecurityGroupRuleId, group, err)
			}
			seen[listed.ID] = true
			out = append(out, listed)
		}
		return page.NextToken, nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// pages calls read with the token of each page until there is none. A token that comes
// twice would go on for ever.
func pages(read func(token string) (next string, err error)) error {
	seen := map[string]bool{}
	for token := ""; ; {
		next, err := read(token)
		if err != nil || next == "" {
			return err
		}
		if seen[next] {
			return fmt.Errorf("the listing comes back to its page %q", next)
		}
		seen[next] = true
		token = next
	}
}

// Authorize implements cloud.Provider.
func (p *Provider) Authorize(ctx context.Context, group, owner string, grants []cloud.Grant) error {
	if len(grants) == 0 {
		return nil
	}
	permissions, err := permissionsOf(owner, strconv.Itoa(p.priority), grants)
	if err != nil {
		return err
	}
	token := rand.Text() // the same for every attempt: what was done is not done again
	_, err = call(ctx, p.client, func() *ecs.AuthorizeSecurityGroupRequest {
		r := ecs.CreateAuthorizeSecurityGroupRequest()
		r.SecurityGroupId, r.Permissions, r.ClientToken = group, &permissions, token
		return r
	}, (*ecs.Client).AuthorizeSecurityGroup)
	return err
}

// Revoke implements cloud.Provider.
func (p *Provider) Revoke(ctx context.Context, group string, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	token := rand.Text()
	_, err := call(ctx, p.client, func() *ecs.RevokeSecurityGroupRequest {
		r := ecs.CreateRevokeSecurityGroupRequest()
		r.SecurityGroupId, r.SecurityGroupRuleId, r.ClientToken = group, &ids, token
		return r
	}, (*ecs.Client).RevokeSecurityGroup)
	return err
}
