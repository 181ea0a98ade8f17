package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/cloud/cloudtest"
	"github.com/portreeve/portreeve/internal/compile"
)

var errUnreachable = errors.New("no route to the cloud")

// registry is a cloud that also looks things up.
type registry struct {
	cloud.Provider
	lists  map[string][]string
	groups []string
	fails  error
	asked  []string
}

func (d *registry) Tagged(context.Context, map[string]string) ([]string, error) { return nil, nil }

func (d *registry) Exists(_ context.Context, group string) error {
	d.asked = append(d.asked, group)
	if d.fails == nil && !slices.Contains(d.groups, group) {
		return fmt.Errorf("%w: there is no group %s", cloud.ErrInvalid, group)
	}
	return d.fails
}

func (d *registry) PrefixList(_ context.Context, id string) ([]netip.Prefix, error) {
	d.asked = append(d.asked, id)
	entries, there := d.lists[id]
	switch {
	case d.fails != nil:
		return nil, d.fails
	case !there:
		return nil, fmt.Errorf("%w: there is no prefix list %s", cloud.ErrInvalid, id)
	}
	var out []netip.Prefix
	for _, e := range entries {
		out = append(out, netip.MustParsePrefix(e))
	}
	return out, nil
}

// looking is the controller of one firewall, aws, with a registry and a clock.
type looking struct {
	*CloudFirewall
	cloud *registry
	clock time.Time
}

func newLooking(t *testing.T, objects ...client.Object) *looking {
	t.Helper()
	account := cloudtest.NewEC2(cloudtest.Options{})
	account.AddGroup("sg-1")
	l := &looking{CloudFirewall: syncing(t, account, objects...), cloud: &registry{Provider: account.Provider()}, clock: time.Now()}
	l.Client = store(t, objects...).WithStatusSubresource(&v1alpha1.CloudFirewall{}).Build()
	l.Snapshot.Reader = l.Client
	l.Now = func() time.Time { return l.clock }
	l.Providers = map[v1alpha1.Provider]Connect{v1alpha1.ProviderAWS: func(context.Context, v1alpha1.CloudFirewallSpec, *Keys) (cloud.Provider, error) { return l.cloud, nil }}
	return l
}

// turn lets the controller look once, and says what the sets of lists hold and what the
// firewall says of its lookups.
func (l *looking) turn(t *testing.T) (sets, lookups string) {
	t.Helper()
	l.cloud.asked = nil
	key := client.ObjectKey{Name: "aws"}
	for range 2 { // the second time there is nothing left to write, and nobody to ask
		if _, err := l.Reconcile(t.Context(), reconcile.Request{NamespacedName: key}); err != nil {
			t.Fatal(err)
		}
	}
	var list v1alpha1.AddressSetList
	if err := l.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	var held, said []string
	for i := range list.Items {
		if id, is := compile.ListID(&list.Items[i]); is {
			held = append(held, fmt.Sprint(id, list.Items[i].Spec.CIDRs))
		}
	}
	var firewall v1alpha1.CloudFirewall
	if err := l.Get(t.Context(), key, &firewall); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	for _, s := range firewall.Status.Lookups {
		problem, _, _ := strings.Cut(s.Problem, ";")
		said = append(said, fmt.Sprintf("%s %d %s", s.ID, s.Networks, problem))
	}
	return strings.Join(held, " "), strings.Join(said, ", ")
}

func poolWithLists(ids ...v1alpha1.PrefixListID) *v1alpha1.NodePortPool {
	return &v1alpha1.NodePortPool{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: v1alpha1.NodePortPoolSpec{
		CloudFirewalls: []v1alpha1.ObjectName{"aws"}, Guardrails: v1alpha1.Guardrails{PrefixLists: ids},
	}}
}

func policyWithLists(ids ...v1alpha1.PrefixListID) *v1alpha1.NodePortPolicy {
	p := &v1alpha1.NodePortPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop"}}
	for _, id := range ids {
		p.Spec.Sources = append(p.Spec.Sources, v1alpha1.Source{PrefixList: id})
	}
	return p
}

