package compile

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

// grouped admits sg-9 within 10.8.0.0/16, and 203.0.113.0/24; through aws-prod and
// ali-prod.
func grouped() Seen {
	s := healthy()
	port := v1alpha1.ClaimedPort{
		Protocol: "TCP", Name: "https", Port: 443, Sources: []v1alpha1.CIDR{"203.0.113.0/24"},
		Peers: []v1alpha1.Peer{{ID: "sg-9", Sources: []v1alpha1.CIDR{"10.8.0.0/16"}}},
	}
	s.Allocations[0].Spec.Ports = []v1alpha1.ClaimedPort{port}
	s.Allocations[0].Spec.CloudFirewalls = []v1alpha1.ObjectName{"aws-prod", "ali-prod"}
	all := CloudSeen{Read: true, InForce: []Admission{inForce("TCP", 30007, 30007, "203.0.113.0/24"), peerInForce("sg-9")}}
	s.Clouds = map[string]CloudSeen{"aws-prod": all, "ali-prod": all}
	return s
}

func peerInForce(id string) Admission {
	return Admission{Rule: rule.Rule{Protocol: rule.TCP, Ports: rule.PortRange{First: 30007, Last: 30007}}, Peer: id}
}

// A group is in force where the cloud shows a rule for it, and for no other. Where it
// does not exist nobody is admitted by it, which the cloud's status says; where it exists
// nowhere a person must act.
func TestSecurityGroupsInTheStatus(t *testing.T) {
	absent := LookupSeen{Absent: true, Problem: "there is none; nobody is admitted by it here"}
	change := func(s *Seen, name string, change func(*CloudSeen)) {
		seen := s.Clouds[name]
		change(&seen)
		s.Clouds[name] = seen
	}
	for _, c := range []struct {
		name  string
		spoil func(*Seen)
		// gate is the reason of CloudEnforced; message begins the one of ali-prod.
		gate, message string
	}{
		{"in force in both", func(*Seen) {}, v1alpha1.ReasonOK, ""},
		{"not yet in force in one", func(s *Seen) { change(s, "ali-prod", func(c *CloudSeen) { c.InForce = c.InForce[:1] }) }, v1alpha1.ReasonProgressing, ""},
		{"another group in its place", func(s *Seen) {
			change(s, "ali-prod", func(c *CloudSeen) { c.InForce = append(c.InForce[:1:1], peerInForce("sg-8")) })
		}, v1alpha1.ReasonProgressing, ""},
		{"one group too many", func(s *Seen) {
			change(s, "ali-prod", func(c *CloudSeen) { c.InForce = append(c.InForce[:2:2], peerInForce("sg-8")) })
		}, v1alpha1.ReasonProgressing, ""},
		{"the whole network in its place", func(s *Seen) {
			change(s, "ali-prod", func(c *CloudSeen) { c.InForce = append(c.InForce[:1:1], inForce("TCP", 30007, 30007, "10.8.0.0/16")) })
		}, v1alpha1.ReasonProgressing, ""},
		{"it does not exist in one", func(s *Seen) {
			change(s, "ali-prod", func(c *CloudSeen) { c.InForce, c.Lookups = c.InForce[:1], map[string]LookupSeen{"sg-9": absent} })
		}, v1alpha1.ReasonOK, "security group sg-9: there is none"},
		{"nobody knows whether it exists in one", func(s *Seen) {
			change(s, "ali-prod", func(c *CloudSeen) { c.Lookups = map[string]LookupSeen{"sg-9": {Problem: "throttled"}} })
		}, v1alpha1.ReasonOK, "security group sg-9: throttled"},
		{"it exists nowhere", func(s *Seen) {
			for _, name := range []string{"aws-prod", "ali-prod"} {
				change(s, name, func(c *CloudSeen) { c.InForce, c.Lookups = c.InForce[:1], map[string]LookupSeen{"sg-9": absent} })
			}
		}, v1alpha1.ReasonSourceRefused, "security group sg-9: there is none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := grouped()
			c.spoil(&s)
			gate, clouds := s.cloudEnforced()
			if gate.reason != c.gate || gate.stalled != (c.gate == v1alpha1.ReasonSourceRefused) || gate.stalled && !strings.Contains(gate.message, "sg-9") {
				t.Errorf("%+v, want %s", gate, c.gate)
			}
			if got := clouds[0]; got.Firewall != "ali-prod" || !strings.HasPrefix(got.Message, c.message) || (got.Message == "") != (c.message == "") {
				t.Errorf("ali-prod %+v, want %q", got, c.message)
			}
		})
	}
}

