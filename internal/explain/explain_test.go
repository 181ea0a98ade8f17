package explain

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

var clock = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

const (
	listed   = "203.0.113.7"
	unlisted = "198.51.100.7"
)

// town is a cluster in which the policy shop/shop exposes a Service on 30000, reachable
// from 203.0.113.0/24 on both of its nodes.
func town() Cluster {
	c := Cluster{Namespace: "portreeve-system", Now: clock, Listed: "50", ListedSets: "50", ListedGateways: "50"}
	c.Pools = []v1alpha1.NodePortPool{{
		ObjectMeta: metav1.ObjectMeta{Name: "web", ResourceVersion: "5"},
		Spec:       v1alpha1.NodePortPoolSpec{Category: "web", Team: "payments", Ranges: []v1alpha1.PortRange{"30000-30009"}},
		Status:     v1alpha1.NodePortPoolStatus{Armed: []string{"30000-30009"}},
	}}
	c.Allocations = []v1alpha1.NodePortAllocation{{
		ObjectMeta: metav1.ObjectMeta{Name: "30000", ResourceVersion: "10"},
		Spec: v1alpha1.NodePortAllocationSpec{
			State: v1alpha1.AllocationOpen, Protocols: []v1alpha1.Protocol{"TCP"}, Pool: "web", Team: "payments",
			Claim: v1alpha1.Claim{Namespace: "shop", Policy: "shop", Service: "shop"},
			Ports: []v1alpha1.ClaimedPort{{Protocol: "TCP", Name: "https", Port: 443, Sources: []v1alpha1.CIDR{"203.0.113.0/24"}}},
		},
	}}
	c.Policies = []v1alpha1.NodePortPolicy{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop", Generation: 1},
		Spec: v1alpha1.NodePortPolicySpec{
			Category: "web", ServiceRef: v1alpha1.ServiceReference{Name: "shop"}, Sources: []v1alpha1.Source{{CIDR: "203.0.113.0/24"}},
		},
		Status: v1alpha1.NodePortPolicyStatus{ObservedGeneration: 1, Conditions: []metav1.Condition{
			{Type: v1alpha1.Accepted, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonOK},
		}},
	}}
	c.AddressSets = []v1alpha1.AddressSet{{
		ObjectMeta: metav1.ObjectMeta{Name: "scanners", ResourceVersion: "7"}, Spec: v1alpha1.AddressSetSpec{CIDRs: []v1alpha1.CIDR{"203.0.113.7/32"}},
	}}
	for i, name := range []string{"n1", "n2"} {
		node := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": name}}}
		node.Status.NodeInfo.BootID = "boot"
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.0.2.%d", i+1)}}
		c.Nodes = append(c.Nodes, node)
		c.Datapaths = append(c.Datapaths, v1alpha1.NodeDatapath{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: v1alpha1.NodeDatapathStatus{
			BootID: "boot", NodeLabels: compile.LabelsHash(node.Labels),
			Marks: v1alpha1.Marks{Pools: "50", Allocations: "50", AddressSets: "50", GatewaySets: "50", Installation: "50"},
		}})
	}
	companion := corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: "shop-nodeport", Labels: map[string]string{v1alpha1.LabelPolicy: "shop"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodePortAllocation", Name: "30000"}},
	}}
	companion.Spec.Type, companion.Spec.Selector = corev1.ServiceTypeNodePort, map[string]string{"app": "shop"}
	companion.Spec.Ports = []corev1.ServicePort{{Name: "https", Port: 443, NodePort: 30000}}
	c.Services = []corev1.Service{companion}
	c.Slices = []discoveryv1.EndpointSlice{{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop-1", Labels: map[string]string{discoveryv1.LabelServiceName: "shop-nodeport"}}, AddressType: discoveryv1.AddressTypeIPv4,
		Ports:     []discoveryv1.EndpointPort{{Name: ptr.To("https"), Port: ptr.To[int32](8443), Protocol: ptr.To(corev1.ProtocolTCP)}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.244.1.2"}, NodeName: ptr.To("n1")}},
	}}
	return c
}

