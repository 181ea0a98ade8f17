package compile

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// lifeCases are more statusCases: policies that end, are plans or are carried in
// place, and what holds for the whole installation.
var lifeCases = []statusCase{
	// Expired
	{"expired, and still open", func(s *Seen) { s.expire() }, []string{"Accepted True Expired", "Allocated False Progressing", "in progress Progressing"}},
	{"expired, and not proved closed", func(s *Seen) { s.expire(); s.close(0); s.revoked(); s.Allocations[0].ResourceVersion = "101" }, []string{
		"Accepted True Expired", "Allocated True NotRequired", "Exposed True NotRequired", "HostEnforced False NodesPending", "CloudEnforced True NotRequired", "in progress NodesPending",
	}},
	{"expired, and the cloud has yet to revoke", func(s *Seen) { s.expire(); s.close(0) }, []string{
		"Accepted True Expired", "Allocated True NotRequired", "Exposed True NotRequired", "CloudEnforced False Progressing", "in progress Progressing",
	}},
	{"expired and closed", func(s *Seen) { s.expire(); s.close(0); s.revoked() }, []string{
		"Accepted True Expired", "Allocated True NotRequired", "Exposed True NotRequired", "CloudEnforced True NotRequired", "ready Expired",
	}},
	{"expired and free", func(s *Seen) { s.expire(); s.revoked(); s.Allocations, s.Companion = nil, nil }, []string{
		"Accepted True Expired", "Allocated True NotRequired", "Exposed True NotRequired", "HostEnforced True NotRequired", "CloudEnforced True NotRequired", "ready Expired",
	}},
	{"expired in lockdown", func(s *Seen) { s.expire(); s.close(0); s.revoked(); s.Lockdown = true }, []string{
		"Accepted True Expired", "Allocated True NotRequired", "Exposed True NotRequired", "CloudEnforced True NotRequired", "ready Expired",
	}},
	{"the expiry is refused", func(s *Seen) { s.refuse(v1alpha1.ReasonExpiryRefused, false) }, []string{"Accepted False ExpiryRefused", "stalled ExpiryRefused"}},

	// Planned
	{"a plan that holds nothing", func(s *Seen) { s.plan(); s.revoked(); s.Allocations, s.Companion = nil, nil }, []string{
		"Accepted True Planned", "Allocated True NotRequired", "Exposed True NotRequired", "HostEnforced True NotRequired", "CloudEnforced True NotRequired", "ready Planned",
	}},
	{"a plan that holds a port", func(s *Seen) { s.plan(); s.want("http") }, []string{"Accepted True Planned", "Allocated True NotRequired", "ready Planned"}},
	{"a plan whose port is not proved", func(s *Seen) { s.plan(); s.Nodes[0] = node("a", ungated) }, []string{"Accepted True Planned", "Allocated True NotRequired", "HostEnforced False NodesFailing", "in progress NodesFailing"}},
	{"a plan with a source that contributes nothing", func(s *Seen) { s.plan(); s.Wish.Problems = []string{"sources[0] is none"} }, []string{"Accepted False SourceRefused", "Allocated True NotRequired", "stalled SourceRefused"}},

	// Audit
	{"in audit", func(s *Seen) { s.audit() }, []string{"Accepted True Audit", "HostEnforced False Audit", "ready Audit"}},
	{"in audit, and a node lags behind", func(s *Seen) { s.audit(); s.Nodes[0] = node("a", mark("1")) }, []string{"Accepted True Audit", "HostEnforced False NodesPending", "in progress NodesPending"}},
	{"in audit, and a node has not heard what the pool allows", func(s *Seen) {
		s.audit()
		s.Nodes[0].Datapath.Status.Marks.Pools = "1"
	}, []string{"Accepted True Audit", "HostEnforced False NodesPending", "in progress NodesPending"}},
	{"in audit, and the cloud drops whom it is to observe", func(s *Seen) { s.audit(); s.revoked(); s.admit(30007) }, []string{
		"Accepted True Audit", "HostEnforced False Audit", "CloudEnforced False Progressing", "in progress Progressing",
	}},
	{"in audit, and a foreign rule within what is audited", func(s *Seen) { s.audit(); s.shadow("TCP", 30007, 30007, "198.51.100.0/25") }, []string{"Accepted True Audit", "HostEnforced False Audit", "ready Audit"}},
	{"in audit, in lockdown", func(s *Seen) { s.audit(); s.Lockdown = true }, []string{"Accepted True Audit", "HostEnforced False Lockdown", "in progress Lockdown"}},
	{"an audit that is refused enforces", func(s *Seen) { s.Wish.Problems = []string{"mode Audit is not allowed"} }, []string{"Accepted False SourceRefused", "stalled SourceRefused"}},

	// Allocated
	{"the quota is used up", func(s *Seen) {
		s.want("http")
		s.Unserved = &Refusal{Reason: v1alpha1.ReasonQuotaExceeded, Waits: true}
	}, []string{"Allocated False QuotaExceeded", "in progress QuotaExceeded"}},

	// Exposed, in place
	{"in place", func(s *Seen) { s.inPlace() }, nil},
	{"in place, waits for a Service that is another's", func(s *Seen) { s.refuse(v1alpha1.ReasonServiceInPlace, true) }, []string{"Accepted False ServiceInPlace", "in progress ServiceInPlace"}},
	{"in place, the Service lacks the number", func(s *Seen) { s.inPlace(); s.Service.Spec.Ports[0].NodePort = 0 }, []string{"Exposed False Progressing", "in progress Progressing"}},
	{"in place, the Service lacks the protocol", func(s *Seen) { s.inPlace(); s.Service.Spec.Ports[0].Protocol = corev1.ProtocolUDP }, []string{"Exposed False Progressing", "in progress Progressing"}},
	{"in place, the Service went", func(s *Seen) { s.inPlace(); s.Service = nil }, []string{"Exposed False ServiceNotFound", "in progress ServiceNotFound"}},
	{"in place, the API server refuses", func(s *Seen) { s.inPlace(); s.Unexposed = &Refusal{Reason: v1alpha1.ReasonServiceRefused} }, []string{"Exposed False ServiceRefused", "stalled ServiceRefused"}},
	{"a port named like a closing one, in place", func(s *Seen) { s.inPlace(); s.Service.Spec.Ports[0].Name = "closing-bell" }, nil},
	{"from in place to a companion that is not there yet", func(s *Seen) { s.inPlace(); s.second("30008").Spec.Carrier = v1alpha1.ServiceCompanion; s.admit(30008) }, []string{"Exposed False Progressing", "in progress Progressing"}},
	{"from in place to a companion, with the number of both", func(s *Seen) {
		s.inPlace()
		s.second("30001").Spec.Carrier = v1alpha1.ServiceCompanion // the first by its number
		s.Companion = Companion("shop", "shop", s.Allocations, s.Service, nil)
		s.admit(30001)
	}, nil},

	// HostEnforced
	{"lockdown", func(s *Seen) { s.Lockdown = true }, []string{"HostEnforced False Lockdown", "in progress Lockdown"}},
	{"lockdown, and a node lags behind", func(s *Seen) { s.Lockdown = true; s.Nodes[0] = node("a", mark("1")) }, []string{"HostEnforced False Lockdown", "in progress Lockdown"}},
	{"a node has not heard of the installation", func(s *Seen) { s.Proof.Installation = "7" }, []string{"HostEnforced False NodesPending", "in progress NodesPending"}},
	{"a node judged by labels that are no longer its own", func(s *Seen) { s.Allocations[0].Spec.NodeSelector = &metav1.LabelSelector{} }, []string{"HostEnforced False NodesPending", "in progress NodesPending"}},

	// AddressSets
	{"the cloud admits what the set holds too", func(s *Seen) { s.set("192.0.2.0/24"); s.admit(30007, "192.0.2.0/24") }, nil},
	{"the cloud has yet to admit what the set holds", func(s *Seen) { s.set("192.0.2.0/24") }, []string{"CloudEnforced False Progressing", "in progress Progressing"}},
	{"the cloud admits what the guard-rails drop of the set", func(s *Seen) { s.set("192.0.2.0/24", "0.0.0.0/1"); s.admit(30007, "192.0.2.0/24", "0.0.0.0/1") }, []string{"CloudEnforced False Progressing", "in progress Progressing"}},
	{"the cloud still admits a set that is gone", func(s *Seen) { s.set("192.0.2.0/24"); s.admit(30007, "192.0.2.0/24"); s.Places = Places{} }, []string{"CloudEnforced False Progressing", "in progress Progressing"}},
	{"a foreign rule within the set", func(s *Seen) {
		s.set("192.0.2.0/24")
		s.admit(30007, "192.0.2.0/24")
		s.shadow("TCP", 30007, 30007, "192.0.2.0/25")
	}, nil},
	{"a foreign rule, everybody may come", func(s *Seen) {
		s.Allocations[0].Spec.Ports[0].World = true
		s.admit(30007, "0.0.0.0/0", "::/0")
		s.shadow("TCP", 0, 65535, "0.0.0.0/0")
	}, nil},

	// Conflict
	{"hijacked", func(s *Seen) { s.Hijackers = []string{"Service bank/grab, externalIPs 192.0.2.1 port 30007"} }, []string{"Conflict True Hijacked"}},
	{"hijacked, and the pin is held by others", func(s *Seen) {
		s.Hijackers = []string{"Service bank/grab"}
		s.want("http")
		s.Unserved = &Refusal{Reason: v1alpha1.ReasonConflict}
	}, []string{"Allocated False Conflict", "Conflict True Hijacked", "stalled Conflict"}},
}

