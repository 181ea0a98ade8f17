package fleet

import (
	"fmt"
	"maps"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// soon is how long after the last write it is sure that no other follows, but for
	// those that are kept back.
	soon = 4 * time.Second
	// keptBack is that for what statuses say ten seconds later: that an address of a
	// gateway no longer answers, and that a node has not reported.
	keptBack = 16 * time.Second
)

// meter measures what things cost.
type meter struct{ *testing.T }

// of returns what was spent while it was done and for so long after the last write.
func (m meter) of(what string, quiet time.Duration, do func()) cost {
	m.Helper()
	before := spent(m.T)
	do()
	settle(m.T, quiet)
	c := spent(m.T).since(before)
	m.Logf("%d nodes, %d policies: %s: %s", nodes, policies(), what, c)
	return c
}

// wants faults all writes but these, and more looks than so many.
func (m meter) wants(what string, c cost, looks int, want map[string]int) {
	m.Helper()
	if !maps.Equal(c.writes, want) {
		m.Errorf("%s: %s, want the writes %v", what, c, want)
	}
	if c.looks > looks {
		m.Errorf("%s: %s, want at most %d looks", what, c, looks)
	}
}

// each is how often a policy is looked at for one thing: when it happens, when its time
// has come to be told, and when others have heard of it.
const each = 5

// What the news of one node costs is in proportion to the policies that it concerns: those
// whose status lists an address of it. A fail-over of their gateway is one write beside.
func TestTheNewsOfANodeCostsWhatItConcerns(t *testing.T) {
	all, m := furnish(t), meter{t}
	m.wants("no news", m.of("heartbeats of all nodes and reports of all agents, without news", soon, func() {
		for i := range nodes {
			heartbeat(t, nodeName(i))
		}
		must(t, all.report(t.Context()))
	}), 0, map[string]int{})

	var down []string
	for _, name := range samples(listing(t)) {
		listed := listing(t)[name]
		what := fmt.Sprintf("a node that %d policies list is not Ready", listed)
		m.wants(what, m.of(what, keptBack, func() { ready(t, name, corev1.ConditionFalse) }), each*listed, map[string]int{statuses: listed})
		down = append(down, name)
	}

	former := gateway(t)
	listed := listing(t)[former]
	what := fmt.Sprintf("a gateway that %d policies list is not Ready", listed)
	failOver := m.of(what+", until nodes have heard of the next", soon, func() {
		ready(t, former, corev1.ConditionFalse)
		for deadline := time.Now().Add(time.Minute); gateway(t) == former && time.Now().Before(deadline); {
			settle(t, time.Second) // what agents report before there is another says nothing of it
		}
		settle(t, time.Second)
		must(t, all.report(t.Context()))
	})
	if gateway(t) == former || failOver.writes["gatewaysets"] != 1 || failOver.total() != 1+failOver.writes[statuses] {
		t.Errorf("the gateway was %s and is %s: %s; want one write of a GatewaySet, and none but statuses beside", former, gateway(t), failOver)
	}
	rest := m.of("until statuses have followed", keptBack, func() {})
	m.wants(what, failOver.plus(rest), each*listed, map[string]int{"gatewaysets": 1, statuses: listed})

	few := 2 * policies() / kinds // lists that are not full: of a gateway, or of a zone
	m.wants("they are back", m.of("they are Ready again, and take nobody's place", soon, func() {
		for _, name := range append(down, former) {
			ready(t, name, corev1.ConditionTrue)
		}
	}), each*few*(len(down)+1), map[string]int{})
	m.wants("a node joins", m.of("a node joins", keptBack, func() {
		newcomer := node(nodes)
		create(t, newcomer)
		all.nodes = append(all.nodes, newcomer)
		must(t, all.report(t.Context()))
	}), each*policies(), map[string]int{"addresssets": 1})
}

const statuses = "nodeportpolicies/status"

// samples are nodes that are no gateways: the one that most policies list, and in a soak
// also the one that fewest do.
func samples(listed map[string]int) []string {
	few, many := nodeName(edges), nodeName(edges)
	for i := edges; i < nodes; i++ {
		if name := nodeName(i); listed[name] < listed[few] {
			few = name
		} else if listed[name] > listed[many] {
			many = name
		}
	}
	if soak() {
		return []string{few, many}
	}
	return []string{many}
}

// furnish makes everything, and returns when all policies are in force.
func furnish(t *testing.T) *agents {
	t.Helper()
	began := time.Now()
	a := &agents{}
	var namespaces, fleet, services, pools, wishes []client.Object
	for i := range nodes {
		n := node(i)
		a.nodes, fleet = append(a.nodes, n.DeepCopy()), append(fleet, n)
	}
	for i := range teams {
		namespaces = append(namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: team(i)}})
		pools = append(pools, pool(i))
	}
	for i := range policies() {
		services, wishes = append(services, service(i)), append(wishes, policy(i))
	}
	create(t, namespaces...)
	create(t, append(fleet, services...)...)
	create(t, pools...)
	create(t, wishes...)
	config, stop, err := town.Proxied(t.Context(), writes.wrap)
	must(t, err)
	t.Cleanup(stop)
	must(t, town.StartManager(t.Context(), config))
	t.Cleanup(town.Manager().Kill)
	a.awaitReady(t)
	settle(t, soon)
	t.Logf("%d nodes and %d policies stand after %s", nodes, policies(), time.Since(began).Round(time.Second))
	return a
}

// heartbeat changes what changes all the time.
func heartbeat(t *testing.T, name string) {
	t.Helper()
	var n corev1.Node
	must(t, town.Client.Get(t.Context(), client.ObjectKey{Name: name}, &n))
	n.Status.Conditions[0].LastHeartbeatTime = metav1.Now()
	must(t, town.Client.Status().Update(t.Context(), &n))
}
