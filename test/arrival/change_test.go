package arrival

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/lab"
)

const (
	// takeoverGoal is how long clients may be without an active gateway after its node
	// was seen not to be Ready. takeoverMost is where a test fails: a machine that others
	// use is slower than what it tests.
	takeoverGoal = 2 * time.Second
	takeoverMost = 6 * time.Second
	// lateCuts is how long after a switch connections may still be cut that go on as
	// before: agents look until then.
	lateCuts = 35 * time.Second
	calm     = 500 * time.Millisecond // nothing is taken away
)

// The policies that are played with: four ways to arrive.
const (
	toAll  = "all"  // every node, any pod
	toOne  = "one"  // the active gateway, any pod
	toNear = "near" // every node, its own pod
	toTurn = "turn" // every node; any pod and the node's own, by turns
)

// change is some time in which everything is taken away and given back, one thing after
// the other, under traffic from outside.
type change struct {
	*world
	*testing.T
	judge    *judge
	seed     uint64
	random   *rand.Rand
	policies []*played
	pods     []string // by node
	made     int      // pods so far
	local    bool     // what toTurn says
	active   int      // the gateway of toOne, by its place among the nodes
	// away are the windows of toOne by node: since when it is no gateway.
	away map[int]*window

	seen seen
	took map[string][]time.Duration
}

func (c *change) dice(who int) *rand.Rand { return rand.New(rand.NewPCG(c.seed, uint64(who))) }

func (w *world) change(t *testing.T) {
	c := &change{world: w, T: t, judge: newJudge(), seed: 1, away: map[int]*window{}, took: map[string][]time.Duration{}}
	length := 35 * time.Second
	if soak() {
		length, c.seed = 5*time.Minute, uint64(time.Now().UnixNano())
	}
	c.random = c.dice(0)
	must(t, c.begin())
	var watching, traffic sync.WaitGroup
	watchers, endWatching := context.WithCancel(c.ctx)
	c.watch(watchers, &watching)
	must(t, c.await("every address answers", c.settled))
	c.judge.note("all is well")

	clients, endTraffic := context.WithCancel(c.ctx)
	n := 0
	client := func(send func(context.Context, *played, string, int), p *played, network string) {
		n++
		traffic.Go(func() { send(clients, p, network, n) })
	}
	for _, p := range c.policies {
		for _, network := range []string{"tcp", "udp"} {
			client(c.knock, p, network)
			client(c.stay, p, network)
		}
		client(c.stay, p, "tcp")
	}
	client(c.stay, c.policies[len(c.policies)-1], "tcp") // a switch is to cut some of toTurn
	for i := range 4 {
		traffic.Go(func() { c.intrude(clients, 100+i) })
	}
	began := time.Now()
	err := c.live(length)
	endTraffic()
	traffic.Wait()
	endWatching()
	watching.Wait()
	if err != nil {
		t.Errorf("%v%s", err, c.judge.story(time.Now()))
	}
	c.close(time.Since(began))
}

