package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/internal/explain"
	"github.com/portreeve/portreeve/test/health"
	"github.com/portreeve/portreeve/test/stage"
)

// firewall is the scene's, and change edits it: until the manager has seen that, it does
// in the cloud what was wished before.
func (s *scene) firewall(change func(*v1alpha1.CloudFirewallSpec)) *v1alpha1.CloudFirewall {
	s.Helper()
	f := &v1alpha1.CloudFirewall{ObjectMeta: metav1.ObjectMeta{Name: "aws"}}
	if change != nil {
		edit(s, f, func(f *v1alpha1.CloudFirewall) { change(&f.Spec) })
		s.eventually("the manager has seen the CloudFirewall", func() error {
			if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(f), f); err != nil {
				return err
			}
			if f.Status.ObservedGeneration != f.Generation {
				return fmt.Errorf("it has seen generation %d of %d", f.Status.ObservedGeneration, f.Generation)
			}
			return nil
		})
	} else if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(f), f); err != nil {
		s.Fatal(err)
	}
	return f
}

// firewallSays waits until the firewall is, or is not, ready for the reason.
func (s *scene) firewallSays(reason string) *v1alpha1.CloudFirewall {
	s.Helper()
	var f *v1alpha1.CloudFirewall
	s.eventually("the CloudFirewall says "+reason, func() error {
		f = s.firewall(nil)
		c := meta.FindStatusCondition(f.Status.Conditions, v1alpha1.Ready)
		if c == nil || c.Reason != reason || c.ObservedGeneration != f.Generation {
			return fmt.Errorf("conditions: %s", describe(f.Status.Conditions))
		}
		return nil
	})
	return f
}

func TestACloudThatIsObservedIsNotChanged(t *testing.T) {
	s := openCloud(t, "observed", "30580-30589")
	s.firewall(func(f *v1alpha1.CloudFirewallSpec) { f.Mode = v1alpha1.CloudObserve })
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	s.awaitReason(policy, v1alpha1.CloudEnforced, v1alpha1.ReasonObserving)
	f := s.firewallSays(v1alpha1.ReasonObserving)
	health.Check(t, policy, health.Paused)
	health.Check(t, f, health.Paused)
	if p := f.Status.Plan; p == nil || p.TotalAdd != 1 || p.TotalRemove != 0 || !strings.Contains(strings.Join(p.Add, " "), "30580") {
		t.Errorf("status.plan is %+v", p)
	}
	s.awaitRules()
	s.firewall(func(f *v1alpha1.CloudFirewallSpec) { f.Mode = v1alpha1.CloudEnforce })
	s.awaitReady(policy)
	s.awaitRules("TCP 30580 " + officeCIDR)
	if f := s.firewallSays(v1alpha1.ReasonOK); f.Status.Plan != nil {
		t.Errorf("status.plan is %+v, and nothing is to be done", f.Status.Plan)
	}
	s.delete(policy)
	s.awaitRules()
}

// The group is that of nodes of the edge, and the policy keeps to n2, which becomes one and
// ceases to be.
func TestACloudOpensForNodesThatMayAnswer(t *testing.T) {
	s := openCloud(t, "edge", "30770-30779")
	second := town.Nodes()[1]
	label := func(value string) {
		edit(s, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: second.Name}}, func(n *corev1.Node) {
			if n.Labels["role"] = value; value == "" {
				delete(n.Labels, "role")
			}
		})
	}
	t.Cleanup(func() { label("") })
	s.firewall(func(f *v1alpha1.CloudFirewallSpec) {
		f.NodeSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "role", Operator: metav1.LabelSelectorOpIn, Values: []string{"edge"}}}}
	})
	policy := s.policy("shop", officeCIDR, officeCIDR6)
	policy.Spec.Gateways = centralized(second)
	s.create(policy)
	number := s.awaitReady(policy)
	s.answeredBy(second, number)
	s.awaitRules()
	label("edge")
	s.awaitRules("TCP 30770 "+officeCIDR, "TCP 30770 "+officeCIDR6)
	s.awaitReady(policy)
	label("inner")
	s.awaitRules()
	s.answeredBy(second, number)
	s.firewall(func(f *v1alpha1.CloudFirewallSpec) { f.NodeSelector = nil })
	s.awaitRules("TCP 30770 "+officeCIDR, "TCP 30770 "+officeCIDR6)
	s.delete(policy)
	s.awaitRules()
}

