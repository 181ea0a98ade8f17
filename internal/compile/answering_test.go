package compile

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// Who answers: the case names one thing about the node, the port or what is before it.
func TestAnswering(t *testing.T) {
	was := func(names ...string) func(NodeReport, uint16) bool {
		return func(n NodeReport, number uint16) bool { return number == 30007 && slices.Contains(names, n.Name) }
	}
	for _, c := range []struct {
		name  string
		spoil func(*Seen)
		was   []string
		want  string
	}{
		{"all that proved it", func(*Seen) {}, nil, "a b"},
		{"not Ready", func(s *Seen) { notReady(&s.Nodes[0]) }, []string{"a"}, "b"},
		{"Ready is unknown", func(s *Seen) { unknown(&s.Nodes[0]) }, []string{"a"}, "b"},
		{"out of service", func(s *Seen) { givenUp(&s.Nodes[0]) }, []string{"a"}, "b"},
		{"not Linux", func(s *Seen) { windows(&s.Nodes[0]) }, nil, "b"},
		{"no agent ever", func(s *Seen) { ungated(&s.Nodes[0]) }, []string{"a"}, "b"},
		{"rebooted since", func(s *Seen) { rebooted(&s.Nodes[0]) }, []string{"a"}, "b"},
		{"an exception of the port", func(s *Seen) { exception(30007, "Failed")(&s.Nodes[0]) }, []string{"a"}, "b"},
		{"never enforced it yet", func(s *Seen) { mark("89")(&s.Nodes[0]) }, nil, "b"},
		{"enforces what it said before", func(s *Seen) { mark("89")(&s.Nodes[0]) }, []string{"a"}, "a b"},
		{"reports what we have not read", func(s *Seen) { mark("101")(&s.Nodes[0]) }, nil, "b"},
		{"packets go around its gate", func(s *Seen) {
			mark("89")(&s.Nodes[0])
			enforced(v1alpha1.ReasonEnforcementUnsupported)(&s.Nodes[0])
		}, []string{"a"}, "b"},
		{"not selected by the pool", func(s *Seen) {
			s.Allocations[0].Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"role": "edge"}}
		}, []string{"a"}, ""},
		{"closed", func(s *Seen) { s.close(0) }, []string{"a"}, ""},
		{"lockdown", func(s *Seen) { s.Lockdown = true }, []string{"a"}, ""},
		{"no companion", func(s *Seen) { s.Companion = nil }, []string{"a"}, ""},
		{"the companion of somebody else", func(s *Seen) { s.Companion.Labels = nil }, []string{"a"}, ""},
		{"the companion leads nowhere", func(s *Seen) { s.Companion.Spec.Selector = nil }, []string{"a"}, ""},
		{"the companion only holds the number", func(s *Seen) { s.Companion.Spec.Ports[0].Name = "closing-30007-tcp" }, []string{"a"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := healthy()
			c.spoil(&seen)
			var names []string
			for _, n := range seen.sight().Answering(&seen.Allocations[0], was(c.was...)) {
				names = append(names, n.Name)
			}
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("answering: %q, want %q", got, c.want)
			}
		})
	}
}

