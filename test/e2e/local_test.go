package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

// atOnce is before a client would send its first packet again.
const atOnce = 900 * time.Millisecond

// refusesAtOnce wants a refusal within that time, of one packet.
func (s *scene) refusesAtOnce(f lab.Flow) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s %s is refused at once", f.Network, f.To), func() error {
		start := time.Now()
		a := s.office.Ask(s.ctx, f)
		if took := time.Since(start); a.Outcome != lab.Refused || took > atOnce {
			return fmt.Errorf("%s after %s", a, took)
		}
		return nil
	})
}

// podOn waits until that node alone has a pod for the ports, as clients of both families
// and protocols and the street find it.
func (s *scene) podOn(home *lab.Node, tcp, udp uint16) {
	s.Helper()
	s.answeredBy(home, tcp)
	for i, node := range town.Nodes() {
		if node == home {
			s.eventually("a datagram is answered", func() error {
				if a := s.office.Ask(s.ctx, datagrams(node, from(officeCIDR, 3), udp, uint16(5200+i))); a.Outcome != lab.Answered {
					return fmt.Errorf("%s", a)
				}
				return nil
			})
			continue
		}
		s.refusesAtOnce(flow(node, from(officeCIDR, 2), tcp))
		s.refusesAtOnce(flow(node, from(officeCIDR6, 2), tcp))
		s.refusesAtOnce(datagrams(node, from(officeCIDR, 3), udp, uint16(5200+i)))
		s.refusesAtOnce(datagrams(node, from(officeCIDR6, 3), udp, uint16(5200+i)))
	}
	s.silent(s.street, from(streetCIDR, 1), udp)
}

// fronted waits until the proxy's file names that node alone.
func (s *scene) fronted(configMap string, home *lab.Node) {
	s.Helper()
	s.eventually(configMap+" names "+home.Name, func() error {
		var c corev1.ConfigMap
		if err := town.Client.Get(s.ctx, client.ObjectKey{Namespace: s.namespace, Name: configMap}, &c); err != nil {
			return err
		}
		if nodes := c.Annotations[v1alpha1.AnnotationFrontNodes]; nodes != home.Name {
			return fmt.Errorf("it names %q", nodes)
		}
		return nil
	})
}

// With externalTrafficPolicy Local a node without a pod refuses at once whom the policy
// admits, and is not named to anybody; when the pod moves, both follow.
func TestNodesWithoutAPodRefuseAtOnce(t *testing.T) {
	s := open(t, "local", "31490-31499")
	first, second, third := town.Nodes()[0], town.Nodes()[1], town.Nodes()[2]
	policy := s.policy("web", officeCIDR, officeCIDR6)
	policy.Spec.Ports = []v1alpha1.PolicyPort{{Name: "https", NodePort: 31490}, {Name: "dns-udp", NodePort: 31491}}
	policy.Spec.ExternalTrafficPolicy = v1alpha1.TrafficLocal
	policy.Spec.Front = &v1alpha1.Front{Nginx: &v1alpha1.ProxyFront{ConfigMap: "local-nginx"}}
	gated := s.policy("gated", officeCIDR)
	gated.Spec.ExternalTrafficPolicy, gated.Spec.Gateways = v1alpha1.TrafficLocal, centralized(third)
	s.create(policy)
	s.create(gated)
	s.awaitReady(policy)
	s.podOn(first, 31490, 31491)
	s.listsPorts(policy, first, 31490, 31491)
	s.fronted("local-nginx", first)
	if why := s.awaitReason(gated, v1alpha1.Exposed, v1alpha1.ReasonNoEndpoints); !strings.Contains(why.Message, "no active gateway has a ready pod") {
		t.Errorf("the policy says %q", why.Message)
	}

	if _, err := town.AddPod(s.ctx, second, s.namespace, "moved", map[string]string{"app": s.namespace}); err != nil {
		t.Fatal(err)
	}
	s.delete(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "pod"}})
	s.podOn(second, 31490, 31491)
	s.listsPorts(policy, second, 31490, 31491)
	s.fronted("local-nginx", second)

	if _, err := town.AddPod(s.ctx, third, s.namespace, "gateway", map[string]string{"app": s.namespace}); err != nil {
		t.Fatal(err)
	}
	s.awaitReady(gated)
	s.lists(gated, third)
	for _, node := range []*lab.Node{second, third} {
		s.expect(s.office, node, from(officeCIDR, 1), 31490, lab.Answered)
	}

	// Cluster again: nobody is refused for want of a pod.
	edit(s, policy, func(p *v1alpha1.NodePortPolicy) { p.Spec.ExternalTrafficPolicy = v1alpha1.TrafficCluster })
	s.answers(s.office, from(officeCIDR, 1), 31490)
}

// listsPorts waits until the policy's addresses are those of the node with these ports.
func (s *scene) listsPorts(p *v1alpha1.NodePortPolicy, node *lab.Node, ports ...uint16) {
	s.Helper()
	var want []string
	for _, host := range node.Addrs {
		for _, port := range ports {
			want = append(want, fmt.Sprintf("%s:%d", host, port))
			if host.Is6() {
				want[len(want)-1] = fmt.Sprintf("[%s]:%d", host, port)
			}
		}
	}
	slices.Sort(want)
	s.eventually(p.Name+" lists "+node.Name, func() error {
		if err := town.Client.Get(s.ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		if have := slices.Sorted(slices.Values(p.Status.Addresses)); !slices.Equal(have, want) {
			return fmt.Errorf("addresses %v, want %v", have, want)
		}
		return nil
	})
}