func TestDriftIsRepairedOrReported(t *testing.T) {
	s := openCloud(t, "report", "30590-30599")
	s.firewall(func(f *v1alpha1.CloudFirewallSpec) { f.Drift = v1alpha1.DriftReport })
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	s.awaitReady(policy) // what is wished anew is no drift
	account.Unseed(stage.Group, cloudtest.Parse("TCP 30590 "+officeCIDR))
	f := s.firewallSays(v1alpha1.ReasonDrifted)
	if c := meta.FindStatusCondition(f.Status.Conditions, v1alpha1.Ready); !strings.Contains(c.Message, "30590") {
		t.Errorf("the message does not name the rule: %s", c.Message)
	}
	s.awaitReason(policy, v1alpha1.CloudEnforced, v1alpha1.ReasonDrifted)
	s.audits()
	s.explains("shop", from(officeCIDR, 1), explain.Closed, explain.GateCloud, v1alpha1.ReasonDrifted)
	s.awaitRules()
	s.firewall(func(f *v1alpha1.CloudFirewallSpec) { f.Drift = v1alpha1.DriftRepair })
	s.awaitReady(policy)
	s.awaitRules("TCP 30590 " + officeCIDR)
	s.delete(policy)
	s.awaitRules()
}

// The group has two rules of somebody else, so there is room for three.
func TestABudgetThatIsTooSmallIsSaidOrMadeCoarse(t *testing.T) {
	s := openCloud(t, "budget", "30600-30609")
	s.firewall(func(f *v1alpha1.CloudFirewallSpec) { f.Limits = &v1alpha1.CloudLimits{RulesPerGroup: 5} })
	sources := []v1alpha1.CIDR{officeCIDR, "198.51.100.32/28", "198.51.100.64/28", "198.51.100.96/28", "198.51.100.128/28"}
	policy := s.policy("shop", sources...)
	s.create(policy)
	s.awaitReason(policy, v1alpha1.CloudEnforced, v1alpha1.ReasonBudgetExceeded)
	s.audits()
	s.explains("shop", from(officeCIDR, 1), explain.Unproved, explain.GateCloud, v1alpha1.ReasonBudgetExceeded)
	if n := len(ourRules()); n != 3 {
		t.Errorf("the group has %d rules of ours, and room for 3: %v", n, ourRules())
	}
	if f := s.firewallSays(v1alpha1.ReasonBudgetExceeded); f.Status.Plan == nil || f.Status.Plan.Unfit != 2 {
		t.Errorf("status.plan is %+v", f.Status.Plan)
	}
	s.firewall(func(f *v1alpha1.CloudFirewallSpec) { f.OnBudget = v1alpha1.BudgetCoarsen })
	number := s.awaitReady(policy)
	if c := policy.Status.Cloud; len(c) != 1 || c[0].Precision != "Coarse" {
		t.Errorf("status.cloud is %+v", c)
	}
	if f := s.firewallSays(v1alpha1.ReasonOK); len(f.Status.Coarse) == 0 {
		t.Error("status.coarse does not say which rules are wider")
	}
	s.answers(s.office, from(officeCIDR, 1), number)
	s.silent(s.street, from(streetCIDR, 1), number) // the cloud admits it now, and nodes are exact
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.Sources = p.Spec.Sources[:1] })
	s.awaitRules("TCP 30600 " + officeCIDR)
	s.eventually("the cloud is exact again", func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(policy), policy); err != nil {
			return err
		}
		if c := policy.Status.Cloud; len(c) != 1 || c[0].Precision != "Exact" {
			return fmt.Errorf("status.cloud is %+v", c)
		}
		return nil
	})
	s.delete(policy)
	s.awaitRules()
}

func TestGroupsAreFoundByTheirTags(t *testing.T) {
	s := openCloud(t, "tags", "30610-30619")
	const other = "sg-0aaaaaaaaaaaaaaaa"
	s.firewall(func(f *v1alpha1.CloudFirewallSpec) {
		f.Groups = []v1alpha1.SecurityGroup{{Tags: map[string]v1alpha1.TagValue{"role": "nodes"}}}
	})
	if c := meta.FindStatusCondition(s.firewallSays(v1alpha1.ReasonInvalid).Status.Conditions, v1alpha1.Ready); !strings.Contains(c.Message, "role") {
		t.Errorf("the message does not name the tags that find nothing: %s", c.Message)
	}
	account.AddGroup(other)
	t.Cleanup(func() { account.RemoveGroup(other) })
	account.Tag(other, map[string]string{"role": "nodes", "env": "lab"})
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	s.awaitReady(policy)
	if rules := account.Rules(other); len(rules) != 1 {
		t.Errorf("the tagged group holds %v", rules)
	}
	s.awaitRules()
	s.firewall(func(f *v1alpha1.CloudFirewallSpec) { f.Groups = []v1alpha1.SecurityGroup{{ID: stage.Group}} })
	s.awaitRules("TCP 30610 " + officeCIDR)
	s.delete(policy)
	s.awaitRules()
}

