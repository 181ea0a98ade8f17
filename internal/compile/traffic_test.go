package compile

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// asking has an allocation ask for that, "" and 0 for nothing.
func asking(policy v1alpha1.ExternalTrafficPolicy, seconds int32) func(*v1alpha1.NodePortAllocation) {
	return func(a *v1alpha1.NodePortAllocation) {
		a.Spec.ExternalTrafficPolicy = policy
		if seconds != 0 {
			a.Spec.SessionAffinity = &v1alpha1.SessionAffinity{ClientIPTimeoutSeconds: seconds}
		}
	}
}

// says spells what a Service says of traffic.
func says(s *corev1.Service) string {
	text := string(s.Spec.ExternalTrafficPolicy) + " " + string(s.Spec.SessionAffinity)
	if c := s.Spec.SessionAffinityConfig; c != nil {
		text += fmt.Sprint(" ", ptr.Deref(c.ClientIP.TimeoutSeconds, 0))
	}
	return text
}

// withTraffic has a Service say so, as the API server spells it.
func withTraffic(s *corev1.Service, policy corev1.ServiceExternalTrafficPolicy, seconds int32) *corev1.Service {
	s.Spec.ExternalTrafficPolicy, s.Spec.SessionAffinity = policy, corev1.ServiceAffinityNone
	if seconds != 0 {
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
	return s
}

func TestCompanionSaysHowTrafficArrives(t *testing.T) {
	for _, c := range []struct {
		policy  v1alpha1.ExternalTrafficPolicy
		seconds int32
		want    string // on a companion that said Local and ClientIP for a minute
	}{
		{"", 0, "Cluster None"},
		{"Cluster", 0, "Cluster None"},
		{"Local", 0, "Local None"},
		{"Local", 3600, "Local ClientIP 3600"},
		{"", 60, "Cluster ClientIP 60"},
	} {
		seen := healthy()
		asking(c.policy, c.seconds)(&seen.Allocations[0])
		fresh := Companion("shop", "shop", seen.Allocations, seen.Service, nil)
		have := withTraffic(fresh.DeepCopy(), "Local", 60)
		got := Companion("shop", "shop", seen.Allocations, seen.Service, have)
		if says(got) != c.want {
			t.Errorf("%s and %d: %s, want %s", c.policy, c.seconds, says(got), c.want)
		}
		if again := Companion("shop", "shop", seen.Allocations, seen.Service, got); !equality.Semantic.DeepEqual(again, got) {
			t.Errorf("%s and %d: not settled", c.policy, c.seconds)
		}
		if a, b := trafficOf(&fresh.Spec), trafficOf(&got.Spec); a != b {
			t.Errorf("%s and %d: created as %v, updated to %v", c.policy, c.seconds, a, b)
		}
	}
}

// The life of one Service in place, step by step: what its owner says, and what the
// policy asks.
func TestInPlaceLendsAndGivesBack(t *testing.T) {
	const closed = "Closed"
	type step struct {
		owner   func(*corev1.Service) // what somebody else does before
		policy  v1alpha1.ExternalTrafficPolicy
		seconds int32
		state   string
		want    string
	}
	writes := func(policy corev1.ServiceExternalTrafficPolicy) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = policy }
	}
	for _, c := range []struct {
		name  string
		had   *corev1.Service
		steps []step
	}{
		{"a silent policy leaves all alone", withTraffic(serving("NodePort", "https/443/30004"), "Local", 77), []step{
			{want: "Local ClientIP 77"}, {state: closed, want: "Local ClientIP 77"},
		}},
		{"the policy's word, and back", withTraffic(serving("NodePort", "https/443/30004"), "Cluster", 77), []step{
			{policy: "Local", seconds: 60, want: "Local ClientIP 60"},
			{policy: "Local", seconds: 90, want: "Local ClientIP 90"},
			{policy: "Local", want: "Local ClientIP 77"},
			{want: "Cluster ClientIP 77"},
		}},
		{"back when the policy goes", withTraffic(serving("NodePort", "https/443/30004"), "Cluster", 0), []step{
			{policy: "Local", seconds: 60, want: "Local ClientIP 60"}, {state: closed, want: "Cluster None"},
		}},
		{"to and fro", withTraffic(serving("NodePort", "https/443/30004"), "Cluster", 0), []step{
			{policy: "Local", want: "Local None"}, {policy: "Cluster", want: "Cluster None"}, {policy: "Local", want: "Local None"}, {state: closed, want: "Cluster None"},
		}},
		{"the policy wins over Git, whose last word is given back", withTraffic(serving("NodePort", "https/443/30004"), "Local", 0), []step{
			{policy: "Cluster", want: "Cluster None"},
			{owner: writes("Local"), policy: "Cluster", want: "Cluster None"},
			{state: closed, want: "Local None"},
		}},
		{"what Git changed after us is not given back", withTraffic(serving("NodePort", "https/443/30004"), "Cluster", 0), []step{
			{policy: "Local", want: "Local None"},
			{owner: writes("Cluster"), state: closed, want: "Cluster None"},
		}},
		{"what nobody remembers stays", withTraffic(serving("NodePort", "https/443/30004"), "Cluster", 0), []step{
			{policy: "Local", want: "Local None"},
			{owner: func(s *corev1.Service) { s.Annotations[v1alpha1.AnnotationLent] = "{" }, state: closed, want: "Local None"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			have := c.had
			for i, s := range c.steps {
				if s.owner != nil {
					s.owner(have)
				}
				state := "Open"
				if s.state != "" {
					state = s.state
				}
				own := []v1alpha1.NodePortAllocation{carried("30004 "+state+" https/443", ofTheService, asking(s.policy, s.seconds))}
				have = InPlace(own, have)
				if says(have) != s.want {
					t.Fatalf("step %d: %s, want %s", i, says(have), s.want)
				}
				if again := InPlace(own, have); !equality.Semantic.DeepEqual(again, have) {
					t.Fatalf("step %d: not settled", i)
				}
			}
		})
	}
}