func (s *Seen) expire() {
	s.Policy.Spec.ExpiresAt = &metav1.Time{Time: clock}
	s.Wish = &Wish{Expired: true, policy: s.Policy}
}

func (s *Seen) plan() {
	s.Policy.Spec.Mode = v1alpha1.ModePlan
	s.Wish.Planned = true
}

// audit lets the port pass 198.51.100.0/24 as well, on nodes and in the cloud.
func (s *Seen) audit() {
	s.Policy.Spec.Mode, s.Allocations[0].Spec.Mode = v1alpha1.ModeAudit, v1alpha1.ModeAudit
	pools := railed(v1alpha1.Guardrails{Audit: v1alpha1.Allow, AllowedSources: []v1alpha1.CIDR{"198.51.100.0/24"}})
	pools[0].ResourceVersion = "4"
	s.Places = NewPlaces(pools, nil)
	s.Proof.Places = s.Places
	s.admit(30007, "198.51.100.0/24")
}

// revoked: the cloud has no rule of ours left.
func (s *Seen) revoked() {
	s.changeCloud(func(c *CloudSeen) { c.InForce, c.Groups = nil, []GroupSeen{{ID: "sg-1"}, {ID: "sg-2"}} })
}

// admit lets the cloud admit sources to a number, and those of health.
func (s *Seen) admit(number uint16, sources ...string) {
	s.changeCloud(func(c *CloudSeen) {
		for _, source := range append(sources, "10.8.0.0/16") {
			c.InForce = append(c.InForce, inForce("TCP", number, number, source))
		}
	})
}