func installation(change func(*v1alpha1.PortreeveSpec)) *v1alpha1.Portreeve {
	p := &v1alpha1.Portreeve{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.InstallationName, ResourceVersion: "9"}}
	change(&p.Spec)
	return p
}

// cloudy gives the pool a cloud firewall, of which the policy's status says state and rules.
func cloudy(c *Cluster, state string, rules int32, shadowing ...string) {
	c.Allocations[0].Spec.CloudFirewalls = []v1alpha1.ObjectName{"aws"}
	c.Policies[0].Status.Cloud = []v1alpha1.CloudStatus{{Firewall: "aws", State: state, Rules: rules, Groups: []string{"sg-1"}, Precision: "Exact", Message: "what the cloud said"}}
	c.Firewalls = []v1alpha1.CloudFirewall{{ObjectMeta: metav1.ObjectMeta{Name: "aws"}, Status: v1alpha1.CloudFirewallStatus{
		LastVerified: &metav1.Time{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, Groups: []v1alpha1.GroupStatus{{ID: "sg-1", Shadowing: shadowing}},
	}}}
}

// gateways has only those nodes answer.
func gateways(c *Cluster, nodes ...v1alpha1.ObjectName) {
	c.Allocations[0].Spec.Gateways = &v1alpha1.ClaimedGateways{Set: "gw", Active: 1}
	c.GatewaySets = []v1alpha1.GatewaySet{{ObjectMeta: metav1.ObjectMeta{Name: "gw", ResourceVersion: "8"}, Spec: v1alpha1.GatewaySetSpec{Nodes: nodes}}}
}

// Each symptom has its true cause, and a next step.
func TestExplainNamesTheTrueCause(t *testing.T) {
	nothing := func(*Cluster) {}
	for _, test := range []struct {
		name    string
		change  func(*Cluster)
		port    uint16
		from    string
		verdict Verdict
		gate    string // that is to blame; empty: none
		reason  string
	}{
		{"a source that is listed", nothing, 30000, listed, Open, "", ""},
		{"for anybody", nothing, 30000, "", Open, "", ""},
		{"a source that is not listed", nothing, 30000, unlisted, Closed, GateSources, ReasonNotListed},
		{"a source in another's spelling", nothing, 30000, "::ffff:203.0.113.7", Open, "", ""},
		{"an exception", func(c *Cluster) {
			c.Allocations[0].Spec.Ports[0].Sources = []v1alpha1.CIDR{"203.0.113.128/25"}
			c.Policies[0].Spec.Sources[0].Except = []v1alpha1.CIDR{"203.0.113.0/25"}
		}, 30000, listed, Closed, GateSources, ReasonNotListed},
		{"a source that a guard-rail refused", func(c *Cluster) { c.Allocations[0].Spec.Ports[0].Sources = []v1alpha1.CIDR{"203.0.112.0/24"} }, 30000, listed, Closed, GateSources, v1alpha1.ReasonSourceRefused},
		{"no source at all", func(c *Cluster) { c.Allocations[0].Spec.Ports[0].Sources = nil }, 30000, "", Closed, GateSources, ReasonNobodyListed},
		{"another protocol", func(c *Cluster) {
			c.Allocations[0].Spec.Protocols, c.Allocations[0].Spec.Ports[0].Protocol = []v1alpha1.Protocol{"UDP"}, "UDP"
		}, 30000, listed, Closed, GateAllocation, ReasonUnclaimed},
		{"a number that nobody claims", nothing, 30005, listed, Closed, GateAllocation, ReasonUnclaimed},
		{"closed", func(c *Cluster) {
			c.Allocations[0].Spec.State, c.Allocations[0].Spec.ClosedAt = v1alpha1.AllocationClosed, ptr.To(metav1.NewMicroTime(clock))
			c.Policies = nil
		}, 30000, listed, Closed, GateAllocation, ReasonClosed},
		{"expired", func(c *Cluster) { c.Allocations[0].Spec.ExpiresAt = ptr.To(metav1.NewTime(clock)) }, 30000, listed, Closed, GateAllocation, v1alpha1.ReasonExpired},
		{"a squatter", func(c *Cluster) { c.Allocations[0].Spec.State = v1alpha1.AllocationForeign }, 30000, listed, Closed, GateAllocation, ReasonForeign},
		{"what stood there before", func(c *Cluster) {
			c.Allocations[0].Spec.State, c.Allocations[0].Spec.Grandfathered = v1alpha1.AllocationForeign, true
			c.Allocations[0].Spec.Claim = v1alpha1.Claim{Namespace: "shop", Service: "shop-nodeport"}
		}, 30000, unlisted, Open, "", ""},
		{"lockdown", func(c *Cluster) {
			c.Installation = installation(func(p *v1alpha1.PortreeveSpec) { p.Lockdown = true })
		}, 30000, listed, Closed, GateSources, v1alpha1.ReasonLockdown},
		{"denied to all", func(c *Cluster) {
			c.Installation = installation(func(p *v1alpha1.PortreeveSpec) { p.DenyAddressSets = []v1alpha1.ObjectName{"scanners"} })
		}, 30000, listed, Closed, GateSources, ReasonDeniedToAll},
		{"a cloud without the rule", func(c *Cluster) { cloudy(c, v1alpha1.ReasonDenied, 0) }, 30000, listed, Closed, GateCloud, v1alpha1.ReasonDenied},
		{"a cloud with some of the rules", func(c *Cluster) { cloudy(c, v1alpha1.ReasonBudgetExceeded, 1) }, 30000, listed, Unproved, GateCloud, v1alpha1.ReasonBudgetExceeded},
		{"a cloud that holds the rules", func(c *Cluster) { cloudy(c, compile.StateInForce, 1) }, 30000, listed, Open, "", ""},
		{"a cloud that is too wide, and nodes that are not", func(c *Cluster) { cloudy(c, compile.StateInForce, 1, "TCP 30000-32767 0.0.0.0/0") }, 30000, unlisted, Closed, GateSources, ReasonNotListed},
		{"a cloud firewall that is gone", func(c *Cluster) { cloudy(c, compile.StateInForce, 1); c.Firewalls = nil }, 30000, listed, Unproved, GateCloud, v1alpha1.ReasonCloudFirewallNotFound},
		{"a node that lags", func(c *Cluster) { c.Datapaths[1].Status.Marks.Allocations = "9" }, 30000, listed, Unproved, GateNode, compile.NodePending},
		{"a node that lags, and nobody's source", func(c *Cluster) { c.Datapaths[1].Status.Marks.Allocations = "9" }, 30000, unlisted, Unproved, GateSources, ReasonNotListed},
		{"a node that rebooted", func(c *Cluster) { c.Nodes[1].Status.NodeInfo.BootID = "later" }, 30000, listed, Unproved, GateNode, compile.NodeRebooted},
		{"a node that nobody filters", func(c *Cluster) { c.Datapaths = c.Datapaths[:1] }, 30000, unlisted, Partial, GateSources, ReasonNotListed},
		{"nodes that nobody filters", func(c *Cluster) { c.Datapaths = nil }, 30000, unlisted, Open, "", ""},
		{"a datapath that is bypassed", func(c *Cluster) {
			c.Datapaths[1].Status.Conditions = []metav1.Condition{{Type: v1alpha1.Enforced, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonEnforcementUnsupported, Message: "others accept ahead of us"}}
		}, 30000, listed, Unproved, GateNode, v1alpha1.ReasonEnforcementUnsupported},
		{"a mark that is above what was listed", func(c *Cluster) { c.Listed = "20" }, 30000, listed, Unproved, GateNode, compile.NodeUnconfirmed},
		{"a node that the pool does not select", func(c *Cluster) {
			c.Allocations[0].Spec.NodeSelector = &v1alpha1.LabelSelector{MatchLabels: map[string]string{"zone": "n1"}}
		}, 30000, listed, Partial, GateNode, ReasonNotSelected},
		{"a node that is no gateway", func(c *Cluster) { gateways(c, "n1") }, 30000, listed, Partial, GateNode, ReasonNotGateway},
		{"a node that is no gateway, for whom is not admitted", func(c *Cluster) { gateways(c, "n1") }, 30000, unlisted, Closed, GateSources, ReasonNotListed},
		{"no gateway", func(c *Cluster) { gateways(c) }, 30000, listed, Closed, GateNode, ReasonNotGateway},
		{"gateways that nobody has chosen yet", func(c *Cluster) { gateways(c, "n1"); c.GatewaySets = nil }, 30000, listed, Unproved, GateNode, compile.NodePending},
		{"no node is Ready", func(c *Cluster) { c.Nodes[0].Status.Conditions, c.Nodes[1].Status.Conditions = nil, nil }, 30000, listed, Unproved, GateNode, v1alpha1.ReasonNoNodes},
		{"a node that is not Ready", func(c *Cluster) { c.Nodes[1].Status.Conditions = nil }, 30000, unlisted, Closed, GateSources, ReasonNotListed},
		{"a node that is not Ready and has not proved anything", func(c *Cluster) {
			c.Nodes[1].Status.Conditions, c.Datapaths = nil, c.Datapaths[:1]
		}, 30000, unlisted, Unproved, GateSources, ReasonNotListed},
		{"a node that is not Ready, for whom is admitted", func(c *Cluster) {
			c.Nodes[1].Status.Conditions, c.Datapaths = nil, c.Datapaths[:1]
		}, 30000, listed, Open, "", ""},
		{"a node as its own client", nothing, 30000, "192.0.2.1", Partial, GateSources, ReasonNotListed},
		{"an address that nobody judges", func(c *Cluster) {
			c.Installation = installation(func(p *v1alpha1.PortreeveSpec) { p.NodeAddresses = []v1alpha1.Network{"10.0.0.0/8"} })
		}, 30000, unlisted, Unproved, GateSources, ReasonNotListed},
		{"no companion", func(c *Cluster) { c.Services = nil }, 30000, listed, Closed, GateService, ReasonNoService},
		{"a companion that is somebody's", func(c *Cluster) { c.Services[0].OwnerReferences = nil }, 30000, listed, Closed, GateService, v1alpha1.ReasonServiceNameTaken},
		{"a companion without the number", func(c *Cluster) { c.Services[0].Spec.Ports[0].NodePort = 30001 }, 30000, listed, Closed, GateService, ReasonNotCarried},
		{"another Service with the number", func(c *Cluster) {
			c.Services[0].Name, c.Services[0].Namespace = "wiki", "old"
		}, 30000, listed, Unproved, GateService, v1alpha1.ReasonHijacked},
		{"a companion that serves nobody", func(c *Cluster) { c.Services[0].Spec.Selector = nil }, 30000, listed, Closed, GateService, v1alpha1.ReasonServiceNotFound},
		{"another Service on the node's address", func(c *Cluster) {
			c.Services = append(c.Services, corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "evil", Name: "grab"}, Spec: corev1.ServiceSpec{
				ExternalIPs: []string{"192.0.2.2"}, Ports: []corev1.ServicePort{{Port: 30000}},
			}})
		}, 30000, listed, Unproved, GateService, v1alpha1.ReasonHijacked},
		{"no ready endpoint", func(c *Cluster) { c.Slices[0].Endpoints[0].Conditions.Ready = ptr.To(false) }, 30000, listed, Closed, GateEndpoints, ReasonNoReadyEndpoints},
		{"no endpoint of the family", nothing, 30000, "", Open, "", ""},
		{"an endpoint that serves as it ends", func(c *Cluster) {
			c.Slices[0].Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(true), Terminating: ptr.To(true)}
		}, 30000, listed, Open, "", ""},
		{"a node without an endpoint of a local Service", func(c *Cluster) {
			c.Services[0].Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}, 30000, listed, Partial, GateNode, ReasonNoLocal},
		{"a number of nobody's", func(c *Cluster) { c.Services = nil }, 31000, listed, Unproved, GateService, ReasonNoService},
		{"a Service that no policy declares, outside of pools", func(c *Cluster) { c.Services[0].Spec.Ports[0].NodePort = 31000 }, 31000, unlisted, Open, "", ""},
		{"a reserved number", func(c *Cluster) {
			c.Pools[0].Spec.Reserved = []v1alpha1.ReservedPorts{{Ports: "30005", Reason: "legacy"}}
		}, 30005, unlisted, Unproved, GateService, ReasonNoService},
		{"a pool that ignores free numbers", func(c *Cluster) {
			c.Pools[0].Spec.Unclaimed = v1alpha1.UnclaimedIgnore
		}, 30005, unlisted, Unproved, GateService, ReasonNoService},
		{"an edit that the manager has not seen", func(c *Cluster) { c.Policies[0].Generation = 2 }, 30000, unlisted, Closed, GateSources, ReasonNotListed},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := town()
			test.change(&c)
			q := Question{Port: test.port, Protocol: "TCP"}
			if test.from != "" {
				q.From = netip.MustParseAddr(test.from)
			}
			answer, err := Explain(c, q)
			if err != nil {
				t.Fatal(err)
			}
			p := answer.Ports[0]
			gate, reason := "", ""
			if p.StoppedBy != nil {
				gate, reason = p.StoppedBy.Gate, p.StoppedBy.Reason
			}
			var text strings.Builder
			if err := answer.Write(&text); err != nil {
				t.Fatal(err)
			}
			if p.Verdict != test.verdict || gate != test.gate || reason != test.reason {
				t.Errorf("%s at %s (%s), want %s at %s (%s)\n%s", p.Verdict, gate, reason, test.verdict, test.gate, test.reason, &text)
			}
			if (p.StoppedBy != nil) == (p.Verdict == Open) || p.StoppedBy != nil && p.StoppedBy.Message == "" {
				t.Errorf("what is not open has a cause, and what is open has none\n%s", &text)
			}
			if !strings.HasPrefix(text.String(), strings.ToUpper(string(p.Verdict))+": ") {
				t.Errorf("the verdict does not come first:\n%s", &text)
			}
		})
	}
}

