package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// datagrams is the flow by UDP, from a port of the client's own.
func datagrams(node *lab.Node, source netip.AddrPort, number, port uint16) lab.Flow {
	f := flow(node, netip.AddrPortFrom(source.Addr(), port), number)
	f.Network, f.Timeout = "udp", 2*time.Second
	return f
}

// patiently lets a connection that must live on wait longer for an answer: a second without
// one may be the machine's, and what is cut stays cut.
func patiently(f lab.Flow) lab.Flow {
	f.Timeout = 5 * time.Second
	return f
}

// hold keeps the connection in use until the test ends.
func (s *scene) hold(c *lab.Client, f lab.Flow) *lab.Held {
	s.Helper()
	var held *lab.Held
	s.eventually(fmt.Sprintf("%s %s is answered", f.Network, f.To), func() (err error) {
		held, err = c.Hold(s.ctx, patiently(f))
		return err
	})
	s.Cleanup(held.Close)
	return held
}

// alive wants the connection to be in use.
func (s *scene) alive(what string, h *lab.Held) {
	s.Helper()
	select {
	case <-h.Cut():
		s.Errorf("%s was cut: %s", what, h.End())
	default:
	}
}

func (s *scene) awaitCut(what string, h *lab.Held) {
	s.Helper()
	s.eventually(what+" is cut", func() error {
		select {
		case <-h.Cut():
			return nil
		default:
			return fmt.Errorf("it goes on: %s", h.Latest())
		}
	})
}

// sees waits until the pod behind the connection sees the client's own address, or
// another.
func (s *scene) sees(what string, h *lab.Held, client netip.Addr, own bool) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s: the pod sees the client: %t", what, own), func() error {
		if seen := h.Latest().Peer.Addr(); (seen == client) != own || h.End().Outcome != 0 {
			return fmt.Errorf("it saw %s; %s", seen, h.End())
		}
		return nil
	})
}

// The pod is on the first node. Flows that never pause are kept in use through both
// switches, over a node with the pod and one without.
func TestASwitchOfTrafficPolicyReachesLiveFlows(t *testing.T) {
	for _, carrier := range []struct {
		name   string
		ranges v1alpha1.PortRange
		mode   v1alpha1.ServiceMode
	}{{"companion", "30650-30654", v1alpha1.ServiceCompanion}, {"in place", "30655-30659", v1alpha1.ServiceInPlace}} {
		t.Run(carrier.name, func(t *testing.T) {
			s := open(t, map[v1alpha1.ServiceMode]string{v1alpha1.ServiceCompanion: "switch", v1alpha1.ServiceInPlace: "switch-in-place"}[carrier.mode], carrier.ranges)
			policy := s.policy("shop", officeCIDR, officeCIDR6)
			policy.Spec.Service, policy.Spec.Ports = carrier.mode, []v1alpha1.PolicyPort{{Port: 53}}
			s.create(policy)
			s.awaitReady(policy)
			i := slices.IndexFunc(policy.Status.Allocations, func(a v1alpha1.AllocatedPort) bool { return a.Port == 53 }) // in place the others have numbers, too
			s.switchUnderTraffic(policy, uint16(policy.Status.Allocations[i].NodePort))
		})
	}
}

func (s *scene) switchUnderTraffic(policy *v1alpha1.NodePortPolicy, port uint16) {
	s.Helper()
	here, there := town.Nodes()[0], town.Nodes()[1]
	client, client6 := from(officeCIDR, 1), from(officeCIDR6, 1)
	udp := s.hold(s.office, datagrams(here, client, port, 5001)) // maybe before kube-proxy knows the port
	tcp := s.hold(s.office, flow(here, client, port))
	udp6 := s.hold(s.office, datagrams(here, client6, port, 5006))
	s.answers(s.office, client, port)
	away := s.hold(s.office, datagrams(there, client, port, 5002))
	for what, h := range map[string]*lab.Held{"UDP": udp, "UDP over the other node": away, "TCP": tcp} {
		s.sees(what+" with Cluster", h, client.Addr(), false)
	}

	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.ExternalTrafficPolicy = v1alpha1.TrafficLocal })
	s.sees("UDP with Local", udp, client.Addr(), true)
	s.sees("UDP by IPv6 with Local", udp6, client6.Addr(), true)
	s.awaitCut("UDP over a node without pods, with Local,", away)
	s.awaitCut("TCP with a wrong address, with Local,", tcp)
	s.awaitReady(policy)
	local := s.hold(s.office, flow(here, client, port))
	s.sees("TCP with Local", local, client.Addr(), true)

	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.ExternalTrafficPolicy = v1alpha1.TrafficCluster })
	s.sees("UDP with Cluster again", udp, client.Addr(), false)
	s.sees("UDP by IPv6 with Cluster again", udp6, client6.Addr(), false)
	s.hold(s.office, datagrams(there, client, port, 5003))
	s.alive("a TCP connection with nothing wrong", local)
}