// inPlace lets the Service itself carry the number.
func (s *Seen) inPlace() {
	s.Policy.Spec.Service, s.Companion = v1alpha1.ServiceInPlace, nil
	s.Allocations[0].Spec.Carrier = v1alpha1.ServiceInPlace
	s.Service.Spec.Type, s.Service.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30007
}

// set lets the port admit an AddressSet, none wider than a /8.
func (s *Seen) set(cidrs ...v1alpha1.CIDR) {
	s.Allocations[0].Spec.Ports = []v1alpha1.ClaimedPort{{Protocol: "TCP", Name: "https", Port: 443, Sources: []v1alpha1.CIDR{"10.8.0.0/16"}, AddressSets: []v1alpha1.ObjectName{"office"}}}
	widest := int32(8)
	s.Places = NewPlaces(railed(v1alpha1.Guardrails{WidestIPv4: &widest}), []v1alpha1.AddressSet{setOf("office", cidrs...)})
}

// What ended says when, and what to do about it.
func TestStatusOfAnExpiredPolicySaysWhen(t *testing.T) {
	seen := healthy()
	seen.expire()
	seen.Policy.Spec.ExpiresAt.Time = clock.In(time.FixedZone("", 3600))
	status := Status(seen, metav1.NewTime(clock))
	if m := meta.FindStatusCondition(status.Conditions, v1alpha1.Accepted).Message; !strings.Contains(m, "2026-01-02T03:04:05Z") || !strings.Contains(m, "expiresAt") {
		t.Errorf("Accepted says %q", m)
	}
}

