package fleet

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// soon is how long after the last write it is sure that no other follows, but for
	// those that are kept back.
	soon = 5 * time.Second
	// keptBack is that for addresses of gateways, which statuses correct after ten
	// seconds.
	keptBack = 13 * time.Second
)

// What the news of one node costs is in proportion to the policies that it concerns: those
// whose status lists an address of it. A fail-over of their gateway is one write beside.
func TestTheNewsOfANodeCostsWhatItConcerns(t *testing.T) {
	all := furnish(t)
	n := policies()

	measure := func(what string, quiet time.Duration, do func()) cost {
		t.Helper()
		before := spent(t)
		do()
		settle(t, quiet)
		c := spent(t).since(before)
		t.Logf("%d nodes, %d policies: %s: %s", nodes, n, what, c)
		return c
	}
	wants := func(what string, c cost, want map[string]int) {
		t.Helper()
		for resource, count := range want {
			if c.writes[resource] != count {
				t.Errorf("%s: %d writes of %s, want %d; all: %s", what, c.writes[resource], resource, count, c)
			}
		}
		sum := 0
		for _, count := range want {
			sum += count
		}
		if c.total() != sum {
			t.Errorf("%s: %d writes, want %d: %s", what, c.total(), sum, c)
		}
	}

	nothing := measure("nothing happens", soon, func() {})
	wants("nothing happens", nothing, nil)
	heartbeats := measure("every node's heartbeat", soon, func() {
		for i := range nodes {
			heartbeat(t, nodeName(i))
		}
	})
	wants("heartbeats", heartbeats, nil)
	reports := measure("every agent reports again", soon, func() { must(t, all.report(t.Context())) })
	wants("reports", reports, nil)

	listed := listing(t)
	few, many := nodeName(edges), nodeName(edges)
	for i := edges; i < nodes; i++ { // that are no gateways
		if name := nodeName(i); listed[name] < listed[few] {
			few = name
		} else if listed[name] > listed[many] {
			many = name
		}
	}
	for _, name := range []string{few, many} {
		what := fmt.Sprintf("a node that %d policies list is not Ready", listed[name])
		c := measure(what, keptBack, func() { ready(t, name, corev1.ConditionFalse) })
		wants(what, c, map[string]int{"nodeportpolicies/status": listed[name]})
		what = "it is Ready again, and no list has room for it"
		wants(what, measure(what, keptBack, func() { ready(t, name, corev1.ConditionTrue) }), nil)
		listed = listing(t)
	}

	former := gateway(t)
	what := fmt.Sprintf("a gateway that %d policies list is not Ready", listed[former])
	failOver := measure(what+", until the next is chosen", soon, func() {
		ready(t, former, corev1.ConditionFalse)
		settle(t, time.Second)
		must(t, all.report(t.Context()))
	})
	if failOver.writes["gatewaysets"] != 1 || failOver.writes["nodeportallocations"]+failOver.writes["services"] > 0 {
		t.Errorf("a fail-over: %s, want one write of a GatewaySet", failOver)
	}
	rest := measure("until statuses have followed", keptBack, func() {})
	if gateway(t) == former {
		t.Errorf("%s is the gateway still", former)
	}
	if told := failOver.writes["nodeportpolicies/status"] + rest.writes["nodeportpolicies/status"]; told != listed[former] || failOver.total()+rest.total() != told+1 {
		t.Errorf("%s: %s, then %s; want one write of a GatewaySet, and %d of statuses", what, failOver, rest, listed[former])
	}
	wants("the former gateway is back", measure("the former gateway is back", keptBack, func() { ready(t, former, corev1.ConditionTrue) }), nil)

	joined := measure("a node joins", keptBack, func() {
		newcomer := node(nodes)
		create(t, newcomer)
		all.nodes = append(all.nodes, newcomer)
		must(t, all.report(t.Context()))
	})
	wants("a node joins", joined, map[string]int{"addresssets": 1})
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
