package compile

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/rule"
)

type statusCase struct {
	name  string
	spoil func(*Seen)
	want  []string
}

// statusCases each spoil one thing, and say which conditions are not as in
// health, where all gates are True with reason OK and Reconciling and Stalled
// False. Ready, Reconciling and Stalled are named by "in progress" and "stalled"
// with the reason they carry.
var statusCases = []statusCase{
	{"healthy", func(*Seen) {}, nil},

	// Accepted
	{"refused, a person must act", func(s *Seen) { s.refuse(v1alpha1.ReasonServiceHeadless, false) }, []string{"Accepted False ServiceHeadless", "stalled ServiceHeadless"}},
	{"refused, may come by itself", func(s *Seen) { s.refuse(v1alpha1.ReasonServiceNotFound, true) }, []string{"Accepted False ServiceNotFound", "in progress ServiceNotFound"}},
	{"refused, and never had a port", func(s *Seen) { s.refuse(v1alpha1.ReasonPoolNotFound, true); s.Allocations, s.Companion = nil, nil }, []string{
		"Accepted False PoolNotFound", "Allocated False Progressing", "Exposed False Progressing", "HostEnforced False Progressing", "CloudEnforced False Progressing", "in progress PoolNotFound",
	}},
	{"a source contributes nothing", func(s *Seen) { s.Wish.Problems = []string{"sources[0] is none", "sources[1] is none"} }, []string{"Accepted False SourceRefused", "stalled SourceRefused"}},

	// Allocated
	{"waits for the allocator", func(s *Seen) { s.want("http") }, []string{"Allocated False Progressing", "in progress Progressing"}},
	{"the pool is exhausted", func(s *Seen) { s.want("http"); s.Unserved = &Refusal{Reason: v1alpha1.ReasonExhausted, Waits: true} }, []string{"Allocated False Exhausted", "in progress Exhausted"}},
	{"the pin is held by others", func(s *Seen) { s.want("http"); s.Unserved = &Refusal{Reason: v1alpha1.ReasonConflict} }, []string{"Allocated False Conflict", "Conflict True Conflict", "stalled Conflict"}},
	{"a conflict that is over", func(s *Seen) { s.Unserved = &Refusal{Reason: v1alpha1.ReasonConflict} }, nil},
	{"all closed, about to be reopened", func(s *Seen) { s.close(0) }, []string{"Exposed False Progressing", "CloudEnforced False Progressing", "in progress Progressing"}},

	// Exposed
	{"no companion yet", func(s *Seen) { s.Companion = nil }, []string{"Exposed False Progressing", "in progress Progressing"}},
	{"the name is taken by a Service without our label", func(s *Seen) { s.Companion.Labels = nil }, []string{"Exposed False ServiceNameTaken", "stalled ServiceNameTaken"}},
	{"the name is taken by a Service that no allocation owns", func(s *Seen) { s.Companion.OwnerReferences = nil }, []string{"Exposed False ServiceNameTaken", "stalled ServiceNameTaken"}},
	{"the name is taken by the companion of another policy", func(s *Seen) { s.Companion.Labels[v1alpha1.LabelPolicy] = "other" }, []string{"Exposed False ServiceNameTaken", "stalled ServiceNameTaken"}},
	{"the Service went", func(s *Seen) { s.Service = nil }, []string{"Exposed False ServiceNotFound", "in progress ServiceNotFound"}},
	{"the companion selects nobody yet", func(s *Seen) { s.Companion.Spec.Selector = nil }, []string{"Exposed False Progressing", "in progress Progressing"}},
	{"the companion lacks the number", func(s *Seen) { s.Companion.Spec.Ports[0].NodePort = 30008 }, []string{"Exposed False Progressing", "in progress Progressing"}},
	{"the companion lacks the protocol", func(s *Seen) { s.Companion.Spec.Ports[0].Protocol = corev1.ProtocolUDP }, []string{"Exposed False Progressing", "in progress Progressing"}},
	{"the companion still only holds the number", func(s *Seen) { s.Companion.Spec.Ports[0].Name = "closing-30007-tcp" }, []string{"Exposed False Progressing", "in progress Progressing"}},

	// HostEnforced
	{"a node lags behind", func(s *Seen) { s.Nodes[0] = node("a", mark("89")) }, []string{"HostEnforced False NodesPending", "in progress NodesPending"}},
	{"a node reports more than we have read", func(s *Seen) { s.Nodes[0] = node("a", mark("101")) }, []string{"HostEnforced False NodesPending", "in progress NodesPending"}},
	{"a node is ungated", func(s *Seen) { s.Nodes[0] = node("a", ungated) }, []string{"HostEnforced False NodesFailing", "in progress NodesFailing"}},
	{"a node rebooted", func(s *Seen) { s.Nodes[0] = node("a", rebooted); s.Nodes[1] = node("b", mark("")) }, []string{"HostEnforced False NodesFailing", "in progress NodesFailing"}},
	{"a node can't enforce", func(s *Seen) {
		s.Nodes = append(s.Nodes, node("c", mark(""), enforced(v1alpha1.ReasonEnforcementUnsupported)), node("d", ungated))
	}, []string{"HostEnforced False EnforcementUnsupported", "stalled EnforcementUnsupported"}},
	{"a node that is not Ready need not prove", func(s *Seen) { s.Nodes[0] = node("a", notReady, ungated) }, nil},
	{"no node is Ready", func(s *Seen) { s.Nodes = []NodeReport{node("a", notReady)} }, []string{"HostEnforced False NoNodes", "in progress NoNodes"}},
	{"its gateways are not chosen yet", func(s *Seen) { s.gateways() }, []string{"HostEnforced False NodesPending", "in progress NodesPending"}},
	{"a node has not heard of a fail-over", func(s *Seen) { s.gateways(gatewaySet("61", "a")) }, []string{"HostEnforced False NodesPending", "in progress NodesPending"}},
	{"one gateway answers", func(s *Seen) { s.gateways(gatewaySet("60", "a")) }, nil},
	{"no gateway is left", func(s *Seen) { s.gateways(gatewaySet("60")) }, []string{"HostEnforced False NoGateways", "in progress NoGateways"}},
	{"the only gateway is not Ready", func(s *Seen) { s.gateways(gatewaySet("60", "c")); s.Nodes = append(s.Nodes, node("c", notReady)) }, []string{"HostEnforced False NoGateways", "in progress NoGateways"}},
	{"a closing number is not proved closed", func(s *Seen) { s.second("30008").ResourceVersion = "101"; s.close(1) }, []string{"HostEnforced False NodesPending", "in progress NodesPending"}},

	// CloudEnforced
	{"no cloud firewall", func(s *Seen) { s.Allocations[0].Spec.CloudFirewalls, s.Clouds = nil, nil }, []string{"CloudEnforced True NotRequired"}},
	{"a firewall that is not asked for shows nothing of ours", func(s *Seen) { s.Clouds["aws-dev"] = CloudSeen{} }, nil},
	{"a firewall that is no longer asked for has yet to revoke", func(s *Seen) { s.Allocations[0].Spec.CloudFirewalls = nil }, []string{"CloudEnforced False Progressing", "in progress Progressing"}},
	{"the firewall does not exist", func(s *Seen) { s.Clouds = nil }, []string{"CloudEnforced False CloudFirewallNotFound", "in progress CloudFirewallNotFound"}},
	{"the cloud was not read yet", func(s *Seen) { s.changeCloud(func(c *CloudSeen) { c.Read = false }) }, []string{"CloudEnforced False Progressing", "in progress Progressing"}},
	{"the cloud still lists a rule that was revoked", func(s *Seen) {
		s.changeCloud(func(c *CloudSeen) { c.Doubtful = []Admission{inForce("TCP", 30007, 30007, "203.0.113.0/24")} })
	}, []string{"CloudEnforced False Progressing", "in progress Progressing"}},
	{"the cloud admits nobody yet", func(s *Seen) { s.changeCloud(func(c *CloudSeen) { c.InForce = nil }) }, []string{"CloudEnforced False Progressing", "in progress Progressing"}},
	{"the cloud admits too few", func(s *Seen) {
		s.changeCloud(func(c *CloudSeen) { c.InForce = []Admission{inForce("TCP", 30007, 30007, "10.8.0.0/17")} })
	}, []string{"CloudEnforced False Progressing", "in progress Progressing"}},
	{"the cloud admits too many", func(s *Seen) {
		s.changeCloud(func(c *CloudSeen) { c.InForce = append(c.InForce, inForce("TCP", 30000, 30099, "203.0.113.0/24")) })
	}, []string{"CloudEnforced False Progressing", "in progress Progressing"}},
	{"the cloud admits another protocol too", func(s *Seen) {
		s.changeCloud(func(c *CloudSeen) { c.InForce = append(c.InForce, inForce("UDP", 30007, 30007, "10.8.0.0/16")) })
	}, []string{"CloudEnforced False Progressing", "in progress Progressing"}},
	{"the cloud admits it in parts, merged with neighbours", func(s *Seen) {
		s.changeCloud(func(c *CloudSeen) {
			c.InForce = []Admission{inForce("TCP", 30000, 30007, "10.8.0.0/17"), inForce("TCP", 30007, 30008, "10.8.128.0/17"), inForce("TCP", 30008, 30008, "203.0.113.0/24")}
		})
	}, nil},
	{"the cloud still admits a closed number", func(s *Seen) {
		s.second("30008")
		s.close(1)
		s.changeCloud(func(c *CloudSeen) { c.InForce = append(c.InForce, inForce("TCP", 30008, 30008, "10.8.0.0/16")) })
	}, []string{"CloudEnforced False Progressing", "in progress Progressing"}},
	{"the cloud throttles", func(s *Seen) { s.trouble(v1alpha1.ReasonThrottled) }, []string{"CloudEnforced False Progressing", "in progress Progressing"}},
	{"the cloud is away", func(s *Seen) { s.trouble(v1alpha1.ReasonUnreachable) }, []string{"CloudEnforced False Unreachable", "in progress Unreachable"}},
	{"the cloud refuses us", func(s *Seen) { s.trouble(v1alpha1.ReasonDenied) }, []string{"CloudEnforced False Denied", "stalled Denied"}},
	{"the group is full", func(s *Seen) { s.trouble(v1alpha1.ReasonBudgetExceeded) }, []string{"CloudEnforced False BudgetExceeded", "stalled BudgetExceeded"}},
	{"the cloud is in trouble, but not about this policy", func(s *Seen) { s.changeCloud(func(c *CloudSeen) { c.Reason = v1alpha1.ReasonBudgetExceeded }) }, nil},

	// Several at once: the first gate gives the reason, one that is stalled stalls.
	{"one gate waits for a person, an earlier one does not", func(s *Seen) { s.Companion = nil; s.trouble(v1alpha1.ReasonDenied) }, []string{"Exposed False Progressing", "CloudEnforced False Denied", "stalled Denied"}},

	// Shadowed
	{"the Service is exposed itself", func(s *Seen) { s.Service.Spec.Ports[0].NodePort = 31000 }, []string{"Shadowed True ServiceNodePort"}},
	{"its health check port is exposed", func(s *Seen) { s.Service.Spec.HealthCheckNodePort = 31001 }, []string{"Shadowed True ServiceNodePort"}},
	{"a foreign rule admits the world", func(s *Seen) { s.shadow("TCP", 30000, 32767, "0.0.0.0/0") }, []string{"Shadowed True ForeignRule"}},
	{"a foreign rule of every protocol", func(s *Seen) { s.shadow("ALL", 0, 65535, "0.0.0.0/0") }, []string{"Shadowed True ForeignRule"}},
	{"a foreign rule of the other family", func(s *Seen) { s.shadow("TCP", 30007, 30007, "2001:db8::/64") }, []string{"Shadowed True ForeignRule"}},
	{"a foreign rule on a neighbour's port", func(s *Seen) { s.shadow("TCP", 30008, 32767, "0.0.0.0/0") }, nil},
	{"a foreign rule of another protocol", func(s *Seen) { s.shadow("UDP", 30000, 32767, "0.0.0.0/0") }, nil},
	{"a foreign rule that shadows a neighbour, but admits us nobody new", func(s *Seen) { s.shadow("TCP", 30000, 30099, "10.8.9.0/24") }, nil},
}

func (s *Seen) refuse(reason string, waits bool) {
	s.Wish, s.Refusal = nil, &Refusal{Reason: reason, Message: "as the test says", Waits: waits}
}

func (s *Seen) want(name string) {
	s.Wish.Numbers = append(s.Wish.Numbers, Number{Ports: []v1alpha1.ClaimedPort{{Protocol: "TCP", Name: name, Port: 80}}})
}

func (s *Seen) trouble(reason string) {
	s.changeCloud(func(c *CloudSeen) { c.InForce, c.Reason, c.Message = nil, reason, "as the test says" })
}

func (s *Seen) shadow(p rule.Protocol, first, last uint16, source string) {
	s.changeCloud(func(c *CloudSeen) {
		c.Groups[1].Shadowing = []Admission{{Rule: atom(p, first, last, source), Description: "legacy"}}
	})
}
