package compile

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
	"github.com/portreeve/portreeve/test/health"
)

// healthy is a policy that is in force at every gate: Service shop on 30007, for
// 10.8.0.0/16, on two nodes and in the cloud firewall aws-prod.
func healthy() Seen {
	claimed := []v1alpha1.ClaimedPort{{Protocol: "TCP", Name: "https", Port: 443, Sources: []v1alpha1.CIDR{"10.8.0.0/16"}}}
	policy := &v1alpha1.NodePortPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop", Generation: 3},
		Spec:       v1alpha1.NodePortPolicySpec{Category: "web", ServiceRef: v1alpha1.ServiceReference{Name: "shop"}},
		Status:     v1alpha1.NodePortPolicyStatus{ObservedGeneration: -1},
	}
	return Seen{
		Policy: policy,
		Wish: &Wish{
			Numbers: []Number{{Ports: claimed}}, Pools: []string{"web"}, owned: rule.NewPortRanges(rule.PortRange{First: 30000, Last: 30009}),
			policy: policy, offers: map[string]offer{},
		},
		Allocations: []v1alpha1.NodePortAllocation{{
			ObjectMeta: metav1.ObjectMeta{Name: "30007", ResourceVersion: "90", UID: "u1", CreationTimestamp: metav1.NewTime(clock)},
			Spec: v1alpha1.NodePortAllocationSpec{
				State: v1alpha1.AllocationOpen, Protocols: []v1alpha1.Protocol{"TCP"}, Ports: claimed, Pool: "web", Team: "payments",
				Claim:          v1alpha1.Claim{Namespace: "shop", Policy: "shop", Service: "shop"},
				CloudFirewalls: []v1alpha1.ObjectName{"aws-prod"},
			},
		}},
		Service: &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop"},
			Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "shop"}, Ports: []corev1.ServicePort{
				{Name: "https", Port: 443, TargetPort: intstr.FromInt32(8443)},
			}},
		},
		Companion: &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop", Name: "shop-nodeport", Labels: map[string]string{v1alpha1.LabelPolicy: "shop"},
				OwnerReferences: []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodePortAllocation", Name: "30007", UID: "u1"}},
			},
			Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "shop"}, Ports: []corev1.ServicePort{{Name: "https", Port: 443, NodePort: 30007}}},
		},
		Nodes: []NodeReport{node("a"), node("b", address(corev1.NodeExternalIP, "2001:db8::b"))},
		Proof: Proof{Listed: "100"},
		Clouds: map[string]CloudSeen{"aws-prod": {
			Read: true, InForce: []Admission{inForce("TCP", 30007, 30007, "10.8.0.0/16")},
			Groups: []GroupSeen{{ID: "sg-1", Ours: []rule.Rule{atom("TCP", 30007, 30007, "10.8.0.0/16")}}, {ID: "sg-2"}},
		}},
	}
}

// inForce is a rule that a cloud was seen to hold.
func inForce(p rule.Protocol, first, last uint16, source string) Admission {
	return Admission{Rule: atom(p, first, last, source)}
}

func atom(p rule.Protocol, first, last uint16, source string) rule.Rule {
	return rule.Rule{Protocol: p, Ports: rule.PortRange{First: first, Last: last}, Source: netip.MustParsePrefix(source)}
}

// changeCloud changes what was seen of aws-prod.
func (s *Seen) changeCloud(change func(*CloudSeen)) {
	seen := s.Clouds["aws-prod"]
	change(&seen)
	s.Clouds["aws-prod"] = seen
}

func (s *Seen) close(i int) {
	s.Allocations[i].Spec.State, s.Allocations[i].Spec.ClosedAt = v1alpha1.AllocationClosed, &metav1.MicroTime{Time: clock}
	s.Allocations[i].Spec.Ports = []v1alpha1.ClaimedPort{{Protocol: "TCP", Name: "https", Port: 443}}
}

// second adds an allocation that the policy has besides 30007.
func (s *Seen) second(number string) *v1alpha1.NodePortAllocation {
	a := s.Allocations[0].DeepCopy()
	a.Name = number
	s.Allocations = append(s.Allocations, *a)
	return &s.Allocations[len(s.Allocations)-1]
}