// What lets in more than policies do is named, also where another gate stops it.
func TestExplainNamesWhatIsTooOpen(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Cluster)
		port   uint16
		gate   string // empty: none
		reason string
	}{
		{"nothing", func(*Cluster) {}, 30000, "", ""},
		{"a node that nobody filters", func(c *Cluster) { c.Datapaths = c.Datapaths[:1] }, 30000, GateNode, compile.NodeUngated},
		{"a node that was cleaned", func(c *Cluster) {
			c.Datapaths[1].Status = v1alpha1.NodeDatapathStatus{Conditions: []metav1.Condition{{Type: v1alpha1.Enforced, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonCleaned}}}
		}, 30000, GateNode, compile.NodeUngated},
		{"a node of another system", func(c *Cluster) { c.Nodes[1].Labels[corev1.LabelOSStable] = "windows" }, 30000, GateNode, ReasonNotGated},
		{"a cloud rule of somebody else", func(c *Cluster) { cloudy(c, compile.StateInForce, 1, "TCP 30000-32767 0.0.0.0/0") }, 30000, GateCloud, v1alpha1.ReasonForeignRule},
		{"a cloud rule of somebody else, and none of ours", func(c *Cluster) { cloudy(c, v1alpha1.ReasonDenied, 0, "TCP 30000-32767 0.0.0.0/0") }, 30000, GateCloud, v1alpha1.ReasonForeignRule},
		{"what stood there before", func(c *Cluster) {
			c.Allocations[0].Spec.State, c.Allocations[0].Spec.Grandfathered = v1alpha1.AllocationForeign, true
		}, 30000, GateAllocation, ReasonGrandfathered},
		{"a number outside of pools", func(*Cluster) {}, 31000, GateAllocation, ReasonNotGated},
		{"an audit", func(c *Cluster) {
			c.Pools[0].Spec.Guardrails.Audit, c.Pools[0].Spec.Guardrails.AllowedSources = v1alpha1.Allow, []v1alpha1.CIDR{"198.51.100.0/24"}
			c.Allocations[0].Spec.Mode = v1alpha1.ModeAudit
		}, 30000, GateSources, ReasonAudited},
		{"a listener of the node", func(c *Cluster) {
			c.Datapaths[0].Status.Exceptions = []v1alpha1.PortException{{Port: 30005, Reason: "tcp/30005: exempt"}}
		}, 30005, GateNode, ReasonExempt},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := town()
			test.change(&c)
			answer, err := Explain(c, Question{Port: test.port, From: netip.MustParseAddr(unlisted)})
			if err != nil {
				t.Fatal(err)
			}
			gate, reason := "", ""
			if open := answer.Ports[0].TooOpen; open != nil {
				gate, reason = open.Gate, open.Reason
			}
			if gate != test.gate || reason != test.reason {
				t.Errorf("%s (%s), want %s (%s): %+v", gate, reason, test.gate, test.reason, answer.Ports[0])
			}
		})
	}
}