// Which addresses of a node answer: those of the carrier's families on which others
// can knock, once each.
func TestReachable(t *testing.T) {
	n := node("a")
	n.Status.Addresses = nil
	for kind, list := range map[corev1.NodeAddressType]string{
		corev1.NodeInternalIP: "10.0.0.1 2001:db8::1 ::ffff:10.0.0.1 127.0.0.1 fe80::1 fe80::1%eth0 0.0.0.0 224.0.0.1",
		corev1.NodeHostName:   "10.0.0.9", corev1.NodeInternalDNS: "10.0.0.8",
	} {
		for text := range strings.FieldsSeq(list) {
			address(kind, text)(&n)
		}
	}
	for _, text := range []string{"192.0.2.1", "2001:db8::2%a; b", "192.0.2.1;", "host", ""} {
		address(corev1.NodeExternalIP, text)(&n)
	}
	both := []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	for _, c := range []struct {
		kind    v1alpha1.AddressType
		service []corev1.IPFamily
		asked   []v1alpha1.IPFamily
		want    string
	}{
		{"", nil, nil, "[10.0.0.1 2001:db8::1 192.0.2.1]"},
		{v1alpha1.InternalIP, both, nil, "[10.0.0.1 2001:db8::1]"},
		{v1alpha1.ExternalIP, both, nil, "[192.0.2.1]"},
		{"", both[:1], nil, "[10.0.0.1 192.0.2.1]"},
		{"", both[1:], nil, "[2001:db8::1]"},
		{"", both, []v1alpha1.IPFamily{"IPv6"}, "[2001:db8::1]"},
		{"", both[:1], []v1alpha1.IPFamily{"IPv6"}, "[]"},
	} {
		carrier := &corev1.Service{Spec: corev1.ServiceSpec{IPFamilies: c.service}}
		var got []string
		for _, a := range reachable(n.Node, c.kind, carrier, c.asked) {
			got = append(got, a.String())
		}
		slices.Sort(got)
		want := strings.Fields(strings.Trim(c.want, "[]"))
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%q of %v, asked for %v: %q, want %q", c.kind, c.service, c.asked, got, want)
		}
	}
}

func crowd(n int) Seen {
	seen := healthy()
	seen.Nodes = nil
	for i := range n {
		one := node(fmt.Sprintf("node-%02d", i))
		one.Status.Addresses[0].Address = fmt.Sprintf("198.51.100.%d", i+1)
		seen.Nodes = append(seen.Nodes, one)
	}
	return seen
}

// The eight addresses of many stay while they answer, whoever joins; of those that
// leave each is replaced by one, and one that returns changes nothing.
func TestAddressesAreAStableSample(t *testing.T) {
	seen := crowd(20)
	tell := func() []string {
		before := seen.Policy.Status
		seen.Policy.Status = Status(seen, metav1.NewTime(clock))
		if AddressLost(before, seen.Policy.Status) && len(before.Addresses) == 0 {
			t.Error("an address is lost that never was")
		}
		return seen.Policy.Status.Addresses
	}
	first := tell()
	if len(first) != 8 || seen.Policy.Status.TotalAddresses != 20 {
		t.Fatalf("%q of %d", first, seen.Policy.Status.TotalAddresses)
	}
	seen.Nodes = slices.Concat(crowd(40).Nodes[20:], seen.Nodes)
	if got := tell(); !slices.Equal(got, first) {
		t.Errorf("after twenty joined: %q, want %q", got, first)
	}
	gone := slices.IndexFunc(seen.Nodes, func(n NodeReport) bool { return strings.HasPrefix(first[3], n.Status.Addresses[0].Address+":") })
	before := seen.Policy.Status
	notReady(&seen.Nodes[gone])
	second := tell()
	kept := slices.DeleteFunc(slices.Clone(second), func(a string) bool { return !slices.Contains(first, a) })
	if len(second) != 8 || len(kept) != 7 || slices.Contains(second, first[3]) || !AddressLost(before, seen.Policy.Status) {
		t.Errorf("after one left: %q, was %q", second, first)
	}
	seen.Nodes[gone].Status.Conditions[0].Status = corev1.ConditionTrue
	if third := tell(); !slices.Equal(third, second) || AddressGained(before, before) {
		t.Errorf("after it came back: %q, want %q", third, second)
	}
	// Another policy has another sample: what leaves is not the same for all.
	other := crowd(40)
	other.Policy.Name, other.Companion.Name, other.Companion.Labels[v1alpha1.LabelPolicy] = "other", "other-nodeport", "other"
	if got := Status(other, metav1.NewTime(clock)).Addresses; slices.Equal(got, first) {
		t.Errorf("two policies list the same eight of forty: %q", got)
	}
}