// The entries of a list follow the cloud at the firewall's resync, stay when a lookup
// fails, for whatever reason, and go when nobody names the list any more.
func TestPrefixListsAreKept(t *testing.T) {
	f := firewallOf("aws", time.Hour, "sg-1")
	pool, policy := poolWithLists("pl-1", "pl-2"), policyWithLists("pl-1", "pl-3")
	l := newLooking(t, &f, pool, policy)
	holding := &v1alpha1.NodePortAllocation{ObjectMeta: metav1.ObjectMeta{Name: "30007"}, Spec: v1alpha1.NodePortAllocationSpec{
		State: v1alpha1.AllocationOpen, Pool: "web", Ports: []v1alpha1.ClaimedPort{{Protocol: "TCP", Port: 443, PrefixLists: []v1alpha1.PrefixListID{"pl-1"}}},
	}}
	later := func(d time.Duration) { l.clock = l.clock.Add(d) }
	for _, step := range []struct {
		name                 string
		change               func() error
		asked, sets, lookups string
	}{
		{"there is no such list", func() error { return nil }, "[pl-1]", "", "pl-1 0 invalid: there is no prefix list pl-1"},
		{"there is one, and it is not time yet", func() error {
			l.cloud.lists = map[string][]string{"pl-1": {"192.0.2.0/25", "192.0.2.128/25"}, "pl-2": {"10.0.0.0/8"}, "pl-3": {"10.0.0.0/8"}}
			return nil
		}, "[]", "", "pl-1 0 invalid: there is no prefix list pl-1"},
		{"it is", func() error { later(5 * time.Minute); return nil }, "[pl-1]", "pl-1[192.0.2.0/24]", "pl-1 1 "},
		{"it changed", func() error {
			l.cloud.lists["pl-1"] = []string{"192.0.2.0/25"}
			later(5 * time.Minute)
			return nil
		}, "[pl-1]", "pl-1[192.0.2.0/25]", "pl-1 1 "},
		{"somebody edits the set", func() error {
			set := compile.List{Firewall: "aws", ID: "pl-1"}.Sets(nil, nil)[0]
			if err := l.Get(t.Context(), client.ObjectKeyFromObject(&set), &set); err != nil {
				return err
			}
			set.Spec.CIDRs, set.Spec.AllowedFor = []v1alpha1.CIDR{"10.0.0.0/8"}, &v1alpha1.NamespaceChoice{}
			return l.Update(t.Context(), &set)
		}, "[]", "pl-1[192.0.2.0/25]", "pl-1 1 "},
		{"the cloud is away", func() error {
			l.cloud.fails = errUnreachable
			later(5 * time.Minute)
			return nil
		}, "[pl-1]", "pl-1[192.0.2.0/25]", "pl-1 1 no route to the cloud"},
		{"it is asked again soon", func() error { later(lookupAgain); l.cloud.fails = cloud.ErrDenied; return nil }, "[pl-1]", "pl-1[192.0.2.0/25]", "pl-1 1 access denied"},
		{"what a person must mend is asked at the resync", func() error { later(lookupAgain); return nil }, "[]", "pl-1[192.0.2.0/25]", "pl-1 1 access denied"},
		{"another manager begins, and can't ask", func() error { l.answers = nil; return nil }, "[pl-1]", "pl-1[192.0.2.0/25]", "pl-1 0 access denied"},
		{"the list is deleted", func() error {
			l.cloud.fails, l.cloud.lists = nil, nil
			later(5 * time.Minute)
			return nil
		}, "[pl-1]", "pl-1[192.0.2.0/25]", "pl-1 0 invalid: there is no prefix list pl-1"},
		{"the list has no entries", func() error {
			l.cloud.lists = map[string][]string{"pl-1": {}}
			later(5 * time.Minute)
			return nil
		}, "[pl-1]", "pl-1[]", "pl-1 0 "},
		{"the list is the world", func() error {
			l.cloud.lists = map[string][]string{"pl-1": {"0.0.0.0/0", "192.0.2.0/24"}}
			later(5 * time.Minute)
			return nil
		}, "[pl-1]", "pl-1[]", "pl-1 0 its entries add up to the whole world, which only entity World may open, and admit nobody"},
		{"the policy goes, and a port still names it", func() error {
			if err := l.Create(t.Context(), holding); err != nil {
				return err
			}
			return l.Delete(t.Context(), policy)
		}, "[]", "pl-1[]", "pl-1 0 its entries add up to the whole world, which only entity World may open, and admit nobody"},
		{"the pool is gone, and the port still names it", func() error { return l.Delete(t.Context(), pool) }, "[]", "pl-1[]", ""},
		{"the port is closed", func() error { return l.Delete(t.Context(), holding) }, "[]", "", ""},
	} {
		if err := step.change(); err != nil {
			t.Fatal(step.name, err)
		}
		sets, lookups := l.turn(t)
		if asked := fmt.Sprint(l.cloud.asked); asked != step.asked || sets != step.sets || lookups != step.lookups {
			t.Errorf("%s: asked %s, sets %q, lookups %q; want %s, %q, %q", step.name, asked, sets, lookups, step.asked, step.sets, step.lookups)
		}
	}
}