func TestStatus(t *testing.T) {
	for _, c := range slices.Concat(statusCases, lifeCases) {
		t.Run(c.name, func(t *testing.T) {
			seen := healthy()
			c.spoil(&seen)
			status := Status(seen, metav1.NewTime(clock))
			if got := unhealthy(t, status); !slices.Equal(got, c.want) {
				t.Errorf("abnormal:\n\t%s\nwant:\n\t%s", strings.Join(got, "\n\t"), strings.Join(c.want, "\n\t"))
			}
			if status.ObservedGeneration != 3 {
				t.Errorf("observedGeneration %d", status.ObservedGeneration)
			}
			health.Check(t, &v1alpha1.NodePortPolicy{ObjectMeta: seen.Policy.ObjectMeta, Status: status}, meant(c.want))
			for _, condition := range status.Conditions {
				if condition.Message == "" && c.want == nil || condition.ObservedGeneration != 3 || !condition.LastTransitionTime.Time.Equal(clock) {
					t.Errorf("condition %+v", condition)
				}
			}
		})
	}
}

// unhealthy lists what differs from health, gates first. It requires that exactly
// one of Ready, Reconciling and Stalled is True, as kstatus, Flux and Argo CD
// need it.
func unhealthy(t *testing.T, status v1alpha1.NodePortPolicyStatus) (out []string) {
	t.Helper()
	for _, kind := range []string{v1alpha1.Accepted, v1alpha1.Allocated, v1alpha1.Exposed, v1alpha1.HostEnforced, v1alpha1.CloudEnforced} {
		c := meta.FindStatusCondition(status.Conditions, kind)
		if c == nil {
			t.Fatalf("no condition %s", kind)
		}
		if line := fmt.Sprintf("%s %s %s", c.Type, c.Status, c.Reason); line != kind+" True OK" {
			out = append(out, line)
		}
	}
	for _, kind := range []string{v1alpha1.Shadowed, v1alpha1.Conflict} {
		if c := meta.FindStatusCondition(status.Conditions, kind); c != nil {
			out = append(out, fmt.Sprintf("%s %s %s", c.Type, c.Status, c.Reason))
		}
	}
	var holding []string
	for _, kind := range []string{v1alpha1.Ready, v1alpha1.Reconciling, v1alpha1.Stalled} {
		c := meta.FindStatusCondition(status.Conditions, kind)
		if c == nil {
			t.Fatalf("no condition %s", kind)
		}
		if c.Status == metav1.ConditionTrue {
			holding = append(holding, kind+" "+c.Reason)
		}
	}
	if len(holding) != 1 {
		t.Fatalf("of Ready, Reconciling and Stalled these are True: %q", holding)
	}
	switch kind, reason, _ := strings.Cut(holding[0], " "); kind {
	case v1alpha1.Reconciling:
		return append(out, "in progress "+reason)
	case v1alpha1.Stalled:
		return append(out, "stalled "+reason)
	default:
		if reason != v1alpha1.ReasonOK {
			out = append(out, "ready "+reason)
		}
		return out
	}
}

// meant is what GitOps tools must call a policy of which unhealthy says so.
func meant(unhealthy []string) health.Verdict {
	if n := len(unhealthy); n > 0 && !strings.Contains(unhealthy[n-1], " True ") {
		return health.Of(unhealthy[n-1])
	}
	return health.InForce
}

func TestStatusSaysWhereToConnect(t *testing.T) {
	seen := healthy()
	seen.second("30009")
	seen.second("30008")
	seen.close(2)
	seen.Companion.Spec.Ports = append(seen.Companion.Spec.Ports, corev1.ServicePort{Name: "more", Port: 444, NodePort: 30009}, corev1.ServicePort{Name: "closing-30008-tcp", Port: 445, NodePort: 30008})
	quic := v1alpha1.ClaimedPort{Protocol: "UDP", Name: "quic", Port: 443}
	seen.Allocations[0].Spec.Ports = append(seen.Allocations[0].Spec.Ports, quic)
	seen.Nodes = append(seen.Nodes, node("c", address(corev1.NodeExternalIP, "192.0.2.1")), node("d", notReady, address(corev1.NodeExternalIP, "192.0.2.66")), node("e", windows, address(corev1.NodeExternalIP, "192.0.2.67")))
	status := Status(seen, metav1.NewTime(clock))
	want := []string{"192.0.2.1:30007", "192.0.2.1:30009", "[2001:db8::b]:30007", "[2001:db8::b]:30009"}
	if !slices.Equal(status.Addresses, want) || status.TotalAddresses != 4 {
		t.Errorf("addresses %q of %d, want %q", status.Addresses, status.TotalAddresses, want)
	}
	if status.NodePorts != "30007,30009" {
		t.Errorf("nodePorts %q", status.NodePorts)
	}
	var texts []string
	for _, a := range status.Allocations {
		texts = append(texts, fmt.Sprintf("%d %s %s %d %s %v", a.NodePort, a.Protocol, a.Name, a.Port, a.Pool, a.Since.Time.Equal(clock)))
	}
	if want := []string{"30007 TCP https 443 web true", "30007 UDP quic 443 web true", "30009 TCP https 443 web true"}; !slices.Equal(texts, want) {
		t.Errorf("allocations %q, want %q", texts, want)
	}
	if len(status.Cloud) != 1 || status.Cloud[0].Firewall != "aws-prod" || !slices.Equal(status.Cloud[0].Groups, []string{"sg-1"}) || status.Cloud[0].Rules != 1 {
		t.Errorf("cloud %+v", status.Cloud)
	}
}