// A foreign rule for the network that bounds a group defeats the group: nodes would let
// everybody of the network in.
func TestTheBoundOfAGroupIsNotAdmittedByClouds(t *testing.T) {
	s := grouped()
	for source, want := range map[string]bool{"10.8.0.0/16": true, "10.8.4.0/24": true, "203.0.113.0/25": false} {
		s.Clouds["aws-prod"] = CloudSeen{Read: true, Groups: []GroupSeen{{ID: "sg-1", Shadowing: []Admission{inForce("TCP", 30000, 32767, source)}}}}
		if got := s.cloudShadow() != ""; got != want {
			t.Errorf("%s shadows: %v", source, got)
		}
	}
}

// A status that says that a list is not known waits until somebody has asked for it, and
// for the set that an answer makes.
func TestAListIsWaitedForUntilItWasAskedFor(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*Seen)
		want  bool
	}{
		{"nobody has asked", func(*Seen) {}, true},
		{"there was an answer, and its set is on the way", func(s *Seen) { s.changeCloud(func(c *CloudSeen) { c.Lookups = map[string]LookupSeen{"pl-1": {}} }) }, true},
		{"the answer was no", func(s *Seen) {
			s.changeCloud(func(c *CloudSeen) { c.Lookups = map[string]LookupSeen{"pl-1": {Problem: "denied"}} })
		}, false},
		{"it is known", func(s *Seen) {
			s.Places = NewPlaces([]v1alpha1.NodePortPool{listing("pl-1")}, listed.Sets(nil, nil))
		}, false},
		{"the pool does not allow it", func(s *Seen) { s.Places = NewPlaces([]v1alpha1.NodePortPool{listing("pl-2")}, nil) }, false},
		{"the firewall does not exist", func(s *Seen) { delete(s.Clouds, "aws-prod") }, false},
		{"the policy has ended", func(s *Seen) { s.Wish.Expired = true }, false},
	} {
		s := healthy()
		s.Policy.Spec.Sources = []v1alpha1.Source{{CIDR: "10.8.0.0/16"}, {PrefixList: "pl-1"}}
		s.Policy.CreationTimestamp = metav1.NewTime(clock)
		s.Places = NewPlaces([]v1alpha1.NodePortPool{listing("pl-1")}, nil)
		c.spoil(&s)
		if got := TooEarly(s); got != c.want {
			t.Errorf("%s: too early: %v", c.name, got)
		}
	}
}

// A lookup that failed takes nothing away, and the status says so.
func TestAListThatFailsIsInForceAndSaysSo(t *testing.T) {
	s := healthy()
	s.Places = NewPlaces([]v1alpha1.NodePortPool{listing("pl-1")}, listed.Sets(entriesOf(1), nil))
	s.Allocations[0].Spec.Ports = []v1alpha1.ClaimedPort{{Protocol: "TCP", Name: "https", Port: 443, PrefixLists: []v1alpha1.PrefixListID{"pl-1"}}}
	s.changeCloud(func(c *CloudSeen) {
		c.InForce = []Admission{inForce("TCP", 30007, 30007, "10.0.0.0/25")}
		c.Lookups = map[string]LookupSeen{"pl-1": {Problem: "denied; what was last known of it stays in force"}}
	})
	gate, clouds := s.cloudEnforced()
	if !gate.passed || len(clouds) != 1 || clouds[0].State != StateInForce || clouds[0].Message != "prefix list pl-1: denied; what was last known of it stays in force" {
		t.Errorf("%+v, %+v", gate, clouds)
	}
}
