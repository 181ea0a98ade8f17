package controllers

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/internal/compile"
	"github.com/portreeve/portreeve/internal/rule"
)

func firewallOf(name string, age time.Duration, groups ...string) v1alpha1.CloudFirewall {
	f := v1alpha1.CloudFirewall{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Now().Add(-age))},
		Spec:       v1alpha1.CloudFirewallSpec{Provider: v1alpha1.ProviderAWS, Region: "eu-central-1"},
	}
	for _, g := range groups {
		f.Spec.Groups = append(f.Spec.Groups, v1alpha1.SecurityGroup{ID: g})
	}
	return f
}

// syncing makes each firewall's groups hold what the allocations ask of it.
func syncing(t *testing.T, account *cloudtest.EC2, objects ...client.Object) *CloudFirewall {
	t.Helper()
	c := store(t, objects...).WithStatusSubresource(&v1alpha1.CloudFirewall{}).Build()
	return &CloudFirewall{
		Client: c, Snapshot: Snapshot{Reader: c}, Clouds: NewClouds(), Owner: "owner", Leading: func(context.Context) error { return nil }, Now: time.Now,
		Providers: map[v1alpha1.Provider]Connect{v1alpha1.ProviderAWS: func(context.Context, v1alpha1.CloudFirewallSpec, *Keys) (cloud.Provider, error) {
			return account.Provider(), nil
		}},
	}
}

func TestAGroupThatWasDeletedInTheCloudHoldsNobodyUp(t *testing.T) {
	account := cloudtest.NewEC2(cloudtest.Options{})
	account.AddGroup("sg-1")
	f := firewallOf("aws", time.Hour, "sg-1")
	f.Status.Groups = []v1alpha1.GroupStatus{{ID: "sg-1"}, {ID: "sg-gone", Ours: 3}}
	r := syncing(t, account, &f)
	seen, err := r.sync(t.Context(), &f)
	if err != nil {
		t.Fatal(err)
	}
	if !r.reading("aws", seen.reports, err, time.Now()).Read {
		t.Error("the reading is not complete")
	}
}