// A firewall that is deleted leaves the sets as they are as long as somebody names the
// list, and the last one to name it takes them along.
func TestPrefixListsOutliveTheirFirewall(t *testing.T) {
	f := firewallOf("aws", time.Hour, "sg-1")
	pool, policy := poolWithLists("pl-1"), policyWithLists("pl-1")
	l := newLooking(t, &f, pool, policy)
	l.cloud.lists = map[string][]string{"pl-1": {"192.0.2.0/24"}}
	for _, step := range []struct {
		gone client.Object
		want string
	}{{nil, "pl-1[192.0.2.0/24]"}, {&f, "pl-1[192.0.2.0/24]"}, {policy, ""}} {
		if step.gone != nil {
			if err := l.Delete(t.Context(), step.gone); err != nil {
				t.Fatal(err)
			}
		}
		if woken := l.all(t.Context(), policy); len(woken) == 0 || woken[0].Name != "aws" {
			t.Errorf("wakes %v", woken)
		}
		if sets, _ := l.turn(t); sets != step.want {
			t.Errorf("sets %q, want %q", sets, step.want)
		}
	}
}

// A provider that can't look things up resolves nothing, and says so.
func TestAProviderWithoutADirectoryResolvesNothing(t *testing.T) {
	f := firewallOf("aws", time.Hour, "sg-1")
	l := newLooking(t, &f, poolWithLists("pl-1"), policyWithLists("pl-1"))
	l.Providers = map[v1alpha1.Provider]Connect{v1alpha1.ProviderAWS: func(context.Context, v1alpha1.CloudFirewallSpec, *Keys) (cloud.Provider, error) {
		return struct{ cloud.Provider }{l.cloud.Provider}, nil // and nothing else
	}}
	if sets, lookups := l.turn(t); sets != "" || !strings.Contains(lookups, "looks nothing up") {
		t.Errorf("sets %q, lookups %q", sets, lookups)
	}
}

// A group that the cloud knows not to exist is not granted; one of which it could not be
// asked is what it was before, and at first there.
func TestGroupsThatDoNotExistAreNotGranted(t *testing.T) {
	f := firewallOf("aws", time.Hour, "sg-1")
	l := newLooking(t, &f)
	admissions := []compile.Admission{{Peer: "sg-7"}, {Description: "a network"}}
	granted := func(change func()) string {
		change()
		l.clock = l.clock.Add(time.Hour)
		l.ask(t.Context(), &f, compile.Lookups{Groups: []v1alpha1.SecurityGroupID{"sg-7"}})
		var out []string
		for _, g := range l.grants("aws", admissions) {
			out = append(out, g.Peer)
		}
		return fmt.Sprintf("%q %t", out, l.looked("aws")["sg-7"].Absent)
	}
	for _, step := range []struct {
		name   string
		change func()
		want   string
	}{
		{"it can't be asked", func() { l.cloud.fails = errUnreachable }, `["sg-7" ""] false`},
		{"it does not exist", func() { l.cloud.fails = nil }, `[""] true`},
		{"it can't be asked again", func() { l.cloud.fails = cloud.ErrThrottled }, `[""] true`},
		{"it exists", func() { l.cloud.fails, l.cloud.groups = nil, []string{"sg-7"} }, `["sg-7" ""] false`},
	} {
		if got := granted(step.change); got != step.want {
			t.Errorf("%s: grants %s, want %s", step.name, got, step.want)
		}
	}
}