// A policy that lets go of a Service takes nothing from the one that has it now.
func TestInPlaceGivesBackItsOwnOnly(t *testing.T) {
	have := withTraffic(serving("NodePort", "https/443/30004"), "Cluster", 0)
	have = InPlace([]v1alpha1.NodePortAllocation{carried("30004 Open https/443", asking("Local", 0))}, have)
	if Borrower(have) != "shop" {
		t.Fatalf("borrowed by %q", Borrower(have))
	}
	other := carried("30007 Closed https/443", ofTheService)
	other.Spec.Claim.Policy = "elder"
	if got := InPlace([]v1alpha1.NodePortAllocation{other}, have); !equality.Semantic.DeepEqual(got, have) {
		t.Errorf("another policy gave back: %s", says(got))
	}
	if got := Returned(have); says(got) != "Cluster None" || len(got.Annotations) != 0 {
		t.Errorf("returned as %s, %v", says(got), got.Annotations)
	}
}

// A ClusterIP Service has no externalTrafficPolicy, before the policy came and after it.
func TestInPlaceGivesNoPolicyToAServiceWithoutNodePorts(t *testing.T) {
	have := withTraffic(serving("ClusterIP", "https/443/0"), "", 0)
	have = InPlace([]v1alpha1.NodePortAllocation{carried("30004 Open https/443", asking("Local", 60))}, have)
	if says(have) != "Local ClientIP 60" || have.Spec.Type != corev1.ServiceTypeNodePort {
		t.Fatalf("%s %s", have.Spec.Type, says(have))
	}
	have = InPlace([]v1alpha1.NodePortAllocation{carried("30004 Closed https/443")}, have)
	if says(have) != " None" || have.Spec.Type != corev1.ServiceTypeClusterIP {
		t.Errorf("%s %q", have.Spec.Type, says(have))
	}
	if len(have.Annotations) != 0 {
		t.Errorf("left behind: %v", have.Annotations)
	}
}

// Whoever may edit the Service may edit what it remembers. What no Service can say is not
// given back: the API server would refuse it, and with it all that else is to be written.
func TestWhatIsLentIsWhatAServiceCanSay(t *testing.T) {
	for _, lent := range []string{
		`{"policy":"shop","externalTrafficPolicy":{"was":"Nowhere","is":"Cluster"}}`,
		`{"policy":"shop","externalTrafficPolicy":{"was":"","is":"Cluster"}}`,
		`{"policy":"shop","externalTrafficPolicy":{"is":"Cluster"},"sessionAffinitySeconds":{"was":86401,"is":-1}}`,
		`{"policy":"shop","sessionAffinitySeconds":{"was":0,"is":-1}}`,
		`{"policy":"shop","sessionAffinitySeconds":{"was":-2,"is":-1}}`,
	} {
		have := withTraffic(serving("NodePort", "https/443/30004"), "Cluster", 0)
		have.Annotations = map[string]string{v1alpha1.AnnotationLent: lent}
		for name, got := range map[string]*corev1.Service{
			"returned": Returned(have), "closed": InPlace([]v1alpha1.NodePortAllocation{carried("30004 Open https/443", ofTheService)}, have),
		} {
			if says(got) != "Cluster None" || len(got.Annotations) != 0 {
				t.Errorf("%s: %s as %s, %v", lent, name, says(got), got.Annotations)
			}
		}
	}
}

// An ExternalName Service has no externalTrafficPolicy either.
func TestNoPolicyIsGivenBackToAServiceThatCanHaveNone(t *testing.T) {
	have := withTraffic(serving("NodePort", "https/443/30004"), "Local", 0)
	have = InPlace([]v1alpha1.NodePortAllocation{carried("30004 Open https/443", asking("Cluster", 0))}, have)
	have.Spec.Type, have.Spec.ExternalName, have.Spec.ExternalTrafficPolicy, have.Spec.Ports[0].NodePort = corev1.ServiceTypeExternalName, "elsewhere.example.org", "", 0
	if got := Returned(have); says(got) != " None" || len(got.Annotations) != 0 {
		t.Errorf("returned as %q, %v", says(got), got.Annotations)
	}
}