// begin makes what is played with.
func (c *change) begin() error {
	const app = "change"
	c.pods = []string{"s1", "s2", "s3"}
	c.world.pods(c.T, app, [][]string{{"s1"}, {"s2"}, {"s3"}})
	pool := c.world.pool()
	pool.Name, pool.Spec.Category = app, app
	pool.Spec.Ranges = []v1alpha1.PortRange{v1alpha1.PortRange(fmt.Sprintf("%d-%d", changeNumber, changeNumber+9))}
	pool.Spec.AllocateTo.Namespaces = []v1alpha1.NamespaceName{app}
	service := lab.EchoService(app, "shop", 0, map[string]string{"app": app})
	service.Spec.Type = "ClusterIP"
	c.create(c.T, pool, service)
	for i, name := range []string{toAll, toOne, toNear, toTurn} {
		p := &v1alpha1.NodePortPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: app, Name: name},
			Spec: v1alpha1.NodePortPolicySpec{
				Category: app, ServiceRef: v1alpha1.ServiceReference{Name: "shop"},
				Ports:   []v1alpha1.PolicyPort{{Port: lab.EchoPort, NodePort: int32(changeNumber + i)}},
				Sources: []v1alpha1.Source{{CIDR: office4}, {CIDR: office6}},
			},
		}
		switch name {
		case toOne:
			p.Spec.Gateways = &v1alpha1.Gateways{Mode: v1alpha1.GatewaysCentralized, Active: 1}
		case toNear:
			p.Spec.ExternalTrafficPolicy = v1alpha1.TrafficLocal
		}
		c.create(c.T, p)
		c.policies = append(c.policies, &played{name: name, number: uint16(changeNumber + i)})
	}
	for i := range c.town.Nodes() {
		if i != c.active {
			c.away[i] = c.judge.take(window{what: "not chosen as a gateway", policies: []string{toOne}, nodes: c.names(i)})
		}
	}
	for _, p := range c.policies {
		if err := c.await(p.name+" is Ready", func() error {
			_, err := c.inForce(app, p.name)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

func (c *change) names(nodes ...int) (names []string) {
	for _, n := range nodes {
		names = append(names, c.town.Nodes()[n].Name)
	}
	return names
}

// live takes things away and gives them back: each once, and then at random, for so long.
func (c *change) live(long time.Duration) error {
	others := func() int { // a node that is not the gateway
		return (c.active + 1 + c.random.IntN(2)) % 3
	}
	steps := map[string]func() error{
		"death of the gateway": func() error { return c.death(c.active) },
		"death of a node":      func() error { return c.death(others()) },
		"pods":                 func() error { return c.replace(c.random.IntN(3)) },
		"switch":               c.turn,
		"gateway moves":        c.move,
	}
	names := []string{"death of the gateway", "pods", "switch", "gateway moves", "death of a node", "switch"}
	for i, end := 0, time.Now().Add(long); i < len(names) || time.Now().Before(end); i++ {
		name := names[c.random.IntN(len(names))]
		if i < len(names) {
			name = names[i]
		}
		c.judge.note("next: %s", name)
		began := time.Now()
		if err := steps[name](); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		c.took[name] = append(c.took[name], time.Since(began))
		pause(c.ctx, calm)
	}
	return nil
}

// close tells what was seen.
func (c *change) close(long time.Duration) {
	unexplained := c.judge.unexplained()
	for i, f := range unexplained {
		if i == 3 {
			c.Errorf("... and %d more", len(unexplained)-i)
			break
		}
		c.Errorf("nothing accounts for %s%s", f, c.judge.story(f.since))
	}
	for i, b := range c.judge.breaches {
		if i == 3 {
			c.Errorf("... and %d more", len(c.judge.breaches)-i)
			break
		}
		c.Errorf("%s", b)
	}
	n := c.judge.counts
	c.Logf("change, seed %d, %s: %d new TCP connections and %d exchanges in old ones, %d new UDP flows and %d exchanges in old ones: %d failed, %d of them unexplained; %d questions of who is not admitted, %d not met by silence",
		c.seed, long.Round(time.Second), n["new tcp"], n["old tcp"], n["new udp"], n["old udp"], n["failed"], len(unexplained), n["denied"], len(c.judge.breaches))
	for _, kind := range []string{"new tcp", "new udp", "old tcp", "old udp", "denied", "failed"} {
		if n[kind] == 0 {
			c.Errorf("no %s: nothing was seen", kind)
		}
	}
	for what, took := range c.took {
		slices.Sort(took)
		c.Logf("%s: %d times, p50 %s, most %s", what, len(took), took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	}
	felt := map[string]int{}
	for _, w := range c.judge.windows {
		what, _, _ := strings.Cut(w.what, ":")
		felt[what] += w.explained
	}
	c.Logf("failures accounted for, each by one thing or more that was taken away: %v", felt)
	without := c.took[withoutGateway]
	word := "met"
	if most := without[len(without)-1]; most > takeoverGoal {
		word = "MISSED"
		if most > takeoverMost {
			c.Errorf("without an active gateway for %s", most)
		}
	}
	c.Logf("without an active gateway after its node was seen not to be Ready: most %s, goal %s: %s", without[len(without)-1].Round(time.Millisecond), takeoverGoal, word)
}
