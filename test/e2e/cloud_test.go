package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/test/stage"
)

// openCloud sets a scene whose pool has the shared security group for a gate.
func openCloud(t *testing.T, name string, ranges ...v1alpha1.PortRange) *scene {
	t.Helper()
	s := open(t, name, ranges...)
	s.create(&v1alpha1.CloudFirewall{
		ObjectMeta: metav1.ObjectMeta{Name: "aws"},
		Spec: v1alpha1.CloudFirewallSpec{
			Provider: v1alpha1.ProviderAWS, Region: stage.Region, Endpoint: stage.Endpoint,
			Groups: []v1alpha1.SecurityGroup{{ID: stage.Group}}, Resync: &metav1.Duration{Duration: 10 * time.Second},
		},
	})
	s.editPool(func(p *v1alpha1.NodePortPool) { p.Spec.CloudFirewalls = []v1alpha1.ObjectName{"aws"} })
	return s
}

// rules of the group, as text, without those that are somebody else's.
func ourRules() []string {
	var out []string
	for _, r := range account.Rules(stage.Group) {
		if r.Owner != "" {
			out = append(out, cloudtest.Spell(r.Rule))
		}
	}
	slices.Sort(out)
	return out
}

func (s *scene) awaitRules(want ...string) {
	s.Helper()
	slices.Sort(want)
	s.eventually("the security group holds exactly our rules", func() error {
		if have := ourRules(); !slices.Equal(have, want) {
			return fmt.Errorf("have %q, want %q", have, want)
		}
		return nil
	})
	foreign := 0
	for _, r := range account.Rules(stage.Group) {
		if r.Owner == "" {
			foreign++
		}
	}
	if foreign != len(stage.Foreign) {
		s.Errorf("the group has %d rules of somebody else, want %d", foreign, len(stage.Foreign))
	}
}

func TestTheSecurityGroupFollowsThePolicy(t *testing.T) {
	s := openCloud(t, "cloud", "30300-30309")
	policy := s.policy("shop", officeCIDR, officeCIDR6)
	s.create(policy)
	s.awaitReady(policy)
	s.awaitRules("TCP 30300 "+officeCIDR, "TCP 30300 "+officeCIDR6)
	if len(policy.Status.Cloud) != 1 || policy.Status.Cloud[0].State != "InForce" || policy.Status.Cloud[0].Rules != 2 ||
		!slices.Equal(policy.Status.Cloud[0].Groups, []string{stage.Group}) {
		t.Errorf("status.cloud is %+v", policy.Status.Cloud)
	}

	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Sources = p.Spec.Sources[:1] })
	s.awaitReady(policy)
	s.awaitRules("TCP 30300 " + officeCIDR)

	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.CloudFirewalls = []v1alpha1.ObjectName{} })
	s.awaitReason(policy, v1alpha1.CloudEnforced, v1alpha1.ReasonNotRequired)
	s.awaitRules()
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.CloudFirewalls = []v1alpha1.ObjectName{"other"} })
	s.awaitReason(policy, v1alpha1.Accepted, v1alpha1.ReasonCloudFirewallNotAllowed)
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.CloudFirewalls = nil })
	s.awaitReady(policy)
	s.awaitRules("TCP 30300 " + officeCIDR)

	s.delete(policy)
	s.awaitRules()
	s.awaitFree(30300)
}

func TestACloudThatRefusesHoldsThePortAndSaysWhy(t *testing.T) {
	s := openCloud(t, "denied", "30310-30319")
	policy := s.policy("shop", officeCIDR)
	account.Inject(cloudtest.Fault{Action: "AuthorizeSecurityGroupIngress", Code: "UnauthorizedOperation", Times: 1000})
	t.Cleanup(account.Heal)
	s.create(policy)
	s.awaitReason(policy, v1alpha1.CloudEnforced, v1alpha1.ReasonDenied)
	s.awaitReason(policy, v1alpha1.Stalled, v1alpha1.ReasonDenied)
	s.answers(s.office, from(officeCIDR, 1), 30310) // the node's gate does not wait for the cloud's
	account.Heal()
	s.awaitReady(policy) // at the next resync

	account.Inject(cloudtest.Fault{Action: "RevokeSecurityGroupIngress", Code: "UnauthorizedOperation", Times: 1000})
	s.delete(policy)
	s.silentSoon(s.office, from(officeCIDR, 1), 30310)
	s.eventually("an event names the firewall that holds the port", func() error {
		out, err := town.Kubectl(s.ctx, "events", "--for", "nodeportallocation/30310", "-A")
		if err == nil && !strings.Contains(out, "cloud firewall aws") {
			err = fmt.Errorf("events: %s", out)
		}
		return err
	})
	if s.allocation(30310) == nil {
		t.Fatal("the port was freed although the cloud still admits its old sources")
	}
	account.Heal()
	s.awaitFree(30310)
	s.awaitRules()
}

func TestARuleThatWasRemovedByHandComesBackAndAForeignOneStays(t *testing.T) {
	s := openCloud(t, "drift", "30320-30329")
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	s.awaitReady(policy)
	s.awaitRules("TCP 30320 " + officeCIDR)
	account.Unseed(stage.Group, cloudtest.Parse("TCP 30320 "+officeCIDR))
	s.awaitRules("TCP 30320 " + officeCIDR)
	s.delete(policy)
	s.awaitRules()
}

func TestAGroupTakenOffTheListIsEmptied(t *testing.T) {
	s := openCloud(t, "groups", "30330-30339")
	const other = "sg-0fedcba9876543210"
	account.AddGroup(other)
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	s.awaitReady(policy)
	s.awaitRules("TCP 30330 " + officeCIDR)
	firewall := &v1alpha1.CloudFirewall{ObjectMeta: metav1.ObjectMeta{Name: "aws"}}
	list := func(id string) {
		edit(s, firewall, func(f *v1alpha1.CloudFirewall) { f.Spec.Groups = []v1alpha1.SecurityGroup{{ID: id}} })
	}
	t.Cleanup(func() { account.RemoveGroup(other) })
	list(other)
	s.awaitRules()
	s.eventually("the rule has moved to the listed group", func() error {
		if rules := account.Rules(other); len(rules) != 1 {
			return fmt.Errorf("it holds %v", rules)
		}
		return s.ready(policy, func() []metav1.Condition { return policy.Status.Conditions })
	})
	list(stage.Group)
	s.awaitRules("TCP 30330 " + officeCIDR)
	s.delete(policy)
	s.awaitRules()
}

func TestARegionThatIsNotTheAccountsIsDenied(t *testing.T) {
	s := openCloud(t, "region", "30340-30349")
	elsewhere := &v1alpha1.CloudFirewall{
		ObjectMeta: metav1.ObjectMeta{Name: "elsewhere"},
		Spec: v1alpha1.CloudFirewallSpec{
			Provider: v1alpha1.ProviderAWS, Region: "eu-west-1", Endpoint: stage.Endpoint,
			Groups: []v1alpha1.SecurityGroup{{ID: stage.Group}},
		},
	}
	s.create(elsewhere)
	t.Cleanup(func() { _ = town.Client.Delete(context.Background(), elsewhere) })
	s.eventually("the CloudFirewall says Denied", func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(elsewhere), elsewhere); err != nil {
			return err
		}
		if c := meta.FindStatusCondition(elsewhere.Status.Conditions, v1alpha1.Stalled); c == nil || c.Reason != v1alpha1.ReasonDenied {
			return fmt.Errorf("conditions: %s", describe(elsewhere.Status.Conditions))
		}
		return nil
	})
}