func TestCredentialsOfACloudFirewall(t *testing.T) {
	s := openCloud(t, "secret", "30620-30629")
	keys := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "portreeve-system", Name: "aws-keys"},
		StringData: map[string]string{"accessKeyID": stage.AccessKey, "accessKeySecret": "not the secret"},
	}
	s.firewall(func(f *v1alpha1.CloudFirewallSpec) {
		f.Credentials = &v1alpha1.CloudCredentials{SecretRef: &v1alpha1.SecretReference{Name: "aws-keys"}}
	})
	s.firewallSays(v1alpha1.ReasonInvalid) // there is no such Secret
	s.create(keys)
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	f := s.firewallSays(v1alpha1.ReasonDenied)
	if text := fmt.Sprint(f.Status); strings.Contains(text, "not the secret") {
		t.Errorf("the status tells the secret: %s", text)
	}
	edit(s, keys, func(k *corev1.Secret) { k.Data["accessKeySecret"] = []byte(stage.SecretKey) })
	s.awaitReady(policy)
	s.awaitRules("TCP 30620 " + officeCIDR)
	s.firewall(func(f *v1alpha1.CloudFirewallSpec) { f.Credentials = nil })
	s.firewallSays(v1alpha1.ReasonOK)
	s.delete(policy)
	s.awaitRules()
}

func TestACloudFirewallThatGoesRevokesItsRulesIfThatIsWished(t *testing.T) {
	s := openCloud(t, "going", "30630-30639")
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	s.awaitReady(policy)
	f := s.firewall(func(f *v1alpha1.CloudFirewallSpec) { f.DeletionPolicy = v1alpha1.CloudRevoke })
	s.eventually("the firewall has its finalizer", func() error {
		if f = s.firewall(nil); !slices.Contains(f.Finalizers, v1alpha1.FinalizerRevoke) {
			return fmt.Errorf("finalizers: %v", f.Finalizers)
		}
		return nil
	})
	account.Inject(cloudtest.Fault{Action: "RevokeSecurityGroupIngress", Code: "UnauthorizedOperation", Times: 1000})
	t.Cleanup(account.Heal)
	s.delete(f)
	s.eventually("it says why it can't go", func() error {
		if c := meta.FindStatusCondition(s.firewall(nil).Status.Conditions, v1alpha1.Ready); c == nil || c.Reason != v1alpha1.ReasonDenied {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	account.Heal()
	s.awaitRules()
	s.eventually("it is gone", func() error {
		err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(f), f)
		if !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	s.awaitReason(policy, v1alpha1.CloudEnforced, v1alpha1.ReasonCloudFirewallNotFound)
	s.delete(policy)
	s.awaitFree(30630)
}

// On Alibaba Cloud a rule that drops wins over ours at an equal priority, or a worse one.
func TestARuleThatDropsAheadOfOursIsSaid(t *testing.T) {
	s := open(t, "alibaba", "30640-30649")
	f := &v1alpha1.CloudFirewall{
		ObjectMeta: metav1.ObjectMeta{Name: "alibaba"},
		Spec: v1alpha1.CloudFirewallSpec{
			Provider: v1alpha1.ProviderAlibaba, Region: stage.AlibabaRegion, Endpoint: stage.AlibabaEndpoint, Priority: ptr.To[int32](5),
			Groups: []v1alpha1.SecurityGroup{{ID: stage.Group}}, Resync: &metav1.Duration{Duration: 10 * time.Second},
		},
	}
	s.create(f)
	s.editPool(func(p *v1alpha1.NodePortPool) { p.Spec.CloudFirewalls = []v1alpha1.ObjectName{"alibaba"} })
	drop := cloudtest.Foreign("TCP 30640 " + officeCIDR)
	drop.Drop, drop.Priority = true, 3
	alibaba.Seed(stage.Group, drop)
	policy := s.policy("shop", officeCIDR, officeCIDR6)
	s.create(policy)
	s.awaitReason(policy, v1alpha1.CloudEnforced, v1alpha1.ReasonHidden)
	s.eventually("the firewall says what hides", func() error { // its status may come after the policy's
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(f), f); err != nil || len(f.Status.Groups) != 1 || len(f.Status.Groups[0].Hiding) != 1 {
			return fmt.Errorf("status.groups is %+v, %v", f.Status.Groups, err)
		}
		return nil
	})
	edit(s, f, func(f *v1alpha1.CloudFirewall) { f.Spec.Priority = ptr.To[int32](2) })
	s.awaitReady(policy)
	ours := 0
	for _, r := range alibaba.Rules(stage.Group) {
		if r.Owner != "" {
			if ours++; r.Priority != 2 {
				t.Errorf("%+v is not of priority 2", r)
			}
		}
	}
	if ours != 4 { // halves: beside a rule of another priority there is no room for its equal
		t.Errorf("the group has %d rules of ours", ours)
	}
	s.delete(policy)
	s.awaitFree(30640)
}
