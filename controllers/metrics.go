package controllers

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/portreeve/portreeve/api/v1alpha1"
	"github.com/portreeve/portreeve/internal/compile"
)

var poolPorts = prometheus.NewGaugeVec(prometheus.GaugeOpts{
	Name: "portreeve_pool_ports",
	Help: "Port numbers of a pool by state (allocated, cooling, foreign, free, reserved).",
}, []string{"pool", "team", "category", "state"})

var undeclaredServices = prometheus.NewGaugeVec(prometheus.GaugeOpts{
	Name: "portreeve_undeclared_services",
	Help: "Services with node ports that no policy declares, on numbers of a pool or in namespaces that may draw from it.",
}, []string{"pool"})

var cloudCalls = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "portreeve_cloud_calls_total",
	Help: "Calls to a cloud firewall's API by kind (list, authorize, revoke).",
}, []string{"firewall", "call"})

var cloudRules = prometheus.NewGaugeVec(prometheus.GaugeOpts{
	Name: "portreeve_cloud_rules",
	Help: "Inbound rules in a security group by owner (ours, foreign).",
}, []string{"firewall", "group", "owner"})

var cloudRestored = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "portreeve_cloud_restored_rules_total",
	Help: "Rules of ours that others removed from a cloud and that were put back.",
}, []string{"firewall"})

var cloudUsed = prometheus.NewGaugeVec(prometheus.GaugeOpts{
	Name: "portreeve_cloud_budget_used",
	Help: "Inbound rules, of whomever, that count against what a security group holds, by family (IPv4, IPv6, All).",
}, []string{"firewall", "group", "family"})

var cloudLimit = prometheus.NewGaugeVec(prometheus.GaugeOpts{
	Name: "portreeve_cloud_budget_limit",
	Help: "Inbound rules that a security group holds, as far as is known, by family (IPv4, IPv6, All).",
}, []string{"firewall", "group", "family"})

var appliedSeconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
	Name:    "portreeve_policy_applied_seconds",
	Help:    "Time from the first sight of a policy's generation to the proof that a gate (Exposed, HostEnforced, CloudEnforced, Ready) does what it says.",
	Buckets: prometheus.ExponentialBuckets(0.05, 2, 14),
}, []string{"gate"})

var ungatedNodes = prometheus.NewGauge(prometheus.GaugeOpts{
	Name: "portreeve_ungated_nodes",
	Help: "Ready nodes on which no agent has reported in this boot: nobody filters their node ports.",
})

// registerMetrics adds our metrics to the manager's registry, once a process.
var registerMetrics = sync.OnceFunc(func() {
	metrics.Registry.MustRegister(poolPorts, undeclaredServices, cloudCalls, cloudRules, cloudRestored, cloudUsed, cloudLimit, appliedSeconds, ungatedNodes)
})

func observePool(p compile.PoolSeen, s v1alpha1.NodePortPoolStatus) {
	foreign := 0 // the list in status is cut
	allocations := p.Allocations
	undeclaredServices.WithLabelValues(p.Name).Set(float64(len(p.Undeclared)))
	for i := range allocations {
		if allocations[i].Spec.State == v1alpha1.AllocationForeign && p.Owned.Contains(compile.NumberOf(&allocations[i])) {
			foreign++
		}
	}
	for state, n := range map[string]int32{
		"allocated": s.Allocated, "cooling": s.Cooling, "free": s.Free, "foreign": int32(foreign), "reserved": s.Reserved,
	} {
		poolPorts.WithLabelValues(p.Name, p.Spec.Team, p.Spec.Category, state).Set(float64(n))
	}
}

func forgetPool(name string) {
	poolPorts.DeletePartialMatch(prometheus.Labels{"pool": name})
	undeclaredServices.DeleteLabelValues(name)
}