func TestStatusSpeaksOfCloudsByName(t *testing.T) {
	seen := healthy()
	seen.Allocations[0].Spec.CloudFirewalls = []v1alpha1.ObjectName{"none", "aws-prod"}
	status := Status(seen, metav1.NewTime(clock))
	var texts []string
	for _, c := range status.Cloud {
		texts = append(texts, fmt.Sprintf("%s %s %v %d", c.Firewall, c.State, c.Groups, c.Rules))
	}
	if want := []string{"aws-prod InForce [sg-1] 1", "none CloudFirewallNotFound [] 0"}; !slices.Equal(texts, want) {
		t.Errorf("cloud %q, want %q", texts, want)
	}
}

// At most eight of anything, and how many there are; the message stays short too.
func TestStatusListsAtMostEight(t *testing.T) {
	seen := healthy()
	seen.Nodes = nil
	for i := range 20 {
		seen.Nodes = append(seen.Nodes, node(fmt.Sprintf("node-%02d", i), ungated, address(corev1.NodeExternalIP, fmt.Sprintf("198.51.100.%d", i))))
	}
	for range 20 {
		seen.changeCloud(func(c *CloudSeen) {
			c.Groups[1].Shadowing = append(c.Groups[1].Shadowing, Admission{Rule: atom("TCP", 30000, 32767, "0.0.0.0/0")})
		})
	}
	status := Status(seen, metav1.NewTime(clock))
	if len(status.Addresses) != 0 || status.TotalAddresses != 0 { // nobody knows what these nodes do
		t.Errorf("%d addresses of %d", len(status.Addresses), status.TotalAddresses)
	}
	if status.Nodes.Enforced != v1alpha1.EnforcedNone || len(status.Nodes.Failing) != 8 || status.Nodes.Failing[7].Node != "node-07" {
		t.Errorf("nodes %+v", status.Nodes)
	}
	if m := meta.FindStatusCondition(status.Conditions, v1alpha1.HostEnforced).Message; strings.Count(m, "node-") != 8 || !strings.Contains(m, "and 12 more") {
		t.Errorf("HostEnforced: %s", m)
	}
	if m := meta.FindStatusCondition(status.Conditions, v1alpha1.Shadowed).Message; strings.Count(m, "sg-2") != 8 {
		t.Errorf("Shadowed: %s", m)
	}
}

// Every message of a gate that is not passed names the object concerned.
func TestMessagesNameTheObject(t *testing.T) {
	for _, c := range []struct {
		kind  string
		name  string
		spoil func(*Seen)
	}{
		{v1alpha1.Accepted, "sources[1]", func(s *Seen) { s.Wish.Problems = []string{"sources[0] is none", "sources[1] is none"} }},
		{v1alpha1.Exposed, "shop-nodeport", func(s *Seen) { s.Companion = nil }},
		{v1alpha1.Exposed, "shop-nodeport", func(s *Seen) { s.Companion.Labels = nil }},
		{v1alpha1.Exposed, "Service shop ", func(s *Seen) { s.Service = nil }},
		{v1alpha1.Exposed, "30007", func(s *Seen) { s.Companion.Spec.Ports = nil }},
		{v1alpha1.HostEnforced, "a Ungated", func(s *Seen) { s.Nodes[0] = node("a", ungated) }},
		{v1alpha1.CloudEnforced, "aws-prod", func(s *Seen) { s.trouble(v1alpha1.ReasonDenied) }},
		{v1alpha1.CloudEnforced, "aws-prod", func(s *Seen) { s.Clouds = nil }},
		{v1alpha1.Shadowed, "31000", func(s *Seen) { s.Service.Spec.Ports[0].NodePort = 31000 }},
		{v1alpha1.Shadowed, "0.0.0.0/0 30000-32767 in group sg-2 of aws-prod", func(s *Seen) { s.shadow("TCP", 30000, 32767, "0.0.0.0/0") }},
	} {
		seen := healthy()
		c.spoil(&seen)
		condition := meta.FindStatusCondition(Status(seen, metav1.NewTime(clock)).Conditions, c.kind)
		if condition == nil || !strings.Contains(condition.Message, c.name) {
			t.Errorf("%+v does not name %s", condition, c.name)
		}
	}
}