// A group is emptied when it is taken off the list, also if the process that had filled it
// ended before it could say what was there.
func TestAGroupIsNamedBeforeItIsFilled(t *testing.T) {
	account := cloudtest.NewEC2(cloudtest.Options{})
	for _, group := range []string{"sg-1", "sg-2"} {
		account.AddGroup(group)
	}
	claim, _ := shop()
	claim.Spec.CloudFirewalls = []v1alpha1.ObjectName{"aws"}
	f := firewallOf("aws", time.Hour, "sg-1")
	r := syncing(t, account, claim, &f)
	read := func() *v1alpha1.CloudFirewall {
		f, err := get[v1alpha1.CloudFirewall](t.Context(), r, client.ObjectKey{Name: "aws"})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for _, group := range []string{"sg-1", "sg-2"} {
		now := read()
		now.Spec.Groups = []v1alpha1.SecurityGroup{{ID: group}}
		if err := r.Update(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		if _, err := r.sync(t.Context(), read()); err != nil {
			t.Fatal(err)
		}
		r.gates = nil // another process
	}
	if left, filled := account.Rules("sg-1"), account.Rules("sg-2"); len(left) > 0 || len(filled) != 1 {
		t.Errorf("sg-1 holds %v, sg-2 %v", left, filled)
	}
}

func TestTwoFirewallsDoNotFightOverAGroup(t *testing.T) {
	account := cloudtest.NewEC2(cloudtest.Options{})
	for _, group := range []string{"sg-1", "sg-2"} {
		account.AddGroup(group)
	}
	claim, _ := shop()
	claim.Spec.CloudFirewalls = []v1alpha1.ObjectName{"aws"}
	older, younger := firewallOf("aws", time.Hour, "sg-1"), firewallOf("another", time.Minute, "sg-1", "sg-2")
	moved := firewallOf("before", 2*time.Hour, "sg-2")
	moved.Status.Groups = []v1alpha1.GroupStatus{{ID: "sg-1", Ours: 1}}
	elsewhere := firewallOf("elsewhere", 3*time.Hour, "sg-1")
	elsewhere.Spec.Region = "eu-west-1"
	all := []client.Object{claim, &older, &younger, &moved, &elsewhere}
	r := syncing(t, account, all...)
	want := rule.Rule{Protocol: rule.TCP, Ports: rule.PortRange{First: 30001, Last: 30001}, Source: netip.MustParsePrefix("203.0.113.0/24")}
	for _, f := range []*v1alpha1.CloudFirewall{&older, &younger, &moved, &older} {
		if _, err := r.sync(t.Context(), f); (err != nil) != (f == &younger) || f == &younger && cloudReason(err) != v1alpha1.ReasonInvalid {
			t.Errorf("%s: %v", f.Name, err)
		}
		if rules := account.Rules("sg-1"); len(rules) != 1 || rules[0].Rule != want {
			t.Fatalf("after %s group sg-1 holds %v", f.Name, rules)
		}
	}
}

// Where tags find no group any more, the groups that they found before are served: a
// source that was revoked is cut off there, and nothing else goes.
func TestAGroupThatLostItsTagIsServedAsBefore(t *testing.T) {
	account := cloudtest.NewEC2(cloudtest.Options{})
	account.AddGroup("sg-1")
	account.Seed("sg-1", cloudtest.Signed("TCP 30009 10.8.0.0/16", "owner"))
	claim, _ := shop()
	claim.Spec.CloudFirewalls = []v1alpha1.ObjectName{"aws"}
	f := firewallOf("aws", time.Hour)
	f.Spec.Groups = []v1alpha1.SecurityGroup{{Tags: map[string]v1alpha1.TagValue{"role": "nodes"}}}
	f.Status.Groups = []v1alpha1.GroupStatus{{ID: "sg-1", Ours: 1}}
	r := syncing(t, account, claim, &f)
	if _, err := r.sync(t.Context(), &f); cloudReason(err) != v1alpha1.ReasonInvalid {
		t.Errorf("error %v", err)
	}
	if rules := account.Rules("sg-1"); len(rules) != 1 || rules[0].Ports.First != 30001 {
		t.Errorf("the group holds %v", rules)
	}
}

// The rules of a firewall that goes are revoked if that is wished, but not in a group
// that another firewall lists.
func TestAFirewallThatGoesLeavesGroupsOfOthersAlone(t *testing.T) {
	account := cloudtest.NewEC2(cloudtest.Options{})
	for _, group := range []string{"sg-1", "sg-2"} {
		account.AddGroup(group)
		account.Seed(group, cloudtest.Signed("TCP 30009 10.8.0.0/16", "owner"))
	}
	f, other := firewallOf("aws", time.Hour, "sg-1", "sg-2"), firewallOf("other", time.Minute, "sg-2")
	f.Spec.DeletionPolicy, f.Finalizers = v1alpha1.CloudRevoke, []string{v1alpha1.FinalizerRevoke}
	f.Status.Groups = []v1alpha1.GroupStatus{{ID: "sg-2", Ours: 1}} // it died before it had said so of sg-1
	r := syncing(t, account, &f, &other)
	if _, done, err := r.finish(t.Context(), &f); !done || err != nil {
		t.Errorf("done %v, %v", done, err)
	}
	if a, b := len(account.Rules("sg-1")), len(account.Rules("sg-2")); a != 0 || b != 1 {
		t.Errorf("the groups hold %d and %d rules", a, b)
	}
}

// One that only observes goes and says what it leaves: no listing would ever show that
// its rules are gone.
func TestAFirewallThatOnlyObservesGoesAndLeavesItsRules(t *testing.T) {
	account := cloudtest.NewEC2(cloudtest.Options{})
	account.AddGroup("sg-1")
	account.Seed("sg-1", cloudtest.Signed("TCP 30009 10.8.0.0/16", "owner"))
	f := firewallOf("aws", time.Hour, "sg-1")
	f.Spec.DeletionPolicy, f.Finalizers, f.Spec.Mode = v1alpha1.CloudRevoke, []string{v1alpha1.FinalizerRevoke}, v1alpha1.CloudObserve
	f.Status.Groups = []v1alpha1.GroupStatus{{ID: "sg-1", Ours: 1}, {ID: "sg-2"}}
	r := syncing(t, account, &f)
	said := events.NewFakeRecorder(1)
	r.Events = said
	r.Providers = nil // nobody is asked
	if _, done, err := r.finish(t.Context(), &f); !done || err != nil || len(f.Finalizers) > 0 {
		t.Errorf("done %v, %v, finalizers %v", done, err, f.Finalizers)
	}
	close(said.Events)
	if event := <-said.Events; !strings.Contains(event, "RulesLeft") || !strings.Contains(event, "sg-1 (1);") || len(account.Rules("sg-1")) != 1 {
		t.Errorf("event %q", event)
	}
}

// Where a copy of the cluster has rules, no cloud is changed until a person says which of
// the two may.
func TestACopyOfTheClusterOnlyObserves(t *testing.T) {
	account := cloudtest.NewEC2(cloudtest.Options{})
	for _, group := range []string{"sg-1", "sg-2"} {
		account.AddGroup(group)
	}
	account.Seed("sg-1", cloudtest.Signed("TCP 30009 10.8.0.0/16", "prod/first"))
	claim, _ := shop()
	claim.Spec.CloudFirewalls = []v1alpha1.ObjectName{"aws", "other"}
	f, other := firewallOf("aws", time.Hour, "sg-1"), firewallOf("other", time.Hour, "sg-2")
	r := syncing(t, account, claim, &f, &other)
	r.Owner = "prod/second"
	for _, f := range []*v1alpha1.CloudFirewall{&f, &other} {
		if _, err := r.sync(t.Context(), f); cloudReason(err) != v1alpha1.ReasonCloned {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
	if a, b := len(account.Rules("sg-1")), len(account.Rules("sg-2")); a != 1 || b != 0 {
		t.Errorf("the groups hold %d and %d rules", a, b)
	}
	for _, f := range []*v1alpha1.CloudFirewall{&f, &other} {
		f.Annotations = map[string]string{v1alpha1.AnnotationConfirmedCluster: "second"}
		if _, err := r.sync(t.Context(), f); err != nil {
			t.Errorf("%s, confirmed: %v", f.Name, err)
		}
	}
	if a, b := len(account.Rules("sg-1")), len(account.Rules("sg-2")); a != 2 || b != 1 {
		t.Errorf("the groups hold %d and %d rules", a, b)
	}
}

// A person who confirms a cluster does not wait for the next resync; what we write
// ourselves wakes nobody.
func TestAConfirmationIsHeardAtOnce(t *testing.T) {
	before := firewallOf("aws", time.Hour, "sg-1")
	confirmed, seen := before.DeepCopy(), before.DeepCopy()
	confirmed.Annotations = map[string]string{v1alpha1.AnnotationConfirmedCluster: "second"}
	seen.Status.LastVerified = &metav1.Time{Time: time.Now()}
	if !meant.Update(event.UpdateEvent{ObjectOld: &before, ObjectNew: confirmed}) {
		t.Error("the confirmation wakes nobody")
	}
	if meant.Update(event.UpdateEvent{ObjectOld: &before, ObjectNew: seen}) {
		t.Error("our own status wakes us")
	}
}

// A firewall that this process has not read may hold rules of an allocation that
// no longer names it: they are asked for before the number is free.
func TestAFirewallThatHadRulesOfOursIsReadBeforeANumberIsFree(t *testing.T) {
	claim, _ := shop()
	claim.Spec.ClosedAt = &metav1.MicroTime{Time: time.Now()}
	had, never := firewallOf("had", time.Hour, "sg-1"), firewallOf("never", time.Hour, "sg-2")
	had.Status.Groups = []v1alpha1.GroupStatus{{ID: "sg-1", Ours: 1}}
	never.Status.Groups = []v1alpha1.GroupStatus{{ID: "sg-2"}}
	c := store(t, &had, &never).Build()
	r := &Allocation{Client: c, Snapshot: Snapshot{Reader: c}, Clouds: NewClouds(), Now: time.Now}
	holders := func() []string {
		out, err := r.holders(t.Context(), claim, compile.Proof{})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := holders(); !slices.Equal(got, []string{"cloud firewall had"}) {
		t.Errorf("held by %q", got)
	}
	r.Clouds.Saw("had", Reading{CloudSeen: compile.CloudSeen{Read: true}, Began: time.Now().Add(-time.Hour)})
	if got := holders(); len(got) != 0 {
		t.Errorf("held by %q, which was read and holds nothing", got)
	}
}
