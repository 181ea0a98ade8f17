package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/explain"
	"github.com/portreeve/portreeve/lab"
)

// Agents say who carries node ports, and it is the kube-proxy of this lab.
func TestNodesSayWhoCarriesTheirPorts(t *testing.T) {
	s := open(t, "carrier", "30800-30801")
	want := map[lab.ProxyMode]v1alpha1.KubeProxyRules{
		lab.NFTables: v1alpha1.KubeProxyNFTables, lab.IPTables: v1alpha1.KubeProxyIPTablesNFT, lab.IPTablesLegacy: v1alpha1.KubeProxyIPTablesLegacy,
	}[proxyMode()]
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	s.awaitReady(policy) // so every node has reported
	for _, node := range town.Nodes() {
		s.eventually(node.Name+" reports kube-proxy", func() error {
			d := s.report(node)
			if d.Facts == nil || len(d.Facts.KubeProxy) != 1 || d.Facts.KubeProxy[0] != want || !strings.HasPrefix(string(want), d.Facts.ProxyMode) || d.Facts.ProxyMode == "" {
				return fmt.Errorf("carrier %q, facts %+v", d.Carrier, d.Facts)
			}
			if d.Carrier != "kube-proxy ("+string(want)+")" || len(d.Facts.Ways) > 0 {
				return fmt.Errorf("carrier %q, facts %+v", d.Carrier, d.Facts)
			}
			if addresses := fmt.Sprint(d.Facts.NodePortAddresses); want == v1alpha1.KubeProxyNFTables && !strings.Contains(addresses, node.Addrs[0].String()) {
				return fmt.Errorf("node ports are carried on %s, want %s among them", addresses, node.Addrs[0])
			}
			return nil
		})
	}
}

