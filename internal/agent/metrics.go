package agent

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/portreeve/portreeve/api/v1alpha1"
)

// metrics are few, and none grows with the number of ports; the journal has its own.
type metrics struct {
	syncs        *prometheus.CounterVec
	syncTime     prometheus.Histogram
	repairs      prometheus.Counter
	swept        prometheus.Counter
	reportErrors prometheus.Counter
	unreported   prometheus.Gauge
	enforced     prometheus.Gauge
	judged       prometheus.Gauge
	marks        *prometheus.GaugeVec
	exposed      prometheus.Gauge
	exempt       prometheus.Gauge
	unreserved   prometheus.Gauge
	keepErrors   prometheus.Counter
	asked        *prometheus.CounterVec
	silent       prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	const namespace, subsystem = "portreeve", "agent"
	name := func(n, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: namespace, Subsystem: subsystem, Name: n, Help: help}
	}
	m := &metrics{
		syncs: prometheus.NewCounterVec(prometheus.CounterOpts(name("syncs_total", "Rule sets taken to the kernel, or confirmed there, by result (ok, error).")), []string{"result"}),
		syncTime: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "sync_seconds", Help: "Time to take a rule set to the kernel and read it back.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		repairs:      prometheus.NewCounter(prometheus.CounterOpts(name("repairs_total", "Times the kernel was found not to enforce what it had been seen to."))),
		swept:        prometheus.NewCounter(prometheus.CounterOpts(name("swept_connections_total", "Tracked connections removed because their source lost access."))),
		reportErrors: prometheus.NewCounter(prometheus.CounterOpts(name("report_errors_total", "Reports to the API server that failed and were tried again."))),
		unreported:   prometheus.NewGauge(prometheus.GaugeOpts(name("report_pending", "1 while a report that failed is tried again, else 0."))),
		enforced:     prometheus.NewGauge(prometheus.GaugeOpts(name("enforced", "1 if the node enforces everything it has read, else 0."))),
		judged:       prometheus.NewGauge(prometheus.GaugeOpts(name("judged_ports", "Port numbers that this node judges."))),
		marks:        prometheus.NewGaugeVec(prometheus.GaugeOpts(name("mark", "Resource version up to which the kernel agrees, by resource; 0 if none is vouched for.")), []string{"resource"}),
		exposed:      prometheus.NewGauge(prometheus.GaugeOpts(name("exposed_seconds", "Seconds from the node's boot to the first rules in this boot; 0 while that is not known."))),
		exempt:       prometheus.NewGauge(prometheus.GaugeOpts(name("exempt_ports", "Ports that everybody reaches because something of the node listened there before the pool."))),
		unreserved:   prometheus.NewGauge(prometheus.GaugeOpts(name("unreserved_ports", "Numbers of pools that could not be kept out of the node's ephemeral range."))),
		keepErrors:   prometheus.NewCounter(prometheus.CounterOpts(name("keep_errors_total", "Times the last good rules could not be written to the disk."))),
		asked:        prometheus.NewCounterVec(prometheus.CounterOpts(name("asked_total", "Connections to open TCP ports of the own node, by result (answered, silent, error: not even asked).")), []string{"result"}),
		silent:       prometheus.NewGauge(prometheus.GaugeOpts(name("silent_ports", "Addresses and open TCP ports of the own node on which nothing answers."))),
	}
	r.MustRegister(m.syncs, m.syncTime, m.repairs, m.swept, m.reportErrors, m.enforced, m.judged, m.marks)
	r.MustRegister(m.unreported, m.exposed, m.exempt, m.unreserved, m.keepErrors, m.asked, m.silent)
	return m
}

func (m *metrics) synced(took time.Duration, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.syncs.WithLabelValues(result).Inc()
	m.syncTime.Observe(took.Seconds())
}

func (m *metrics) settled(enforced bool, marks v1alpha1.Marks) {
	m.enforced.Set(0)
	if enforced {
		m.enforced.Set(1)
	}
	v := versions{Marks: marks}
	for k := range kindNode { // which has no mark
		version, err := strconv.ParseFloat(*v.of(k), 64)
		if err != nil {
			version = 0
		}
		m.marks.WithLabelValues(k.String()).Set(version)
	}
}

// handler serves metrics and the two questions a kubelet asks. An API server
// that does not answer makes an agent neither dead nor unready: it goes on
// enforcing.
func handler(a *Agent, g prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", toReaders(a.config.MetricsToken, promhttp.HandlerFor(g, promhttp.HandlerOpts{})))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		// A turn of the loop ends within kernelTimeout, and a check begins the next.
		limit := 2*kernelTimeout + a.config.CheckInterval
		if turn := time.Unix(a.alive.Load(), 0); time.Since(turn) > limit {
			http.Error(w, fmt.Sprintf("the loop has not turned since %s", turn.Format(time.RFC3339)), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !a.ready.Load() {
			http.Error(w, "the kernel is not in step; see the node's NodeDatapath", http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	return mux
}