func TestExplainAPolicy(t *testing.T) {
	q := Question{Namespace: "shop", Policy: "shop", From: netip.MustParseAddr(listed)}
	answer, err := Explain(town(), q)
	if err != nil || answer.Verdict != Open || len(answer.Ports) != 1 || answer.Ports[0].Port != 30000 || answer.ExitStatus() != 0 {
		t.Errorf("%+v, %v", answer, err)
	}
	if carriers := Carriers(town(), q); len(carriers) != 1 || carriers[0].String() != "shop/shop-nodeport" {
		t.Errorf("carriers %v", carriers)
	}

	without := town()
	without.Allocations = nil
	without.Policies[0].Status.Conditions[0] = metav1.Condition{Type: v1alpha1.Accepted, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonPoolNotFound, Message: "no pool"}
	answer, err = Explain(without, q)
	if err != nil || answer.Verdict != Closed || answer.Ports[0].StoppedBy.Reason != v1alpha1.ReasonPoolNotFound || answer.ExitStatus() != 1 {
		t.Errorf("%+v, %v", answer, err)
	}

	without.Policies = nil
	if _, err := Explain(without, q); err == nil {
		t.Error("a policy that is not there is explained")
	}
}

// A policy of several ports is as open as all of them.
func TestExplainSumsUp(t *testing.T) {
	c := town()
	second := *c.Allocations[0].DeepCopy()
	second.Name, second.Spec.Ports[0].Sources = "30001", []v1alpha1.CIDR{"192.0.2.0/24"}
	c.Allocations = append(c.Allocations, second)
	c.Services[0].Spec.Ports = append(c.Services[0].Spec.Ports, corev1.ServicePort{Name: "https", Port: 444, NodePort: 30001})
	for from, want := range map[string]Verdict{"": Open, listed: Partial, unlisted: Closed} {
		q := Question{Namespace: "shop", Policy: "shop"}
		if from != "" {
			q.From = netip.MustParseAddr(from)
		}
		if answer, err := Explain(c, q); err != nil || answer.Verdict != want || len(answer.Ports) != 2 {
			t.Errorf("%s: %+v, %v, want %s", from, answer, err, want)
		}
	}
	for verdict, want := range map[Verdict]int{Open: 0, Closed: 1, Partial: 3, Unproved: 3} {
		if got := (Answer{Verdict: verdict}).ExitStatus(); got != want {
			t.Errorf("%s: exit status %d, want %d", verdict, got, want)
		}
	}
	verdicts := func(v ...Verdict) (out []PortAnswer) {
		for _, v := range v {
			out = append(out, PortAnswer{Verdict: v})
		}
		return out
	}
	for want, ports := range map[Verdict][]PortAnswer{Open: verdicts(Open, Open), Unproved: verdicts(Open, Unproved, Closed), Partial: verdicts(Closed, Open, Closed)} {
		slices.Reverse(ports)
		if got := overall(ports); got != want {
			t.Errorf("%v: %s, want %s", ports, got, want)
		}
	}
}

// Every reason and finding of ours stands in the page that explains them.
func TestEveryReasonIsExplained(t *testing.T) {
	page, err := os.ReadFile("../../docs/explain.md")
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), "register.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	ast.Inspect(file, func(n ast.Node) bool {
		if v, is := n.(*ast.ValueSpec); is && strings.HasPrefix(v.Names[0].Name, "Reason") {
			words = append(words, strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`))
		}
		return true
	})
	if len(words) < 10 {
		t.Fatalf("reasons: %v", words)
	}
	for _, f := range Findings {
		words = append(words, string(f))
	}
	for _, word := range words {
		if !strings.Contains(string(page), "`"+word+"`") {
			t.Errorf("docs/explain.md does not explain `%s`", word)
		}
	}
}