// What status says of the client's address is what the pod sees, with each
// externalTrafficPolicy, whichever node is asked and wherever the pod runs.
func TestTheBackendSeesTheAddressThatStatusPromised(t *testing.T) {
	s := open(t, "peer", "30802-30809")
	if _, err := town.AddPod(s.ctx, town.Nodes()[1], s.namespace, "pod-2", map[string]string{"app": s.namespace}); err != nil {
		t.Fatal(err)
	}
	companion := s.policy("companion", officeCIDR, officeCIDR6)
	s.create(companion)
	s.awaitReady(companion)
	s.promised(companion, v1alpha1.ClientIPReplaced, 3)

	own := s.service("own")
	own.Spec.Ports = own.Spec.Ports[:1]
	s.create(own)
	inPlace := s.inPlace("in-place", "own", officeCIDR, officeCIDR6)
	s.create(inPlace)
	s.awaitReady(inPlace)
	for _, c := range []struct {
		policy   corev1.ServiceExternalTrafficPolicy
		want     v1alpha1.ClientIP
		answered int // nodes
	}{
		{corev1.ServiceExternalTrafficPolicyLocal, v1alpha1.ClientIPPreserved, 2},
		{corev1.ServiceExternalTrafficPolicyCluster, v1alpha1.ClientIPReplaced, 3},
	} {
		edit(s, own, func(o *corev1.Service) { o.Spec.ExternalTrafficPolicy = c.policy })
		s.promised(inPlace, c.want, c.answered)
	}

	// Where somebody else masquerades, nothing is promised, and rightly.
	edit(s, own, func(o *corev1.Service) { o.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
	node := town.Nodes()[0]
	nft := func(arguments ...string) {
		if _, err := node.Output(s.ctx, append([]string{"nft"}, arguments...)...); err != nil {
			t.Error(err)
		}
	}
	nft("add table ip theirs; add chain ip theirs out { type nat hook postrouting priority 90; }; add rule ip theirs out ip daddr 10.244.0.0/16 masquerade")
	t.Cleanup(func() { nft("delete", "table", "ip", "theirs") })
	s.says(inPlace, v1alpha1.ClientIPDepends, "theirs out")
	s.eventually("the pod does not see the client beside somebody else's masquerading", func() error {
		a := s.office.Ask(s.ctx, flow(node, from(officeCIDR, 1), uint16(inPlace.Status.Allocations[0].NodePort)))
		if a.Outcome != lab.Answered || a.Peer.Addr() == from(officeCIDR, 1).Addr() {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
}

// A tc program that carries a port to a pod before netfilter sees it: a source that the
// policy denies is answered, and the policy says that it is not enforced, by what, and
// what to do. When the program goes, the policy is in force again.
func TestATrafficControlHijackIsNoEnforcement(t *testing.T) {
	s := open(t, "hijack", "30810-30814")
	policy := s.policy("shop", officeCIDR)
	s.create(policy)
	port := s.awaitReady(policy)
	node := town.Nodes()[0]
	stranger := from(streetCIDR, 1)
	s.silent(s.street, stranger, port)

	to := netip.AddrPortFrom(node.Addrs[0], port)
	release := s.hijack(node, to, netip.AddrPortFrom(node.Pod(s.namespace, "pod").Addrs[0], lab.EchoPort))
	s.eventually("the hijacked port answers whom it should not", func() error {
		if a := s.street.Ask(s.ctx, flow(node, stranger, port)); a.Outcome != lab.Answered || a.Peer.Addr() != stranger.Addr() {
			return fmt.Errorf("%s", a)
		}
		return nil
	})
	condition := s.awaitReason(policy, v1alpha1.HostEnforced, v1alpha1.ReasonEnforcementUnsupported)
	for _, part := range []string{"node " + node.Name, "before netfilter", "program " + hijackName + " on the tc hook of eth0", "--harmless-programs"} {
		if !strings.Contains(condition.Message, part) {
			t.Errorf("the policy says %q, which does not name %q", condition.Message, part)
		}
	}
	s.awaitReason(policy, v1alpha1.Stalled, v1alpha1.ReasonEnforcementUnsupported)
	s.says(policy, v1alpha1.ClientIPDepends, "can't be told from outside")
	s.audits()
	s.explains("shop", from(officeCIDR, 1), explain.Unproved, explain.GateNode, v1alpha1.ReasonEnforcementUnsupported)
	a := s.explains("shop", stranger, explain.Unproved, explain.GateSources, explain.ReasonNotListed)
	s.tooOpen(a, explain.GateNode, v1alpha1.ReasonEnforcementUnsupported)
	if d := s.report(node); d.Marks.Allocations != "" || len(d.Facts.Ways) != 1 {
		t.Errorf("the node vouches for %+v, beside %+v", d.Marks, d.Facts.Ways)
	}

	release()
	s.awaitReady(policy)
	s.silent(s.street, stranger, port)
}

// promised waits until the policy's status says so of the client's address, and until
// that many nodes answer in each family; every answer must then keep the promise.
func (s *scene) promised(p *v1alpha1.NodePortPolicy, want v1alpha1.ClientIP, answering int) {
	s.Helper()
	s.says(p, want, "kube-proxy (")
	sources := []netip.AddrPort{from(officeCIDR, 1)}
	if town.IPv6() {
		sources = append(sources, from(officeCIDR6, 1))
	}
	for _, source := range sources {
		s.eventually(fmt.Sprintf("%d nodes keep the promise to %s", answering, source.Addr()), func() error {
			return s.kept(p, source, want, answering)
		})
	}
}

// says waits until the policy's status says so of the client's address, for that reason.
func (s *scene) says(p *v1alpha1.NodePortPolicy, want v1alpha1.ClientIP, why string) {
	s.Helper()
	s.eventually(fmt.Sprintf("policy %s: the client's address is preserved: %s", p.Name, want), func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		if p.Status.ClientIPPreserved != want || !strings.Contains(p.Status.ClientIPReason, why) {
			return fmt.Errorf("%q: %s", p.Status.ClientIPPreserved, p.Status.ClientIPReason)
		}
		return nil
	})
}

// kept asks every node a few times, so that also pods of other nodes answer.
func (s *scene) kept(p *v1alpha1.NodePortPolicy, source netip.AddrPort, want v1alpha1.ClientIP, answering int) error {
	const times = 8
	answered := 0
	pods := map[string]bool{}
	for _, node := range town.Nodes() {
		answers := 0
		for range times {
			a := s.office.Ask(s.ctx, flow(node, source, uint16(p.Status.Allocations[0].NodePort)))
			if a.Outcome != lab.Answered {
				break
			}
			answers++
			pods[a.Pod] = true
			if kept := a.Peer.Addr().Unmap() == source.Addr(); kept != (want == v1alpha1.ClientIPPreserved) {
				return fmt.Errorf("%s: the client %s was seen as %s, and status says %s (%s)", node.Name, source.Addr(), a.Peer.Addr(), want, p.Status.ClientIPReason)
			}
		}
		if answers == times {
			answered++
		} else if answers > 0 {
			return fmt.Errorf("%s answered %d times of %d", node.Name, answers, times)
		}
	}
	if answered != answering || len(pods) != 2 {
		return fmt.Errorf("%d nodes answered, want %d; pods %v, want both", answered, answering, pods)
	}
	return nil
}
