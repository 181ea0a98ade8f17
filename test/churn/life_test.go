package churn

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// policies is how many are edited, beside the one that is not.
const policies = 4

// life is one run with one firewall.
type life struct {
	ctx       context.Context // the test's own
	namespace string
	numbers   string // of the pool
	judge     *judge
	people    []*person
	anchor    state // of the policy that nobody edits

	owned bool   // the kernel keeps the table for its owner
	mode  string // of iptables
	blows []blow
}

func live(t *testing.T, name string, firewall v1alpha1.Firewall, first uint16) {
	ctx, cancel := context.WithTimeout(t.Context(), *length+5*time.Minute)
	defer cancel()
	l := &life{ctx: ctx, namespace: name, numbers: fmt.Sprintf("%d-%d", first, first+39), judge: newJudge()}
	if err := l.choose(firewall); err != nil {
		t.Fatal(err)
	}
	if err := l.found(first); err != nil {
		t.Fatal(err)
	}
	if err := l.watch(); err != nil {
		t.Fatal(err)
	}
	l.play()
	l.close(t)
}

// choose has the nodes filter with the firewall.
func (l *life) choose(firewall v1alpha1.Firewall) error {
	err := await(l.ctx, settling, func() error {
		installation := &v1alpha1.Portreeve{}
		if err := town.Client.Get(l.ctx, client.ObjectKey{Name: v1alpha1.InstallationName}, installation); err != nil {
			return err
		}
		installation.Spec.Firewall = firewall
		return town.Client.Update(l.ctx, installation)
	})
	if err != nil {
		return err
	}
	return await(l.ctx, settling, func() error {
		for _, node := range town.Nodes() {
			have := &v1alpha1.NodeDatapath{}
			if err := town.Client.Get(l.ctx, client.ObjectKey{Name: node.Name}, have); err != nil {
				return err
			}
			kind, mode, _ := strings.Cut(strings.TrimSuffix(have.Status.Datapath, ")"), " (")
			if !strings.EqualFold(kind, string(firewall)) {
				return fmt.Errorf("%s filters with %q", node.Name, have.Status.Datapath)
			}
			l.owned, l.mode, l.blows = mode == "owner", mode, blowsNFTables
			if firewall == v1alpha1.FirewallIPTables {
				l.blows = blowsIPTables
			}
		}
		return nil
	})
}

// found makes the place and the policies, and returns when all are in force.
func (l *life) found(first uint16) error {
	if _, err := town.AddPod(l.ctx, town.Nodes()[0], l.namespace, "shop", map[string]string{"app": "shop"}); err != nil {
		return err
	}
	pool := &v1alpha1.NodePortPool{
		ObjectMeta: metav1.ObjectMeta{Name: l.namespace},
		Spec: v1alpha1.NodePortPoolSpec{
			Category: l.namespace, Team: l.namespace, Ranges: []v1alpha1.PortRange{v1alpha1.PortRange(l.numbers)},
			AllocateTo: v1alpha1.AllocateTo{Namespaces: []v1alpha1.NamespaceName{v1alpha1.NamespaceName(l.namespace)}},
			CoolDown:   &metav1.Duration{Duration: 0},
		},
	}
	for _, o := range []client.Object{service(l.namespace), pool} {
		if err := town.Client.Create(l.ctx, o); err != nil {
			return err
		}
	}
	err := await(l.ctx, settling, func() error {
		if err := town.Client.Get(l.ctx, client.ObjectKeyFromObject(pool), pool); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(pool.Status.Conditions, v1alpha1.Ready) {
			return fmt.Errorf("the pool is not armed: %+v", pool.Status.Conditions)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := range uint16(policies + 1) { // the last is not edited
		n := first + 4*i
		p := &person{
			life: l, name: fmt.Sprintf("policy-%d", i), random: l.dice(uint64(i)), history: &history{},
			tcp: [2]uint16{n, n + 1}, udp: [2]uint16{n + 2, n + 3},
		}
		for _, number := range p.numbers() {
			l.judge.histories[number] = p.history
		}
		if err := p.create(l.ctx); err != nil {
			return err
		}
		l.people, l.anchor = append(l.people, p), p.state
	}
	return nil
}

// dice are of one person or node: each has its own, so that what is wished does not
// depend on who comes first.
func (l *life) dice(who uint64) *rand.Rand { return rand.New(rand.NewPCG(*seed, who)) }

// play lets them all live. The traffic goes on until everything else has ended.
func (l *life) play() {
	var senders, others sync.WaitGroup
	traffic, stop := context.WithCancel(l.ctx)
	for i := range walkers {
		senders.Go(func() { l.walk(traffic, l.dice(uint64(1000+i))) })
	}
	for _, node := range town.Nodes() {
		for _, p := range l.people {
			for _, group := range []int{always, 1, 2} {
				senders.Go(func() { l.hold(traffic, p, node, group, group == 2 && town.IPv6()) })
			}
		}
		for _, six := range families() {
			anchor := l.people[policies]
			senders.Go(func() { l.hold(traffic, anchor, node, never, six) })
			senders.Go(func() { l.drip(traffic, node, six) })
		}
	}
	span, end := context.WithTimeout(l.ctx, *length)
	defer end()
	for _, p := range l.people[:policies] {
		others.Go(func() { p.live(span) })
	}
	for i, node := range town.Nodes() {
		f := &fate{life: l, node: node, random: l.dice(uint64(2000 + i))}
		others.Go(func() { f.live(span) })
	}
	others.Wait()
	stop()
	senders.Wait()
}

// close tells what was seen.
func (l *life) close(t *testing.T) {
	packets, err := l.watched()
	if err != nil {
		t.Fatal(err)
	}
	if l.owned && packets["passed"] > 0 {
		l.judge.breach(time.Now(), "", "%d packets of clients that are never named came through", packets["passed"])
	}
	windows, c := l.judge.windows(), l.judge.counts
	felt := "never felt"
	if n := len(windows); n > 0 {
		felt = fmt.Sprintf("felt %d times, for p50 %s, max %s", n, windows[n/2].Round(time.Millisecond), windows[n-1].Round(time.Millisecond))
	}
	for i, b := range l.judge.breaches {
		if i == 3 {
			t.Errorf("... and %d more", len(l.judge.breaches)-i)
			break
		}
		t.Errorf("%s %s%s", clock(b.at), b.what, l.judge.story(b.at))
	}
	if len(l.judge.breaches) > 0 {
		for _, node := range town.Nodes() {
			t.Logf("the agent of %s said at the end:\n%s", node.Name, town.Agent(node).Tail(30))
		}
	}
	line := fmt.Sprintf("churn %s (%s), seed %d, %s: %d flows (%d new TCP, %d new UDP, %d in old connections, %d drips), %d packets, %d of them denied always, of which %d passed; "+
		"%d kills, %d flushes (%s), %d edits (%d stalled by numbers that the API server lost); %d breaches",
		l.namespace, l.mode, *seed, *length, c["new tcp"]+c["new udp"]+c["old tcp"]+c["drip"], c["new tcp"], c["new udp"], c["old tcp"], c["drip"],
		packets["came"], packets["denied"], packets["passed"], c["kills"], c["flushes"], felt, c["edits"], c["lost"], len(l.judge.breaches))
	t.Log(line)
	for _, kind := range []string{"kills", "flushes", "edits", "new tcp", "new udp", "old tcp"} {
		if c[kind] == 0 {
			t.Errorf("no %s: nothing was seen", kind)
		}
	}
}
