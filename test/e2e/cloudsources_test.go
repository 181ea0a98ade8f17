package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/test/stage"
)

// A prefix list is looked up in the cloud, kept, admitted by nodes and the cloud, and
// thrown away; of a group the cloud admits the members, and nodes the network.
func TestSourcesThatTheCloudKnows(t *testing.T) {
	const list, members = "pl-0123456789abcdef0", "sg-0fedcba9876543210"
	s := openCloud(t, "known", "30350-30359")
	account.AddGroup(members)
	t.Cleanup(func() { account.RemoveGroup(members) })
	account.AddPrefixList(list, 20, netip.MustParsePrefix("192.0.2.0/25"))
	policy := s.policy("shop")
	policy.Spec.Sources = []v1alpha1.Source{{PrefixList: list}, {CIDR: officeCIDR, SecurityGroup: members}}
	s.create(policy)
	s.awaitReason(policy, v1alpha1.Accepted, v1alpha1.ReasonSourceRefused) // the pool lists neither
	s.silentSoon(s.office, from(officeCIDR, 1), 30350)

	edit(s, s.pool, func(p *v1alpha1.NodePortPool) {
		p.Spec.Guardrails.PrefixLists = []v1alpha1.PrefixListID{list}
		p.Spec.Guardrails.SecurityGroups = []v1alpha1.SecurityGroupID{members}
	})
	s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), 30350)
	var sources []string
	for _, r := range account.Rules(stage.Group) {
		if r.Owner != "" && r.Ports.Contains(30350) {
			sources = append(sources, fmt.Sprint(r.Peer, r.Source))
		}
	}
	if got := fmt.Sprint(sources); got != "[192.0.2.0/25 "+members+"invalid Prefix]" && got != "["+members+"invalid Prefix 192.0.2.0/25]" {
		t.Errorf("the cloud admits %s", got)
	}

	// Where the cloud only observes, nobody narrows the network to the group.
	s.firewall(func(f *v1alpha1.CloudFirewallSpec) { f.Mode = v1alpha1.CloudObserve })
	s.awaitReason(policy, v1alpha1.Accepted, v1alpha1.ReasonSourceRefused)
	s.silentSoon(s.office, from(officeCIDR, 1), 30350)
	s.firewall(func(f *v1alpha1.CloudFirewallSpec) { f.Mode = v1alpha1.CloudEnforce })
	s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), 30350)

	account.AddPrefixList(list, 20, netip.MustParsePrefix(string(officeCIDR)))
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Sources = p.Spec.Sources[:1] })
	s.eventually("the list is looked up again", func() error {
		if have := ourRules(); len(have) != 1 || have[0] != "TCP 30350 "+string(officeCIDR) {
			return fmt.Errorf("have %q", have)
		}
		return nil
	})
	s.awaitReady(policy)
	s.answers(s.office, from(officeCIDR, 1), 30350)

	s.delete(policy)
	s.eventually("nobody keeps the list", func() error {
		var sets v1alpha1.AddressSetList
		if err := town.Client.List(s.ctx, &sets, client.HasLabels{v1alpha1.LabelPrefixList}); err != nil {
			return err
		}
		for i := range sets.Items {
			if id, is := compile.ListID(&sets.Items[i]); is {
				return fmt.Errorf("%s is still in %s", id, sets.Items[i].Name)
			}
		}
		return nil
	})
	s.silentSoon(s.office, from(officeCIDR, 1), 30350)
}
