package controllers

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/cloud"
	"github.com/portreeve/portreeve/internal/compile"
)

// What a census tells. Labels are conditions, reasons and states of closed lists, clouds
// and nodes that are behind: none grows with policies or ports.
var (
	policiesDesc = prometheus.NewDesc("portreeve_policies",
		"Policies by what each condition of their status says.", []string{"condition", "status", "reason"}, nil)
	nodesDesc = prometheus.NewDesc("portreeve_nodes",
		"Nodes by what is known of their agents (Enforced, Pending, Ungated, NotReady, or why the agent does not vouch).", []string{"state"}, nil)
	lagDesc = prometheus.NewDesc("portreeve_node_lag_seconds",
		"For how long a node has not proved what was written for it; absent for nodes that have.", []string{"node"}, nil)
	firewallDesc = prometheus.NewDesc("portreeve_cloud_firewall_ready",
		"1 if a CloudFirewall was read whole and is exactly as wished, else 0, with the reason.", []string{"firewall", "reason"}, nil)
	refusedDesc = prometheus.NewDesc("portreeve_cloud_throttled_total",
		"Calls that a cloud refused for their rate.", []string{"region", "api"}, nil)
)

// States of a node besides the reasons of its agent.
const (
	nodeEnforced = "Enforced"
	nodeNotReady = "NotReady"
)

// censusTimeout bounds one census: whoever asks does not wait for a cache.
const censusTimeout = 5 * time.Second

// census counts what the cache holds whenever it is asked, so that no figure outlives its
// object. It says nothing while another manager leads.
type census struct {
	snapshot Snapshot
	elected  <-chan struct{}
	refused  func() map[cloud.API]int
	now      func() time.Time

	mu   sync.Mutex
	lags map[string]compile.Lag // by node
}

// Describe implements prometheus.Collector.
func (c *census) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{policiesDesc, nodesDesc, lagDesc, firewallDesc, refusedDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector. What can't be read is told as an error: the
// whole answer fails rather than lacks something.
func (c *census) Collect(out chan<- prometheus.Metric) {
	select {
	case <-c.elected:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), censusTimeout)
	defer cancel()
	for desc, count := range map[*prometheus.Desc]func(context.Context, chan<- prometheus.Metric) error{
		policiesDesc: c.policies, nodesDesc: c.nodes, firewallDesc: c.firewalls,
	} {
		if err := count(ctx, out); err != nil {
			out <- prometheus.NewInvalidMetric(desc, err)
		}
	}
	c.throttled(out)
}

func (c *census) policies(ctx context.Context, out chan<- prometheus.Metric) error {
	var list v1alpha1.NodePortPolicyList
	if err := c.snapshot.List(ctx, &list, readOnly); err != nil {
		return err
	}
	counts := map[[3]string]int{}
	for i := range list.Items {
		for _, condition := range list.Items[i].Status.Conditions {
			counts[[3]string{condition.Type, string(condition.Status), condition.Reason}]++
		}
	}
	for labels, n := range counts {
		out <- prometheus.MustNewConstMetric(policiesDesc, prometheus.GaugeValue, float64(n), labels[:]...)
	}
	return nil
}

func (c *census) nodes(ctx context.Context, out chan<- prometheus.Metric) error {
	nodes, err := c.snapshot.Nodes(ctx)
	if err != nil {
		return err
	}
	allocations, gateways, err := c.written(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now, lags, counts := c.now(), map[string]compile.Lag{}, map[string]int{}
	for _, n := range nodes {
		if !compile.Enforceable(n.Node) {
			continue
		}
		state := stateOf(n)
		if state == nodeEnforced {
			lag := c.lags[n.Name].Next(n, allocations, gateways, false, now)
			if lags[n.Name] = lag; lag != (compile.Lag{}) {
				state = compile.NodePending
				out <- prometheus.MustNewConstMetric(lagDesc, prometheus.GaugeValue, lag.Behind(now).Seconds(), n.Name)
			}
		}
		counts[state]++
	}
	c.lags = lags
	for state, n := range counts {
		out <- prometheus.MustNewConstMetric(nodesDesc, prometheus.GaugeValue, float64(n), state)
	}
	return nil
}

// stateOf is what a node's agent says of it, or why it says nothing.
func stateOf(n compile.NodeReport) string {
	switch {
	case compile.Ungated(n):
		return compile.NodeUngated
	case !compile.Ready(n.Node):
		return nodeNotReady
	}
	if c := meta.FindStatusCondition(n.Datapath.Status.Conditions, v1alpha1.Enforced); c != nil && c.Status == metav1.ConditionFalse {
		return c.Reason
	}
	return nodeEnforced
}

// written is up to which resource version allocations and GatewaySets have been written.
func (c *census) written(ctx context.Context) (allocations, gateways string, err error) {
	var numbers v1alpha1.NodePortAllocationList
	if err := c.snapshot.List(ctx, &numbers, readOnly); err != nil {
		return "", "", err
	}
	var sets v1alpha1.GatewaySetList
	if err := c.snapshot.List(ctx, &sets, readOnly); err != nil {
		return "", "", err
	}
	for i := range numbers.Items {
		allocations = newer(allocations, numbers.Items[i].ResourceVersion)
	}
	for i := range sets.Items {
		gateways = newer(gateways, sets.Items[i].ResourceVersion)
	}
	return allocations, gateways, nil
}

func newer(a, b string) string {
	if a == "" || compile.AtLeast(b, a) {
		return b
	}
	return a
}

func (c *census) firewalls(ctx context.Context, out chan<- prometheus.Metric) error {
	var list v1alpha1.CloudFirewallList
	if err := c.snapshot.List(ctx, &list, readOnly); err != nil {
		return err
	}
	for i := range list.Items {
		ready, value := meta.FindStatusCondition(list.Items[i].Status.Conditions, v1alpha1.Ready), 0.0
		if ready == nil {
			continue // nobody has looked yet
		}
		if ready.Status == metav1.ConditionTrue {
			value = 1
		}
		out <- prometheus.MustNewConstMetric(firewallDesc, prometheus.GaugeValue, value, list.Items[i].Name, ready.Reason)
	}
	return nil
}

// throttled adds up accounts, whose names are nobody's business here.
func (c *census) throttled(out chan<- prometheus.Metric) {
	if c.refused == nil {
		return
	}
	counts := map[[2]string]int{}
	for api, n := range c.refused() {
		counts[[2]string{api.Region, api.Name}] += n
	}
	for labels, n := range counts {
		out <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(n), labels[:]...)
	}
}
