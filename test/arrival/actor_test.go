package arrival

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

const (
	prober = 90 // of the office's addresses: who asks whether something is back
	// probes of one address that must be answered in a row: with one of three pods gone
	// that happens by chance once in 17,000 times.
	probes         = 24
	probeTimeout   = time.Second
	withoutGateway = "without an active gateway"
)

// death takes a node away, cable and kubelet, and brings it back.
func (c *change) death(n int) error {
	node := c.town.Nodes()[n]
	mine := c.judge.take(window{what: "a dead node: " + node.Name, nodes: c.names(n)})
	pods := c.judge.take(window{what: "pods of a dead node: " + c.pods[n], policies: []string{toAll, toOne, toTurn}})
	if n == c.active {
		c.leaves(n)
	}
	began := time.Now()
	if err := c.town.CutLink(node); err != nil {
		return err
	}
	if err := node.Fail(c.ctx); err != nil {
		return err
	}
	if n == c.active {
		if err := c.takeover(n, func() time.Time {
			if at := c.seen.unready(node.Name); at.After(began) {
				return at
			}
			return time.Time{} // of an earlier death
		}); err != nil {
			return err
		}
	}
	var others []int
	for i := range c.town.Nodes() {
		if i != n {
			others = append(others, i)
		}
	}
	if err := c.await("the other nodes answer", func() error { return c.answered(others, toAll, toOne, toTurn) }); err != nil {
		return err
	}
	c.judge.give(pods)
	pause(c.ctx, calm)

	if err := c.town.RestoreLink(node); err != nil {
		return err
	}
	// What the node has missed comes to it in order: first that its own pod is not Ready.
	if err := c.await("the node hears what it has missed", func() error {
		for _, a := range node.Addrs {
			if answer := c.probe(a, toNear, "tcp", 300*time.Millisecond); answer.Outcome == lab.Answered {
				return fmt.Errorf("%s still answers for its own pod", a)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if err := node.Recover(c.ctx); err != nil {
		return err
	}
	if err := c.await("every address answers", c.settled); err != nil {
		return err
	}
	c.judge.give(mine)
	return nil
}

// leaves opens the window in which a node is no gateway; it is closed when it is one again.
func (c *change) leaves(n int) {
	c.away[n] = c.judge.take(window{what: "no gateway any more: " + c.names(n)[0], policies: []string{toOne}, nodes: c.names(n)})
}

// takeover waits for the next gateway, and measures how long there was none since the
// API server's word that the former one is none, which may come to us after it came to
// the manager; until then since is zero.
func (c *change) takeover(left int, since func() time.Time) error {
	next := -1
	if err := c.await("the next gateway answers", func() error {
		for i, node := range c.town.Nodes() {
			if i == left {
				continue
			}
			a := c.probe(node.Addrs[0], toOne, "tcp", 200*time.Millisecond)
			if a.Outcome == lab.Answered {
				next = i
				return nil
			}
		}
		return errors.New("none of the others does")
	}); err != nil {
		return err
	}
	answered, due := time.Now(), time.Time{}
	if err := c.await("the former one is told to be none", func() error {
		if due = since(); due.IsZero() {
			return errors.New("it is not")
		}
		return nil
	}); err != nil {
		return err
	}
	gap := max(0, answered.Sub(due))
	c.took[withoutGateway] = append(c.took[withoutGateway], gap)
	c.judge.note("the gateway moved from %v to %v, %s after it was seen to be due", c.names(left), c.names(next), gap.Round(time.Millisecond))
	c.judge.give(c.away[next])
	delete(c.away, next)
	c.active = next
	return nil
}

// move has the gateway leave its node, which stays well.
func (c *change) move() error {
	n := c.active
	name := c.names(n)[0]
	c.leaves(n)
	if err := c.label(name, ptr.To("")); err != nil {
		return err
	}
	told := time.Now()
	if err := c.takeover(n, func() time.Time { return told }); err != nil {
		return err
	}
	return c.label(name, nil)
}

// label excludes a node from the gateways, or no longer does.
func (c *change) label(name string, value *string) error {
	return c.await("label "+name, func() error {
		var node corev1.Node
		if err := c.town.Client.Get(c.ctx, client.ObjectKey{Name: name}, &node); err != nil {
			return err
		}
		if value == nil {
			delete(node.Labels, corev1.LabelNodeExcludeBalancers)
		} else {
			node.Labels[corev1.LabelNodeExcludeBalancers] = *value
		}
		return c.town.Client.Update(c.ctx, &node)
	})
}

// replace deletes a node's pod, and runs another one in its place.
func (c *change) replace(n int) error {
	any, own := []string{toAll, toOne}, []string{toNear}
	if c.local {
		own = append(own, toTurn)
	} else {
		any = append(any, toTurn)
	}
	pod := c.judge.take(window{what: "a pod: " + c.pods[n], policies: any})
	podless := c.judge.take(window{what: "the only pod of its node: " + c.pods[n], policies: own, nodes: c.names(n)})
	old, there := &corev1.Pod{}, c.seen.endpoints()
	old.Namespace, old.Name = "change", c.pods[n]
	if err := c.town.Client.Delete(c.ctx, old, client.GracePeriodSeconds(0)); err != nil {
		return err
	}
	// The pod is gone at once, and what leads to it a little later: see it go first.
	if err := c.await("the endpoint is gone", func() error {
		if left := c.seen.endpoints(); left > there*(len(c.pods)-1)/len(c.pods) {
			return fmt.Errorf("%d endpoints, %d before", left, there)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := c.await("the other pods answer", func() error { return c.answered([]int{0, 1, 2}, any...) }); err != nil {
		return err
	}
	c.judge.give(pod)
	pause(c.ctx, calm)
	c.made++
	c.pods[n] = fmt.Sprintf("s%d-%d", n+1, c.made)
	if _, err := c.town.AddPod(c.ctx, c.town.Nodes()[n], "change", c.pods[n], map[string]string{"app": "change"}); err != nil {
		return err
	}
	if err := c.await("every address answers", c.settled); err != nil {
		return err
	}
	c.judge.give(podless)
	return nil
}

// turn switches between Local, which cuts connections that would go on with a wrong
// address, and Cluster, which takes nothing away.
func (c *change) turn() error {
	c.local = !c.local
	want := v1alpha1.TrafficCluster
	var cuts *window
	if c.local {
		want = v1alpha1.TrafficLocal
		cuts = c.judge.take(window{what: "a switch to Local", policies: []string{toTurn}, late: time.Now().Add(lateCuts)})
	}
	c.judge.note("%s turns to %s", toTurn, want)
	if err := c.await("edit", func() error {
		p := &v1alpha1.NodePortPolicy{}
		if err := c.town.Client.Get(c.ctx, client.ObjectKey{Namespace: "change", Name: toTurn}, p); err != nil {
			return err
		}
		p.Spec.ExternalTrafficPolicy = want
		return c.town.Client.Update(c.ctx, p)
	}); err != nil {
		return err
	}
	if err := c.await("the policy is Ready", func() error {
		_, err := c.inForce("change", toTurn)
		return err
	}); err != nil {
		return err
	}
	if err := c.await("every address answers as the switch wants", c.settled); err != nil {
		return err
	}
	if cuts != nil {
		c.judge.give(cuts)
	}
	return nil
}

// settled wants everything to be as it is when nothing is taken away.
func (c *change) settled() error {
	return c.answered([]int{0, 1, 2}, toAll, toOne, toNear, toTurn)
}

// answered wants each address of these nodes to answer for these policies, many times in
// a row and in the way that the policy says. toOne is asked of the gateway only.
func (c *change) answered(nodes []int, policies ...string) error {
	var group errgroup.Group
	for _, n := range nodes {
		for _, a := range c.town.Nodes()[n].Addrs {
			group.Go(func() error {
				for i := range probes * len(policies) {
					name := policies[i%len(policies)]
					if name == toOne && n != c.active {
						continue
					}
					if err := c.right(a, name, []string{"tcp", "udp"}[i/len(policies)%2]); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
	return group.Wait()
}

// right wants an answer, of which the pod saw the address that it should.
func (c *change) right(a netip.Addr, name, network string) error {
	answer := c.probe(a, name, network, probeTimeout)
	if answer.Outcome != lab.Answered {
		return fmt.Errorf("%s by %s to %s: %s", name, network, a, answer)
	}
	own := answer.Peer.Addr() == source(a, office4, office6, prober).Addr()
	if local := name == toNear || name == toTurn && c.local; own != local {
		return fmt.Errorf("%s by %s to %s: the pod saw %s", name, network, a, answer.Peer)
	}
	return nil
}

func (c *change) probe(a netip.Addr, name, network string, timeout time.Duration) lab.Answer {
	i := slices.IndexFunc(c.policies, func(p *played) bool { return p.name == name })
	return c.office.Ask(c.ctx, lab.Flow{
		Network: network, To: netip.AddrPortFrom(a, c.policies[i].number), From: source(a, office4, office6, prober), Timeout: timeout,
	})
}