// Those who name a list are woken by its sets, and firewalls by them.
func TestWhoIsWokenByPrefixLists(t *testing.T) {
	other := policyWithLists("pl-2")
	other.Name = "other"
	f := firewallOf("aws", time.Hour, "sg-1")
	l := newLooking(t, &f, policyWithLists("pl-1"), other)
	set := compile.List{Firewall: "aws", ID: "pl-1"}.Sets(nil, nil)[0]
	if woken := l.Snapshot.policiesUsing(t.Context(), &set); len(woken) != 1 || woken[0].Name != "shop" {
		t.Errorf("a set wakes %v", woken)
	}
	if woken := l.ofPolicy(t.Context(), other); len(woken) != 1 || woken[0].Name != "aws" {
		t.Errorf("a policy wakes %v", woken)
	}
	if woken := l.ofPolicy(t.Context(), policyWithLists()); len(woken) != 0 {
		t.Errorf("a policy without lists wakes %v", woken)
	}
	naming := &v1alpha1.NodePortAllocation{Spec: v1alpha1.NodePortAllocationSpec{Ports: []v1alpha1.ClaimedPort{{PrefixLists: []v1alpha1.PrefixListID{"pl-1"}}}}}
	if woken := l.ofAllocation(t.Context(), naming); len(woken) != 1 {
		t.Errorf("an allocation wakes %v", woken)
	}
}

// What a policy asks of a list and a group reaches the security group: the list's entries,
// not the list, and the group in place of what bounds it; and is seen to be in force.
func TestListsAndGroupsReachTheCloud(t *testing.T) {
	account := cloudtest.NewEC2(cloudtest.Options{})
	account.AddGroup("sg-1")
	account.AddGroup("sg-7")
	account.AddPrefixList("pl-1", 50, netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("192.0.2.128/25"))
	claim, _ := shop()
	claim.Spec.Pool, claim.Spec.CloudFirewalls = "web", []v1alpha1.ObjectName{"aws"}
	claim.Spec.Ports[0].Sources = nil
	claim.Spec.Ports[0].PrefixLists = []v1alpha1.PrefixListID{"pl-1"}
	claim.Spec.Ports[0].Peers = []v1alpha1.Peer{{ID: "sg-7", Sources: []v1alpha1.CIDR{"10.8.0.0/16"}}, {ID: "sg-8", Sources: []v1alpha1.CIDR{"10.9.0.0/16"}}}
	f := firewallOf("aws", time.Hour, "sg-1")
	l := newLooking(t, &f, poolWithLists("pl-1"), claim)
	l.Providers = map[v1alpha1.Provider]Connect{v1alpha1.ProviderAWS: func(context.Context, v1alpha1.CloudFirewallSpec, *Keys) (cloud.Provider, error) {
		return account.Provider(), nil
	}}
	sets, lookups := l.turn(t)
	if sets != "pl-1[192.0.2.0/24]" || !strings.HasPrefix(lookups, "sg-8 0 ") || !strings.HasSuffix(lookups, ", pl-1 1 , sg-7 0 ") {
		t.Errorf("sets %q, lookups %q", sets, lookups)
	}
	var rules []string
	for _, r := range account.Rules("sg-1") {
		rules = append(rules, fmt.Sprint(r.Protocol, " ", r.Ports, " ", r.Peer, r.Source))
	}
	slices.Sort(rules)
	if want := []string{"TCP 30001 192.0.2.0/24", "TCP 30001 sg-7invalid Prefix"}; !slices.Equal(rules, want) {
		t.Errorf("the group holds %q, want %q", rules, want)
	}
	var peers []string
	for _, seen := range l.Clouds.Of("aws").InForce {
		peers = append(peers, seen.Peer)
	}
	if slices.Sort(peers); !slices.Equal(peers, []string{"", "sg-7"}) {
		t.Errorf("in force are %q", peers)
	}
}