func TestClientsKeepTheirPod(t *testing.T) {
	s := open(t, "affinity", "30660-30669")
	for i, node := range town.Nodes()[:2] {
		if _, err := town.AddPod(s.ctx, node, s.namespace, fmt.Sprintf("more-%d", i), map[string]string{"app": s.namespace}); err != nil {
			t.Fatal(err)
		}
	}
	policy := s.policy("shop", officeCIDR)
	policy.Spec.Ports = []v1alpha1.PolicyPort{{Port: 53}}
	s.create(policy)
	port := s.awaitReady(policy)
	client, node := from(officeCIDR, 1), town.Nodes()[0]
	answering := func(held []*lab.Held) map[string]int {
		pods := map[string]int{}
		for _, h := range held {
			pods[h.Latest().Pod]++
		}
		return pods
	}
	var flows []*lab.Held // of several pods, or there is nothing to see
	s.eventually("flows of one client go to several pods", func() error {
		flows = append(flows, s.hold(s.office, datagrams(node, client, port, uint16(5100+len(flows)))))
		if pods := answering(flows); len(pods) < 2 || len(flows) < 6 {
			return fmt.Errorf("%v", pods)
		}
		return nil
	})
	tcp := s.hold(s.office, flow(node, client, port))

	edit(s, policy, func(p *v1alpha1.NodePortPolicy) {
		p.Spec.SessionAffinity = &v1alpha1.SessionAffinity{ClientIPTimeoutSeconds: 3600}
	})
	s.eventually("flows of one client go to one pod", func() error {
		for _, h := range flows {
			s.alive("a UDP flow", h)
		}
		if pods := answering(flows); len(pods) > 1 {
			return fmt.Errorf("%v", pods)
		}
		return nil
	})
	s.eventually("new connections of one client go to one pod", func() error { // of TCP: each protocol keeps its own
		kept := s.office.Ask(s.ctx, flow(node, client, port))
		for range 30 {
			if a := s.office.Ask(s.ctx, flow(node, client, port)); a.Outcome != lab.Answered || a.Pod != kept.Pod {
				return fmt.Errorf("%s, before %s", a, kept.Pod)
			}
		}
		return nil
	})
	s.alive("a TCP connection", tcp)

	edit(s, policy, func(p *v1alpha1.NodePortPolicy) {
		p.Spec.SessionAffinity = &v1alpha1.SessionAffinity{ClientIPTimeoutSeconds: 1}
	})
	first := s.office.Ask(s.ctx, flow(node, client, port))
	s.eventually("a client is free again after its time", func() error {
		time.Sleep(1500 * time.Millisecond) // without a new connection
		if a := s.office.Ask(s.ctx, flow(node, client, port)); a.Outcome != lab.Answered || a.Pod == first.Pod {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
}

// What the Service of Git says comes back when the policy goes.
func TestWhatAServiceInPlaceSaidComesBack(t *testing.T) {
	s := open(t, "lent", "30670-30675")
	elder := s.nodePortService("elder", 30675)
	elder.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	elder.Spec.Ports[0].TargetPort = intstr.FromInt32(lab.EchoPort)
	s.leaveFree()
	s.createSoon(elder)
	s.awaitState(30675, v1alpha1.AllocationForeign)
	policy := s.inPlace("shop", "elder", officeCIDR)
	s.create(policy)
	s.awaitReady(policy)
	says := func(etp corev1.ServiceExternalTrafficPolicy, affinity corev1.ServiceAffinity) {
		t.Helper()
		s.eventually(fmt.Sprintf("the Service says %s and %s", etp, affinity), func() error {
			if spec := s.live("elder").Spec; spec.ExternalTrafficPolicy != etp || spec.SessionAffinity != affinity {
				return fmt.Errorf("it says %s and %s", spec.ExternalTrafficPolicy, spec.SessionAffinity)
			}
			return nil
		})
	}
	says("Local", "None")
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) {
		p.Spec.ExternalTrafficPolicy, p.Spec.SessionAffinity = v1alpha1.TrafficCluster, &v1alpha1.SessionAffinity{ClientIPTimeoutSeconds: 60}
	})
	says("Cluster", "ClientIP")
	s.answers(s.office, from(officeCIDR, 1), 30675)
	s.delete(policy)
	says("Local", "None")
	if service := s.live("elder"); service.Annotations[v1alpha1.AnnotationLent] != "" || service.Spec.Ports[0].NodePort != 30675 {
		t.Errorf("left behind: %v, %v", service.Annotations, service.Spec.Ports)
	}
}

// The gate opens as soon as an agent hears of the port, and kube-proxy may hear of it later.
// A client that does not wait has a flow to the node itself by then, which kube-proxy takes
// away where endpoints are new, and in place they are not.
func TestADatagramThatComesTooEarlyIsNotTheLastOne(t *testing.T) {
	s := open(t, "early", "30676-30679")
	s.eventually("the Service has endpoints", func() error {
		var found discoveryv1.EndpointSliceList
		if err := town.Client.List(s.ctx, &found, client.InNamespace(s.namespace)); err != nil || len(found.Items) == 0 || len(found.Items[0].Endpoints) == 0 {
			return fmt.Errorf("%v, %d slices", err, len(found.Items))
		}
		return nil
	})
	policy := s.inPlace("shop", "shop", officeCIDR)
	policy.Spec.Ports = []v1alpha1.PolicyPort{{Port: 53, NodePort: 30679}}
	s.create(policy)
	f := datagrams(town.Nodes()[0], from(officeCIDR, 1), 30679, 5001)
	f.Timeout = 20 * time.Millisecond
	refused := 0
	s.eventually("a client that never waits is answered", func() error {
		a := s.office.Ask(s.ctx, f)
		switch a.Outcome {
		case lab.Answered:
			return nil
		case lab.Refused:
			refused++
		}
		return fmt.Errorf("%s", a)
	})
	t.Logf("refused %d times before", refused)
}