func TestStatusShowsThePlan(t *testing.T) {
	seen := healthy()
	seen.plan()
	seen.Plan = &v1alpha1.PolicyPlan{Problem: "as the test says"}
	if status := Status(seen, metav1.NewTime(clock)); status.Plan != seen.Plan {
		t.Errorf("plan %+v", status.Plan)
	}
}

// Problems are those of the pools that serve the policy, of the preferred one while
// none does, and a message has an end.
func TestStatusNamesTheProblemsOfThePoolsThatServe(t *testing.T) {
	of := func(names ...string) map[string]offer {
		offers := map[string]offer{}
		for _, name := range names {
			offers[name] = offer{problems: []string{"in " + name}}
		}
		return offers
	}
	for _, c := range []struct {
		name  string
		spoil func(*Seen)
		want  string
	}{
		{"of the one that serves", func(s *Seen) { s.Allocations[0].Spec.Pool = "api" }, "in api"},
		{"of both that serve, each once", func(s *Seen) { s.second("30001").Spec.Pool = "api"; s.second("30002") }, "in api; in web"},
		{"of the preferred one while none serves", func(s *Seen) { s.close(0) }, "in web"},
		{"of the policy, whatever the pool", func(s *Seen) { s.Wish.Problems = []string{"in all"} }, "in all; in web"},
		{"of a pool that the wish has left", func(s *Seen) { s.Allocations[0].Spec.Pool = "old"; s.Wish.Problems = []string{"in all"} }, "in all"},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := healthy()
			seen.Wish.Pools, seen.Wish.offers = []string{"web", "api"}, of("web", "api")
			c.spoil(&seen)
			condition := meta.FindStatusCondition(Status(seen, metav1.NewTime(clock)).Conditions, v1alpha1.Accepted)
			if condition.Message != c.want {
				t.Errorf("Accepted says %q, want %q", condition.Message, c.want)
			}
		})
	}
	seen := healthy()
	for i := range 300 {
		seen.Wish.Problems = append(seen.Wish.Problems, fmt.Sprintf("sources[%03d] %s", i, strings.Repeat("x", 200)))
	}
	m := meta.FindStatusCondition(Status(seen, metav1.NewTime(clock)).Conditions, v1alpha1.Accepted).Message
	if strings.Count(m, "sources[") != 8 || !strings.HasSuffix(m, "and 292 more") {
		t.Errorf("Accepted says %d characters", len(m))
	}
}

// Where to connect, and since when: nodes that the pool does not pick are none, and a
// claim that was restored is older than its object.
func TestStatusSaysWhereToConnectAndSinceWhen(t *testing.T) {
	seen := healthy()
	seen.Nodes[0].Labels["role"] = "edge"
	seen.Nodes[0].Status.Addresses[0].Address = "192.0.2.7"
	seen.Allocations[0].Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"role": "edge"}}
	seen.Nodes[0].Datapath.Status.NodeLabels = LabelsHash(seen.Nodes[0].Labels)
	seen.Allocations[0].Spec.Since = &metav1.MicroTime{Time: clock.Add(-time.Hour + time.Microsecond)}
	status := Status(seen, metav1.NewTime(clock))
	if len(status.Addresses) != 1 || status.Addresses[0] != "192.0.2.7:30007" || status.TotalAddresses != 1 {
		t.Errorf("addresses %q of %d", status.Addresses, status.TotalAddresses)
	}
	if since := status.Allocations[0].Since; !since.Time.Equal(clock.Add(-time.Hour)) {
		t.Errorf("since %v", since)
	}
}

// The order in which allocations are read changes no byte, also while they go from
// one carrier to another.
func TestStatusInAnyOrderOfCarriers(t *testing.T) {
	seen := healthy()
	seen.inPlace()
	seen.second("30001").Spec.Carrier = v1alpha1.ServiceCompanion
	seen.second("30009")
	seen.Clouds, seen.Service.Spec.Ports[0].NodePort = map[string]CloudSeen{"aws-prod": {Read: true, InForce: []Admission{}}}, 30002
	want := ""
	for range 6 {
		seen.Allocations = append(seen.Allocations[1:], seen.Allocations[0])
		got := string(mustJSON(t, Status(seen, metav1.NewTime(clock))))
		if want == "" {
			want = got
		}
		if got != want {
			t.Fatalf("in another order\n%s\nwant\n%s", got, want)
		}
	}
}