// Transition times move with a condition's status only, what no longer holds
// goes, and the previous status stays as it was.
func TestStatusFollowsThePreviousOne(t *testing.T) {
	seen := healthy()
	seen.Nodes[0], seen.Service.Spec.Ports[0].NodePort = node("a", mark("1")), 31000
	seen.Policy.Status = Status(seen, metav1.NewTime(clock))
	before, err := json.Marshal(seen.Policy.Status)
	if err != nil {
		t.Fatal(err)
	}

	later := metav1.NewTime(clock.Add(time.Minute))
	seen.Nodes[0] = node("a", ungated)
	seen.Service.Spec.Ports[0].NodePort = 0
	status := Status(seen, later)
	host := meta.FindStatusCondition(status.Conditions, v1alpha1.HostEnforced)
	if host.Reason != v1alpha1.ReasonNodesFailing || !host.LastTransitionTime.Time.Equal(clock) {
		t.Errorf("another reason, the same status: %+v", host)
	}
	if c := meta.FindStatusCondition(status.Conditions, v1alpha1.Shadowed); c != nil {
		t.Errorf("still there: %+v", c)
	}
	if after, err := json.Marshal(seen.Policy.Status); err != nil || string(after) != string(before) {
		t.Errorf("the previous status was changed from\n%s\nto\n%s", before, after)
	}

	seen.Policy.Status = status
	seen.Nodes[0] = node("a")
	status = Status(seen, later)
	if host := meta.FindStatusCondition(status.Conditions, v1alpha1.HostEnforced); host.Status != metav1.ConditionTrue || !host.LastTransitionTime.Equal(&later) {
		t.Errorf("another status: %+v", host)
	}
	if got := unhealthy(t, status); got != nil {
		t.Errorf("abnormal: %q", got)
	}
}

// The order in which nodes and allocations are read changes no byte.
func TestStatusInAnyOrder(t *testing.T) {
	seen := healthy()
	seen.second("30009").Spec.CloudFirewalls = []v1alpha1.ObjectName{"aws-dev", "aws-prod"}
	seen.second("30008")
	seen.close(2)
	seen.Nodes = append(seen.Nodes, node("c", ungated), node("d", rebooted, address(corev1.NodeExternalIP, "192.0.2.9")))
	seen.Clouds["aws-old"] = CloudSeen{Read: true, Groups: []GroupSeen{{ID: "sg-9", Ours: []rule.Rule{atom("TCP", 30008, 30008, "10.8.0.0/16")}}}}
	want, err := json.Marshal(Status(seen, metav1.NewTime(clock)))
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		random.Shuffle(len(seen.Nodes), func(i, j int) { seen.Nodes[i], seen.Nodes[j] = seen.Nodes[j], seen.Nodes[i] })
		random.Shuffle(len(seen.Allocations), func(i, j int) {
			seen.Allocations[i], seen.Allocations[j] = seen.Allocations[j], seen.Allocations[i]
		})
		if got, err := json.Marshal(Status(seen, metav1.NewTime(clock))); err != nil || string(got) != string(want) {
			t.Fatalf("in another order\n%s\nwant\n%s", got, want)
		}
	}
}

func TestTooEarly(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*Seen)
		want  bool
	}{
		{"all has been looked at", func(*Seen) {}, false},
		{"the allocator has yet to look", func(s *Seen) { s.want("http") }, true},
		{"the allocator has looked", func(s *Seen) { s.want("http"); s.Unserved = &Refusal{Reason: v1alpha1.ReasonExhausted} }, false},
		{"refused: there is nothing to allocate", func(s *Seen) { s.refuse(v1alpha1.ReasonServiceNotFound, true) }, false},
		{"the cloud has yet to be read", func(s *Seen) { s.changeCloud(func(c *CloudSeen) { c.Read = false }) }, true},
		{"the cloud could not be read", func(s *Seen) {
			s.trouble(v1alpha1.ReasonUnreachable)
			s.changeCloud(func(c *CloudSeen) { c.Read = false })
		}, false},
		{"the cloud does not exist", func(s *Seen) { s.Clouds = nil }, false},
		{"another's cloud has yet to be read", func(s *Seen) { s.Clouds["aws-dev"] = CloudSeen{} }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := healthy()
			c.spoil(&seen)
			if got := TooEarly(seen); got != c.want {
				t.Errorf("TooEarly = %v", got)
			}
		})
	}
}
